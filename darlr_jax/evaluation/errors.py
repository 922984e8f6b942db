"""How far predicted rewards are from observed ones, and where: bins, curves, pairs.

Plain NumPy over arrays of cells. `N` counts cells (a user and an item each), `G` bins.
Not-a-number stands where there is nothing to measure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Row = dict[str, float]

# Central intervals of a normal distribution: share covered -> half width in deviations.
INTERVALS = {0.5: 0.67449, 0.8: 1.28155, 0.9: 1.64485, 0.95: 1.95996}
_BLOCK_CELLS = 1 << 18  # of a table that are in double precision at a time
_PAIRS = 20_000  # drawn for one figure; its standard error is at most 0.0035


class Bins(NamedTuple):
    """A partition of values into bins of neighbouring ones, from small to large."""

    bin_of: np.ndarray  # [N] int, the bin of each value
    low: np.ndarray  # [G] its smallest value
    high: np.ndarray  # [G] its largest value


def quantile_bins(values: np.ndarray, most: int) -> Bins:
    """At most `most` bins that hold about equally many of `values [N]`.

    Equal values share a bin; where there are no more than `most` distinct values, each
    has its own.
    """
    distinct, inverse, counts = np.unique(
        values, return_inverse=True, return_counts=True
    )
    places = np.arange(len(distinct))
    if len(distinct) > most:
        middle = np.cumsum(counts) - counts / 2  # rank of a value, half of it counted
        places = (middle * most / len(values)).astype(int)
    starts = np.flatnonzero(np.diff(places, prepend=-1))  # bins that hold nothing go
    places = np.cumsum(np.diff(places, prepend=places[:1]) > 0)
    ends = np.append(starts[1:], len(distinct)) - 1
    return Bins(places[inverse.reshape(-1)], distinct[starts], distinct[ends])


def bins_from(values: np.ndarray, edges: tuple[float, ...]) -> Bins:
    """The bins `[edges[n], edges[n + 1])`, the last one open; empty ones are dropped.

    Nothing in `values [N]` may lie below the first edge.
    """
    places = np.searchsorted(edges, values, side="right") - 1
    if np.any(places < 0):
        raise ValueError(f"values below the first edge, {edges[0]}")
    kept, index = np.unique(places, return_inverse=True)
    groups = [values[index == n] for n in range(len(kept))]
    return Bins(
        index.reshape(-1),
        np.array([group.min() for group in groups]),
        np.array([group.max() for group in groups]),
    )


def fit(predicted: np.ndarray, observed: np.ndarray, same_unit: bool = True) -> Row:
    """Errors of `predicted [N]` against `observed [N]`.

    Returns:
      `count`; `mae` and `bias` (mean of predicted less observed), not-a-number where
      the two are not in one unit; `rank_correlation`, Spearman's.
    """
    mae = bias = np.nan
    if same_unit and len(predicted):
        difference = predicted.astype(np.float64) - observed
        mae, bias = float(np.mean(np.abs(difference))), float(np.mean(difference))
    return {
        "count": len(predicted),
        "mae": mae,
        "bias": bias,
        "rank_correlation": rank_correlation(predicted, observed),
    }


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays `[N]`; equal values share a rank."""
    ranks = [_ranks(values) for values in (first, second)]
    if len(first) < 2 or any(np.ptp(rank) == 0 for rank in ranks):
        return np.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]


def variance_shares(matrix: np.ndarray) -> Row:
    """How the variance of a table `[U, I]` splits into levels and the rest.

    Returns:
      `users` (their means), `items` (theirs) and `interaction` (what is left when both
      are taken away), shares that add up to 1; not-a-number of a constant table. Where
      the interaction is next to nothing the table is additive, and ranks items alike
      for every user.
    """
    total = _variance(matrix)
    if total == 0:
        return dict.fromkeys(("users", "items", "interaction"), np.nan)
    users, items = (
        float(matrix.mean(axis, dtype=np.float64).var() / total) for axis in (1, 0)
    )
    # In a full table the parts are orthogonal, so that their variances add up.
    interaction = max(0.0, 1 - users - items)
    return {"users": users, "items": items, "interaction": interaction}


