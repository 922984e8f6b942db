"""The table of a plan as texts, with what its reader must know beneath it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from darlr_jax.runs.comparison import Outcome, where_it_helps, with_matrix
from darlr_jax.runs.fields import in_words, shared_changes
from darlr_jax.runs.formats import to_csv, to_latex
from darlr_jax.runs.plans import Plan
from darlr_jax.runs.published import faults
from darlr_jax.runs.results import to_markdown
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
    notes = brief_notes(plan, outcomes, table, truth)
    return "\n\n".join([to_markdown(brief_table(table)), *notes]) + "\n"


def brief_table(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `brief_text`."""
    brief = table[[name for name in _BRIEF if name in table.columns]].copy()
    for name in _MEANS:
        if name in brief.columns:
            brief[name] = [
                v.value if isinstance(v, Interval) else v for v in brief[name]
            ]
    return brief


def brief_notes(
    plan: Plan, outcomes: Sequence[Outcome], table: pd.DataFrame, truth: str | None
) -> list[str]:
    """What stands beneath `brief_table`; arguments as of `plan_texts`."""
    notes = [f"±: half of Student's interval of 95 %; [ ]: {_BOOTSTRAP}.", _PAIRED]
    return notes + _notes(plan, outcomes, table, truth)


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
