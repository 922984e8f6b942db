"""The rows of a plan as runs: where each lies, how far it is, how long it will take."""

from __future__ import annotations

import io
import json
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.config import (
    COEFFICIENTS,
    ConfigError,
    DatasetConfig,
    ExperimentConfig,
    as_text,
    flatten,
    replace,
)
from darlr_jax.runs.directory import (
    RunDirectory,
    RunError,
    load_identity,
    read_json,
    read_text,
)
from darlr_jax.runs.plans import Plan, Row, row_config
from darlr_jax.runs.results import data_of, load_metrics, require_whole


class Job(NamedTuple):
    """One row to run: its configuration, its directory, and what to hand to a program.

    Rows that make the same changes have one directory.
    """

    row: Row
    config: ExperimentConfig
    path: pathlib.Path
    arguments: tuple[str, ...]  # of experiments.train


class Progress(NamedTuple):
    """How far a job is."""

    epochs: int  # done
    finished: bool

    def describe(self, wanted: int) -> str:
        """The state in a few words."""
        if self.finished:
            return "done"
        return f"{self.epochs} of {wanted} epochs" if self.epochs else "not run"


def plan_jobs(
    plan: Plan,
    workdir: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any],
    options: Sequence[str],
) -> list[Job]:
    """A job for each row.

    Args:
      plan: the rows.
      workdir: parent of the run directories.
      overrides: dotted field -> value, for all rows; the epochs are among them.
      options: further flags of experiments.train, as "--seeds=0,1".

    Raises:
      ConfigError: a row cannot have these settings, or one would undo or misname it.
    """
    _require_names_hold(plan, overrides)
    jobs = []
    for row in plan.rows:
        config = row_config(row, plan.dataset, overrides)
        path = pathlib.Path(workdir, plan.dataset, directory_name(row))
        settings = {**overrides, **row.changes}
        arguments = (
            *(f"--dataset={plan.dataset}", f"--method={row.method}"),
            *(f"--workdir={path}", *options),
            *(f"--set={name}={as_text(value)}" for name, value in settings.items()),
        )
        jobs.append(Job(row, config, path, arguments))
    return jobs


def _require_names_hold(plan: Plan, overrides: Mapping[str, Any]) -> None:
    """Refuses what is set for all rows where it is what tells them apart."""
    own = plan.fixed.union(*(row.changes for row in plan.rows))
    for field in overrides:
        if field in own:
            raise ConfigError(
                f"--set={field}=...: tells rows of --table={plan.table} apart, which "
                "would no longer be what they are called; leave it out, or run what "
                "you want with experiments.train"
            )


def directory_name(row: Row) -> str:
    """The method and its changes: rows that make the same ones have one name."""
    changes = sorted(row.changes.items())
    return "__".join([row.method, *(f"{name}={as_text(v)}" for name, v in changes)])


def command(job: Job, python: str = "python", beside: Sequence[Job] = ()) -> list[str]:
    """The command that runs, or continues, a job, and those that share its program."""
    return [
        *(python, "-m", "experiments.train", *job.arguments),
        *(f"--beside={other.path}: {_settings(job, other)}" for other in beside),
    ]


def _settings(job: Job, other: Job) -> str:
    """The coefficients of `other`, as --beside takes them; those that differ."""
    ours, theirs = flatten(job.config), flatten(other.config)
    differing = [name for name in COEFFICIENTS if ours[name] != theirs[name]]
    return ", ".join(f"{name}={theirs[name]!r}" for name in differing)


