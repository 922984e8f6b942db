"""Differences quoted in the documents' sentences are differences of committed runs.

A sentence that says "+2.95 (1.89 to 4.00; Student 1.28 to 4.62; five of five)", or
"(+2.95, 1.89 to 4.00)", must be
true of some pair of rows in results/raw, over the epochs that both have: the mean
difference, its bootstrap interval and, where they are named, Student's and the seeds
ahead. Which pair is for the reader to judge; that there is one is tested here, so that
rows published again do not leave figures behind. Tables have their own test.
"""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.results import load_metrics, mean_and_interval
from darlr_jax.runs.statistics import bootstrap

ROOT = pathlib.Path(__file__).parent.parent
RAW = ROOT / "results" / "raw"
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/synthetic.md",
    "docs/deviations.md",
)
# Groups whose rows are compared with one another.
TOGETHER = (
    ("coat", "coat_repeat"),
    ("coat_more_seeds",),
    ("coat_other_world_model",),
    ("synthetic",),
    ("synthetic_repeat",),
    ("kuairec_twin",),
    ("kuairand_twin",),
)
# Of the same form, but no difference of two rows.
OTHERS = {
    # Rankings, over world models.
    "76.87 (75.97 to 77.62)": "docs/deviations.md",
    "78.96 (78.88 to 78.98)": "docs/deviations.md",
    # Of rows that were not kept, which it says.
    "+2.9 (2.2 to 3.7; Student 1.7 to 4.2)": "docs/deviations.md",
}

_NUMBER = r"[+\u2212-]?\d+(?:\.\d+)?"
_TABLE = re.compile(r"<!-- tables/.*?<!-- end -->", re.DOTALL)
_INTERVAL = rf"({_NUMBER})\s+to\s+({_NUMBER})"
_QUOTED = (
    re.compile(rf"({_NUMBER})\s+\({_INTERVAL}([^()]*)\)"),
    re.compile(rf"\(({_NUMBER}),\s+{_INTERVAL}([^()]*)\)"),
)
_STUDENT = re.compile(rf"Student\s+{_INTERVAL}")
_AHEAD = re.compile(r"(none|one|two|three|four|five)\s+of\s+(five|three)")
_WORDS = ("none", "one", "two", "three", "four", "five")
_SEEDS = 10  # that any run may have, from 0
_SLACK = 0.011  # beyond rounding: bootstraps of a difference and of its negative


class Quoted(NamedTuple):
    """A difference as a document tells it."""

    text: str
    place: str  # document and line
    value: float
    interval: tuple[float, float]
    decimals: int
    student: tuple[float, float] | None
    ahead: str | None  # "4 of 5"


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def quoted(document: str) -> Iterator[Quoted]:
    """Differences outside of generated tables."""
    text = (ROOT / document).read_text()
    text = _TABLE.sub(lambda table: "\n" * table.group().count("\n"), text)
    for match in itertools.chain(*(form.finditer(text) for form in _QUOTED)):
        value, low, high, rest = match.groups()
        student, ahead = _STUDENT.search(rest), _AHEAD.search(rest)
        yield Quoted(
            text=" ".join(match.group().split()),
            place=f"{document}:{text[: match.start()].count(chr(10)) + 1}",
            value=number(value),
            interval=(number(low), number(high)),
            decimals=len(value.partition(".")[2]),
            student=student and (number(student[1]), number(student[2])),
            ahead=ahead
            and " of ".join(str(_WORDS.index(word)) for word in ahead.groups()),
        )


def read_rows(groups: tuple[str, ...]) -> list[np.ndarray]:
    """[epochs, seeds] of each run: mean over the epochs so far; NaN: no such seed."""
    folders = itertools.chain.from_iterable((RAW / name).iterdir() for name in groups)
    return [mean_so_far(load_metrics(folder)) for folder in sorted(folders)]


def mean_so_far(metrics: pd.DataFrame) -> np.ndarray:
    scores = metrics.pivot(index="epoch", columns="seed", values=ALL_USERS)
    return scores.expanding().mean().reindex(columns=range(_SEEDS)).to_numpy()


def differences(rows: list[np.ndarray]) -> Iterator[np.ndarray]:
    """[common seeds] of every two rows, in either order, over the common epochs."""
    for one, other in itertools.permutations(rows, 2):
        last = min(len(one), len(other)) - 1
        by_seed = one[last] - other[last]
        if np.isfinite(by_seed).any():
            yield by_seed[np.isfinite(by_seed)]


def near(found: float, told: float, decimals: int) -> bool:
    return abs(found - told) <= 0.5 * 10.0**-decimals + _SLACK


def true_of(by_seed: np.ndarray, told: list[Quoted]) -> list[Quoted]:
    """Which of them a difference is, by the statistics of the tables."""
    interval = bootstrap([by_seed.tolist()])
    mean, half = mean_and_interval(by_seed.tolist())
    ahead = f"{(by_seed > 0).sum()} of {by_seed.size}"

    def is_as_told(figure: Quoted) -> bool:
        ends = [*zip((interval.low, interval.high), figure.interval, strict=True)]
        if figure.student is not None:
            ends += zip((mean - half, mean + half), figure.student, strict=True)
        as_near = all(near(end, told_end, figure.decimals) for end, told_end in ends)
        return as_near and figure.ahead in (None, ahead)

    return [figure for figure in told if is_as_told(figure)]


def untold(figures: list[Quoted]) -> list[Quoted]:
    """Those that are of no pair."""
    left = list(figures)
    for groups in TOGETHER:
        for by_seed in differences(read_rows(groups)):
            mean = by_seed.mean()
            close = [told for told in left if near(mean, told.value, told.decimals)]
            true = true_of(by_seed, close) if close else []
            left = [told for told in left if told not in true]
    return left


def test_every_difference_in_a_sentence_is_one_of_committed_runs():
    assert {path.name for path in RAW.iterdir()} == set(itertools.chain(*TOGETHER))
    told = [difference for name in DOCUMENTS for difference in quoted(name)]
    assert len(told) > 50, "the pattern no longer finds them"
    texts = {difference.text for difference in told}
    assert set(OTHERS) <= texts, "no longer told"
    wrong = untold([difference for difference in told if difference.text not in OTHERS])
    assert not wrong, "\n".join(f"{found.place}: {found.text}" for found in wrong)
