"""Curves of a run, from its metrics.csv to its curves.png; and what all pictures share.

The one module that knows matplotlib, which is an optional extra.
"""

from __future__ import annotations

import fnmatch
import io
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

import pandas as pd
from absl import logging

from darlr_jax.files import replacing
from darlr_jax.runs.directory import RunDirectory
from darlr_jax.runs.results import MODES, load_metrics

_COORDINATES = r' (?:d|x|y|x1|x2|y1|y2|transform|points)="[^"]*"'  # of elements of SVG


class _Panel(NamedTuple):
    """Patterns of column names, drawn against the left and the right axis."""

    title: str
    left_label: str
    left: tuple[str, ...]
    right_label: str = ""
    right: tuple[str, ...] = ()


_PANELS = (
    _Panel("Losses", "loss", ("*_loss",)),
    _Panel(
        "What the recommender is paid", "reward a step", ("estimate", "shaped_reward"),
        "reward a step", ("penalty", "entropy_bonus"),
    ),
    _Panel("Entropy of the policies", "nats", ("*_entropy",)),
    _Panel(
        "Reference users", "gain a pick", ("similarity", "diversity"),
        "reward a step", ("inflation",),
    ),
    _Panel("Who is picked", "users", ("effective_users*",), "share", ("*overlap*",)),
)  # fmt: skip


def plot_curves(run_dir: str | os.PathLike[str]) -> pathlib.Path | None:
    """Draws the curves of a run: the score, and a panel a group of other metrics.

    A panel whose columns the run has not got is left out.

    Returns:
      The file curves.png; None, with a warning, where matplotlib is not installed.

    Raises:
      RunError: metrics.csv is missing or malformed.
    """
    run = RunDirectory(run_dir)
    metrics = load_metrics(run_dir)
    names = _training_columns(metrics)
    panels = [panel for panel in _PANELS if _matching(names, panel.left + panel.right)]
    rows = math.ceil((1 + len(panels)) / 3)
    columns = min(3, 1 + len(panels))
    figure = new_figure(5.2 * columns, 3.8 * rows, str(run.curves))
    if figure is None:
        return None
    axes = figure.subplots(rows, columns, squeeze=False).flat
    _draw_score(next(axes), metrics)
    for panel in panels:
        _draw_panel(next(axes), metrics, panel, names)
    for unused in axes:
        unused.remove()
    figure.suptitle(str(run.path))
    save_png(figure, run.curves)
    return run.curves


def installed() -> bool:
    """Whether there is a matplotlib to draw with."""
    return _figure_class() is not None


def new_figure(width: float, height: float, name: str) -> Any | None:
    """An empty figure of so many inches.

    None, with a warning that `name` is not drawn, where matplotlib is not installed.
    """
    figure = _figure_class()
    if figure is None:
        logging.warning(
            "%s is not drawn: matplotlib is missing (pip install 'darlr_jax[plots]')",
            name,
        )
        return None
    return figure(figsize=(width, height), layout="constrained")


def save_png(figure: Any, path: pathlib.Path) -> None:
    """Writes `figure` in place of `path`."""
    _mark_single_points(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def to_svg(figure: Any, name: str) -> str:
    """`figure` as an `<svg>` element to stand in a page, with text as text.

    Its ids begin with `name`, so that no two pictures of a page share one.
    """
    import matplotlib

    _mark_single_points(figure)
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        io.StringIO() as stream,
    ):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
    text = text[text.index("<svg") :]
    # A tenth of a point is fine enough for lines; numbers that are read stay whole.
    text = re.sub(
        _COORDINATES, lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text
    )
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)


def _figure_class() -> Any | None:
    try:
        from matplotlib.figure import Figure  # no pyplot: it holds state of the process
    except ImportError:
        return None
    return Figure


def _mark_single_points(figure: Any) -> None:
    """A line of one point, as after one epoch, cannot be seen without a marker."""
    for axis in figure.axes:
        for line in axis.lines:
            if len(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set_marker("o")


def _training_columns(metrics: pd.DataFrame) -> list[str]:
    """The columns that are neither bookkeeping nor metrics of an evaluation mode."""
    prefixes = tuple(f"{mode}_" for mode in MODES)
    return [name for name in metrics.columns if not name.startswith(prefixes)]


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [
        name
        for name in names
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _draw_score(axis: Any, metrics: pd.DataFrame) -> None:
    """NX_0 R_tra: each seed thin, their mean thick, all users dashed."""
    score = metrics.pivot(index="epoch", columns="seed", values="NX_0_R_tra")
    for position, seed in enumerate(score.columns):
        label = "each seed, users drawn" if position == 0 else None
        axis.plot(score.index, score[seed], color="C0", alpha=0.35, lw=0.8, label=label)
    axis.plot(score.index, score.mean(axis=1), color="C0", lw=2, label="mean of seeds")
    if "NX_0_all_users_R_tra" in metrics.columns:
        everyone = metrics.groupby("epoch")["NX_0_all_users_R_tra"].mean()
        axis.plot(
            *(everyone.index, everyone),
            **{"color": "C1", "lw": 1.5, "ls": "--", "label": "all users, mean"},
        )
    _finish(axis, "NX_0: reward of an episode", "R_tra (true reward, summed)")


def _draw_panel(
    axis: Any, metrics: pd.DataFrame, panel: _Panel, names: list[str]
) -> None:
    means = metrics.groupby("epoch")[names].mean()
    left, right = _matching(names, panel.left), _matching(names, panel.right)
    for position, name in enumerate(left):
        axis.plot(means.index, means[name], color=f"C{position}", label=name)
    handles = axis.get_lines()
    if right:
        other = axis.twinx()
        for position, name in enumerate(right, start=len(left)):
            other.plot(
                means.index, means[name], color=f"C{position}", ls=":", label=name
            )
        other.set_ylabel(f"{panel.right_label} (dotted)")
        handles = [*handles, *other.get_lines()]
    _finish(axis, panel.title, panel.left_label, handles)


def _finish(axis: Any, title: str, label: str, handles: Any = None) -> None:
    axis.set_title(title)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend(handles=handles, fontsize="small")
