"""The runs of a folder, read once: which are methods, which are rows of which plan."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from darlr_jax.config import ConfigError, ExperimentConfig, flatten
from darlr_jax.methods import METHODS
from darlr_jax.runs.comparison import Outcome, outcomes_of, require_one_matrix
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.fields import changed_fields
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plans import TABLES, Plan, Row, make_plan
from darlr_jax.runs.results import FinishedRun, read_run

_MISSING = 0.1  # share of a plan's rows that may not have been run


class WholePlan(NamedTuple):
    """A plan whose rows, all or nearly all of them, are among the runs."""

    plan: Plan
    outcomes: tuple[Outcome, ...]  # of its rows, in order
    names: frozenset[str]  # of their runs


class Group(NamedTuple):
    """Runs on one data set, which share a folder."""

    name: str  # of the folder
    dataset: str
    runs: tuple[FinishedRun, ...]  # in the order of the table of methods
    truth: str | None  # which matrix pays the evaluation; None where no run says so
    plans: tuple[WholePlan, ...]

    @property
    def methods(self) -> list[FinishedRun]:
        """The runs that are called as a method."""
        return [run for run in self.runs if run.name in METHODS]

    @property
    def others(self) -> list[FinishedRun]:
        """The other runs, but for those that the table of a whole plan has.

        The main table does not count: pages have the methods in a table of their own.
        """
        in_plans = set().union(
            *(whole.names for whole in self.plans if whole.plan.table != "main")
        )
        return [run for run in self.runs if run.name not in {*METHODS, *in_plans}]

    def outcomes(self, against: str | None) -> list[Outcome]:
        """Methods and others as rows, each compared with the run called `against`."""
        return outcomes_of([*self.methods, *self.others], against)


def read_group(folder: str | os.PathLike[str]) -> Group:
    """Reads every run of a folder.

    Args:
      folder: of the run directories of one data set. Those that are rows of plans are
        found where they are called as `experiments.reproduce` calls them, or as their
        rows. The `tables` that it makes may lie beside them, and what is hidden.

    Raises:
      RunError: there are no runs, they are of several data sets or are paid by several
        test matrices, one failed, is malformed or is called as a method that it is not
        of, or another folder is no run.
    """
    folder = pathlib.Path(folder)
    paths = [path for path in folder.glob("*") if path.is_dir() and _is_run(path)]
    if not paths:
        raise RunError(f"{folder}: holds no run directories")
    order = {name: place for place, name in enumerate(METHODS)}
    paths.sort(key=lambda path: (order.get(path.name, len(order)), path.name))
    runs = tuple(map(read_run, paths))
    for run in runs:
        _require_its_method(run)
    dataset, *others = sorted({run.config.dataset.name for run in runs})
    if others:
        raise RunError(f"{folder}: holds runs of {dataset} and {', '.join(others)}")
    truth = require_one_matrix({run.name: run.ground_truth for run in runs})
    return Group(folder.name, dataset, runs, truth, whole_plans(dataset, runs))


def _require_its_method(run: FinishedRun) -> None:
    """Refuses a run in the directory of another method: tables call it by that."""
    if run.name in METHODS and run.name != run.config.method:
        raise RunError(
            f"{run.path}: is called as a method and holds a run of "
            f"{run.config.method}; rename it, or bring back the run of that name"
        )


def _is_run(path: pathlib.Path) -> bool:
    """Whether a folder is a run.

    Raises:
      RunError: it is none, and neither hidden nor that of the tables.
    """
    if RunDirectory(path).config_file.exists():
        return True
    if path.name != "tables" and not path.name.startswith("."):
        raise RunError(f"{path}: no run directory (it has no config.json)")
    return False


def whole_plans(dataset: str, runs: Iterable[FinishedRun]) -> tuple[WholePlan, ...]:
    """The plans on a data set whose rows are among the runs.

    One row of ten may be missing, unless others are compared with it: a new method
    must not cost a table before it has been run. The plan says which are. All rows of a
    plan must have changed the same beside what the row says: rows of another version or
    size are another table's.
    """
    by_name = {run.name: run for run in runs}
    configs = {name: run.config for name, run in by_name.items()}
    found = []
    for plan in _plans_of(dataset):
        names = [_run_name(row, configs) for row in plan.rows]
        present = [name for name in names if name is not None]
        plan = _of_those_there(plan, names)
        if plan.rows and _are_whole(plan) and _are_alike(plan, present, configs):
            pairs = zip(plan.rows, map(by_name.__getitem__, present), strict=True)
            outcomes = tuple(_outcome(row, run) for row, run in pairs)
            found.append(WholePlan(plan, outcomes, frozenset(present)))
    return tuple(found)


def _of_those_there(plan: Plan, names: Iterable[str | None]) -> Plan:
    """The plan of rows that have a run, which says what the others are."""
    pairs = list(zip(plan.rows, names, strict=True))
    there = tuple(row for row, name in pairs if name is not None)
    missing = tuple(row.name for row, name in pairs if name is None)
    return plan._replace(rows=there, total=len(there), missing=missing)


def _are_whole(plan: Plan) -> bool:
    """Whether enough rows are there, and all that others are compared with."""
    rows = len(plan.rows) + len(plan.missing)
    asked = {row.against for row in plan.rows}
    return len(plan.missing) <= _MISSING * rows and not asked & set(plan.missing)


def _outcome(row: Row, run: FinishedRun) -> Outcome:
    return Outcome(
        *(row, run.config, run.metrics, "done", run.fit, run.ground_truth),
        data=run.data,
    )


def _plans_of(dataset: str) -> Iterable[Plan]:
    for table in TABLES:
        try:
            yield make_plan(table, dataset)
        except ConfigError:  # about nothing here, as exit windows where nobody leaves
            continue


def _are_alike(
    plan: Plan, names: Iterable[str], configs: Mapping[str, ExperimentConfig]
) -> bool:
    common = set()
    for row, name in zip(plan.rows, names, strict=True):
        changed = changed_fields(configs[name])
        common.add(str({n: v for n, v in changed.items() if n not in row.changes}))
    return len(common) == 1


def _run_name(row: Row, configs: Mapping[str, ExperimentConfig]) -> str | None:
    """The run of a row: of several plans (method and changes), or called as it is."""
    for name in (directory_name(row), row.name):
        if name in configs and _is_of(row, configs[name]):
            return name
    return None


def _is_of(row: Row, config: ExperimentConfig) -> bool:
    fields = flatten(config)
    return config.method == row.method and all(
        fields[name] == value for name, value in row.changes.items()
    )
