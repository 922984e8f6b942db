"""How many different items policies recommend, beside what that scores.

Policies learn where items may repeat, as published, and are asked for items that do
not (NX_0), which training hardly has. The share of the items that come up then tells
how far what they recommend is one list for all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.results import FinishedRun, last_quarter

BREADTH = "NX_0_CV"  # distinct items of an evaluation / items
_REPEATED = "FB_R_each"  # what an item pays where items may repeat
_EDGES = (0.0, 0.4, 0.6, 0.8, 1.0)
_LEAST = 5  # rows; of fewer a correlation says nothing


def breadth_rows(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row a run that learns by A2C from estimates, and may repeat items.

    Runs on the true reward are left out, and those that never repeat an item in
    training: they learn what NX_0 asks for.

    Returns:
      Columns: row; epochs; and, means over seeds and the last 25 % of the epochs, the
      share of distinct items, NX_0 R_tra of all users, and what an item pays where
      items may repeat (FB). By rising share.
    """
    rows = [_row(run) for run in runs if _learns_with_repeats(run)]
    columns = ["row", "epochs", "distinct items", "all users", "FB R_each"]
    return pd.DataFrame(rows, columns=columns).sort_values("distinct items")


def breadth_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`breadth_rows` by a few ranges of the share: how many, and their scores."""
    edges = list(_EDGES)
    groups = rows.groupby(pd.cut(rows["distinct items"], edges), observed=True)
    table = groups.agg(
        rows=("row", "size"),
        mean=("all users", "mean"),
        lowest=("all users", "min"),
        highest=("all users", "max"),
        repeats=("FB R_each", "mean"),
    )
    names = [f"{part.left:.1f} to {part.right:.1f}" for part in table.index]
    table.insert(0, "distinct items", names)
    return table.rename(
        columns={
            "mean": "all users",
            "lowest": "lowest row",
            "highest": "highest row",
            "repeats": "FB R_each",
        }
    )


def breadth_note(rows: pd.DataFrame) -> str:
    """Which rows these are, and how closely share and score go together in them.

    Over all, and over those of as many epochs, since both change with the epochs.
    """
    note = (
        "Rows that learn by A2C from estimated rewards and may repeat items in "
        "training. distinct items: share of all items that come up in NX_0; all users: "
        "NX_0 R_tra; FB R_each: what an item pays where items may repeat; means over "
        "seeds and the last 25 % of a row's epochs."
    )
    told = [_correlation(rows, f"all {len(rows)} rows")]
    told += [
        _correlation(part, f"the {len(part)} of {epochs} epochs")
        for epochs, part in rows.groupby("epochs")
        if len(part) < len(rows)
    ]
    if not any(told):
        return note
    return f"{note} Correlation of share and score: {'; '.join(filter(None, told))}."


def _correlation(rows: pd.DataFrame, which: str) -> str:
    """Of some rows, and that of their ranks; nothing of too few."""
    if len(rows) < _LEAST:
        return ""
    share, score = rows["distinct items"], rows["all users"]
    ranks = share.rank().corr(score.rank())
    return f"{which} {share.corr(score):.2f} (ranks {ranks:.2f})"


def _learns_with_repeats(run: FinishedRun) -> bool:
    config = run.config
    return (
        config.learner == "a2c"
        and config.reward.estimate != "true"
        and not config.recommender.mask_used_items
        and {BREADTH, ALL_USERS} <= set(run.metrics.columns)
    )


def _row(run: FinishedRun) -> tuple[Any, ...]:
    columns = (BREADTH, ALL_USERS, _REPEATED)
    means = [float(last_quarter(run.metrics, name).mean()) for name in columns]
    return run.name, int(run.metrics["epoch"].max()), *means
