"""The selector: picking users one after another, and learning from stored picks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import categorical, selector
from darlr_jax.config import SelectorConfig
from darlr_jax.networks.selector import make_selector
from darlr_jax.types import Coefficients, References, RewardTables, UserTables
from tests import reference

USERS, FEATURES, CONTEXT, ITEMS = 7, 5, 4, 3
CONFIG = SelectorConfig(
    k_sel=4,
    window=3,
    width=8,
    heads=2,
    value_weight=0.5,
    entropy_weight=0.1,
)
EPISODES = 64
FEEDBACK = np.random.default_rng(0).normal(size=(USERS, FEATURES)).astype(np.float32)

# K is 4: a window of one token, one that forgets, one that is never filled.
windows = pytest.mark.parametrize(("window", "layers"), [(1, 1), (3, 2), (6, 1)])


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def network_of(config):
    return make_selector(config, FEATURES, CONTEXT)


def tables_of(feedback, similarity=None):
    """Of users about whom nothing else matters here."""
    return UserTables(feedback, similarity, neighbours=None)


@functools.cache
def params_of(config, scale=0.5):
    return reference.random_params(network_of(config), scale=scale)


@functools.cache
def selecting(config):
    """The compiled `select_references` of a batch, feedback included."""
    bound = {"network": network_of(config), "config": config}
    one = functools.partial(selector.select_references, **bound)
    batched = jax.vmap(one, in_axes=(None, 0, 0, 0, None, None))

    def select(params, keys, users, contexts, feedback):
        tables = tables_of(feedback)
        codes = selector.encode_users(params, tables, **bound)
        return batched(params, keys, users, contexts, codes, tables)

    return jax.jit(select)


@functools.cache
def losing(config):
    """The compiled `loss`, feedback included."""
    bound = {"network": network_of(config), "config": config}

    def loss(params, feedback, batch):
        tables = tables_of(feedback)
        codes = selector.encode_users(params, tables, **bound)
        return selector.loss(params, codes, batch, tables, **bound)

    return jax.jit(loss)


@functools.cache
def learning(config):
    """The compiled gradient of `losing`, of the whole loss at once."""
    return jax.jit(jax.grad(losing(config), has_aux=True))


def situations(seed=1):
    """Keys, users and contexts of some recommendations."""
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS, size=EPISODES).astype(np.int32)
    contexts = rng.normal(size=(EPISODES, CONTEXT)).astype(np.float32)
    return jax.random.split(jax.random.key(seed), EPISODES), users, contexts


def stored_picks(seed=2, size=7, k_sel=4):
    """A minibatch of arbitrary legal picks."""
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(USERS) for _ in range(size)]).astype(np.int32)
    weight = rng.random(size).astype(np.float32)
    return selector.SelectorBatch(
        user=orders[:, 0],
        context=rng.normal(size=(size, CONTEXT)).astype(np.float32),
        picked=orders[:, 1 : k_sel + 1],
        target=rng.normal(size=(size, k_sel)).astype(np.float32),
        advantage=rng.normal(size=(size, k_sel)).astype(np.float32),
        weight=weight / weight.sum(),
    )


# --- picking --------------------------------------------------------------------------


@windows
def test_picks_and_values_are_those_of_the_slow_selector(window, layers):
    config = changed(window=window, layers=layers)
    params = params_of(config)
    keys, users, contexts = situations()

    picked, values = selecting(config)(params, keys, users, contexts, FEEDBACK)

    for episode, key in enumerate(keys[:6]):
        uniforms = jax.random.uniform(key, (config.k_sel,))
        seen = [int(users[episode])]
        for j in range(config.k_sel):
            logits, value = reference.selector_pick(
                params, config, FEEDBACK, contexts[episode], seen
            )
            free = [user not in seen for user in range(USERS)]
            ends = np.cumsum(reference.probabilities(logits, free))
            pick = int(np.searchsorted(ends, uniforms[j], side="right"))
            assert pick == picked[episode, j]
            np.testing.assert_allclose(values[episode, j], value, rtol=1e-4, atol=1e-5)
            seen.append(pick)


@pytest.mark.parametrize("scale", [0.5, 30.0], ids=["spread", "peaked"])
@pytest.mark.parametrize("k_sel", [4, USERS - 1])
def test_picks_are_different_users_and_never_the_current_one(k_sel, scale):
    config = changed(k_sel=k_sel)
    keys, users, contexts = situations()

    picked, _ = selecting(config)(
        params_of(config, scale), keys, users, contexts, FEEDBACK
    )

    assert picked.dtype == jnp.int32
    for user, picks in zip(users.tolist(), picked.tolist(), strict=True):
        assert len({user, *picks}) == k_sel + 1
        assert {user, *picks} <= set(range(USERS))


def test_one_pick_is_one_categorical_draw():
    config = changed(k_sel=1)
    network, params = network_of(config), params_of(config)
    keys, users, contexts = situations()

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    def draw(params, key, user, context):
        codes = network.encode_users(params, FEEDBACK)
        of_context = network.encode_context(params, context)
        window = of_context.at[0].add(codes.images[user])
        valid = jnp.arange(config.window) == 0
        query, value = network.apply(params, window, valid)
        mask = jnp.arange(USERS) != user
        uniform = jax.random.uniform(key, (1,))[0]
        return categorical.sample(uniform, codes.keys @ query, mask), value

    picked, values = selecting(config)(params, keys, users, contexts, FEEDBACK)
    drawn, value = draw(params, keys, users, contexts)

    np.testing.assert_array_equal(picked[:, 0], drawn)
    np.testing.assert_allclose(values[:, 0], value, rtol=1e-6)
    assert len(set(drawn.tolist())) > 3


def test_an_element_does_not_depend_on_its_batch():
    keys, users, contexts = situations()
    other_keys, other_users, other_contexts = situations(seed=9)
    params, select = params_of(CONFIG), selecting(CONFIG)

    picked, values = select(params, keys, users, contexts, FEEDBACK)
    mixed = select(
        params,
        jnp.concatenate([keys[:1], other_keys[1:]]),
        np.concatenate([users[:1], other_users[1:]]),
        np.concatenate([contexts[:1], other_contexts[1:]]),
        FEEDBACK,
    )
    alone = select(params, keys[:1], users[:1], contexts[:1], FEEDBACK)

    np.testing.assert_array_equal(mixed[0][0], picked[0])
    np.testing.assert_array_equal(mixed[1][0], values[0])
    assert (mixed[0][1:] != picked[1:]).any()
    np.testing.assert_array_equal(alone[0][0], picked[0])
    np.testing.assert_allclose(alone[1][0], values[0], rtol=1e-5, atol=1e-6)


def test_random_references_are_uniform_without_replacement():
    user, draws = 2, 4000
    keys = jax.random.split(jax.random.key(0), draws)

    picked = np.asarray(
        jax.vmap(lambda key: selector.random_references(key, user, USERS, 3))(keys)
    )

    assert (picked != user).all()
    assert (np.diff(np.sort(picked, axis=1), axis=1) > 0).all()
    for place in range(3):  # at each place, each of the 6 others equally often
        share = np.bincount(picked[:, place], minlength=USERS) / draws
        expected = np.where(np.arange(USERS) == user, 0, 1 / 6)
        # five standard deviations of a share
        np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(5 / 36 / draws))


def test_random_references_can_be_everybody_else():
    picked = selector.random_references(jax.random.key(0), 0, USERS, USERS - 1)

    assert sorted(picked.tolist()) == [1, 2, 3, 4, 5, 6]


# --- gains and rewards ----------------------------------------------------------------


def random_similarity(seed=3):
    rows = np.random.default_rng(seed).normal(size=(USERS, FEATURES))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows @ rows.T).astype(np.float32)


@jax.jit
def gains(user, picked, similarity):
    """`reference_users`, of which only the similarity matters here."""
    return selector.reference_users(user, picked, tables_of(FEEDBACK, similarity))


def test_gains_worked_numbers():
    cosine = np.array([[1, 0.5, 0], [0.5, 1, -1], [0, -1, 1]], np.float32)

    found = gains(1, np.array([0, 1, 2]), cosine)

    np.testing.assert_array_equal(found.similarity, [0.5, 1, -1])
    # pick 1: 1 - 1/2; pick 2: ((1 - 0) + (1 + 1)) / 2
    np.testing.assert_allclose(found.diversity, [0, 0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("k_sel", [1, 2, 6])
def test_gains_match_the_definition(k_sel):
    cosine = random_similarity()
    user, *picked = np.random.default_rng(4).permutation(USERS)[: k_sel + 1]

    found = gains(user, np.array(picked), cosine)

    np.testing.assert_array_equal(found.users, picked)
    np.testing.assert_array_equal(found.similarity, [cosine[user, v] for v in picked])
    expected = reference.diversity_gain(picked, cosine)
    np.testing.assert_allclose(found.diversity, expected, rtol=1e-5, atol=1e-6)


def test_users_of_one_mind_are_similar_and_not_diverse():
    found = gains(0, np.array([3, 1, 4]), np.ones((USERS, USERS), np.float32))

    np.testing.assert_array_equal(found.similarity, np.ones(3))
    np.testing.assert_array_equal(found.diversity, np.zeros(3))


@pytest.mark.parametrize("mode", ["raw", "item_centred", "user_centred", "absent"])
@pytest.mark.parametrize(("lambda_s", "lambda_d"), [(0.0, 0.0), (1.5, -0.4)])
def test_intrinsic_reward_matches_the_definition(mode, lambda_s, lambda_d):
    base = np.random.default_rng(5).normal(size=(USERS, ITEMS)).astype(np.float32)
    cosine, user, item, picked = random_similarity(), 2, 1, [5, 0, 6, 3]
    unused = np.nan  # what the intrinsic reward must not look at
    tables = RewardTables(
        jnp.asarray(base), jnp.asarray(base.mean(axis=0)), *[unused] * 7
    )
    coefficients = Coefficients(unused, unused, lambda_s, lambda_d, unused, unused)
    references = References(
        jnp.array(picked),
        jnp.asarray(cosine[user, picked]),
        jnp.asarray(reference.diversity_gain(picked, cosine), jnp.float32),
    )

    found = selector.intrinsic_reward(
        user,
        item,
        references,
        tables,
        coefficients,
        config=changed(reward_estimate=mode),
    )

    expected = reference.intrinsic_reward(
        mode, user, item, picked, base, cosine, lambda_s, lambda_d
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- learning -------------------------------------------------------------------------


@windows
def test_loss_is_that_of_the_picks_replayed_one_by_one(window, layers):
    config = changed(window=window, layers=layers)
    params, batch = params_of(config), stored_picks()

    total, losses = losing(config)(params, FEEDBACK, batch)

    replayed = [
        reference.selector_episode(params, config, FEEDBACK, context, user, picked)
        for context, user, picked in zip(
            batch.context, batch.user, batch.picked, strict=True
        )
    ]
    log_probs, values, entropies = (
        np.concatenate(part) for part in zip(*replayed, strict=True)
    )
    expected = reference.actor_critic_loss(
        log_probs,
        values,
        entropies,
        batch.target.ravel(),
        batch.advantage.ravel(),
        np.repeat(batch.weight / config.k_sel, config.k_sel),
        value_weight=config.value_weight,
        entropy_weight=config.entropy_weight,
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    assert total == losses.total


@windows
def test_each_log_probability_is_that_of_the_replayed_pick(window, layers):
    config = changed(window=window, layers=layers)
    params, batch = params_of(config), stored_picks(size=1)
    # With an advantage of -K at one pick and 0 elsewhere, its log pi is what is left.
    one_hot = -config.k_sel * np.eye(config.k_sel, dtype=np.float32)[:, None, :]
    loss = jax.vmap(
        lambda advantage: losing(config)(
            params, FEEDBACK, batch._replace(advantage=advantage)
        )
    )

    found = loss(one_hot)[1].policy

    expected, _, _ = reference.selector_episode(
        params, config, FEEDBACK, batch.context[0], batch.user[0], batch.picked[0]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@windows
def test_learning_sees_the_values_that_were_stored_when_picking(window, layers):
    config = changed(window=window, layers=layers)
    params, (keys, users, contexts) = params_of(config), situations()
    picked, values = selecting(config)(params, keys, users, contexts, FEEDBACK)
    batch = stored_picks(size=EPISODES)._replace(
        user=users, context=contexts, picked=picked
    )

    _, exact = losing(config)(params, FEEDBACK, batch._replace(target=values))
    _, moved = losing(config)(params, FEEDBACK, batch._replace(target=values + 1))

    assert exact.value < 1e-9  # the mean square of what differs
    np.testing.assert_allclose(moved.value, 1, rtol=1e-4)


def test_the_names_of_the_users_do_not_matter():
    params, batch = params_of(CONFIG), stored_picks()
    order = np.random.default_rng(6).permutation(USERS)  # new name -> old name
    renamed = np.argsort(order).astype(np.int32)
    renamed_batch = batch._replace(
        user=renamed[batch.user], picked=renamed[batch.picked]
    )
    found, losses = learning(CONFIG)(params, FEEDBACK[order], renamed_batch)

    expected, expected_losses = learning(CONFIG)(params, FEEDBACK, batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


def test_logits_are_permuted_with_the_users():
    network, params = network_of(CONFIG), params_of(CONFIG)
    order = np.random.default_rng(7).permutation(USERS)
    shape = (3, 4, CONFIG.width)
    images = np.random.default_rng(8).normal(size=shape).astype(np.float32)

    @jax.jit
    def logits(feedback):
        keys = network.encode_users(params, feedback).keys
        return keys @ network.apply(params, images, np.ones(3, bool)).query

    found = logits(FEEDBACK[order])
    np.testing.assert_allclose(found, logits(FEEDBACK)[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 10])  # of M = 7: 3 does not divide it
def test_gradients_by_chunks_are_those_of_the_whole_loss(chunk):
    config = changed(learning_chunk=chunk)
    network, params = network_of(config), params_of(CONFIG)
    batch = stored_picks()

    found, losses = jax.jit(
        functools.partial(selector.loss_gradients, network=network, config=config)
    )(params, batch, tables_of(FEEDBACK))

    expected, expected_losses = learning(CONFIG)(params, FEEDBACK, batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


def test_recommendations_of_weight_zero_teach_nothing():
    batch, other = stored_picks(), stored_picks(seed=11)
    row = np.arange(7) == 2
    weight = np.where(row, 0, batch.weight)

    def replace_row(one, two):
        return np.where(row.reshape(-1, *[1] * (one.ndim - 1)), two, one)

    changed_batch = jax.tree.map(replace_row, batch, other)._replace(weight=weight)
    found = learning(CONFIG)(params_of(CONFIG), FEEDBACK, changed_batch)

    batch = batch._replace(weight=weight)
    expected = learning(CONFIG)(params_of(CONFIG), FEEDBACK, batch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, found, expected)
