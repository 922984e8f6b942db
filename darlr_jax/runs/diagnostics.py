"""What tends to go wrong in a run, read from its metrics and said in words.

The thresholds are ours: an alarm is a reason to look at the picture, not a verdict. A
quarter is a quarter of the epochs, at least one of them; numbers are means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from darlr_jax.runs.results import ALL_USERS, SCORE

_SHORTER = 0.8  # of the longest quarter: sessions end early
_DIVERGED = 10.0  # times the best quarter: the critic's loss
_COLLAPSED = 0.05  # of the first epoch's entropy
_INFLATED = 2.0  # times the first quarter's inflation


class Finding(NamedTuple):
    """The answer to one question."""

    name: str
    alarm: bool
    text: str  # with the numbers that it stands on


def diagnose(metrics: pd.DataFrame) -> list[Finding]:
    """The answers for a run, of the questions that its columns can answer."""
    means = metrics.groupby("epoch").mean(numeric_only=True)
    checks: tuple[Callable[[pd.DataFrame], Finding | None], ...] = (
        *(_premature_termination, _reward_hacking),
        *(_critic("recommender"), _critic("selector")),
        *(_entropy("recommender"), _entropy("selector")),
    )
    return [finding for check in checks if (finding := check(means)) is not None]


def _premature_termination(means: pd.DataFrame) -> Finding | None:
    if not {"NX_0_len_tra", "penalty"} <= set(means.columns):
        return None
    length = _quarters(means["NX_0_len_tra"])
    penalty = _quarters(means["penalty"])
    shorter = length[-1] < _SHORTER * max(length)
    return Finding(
        "premature termination",
        shorter and penalty[-1] > penalty[0],
        f"episodes last {length[-1]:.1f} turns at the end, {max(length):.1f} at best; "
        f"the penalty went from {penalty[0]:.3g} to {penalty[-1]:.3g}",
    )


def _reward_hacking(means: pd.DataFrame) -> Finding | None:
    """The estimate of the references rises above the own one, the true score not."""
    if "inflation" not in means.columns:
        return None
    score = _quarters(means[ALL_USERS if ALL_USERS in means.columns else SCORE])
    inflation = _quarters(means["inflation"])
    grown = inflation[-1] > 0 and inflation[-1] > _INFLATED * abs(inflation[0])
    return Finding(
        "reward hacking by the selector",
        grown and score[-1] <= score[0],
        f"references answer {inflation[-1]:+.3g} above the user's own estimate at the "
        f"end, {inflation[0]:+.3g} in the first quarter; the true score went from "
        f"{score[0]:.2f} to {score[-1]:.2f}",
    )


def _critic(agent: str) -> Callable[[pd.DataFrame], Finding | None]:
    def check(means: pd.DataFrame) -> Finding | None:
        column = f"{agent}_value_loss"
        if column not in means.columns:
            return None
        loss = _quarters(means[column])
        return Finding(
            f"divergence of the {agent}'s critic",
            not math.isfinite(loss[-1]) or loss[-1] > _DIVERGED * min(loss),
            f"value loss {loss[-1]:.3g} at the end, {min(loss):.3g} at its best",
        )

    return check


def _entropy(agent: str) -> Callable[[pd.DataFrame], Finding | None]:
    def check(means: pd.DataFrame) -> Finding | None:
        column = f"{agent}_entropy"
        if column not in means.columns:
            return None
        first, last = float(means[column].iloc[0]), _quarters(means[column])[-1]
        return Finding(
            f"collapse of the {agent}'s entropy",
            last < _COLLAPSED * first,
            f"{last:.3g} nats at the end, {first:.3g} in the first epoch",
        )

    return check


def _quarters(values: pd.Series) -> list[float]:
    """The mean of each quarter of the epochs; of fewer than four, each epoch."""
    size = math.ceil(len(values) / 4)
    parts = [values.iloc[i : i + size] for i in range(0, len(values), size)]
    return [float(part.mean()) for part in parts]
