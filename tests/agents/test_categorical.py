"""Masked distributions and the draw from them, at the edges above all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.agents import categorical
from tests import reference

variants = pytest.mark.parametrize("variant", [lambda f: f, jax.jit], ids=["", "jit"])
sizes = pytest.mark.parametrize("size", [1, 2, 3, 17, 290])
quick = settings(max_examples=20, deadline=None)

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))  # the largest quantile there is
EDGES = np.array([0, 1e-45, 2**-24, 0.5, 1 - 2**-23, BELOW_ONE], np.float32)
GRID = ((np.arange(4096) + 0.5) / 4096).astype(np.float32)

draw_many = jax.jit(jax.vmap(categorical.sample, in_axes=(0, None, None)))


def random_case(size, seed, scale=1.0):
    """Logits and a mask that allows about half of the actions, one at least."""
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.5
    mask[rng.integers(size)] = True
    return (scale * rng.normal(size=size)).astype(np.float32), mask


# --- log-probabilities ----------------------------------------------------------------


@variants
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_log_softmax_matches_the_definition(variant, scale):
    logits, mask = random_case(17, 0, scale)

    found = variant(categorical.masked_log_softmax)(logits, mask)
    plain = variant(lambda z: categorical.masked_log_softmax(z, None))(logits)

    for a in range(17):
        expected = reference.log_probability(logits, a)
        np.testing.assert_allclose(plain[a], expected, rtol=1e-5, atol=1e-5)
        if mask[a]:
            expected = reference.log_probability(logits, a, mask)
            np.testing.assert_allclose(found[a], expected, rtol=1e-5, atol=1e-5)
        else:
            assert np.exp(found[a]) == 0


@variants
def test_entropy_matches_the_definition(variant):
    cases = [
        random_case(17, seed, scale) for seed, scale in enumerate([0.1, 1, 9, 1e4])
    ]
    logits, masks = (np.stack(part) for part in zip(*cases, strict=True))

    log_probs = categorical.masked_log_softmax(logits, masks)
    found = variant(categorical.entropy)(log_probs)

    expected = [reference.entropy(reference.probabilities(*case)) for case in cases]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_worked_numbers():
    # Over the allowed {0, 2}: e^0 : e^(log 3) = 1 : 3.
    logits = jnp.array([0.0, 50.0, np.log(3.0)])
    log_probs = categorical.masked_log_softmax(logits, jnp.array([True, False, True]))

    np.testing.assert_allclose(jnp.exp(log_probs), [0.25, 0, 0.75], rtol=1e-6)
    picked = categorical.log_prob(jnp.tile(log_probs, (2, 1)), jnp.array([2, 0]))
    np.testing.assert_allclose(picked, np.log([0.75, 0.25]), rtol=1e-6)
    # -(1/4 log 1/4 + 3/4 log 3/4) = log 4 - 3/4 log 3
    expected = np.log(4) - 0.75 * np.log(3)
    np.testing.assert_allclose(categorical.entropy(log_probs), expected, rtol=1e-6)


def test_a_row_that_allows_nothing_is_uniform_and_has_no_gradient():
    nothing = jnp.zeros(5, bool)

    def first(logits):
        return categorical.masked_log_softmax(logits, nothing)[0]

    value, gradient = jax.value_and_grad(first)(jnp.arange(5.0))

    np.testing.assert_allclose(value, -np.log(5), rtol=1e-6)
    np.testing.assert_array_equal(gradient, np.zeros(5))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_and_leave_masked_logits_alone(scale):
    logits, mask = random_case(17, 1, scale)
    action = int(np.flatnonzero(mask)[0])

    def terms(logits):
        log_probs = categorical.masked_log_softmax(logits, mask)
        return jnp.stack([log_probs[action], categorical.entropy(log_probs)])

    of_log_prob, of_entropy = jax.jit(jax.jacobian(terms))(logits)

    # d log p_a / d z_b = [a = b] - p_b over the allowed actions
    expected = np.eye(17)[action] - reference.probabilities(logits, mask)
    np.testing.assert_allclose(of_log_prob, expected, atol=1e-5)
    assert np.isfinite(of_entropy).all()
    assert (of_entropy[~mask] == 0).all()


# --- drawing --------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 1e4])
def test_quantiles_of_a_grid_reproduce_the_probabilities(size, scale):
    logits, mask = random_case(size, size, scale)

    drawn = np.asarray(draw_many(GRID, logits, mask))

    assert (np.diff(drawn) >= 0).all()  # monotone, so each action has one interval
    share = np.bincount(drawn, minlength=size) / len(GRID)
    expected = reference.probabilities(logits, mask)
    # An interval of length p holds n p points of a grid, give or take one.
    np.testing.assert_allclose(share, expected, rtol=0, atol=1 / len(GRID) + 2e-6)


@sizes
def test_draws_invert_the_cumulative_distribution(size):
    logits, mask = random_case(size, 100 + size)
    ends = np.cumsum(reference.probabilities(logits, mask))
    separated = np.abs(GRID[:, None] - ends[None, :]).min(axis=1) > 1e-5

    drawn = np.asarray(draw_many(GRID, logits, mask))

    expected = np.searchsorted(ends, GRID, side="right")
    np.testing.assert_array_equal(drawn[separated], expected[separated])
    assert separated.mean() > 0.9


ALLOWED = {
    "first": lambda a, n: a == 0,
    "last": lambda a, n: a == n - 1,
    "not first": lambda a, n: (a > 0) | (n == 1),
    "not last": lambda a, n: (a < n - 1) | (n == 1),
    "every other": lambda a, n: a % 2 == 0,
    "middle": lambda a, n: np.abs(a - n // 2) <= 1,
}


@sizes
@pytest.mark.parametrize("kind", ["flat", "normal", "peaked", "masked peak"])
def test_masked_and_impossible_actions_are_never_drawn(size, kind):
    noise = np.random.default_rng(size).normal(size=size)
    for name, allowed in ALLOWED.items():
        mask = allowed(np.arange(size), size)
        logits = {
            "flat": np.zeros(size),
            "normal": noise,
            "peaked": 1e4 * noise,
            "masked peak": np.where(mask, 0.0, 1e4),
        }[kind].astype(np.float32)

        drawn = np.asarray(draw_many(EDGES, logits, mask))

        assert mask[drawn].all(), name
        assert (np.diff(drawn) >= 0).all(), name
        assert (reference.probabilities(logits, mask)[drawn] > 0).all(), name


@pytest.mark.parametrize("size", [17, 290])
@pytest.mark.parametrize("scale", [0.5, 5.0, 10.0])
def test_rounding_at_the_ends_of_intervals_is_harmless(size, scale):
    logits, mask = random_case(size, size, scale)
    mask[::3] = False
    ends = np.cumsum(reference.probabilities(logits, mask)).astype(np.float32)
    around = ends[:, None] + np.arange(-8, 9, dtype=np.float32) * np.float32(2**-25)
    quantiles = np.sort(np.clip(around.ravel(), 0, BELOW_ONE))

    drawn = np.asarray(draw_many(quantiles, logits, mask))

    assert mask[drawn].all()
    assert (np.diff(drawn) >= 0).all()


@given(
    logits=hnp.arrays(
        np.float32,
        17,
        elements=st.one_of(
            st.sampled_from([0.0, 1e4, -1e4, -90.0, 1e-3]),
            st.floats(-20, 20, width=32),
        ),
    ),
    mask=hnp.arrays(bool, 17),
    allowed=st.integers(0, 16),
    uniform=st.floats(0, float(BELOW_ONE), width=32),
)
@quick
def test_a_draw_lies_where_its_quantile_does(logits, mask, allowed, uniform):
    mask[allowed] = True
    probs = reference.probabilities(logits, mask)

    drawn = int(draw_many(np.float32([uniform]), logits, mask)[0])

    assert probs[drawn] > 0
    assert probs[:drawn].sum() - 1e-6 <= uniform <= probs[: drawn + 1].sum() + 1e-6


@variants
def test_worked_draws(variant):
    draw = variant(
        lambda u: categorical.inverse_cdf(u, jnp.array([0, 1, 0, 2, 1, 0.0]))
    )

    # Ends 0, 1/4, 1/4, 3/4, 1, 1: a quantile at an end belongs to what follows.
    quantiles = [0.0, 0.24, 0.25, 0.74, 0.75, 0.99, BELOW_ONE]
    assert [int(draw(u)) for u in quantiles] == [1, 1, 3, 3, 4, 4, 4]


def test_without_a_mask_as_with_one_that_allows_all():
    logits, _ = random_case(17, 3)
    draw = jax.jit(jax.vmap(categorical.sample, in_axes=(0, None)))

    plain = draw(GRID, logits)

    np.testing.assert_array_equal(plain, draw_many(GRID, logits, np.ones(17, bool)))


def test_a_mask_that_allows_nothing_draws_uniformly():
    logits, _ = random_case(17, 4)

    drawn = draw_many(GRID, logits, np.zeros(17, bool))

    share = np.bincount(drawn, minlength=17) / len(GRID)
    np.testing.assert_allclose(share, 1 / 17, atol=1 / len(GRID))
