"""The published numbers that ours stand beside: results/published, and its README."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable

import pandas as pd

from darlr_jax.config import EnvironmentConfig, ExperimentConfig
from darlr_jax.presets import preset
from darlr_jax.runs.columns import SCORE
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.fields import changed_fields

# What a line about the evaluation says where the published matrix was not at hand: no
# return under another may stand beside a published one (docs/data.md, section 1).
_COMPLETED_HERE = "our completion"
# What a run may have changed of its preset and still stand beside a published one: the
# exit window is part of that; who else is evaluated moves no score; and how a missing
# matrix is completed says the truth.
_NO_CHANGES = ("environment.exit_window", "evaluation.all_users", "dataset.completion.")
# What was wrong with the code that made a published row (protocol 10.2); ours are
# right, and so no reproductions: docs/deviations.md.
_FAULTS = {
    "sqn": "acts by the argmax of Q, under the mask a constant order of items",
    "bcq": "the mask is NaN and both heads are softmaxed: one list for everybody",
    "cql": "under the mask a constant order of items",
    "crr": "logits under a mask of probabilities: uniform after the first item",
    "ucb": "the confidence bound is left out once an item is masked",
}


class PublishedScores:
    """The main tables (scores.csv), the runs at other exit windows, and the curves."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Reads `folder`.

        Raises:
          RunError: a file is missing or lacks a column.
        """
        folder = pathlib.Path(folder)
        columns = ["dataset", "method", SCORE, "exit_window"]
        names = ("scores.csv", "exit_sweep.csv")
        self._tables = [_read(folder / name, columns) for name in names]
        curve_columns = ["dataset", "method", "epoch", SCORE]
        self._curves = _read(folder / "curves.csv", curve_columns)

    def score(
        self,
        method: str | None,
        config: ExperimentConfig,
        truth: str | None = None,
        epochs: int | None = None,
    ) -> float:
        """The published score that may stand beside a run of `config`; NaN without any.

        It is of the main table or else of the sweep, of a run that let users leave as
        `config` does: at the same exit window, or at any where nobody leaves early.
        Beside runs that changed anything else of their presets, have not as many epochs
        (the score is the mean over all of them) or are paid by a matrix that was
        completed here stands none, and none beside what is called as no method.

        Args:
          method: as the published table calls it.
          config: of the run.
          truth: which matrix paid its evaluation, where the run says so.
          epochs: that the run has; of `config` where it has not finished.

        Raises:
          RunError: the main table has several.
        """
        whole = preset(config.dataset.name, config.method).training.epochs
        if (epochs or config.training.epochs) != whole:
            return math.nan
        main, sweep = (_of(table, method, config) for table in self._tables)
        if len(main) > 1:
            name = config.dataset.name
            raise RunError(f"scores.csv: {len(main)} rows of {method} on {name}")
        for rows in (main, sweep):
            alike = _alike(rows, config, truth)
            if not alike.empty:
                return float(alike.iloc[0][SCORE])
        return math.nan

    def curve(
        self, method: str | None, config: ExperimentConfig, truth: str | None = None
    ) -> pd.Series | None:
        """Epoch -> NX_0 R_tra of the main table's run, where `score` may be of that.

        Beside a run of any number of epochs, as these are compared one by one. None
        where no curve is kept.
        """
        main = _of(self._tables[0], method, config)
        curves = _of(self._curves, method, config)
        if curves.empty or _alike(main, config, truth).empty:
            return None
        return curves.set_index("epoch")[SCORE]


def faults(methods: Iterable[str]) -> list[str]:
    """A sentence about those whose published row comes from faulty code, if any."""
    named = [
        f"{method} ({_FAULTS[method]})"
        for method in dict.fromkeys(methods)
        if method in _FAULTS
    ]
    if not named:
        return []
    return [
        f"Published rows that come from faulty code (docs/deviations.md): "
        f"{'; '.join(named)}."
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


def _of(
    table: pd.DataFrame, method: str | None, config: ExperimentConfig
) -> pd.DataFrame:
    dataset = config.dataset.name
    return table[(table["dataset"] == dataset) & (table["method"] == method)]


def _alike(
    rows: pd.DataFrame, config: ExperimentConfig, truth: str | None
) -> pd.DataFrame:
    """Those that let users leave as `config` does; none where that is another run."""
    changed = [n for n in changed_fields(config) if not n.startswith(_NO_CHANGES)]
    if changed or _COMPLETED_HERE in (truth or ""):
        return rows[:0]
    if not _anybody_leaves(config.environment):
        return rows
    return rows[rows["exit_window"] == config.environment.exit_window]


def _anybody_leaves(environment: EnvironmentConfig) -> bool:
    """Whether the exit rule ends any session early, whatever the window."""
    rule, threshold = environment.exit_rule, environment.exit_threshold
    return rule == "tags" or (rule == "distance" and threshold > 0)
