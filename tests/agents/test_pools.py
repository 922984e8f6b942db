"""The selector with each of its pools: exact probabilities from picking to learning."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import selector
from darlr_jax.config import SelectorConfig
from darlr_jax.data.clusters import balanced_clusters
from darlr_jax.networks.selector import make_selector
from darlr_jax.types import UserTables
from tests import reference

USERS, FEATURES, CONTEXT, K_SEL = 7, 5, 4, 3
CONFIG = SelectorConfig(k_sel=K_SEL, window=3, width=8, heads=2, entropy_weight=0.1)
FEEDBACK = np.random.default_rng(0).normal(size=(USERS, FEATURES)).astype(np.float32)
NETWORK = make_selector(CONFIG, FEATURES, CONTEXT)
PARAMS = reference.random_params(NETWORK)
USER = 2
CANDIDATES = [0, 1, 4, 6]  # of USER
DRAWS = 20_000

everybody_else = np.array(
    [[v for v in range(USERS) if v != u] for u in range(USERS)], np.int32
)
some = np.array([sorted((u + d) % USERS for d in (2, 4, 5, 6)) for u in range(USERS)])
TABLES = {
    "all": None,
    "nearest": some.astype(np.int32),
    "clusters": balanced_clusters(FEEDBACK, 3),
    "everybody_else": everybody_else,
    "one_cluster": balanced_clusters(FEEDBACK, USERS),
    "clusters_of_one": balanced_clusters(FEEDBACK, 1),
}
KINDS = {"everybody_else": "nearest"} | dict.fromkeys(
    ["one_cluster", "clusters_of_one"], "clusters"
)
pools = pytest.mark.parametrize("pool", ["all", "nearest", "clusters"])


def config_of(pool, **changes):
    return dataclasses.replace(CONFIG, pool=KINDS.get(pool, pool), **changes)


def tables_of(pool):
    tables = UserTables(FEEDBACK, None, None, TABLES[pool])
    return jax.tree.map(jnp.asarray, tables)


@functools.cache
def selecting(pool):
    """The compiled `select_references` of users and contexts side by side."""
    bound = {"network": NETWORK, "config": config_of(pool)}
    one = functools.partial(selector.select_references, **bound)
    batched = jax.vmap(one, in_axes=(None, 0, 0, 0, None, None))

    def select(keys, users, contexts, tables):
        codes = selector.encode_users(PARAMS, tables, **bound)
        return batched(PARAMS, keys, users, contexts, codes, tables)

    return jax.jit(select)


def select(pool, draws=DRAWS, user=USER, seed=0):
    """Picks of one user in one state, many times."""
    keys = jax.random.split(jax.random.key(seed), draws)
    contexts = jnp.ones((draws, CONTEXT))
    users = jnp.broadcast_to(jnp.asarray(user, jnp.int32), (draws,))
    return selecting(pool)(keys, users, contexts, tables_of(pool))


@functools.cache
def losing(pool):
    """The compiled loss, its terms and its gradient."""
    bound = {"network": NETWORK, "config": config_of(pool)}

    def loss(params, tables, batch):
        codes = selector.encode_users(params, tables, **bound)
        return selector.loss(params, codes, batch, tables, **bound)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def losing_each(pool):
    """The compiled terms of the loss, a row of a minibatch at a time."""
    bound = {"network": NETWORK, "config": config_of(pool)}

    def losses(batch, tables):
        codes = selector.encode_users(PARAMS, tables, **bound)
        rows = jax.tree.map(lambda leaf: leaf[:, None], batch)
        one = functools.partial(selector.loss, **bound)
        return jax.vmap(one, (None, None, 0, None))(PARAMS, codes, rows, tables)[1]

    return jax.jit(losses)


def batch_of(picked, user=USER, seed=1):
    rng = np.random.default_rng(seed)
    size = len(picked)
    return selector.SelectorBatch(
        user=jnp.full(size, user),
        context=jnp.ones((size, CONTEXT)),
        picked=jnp.asarray(picked),
        target=jnp.asarray(rng.normal(size=(size, K_SEL)), jnp.float32),
        advantage=jnp.asarray(rng.normal(size=(size, K_SEL)), jnp.float32),
        weight=jnp.full(size, 1 / size),
    )


def probabilities(pool, orders):
    """Of all K picks at once, as learning has them: with an advantage of -K each."""
    batch = batch_of(orders)
    batch = batch._replace(
        weight=jnp.ones(len(orders)),
        advantage=jnp.full(batch.target.shape, -1.0 * K_SEL),
    )
    return np.exp(losing_each(pool)(batch, tables_of(pool)).policy)


def possible_orders(pool):
    others = CANDIDATES if pool == "nearest" else [u for u in range(USERS) if u != USER]
    return np.array(list(itertools.permutations(others, K_SEL)), np.int32)


@pools
def test_what_is_learned_from_is_the_probability_of_what_was_picked(pool):
    orders = possible_orders(pool)

    expected = probabilities(pool, orders)
    picked = np.asarray(select(pool)[0])

    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-4)
    same = (picked[:, None, :] == orders[None, :, :]).all(axis=2)
    assert same.any(axis=1).all()  # nobody twice, nobody from outside, never the user
    deviation = np.sqrt(expected * (1 - expected) / DRAWS)
    np.testing.assert_array_less(
        abs(same.mean(axis=0) - expected), 5 * deviation + 1e-4
    )


@pools
def test_values_are_those_that_learning_computes(pool):
    picked, value = select(pool, draws=64)

    batch = batch_of(picked)._replace(target=value)
    (_, losses), _ = losing(pool)(PARAMS, tables_of(pool), batch)

    assert losses.value < 1e-9  # the mean square of what differs
    assert np.ptp(value[:, 1]) > 0.01


@pytest.mark.parametrize("pool", ["nearest", "clusters"])
@pytest.mark.parametrize("chunk", [3, 64])
def test_gradients_by_chunks_are_those_of_the_whole_loss(pool, chunk):
    batch, tables = batch_of(select(pool, draws=7)[0]), tables_of(pool)
    config = config_of(pool, learning_chunk=chunk)

    found, losses = jax.jit(
        functools.partial(selector.loss_gradients, network=NETWORK, config=config)
    )(PARAMS, batch, tables)

    (_, expected_losses), expected = losing(pool)(PARAMS, tables, batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("pool", ["everybody_else", "one_cluster", "clusters_of_one"])
def test_pools_that_restrict_nothing_learn_what_the_plain_selector_learns(pool):
    batch = batch_of(select("all", draws=7)[0])

    (_, losses), found = losing(pool)(PARAMS, tables_of(pool), batch)

    (_, expected_losses), expected = losing("all")(PARAMS, tables_of("all"), batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("user", [0, 2, 6])
def test_a_pool_of_everybody_else_picks_what_the_plain_selector_picks(user):
    picked, value = select("everybody_else", draws=200, user=user)

    expected, expected_value = select("all", draws=200, user=user)
    np.testing.assert_array_equal(picked, expected)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["nearest", "clusters"])
def test_an_entropy_without_a_weight_is_not_differentiated(pool):
    """Its value is reported all the same."""
    config = config_of(pool, entropy_weight=0.0)
    batch, tables = batch_of(select(pool, draws=7)[0]), tables_of(pool)
    bound = {"network": NETWORK, "config": config}

    def entropy(params):
        codes = selector.encode_users(params, tables, **bound)
        return selector.loss(params, codes, batch, tables, **bound)[1].entropy

    value, gradient = jax.jit(jax.value_and_grad(entropy))(PARAMS)

    (_, losses), _ = losing(pool)(PARAMS, tables, batch)
    np.testing.assert_allclose(value, losses.entropy, rtol=1e-5)
    assert value > 0.5
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
