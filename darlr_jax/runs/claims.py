"""What the papers claim by their tables, beside what our runs of the same methods say.

A claim is a difference of two methods. It is published as that of two single runs; ours
is paired by seed, so that its interval says what a single pair of runs cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.runs.comparison import Outcome, paired, users_compared
from darlr_jax.runs.published import PublishedScores


class Claim(NamedTuple):
    """A difference of two methods, and what it is the measure of."""

    first: str
    second: str
    about: str


CLAIMS = (  # what the tables of DARLR, ROLeR and DORL are read for
    Claim("darlr", "roler", "selection, dynamic uncertainty"),
    Claim("darlr", "mbpo", "all of DARLR"),
    Claim("roler", "mbpo", "the nearest users' mean, and its tracker"),
    Claim("ips", "mbpo", "propensity weights"),
    Claim("mopo", "mbpo", "the penalty on variance"),
    Claim("dorl", "mbpo", "that penalty and the entropy bonus"),
    Claim("mbpo", "sqn", "a world model, against the log"),
    Claim("mbpo", "bcq", "the same"),
    Claim("mbpo", "cql", "the same"),
    Claim("mbpo", "crr", "the same"),
    Claim("mbpo", "ucb", "planning, against a bandit"),
    Claim("mbpo", "epsilon_greedy", "the same"),
    Claim("gt", "mbpo", "what the true reward would give"),
    Claim("gt", "darlr", "what DARLR misses of that"),
)

_NOTE = (
    "Published: differences of single runs. Here: of {users}, paired by seed, over "
    "the epochs that both rows have; [ ]: 95 % bootstrap interval; ± (t): half of "
    "Student's, which decides the verdict. *Reproduced*: Student's interval holds the "
    "published difference and not zero. *Open*: it holds both. *Not found*: it holds "
    "zero and not the published difference. *Direction only* and *reversed*: it holds "
    "neither, and lies on the published or on the other side of zero."
)


def note(outcomes: Iterable[Outcome]) -> str:
    """What the columns and verdicts of `claims_table` mean, in Markdown."""
    return _NOTE.format(users=users_compared(outcome.metrics for outcome in outcomes))


def claims_table(
    outcomes: Sequence[Outcome], published: PublishedScores
) -> pd.DataFrame | None:
    """One row a claim of which both methods have run and were published.

    Claims about rows that were published at another exit rule than ours are left out,
    and so are runs of twins, and pairs of runs without a common seed.

    Args:
      outcomes: finished runs; those called as their methods are looked at.
      published: the scores.

    Returns:
      Columns: difference, of which two; what it measures; published; here, paired, with
      its bootstrap interval; half of Student's interval; how many of the common seeds
      are above zero; the epochs compared; the verdict (`note`). None where there is no
      such row.
    """
    methods = {o.row.name: o for o in outcomes if o.row.name == o.config.method}
    scores = {
        name: score
        for name, outcome in methods.items()
        if outcome.metrics is not None
        and not math.isnan(score := outcome.in_print(published))
    }
    rows = [
        row
        for claim in CLAIMS
        if claim.first in scores and claim.second in scores
        if (row := _row(claim, methods, scores)) is not None
    ]
    return pd.DataFrame(rows) if rows else None


def verdict(published: float, difference: float, half_width: float) -> str:
    """What an interval says of a published difference; the words are `note`'s.

    Args:
      published: the difference in print.
      difference: ours.
      half_width: of its interval; not-a-number for a single seed, which says nothing.
    """
    if not half_width >= 0:
        return "open"
    low, high = difference - half_width, difference + half_width
    zero = low <= 0 <= high
    if low <= published <= high:
        return "open" if zero else "reproduced"
    if zero:
        return "not found"
    return "direction only" if (difference > 0) == (published > 0) else "reversed"


def _row(
    claim: Claim, methods: Mapping[str, Outcome], scores: Mapping[str, float]
) -> dict[str, Any] | None:
    first, second = methods[claim.first].metrics, methods[claim.second].metrics
    assert first is not None and second is not None  # or they had no score
    pair = paired(first, second)
    if pair is None:
        return None
    difference = scores[claim.first] - scores[claim.second]
    return {
        "difference": f"{claim.first} less {claim.second}",
        "what it measures": claim.about,
        "published": difference,
        "here": pair.difference,
        "± 95 % (t)": pair.half_width,
        "seeds ahead": pair.ahead,
        "epochs": pair.epochs,
        "verdict": verdict(difference, pair.difference.value, pair.half_width),
    }
