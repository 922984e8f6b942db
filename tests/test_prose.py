"""Differences quoted in the documents' sentences are those of the runs that they mean.

A sentence that says "+2.95 (1.89 to 4.00; Student 1.28 to 4.62; five of five)", or
"+2.95, 1.89 to 4.00", has a line in results/quoted.csv, which names two folders of
results/raw. What the first scores less what the second does, over the epochs and seeds
that both have, must be as told to the last decimal: the mean difference, its bootstrap
interval and, where they are named, Student's and the seeds ahead. So rows published
again leave no figures behind. Whether the sentence means these runs is for the reader
to judge. Tables have their own test.
"""

from __future__ import annotations

import csv
import functools
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.results import load_metrics, mean_and_interval
from darlr_jax.runs.statistics import bootstrap

ROOT = pathlib.Path(__file__).parent.parent
RAW = ROOT / "results" / "raw"
QUOTED = ROOT / "results" / "quoted.csv"
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
# Of the same form, but no difference of two rows over all epochs.
OTHERS = {
    # Rankings, over world models.
    "76.87 (75.97 to 77.62)": "docs/deviations.md",
    "78.96 (78.88 to 78.98)": "docs/deviations.md",
    # Of rows that were not kept, which it says.
    "+2.9 (2.2 to 3.7; Student 1.7 to 4.2)": "docs/deviations.md",
    # Of the first ten epochs: darlr less darlr_nearest.
    "\u22120.3 (\u22120.6 to 0.1)": "docs/results.md",
}

_WORDS = ("none", "one", "two", "three", "four", "five")
_WORD = rf"(?:{'|'.join(_WORDS)})"
_TABLE = re.compile(r"<!-- tables/.*?<!-- end -->", re.DOTALL)
_NUMBER = r"[+\u2212-]?\d+\.\d+"
_INTERVAL = rf"{_NUMBER}\s+to\s+{_NUMBER}"
_AHEAD = rf"{_WORD}\s+of\s+{_WORD}"
_FIGURE = re.compile(
    rf"(?<!to\s)(?<![\d.+\u2212-])({_NUMBER})(?:\s+\(|,\s+)"
    rf"({_INTERVAL}(?:[;,]\s+(?:Student\s+{_INTERVAL}|{_AHEAD}))*)"
)


class Quoted(NamedTuple):
    """A difference as a document tells it."""

    text: str  # mean (low to high; ...), whatever the sentence has around it
    document: str
    line: int


class Line(NamedTuple):
    """A line of results/quoted.csv: whose difference a figure is."""

    figure: str
    first: str  # "coat/roler"
    second: str


def quoted(document: str) -> Iterator[Quoted]:
    """Differences outside of generated tables."""
    text = (ROOT / document).read_text("utf-8")
    text = _TABLE.sub(lambda table: "\n" * table.group().count("\n"), text)
    for match in _FIGURE.finditer(text):
        yield Quoted(
            text=" ".join(f"{match[1]} ({match[2]})".split()),
            document=document,
            line=text[: match.start()].count("\n") + 1,
        )


def places() -> dict[str, str]:
    """Where each figure is told, but for the others."""
    told: dict[str, str] = {}
    for text, document, line in itertools.chain(*map(quoted, DOCUMENTS)):
        if OTHERS.get(text) != document:
            before = f"{told[text]}, " if text in told else ""
            told[text] = f"{before}{document}:{line}"
    return told


def read_lines() -> list[Line]:
    with QUOTED.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == Line._fields
    return [Line(*line) for line in lines]


@functools.cache
def read_run(name: str) -> pd.DataFrame:
    """Of each epoch and seed: the mean over the epochs so far."""
    metrics = load_metrics(RAW / name)
    scores = metrics.pivot(index="epoch", columns="seed", values=ALL_USERS)
    return scores.expanding().mean()


def difference(first: str, second: str) -> np.ndarray:
    """[common seeds], over the common epochs."""
    by_epoch = (read_run(first) - read_run(second)).dropna(how="all")
    return by_epoch.iloc[-1].dropna().to_numpy()


