"""From run directories to tables.

The score of a published table is the mean over *all* epochs of one run of `NX_0_R_tra`
(`published_score`): not the best epoch, not the last ones, so that learning speed is
part of it. Each seed is averaged over its epochs first; means and intervals are over
seeds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.config import ExperimentConfig
from darlr_jax.runs.columns import ALL_USERS, MODES, SCORE
from darlr_jax.runs.directory import (
    RunDirectory,
    RunError,
    load_config,
    read_json,
    read_text,
)
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.statistics import Interval
from darlr_jax.runs.writers import require_agreement

# Student's t, 97.5 %, for 1 to 10 degrees of freedom; beyond, `_t_quantile` expands.
_T_975 = (
    *(12.70620, 4.30265, 3.18245, 2.77645, 2.57058),
    *(2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
)
_KEYS = ("seed", "epoch")  # of a row of metrics.csv; whole numbers
_SCORES = tuple(f"{mode}_R_tra" for mode in MODES)  # that every run has
# What cannot be undefined, or infinite: rewards and lengths of episodes, and what they
# took. Of other columns not even a name is known here.
_FINITE = ("seconds", "env_steps")
_FINITE_ENDS = ("_R_tra", "_len_tra", "_R_each")  # in any mode, of all users too
# No part of a number as the writer spells it: float() takes "7_3", "nan" and the digits
# of every script.
_ODD = re.compile(r"[^0-9eE.+,-]")
_RESTORE = "bring back a copy, or start over with --overwrite"


class FinishedRun(NamedTuple):
    """A run as it is on disk; "finished" with as many epochs as it has."""

    path: pathlib.Path
    config: ExperimentConfig
    metrics: pd.DataFrame
    record: dict[str, Any]  # run.json
    fit: str | None  # which fit of a world model it stands on: see `fit_of`

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.path.name

    @property
    def ground_truth(self) -> str | None:
        """Which matrix pays its evaluation, in one line, where it says so."""
        return self.record.get("ground_truth")

    @property
    def data(self) -> str | None:
        """What it was read from, as of `data_of`."""
        return data_of(self.record)


def read_run(run_dir: str | os.PathLike[str]) -> FinishedRun:
    """Reads a run that has not failed.

    Raises:
      RunError: it, or some of its seeds, failed; it is malformed; or its files do not
        belong together.
    """
    require_whole(run_dir)
    run = RunDirectory(run_dir)
    config, metrics = load_config(run.path), load_metrics(run.path)
    record = read_json(run.run_file)
    _require_its_epochs(run.path, record, config, metrics)
    return FinishedRun(run.path, config, metrics, record, fit_of(run.path))


def _require_its_epochs(
    path: pathlib.Path,
    record: Mapping[str, Any],
    config: ExperimentConfig,
    metrics: pd.DataFrame,
) -> None:
    """Refuses a run that calls itself finished and is not, or has too many epochs."""
    done, wanted = int(metrics["epoch"].max()), config.training.epochs
    status = record.get("status")
    if not isinstance(status, str):
        raise RunError(f"{path / 'run.json'}: has no status; {_RESTORE}")
    if done > wanted or (status == "finished" and done < wanted):
        raise RunError(
            f"{path}: is {status}, and metrics.csv has {done} epochs of the {wanted} "
            f"that config.json asks for; one of them is of another run: {_RESTORE}"
        )


def fit_of(run_dir: str | os.PathLike[str]) -> str | None:
    """A digest of the losses of a world model's fit; None where a run has none.

    They tell fits apart to their rounding: the same fields and data give another digest
    on another machine or version, where the fitted tables differ as well.

    Raises:
      RunError: world_model.json is malformed.
    """
    file = RunDirectory(run_dir).world_model
    if not file.exists():
        return None
    report = read_json(file)
    if not _are_objects(report.get("epochs", [])):
        raise RunError(f"{file}: epochs is no list of JSON objects; {_RESTORE}")
    return digest_of_fit(report)


def digest_of_fit(report: Mapping[str, Any]) -> str:
    """`fit_of` of what world_model.json holds."""
    losses = [epoch.get("loss") for epoch in report.get("epochs", [])]
    return hashlib.sha256(json.dumps(losses).encode()).hexdigest()


def data_of(record: Mapping[str, Any]) -> str | None:
    """The digests of what a run has read, as one text; None where it says none.

    Args:
      record: run.json. It has them by file, or by the generator, and how these are
        prepared; an older run has not all, and is of other data as far as it says.
    """
    data = record.get("data")
    return json.dumps(data, sort_keys=True) if data else None


def load_metrics(
    run_dir: str | os.PathLike[str], without: Collection[int] = ()
) -> pd.DataFrame:
    """The metrics of a run: one row per seed and epoch, sorted by both.

    Args:
      run_dir: its directory.
      without: seeds to leave out; those that failed have fewer epochs.

    Raises:
      RunError: metrics.csv is missing, malformed or incomplete, has not the seeds that
        run.json names or numbers that contradict each other, or metrics.jsonl has
        other numbers: where, and how.
    """
    run = RunDirectory(run_dir)
    file = run.metrics_csv
    lines = _whole_lines(file)
    by_line = _numbers(lines, file)
    _require_finite(by_line, _KEYS, file)
    _require_whole_numbers(by_line, file)
    by_line = by_line.astype(dict.fromkeys(_KEYS, int)).sort_values([*_KEYS])
    by_line = by_line[~by_line["seed"].isin(without)]
    if by_line.empty:
        raise RunError(f"{file}: no seed is left that has not failed")
    _require_finite(by_line, filter(_is_finite, by_line.columns), file)
    metrics = by_line.reset_index(drop=True)
    for seed, epochs in metrics.groupby("seed")["epoch"]:
        if list(epochs) != list(range(1, len(epochs) + 1)):
            raise RunError(f"{file}: seed {seed} has missing or repeated epochs")
    if metrics.groupby("seed").size().nunique() != 1:
        raise RunError(f"{file}: the seeds have different numbers of epochs")
    _require_seeds(run, metrics, without)
    require_agreement(run, lines)
    _require_one_source(metrics, file)
    return metrics


def require_whole(run_dir: str | os.PathLike[str]) -> None:
    """Refuses a run that failed, or of which seeds failed: the rest is no result.

    Raises:
      RunError: what failed, and what to do; or run.json is malformed.
    """
    run = RunDirectory(run_dir)
    record = read_json(run.run_file)
    if failed := failures_of(record, run.run_file):
        first = failed[0]
        raise RunError(
            f"{run.path}: {len(failed)} of {len(seeds_of(record, run.run_file))} seeds "
            f"failed (seed {first['seed']}: {first['term']} is {first['value']} in "
            f"epoch {first['epoch']}); mend the cause and run it again with "
            "--overwrite, or take it away"
        )
    if record.get("status") == "failed":
        raise RunError(
            f"{run.path}: the run failed; mend the cause and run the same command "
            "again, which continues it, or take it away"
        )


def failures_of(record: Mapping[str, Any], file: pathlib.Path) -> list[dict[str, Any]]:
    """What run.json says of each seed that failed (`failures.Failure`), none in older.

    Args:
      record: its content.
      file: where that is from, for an error.

    Raises:
      RunError: it says so in another form.
    """
    failed = record.get("failed_seeds") or []
    said = {"seed", "epoch", "term", "value"}
    if not _are_objects(failed) or not all(said <= each.keys() for each in failed):
        raise RunError(
            f"{file}: failed_seeds is {failed!r}, expected a list of objects with "
            f"{', '.join(sorted(said))}; {_RESTORE}"
        )
    return failed


def seeds_of(record: Mapping[str, Any], file: pathlib.Path) -> list[int]:
    """The seeds that run.json names.

    Args:
      record: its content.
      file: where that is from, for an error.

    Raises:
      RunError: it names none, or something else.
    """
    seeds = record.get("seeds")
    # True and False are whole numbers to Python.
    if not (isinstance(seeds, list) and seeds and {*map(type, seeds)} == {int}):
        raise RunError(
            f"{file}: seeds is {seeds!r}, expected a list of whole numbers; {_RESTORE}"
        )
    return seeds


def published_score(metrics: pd.DataFrame) -> pd.Series:
    """Seed -> mean of NX_0 R_tra over all epochs of the single run, as published."""
    return epoch_mean(metrics, SCORE)


def epoch_mean(metrics: pd.DataFrame, column: str) -> pd.Series:
    """Seed -> mean over all epochs; not-a-number where any epoch has none."""
    seeds, place, epochs = np.unique(
        metrics["seed"], return_inverse=True, return_counts=True
    )
    means = np.bincount(place, metrics[column]) / epochs
    return pd.Series(means, pd.Index(seeds, name="seed"), name=column)


def last_quarter(metrics: pd.DataFrame, column: str) -> pd.Series:
    """Seed -> mean over the last 25 % of the epochs, at least one of them."""
    epochs = int(metrics["epoch"].max())
    return epoch_mean(
        metrics[metrics["epoch"] > epochs - math.ceil(epochs / 4)], column
    )


def final_policy(metrics: pd.DataFrame, column: str) -> pd.Series:
    """Seed -> value of the last epoch."""
    last = metrics[metrics["epoch"] == metrics["epoch"].max()]
    return last.set_index("seed")[column]


def mean_and_interval(values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Mean over seeds, and half the width of its 95 % interval (Student's t).

    A single seed says nothing of the spread: its half width is not-a-number.
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return float(array.mean()), math.nan
    error = array.std(ddof=1) / math.sqrt(array.size)
    return float(array.mean()), float(_t_quantile(array.size - 1) * error)


def summary_table(
    runs: Sequence[FinishedRun], published: PublishedScores | None = None
) -> pd.DataFrame:
    """One row a run: its score with the interval over seeds, and what goes with it.

    Args:
      runs: in the order of the rows.
      published: what may stand beside them; adds the columns "published" and
        "difference".

    Returns:
      Columns: data set, method, seeds, epochs; "NX_0 R_tra" (`published_score`) with
      "± 95 %" (half the width of its interval), "last 25 %" and "max" of the same
      metric; and means over all epochs of other metrics. A metric that a run has not
      got is not-a-number.

    Raises:
      RunError: `published` has several runs of one of them.
    """
    table = pd.DataFrame([_summary_row(run) for run in runs])
    if published is None:
        return table
    table["published"] = [
        published.score(run.config.method, run.config, run.ground_truth, epochs)
        for run, epochs in zip(runs, table["epochs"], strict=True)
    ]
    table["difference"] = table["NX_0 R_tra"] - table["published"]
    return table


def run_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """The table that ends a run: one row a mode, means over epochs and seeds.

    The row "NX_0" and the column "R_tra" give the published score.
    """
    rows = []
    for mode in MODES:
        score, half_width = mean_and_interval(epoch_mean(metrics, f"{mode}_R_tra"))
        last = last_quarter(metrics, f"{mode}_R_tra").mean()
        row = {"mode": mode, "R_tra": score, "± 95 %": half_width, "last 25 %": last}
        names = {"all_users_R_tra": "all users"} | {
            name: name for name in ("len_tra", "R_each", "CV", "CV_turn", "MCD")
        }
        for name, title in names.items():
            row[title] = _seed_mean(metrics, f"{mode}_{name}")
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame, digits: int = 2) -> str:
    """The table in Markdown, aligned; not-a-number reads "n/a"."""
    cells = [[str(name) for name in table.columns]]
    for row in table.itertuples(index=False):
        cells.append([cell(value, digits) for value in row])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rule = [
        "-" * (width - right) + ":" * right
        for width, right in zip(widths, numeric, strict=True)
    ]
    lines = [cells[0], rule, *cells[1:]]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        + " |"
        for line in lines
    )


def _are_objects(value: object) -> bool:
    """Whether it is a list of JSON objects."""
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _whole_lines(file: pathlib.Path) -> list[str]:
    """Header and rows of metrics.csv."""
    text = read_text(file)
    lines = text.splitlines()
    if len(lines) < 2:
        raise RunError(f"{file}: holds no epoch yet")
    if not text.endswith("\n"):
        raise RunError(f"{file}: the last line is cut short; resume the run to mend it")
    return lines


def _numbers(lines: Sequence[str], file: pathlib.Path) -> pd.DataFrame:
    """The rows of metrics.csv as they stand there; the index counts its lines."""
    header = lines[0].split(",")
    for name in header:
        if header.count(name) > 1:
            raise RunError(f"{file}, line 1: names column {name!r} twice; {_RESTORE}")
    for name in (*_KEYS, *_SCORES):
        if name not in header:
            raise RunError(f"{file}: has no column {name}")
    numbered = list(enumerate(lines[1:], start=2))
    rows = [_row(line, header, f"{file}, line {n}") for n, line in numbered]
    return pd.DataFrame(rows, [number for number, _ in numbered], header)


def _row(line: str, header: Sequence[str], place: str) -> list[float]:
    """One line of metrics.csv. pandas would fill up a line that is too short."""
    cells = line.split(",")
    if len(cells) != len(header):
        raise RunError(f"{place}: {len(cells)} cells, expected {len(header)}")
    if odd := _ODD.search(line):
        column = line[: odd.start()].count(",")
        raise RunError(f"{place}: {header[column]} is {cells[column]!r}, no number")
    numbers = []
    for name, cell in zip(header, cells, strict=True):
        try:
            numbers.append(float(cell) if cell else math.nan)
        except ValueError as error:
            raise RunError(f"{place}: {name} is {cell!r}, no number") from error
    return numbers


def _is_finite(column: str) -> bool:
    """Whether a column of metrics.csv may not be empty or infinite."""
    return column in _FINITE or column.endswith(_FINITE_ENDS)


def _require_finite(
    by_line: pd.DataFrame, columns: Iterable[str], file: pathlib.Path
) -> None:
    names = [*columns]
    values = by_line[names].to_numpy()
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        value = float(values[row, column])
        raise RunError(
            f"{file}, line {by_line.index[row]}: {names[column]} is "
            f"{'empty' if math.isnan(value) else value}, expected a finite number; "
            f"{_RESTORE}"
        )


def _require_whole_numbers(by_line: pd.DataFrame, file: pathlib.Path) -> None:
    """Refuses a seed or epoch that would be cut to another one."""
    for name in _KEYS:
        values = by_line[name].to_numpy()
        odd = (values != np.floor(values)) | (np.abs(values) >= 2**53)
        for place in np.flatnonzero(odd)[:1]:
            raise RunError(
                f"{file}, line {by_line.index[place]}: {name} is {values[place]}, "
                f"expected a whole number; {_RESTORE}"
            )


def _require_seeds(
    run: RunDirectory, metrics: pd.DataFrame, without: Collection[int]
) -> None:
    """Refuses metrics without a seed of the run: a mean over the others says so not."""
    named = {*seeds_of(read_json(run.run_file), run.run_file)} - {*without}
    found = {*metrics["seed"].tolist()}
    for some, others, file, other in (
        (named, found, run.run_file, run.metrics_csv),
        (found, named, run.metrics_csv, run.run_file),
    ):
        if more := sorted(some - others):
            raise RunError(
                f"{other}: has no seed {', '.join(map(str, more))}, of which "
                f"{file.name} tells; {_RESTORE}"
            )


def _require_one_source(metrics: pd.DataFrame, file: pathlib.Path) -> None:
    """Refuses rows of which columns cannot be of the same episodes.

    R_each is the reward of all episodes by all their steps, and so R_tra by the mean
    length, up to the rounding of single precision (2e-7 in every committed run). The
    bound leaves room for copies with few digits, and for sums that nearly cancel; a
    column that was pasted from another run, or a digit that was changed, is beyond it.
    """
    for mode in MODES:
        names = [f"{mode}_{name}" for name in ("R_tra", "R_each", "len_tra")]
        if not {*names} <= {*metrics.columns}:
            continue
        score, each, length = (metrics[name].to_numpy() for name in names)
        odd = np.abs(score - each * length) > 1e-3 * (1 + np.abs(score))
        for place in np.flatnonzero(odd)[:1]:
            seed, epoch = (metrics[name].to_numpy()[place] for name in _KEYS)
            row = metrics[names].to_numpy()[place]
            told = ", ".join(f"{n} {x:g}" for n, x in zip(names, row, strict=True))
            raise RunError(
                f"{file}: seed {seed}, epoch {epoch}: {told}: the first is not the "
                f"product of the others; {_RESTORE}"
            )


def _summary_row(run: FinishedRun) -> dict[str, str | int | float]:
    config, metrics = run.config, run.metrics
    score, half_width = mean_and_interval(published_score(metrics))
    return {
        "data set": config.dataset.name + " twin" * config.dataset.twin,
        "method": config.method,
        "seeds": metrics["seed"].nunique(),
        "epochs": int(metrics["epoch"].max()),
        "NX_0 R_tra": score,
        "± 95 %": half_width,
        "last 25 %": float(last_quarter(metrics, SCORE).mean()),
        "max": float(metrics.groupby("seed")[SCORE].max().mean()),
        "NX_0 all users": _seed_mean(metrics, ALL_USERS),
        "FB R_tra": _seed_mean(metrics, "FB_R_tra"),
        "NX_10 R_tra": _seed_mean(metrics, "NX_10_R_tra"),
        "length": _seed_mean(metrics, "NX_0_len_tra"),
        "R_each": _seed_mean(metrics, "NX_0_R_each"),
    }


def _seed_mean(metrics: pd.DataFrame, column: str) -> float:
    if column not in metrics.columns:
        return math.nan
    return float(epoch_mean(metrics, column).mean(skipna=False))


def cell(value: object, digits: int) -> str:
    """What a table shows of a value: an interval with its ends, nan and None as n/a."""
    if isinstance(value, Interval):
        return _interval_cell(value, digits)
    if value is None:
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def _interval_cell(interval: Interval, digits: int) -> str:
    value, low, high = (f"{number:.{digits}f}" for number in interval[:3])
    if math.isnan(interval.value):
        return "n/a"
    if interval.runs == 1:
        return f"{value} (1 seed)"
    return f"{value} [{low}, {high}]"


def _t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t, to 4 digits (Cornish-Fisher beyond the table)."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
