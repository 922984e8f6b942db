"""How much is tried: seconds of it with `make test`, hours with `make soak`.

The environment variable DARLR_SOAK says which: nothing means the short form, a number
is the share of the long form, 1 all of it. Cases are numbered and each draws from a
generator of its own number, so one that fails is found again in any form.
"""

from __future__ import annotations

import math
import os

SHARE = float(os.environ.get("DARLR_SOAK") or 0.0)
if not 0.0 <= SHARE <= 1.0:
    raise ValueError(f"DARLR_SOAK={SHARE}: expected a share of the long form")

LONG = SHARE > 0.0


def count(short: int, long: int) -> int:
    """How many cases are tried: `short`, or the share of `long` that is asked for."""
    return math.ceil(SHARE * long) if LONG else short


def report(what: str, **figures: object) -> None:
    """One line of figures, which `make soak` shows."""
    parts = (f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    print(f"\n[soak] {what}: {', '.join(parts)}", flush=True)
