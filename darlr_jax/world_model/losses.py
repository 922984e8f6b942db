"""What a world model is fitted by: sums over pairs of a logged row and a negative.

All losses have the signature `(positive, negative, label, importance, weight,
negative_weight)`. Shapes are `[M]`: predictions at the logged row and at the negative,
the row's label, one over the number of rows of its item, and a weight of 0 that leaves
a pair out. `negative_weight []` is how much a negative counts beside its row: 1 as
published, which makes a prediction of an item's rating and of its popularity in one; 0
leaves the rating of what is logged.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from darlr_jax.networks.deepfm import Prediction
from darlr_jax.types import Array

Loss = Callable[[Prediction, Prediction, Array, Array, Array, float], Array]


def gaussian_loss(
    positive: Prediction,
    negative: Prediction,
    label: Array,
    importance: Array,
    weight: Array,
    negative_weight: float,
) -> Array:
    """Gaussian fit of the label, and of 0 at a negative (protocol 2.2, `pointneg`).

    sum (y+ - y)^2 e^{-s+} + s+ + w ((y- - 0)^2 e^{-s-} + s-), with s the log-variance
    and w the weight of a negative.
    """
    del importance
    fit = (positive.mean - label) ** 2 * jnp.exp(-positive.log_variance)
    push = negative.mean**2 * jnp.exp(-negative.log_variance)
    fit, push = fit + positive.log_variance, push + negative.log_variance
    return jnp.sum(weight * (fit + negative_weight * push))


def squared_loss(
    positive: Prediction,
    negative: Prediction,
    label: Array,
    importance: Array,
    weight: Array,
    negative_weight: float,
) -> Array:
    """Squared errors (y+ - y)^2 + w (y- - 0)^2, no variance (protocol 8, UCB)."""
    del importance
    fit = (positive.mean - label) ** 2
    return jnp.sum(weight * (fit + negative_weight * negative.mean**2))


def propensity_loss(
    positive: Prediction,
    negative: Prediction,
    label: Array,
    importance: Array,
    weight: Array,
    negative_weight: float,
) -> Array:
    """Squared errors (y+ - y)^2 / n_i + w (y- - 0)^2, n_i rows of item i (protocol 8).

    The frequency of an item stands for its propensity to be logged; negatives are drawn
    uniformly, so that theirs is the same for all.
    """
    fit = importance * (positive.mean - label) ** 2
    return jnp.sum(weight * (fit + negative_weight * negative.mean**2))


LOSSES: dict[str, Loss] = {  # the choices of `config.WorldModelConfig.loss`
    "gaussian": gaussian_loss,
    "squared": squared_loss,
    "propensity": propensity_loss,
}
