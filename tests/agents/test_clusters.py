"""Picks in two steps against the same written over all users, and worked numbers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import categorical, clusters, dot_product
from darlr_jax.types import Clusters

USERS, WIDTH = 7, 3


def partition(groups):
    """`Clusters` from lists of users; all but the last are of one length."""
    size = len(groups[0])
    members = np.full((len(groups), size), -1, np.int32)
    slot = np.zeros(sum(map(len, groups)), np.int32)
    for g, group in enumerate(groups):
        members[g, : len(group)] = group
        slot[group] = g * size + np.arange(len(group))
    return Clusters(jnp.asarray(members), jnp.asarray(slot))


UNEVEN = [[4, 0, 2], [6, 1, 3], [5]]
partitions = pytest.mark.parametrize(
    "groups",
    [
        UNEVEN,
        [[1, 3, 5, 6], [0, 2, 4]],
        [list(range(USERS))],
        [[u] for u in range(USERS)],
    ],
    ids=["short", "two", "one", "singles"],
)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(query, keys, groups, gone):
    """The definition: probabilities `[G]` and `[G, U]` of one pick, as JAX arrays.

    Args:
      query: `[D]`.
      keys: `[U, D]`.
      groups: lists of users.
      gone: who may not be picked any more.
    """
    masks = np.array([[u in group for u in range(len(keys))] for group in groups])
    free = masks & ~np.isin(np.arange(len(keys)), gone)
    means = masks @ keys / masks.sum(axis=1, keepdims=True)
    of_groups = free.sum(axis=1) * jnp.exp(means @ query)
    of_users = free * jnp.exp(keys @ query)[None, :]
    total = of_users.sum(axis=1, keepdims=True)
    total = jnp.where(total > 0, total, 1)  # of clusters that are spent
    return of_groups / of_groups.sum(), of_users / total


def entropy(probs):
    return -jnp.sum(probs * jnp.log(jnp.where(probs > 0, probs, 1)))


@jax.jit
def evaluate_with(table, query, keys, user, picked):
    arranged = clusters.arrange(keys, table)
    return clusters.evaluate(query, arranged, user, picked, table)


def evaluate(query, keys, user, picked, groups):
    return evaluate_with(partition(groups), query, keys, user, picked)


def orders(user, k):
    """All that K picks can be."""
    others = [u for u in range(USERS) if u != user]
    return jnp.asarray(list(itertools.permutations(others, k)), jnp.int32)


@partitions
def test_log_probabilities_are_those_of_the_definition(groups):
    picked, user = np.array([[6, 0, 3, 1], [2, 4, 0, 5]]), np.array([4, 1])
    query, keys = normal(2, 4, WIDTH), normal(USERS, WIDTH, seed=1)

    found = evaluate(query, keys, user, picked, groups)

    for m, k in np.ndindex(2, 4):
        gone = [int(user[m]), *picked[m, :k].tolist()]
        of_groups, of_users = plain(query[m, k], keys, groups, gone)
        prob = (of_groups @ of_users)[picked[m, k]]
        np.testing.assert_allclose(found.log_prob[m, k], np.log(prob), rtol=1e-4)


@partitions
def test_all_that_k_picks_can_be_has_probability_one(groups):
    """Each query is another function of what was picked before, as in the selector."""
    user, k = 4, 3
    picked = orders(user, k)
    before = jnp.concatenate([jnp.full((len(picked), 1), user), picked[:, :-1]], axis=1)
    codes = jnp.cumsum(before * (1 + jnp.arange(k))[None, :] ** 2, axis=1)
    query = 3 * jnp.sin(codes[..., None] * jnp.arange(1.0, 4.0)[None, None, :])

    keys, users = normal(USERS, WIDTH), jnp.full(len(picked), user)
    found = evaluate(query, keys, users, picked, groups)

    probs = jnp.exp(found.log_prob.sum(axis=1))
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-5)
    assert probs.max() > 5 * probs.mean()  # no matter of course


@pytest.mark.parametrize(
    "groups",
    [[list(range(USERS))], [[u] for u in range(USERS)]],
    ids=["one", "singles"],
)
def test_one_cluster_and_clusters_of_one_are_the_softmax_over_all(groups):
    picked = orders(2, 3)[::17]
    user = jnp.full(len(picked), 2)
    query, keys = normal(len(picked), 3, WIDTH), normal(USERS, WIDTH, seed=1)

    found = evaluate(query, keys, user, picked, groups)

    turn = dot_product.last_turns(picked, USERS).at[:, 2].set(-1)
    expected = dot_product.evaluate(query, keys, turn, picked, block=USERS)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-4, atol=1e-5)


def test_clusters_of_one_mind_are_the_softmax_over_all():
    """Where the keys of a cluster are equal, short ones and spent ones included."""
    minds = jnp.array([0, 1, 0, 1, 0, 2, 1])  # as in UNEVEN
    keys = normal(3, WIDTH)[minds]
    picked = orders(2, 3)[::7]
    query = normal(len(picked), 3, WIDTH, seed=1)

    found = evaluate(query, keys, jnp.full(len(picked), 2), picked, UNEVEN)

    turn = dot_product.last_turns(picked, USERS).at[:, 2].set(-1)
    expected = dot_product.evaluate(query, keys, turn, picked, block=USERS)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-4, atol=1e-5)


def test_a_worked_example():
    """Keys ln 1, ln 4 | ln 3, ln 3; user 1 asks and has gone.

    The means are ln 2 and ln 3, so the clusters weigh 1 x 2 and 2 x 3. After user 0
    the first cluster is spent; after user 2 they weigh 1 x 2 and 1 x 3.
    """
    keys = jnp.log(jnp.array([[1.0], [4.0], [3.0], [3.0]]))
    picked = jnp.array([[0, 2], [2, 3], [2, 0]])

    found = evaluate(
        jnp.ones((3, 2, 1)), keys, jnp.ones(3, int), picked, [[0, 1], [2, 3]]
    )

    expected = np.log([[2 / 8, 1 / 2], [6 / 8 / 2, 3 / 5], [6 / 8 / 2, 2 / 5]])
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-5)
    clusters_of = [
        entropy(jnp.array(p)) for p in ([2 / 8, 6 / 8], [1.0], [2 / 5, 3 / 5])
    ]
    first = clusters_of[0] + np.array([0, math.log(2), math.log(2)])
    second = jnp.array([clusters_of[1] + math.log(2), clusters_of[2], clusters_of[2]])
    np.testing.assert_allclose(found.entropy, np.stack([first, second], 1), rtol=1e-5)


@partitions
def test_entropy_and_its_gradient_are_right_in_the_mean(groups):
    """Over all that a first pick can be, weighted by its probability."""
    user, keys, query = 4, normal(USERS, WIDTH), normal(WIDTH, seed=1)
    picked = orders(user, 1)

    def each(query, keys):
        queries = jnp.broadcast_to(query, (len(picked), 1, WIDTH))
        users = jnp.full(len(picked), user)
        return jax.tree.map(
            lambda leaf: leaf[:, 0], evaluate(queries, keys, users, picked, groups)
        )

    def whole(query, keys):
        of_groups, of_users = plain(query, keys, groups, [user])
        return entropy(of_groups) + of_groups @ jnp.stack(list(map(entropy, of_users)))

    probs = jnp.exp(each(query, keys).log_prob)
    found = probs @ each(query, keys).entropy
    np.testing.assert_allclose(found, whole(query, keys), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda *args: probs @ each(*args).entropy, (0, 1)))
    expected = jax.jit(jax.grad(whole, (0, 1)))(query, keys)
    for ours, theirs in zip(gradient(query, keys), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@partitions
def test_gradients_of_log_probabilities_are_those_of_the_definition(groups):
    picked, user = np.array([[6, 0, 3, 1]]), np.array([4])
    query, keys = normal(1, 4, WIDTH), normal(USERS, WIDTH, seed=1)
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])

    def ours(query, keys):
        return evaluate(query, keys, user, picked, groups).log_prob[0] @ weights

    def definition(query, keys):
        total = 0.0
        for k in range(4):
            gone = [4, *picked[0, :k].tolist()]
            of_groups, of_users = plain(query[0, k], keys, groups, gone)
            total += weights[k] * jnp.log((of_groups @ of_users)[picked[0, k]])
        return total

    found = jax.jit(jax.grad(ours, (0, 1)))(query, keys)
    expected = jax.jit(jax.grad(definition, (0, 1)))(query, keys)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_draw_is_one_of_clusters_and_one_within():
    table, keys, query = partition(UNEVEN), normal(USERS, WIDTH), normal(WIDTH, seed=1)
    offer, left = clusters.open_all(4, clusters.arrange(keys, table), table)
    uniform = jnp.array([0.7, 0.2])

    picked, after = clusters.draw(uniform, query, offer, left)

    of_groups, of_users = plain(query, keys, UNEVEN, [4])
    group = categorical.inverse_cdf(uniform[0], of_groups)
    order = jnp.array([*UNEVEN[int(group)]])
    place = categorical.inverse_cdf(uniform[1], of_users[group][order])
    assert picked == order[place]
    assert after.remaining.tolist() == [
        2 - (group == 0),
        3 - (group == 1),
        1 - (group == 2),
    ]
    assert int(left.free.sum() - after.free.sum()) == 1
    assert not after.free[group, place]
