"""How many different items policies recommend, beside what that scores.

Policies learn where items may repeat, as published, and are asked for items that do
not (NX_0), which training hardly has. The share of the items that come up then tells
how far what they recommend is one list for all users.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.results import FinishedRun, last_quarter

BREADTH = "NX_0_CV"  # distinct items of an evaluation / items
_SHARE, _SCORE = "distinct items", "all users"  # as tables call them
_REPEATED = "FB_R_each"  # what an item pays where items may repeat
_EDGES = (0.0, 0.4, 0.6, 0.8, 1.0)
_LEAST = 5  # rows; of fewer a correlation says nothing


def breadth_seeds(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row a seed of a run that learns by A2C from estimates, and may repeat items.

    Runs on the true reward are left out, and those that never repeat an item in
    training: they learn what NX_0 asks for.

    Returns:
      Columns: row, the run's name; tracker, its kind; epochs; and, means over the last
      25 % of them, the share of distinct items, NX_0 R_tra of all users, and what an
      item pays where items may repeat (FB).
    """
    columns = ["row", "tracker", "epochs", _SHARE, _SCORE, "FB R_each"]
    parts = [_seeds(run) for run in runs if _learns_with_repeats(run)]
    return pd.concat(parts) if parts else pd.DataFrame(columns=columns)


def breadth_rows(seeds: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of each run of `breadth_seeds`, by rising share."""
    by_row = seeds.groupby(["row", "tracker", "epochs"], as_index=False).mean()
    return by_row.sort_values(_SHARE)


def breadth_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`breadth_rows` by a few ranges of the share: how many, and their scores."""
    edges = list(_EDGES)
    groups = rows.groupby(pd.cut(rows[_SHARE], edges), observed=True)
    table = groups.agg(
        rows=("row", "size"),
        mean=(_SCORE, "mean"),
        lowest=(_SCORE, "min"),
        highest=(_SCORE, "max"),
        repeats=("FB R_each", "mean"),
    )
    names = [f"{part.left:.1f} to {part.right:.1f}" for part in table.index]
    table.insert(0, _SHARE, names)
    return table.rename(
        columns={
            "mean": _SCORE,
            "lowest": "lowest row",
            "highest": "highest row",
            "repeats": "FB R_each",
        }
    )


def breadth_note(seeds: pd.DataFrame) -> str:
    """Which rows these are, and how closely share and score go together in them.

    Over all, and over those of as many epochs, since both change with the epochs; over
    those with one tracker, which moves both; between rows, and between the seeds of
    one, which differ in nothing but chance.
    """
    rows = breadth_rows(seeds)
    note = (
        "Rows that learn by A2C from estimated rewards and may repeat items in "
        "training. distinct items: share of all items that come up in NX_0; all users: "
        "NX_0 R_tra; FB R_each: what an item pays where items may repeat; means over "
        "seeds and the last 25 % of a row's epochs."
    )
    told = [_correlation(seeds, f"all {len(rows)} rows")]
    told += [
        _correlation(part, f"the {part['row'].nunique()} of {epochs} epochs")
        for epochs, part in seeds.groupby("epochs")
        if part["row"].nunique() < len(rows)
    ]
    if not any(told):
        return note
    return f"{note} Correlation of share and score: {'; '.join(filter(None, told))}."


def _correlation(seeds: pd.DataFrame, which: str) -> str:
    """Of the rows of some seeds, and what else is told of it; nothing of too few."""
    rows = breadth_rows(seeds)
    if len(rows) < _LEAST:
        return ""
    by_row = seeds.groupby("row")[[_SHARE, _SCORE]]
    more = {
        "ranks": rows[[_SHARE, _SCORE]].rank(),
        "between the seeds of a row": by_row.transform(lambda x: x - x.mean()),
    } | {
        f"the {len(part)} with the {kind} tracker": part
        for kind, part in rows.groupby("tracker")
        if _LEAST <= len(part) < len(rows)
    }
    told = (f"{name} {_of(table):.2f}" for name, table in more.items())
    return f"{which} {_of(rows):.2f} ({', '.join(told)})"


def _of(table: pd.DataFrame) -> float:
    """Pearson's correlation of share and score."""
    return float(table[_SHARE].corr(table[_SCORE]))


def _learns_with_repeats(run: FinishedRun) -> bool:
    config = run.config
    return (
        config.learner == "a2c"
        and config.reward.estimate != "true"
        and not config.recommender.mask_used_items
        and {BREADTH, ALL_USERS} <= set(run.metrics.columns)
    )


def _seeds(run: FinishedRun) -> pd.DataFrame:
    columns = {_SHARE: BREADTH, _SCORE: ALL_USERS, "FB R_each": _REPEATED}
    means = {
        title: last_quarter(run.metrics, name).to_numpy()
        for title, name in columns.items()
    }
    epochs, tracker = int(run.metrics["epoch"].max()), run.config.tracker.kind
    return pd.DataFrame(
        {"row": run.name, "tracker": tracker, "epochs": epochs, **means}
    )
