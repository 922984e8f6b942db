"""How well predictions fit held-out ratings: errors and rankings, in NumPy."""

from __future__ import annotations

import numpy as np

from darlr_jax.data.dataset import InteractionLog

_MOST_PAIRED_ROWS = 256  # of a user: all pairs of 3,327 videos would take minutes
_TOP = 3  # the best of so many rows are on top


def rating_errors(
    predicted: np.ndarray, held_out: InteractionLog, cutoffs: tuple[int, ...] = (5, 10)
) -> dict[str, float]:
    """Errors of `predicted [N]` against the held-out labels.

    Returns:
      `held_out_mae`, `held_out_mse` in units of the label; `held_out_ndcg_at_k` with
      the reward above 0 (or above the smallest one, if that is negative) as gain;
      `held_out_top_gain`, in units of the reward, the mean of the third of a user's
      rows that is predicted best (rounded up; ties share its places) less the mean of
      all of hers; and `held_out_pair_accuracy`, the share of a user's held-out pairs
      with unequal labels that are ranked rightly (ties count one half). Each of these
      is a mean over the users that have any such pair, that of `held_out_ndcg_at_k`
      over those with any gain as well: where all gains are 0, every order is as good.
      It is NaN if nobody is left. Of users with more than 256 rows the pairs are those
      of 256 evenly spaced rows.
    """
    difference = predicted - held_out.labels
    errors = {
        "held_out_mae": float(np.mean(np.abs(difference))),
        "held_out_mse": float(np.mean(difference**2)),
    }
    gains = held_out.rewards.astype(np.float64)
    gains -= min(0.0, gains.min())
    rows = _rows_by_user(held_out.users)
    rows = [r for r in rows if np.ptp(held_out.labels[r]) > 0]
    gained = [r for r in rows if gains[r].any()]
    for k in cutoffs:
        scores = [_ndcg(predicted[r], gains[r], k) for r in gained]
        errors[f"held_out_ndcg_at_{k}"] = float(np.mean(scores)) if scores else np.nan
    top = [_top_gain(predicted[r], gains[r]) for r in rows]
    errors["held_out_top_gain"] = float(np.mean(top)) if top else np.nan
    rows = [_evenly_spaced(r, _MOST_PAIRED_ROWS) for r in rows]
    accuracy = [_pair_accuracy(predicted[r], held_out.labels[r]) for r in rows]
    accuracy = [share for share in accuracy if not np.isnan(share)]
    errors["held_out_pair_accuracy"] = float(np.mean(accuracy)) if accuracy else np.nan
    return errors


def _rows_by_user(users: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(users, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(users[order])) + 1)


def _evenly_spaced(rows: np.ndarray, most: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def _ndcg(predicted: np.ndarray, gains: np.ndarray, k: int) -> float:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))[: len(gains)]
    ranked = gains[np.argsort(-predicted, kind="stable")][:k]
    ideal = np.sort(gains)[::-1][:k]
    return float(ranked @ discounts / (ideal @ discounts))


def _top_gain(predicted: np.ndarray, gains: np.ndarray) -> float:
    places = -(-len(predicted) // _TOP)
    last = np.sort(predicted)[-places]
    ahead, tied = predicted > last, predicted == last
    weight = ahead + tied * (places - ahead.sum()) / tied.sum()
    return float(weight @ gains / places - np.mean(gains))


def _pair_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    better = labels[:, None] > labels[None, :]
    if not better.any():
        return np.nan
    ahead = np.sign(predicted[:, None] - predicted[None, :])
    return float(np.mean((ahead[better] + 1) / 2))
