"""Dropout, and the hashed words that decide it."""

import functools

import jax
import numpy as np
import pytest

from darlr_jax.networks.base import Dropout, hashed_words

SHAPE = 4001, 5  # an odd number of decisions
INPUTS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) + 10


@functools.cache
def dropping(rate):
    """The compiled dropout of inputs and a key."""
    return jax.jit(functools.partial(Dropout(rate).apply, {}))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_entries_are_dropped_at_the_rate_and_the_others_scaled(rate):
    found = np.asarray(dropping(rate)(INPUTS, jax.random.key(0)))

    dropped = found == 0
    np.testing.assert_allclose(
        found[~dropped], INPUTS[~dropped] / (1 - rate), rtol=1e-6
    )
    five_deviations = 5 * np.sqrt(rate * (1 - rate) / INPUTS.size)
    assert abs(dropped.mean() - rate) < five_deviations


@pytest.mark.parametrize(("rate", "key"), [(0.5, None), (0.0, jax.random.key(0))])
def test_without_a_key_or_a_rate_nothing_changes(rate, key):
    np.testing.assert_array_equal(Dropout(rate).apply({}, INPUTS, key), INPUTS)


# --- hashed words ---------------------------------------------------------------------

SEEDS, WORDS = 2000, 64
FIVE_DEVIATIONS = 5 * np.sqrt(0.25 / SEEDS)


@functools.cache
def words_of(kind, salt="a"):
    """Words `[SEEDS, WORDS]` of keys of consecutive seeds, or split from one."""
    keys = {
        "seeds": jax.vmap(jax.random.key)(np.arange(SEEDS)),
        "split": jax.random.split(jax.random.key(1), SEEDS),
    }[kind]
    hashed = functools.partial(hashed_words, salt=salt, shape=(8, 8))
    return np.asarray(jax.jit(jax.vmap(hashed))(keys)).reshape(SEEDS, WORDS)


def bits(words):
    """Their bits as 0 and 1, one more axis."""
    return (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1


@pytest.mark.parametrize("kind", ["seeds", "split"])
def test_each_bit_is_a_fair_coin_over_keys(kind):
    shares = bits(words_of(kind)).mean(axis=0)  # [WORDS, 32]

    assert np.abs(shares - 0.5).max() < FIVE_DEVIATIONS
    # and as far from a half as the coins of so many keys are
    assert np.std(shares) == pytest.approx(np.sqrt(0.25 / SEEDS), rel=0.1)


def agreement(one, other):
    """Share of keys whose bits agree, for each two bits of two words `[SEEDS]`."""
    one, other = (2.0 * bits(words) - 1 for words in (one, other))
    return (one.T @ other) / (2 * SEEDS) + 0.5


@pytest.mark.parametrize("kind", ["seeds", "split"])
@pytest.mark.parametrize("distance", [1, 2, 8, 32])
def test_bits_of_two_positions_are_independent(kind, distance):
    words = words_of(kind)

    shares = agreement(words[:, 3], words[:, 3 + distance])

    assert np.abs(shares - 0.5).max() < FIVE_DEVIATIONS


@pytest.mark.parametrize("kind", ["seeds", "split"])
def test_bits_of_two_modules_are_independent(kind):
    shares = agreement(words_of(kind)[:, 5], words_of(kind, "b")[:, 5])

    assert np.abs(shares - 0.5).max() < FIVE_DEVIATIONS


def test_bits_of_neighbouring_keys_are_independent():
    words = words_of("seeds")
    following = np.roll(words, 1, axis=0)

    assert np.abs(agreement(words[:, 0], following[:, 0]) - 0.5).max() < FIVE_DEVIATIONS


def test_words_are_spread_evenly():
    """64 x 64 cells of two consecutive words: chi-square within five deviations."""
    first, second = (words_of("split")[:, n::2].ravel() >> 26 for n in (0, 1))

    counts = np.bincount(64 * first + second, minlength=64**2)

    expected = first.size / 64**2
    statistic = np.sum((counts - expected) ** 2 / expected)
    freedom = 64**2 - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_no_word_comes_twice():
    words = np.asarray(hashed_words(jax.random.key(3), "a", (2**16,)))
    assert len(np.unique(words)) == 2**16
