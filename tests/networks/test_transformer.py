"""The window transformer by itself; its two users test it with their tokens."""

import jax
import numpy as np
import pytest

from darlr_jax.networks import transformer
from tests import reference


@pytest.mark.parametrize("width", [1, 4, 5])
def test_positions_match_the_definition(width):
    found = transformer.sinusoidal_positions(6, width)

    expected = [reference.position(place, width) for place in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.dtype == np.float32


def test_any_leading_axes_and_an_odd_width():
    module = transformer.WindowTransformer(layers=2, heads=1)
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    valid = np.arange(3) < rng.integers(1, 4, size=(2, 4, 1))
    params = reference.random_params(module, args=(tokens, valid))

    found = jax.jit(module.apply)(params, tokens, valid)

    assert found.shape == (2, 4, 5)
    for place in np.ndindex(2, 4):
        present = tokens[place][valid[place]]
        expected = reference.transformer(params["params"], present, 1)
        np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_where_no_token_is_valid():
    module = transformer.WindowTransformer(layers=1, heads=1)
    tokens = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nothing = np.zeros(3, bool)
    params = reference.random_params(module, args=(tokens, nothing))

    gradient = jax.jit(jax.grad(lambda p: module.apply(p, tokens, nothing).sum()))

    for leaf in jax.tree.leaves(gradient(params)):
        assert np.isfinite(leaf).all()
