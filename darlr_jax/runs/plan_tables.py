"""The table of a plan as texts, with what its reader must know beneath it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import pandas as pd

from darlr_jax.config import ConfigError, ExperimentConfig, flatten
from darlr_jax.runs.comparison import (
    Outcome,
    runs_of,
    where_it_helps,
    with_matrix,
)
from darlr_jax.runs.directory import RunError, load_config
from darlr_jax.runs.fields import changed_fields, in_words, shared_changes
from darlr_jax.runs.formats import to_csv, to_latex
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plans import TABLES, Plan, Row, make_plan
from darlr_jax.runs.published import faults
from darlr_jax.runs.results import load_metrics, require_whole, to_markdown
from darlr_jax.runs.statistics import Interval

_BOOTSTRAP = "95 % bootstrap interval over seeds"
_SAFER = "which is the wider and the safer one of few seeds"
_PAIRED = "difference: of all users, paired by seed, to the row named under against."
_MEANS = ("NX_0 R_tra", "last 25 %", "all users")  # of a brief table
_BRIEF = (
    *("row", "what", "seeds", "epochs", "NX_0 R_tra", "± 95 % (t)", "last 25 %"),
    *("all users", "length", "R_each", "against", "difference", "seeds ahead"),
    *("published", "its N", "less published"),
)


def plan_texts(
    plan: Plan,
    outcomes: Sequence[Outcome],
    table: pd.DataFrame,
    truth: str | None,
) -> dict[str, str]:
    """Suffix of a file (".md", ".csv", ".tex") -> the table in that form.

    Args:
      plan: what the table is about.
      outcomes: its rows, in order.
      table: `comparison_table` of them.
      truth: which matrix pays the evaluation; None where no run says so.
    """
    twin = any(outcome.config.dataset.twin for outcome in outcomes)
    title = f"{plan.title} (a generated twin)" if twin else plan.title
    notes = [f"[ ]: {_BOOTSTRAP}; ± (t): half of Student's, {_SAFER}.", _PAIRED]
    notes += _notes(plan, outcomes, table, truth)
    lines = [f"# {title}\n", to_markdown(table), "", *notes]
    return {
        ".md": "\n".join(lines) + "\n",
        ".csv": to_csv(with_matrix(table, truth)),
        ".tex": to_latex(table, f"{title}. {' '.join(notes)}"),
    }


def brief_text(
    plan: Plan,
    outcomes: Sequence[Outcome],
    table: pd.DataFrame,
    truth: str | None,
) -> str:
    """The table for a page: Markdown, with fewer columns and no title.

    Arguments as of `plan_texts`. Means stand without their bootstrap intervals, beside
    half of Student's; paired differences keep theirs.
    """
    notes = [f"±: half of Student's interval of 95 %; [ ]: {_BOOTSTRAP}.", _PAIRED]
    notes += _notes(plan, outcomes, table, truth)
    brief = table[[name for name in _BRIEF if name in table.columns]].copy()
    for name in _MEANS:
        if name in brief.columns:
            brief[name] = [
                v.value if isinstance(v, Interval) else v for v in brief[name]
            ]
    return "\n\n".join([to_markdown(brief), *notes]) + "\n"


def _notes(
    plan: Plan, outcomes: Sequence[Outcome], table: pd.DataFrame, truth: str | None
) -> list[str]:
    """What the reader of any form must know beneath the table."""
    notes = []
    if plan.left_out:
        notes.append(f"Left out, the same here: {'; '.join(plan.left_out)}.")
    if shared := shared_changes(outcome.config for outcome in outcomes):
        notes.append(f"All rows: {in_words(shared)}.")
    if truth is not None:
        notes.append(f"Evaluation pays: {truth}.")
    if "published" in table:
        beside = set(table.loc[table["published"].notna(), "row"])
        notes += faults(o.row.method for o in outcomes if o.row.name in beside)
    if plan.x_label:  # one axis: density, sparsity, exit windows
        notes += [f"By {plan.x_label}: {s}" for s in where_it_helps(outcomes, table)]
    return notes


def whole_plans(
    folder: str | os.PathLike[str],
) -> list[tuple[Plan, list[Outcome]]]:
    """The plans of which a folder holds every row, each with its outcomes.

    Args:
      folder: of the run directories of one data set, each called as
        `experiments.reproduce` calls it, or as its row.

    A plan is whole where each of its rows is there and all of them changed the same
    beside what the row says: rows of another version or size are another table's.

    Raises:
      RunError: there are no runs, they are of several data sets, or one of a whole plan
        failed or is malformed.
    """
    folder = pathlib.Path(folder)
    configs, plans = _configs_and_plans(folder)
    return [
        (plan, [_outcome(row, folder, configs) for row in plan.rows]) for plan in plans
    ]


def runs_in_plans(folder: str | os.PathLike[str]) -> dict[str, set[str]]:
    """Table -> names of its runs, of the plans of which a folder holds every row.

    Arguments and errors as of `whole_plans`, but for runs that failed.
    """
    configs, plans = _configs_and_plans(pathlib.Path(folder))
    return {
        plan.table: {str(_run_name(row, configs)) for row in plan.rows}
        for plan in plans
    }


def _configs_and_plans(
    folder: pathlib.Path,
) -> tuple[dict[str, ExperimentConfig], list[Plan]]:
    """Run -> configuration, and the plans of which every row is among the runs."""
    configs = {run.name: load_config(run) for run in runs_of(folder)}
    dataset, *others = sorted({config.dataset.name for config in configs.values()})
    if others:
        raise RunError(f"{folder}: holds runs of {dataset} and {', '.join(others)}")
    plans = []
    for table in TABLES:
        try:
            plan = make_plan(table, dataset)
        except ConfigError:  # about nothing here, as exit windows where nobody leaves
            continue
        if _is_whole(plan, configs):
            plans.append(plan)
    return configs, plans


def _is_whole(plan: Plan, configs: Mapping[str, ExperimentConfig]) -> bool:
    common = set()
    for row in plan.rows:
        name = _run_name(row, configs)
        if name is None:
            return False
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


def _outcome(
    row: Row, folder: pathlib.Path, configs: Mapping[str, ExperimentConfig]
) -> Outcome:
    run = folder / str(_run_name(row, configs))
    require_whole(run)
    return Outcome(row, configs[run.name], load_metrics(run), "done")
