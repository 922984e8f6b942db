"""The table of a plan as texts, with what its reader must know beneath it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.runs.comparison import (
    Outcome,
    comparison_table,
    probability_note,
    standing_on,
    users_compared,
    where_it_helps,
    with_matrix,
)
from darlr_jax.runs.fields import in_words, shared_changes
from darlr_jax.runs.formats import to_csv, to_latex
from darlr_jax.runs.groups import Group
from darlr_jax.runs.plans import Plan
from darlr_jax.runs.published import PublishedScores, faults
from darlr_jax.runs.results import to_markdown
from darlr_jax.runs.statistics import Interval
from darlr_jax.runs.switches import main_effects

_BOOTSTRAP = "95 % bootstrap interval over seeds"
_SAFER = "which is the wider and the safer one of few seeds"
_MEANS = ("NX_0 R_tra", "last 25 %", "all users")  # of a brief table
_BRIEF = (
    *("row", "what", "seeds", "epochs", "NX_0 R_tra", "± 95 % (t)", "last 25 %"),
    *("all users", "length", "R_each", "against", "difference", "seeds ahead"),
    *("published", "less published"),
)


class PlanTable(NamedTuple):
    """A plan, what became of its rows, and the table of them."""

    plan: Plan
    outcomes: Sequence[Outcome]  # of its rows, in order
    rows: pd.DataFrame  # `comparison_table` of them
    truth: str | None  # which matrix pays the evaluation; None where no run says so


def plan_table(
    plan: Plan,
    outcomes: Sequence[Outcome],
    published: PublishedScores,
    truth: str | None,
) -> PlanTable:
    """Compares the rows of a plan, with each other and with what was published."""
    rows = comparison_table(outcomes, published)
    return PlanTable(plan, outcomes, rows, truth)


def whole_tables(group: Group, published: PublishedScores) -> list[PlanTable]:
    """Those of the plans of which every row is among a group's runs."""
    return [
        plan_table(whole.plan, whole.outcomes, published, group.truth)
        for whole in group.plans
    ]


def plan_texts(table: PlanTable) -> dict[str, str]:
    """Suffix of a file (".md", ".csv", ".tex") -> the table in that form."""
    plan, rows = table.plan, table.rows
    twin = any(outcome.config.dataset.twin for outcome in table.outcomes)
    title = f"{plan.title} (a generated twin)" if twin else plan.title
    notes = [f"[ ]: {_BOOTSTRAP}; ± (t): half of Student's, {_SAFER}."]
    notes += [_paired(table), *probability_note(rows), *_notes(table)]
    lines = [f"# {title}\n", to_markdown(rows), "", *notes]
    return {
        ".md": "\n".join(lines) + "\n",
        ".csv": to_csv(with_matrix(rows, table.truth)),
        ".tex": to_latex(rows, f"{title}. {' '.join(notes)}"),
    }


def brief_text(table: PlanTable) -> str:
    """The table for a page: Markdown, with fewer columns and no title."""
    return "\n\n".join([to_markdown(brief_table(table)), *brief_notes(table)]) + "\n"


def brief_table(table: PlanTable) -> pd.DataFrame:
    """The table with fewer columns; over an axis, one row a place.

    Means stand without their bootstrap intervals, beside half of Student's; paired
    differences keep theirs.
    """
    if table.plan.x_label:
        return _over_an_axis(table)
    rows = table.rows
    brief = rows[[name for name in _BRIEF if name in rows.columns]].copy()
    for name in _MEANS:
        if name in brief.columns:
            brief[name] = [
                v.value if isinstance(v, Interval) else v for v in brief[name]
            ]
    return brief


def brief_notes(table: PlanTable) -> list[str]:
    """What stands beneath `brief_table`."""
    notes = [f"±: half of Student's interval of 95 %; [ ]: {_BOOTSTRAP}."]
    if table.plan.x_label:
        finished = [o.metrics for o in table.outcomes if o.metrics is not None]
        seeds = sorted({metrics["seed"].nunique() for metrics in finished})
        epochs = sorted({int(metrics["epoch"].max()) for metrics in finished})
        notes.append(f"NX_0 R_tra; seeds: {_listed(seeds)}; epochs: {_listed(epochs)}.")
        notes.append(f"less: of {_users(table)}, paired by seed.")
    else:
        notes.append(_paired(table))
    return notes + _notes(table)


def _over_an_axis(table: PlanTable) -> pd.DataFrame:
    """A row a place on the axis; a column a line, with its difference to its pair."""
    series = {outcome.row.name: outcome.row.series for outcome in table.outcomes}
    lines: dict[float, dict[str, Any]] = {}
    for outcome, (_, cells) in zip(table.outcomes, table.rows.iterrows(), strict=True):
        row = outcome.row
        assert row.x is not None  # of a plan with an axis
        line = lines.setdefault(row.x, {table.plan.x_label: f"{row.x:g}"})
        line[row.series] = _mean_cell(cells)
        if row.against in series:
            name = f"{row.series} less {series[row.against]}"
            line[name] = cells.get("difference")
        if not math.isnan(cells.get("published", math.nan)):
            line[f"{row.series}, published"] = cells["published"]
    return pd.DataFrame([lines[x] for x in sorted(lines)])


def _mean_cell(cells: pd.Series) -> str:
    """A mean beside half of Student's interval, or how far the row is."""
    score = cells["NX_0 R_tra"]
    if not isinstance(score, Interval):
        return str(cells["seeds"])
    spread = cells.get("± 95 % (t)", math.nan)
    return f"{score.value:.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")


def _paired(table: PlanTable) -> str:
    users = _users(table)
    return f"difference: of {users}, paired by seed, to the row named under against."


def _users(table: PlanTable) -> str:
    return users_compared(outcome.metrics for outcome in table.outcomes)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _notes(table: PlanTable) -> list[str]:
    """What the reader of any form must know beneath the table."""
    plan, rows, notes = table.plan, table.rows, []
    if len(plan.rows) < plan.total:
        notes.append(f"Chosen by --rows: {len(plan.rows)} of {plan.total} rows.")
    if plan.missing:
        notes.append(f"Not run yet: {', '.join(plan.missing)}.")
    if plan.left_out:
        notes.append(f"Left out, the same here: {'; '.join(plan.left_out)}.")
    if shared := shared_changes(outcome.config for outcome in table.outcomes):
        notes.append(f"All rows: {in_words(shared)}.")
    notes += standing_on(table.outcomes, table.truth)
    if "published" in rows:
        beside = set(rows.loc[rows["published"].notna(), "row"])
        notes += faults(o.row.method for o in table.outcomes if o.row.name in beside)
    notes += [f"By switch: {sentence}" for sentence in main_effects(table.outcomes)]
    if plan.x_label:  # one axis: density, sparsity, exit windows
        helped = where_it_helps(table.outcomes)
        notes += [f"By {plan.x_label}: {sentence}" for sentence in helped]
    return notes
