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
from darlr_jax.runs.comparison import Pair, paired
from darlr_jax.runs.results import load_metrics

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


class Row(NamedTuple):
    """A committed run."""

    metrics: pd.DataFrame
    scores: np.ndarray  # [epochs, seeds] mean over the epochs so far; NaN: no such seed


def read_rows(groups: tuple[str, ...]) -> list[Row]:
    folders = itertools.chain.from_iterable((RAW / name).iterdir() for name in groups)
    return [read_row(folder) for folder in sorted(folders)]


def read_row(folder: pathlib.Path) -> Row:
    metrics = load_metrics(folder)
    scores = metrics.pivot(index="epoch", columns="seed", values=ALL_USERS)
    every_seed = scores.expanding().mean().reindex(columns=range(_SEEDS))
    return Row(metrics, every_seed.to_numpy())


def mean_differences(rows: list[Row]) -> Iterator[tuple[Row, Row, float]]:
    """Every pair of rows with a common seed, in one order, by `paired_scores`."""
    for one, other in itertools.combinations(rows, 2):
        epochs = min(len(one.scores), len(other.scores))
        differences = one.scores[epochs - 1] - other.scores[epochs - 1]
        if np.isfinite(differences).any():
            yield one, other, float(np.nanmean(differences))


def near(found: float, told: float, decimals: int) -> bool:
    return abs(found - told) <= 0.5 * 10.0**-decimals + _SLACK


def agrees(pair: Pair, told: Quoted) -> bool:
    """Whether a pair, in this order, is as told."""

    def both_near(ends: tuple[float, float], told_ends: tuple[float, float]) -> bool:
        return all(map(near, ends, told_ends, (told.decimals,) * 2))

    value, half = pair.difference.value, pair.half_width
    return (
        near(value, told.value, told.decimals)
        and both_near((pair.difference.low, pair.difference.high), told.interval)
        and (
            told.student is None
            or both_near((value - half, value + half), told.student)
        )
        and (told.ahead is None or told.ahead == pair.ahead)
    )


def true_of(one: Row, other: Row, told: list[Quoted]) -> list[Quoted]:
    """Which of them two rows differ by, in either order."""
    pairs = (paired(one.metrics, other.metrics), paired(other.metrics, one.metrics))
    return [figure for figure in told if any(agrees(pair, figure) for pair in pairs)]


def untold(differences: list[Quoted]) -> list[Quoted]:
    """Those that are of no pair."""
    left = list(differences)
    for groups in TOGETHER:
        for one, other, mean in mean_differences(read_rows(groups)):
            close = [
                told for told in left if near(abs(mean), abs(told.value), told.decimals)
            ]
            true = true_of(one, other, close) if close else []
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
