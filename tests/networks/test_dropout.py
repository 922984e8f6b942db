"""Dropout from halves of random words."""

import functools

import jax
import numpy as np
import pytest

from darlr_jax.networks.base import Dropout

SHAPE = 4001, 5  # an odd number of decisions
INPUTS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) + 10


@functools.cache
def dropping(rate):
    """The compiled dropout of a key."""
    apply = Dropout(rate).apply
    return jax.jit(lambda x, key: apply({}, x, False, rngs={"dropout": key}))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_entries_are_dropped_at_the_rate_and_the_others_scaled(rate):
    found = np.asarray(dropping(rate)(INPUTS, jax.random.key(0)))

    dropped = found == 0
    np.testing.assert_allclose(
        found[~dropped], INPUTS[~dropped] / (1 - rate), rtol=1e-6
    )
    five_deviations = 5 * np.sqrt(rate * (1 - rate) / INPUTS.size)
    assert abs(dropped.mean() - rate) < five_deviations


def test_the_two_decisions_of_a_word_are_independent():
    found = np.asarray(dropping(0.5)(INPUTS, jax.random.key(0))).ravel()

    pairs = (found == 0)[:-1].reshape(-1, 2)
    both = np.bincount(2 * pairs[:, 0] + pairs[:, 1], minlength=4) / len(pairs)
    np.testing.assert_allclose(both, 0.25, atol=5 * np.sqrt(3 / 16 / len(pairs)))


@pytest.mark.parametrize(("rate", "deterministic"), [(0.5, True), (0.0, False)])
def test_without_dropout_nothing_changes_and_no_key_is_needed(rate, deterministic):
    found = Dropout(rate).apply({}, INPUTS, deterministic)

    np.testing.assert_array_equal(found, INPUTS)