def as_it_is(figure: str, by_seed: np.ndarray) -> str:
    """The figure itself where it is true of a difference, otherwise put right.

    The ends of the bootstrap may be those of the negative difference, as a table of the
    opposite one has them: they differ a little.
    """
    mean, half = mean_and_interval(by_seed.tolist())
    interval, opposite = bootstrap([by_seed.tolist()]), bootstrap([(-by_seed).tolist()])
    lows, highs = (interval.low, -opposite.high), (interval.high, -opposite.low)
    true = iter([(mean,), lows, highs, (mean - half,), (mean + half,)])
    figure = re.sub(_NUMBER, lambda told: put_right(told.group(), next(true)), figure)
    seeds = [(by_seed > 0).sum(), by_seed.size]
    return re.sub(_AHEAD, lambda _: " of ".join(_WORDS[n] for n in seeds), figure)


def put_right(told: str, true: tuple[float, ...]) -> str:
    """The number as told if it is one of the true ones, otherwise the first of them."""
    decimals = len(told.partition(".")[2])
    number = float(told.replace("\N{MINUS SIGN}", "-"))
    if number in [round(float(one), decimals) for one in true]:
        return told
    sign = "+" if told.startswith("+") else "-"
    return f"{true[0]:{sign}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def untrue(lines: Iterable[Line]) -> Iterator[tuple[Line, str]]:
    """Those that are not true of their runs, with what is."""
    for line in lines:
        figure = as_it_is(line.figure, difference(line.first, line.second))
        if figure != line.figure:
            yield line, figure


def compared(line: Line) -> bool:
    """Whether its runs are of groups that may be compared."""
    groups = {name.partition("/")[0] for name in (line.first, line.second)}
    return any(groups <= set(together) for together in TOGETHER)


def test_every_figure_in_a_sentence_names_its_runs():
    told = places()
    named = {line.figure for line in read_lines()}
    assert len(told) > 100, "the pattern no longer finds them"
    wrong = [
        f"{place}: {text}: add its runs to results/quoted.csv"
        for text, place in told.items()
        if text not in named
    ]
    wrong += [
        f"results/quoted.csv: {text}: no longer told, remove its line"
        for text in sorted(named - set(told))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_figure_is_true_of_its_runs():
    told, lines = places(), read_lines()
    wrong = [
        f"{told.get(line.figure, 'results/quoted.csv')}: {line.figure}: "
        f"{line.first} less {line.second} is {figure}"
        for line, figure in untrue(lines)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_lines_are_in_order_and_of_comparable_runs():
    lines = read_lines()
    assert lines == sorted(set(lines))
    assert {path.name for path in RAW.iterdir()} == set(itertools.chain(*TOGETHER))
    wrong = [f"{line}: not of one group" for line in lines if not compared(line)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_other_figures_are_still_told():
    told = {figure[:2] for figure in itertools.chain(*map(quoted, DOCUMENTS))}
    assert OTHERS.items() <= told, "take them out of OTHERS"


@pytest.mark.parametrize(
    ("told", "instead"),
    [
        ("+3.00", "+3.30"),
        ("1.80", "1.50"),
        ("4.20", "4.50"),
        ("1.04", "0.74"),
        ("4.96", "4.95"),
        ("five of five", "four of five"),
    ],
)
def test_a_wrong_number_is_found_and_put_right(told, instead):
    by_seed = np.arange(1.0, 6.0)
    true = "+3.00 (1.80 to 4.20; Student 1.04 to 4.96; five of five)"
    assert as_it_is(true, by_seed) == true
    wrong = true.replace(told, instead)
    assert wrong != true
    assert as_it_is(wrong, by_seed) == true


def test_a_difference_the_wrong_way_round_is_found():
    clear = [line for line in read_lines() if "five of five" in line.figure][:10]
    assert clear
    swapped = [Line(line.figure, line.second, line.first) for line in clear]
    found = dict(untrue(swapped))
    assert list(found) == swapped
    assert all("none of five" in figure for figure in found.values())
