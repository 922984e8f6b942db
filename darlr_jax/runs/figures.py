"""Pictures of a plan: scores, learning curves, lines over a parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from darlr_jax.runs import plots
from darlr_jax.runs.columns import ALL_USERS, SCORE
from darlr_jax.runs.comparison import (
    Outcome,
    Pair,
    against_its_pair,
    interval,
    paired,
    users_compared,
)
from darlr_jax.runs.plans import Plan
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import epoch_mean, published_score

# Okabe and Ito's, which colour-blind readers can tell apart.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#999999"),
)
_FEW = 5  # rows whose bands and published curves can still be told apart
_COLUMNS = 5  # of panels, where each row has its own,
_POINTS = 40  # and of a curve there, at most: panels are small, pages have many
_SCORE_LABEL = "NX_0 R_tra, mean over epochs"


def draw_plan(
    plan: Plan, outcomes: Sequence[Outcome], published: PublishedScores, name: str
) -> Any | None:
    """The picture of a plan's finished rows; None without any, or without matplotlib.

    Args:
      plan: says which kind of picture.
      outcomes: the rows; those that have not finished are left out of the picture.
      published: what is drawn beside them.
      name: of the file, for a warning.
    """
    finished = [outcome for outcome in outcomes if outcome.metrics is not None]
    if not finished:
        return None
    draw = {"scores": _draw_scores, "curves": _draw_curves, "lines": _draw_lines}
    return draw[plan.figure](plan, finished, published, name)


def seed_curves(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row an epoch, one column a seed."""
    return metrics.pivot(index="epoch", columns="seed", values=column)


def draw_band(
    axis: Any, curves: pd.DataFrame, label: str, colour: str, **line: Any
) -> None:
    """The mean over seeds, and the range that the seeds span.

    Args:
      axis: of matplotlib.
      curves: one row an epoch, one column a seed.
      label: for the legend.
      colour: of line and band.
      **line: further properties of the line.
    """
    if curves.shape[1] > 1:
        low, high = curves.min(axis=1), curves.max(axis=1)
        axis.fill_between(curves.index, low, high, color=colour, alpha=0.18, lw=0)
    draw_mean(axis, curves, label, colour, **line)


def draw_mean(
    axis: Any, curves: pd.DataFrame, label: str, colour: str, **line: Any
) -> None:
    """The mean over seeds alone; arguments as `draw_band`."""
    look = {"color": colour, "lw": 1.6, "label": label} | line
    axis.plot(curves.index, curves.mean(axis=1), **look)


def draw_published_curve(
    axis: Any, curve: pd.Series, label: str, colour: str, **line: Any
) -> None:
    """A published log, of 100 drawn users an epoch, as a moving mean of 11 epochs."""
    smooth = curve.rolling(11, center=True, min_periods=1).mean()
    axis.plot(smooth.index, smooth, color=colour, ls=":", label=label, **line)


def finish(axis: Any, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, a light grid, and no frame where nothing is read."""
    axis.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def whole_epochs(axis: Any) -> None:
    """Ticks at whole epochs alone, also where there is but one."""
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def legend(axis: Any) -> None:
    """A legend without a frame, where there is anything to tell apart."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small", frameon=False)