def _variance(matrix: np.ndarray) -> float:
    """Of all cells, in double precision, of which no table as large is made."""
    mean = matrix.mean(dtype=np.float64)
    rows = max(1, _BLOCK_CELLS // matrix.shape[1])
    squares = 0.0
    for start in range(0, len(matrix), rows):
        centred = np.subtract(matrix[start : start + rows], mean, dtype=np.float64)
        squares += float(np.vdot(centred, centred))
    return squares / matrix.size


def pair_accuracy(
    predicted: np.ndarray, observed: np.ndarray, users: np.ndarray, seed: int = 0
) -> float:
    """The share of pairs of one user's cells `[N]` that are ranked as observed.

    Of 20,000 pairs drawn at random (`seed`) those with unequal observations count; a
    tie of predictions counts one half. A user weighs as much as she has cells, unlike
    in `world_model.ranking`, which takes the mean over users of all their pairs.
    """
    if not len(users):
        return np.nan
    order = np.argsort(users, kind="stable")
    start = np.flatnonzero(np.diff(users[order], prepend=-1))
    size = np.diff(np.append(start, len(users)))
    owner = np.repeat(np.arange(len(start)), size)
    rng = np.random.default_rng(seed)
    first = rng.integers(len(users), size=_PAIRS)
    second = start[owner[first]] + rng.integers(size[owner[first]])
    first, second = order[first], order[second]
    better = np.sign(observed[first] - observed[second])
    ahead = np.sign(predicted[first] - predicted[second])
    counted = better != 0
    return float(np.mean((better * ahead)[counted] + 1) / 2) if any(counted) else np.nan


def calibration_curve(
    predicted: np.ndarray, observed: np.ndarray, most: int = 10
) -> list[Row]:
    """Mean prediction beside mean observation, in bins of the prediction `[N]`.

    Returns:
      A row a bin: `low`, `high`, `count`, `predicted`, `observed`.
    """
    bins = quantile_bins(predicted, most)
    columns = {"predicted": predicted, "observed": observed}
    return _means(bins, columns)


def variance_curve(
    predicted: np.ndarray, variance: np.ndarray, observed: np.ndarray, most: int = 10
) -> list[Row]:
    """Mean predicted variance beside the mean squared error, in bins of the variance.

    Returns:
      A row a bin: `low`, `high`, `count`, `variance`, `squared_error`.
    """
    error = (predicted.astype(np.float64) - observed) ** 2
    columns = {"variance": variance, "squared_error": error}
    return _means(quantile_bins(variance, most), columns)


def coverage(
    predicted: np.ndarray, variance: np.ndarray, observed: np.ndarray
) -> list[Row]:
    """How many observations `[N]` lie in central intervals of the predicted normal.

    Returns:
      A row an interval: its `share` by the model, and the share `covered`.
    """
    deviations = np.abs(z_scores(predicted, variance, observed))
    return [
        {"share": share, "covered": float(np.mean(deviations <= width))}
        for share, width in INTERVALS.items()
    ]


def z_scores(
    predicted: np.ndarray, variance: np.ndarray, observed: np.ndarray
) -> np.ndarray:
    """Observed less predicted, in standard deviations that the model predicts `[N]`."""
    return (observed - predicted.astype(np.float64)) / np.sqrt(variance)


def _means(bins: Bins, columns: dict[str, np.ndarray]) -> list[Row]:
    count = np.bincount(bins.bin_of)
    means = {
        name: np.bincount(bins.bin_of, values.astype(np.float64)) / count
        for name, values in columns.items()
    }
    return [
        {"low": float(low), "high": float(high), "count": int(count[n])}
        | {name: float(mean[n]) for name, mean in means.items()}
        for n, (low, high) in enumerate(zip(bins.low, bins.high, strict=True))
    ]
