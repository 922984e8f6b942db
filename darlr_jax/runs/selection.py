"""Which candidate is best by what is held out: means and differences over splits."""

from __future__ import annotations

import math

import pandas as pd

KEYS = ("candidate", "epochs", "split")  # of a row of scores; the rest are criteria


def summarise(
    scores: pd.DataFrame, criterion: str, reference: tuple[str, int]
) -> pd.DataFrame:
    """Means over splits, the best candidate first.

    Args:
      scores: a row a candidate, number of epochs and split; `KEYS` and the criteria.
      criterion: the one that decides; the larger the better.
      reference: candidate and epochs that the others are compared with, split by split.

    Returns:
      A row a candidate and number of epochs: `candidate`, `epochs`; `criterion`, "±"
      (standard error over splits), "difference" (mean of the differences from the
      reference, its own "± " beside it); then the means of the other criteria. The
      standard errors take splits for independent, which overlap: they are too small.

    Raises:
      ValueError: a candidate or the reference was not scored on every split.
    """
    table = scores.set_index(list(KEYS))[criterion].unstack("split")
    if table.isna().any(axis=None) or reference not in table.index:
        raise ValueError("every candidate must be scored on every split")
    difference = table - table.loc[reference]
    count = math.sqrt(table.shape[1])
    summary = pd.DataFrame(
        {
            criterion: table.mean(axis=1),
            "±": table.std(axis=1) / count,
            "difference": difference.mean(axis=1),
            "± ": difference.std(axis=1) / count,
        }
    )
    others = [name for name in scores if name not in (*KEYS, criterion)]
    means = scores.groupby(["candidate", "epochs"])[others].mean()
    summary = summary.join(means).reset_index()
    return summary.sort_values(criterion, ascending=False, ignore_index=True)


def best_schedules(summary: pd.DataFrame, keep: tuple[str, int]) -> pd.DataFrame:
    """Of each candidate the best number of epochs, and the row `keep` of `summary`."""
    kept = (summary["candidate"] == keep[0]) & (summary["epochs"] == keep[1])
    return summary[~summary.duplicated("candidate") | kept].reset_index(drop=True)
