"""The recommender: acting on a history and learning from stored recommendations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import recommender
from darlr_jax.config import ExperimentConfig, RecommenderConfig, TrackerConfig
from darlr_jax.types import EMPTY, Observation, RewardScale
from tests import reference

ITEMS, ITEM_WIDTH, ROWS = 6, 3, 5
HEAD = RecommenderConfig(hidden=(7, 5), value_weight=0.5, entropy_weight=0.1)
AVERAGE = TrackerConfig(kind="average", window=3)
TRANSFORMER = TrackerConfig(kind="transformer", window=3, layers=1, dropout=0.5)
SCALE = RewardScale(jnp.array(-1.0), jnp.array(3.0))
OBSERVATION = Observation(
    np.array([4, ITEMS, EMPTY], np.int32), np.array([2.0, 1.0, 0.0], np.float32)
)


@functools.cache
def networks_of(tracker):
    config = dataclasses.replace(ExperimentConfig(), tracker=tracker, recommender=HEAD)
    return recommender.make_networks(config, ITEMS, ITEM_WIDTH)


@functools.cache
def params_of(tracker, scale=0.5):
    networks = networks_of(tracker)
    vectors = jax.ShapeDtypeStruct((ITEMS, ITEM_WIDTH), jnp.float32)
    return recommender.RecommenderParams(
        reference.random_params(networks.tracker, 0, scale, args=(vectors,)),
        reference.random_params(networks.actor_critic, 1, scale),
    )


@functools.cache
def acting(tracker, explore):
    """The compiled `act` for many keys in one situation."""
    one = functools.partial(
        recommender.act, networks=networks_of(tracker), explore=explore
    )
    return jax.jit(jax.vmap(one, in_axes=(None, 0, None, None, None)))


@functools.cache
def learning(tracker=AVERAGE, chunk=ROWS):
    """The compiled `loss_gradients`."""
    config = dataclasses.replace(HEAD, learning_chunk=chunk)
    return jax.jit(
        functools.partial(
            recommender.loss_gradients, networks=networks_of(tracker), config=config
        )
    )


def keys(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def stored(masked):
    """A minibatch of arbitrary recommendations; item 5 was never allowed if masked."""
    rng = np.random.default_rng(0)
    items = rng.integers(5, size=(ROWS, 3)).astype(np.int32)
    items[0, 1:] = ITEMS, EMPTY
    used = rng.random((ROWS, ITEMS)) < 0.4
    used[:, 5] = True
    actions = rng.integers(5, size=ROWS).astype(np.int32)
    used[np.arange(ROWS), actions] = False
    weight = rng.random(ROWS).astype(np.float32)
    return recommender.RecommenderBatch(
        observation=Observation(items, rng.normal(size=(ROWS, 3)).astype(np.float32)),
        used=used if masked else None,
        item=actions,
        target=rng.normal(size=ROWS).astype(np.float32),
        advantage=rng.normal(size=ROWS).astype(np.float32),
        weight=weight / weight.sum(),
    )


def slow_head(params, observation):
    """Logits and value of one situation, average tracker."""
    vectors = params.tracker["item_vectors"]
    tokens = reference.tracker_tokens(vectors, *observation, SCALE.low, SCALE.high)
    return reference.actor_critic(params.actor_critic, sum(tokens) / len(tokens))


# --- acting ---------------------------------------------------------------------------


@pytest.mark.parametrize("used", [[], [0, 3]], ids=["all allowed", "two used"])
def test_actions_follow_the_renormalised_policy(used):
    params, draws = params_of(AVERAGE), 4000
    mask = np.isin(np.arange(ITEMS), used)

    action = acting(AVERAGE, True)(params, keys(draws), OBSERVATION, mask, SCALE)

    logits, value = slow_head(params, OBSERVATION)
    expected = reference.probabilities(logits, ~mask)
    share = np.bincount(action.item, minlength=ITEMS) / draws
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(share - expected) <= 5 * deviation).all()
    np.testing.assert_allclose(action.value, np.full(draws, value), rtol=1e-5)
    assert action.item.dtype == jnp.int32


def test_without_a_mask_as_with_nothing_used():
    params = params_of(AVERAGE)
    unmasked = acting(AVERAGE, True)(params, keys(4000), OBSERVATION, None, SCALE)
    nothing = np.zeros(ITEMS, bool)

    masked = acting(AVERAGE, True)(params, keys(4000), OBSERVATION, nothing, SCALE)

    np.testing.assert_array_equal(unmasked.item, masked.item)


@pytest.mark.parametrize("scale", [0.5, 100.0], ids=["spread", "peaked"])
@pytest.mark.parametrize("free", [[0], [5], [1, 4]])
def test_used_items_are_never_recommended(free, scale):
    params = params_of(AVERAGE, scale)
    used = ~np.isin(np.arange(ITEMS), free)

    action = acting(AVERAGE, True)(params, keys(4000), OBSERVATION, used, SCALE)

    assert set(np.asarray(action.item).tolist()) <= set(free)


def test_dropout_is_for_exploration():
    params, nothing = params_of(TRANSFORMER), np.zeros(ITEMS, bool)

    calm = acting(TRANSFORMER, False)(params, keys(8), OBSERVATION, nothing, SCALE)
    explore = acting(TRANSFORMER, True)(params, keys(8), OBSERVATION, nothing, SCALE)

    np.testing.assert_array_equal(calm.state, np.tile(calm.state[:1], (8, 1)))
    assert len(np.unique(np.asarray(explore.state), axis=0)) == 8


@pytest.mark.parametrize("readout", ["newest", "published"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_values_where_an_action_is_learned(readout, length):
    """An advantage needs the critic where it is trained (protocol 5)."""
    tracker = dataclasses.replace(TRANSFORMER, readout=readout, dropout=0.0)
    params, networks = params_of(tracker), networks_of(tracker)
    items = np.array([4, 2, ITEMS], np.int32)[-length:]
    items = np.pad(items, (0, 3 - length), constant_values=EMPTY)
    observation = Observation(items, OBSERVATION.rewards)
    acted = acting(tracker, True)(
        params, keys(1), observation, np.zeros(ITEMS, bool), SCALE
    ).value[0]

    learned = recommender.learned_value(
        params, keys(1)[0], observation, SCALE, networks=networks
    )

    state = networks.tracker.apply(params.tracker, observation, SCALE, acting=False)
    expected = networks.actor_critic.apply(params.actor_critic, state).value
    np.testing.assert_allclose(learned, expected, rtol=1e-5)
    differs = readout == "published" and length < 3
    assert networks.learns_elsewhere == (readout == "published")
    assert np.allclose(acted, learned, rtol=1e-3) != differs


# --- learning -------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_loss_matches_the_definition(masked):
    params, batch = params_of(AVERAGE), stored(masked)

    _, losses = learning()(params, jax.random.key(0), batch, SCALE)

    log_probs, values, entropies = [], [], []
    for m in range(ROWS):
        observation = Observation(*(part[m] for part in batch.observation))
        logits, value = slow_head(params, observation)
        allowed = ~batch.used[m] if masked else None
        log_probs.append(reference.log_probability(logits, batch.item[m], allowed))
        entropies.append(reference.entropy(reference.probabilities(logits, allowed)))
        values.append(value)
    expected = reference.actor_critic_loss(
        log_probs,
        values,
        entropies,
        batch.target,
        batch.advantage,
        batch.weight,
        value_weight=0.5,
        entropy_weight=0.1,
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


def test_logits_of_used_items_do_not_matter():
    params, batch = params_of(AVERAGE), stored(masked=True)  # item 5 is always used
    head = jax.tree.map(np.copy, params.actor_critic)
    head["actor"]["Dense_0"]["bias"][5] += 50
    moved = params._replace(actor_critic=head)

    found = learning()(moved, jax.random.key(0), batch, SCALE)

    expected = learning()(params, jax.random.key(0), batch, SCALE)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found[0].actor_critic["actor"]["Dense_0"]["bias"][5] == 0).all()


def test_the_tracker_learns_the_items_that_it_saw():
    params, batch = params_of(AVERAGE), stored(masked=False)

    gradient, _ = learning()(params, jax.random.key(0), batch, SCALE)

    moved = np.abs(gradient.tracker["item_vectors"]).sum(axis=1) > 0
    seen = np.isin(np.arange(ITEMS + 1), batch.observation.items)
    np.testing.assert_array_equal(moved, seen)
    assert not seen.all()


@pytest.mark.parametrize("chunk", [1, 2, 8])  # of M = 5: 2 does not divide it
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_by_chunks_are_those_of_the_whole_loss(chunk, masked):
    params, batch = params_of(AVERAGE), stored(masked)

    found = learning(chunk=chunk)(params, jax.random.key(0), batch, SCALE)

    loss = functools.partial(
        recommender.loss, networks=networks_of(AVERAGE), config=HEAD
    )
    whole = jax.jit(jax.grad(loss, has_aux=True))
    expected = whole(params, jax.random.key(0), batch, SCALE)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


def test_each_chunk_draws_its_own_dropout():
    # Two chunks of one and the same row: with one dropout mask for both, they would
    # teach twice what one of them does. Two masks can have one loss, where no unit of
    # the head is alive, but not under each of some keys.
    batch = jax.tree.map(lambda leaf: np.repeat(leaf[1:2], 2, axis=0), stored(False))
    one = jax.tree.map(lambda leaf: leaf[:1], batch)
    learn = learning(TRANSFORMER, chunk=1)

    def difference(key):
        _, losses = learn(params_of(TRANSFORMER), key, batch, SCALE)
        _, of_one = learn(params_of(TRANSFORMER), key, one, SCALE)
        return abs(losses.total - 2 * of_one.total)

    assert max(map(difference, keys(4))) > 1e-3


def test_init_starts_from_the_item_vectors():
    networks = networks_of(AVERAGE)
    vectors = np.random.default_rng(0).normal(size=(ITEMS, ITEM_WIDTH))
    vectors = vectors.astype(np.float32)
    init = jax.jit(functools.partial(recommender.init, networks=networks))

    params = init(jax.random.key(0), vectors)

    np.testing.assert_array_equal(params.tracker["item_vectors"][:-1], vectors)
    shapes = jax.tree.map(np.shape, params_of(AVERAGE))
    assert jax.tree.map(np.shape, params) == shapes