def side_by_side(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """Jobs in groups of `most` at most that can share a program; each directory once.

    They can where their configurations differ in coefficients alone.
    """
    groups: list[list[Job]] = []
    seen: set[pathlib.Path] = set()
    for job in jobs:
        if job.path in seen:
            continue
        seen.add(job.path)
        for group in groups:
            if len(group) < most and _share_a_program(group[0], job):
                group.append(job)
                break
        else:
            groups.append([job])
    return groups


def _share_a_program(job: Job, other: Job) -> bool:
    coefficients = {name: flatten(job.config)[name] for name in COEFFICIENTS}
    return replace(other.config, coefficients) == job.config


def describe(job: Job, *beside: Job) -> str:
    """The command as a line for a shell."""
    return shlex.join(command(job, beside=beside))


def progress(job: Job, seeds: Sequence[int]) -> Progress:
    """How far a job is.

    Raises:
      RunError: the directory holds another experiment, more epochs, or a run of which
        seeds have failed; nothing is to be run over it.
    """
    run = RunDirectory(job.path)
    if not (run.has_begun() and run.config_file.exists()):
        return Progress(0, False)
    _require_same(job, seeds)
    wanted = job.config.training.epochs
    epochs = run.epochs_done()
    if epochs > wanted:
        raise RunError(
            f"{job.path}: has {epochs} epochs, {wanted} are asked for; choose another "
            "--workdir or more --epochs"
        )
    finished = epochs == wanted and run.status() == "finished"
    if finished:
        require_whole(job.path)
    return Progress(epochs, finished)


def require_same_data(jobs: Iterable[Job]) -> None:
    """Refuses jobs of one data set that have run on different data.

    Raises:
      RunError: which of them, and what they have read otherwise.
    """
    by_dataset: dict[DatasetConfig, dict[str, list[pathlib.Path]]] = {}
    for job in jobs:
        file = RunDirectory(job.path).run_file
        data = data_of(read_json(file)) if file.exists() else None
        if data is not None:
            paths = by_dataset.setdefault(job.config.dataset, {}).setdefault(data, [])
            paths += [job.path] * (job.path not in paths)
    for by_data in by_dataset.values():
        (most, same), *others = sorted(by_data.items(), key=lambda kv: -len(kv[1]))
        for data, paths in others:
            raise RunError(
                f"{', '.join(map(str, paths))}: computed on other data than {same[0]} "
                f"({', '.join(_differing(data, most))}); choose another --workdir, or "
                "take away what was computed on data of before, to be run again"
            )


def _differing(data: str, other: str) -> list[str]:
    """What two `data_of` have read differently: names of files."""
    first, second = json.loads(data), json.loads(other)
    names = sorted({*first, *second})
    return [name for name in names if first.get(name) != second.get(name)]


def metrics_of(job: Job, seeds: Sequence[int]) -> pd.DataFrame | None:
    """The metrics of a finished job, None of one that may still finish.

    Raises:
      RunError: as `progress`, the job has failed, or metrics.csv is malformed.
    """
    if progress(job, seeds).finished:
        return load_metrics(job.path)
    if RunDirectory(job.path).run_file.exists():
        require_whole(job.path)
    return None


def estimate_seconds(
    jobs: Sequence[Job], seeds: Sequence[int]
) -> list[tuple[float, bool] | None]:
    """What each job will still take, and whether that was measured on itself.

    The seconds of its own epochs if it has any, else those of the first job with the
    same method that has, times the ratio of K_sel where users are picked by the
    selector (the picks are most of the work). None where neither has run: other methods
    tell nothing. Fitting a world model and compiling come on top.
    """
    pace = {job.path: _seconds_per_epoch(job) for job in jobs}
    guesses: list[tuple[float, bool] | None] = []
    for job in jobs:
        left = job.config.training.epochs - progress(job, seeds).epochs
        own = pace[job.path]
        if own is not None:
            guesses.append((left * own, True))
            continue
        alike = (other for other in jobs if other.row.method == job.row.method)
        measured = [other for other in alike if pace[other.path] is not None]
        if not measured:
            guesses.append(None)
            continue
        ratio = _picks(job.config) / _picks(measured[0].config)
        guesses.append((left * float(pace[measured[0].path] or 0) * ratio, False))
    return guesses


def _picks(config: ExperimentConfig) -> float:
    return float(config.selector.k_sel if config.reward.has_selector else 1)


def _seconds_per_epoch(job: Job) -> float | None:
    run = RunDirectory(job.path)
    if not run.epochs_done():
        return None
    text, columns = read_text(run.metrics_csv), ["seed", "seconds"]
    try:
        rows = pd.read_csv(io.StringIO(text), usecols=columns, dtype=float)
    except ValueError as error:
        raise RunError(f"{run.metrics_csv}: is damaged ({error})") from error
    # Every seed's row holds the seconds of all seeds together.
    return float(np.nanmedian(rows[rows["seed"] == rows["seed"].iloc[0]]["seconds"]))


def _require_same(job: Job, seeds: Sequence[int]) -> None:
    before = load_identity(job.path)
    # The run itself compares its data, which nobody has read here; of rows that are
    # done `require_same_data` compares them with each other.
    wanted = before._replace(config=job.config, seeds=list(seeds))
    if differences := wanted.differences(before):
        raise RunError(
            f"{job.path}: holds another experiment ({'; '.join(differences)}); choose "
            "another --workdir"
        )


def total_seconds(guesses: Iterable[tuple[float, bool] | None]) -> tuple[float, int]:
    """The sum of what is known, and of how many jobs nothing is."""
    guesses = list(guesses)
    known = sum(guess[0] for guess in guesses if guess is not None)
    return known, sum(guess is None for guess in guesses)
