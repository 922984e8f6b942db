"""Dot-product policies against the plain softmax over all actions, and its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import categorical, dot_product, pools
from darlr_jax.config import SelectorConfig
from darlr_jax.data.clusters import balanced_clusters
from darlr_jax.types import UserTables

EPISODES, CHOICES, ACTIONS, WIDTH = 3, 4, 11, 5

# One block, a full last block (11 = 1 x 11), one that is filled up, one action a block.
blocks = pytest.mark.parametrize("block", [1, 4, 11, 2048])


def choices(seed=0, scale=1.0):
    """Queries, keys, turns and actions of some episodes without replacement."""
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(ACTIONS) for _ in range(EPISODES)])
    action, forbidden = orders[:, 1 : CHOICES + 1], orders[:, 0]
    turn = np.full((EPISODES, ACTIONS), CHOICES, np.int32)
    for episode in range(EPISODES):
        turn[episode, action[episode]] = np.arange(CHOICES)
        turn[episode, forbidden[episode]] = -1
    query = scale * rng.normal(size=(EPISODES, CHOICES, WIDTH))
    keys = rng.normal(size=(ACTIONS, WIDTH))
    return (
        jnp.asarray(query, jnp.float32),
        jnp.asarray(keys, jnp.float32),
        jnp.asarray(turn),
        jnp.asarray(action, jnp.int32),
    )


def plain(query, keys, turn, action):
    """The definition: a masked softmax over all actions."""
    mask = turn[:, None, :] >= jnp.arange(query.shape[1])[None, :, None]
    log_probs = categorical.masked_log_softmax(query @ keys.T, mask)
    return dot_product.Evaluation(
        categorical.log_prob(log_probs, action), categorical.entropy(log_probs)
    )


def some_loss(evaluate, weights):
    """Any smooth function of everything that an evaluation says."""

    def loss(query, keys, turn, action):
        found = evaluate(query, keys, turn, action)
        mixed = weights[0] * found.log_prob**2 + weights[1] * jnp.sin(found.entropy)
        return jnp.sum(jnp.arange(1, mixed.size + 1).reshape(mixed.shape) * mixed)

    return loss


@blocks
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["spread", "peaked"])
def test_values_are_those_of_the_softmax_over_all_actions(block, scale):
    inputs = choices(scale=scale)

    found = jax.jit(functools.partial(dot_product.evaluate, block=block))(*inputs)

    expected = plain(*inputs)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-4, atol=1e-4)


def precisions(jaxpr):
    """Of every matrix product, also within loops and calls."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.add(equation.params["precision"])
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                found |= precisions(inner)
    return found


@pytest.mark.parametrize("kind", ["all", "nearest", "clusters"])
def test_draws_and_log_probabilities_are_exact_where_devices_round(kind):
    query, keys, _, action = choices()
    config = SelectorConfig(pool=kind, k_sel=CHOICES, user_block=4)
    pool, user = pools.pool_of(config), jnp.zeros(EPISODES, jnp.int32)
    everybody = jnp.broadcast_to(jnp.arange(ACTIONS), (ACTIONS, ACTIONS))
    tables = {"nearest": everybody, "clusters": balanced_clusters(np.asarray(keys), 4)}
    users = UserTables(keys, None, None, tables.get(kind))
    users = jax.tree.map(jnp.asarray, users)

    def draw(query, keys):
        offer, left = pool.open(user[0], pool.arrange(keys, users), users)
        return pool.draw(jnp.full(pool.uniforms, 0.5), query, offer, left)

    def evaluate(query, keys):
        arranged = pool.arrange(keys, users)
        return pool.evaluate(query, arranged, user, action, users, config)

    exact = {(dot_product.EXACT, dot_product.EXACT)}
    assert precisions(jax.make_jaxpr(draw)(query[0, 0], keys)) == exact
    assert precisions(jax.make_jaxpr(evaluate)(query, keys)) == exact


@blocks
def test_gradients_are_those_of_the_softmax_over_all_actions(block):
    inputs, weights = choices(), (0.3, 0.7)
    evaluate = functools.partial(dot_product.evaluate, block=block)

    found = jax.jit(jax.grad(some_loss(evaluate, weights), (0, 1)))(*inputs)

    expected = jax.grad(some_loss(plain, weights), (0, 1))(*inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@blocks
def test_an_entropy_that_is_a_constant_leaves_the_gradient_of_the_rest(block):
    inputs = choices()
    evaluate = functools.partial(
        dot_product.evaluate, block=block, entropy_gradient=False
    )

    found = jax.jit(jax.grad(some_loss(evaluate, (0.3, 0.7)), (0, 1)))(*inputs)

    expected = jax.grad(some_loss(plain, (0.3, 0.0)), (0, 1))(*inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@blocks
def test_a_worked_example(block):
    """Logits 0, ln 2, ln 3: taken first, ln 3 leaves 1/3 and 2/3 behind."""
    keys = jnp.log(jnp.array([[1.0], [2.0], [3.0], [9.0]]))  # the last is forbidden
    turn = jnp.array([[2, 1, 0, -1]])

    found = dot_product.evaluate(
        jnp.ones((1, 2, 1)), keys, turn, jnp.array([[2, 1]]), block=block
    )

    first = np.array([1, 2, 3]) / 6
    second = np.array([1, 2]) / 3
    np.testing.assert_allclose(found.log_prob, np.log([[3 / 6, 2 / 3]]), rtol=1e-5)
    entropies = [-np.sum(p * np.log(p)) for p in (first, second)]
    np.testing.assert_allclose(found.entropy, [entropies], rtol=1e-5)


def test_keys_may_be_moved_by_any_vector():
    """The logits of a choice then change by one number, its policy does not."""
    query, keys, turn, action = choices()

    found = dot_product.evaluate(query, keys + 3.0, turn, action, block=4)

    expected = dot_product.evaluate(query, keys, turn, action, block=4)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
