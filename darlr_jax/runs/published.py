"""The published numbers that ours stand beside: results/published, and its README."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from darlr_jax.runs.directory import RunError

_NUMBERS = {  # column of the files -> field
    "NX_0_R_tra": "score",
    "NX_0_R_tra_last25": "last_quarter",
    "NX_0_len_tra": "length",
    "NX_0_R_each": "each",
}


# What was wrong with the code that made a published row (protocol 10.2, B5 to B7); ours
# are right, and so no reproductions: docs/deviations.md.
_FAULTS = {
    "sqn": "acts by the argmax of Q, under the mask a constant order of items",
    "bcq": "the mask is NaN and both heads are softmaxed: one list for everybody",
    "cql": "under the mask a constant order of items",
    "crr": "logits under a mask of probabilities: uniform after the first item",
}


class Published(NamedTuple):
    """One published run; not-a-number where a figure was not published."""

    score: float  # NX_0 R_tra, mean over all epochs
    last_quarter: float
    length: float
    each: float
    exit_window: int  # N of that run, which is not always the N of ours


class PublishedScores:
    """The main tables (scores.csv), the runs at other exit windows, and the curves."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Reads `folder`.

        Raises:
          RunError: a file is missing or lacks a column.
        """
        folder = pathlib.Path(folder)
        columns = ["dataset", "method", *_NUMBERS, "exit_window"]
        self._main = _read(folder / "scores.csv", columns)
        self._sweep = _read(folder / "exit_sweep.csv", columns)
        curve_columns = ["dataset", "method", "epoch", "NX_0_R_tra"]
        self._curves = _read(folder / "curves.csv", curve_columns)

    def find(self, dataset: str, method: str, exit_window: int) -> Published | None:
        """The published run of a method, at the same exit window where there is one.

        Otherwise the run of the main table, whose `exit_window` says that it differs.
        """
        main = _of(self._main, dataset, method)
        if len(main) > 1:
            raise RunError(f"scores.csv: {len(main)} rows of {method} on {dataset}")
        for rows in (main, _of(self._sweep, dataset, method)):
            same = rows[rows["exit_window"] == exit_window]
            if not same.empty:
                return _published(same.iloc[0])
        return None if main.empty else _published(main.iloc[0])

    def curve(self, dataset: str, method: str, exit_window: int) -> pd.Series | None:
        """Epoch -> NX_0 R_tra of the main table's run; None where none is kept.

        Nor is there any where that run has another exit window.
        """
        main = _of(self._main, dataset, method)
        rows = _of(self._curves, dataset, method)
        if rows.empty or exit_window not in set(main["exit_window"]):
            return None
        return rows.set_index("epoch")["NX_0_R_tra"]


def faults(methods: Iterable[str]) -> list[str]:
    """A sentence a method whose published row comes from faulty code; each once."""
    return [
        f"The published row of {method} is of faulty code ({_FAULTS[method]}): "
        "docs/deviations.md."
        for method in dict.fromkeys(methods)
        if method in _FAULTS
    ]


def _read(file: pathlib.Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({error})") from error
    for name in columns:
        if name not in table.columns:
            raise RunError(f"{file}: has no column {name}")
    return table


def _of(table: pd.DataFrame, dataset: str, method: str) -> pd.DataFrame:
    return table[(table["dataset"] == dataset) & (table["method"] == method)]


def _published(row: pd.Series) -> Published:
    numbers = {field: float(row[column]) for column, field in _NUMBERS.items()}
    return Published(**numbers, exit_window=int(row["exit_window"]))
