"""Pictures of calibration.json and estimates.json."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.runs import plots
from darlr_jax.runs.figures import COLOURS, finish, legend_beneath

Report = Mapping[str, Any]
_SIZE = (4.6, 3.1)
_PARTS = {  # of calibration.json -> label and colour
    "held_out": ("held-out rows", COLOURS[0]),
    "true_matrix": ("true matrix (analysis)", COLOURS[1]),
}
_COLOUR_OF = {  # estimators that stand in every picture keep their colours
    "own estimate": COLOURS[0],
    "nearest users (ROLeR)": COLOURS[1],
    "mean of all users": COLOURS[7],
}
_CHOSEN = COLOURS[2]
_MEASURES = {
    "mae": "mean absolute error",
    "bias": "predicted less true",
    "rank_correlation": "rank correlation",
    "pair_accuracy": "pairs ranked rightly",
}


_EACH_SEED = "mean absolute error of each seed"


class Picture(NamedTuple):
    """A figure, None without matplotlib, and how to read it."""

    figure: Any | None
    caption: str


def calibration_pictures(calibration: Report) -> list[Picture]:
    """Calibration of mean and variance, and errors where the log is thick and thin.

    Nothing is drawn of what has a single bin; `alike` says why.
    """
    measured = {name: calibration[name] for name in _PARTS if _cells(calibration, name)}
    pictures = [
        Picture(
            _draw(measured, "mean", _draw_means, "Calibration of the mean"),
            "Bins of equally many predictions. On the dashed line what is predicted "
            "is what is observed; a rising curve beside it ranks rightly all the same.",
        ),
        Picture(
            _draw(measured, "variance", _draw_variances, "Calibration of the variance"),
            "Bins of the predicted variance. Above the dashed line errors are larger "
            "than the model says; a falling curve is sure where it should not be.",
        ),
        Picture(
            _draw(measured, "coverage", _draw_coverage, "Coverage"),
            "Observations inside central intervals of the predicted normal "
            "distribution. Below the dashed line the model is too sure.",
        ),
    ]
    for by, whose in (
        ("by_user_activity", "logged rows of the user"),
        ("by_item_popularity", "logged rows of the item"),
    ):
        if all(len(part[by]) < 2 for part in measured.values()):
            continue
        for measure in ("mae", "pair_accuracy"):
            draw = functools.partial(_draw_bins, measure=measure, whose=whose)
            figure = _draw(measured, by, draw, _MEASURES[measure].capitalize())
            pictures.append(Picture(figure, _SPARSITY[measure]))
    return [picture for picture in pictures if picture.figure is not None]


def alike(calibration: Report) -> list[str]:
    """A sentence for each side, users or items, whose logged rows are all as many."""
    said = []
    for by, whose in (("by_user_activity", "user"), ("by_item_popularity", "item")):
        rows = calibration["true_matrix"].get(by, [])
        if len(rows) == 1:
            said.append(f"Every {whose} has {rows[0]['low']:,} logged rows.")
    return said


_SPARSITY = {
    "mae": "Bins of about equally many users or items, by their rows in the log.",
    "pair_accuracy": "Pairs of cells of one user in the same bin; 0.5 is chance.",
}


def _cells(calibration: Report, part: str) -> int:
    return int(calibration.get(part, {}).get("cells", 0))


def _draw(
    measured: Mapping[str, Report],
    key: str,
    draw: Callable[..., bool],
    title: str,
) -> Any | None:
    """A panel with a curve a part; None where no part has anything to show."""
    figure = plots.new_figure(*_SIZE, title)
    if figure is None:
        return None
    axis = figure.subplots()
    finish(axis, title, "", "")
    drawn = False
    for name, report in measured.items():
        if report.get(key):
            drawn |= draw(axis, pd.DataFrame(report[key]), *_PARTS[name])
    legend_beneath(figure, axis)
    return figure if drawn else None


def _draw_means(axis: Any, rows: pd.DataFrame, label: str, colour: str) -> bool:
    axis.plot(
        rows["predicted"], rows["observed"], "o-", color=colour, ms=4, label=label
    )
    _identity(axis, rows[["predicted", "observed"]])
    axis.set(xlabel="mean prediction", ylabel="mean observation")
    return True


def _draw_variances(axis: Any, rows: pd.DataFrame, label: str, colour: str) -> bool:
    x, y = rows["variance"], rows["squared_error"]
    axis.plot(x, y, "o-", color=colour, ms=4, label=label)
    _identity(axis, rows[["variance"]])
    axis.set(xlabel="predicted variance", ylabel="mean squared error")
    return True


def _draw_coverage(axis: Any, rows: pd.DataFrame, label: str, colour: str) -> bool:
    axis.plot(rows["share"], rows["covered"], "o-", color=colour, ms=4, label=label)
    _identity(axis, pd.DataFrame({"share": [0.0, 1.0]}))
    axis.set(xlabel="share by the model", ylabel="share observed", ylim=(0, 1))
    return True


def _identity(axis: Any, values: pd.DataFrame) -> None:
    numbers = values.to_numpy(dtype=float)
    ends = [float(np.nanmin(numbers)), float(np.nanmax(numbers))]
    axis.plot(ends, ends, color="black", lw=0.8, ls="--", zorder=0)


def _draw_bins(
    axis: Any,
    rows: pd.DataFrame,
    label: str,
    colour: str,
    *,
    measure: str,
    whose: str,
) -> bool:
    values = rows[measure].astype(float)
    if values.isna().all():  # of another unit
        return False
    _line(axis, values, label, colour)
    _name_bins(axis, rows[["low", "high"]].itertuples(index=False))
    axis.set(xlabel=whose, ylabel=_MEASURES[measure])
    return True


# --- estimates ------------------------------------------------------------------------


_BINS = {
    "by_true_reward": "true reward of the cell",
    "by_user_activity": "logged rows of the user",
    "by_visits": "recommendations of the cell",
}


def estimate_pictures(estimates: Report) -> list[Picture]:
    """Errors of every estimator by bins, of recommended cells and of other ones."""
    pictures = []
    for part, cells in (("recommended", "Recommended"), ("other", "At random")):
        for by, whose in _BINS.items():
            picture = _draw_estimates(estimates[part][by], cells, whose)
            if picture is not None:
                pictures.append(picture)
    return pictures


def _draw_estimates(rows: Sequence[Report], cells: str, whose: str) -> Picture | None:
    if len(rows) < 2:
        return None
    estimators = _in_order(rows[0]["estimators"])
    level = any(_value(row, name, "mae") is not None
                for row in rows for name in estimators)  # fmt: skip
    measure = "mae" if level else "rank_correlation"
    figure = plots.new_figure(*_SIZE, cells)
    if figure is None:
        return None
    axis = figure.subplots()
    for name in estimators:
        values = pd.Series([_value(row, name, measure) for row in rows], dtype=float)
        if values.notna().any():
            dashed = name == "nearest users (ROLeR)"  # they may hide the own ones
            colour = _COLOUR_OF.get(name, _CHOSEN)
            _line(axis, values, name, colour, ls="--" if dashed else "-")
    if not axis.lines:
        return None
    _name_bins(axis, [(row["low"], row["high"]) for row in rows])
    finish(axis, cells, whose, _MEASURES[measure])
    legend_beneath(figure, axis, columns=2)
    counts = [row["estimators"][estimators[0]]["count"] for row in rows]
    return Picture(figure, f"Cells in the bins: {', '.join(f'{n:,}' for n in counts)}.")


def _in_order(estimators: Mapping[str, Any]) -> list[str]:
    """The names, those that stand in every picture first."""
    return sorted(estimators, key=lambda name: [*_COLOUR_OF, name].index(name))


def _value(row: Report, estimator: str, measure: str) -> float | None:
    value: float | None = row["estimators"][estimator][measure]
    return value


def estimate_table(estimates: Report) -> pd.DataFrame:
    """A row an estimator and kind of cell; the spread is that of the seeds."""
    rows = []
    for part, cells in (("recommended", "recommended"), ("other", "at random")):
        for name in _in_order(fits := estimates[part]["overall"]):
            fit = fits[name]
            row: dict[str, Any] = {
                **{"cells": cells, "estimator": name},
                "number": f"{fit['count']:,}",
            }
            for measure, title in _MEASURES.items():
                if measure in fit:
                    value = fit[measure]
                    row[title] = math.nan if value is None else value
            if part == "recommended":
                row[_EACH_SEED] = _spread(estimates["by_seed"], name)
            rows.append(row)
    return pd.DataFrame(rows).fillna({_EACH_SEED: ""})


def _spread(by_seed: Sequence[Report], estimator: str) -> str:
    values = [fits[estimator]["mae"] for fits in by_seed]
    return ", ".join("n/a" if value is None else f"{value:.2f}" for value in values)


# --- bins -----------------------------------------------------------------------------


def _line(axis: Any, values: pd.Series, label: str, colour: str, ls: str = "-") -> None:
    look = {"color": colour, "label": label, "ls": ls, "marker": "o", "ms": 4}
    axis.plot(range(len(values)), values, **look)


def _name_bins(axis: Any, ends: Any) -> None:
    labels = [
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        for low, high in ends
    ]
    axis.set_xticks(range(len(labels)), labels, fontsize="small")
    axis.margins(x=0.12)
