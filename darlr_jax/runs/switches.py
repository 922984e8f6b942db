"""Plans of all combinations: what each switch is worth, whatever the others are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from darlr_jax.runs.comparison import Outcome, Pair, mean_pair, paired
from darlr_jax.runs.results import cell

_Combinations = Mapping[tuple[str, ...], pd.DataFrame]  # options -> metrics


def main_effects(outcomes: Sequence[Outcome]) -> list[str]:
    """One sentence a switch, none where rows are no combinations of switches.

    It tells the mean difference of the finished rows that differ in that switch alone:
    all users, seed by seed, over the epochs that both rows of a pair have.
    """
    named = [o for o in outcomes if o.row.switches]
    rows = {o.row.switches: o.metrics for o in named if o.metrics is not None}
    sentences = []
    for place, options in enumerate(zip(*(o.row.switches for o in named), strict=True)):
        first, *others = dict.fromkeys(options)
        for other in others:
            pairs = list(_pairs(rows, place, first, other))
            mean = mean_pair(pairs)
            if mean is not None:
                sentences.append(
                    f"{first} instead of {other}: {cell(mean.difference, 2)}, "
                    f"± {cell(mean.half_width, 2)} (t), {mean.ahead} seeds ahead; mean "
                    f"over {len(pairs)} pairs of rows."
                )
    return sentences


def _pairs(rows: _Combinations, place: int, first: str, other: str) -> Iterator[Pair]:
    """Rows with the option `first`, each beside the same with `other`."""
    for switches, metrics in rows.items():
        counterpart = (*switches[:place], other, *switches[place + 1 :])
        if switches[place] == first and counterpart in rows:
            pair = paired(metrics, rows[counterpart])
            if pair is not None:
                yield pair