def legend_beneath(figure: Any, axis: Any, columns: int = 5) -> None:
    """The legend of one panel, beneath all of them."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        place = {"loc": "outside lower center", "ncols": min(columns, len(handles))}
        figure.legend(handles, labels, fontsize="small", frameon=False, **place)


# --- scores ---------------------------------------------------------------------------


def _draw_scores(
    plan: Plan, outcomes: Sequence[Outcome], published: PublishedScores, name: str
) -> Any | None:
    """A line a row: mean and interval over seeds, and the published score.

    Beside them the differences to the rows of "against", over the epochs that both
    have: rows with fewer epochs than others cannot be compared by their means.
    """
    pairs = _pairs_of(outcomes)
    figure = plots.new_figure(12.0 if pairs else 8.0, 1.2 + 0.32 * len(outcomes), name)
    if figure is None:
        return None
    axis, *beside_it = figure.subplots(
        1, 2 if pairs else 1, sharey=True, squeeze=False
    )[0]
    for place, outcome in enumerate(outcomes):
        assert outcome.metrics is not None
        scores = published_score(outcome.metrics)
        label = "ours: each seed" if place == 0 else None
        axis.plot(scores, [place] * len(scores), "o", color=COLOURS[0], alpha=0.35,
                  ms=4, lw=0, label=label)  # fmt: skip
        label = "ours: mean, 95 % bootstrap interval" if place == 0 else None
        _error_bar(axis, interval(scores), place, label)
    beside = [outcome.in_print(published) for outcome in outcomes]
    label = "published (one seed)" if np.isfinite(beside).any() else None
    hollow = {"mfc": "white", "mec": COLOURS[1], "ms": 6}
    axis.plot(beside, range(len(outcomes)), "D", label=label, **hollow)
    axis.set_yticks(range(len(outcomes)), _names_and_epochs(outcomes))
    axis.set_ylim(len(outcomes) - 0.5, -0.5)  # the first row is the uppermost
    finish(axis, plan.title, _SCORE_LABEL, "")
    for right in beside_it:
        _draw_pairs(right, outcomes, pairs)
    legend_beneath(figure, axis)
    return figure


def _pairs_of(outcomes: Sequence[Outcome]) -> dict[str, Pair]:
    """Row -> its difference to the row of "against", where both are there."""
    metrics = {o.row.name: o.metrics for o in outcomes if o.metrics is not None}
    pairs = {o.row.name: against_its_pair(o.row, metrics) for o in outcomes}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _names_and_epochs(outcomes: Sequence[Outcome]) -> list[str]:
    """What rows are called; beside it their epochs, where not all have as many."""
    epochs = [int(o.metrics["epoch"].max()) for o in outcomes if o.metrics is not None]
    if len(set(epochs)) == 1:
        return [outcome.row.name for outcome in outcomes]
    return [
        f"{outcome.row.name}, {count} epochs"
        for outcome, count in zip(outcomes, epochs, strict=True)
    ]


def _draw_pairs(
    axis: Any, outcomes: Sequence[Outcome], pairs: Mapping[str, Pair]
) -> None:
    """The differences, each at its row, beside the line where there is none."""
    for place, outcome in enumerate(outcomes):
        pair = pairs.get(outcome.row.name)
        if pair is not None:
            differences = list(pair.differences.values())
            axis.plot(differences, [place] * len(differences), "o", ms=4, lw=0,
                      color=COLOURS[0], alpha=0.35)  # fmt: skip
            _error_bar(axis, pair.difference, place, None)
    axis.axvline(0, color="black", lw=0.8)
    others = dict.fromkeys(o.row.against for o in outcomes if o.row.name in pairs)
    title = f"Less {', '.join(map(str, others))}, paired by seed"
    finish(axis, title, "difference in R_tra, over common epochs", "")
    axis.tick_params(left=False)


def _error_bar(axis: Any, score: Any, place: float, label: str | None) -> None:
    if not math.isnan(score.low):
        axis.hlines(place, score.low, score.high, color=COLOURS[0], lw=2)
    axis.plot(
        [score.value], [place], "|", color=COLOURS[0], ms=12, mew=2.5, label=label
    )


# --- learning curves ------------------------------------------------------------------


def can_share_axes(rows: int) -> bool:
    """Whether so many curves can be told apart; otherwise each has its own panel."""
    return rows <= len(COLOURS)


def _draw_curves(
    plan: Plan, outcomes: Sequence[Outcome], published: PublishedScores, name: str
) -> Any | None:
    columns = [m.columns for o in outcomes if (m := o.metrics) is not None]
    column = ALL_USERS if all(ALL_USERS in names for names in columns) else SCORE
    draw = _draw_together if can_share_axes(len(outcomes)) else _draw_each
    return draw(plan, outcomes, published, name, column)


def _draw_together(
    plan: Plan,
    outcomes: Sequence[Outcome],
    published: PublishedScores,
    name: str,
    column: str,
) -> Any | None:
    """Curves of the rows, and beside them their differences to the row of "against".

    These are left out where rows were chosen and no such row is among them.
    """
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    others = dict.fromkeys(o for r in outcomes if (o := r.row.against) in by_name)
    figure = plots.new_figure(13.0 if others else 7.0, 5.0, name)
    if figure is None:
        return None
    left, *right = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    few = len(outcomes) <= _FEW
    draw = draw_band if few else draw_mean
    for place, outcome in enumerate(outcomes):
        assert outcome.metrics is not None
        colour, curves = COLOURS[place], seed_curves(outcome.metrics, column)
        draw(left, curves, outcome.row.name, colour)
        if few:
            _draw_curve_in_print(left, outcome, published, colour)
        other = by_name.get(outcome.row.against or "")
        if other is not None and other.metrics is not None:
            difference = curves - seed_curves(other.metrics, column)
            difference = difference.dropna(axis=1, how="all").dropna()
            draw(right[0], difference, outcome.row.name, colour)
    shown = "mean and range of seeds" if few else "means over seeds"
    finish(left, f"{plan.title}: {shown}", "epoch", _curve_label(column))
    whole_epochs(left)
    for axis in right:
        whole_epochs(axis)
        title = f"Less {', '.join(map(str, others))}, paired by seed"
        finish(axis, title, "epoch", "difference in R_tra")
        axis.axhline(0, color="black", lw=0.8)
    legend_beneath(figure, left)
    return figure


def _draw_each(
    plan: Plan,
    outcomes: Sequence[Outcome],
    published: PublishedScores,
    name: str,
    column: str,
) -> Any | None:
    """A panel a row: its curve, and in black that of the row of "against"."""
    lines = math.ceil(len(outcomes) / _COLUMNS)
    figure = plots.new_figure(13.0, 0.9 + 2.0 * lines, name)
    if figure is None:
        return None
    axes = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    curves = _coarse_curves(outcomes, column)
    for axis, outcome in zip(axes.flat, outcomes, strict=False):  # some stay empty
        row, pair = outcome.row.name, outcome.row.against or ""
        if pair in curves:
            draw_mean(axis, curves[pair], pair, "black", lw=0.8)
        draw_band(axis, curves[row], row, COLOURS[0])
        _draw_curve_in_print(axis, outcome, published, COLOURS[1])
        finish(axis, "", "", "")
        whole_epochs(axis)
        axis.set_title(row, loc="left", fontsize="small" if len(row) < 24 else 6.5)
    for unused in axes.flat[len(outcomes) :]:
        unused.remove()
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel(_curve_label(column), fontsize="medium")
    return figure


def _coarse_curves(outcomes: Sequence[Outcome], column: str) -> dict[str, pd.DataFrame]:
    """Row -> its curves by blocks of epochs: their means, at their last epochs.

    Blocks are as long as leave `_POINTS` to the longest row.
    """
    curves = {
        outcome.row.name: seed_curves(outcome.metrics, column)
        for outcome in outcomes
        if outcome.metrics is not None
    }
    size = math.ceil(max(map(len, curves.values())) / _POINTS)
    return {
        name: table.groupby((table.index - 1) // size * size + size).mean()
        for name, table in curves.items()
    }


def _curve_label(column: str) -> str:
    return f"R_tra, {'all users' if column == ALL_USERS else 'users drawn'}"


def _draw_curve_in_print(
    axis: Any,
    outcome: Outcome,
    published: PublishedScores,
    colour: str,
) -> None:
    """What was published of a row, if its curve was."""
    method = outcome.row.published_as
    curve = published.curve(method, outcome.config, outcome.truth)
    if curve is not None:
        label = f"{method}, published (moving mean)"
        draw_published_curve(axis, curve, label, colour, lw=1)


# --- lines over a parameter -----------------------------------------------------------


def _draw_lines(
    plan: Plan, outcomes: Sequence[Outcome], published: PublishedScores, name: str
) -> Any | None:
    """A panel a parameter; beneath it, the paired difference where rows have a pair.

    Values stand at equal distances: their ranges span several powers of ten, and 0.
    """
    drawn = [outcome for outcome in outcomes if outcome.row.x is not None]
    panels = list(dict.fromkeys(outcome.row.panel for outcome in drawn))
    if not panels:
        return None
    figure = plots.new_figure(4.6 * len(panels) + 1.5 * (len(panels) == 1), 7.0, name)
    if figure is None:
        return None
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        chosen = [outcome for outcome in drawn if outcome.row.panel == panel]
        ticks = sorted({float(o.row.x) for o in chosen if o.row.x is not None})
        places = {x: place for place, x in enumerate(ticks)}
        upper, lower = axes[0, column], axes[1, column]
        _draw_series(upper, chosen, places, _score_interval)
        _draw_published_points(upper, chosen, places, published)
        _draw_series(lower, chosen, places, _difference_to(outcomes))
        for axis in (upper, lower):
            axis.set_xticks(range(len(ticks)), [f"{x:g}" for x in ticks])
        x_label = plan.x_label or panel
        finish(upper, plan.title if column == 0 else "", x_label, _SCORE_LABEL)
        users = users_compared(outcome.metrics for outcome in outcomes)
        title = f"Paired difference, {users}" if column == 0 else ""
        finish(lower, title, x_label, "difference in R_tra")
        lower.axhline(0, color="black", lw=0.8)
    legend_beneath(figure, axes[0, 0])
    return figure


def _draw_series(
    axis: Any,
    outcomes: Sequence[Outcome],
    places: dict[float, int],
    value_of: Any,
) -> None:
    """Means with bars, a line for each series; `value_of` gives an Interval or None."""
    series = list(dict.fromkeys(outcome.row.series for outcome in outcomes))
    for number, name in enumerate(series):
        points = [
            (places[o.row.x], value)
            for o in outcomes
            if o.row.series == name
            and o.row.x is not None
            and (value := value_of(o)) is not None
        ]
        if not points:
            continue
        shift = 0.06 * (number - (len(series) - 1) / 2)  # bars beside each other
        x = np.array([place for place, _ in points]) + shift
        value, low, high = (np.array([p[1][i] for p in points]) for i in range(3))
        bars = np.nan_to_num(np.stack([value - low, high - value]))
        axis.errorbar(x, value, np.maximum(bars, 0), fmt="o-", ms=4, lw=1.4, capsize=2,
                      color=COLOURS[number % len(COLOURS)], label=name)  # fmt: skip


def _score_interval(outcome: Outcome) -> Any:
    assert outcome.metrics is not None
    return interval(epoch_mean(outcome.metrics, SCORE))


def _difference_to(outcomes: Sequence[Outcome]) -> Any:
    """Outcome -> its paired difference, None where there is nothing to pair with."""
    by_name = {outcome.row.name: outcome for outcome in outcomes}

    def difference(outcome: Outcome) -> Any:
        other = by_name.get(outcome.row.against or "")
        if other is None or other.metrics is None or outcome.metrics is None:
            return None
        pair = paired(outcome.metrics, other.metrics)
        return None if pair is None else pair.difference

    return difference


def _draw_published_points(
    axis: Any,
    outcomes: Sequence[Outcome],
    places: dict[float, int],
    published: PublishedScores,
) -> None:
    """Published runs at exactly the same setting, hollow."""
    series = list(dict.fromkeys(outcome.row.series for outcome in outcomes))
    label: str | None = "published"
    for outcome in outcomes:
        score = outcome.in_print(published)
        if math.isfinite(score) and outcome.row.x is not None:
            colour = COLOURS[series.index(outcome.row.series) % len(COLOURS)]
            axis.plot([places[outcome.row.x]], [score], "D", mfc="white", mec=colour,
                      ms=6, label=label)  # fmt: skip
            label = None
