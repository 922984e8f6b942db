"""State trackers: what of a history enters the state, and how."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.config import TrackerConfig
from darlr_jax.networks.state_tracker import make_state_tracker
from darlr_jax.types import EMPTY, Observation, RewardScale
from tests import reference

ITEMS, ITEM_WIDTH, WINDOW = 5, 3, 4  # a token has 4 entries
START = ITEMS
SCALE = RewardScale(jnp.array(1.0), jnp.array(5.0))

kinds = pytest.mark.parametrize("kind", ["average", "transformer"])
dropouts = pytest.mark.parametrize("dropout", [0.0, 0.5])


@functools.cache
def tracker_of(kind, **options):
    return make_state_tracker(TrackerConfig(kind=kind, **options), ITEMS, ITEM_WIDTH)


@functools.cache
def params_of(kind, layers=2):
    network = tracker_of(kind, layers=layers)
    vectors = jax.ShapeDtypeStruct((ITEMS, ITEM_WIDTH), jnp.float32)
    return reference.random_params(network, args=(vectors,))


@functools.cache
def tracking(kind, acting=True, **options):
    return jax.jit(functools.partial(tracker_of(kind, **options).apply, acting=acting))


def history(items, rewards):
    return Observation(np.array(items, np.int32), np.array(rewards, np.float32))


def histories(size=6, seed=0):
    """Windows that hold 1 to W tokens, a start token last where they are not full."""
    rng = np.random.default_rng(seed)
    items = rng.integers(ITEMS, size=(size, WINDOW)).astype(np.int32)
    rewards = rng.uniform(0, 7, size=(size, WINDOW)).astype(np.float32)
    for row, count in enumerate(rng.permutation(size) % (WINDOW + 1)):
        items[row, count:] = EMPTY
        items[row, count : count + 1] = START
    return Observation(items, rewards)


def slow_tokens(params, items, rewards):
    vectors = params["item_vectors"]
    return reference.tracker_tokens(vectors, items, rewards, SCALE.low, SCALE.high)


def test_average_worked_numbers():
    vectors = np.zeros((ITEMS + 1, ITEM_WIDTH), np.float32)
    vectors[2], vectors[START] = [1, 2, 3], [3, 0, -1]
    apply = tracking("average")

    # (r - 1) / 4: the item 0.5, the start token 0; the last slot is empty.
    state = apply(
        {"item_vectors": vectors}, history([2, START, EMPTY], [3, 1, 4]), SCALE
    )
    np.testing.assert_allclose(state, [2, 1, 1, 0.25], rtol=1e-6)
    # Rewards beyond the scale: 9 counts as 5 and is 1, but -7 is -2.
    state = apply({"item_vectors": vectors}, history([2, 2, EMPTY], [9, -7, 0]), SCALE)
    np.testing.assert_allclose(state, [1, 2, 3, -0.5], rtol=1e-6)


@kinds
def test_the_start_token_is_rewarded_with_one_or_as_others_are(kind):
    """On two scales the first state is the same, or it is not."""
    start = history([START] + [EMPTY] * 3, [1.0] + [0.0] * 3)
    later = history([2, START] + [EMPTY] * 2, [3.0, 1.0] + [0.0] * 2)
    scales = SCALE, RewardScale(jnp.array(0.0), jnp.array(4.0))
    params = params_of(kind)
    for setting, same in (("scaled", False), ("one", True)):
        track = tracking(kind, start_reward=setting)
        first, second = (track(params, start, scale) for scale in scales)
        assert np.allclose(first, second, atol=1e-6) == same
        first, second = (track(params, later, scale) for scale in scales)
        assert not np.allclose(first, second, atol=1e-6)
    vectors = params["item_vectors"]
    if kind == "average":
        one = tracking(kind, start_reward="one")(params, start, SCALE)
        np.testing.assert_allclose(one, [*vectors[START], 1.0], rtol=1e-6)


def test_average_matches_the_definition():
    params, batch = params_of("average"), histories()

    states = tracking("average")(params, batch, SCALE)

    for state, items, rewards in zip(states, *batch, strict=True):
        tokens = slow_tokens(params, items, rewards)
        expected = sum(tokens) / len(tokens)
        np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 2), (2, 2), (3, 4)])
def test_transformer_matches_the_definition(layers, heads):
    params, batch = params_of("transformer", layers), histories()

    states = tracking("transformer", layers=layers, heads=heads)(params, batch, SCALE)

    for state, items, rewards in zip(states, *batch, strict=True):
        tokens = slow_tokens(params, items, rewards)
        expected = reference.transformer(params["WindowTransformer_0"], tokens, heads)
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)


def test_without_a_tracker_all_states_are_one_that_is_learned():
    params, batch = params_of("none"), histories()
    start = params["item_vectors"][START]
    for acting in (True, False):
        states = tracking("none", acting)(params, batch, SCALE, jax.random.key(0))
        np.testing.assert_array_equal(states, [[*start, 1.0]] * len(batch.items))
    learned = jax.grad(lambda params: tracking("none")(params, batch, SCALE).sum())
    gradients = learned(params)["item_vectors"]
    np.testing.assert_array_equal(gradients.any(axis=-1), np.arange(ITEMS + 1) == START)


@pytest.mark.parametrize("choice", [{"kind": "median"}, {"readout": "median"}])
def test_a_choice_without_code_is_no_other(choice):
    network = tracker_of(**{"kind": "transformer", **choice})
    vectors = jax.ShapeDtypeStruct((ITEMS, ITEM_WIDTH), jnp.float32)
    with pytest.raises(NotImplementedError, match="='median'"):
        jax.eval_shape(network.init, jax.random.key(0), vectors)


def test_published_readout_learns_in_padded_windows():
    params, batch = params_of("transformer", 2), histories()
    apply = tracking("transformer", readout="published", acting=False)

    for state, items, rewards in zip(apply(params, batch, SCALE), *batch, strict=True):
        tokens = slow_tokens(params, items, rewards)
        tokens += [np.zeros(ITEM_WIDTH + 1)] * (WINDOW - len(tokens))
        layers = params["WindowTransformer_0"]
        expected = reference.transformer(layers, tokens, heads=1, reads=-1)
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)


def test_published_readout_acts_on_the_oldest_token_of_what_is_there():
    params, batch = params_of("transformer", 2), histories()
    apply = tracking("transformer", readout="published", acting=True)

    for state, items, rewards in zip(apply(params, batch, SCALE), *batch, strict=True):
        tokens = slow_tokens(params, items, rewards)
        layers = params["WindowTransformer_0"]
        expected = reference.transformer(layers, tokens, heads=1, reads=-1)
        if len(tokens) == 1:  # the first state is the start token, with reward 1
            expected = [*tokens[0][:-1], 1.0]
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)


@kinds
def test_what_an_empty_slot_holds_has_no_influence(kind):
    params, batch = params_of(kind), histories()
    assert (batch.items == EMPTY).any()
    rewards = np.where(batch.items == EMPTY, 1e6, batch.rewards).astype(np.float32)

    found = tracking(kind)(params, batch._replace(rewards=rewards), SCALE)

    np.testing.assert_array_equal(found, tracking(kind)(params, batch, SCALE))


@kinds
def test_a_longer_window_of_empty_slots_gives_the_same_state(kind):
    params, batch = params_of(kind), histories()
    pad = functools.partial(np.pad, pad_width=((0, 0), (0, 3)))
    longer = Observation(
        pad(batch.items, constant_values=EMPTY), pad(batch.rewards, constant_values=9)
    )

    found = tracking(kind)(params, longer, SCALE)

    expected = tracking(kind)(params, batch, SCALE)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@kinds
def test_the_order_of_a_history_matters_to_the_transformer_alone(kind):
    params = params_of(kind)
    forth, back = (
        history([0, *order, 3], [1, *order, 4]) for order in ([1, 2], [2, 1])
    )

    first, second = (tracking(kind)(params, one, SCALE) for one in (forth, back))

    same = np.allclose(first, second, rtol=1e-4, atol=1e-5)
    assert same == (kind == "average")


@kinds
def test_a_state_does_not_depend_on_its_batch(kind):
    params, batch, others = params_of(kind), histories(), histories(seed=1)
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), batch, others)

    found = tracking(kind)(params, mixed, SCALE)

    expected = tracking(kind)(params, batch, SCALE)
    np.testing.assert_array_equal(found[0], expected[0])
    assert (found[1:] != expected[1:]).any()


@kinds
@dropouts
def test_dropout_needs_a_key_a_rate_and_a_transformer(kind, dropout):
    params, batch = params_of(kind), histories()
    track = tracking(kind, dropout=dropout)

    without = track(params, batch, SCALE)
    first, again, second = (
        track(params, batch, SCALE, jax.random.key(seed)) for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(first, again)
    dropped = kind == "transformer" and dropout > 0
    assert (np.asarray(first) != without).any() == dropped
    assert (np.asarray(first) != second).any() == dropped


def test_heads_that_do_not_divide_the_width_are_refused():
    network = make_state_tracker(TrackerConfig(kind="transformer", heads=3), 5, 3)

    with pytest.raises(ValueError, match=r"3 attention heads do not divide .* 4"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((5, 3)))
