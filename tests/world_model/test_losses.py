"""losses.py: the definitions, and what each reduces to."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.networks.deepfm import Prediction
from darlr_jax.world_model.losses import (
    LOSSES,
    gaussian_loss,
    propensity_loss,
    squared_loss,
)
from tests import reference

quick = settings(max_examples=20, deadline=None)
ONES = jnp.ones(2)


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_gaussian_loss_worked_numbers(weight):
    log_2 = np.float32(np.log(2))
    positive = Prediction(jnp.array([3.0, 9]), jnp.array([0.0, 9]))
    negative = Prediction(jnp.array([2.0, 9]), jnp.array([log_2, 9]))

    found = gaussian_loss(
        positive, negative, jnp.array([4.0, 1]), ONES, jnp.array([1.0, 0]), weight
    )

    # (3 - 4)^2 / 1 + 0, and of the negative 2^2 / 2 + log 2; no second pair
    np.testing.assert_allclose(found, 1 + weight * (2 + log_2), rtol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_squared_and_propensity_loss_worked_numbers(weight):
    positive = Prediction(jnp.array([3.0, 1]), jnp.array([7.0, 7]))
    negative = Prediction(jnp.array([2.0, -1]), jnp.array([7.0, 7]))
    label, importance = jnp.array([5.0, 4]), jnp.array([0.5, 0.1])

    # (3 - 5)^2 + (1 - 4)^2, and 2^2 + 1 of the negatives; the variance has no say
    found = squared_loss(positive, negative, label, importance, ONES, weight)
    np.testing.assert_allclose(found, 13 + 5 * weight)
    # 4 / 2 + 9 / 10: how frequent an item is says nothing of the negatives
    found = propensity_loss(positive, negative, label, importance, ONES, weight)
    np.testing.assert_allclose(found, 2.9 + 5 * weight, rtol=1e-6)


numbers = hnp.arrays(np.float32, (6, 5), elements=st.floats(-4, 4, width=32))


@given(numbers=numbers, weight=hnp.arrays(np.float32, 5, elements=st.integers(0, 2)))
@quick
def test_gaussian_loss_matches_the_definition(numbers, weight):
    mean, log_variance, push, spread, label, importance = numbers

    found = gaussian_loss(
        Prediction(mean, log_variance),
        Prediction(push, spread),
        label,
        importance,
        weight,
        negative_weight=1.0,
    )

    expected = reference.pointneg_loss(
        zip(mean, log_variance, strict=True),
        zip(push, spread, strict=True),
        label,
        weight,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@given(numbers=numbers)
@quick
def test_where_the_losses_agree(numbers):
    """With variance 1 the Gaussian fit is the squared one, as is equal propensity."""
    mean, push, label, *_ = numbers
    positive, negative = (Prediction(m, np.zeros(5)) for m in (mean, push))
    pair, ones = (positive, negative, label), np.ones(5)
    expected = squared_loss(*pair, ones, ones, 0.5)
    for loss in LOSSES.values():
        np.testing.assert_allclose(loss(*pair, ones, ones, 0.5), expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pair_of_weight_nothing_is_left_out(name):
    prediction = Prediction(jnp.array([3.0, 1]), jnp.array([0.0, 1]))
    arguments = (prediction, prediction, jnp.array([4.0, 2]), jnp.array([0.5, 0.2]))
    both = LOSSES[name](*arguments, ONES, 0.5)
    alone = np.eye(2, dtype=np.float32)
    first, second = (LOSSES[name](*arguments, w, 0.5) for w in alone)
    np.testing.assert_allclose(both, first + second, rtol=1e-6)
