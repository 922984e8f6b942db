"""How well predictions fit held-out ratings: errors and rankings, in NumPy."""

from __future__ import annotations

import numpy as np

from darlr_jax.data.dataset import InteractionLog


def rating_errors(
    predicted: np.ndarray, held_out: InteractionLog, cutoffs: tuple[int, ...] = (5, 10)
) -> dict[str, float]:
    """Errors of `predicted [N]` against the held-out labels.

    Returns:
      `held_out_mae`, `held_out_mse` in units of the label; `held_out_ndcg_at_k` with
      gain 2^label - 1 and `held_out_pair_accuracy`, the share of a user's held-out
      pairs with unequal labels that are ranked rightly (ties count one half): each is a
      mean over the users that have any such pair.
    """
    difference = predicted - held_out.labels
    errors = {
        "held_out_mae": float(np.mean(np.abs(difference))),
        "held_out_mse": float(np.mean(difference**2)),
    }
    rows = _rows_by_user(held_out.users)
    per_user = [(predicted[r], held_out.labels[r]) for r in rows]
    per_user = [(p, y) for p, y in per_user if np.ptp(y) > 0]
    for k in cutoffs:
        scores = [_ndcg(p, y, k) for p, y in per_user]
        errors[f"held_out_ndcg_at_{k}"] = float(np.mean(scores)) if scores else np.nan
    accuracy = [_pair_accuracy(p, y) for p, y in per_user]
    errors["held_out_pair_accuracy"] = float(np.mean(accuracy)) if accuracy else np.nan
    return errors


def _rows_by_user(users: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(users, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(users[order])) + 1)


def _ndcg(predicted: np.ndarray, labels: np.ndarray, k: int) -> float:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))[: len(labels)]
    gains = 2.0 ** labels.astype(np.float64) - 1.0
    ranked = gains[np.argsort(-predicted, kind="stable")][:k]
    ideal = np.sort(gains)[::-1][:k]
    return float(ranked @ discounts / (ideal @ discounts))


def _pair_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    better = labels[:, None] > labels[None, :]
    ahead = np.sign(predicted[:, None] - predicted[None, :])
    return float(np.mean((ahead[better] + 1) / 2))
