"""What a run's metrics look like: a panel a question, in a picture and on a page."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.runs import plots
from darlr_jax.runs.columns import ALL_USERS, SCORE
from darlr_jax.runs.directory import RunDirectory
from darlr_jax.runs.figures import (
    COLOURS,
    draw_band,
    finish,
    legend,
    seed_curves,
    whole_epochs,
)
from darlr_jax.runs.results import load_metrics

_COLUMNS = 3  # of panels in curves.png


class Panel(NamedTuple):
    """Columns against the left and the right axis, and how to read them."""

    title: str
    reading: str
    left: tuple[str, ...]
    right: tuple[str, ...] = ()
    logarithmic: bool = False
    is_share: bool = False  # of a whole: the axis is that of 0 to 1

    def columns(self, metrics: pd.DataFrame) -> list[str]:
        """Those against the left axis that `metrics` has; without any, no panel."""
        return [name for name in self.left if name in metrics.columns]


PANELS = (
    Panel(
        "Length and penalty",
        "Premature termination: sessions that get shorter while the penalty grows.",
        ("NX_0_len_tra", "FB_len_tra"),
        ("penalty",),
    ),
    Panel(
        "Inflation and true score",
        "Reward hacking: inflation, how far the references' estimate lies above the "
        "user's own, grows and the true score does not.",
        ("inflation",),
        (ALL_USERS,),
    ),
    Panel(
        "Intrinsic reward and true error",
        "Reward hacking: what the selector is paid rises and the error of the "
        "estimates at visited cells (against the true matrix; analysis) does not fall.",
        ("intrinsic_reward",),
        ("visited_error",),
    ),
    Panel(
        "What is paid",
        "The estimate of a step, and the reward after penalty, bonus and shift.",
        ("estimate", "shaped_reward"),
        ("entropy_bonus",),
    ),
    Panel(
        "Critics",
        "Value losses, logarithmic: a critic that diverges rises here.",
        ("recommender_value_loss", "selector_value_loss"),
        logarithmic=True,
    ),
    Panel(
        "What the critics foresee",
        "Share of the returns' variance that the values explain. Near zero advantages "
        "are noise: states do not tell how much of an episode is left.",
        ("recommender_explained_variance", "selector_explained_variance"),
        is_share=True,
    ),
    Panel(
        "Entropy of the policies",
        "Nats. Near zero a policy has stopped trying anything else.",
        ("recommender_entropy", "selector_entropy"),
    ),
    Panel(
        "Whom the selector picks",
        "Effective number of users picked, and the share of the picks that are among "
        "the k nearest users (by chance it is K_sel / (users - 1)).",
        ("effective_users_picked",),
        ("knn_overlap",),
    ),
    Panel(
        "Gains of the picks",
        "Similarity to the user and diversity among the picks, before their weights.",
        ("similarity",),
        ("diversity",),
    ),
    Panel(
        "Dynamic uncertainty",
        "P'_U on first and on repeated visits of a cell, logarithmic.",
        ("uncertainty_first", "uncertainty_repeat"),
        logarithmic=True,
    ),
    Panel(
        "Policy losses",
        "Of both agents. Their size says little, a jump is worth a look.",
        ("recommender_policy_loss", "selector_policy_loss"),
    ),
    Panel(
        "Loss",
        "Of learners from the log alone.",
        ("loss",),
    ),
    Panel(
        "World model",
        "Of bandits, which train it between evaluations.",
        ("world_model_loss",),
        ("held_out_mse",),
    ),
)
FIT = Panel(
    "Error by epoch of the fit",
    "On held-out feedback; epoch 0 is before fitting.",
    ("held_out_mse", "held_out_mae"),
    ("held_out_pair_accuracy",),
)

_NAMES = {
    "NX_0_len_tra": "length, NX_0",
    "FB_len_tra": "length, FB",
    ALL_USERS: "R_tra, all users",
    "knn_overlap": "share among the nearest",
    "visited_error": "mean absolute error",
    "uncertainty_first": "first visits",
    "uncertainty_repeat": "repeated visits",
    "held_out_mse": "mean squared error",
    "held_out_mae": "mean absolute error",
    "held_out_pair_accuracy": "pairs ranked rightly",
}


def plot_curves(run_dir: str | os.PathLike[str]) -> pathlib.Path | None:
    """Draws the score of a run, and every panel whose columns it has.

    Returns:
      The file curves.png; None, with a warning, where matplotlib is not installed.

    Raises:
      RunError: metrics.csv is missing or malformed.
    """
    run, metrics = RunDirectory(run_dir), load_metrics(run_dir)
    panels = [panel for panel in PANELS if panel.columns(metrics)]
    rows = math.ceil((1 + len(panels)) / _COLUMNS)
    figure = plots.new_figure(5.2 * _COLUMNS, 3.8 * rows, str(run.curves))
    if figure is None:
        return None
    first, *others = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    draw_score(first, metrics)
    legend(first)
    for axis, panel in zip(others, panels, strict=False):
        draw_panel(axis, panel, metrics)
        if len(panel.columns(metrics)) > 1:
            legend(axis)
    for unused in others[len(panels) :]:
        unused.remove()
    figure.suptitle(str(run.path))
    plots.save_png(figure, run.curves)
    return run.curves


def draw_score(axis: Any, metrics: pd.DataFrame) -> None:
    """NX_0 R_tra of the users drawn and of all users, without a legend."""
    whole_epochs(axis)
    draw_band(axis, seed_curves(metrics, SCORE), "users drawn", COLOURS[5])
    if ALL_USERS in metrics.columns:
        draw_band(axis, seed_curves(metrics, ALL_USERS), "all users", COLOURS[0])
    finish(axis, "True reward of an episode", "epoch", "R_tra, NX_0")


def draw_panel(axis: Any, panel: Panel, metrics: pd.DataFrame) -> None:
    """The columns of a panel that `metrics` has, without a legend."""
    left = panel.columns(metrics)
    right = [name for name in panel.right if name in metrics.columns]
    # Whoever is her own only reference has no P'_U anywhere: zeros have no logarithm.
    logarithmic = panel.logarithmic and bool((metrics[left] > 0).any(axis=None))
    for number, name in enumerate(left):
        curves = seed_curves(metrics, name)
        if logarithmic:  # P'_U is 0 in an epoch without first visits
            curves = curves.where(curves > 0)
        style = "--" if number else "-"  # lines that lie on each other are seen
        draw_band(axis, curves, _words(name), COLOURS[number], ls=style)
    whole_epochs(axis)
    finish(axis, panel.title, "epoch", _words(left[0]) if len(left) == 1 else "")
    if logarithmic:
        axis.set_yscale("log")
    if panel.is_share:
        low, high = axis.get_ylim()
        axis.set_ylim(min(0.0, low), max(1.0, high))
    if right:
        other = axis.twinx()
        for number, name in enumerate(right, start=len(left)):
            draw_band(other, seed_curves(metrics, name), _words(name), COLOURS[number])
        other.set_ylabel(_words(right[0]), color=COLOURS[len(left)])
        other.spines["top"].set_visible(False)


def _words(column: str) -> str:
    """The name of a column as a label of a picture."""
    return _NAMES.get(column, column.replace("_", " "))
