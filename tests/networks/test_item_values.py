"""item_values.py: heads of the offline learners."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.networks.item_values import make_item_quantiles, make_item_values

WIDTH, ITEMS, N = 4, 6, 5


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_values_are_the_means_of_the_quantiles(hidden):
    network = make_item_quantiles(hidden, ITEMS, N, WIDTH)
    params = network.init(jax.random.key(0))
    states = jax.random.normal(jax.random.key(1), (3, WIDTH))
    values = network.values(params, states)
    assert values.shape == (3, ITEMS)
    for item in range(ITEMS):
        quantiles = network.quantiles(params, states, jnp.full(3, item))
        assert quantiles.shape == (3, N)
        np.testing.assert_allclose(quantiles.mean(axis=1), values[:, item], atol=1e-6)
    np.testing.assert_allclose(
        network.values(params, states[0]), values[0], atol=1e-6
    )  # one state, as in acting


def test_without_hidden_layers_values_are_linear():
    network = make_item_values((), ITEMS, WIDTH)
    params = network.init(jax.random.key(0))
    zero = network.apply(params, jnp.zeros(WIDTH))
    one, other = jax.random.normal(jax.random.key(1), (2, WIDTH))
    together = network.apply(params, one + other) - zero
    apart = network.apply(params, one) + network.apply(params, other) - 2 * zero
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert network.apply(params, jnp.ones((2, 3, WIDTH))).shape == (2, 3, ITEMS)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_the_value_of_one_item_is_its_entry_among_all(hidden):
    """And so is its gradient, which is that of one row of the last layer."""
    network = make_item_values(hidden, ITEMS, WIDTH)
    params = network.init(jax.random.key(0))
    states = jax.random.normal(jax.random.key(1), (7, WIDTH))
    items = jnp.array([0, 5, 2, 2, 3, 0, 4])

    def of_all(params):
        return network.apply(params, states)[jnp.arange(7), items]

    def of_one(params):
        return network.item_value(params, states, items)

    np.testing.assert_allclose(of_one(params), of_all(params), atol=1e-6)
    slope, reference = (
        jax.grad(lambda params, values=values: jnp.sum(jnp.sin(values(params))))(params)
        for values in (of_one, of_all)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slope, reference
    )
