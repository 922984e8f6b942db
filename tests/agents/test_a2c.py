"""Returns and the loss that both agents share."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.agents import a2c
from darlr_jax.config import A2CConfig
from tests import reference

variants = pytest.mark.parametrize("variant", [lambda f: f, jax.jit], ids=["", "jit"])
quick = settings(max_examples=20, deadline=None)

# Without the floor: arbitrary numbers stand for logarithms of probabilities here.
CONFIG = A2CConfig(value_weight=0.5, entropy_weight=0.1, probability_floor=0.0)
ROWS = 6
FIELDS = ("log_prob", "value", "entropy", "target", "advantage", "weight")


def vectors(size, low=-5.0, high=5.0):
    return hnp.arrays(np.float32, size, elements=st.floats(low, high, width=32))


def random_minibatch(seed=0):
    rng = np.random.default_rng(seed)
    rows = {name: rng.normal(size=ROWS).astype(np.float32) for name in FIELDS}
    rows["weight"] = np.abs(rows["weight"]) / np.abs(rows["weight"]).sum()
    return rows


@jax.jit
def loss_of(rows):
    return a2c.actor_critic_loss(**rows, config=CONFIG)


# --- returns --------------------------------------------------------------------------


@variants
def test_returns_worked_numbers(variant):
    reward, discount = jnp.array([1.0, 2, 3]), jnp.array([0.5, 0.5, 0.5])

    found = variant(a2c.discounted_returns)(reward, discount, jnp.array(4.0))

    # 3 + 4/2 = 5; 2 + 5/2 = 4.5; 1 + 4.5/2 = 3.25
    np.testing.assert_array_equal(found, [3.25, 4.5, 5])


@given(reward=vectors(7), discount=vectors(7, 0.0, 1.0), bootstrap=vectors(()))
@quick
def test_returns_match_the_definition(reward, discount, bootstrap):
    found = jax.jit(a2c.discounted_returns)(reward, discount, bootstrap)

    expected = reference.discounted_returns(reward, discount, bootstrap)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(reward=vectors(7), bootstrap=vectors(()), last=st.integers(0, 6))
@quick
def test_a_trace_splits_where_its_discount_is_zero(reward, bootstrap, last):
    discount = np.full(7, 0.9, np.float32)
    discount[last] = 0

    whole = jax.jit(a2c.discounted_returns)(reward, discount, bootstrap)

    first = reference.discounted_returns(
        reward[: last + 1], discount[: last + 1], bootstrap=1e6
    )
    second = reference.discounted_returns(
        reward[last + 1 :], discount[last + 1 :], bootstrap
    )
    np.testing.assert_allclose(whole, [*first, *second], rtol=1e-5, atol=1e-5)


def test_returns_of_a_batch_keep_time_in_front():
    rng = np.random.default_rng(0)
    reward, discount = rng.random((2, 5, 3)).astype(np.float32)
    bootstrap = rng.random(3).astype(np.float32)
    batched = jax.vmap(a2c.discounted_returns, in_axes=(1, 1, 0), out_axes=1)

    found = batched(reward, discount, bootstrap)

    assert found.shape == (5, 3)
    for b in range(3):
        expected = reference.discounted_returns(
            reward[:, b], discount[:, b], bootstrap[b]
        )
        np.testing.assert_allclose(found[:, b], expected, rtol=1e-6)


def test_a_critic_target_without_code_is_no_other():
    config = dataclasses.replace(A2CConfig(), critic_target="median")
    nothing = jnp.zeros(2)
    with pytest.raises(NotImplementedError, match="critic_target='median'"):
        a2c.monte_carlo(nothing, nothing, nothing, config)


@variants
def test_monte_carlo_worked_numbers(variant):
    """Of steps that bring 2 each, three of them at most, gamma = 1/2."""
    reward, going_on = jnp.full(3, 2.0), jnp.array([1.0, 1.0, 0.0])
    of_episode = variant(
        functools.partial(a2c.monte_carlo, config=A2CConfig(discount=0.5))
    )
    _, target, advantage = of_episode(reward, going_on, jnp.full(3, 2.0))
    np.testing.assert_allclose(target, [3.5, 3.0, 2.0])
    np.testing.assert_allclose(advantage, [1.5, 1.0, 0.0])


@given(reward=vectors(6), value=vectors(6), again=vectors(6), last=st.integers(0, 5))
@quick
def test_two_values_of_a_state_leave_their_difference_in_returns(
    reward, value, again, last
):
    """Advantages as GAE sums them up, of an episode that ends with step `last`."""
    going_on, gamma = np.float32(np.arange(6) < last), np.float32(0.9)
    left = a2c.left_by_separate_passes(value, again, going_on, gamma)
    found = a2c.monte_carlo(reward + left, going_on, value, A2CConfig(discount=0.9))

    following = [*again[1 : last + 1], 0.0]
    deltas = reward[: last + 1] + gamma * np.array(following) - value[: last + 1]
    expected = reference.discounted_returns(deltas, 0.9 * np.ones_like(deltas), 0.0)
    np.testing.assert_allclose(
        found.advantage[: last + 1], expected, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(found.returns, found.advantage + value, atol=1e-4)


@variants
def test_a_critic_of_mean_rewards_need_not_know_what_is_left(variant):
    """As above: one number is right at every step, and what is not pays off."""
    reward, going_on = jnp.full(3, 2.0), jnp.array([1.0, 1.0, 0.0])
    config = A2CConfig(discount=0.5, critic_target="mean_reward")
    of_episode = variant(functools.partial(a2c.monte_carlo, config=config))
    _, target, advantage = of_episode(reward, going_on, jnp.full(3, 2.0))
    np.testing.assert_allclose(target, 2.0)
    np.testing.assert_allclose(advantage, 0.0, atol=1e-6)
    _, _, advantage = of_episode(reward, going_on, jnp.full(3, 1.0))
    np.testing.assert_allclose(advantage, [1.75, 1.5, 1.0])
    # Who leaves after the second step brings less than could be had.
    _, target, _ = of_episode(reward, jnp.array([1.0, 0.0, 0.0]), jnp.zeros(3))
    np.testing.assert_allclose(target[:2], [3.0 / 1.75, 2.0 / 1.5], rtol=1e-6)


@variants
def test_explained_variance_worked_numbers(variant):
    total, weight = jnp.array([1.0, 3.0, 99.0]), jnp.array([2.0, 2.0, 0.0])
    explained = variant(a2c.explained_variance)
    assert explained(total, jnp.array([0.5, 0.5, 7.0]), weight) == 1.0  # but a level
    assert explained(total, total - 2.0, weight) == 0.0  # says 2 of every state
    np.testing.assert_allclose(explained(total, 2.0 * total, weight), -3.0)
    assert explained(jnp.full(3, 5.0), total, weight) == 0.0  # nothing to foresee


# --- loss -----------------------------------------------------------------------------


@variants
def test_loss_worked_numbers(variant):
    def of_two(log_prob):
        return a2c.actor_critic_loss(
            log_prob=log_prob,
            value=jnp.array([1.0, 0.0]),
            entropy=jnp.array([0.5, 1.0]),
            target=jnp.array([2.0, 3.0]),
            advantage=jnp.array([1.0, -1.0]),
            weight=jnp.array([0.25, 0.75]),
            config=CONFIG,
        )

    losses = variant(of_two)(jnp.array([-1.0, -2.0]))

    # policy  -(1/4 * -1 * 1 + 3/4 * -2 * -1) = -(-1/4 + 3/2) = -1.25
    # value   1/4 * (2 - 1)^2 + 3/4 * (3 - 0)^2 = 1/4 + 27/4 = 7
    # entropy 1/4 * 1/2 + 3/4 * 1 = 0.875
    # total   -1.25 + 0.5 * 7 - 0.1 * 0.875 = 2.1625
    np.testing.assert_allclose(losses, [2.1625, -1.25, 7, 0.875], rtol=1e-6)


@given(
    rows=st.fixed_dictionaries({name: vectors(ROWS) for name in FIELDS}),
    value_weight=st.sampled_from([0.0, 0.5, 2.0]),
    entropy_weight=st.sampled_from([0.0, 0.1]),
)
@quick
def test_loss_matches_the_definition(rows, value_weight, entropy_weight):
    weights = {"value_weight": value_weight, "entropy_weight": entropy_weight}

    found = a2c.actor_critic_loss(
        **jax.tree.map(jnp.asarray, rows),
        config=A2CConfig(**weights, probability_floor=0.0),
    )

    expected = reference.actor_critic_loss(**rows, **weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_rows_of_weight_zero_have_no_influence():
    rows = random_minibatch()
    rows["weight"][[1, 4]] = 0
    changed = {name: rows[name].copy() for name in FIELDS}
    for name in FIELDS[:-1]:
        changed[name][[1, 4]] = 1e6

    np.testing.assert_array_equal(loss_of(rows), loss_of(changed))
    gradient = jax.grad(lambda rows: loss_of(rows).total)(rows)
    for name in ("log_prob", "value", "entropy"):
        np.testing.assert_array_equal(np.asarray(gradient[name])[[1, 4]], 0)


def test_losses_of_the_parts_add_up():
    rows = random_minibatch()
    part = np.arange(ROWS) < 2

    first = loss_of(rows | {"weight": rows["weight"] * part})
    second = loss_of(rows | {"weight": rows["weight"] * ~part})

    together = jax.tree.map(jnp.add, first, second)
    np.testing.assert_allclose(together, loss_of(rows), rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_present_policy_alone():
    rows = random_minibatch()

    gradient = jax.grad(lambda rows: loss_of(rows).total)(rows)

    expected = {
        "log_prob": -rows["weight"] * rows["advantage"],
        "value": 0.5 * 2 * rows["weight"] * (rows["value"] - rows["target"]),
        "entropy": -0.1 * rows["weight"],
        "target": np.zeros(ROWS),
        "advantage": np.zeros(ROWS),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(gradient[name], wanted, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_step_makes_good_actions_likelier_and_bad_ones_rarer(advantage):
    config = dataclasses.replace(CONFIG, entropy_weight=0.0)

    def log_prob(logits):
        return jax.nn.log_softmax(logits)[1:2]

    def total(logits):
        constant = jnp.zeros(1)
        return a2c.actor_critic_loss(
            log_prob(logits),
            constant,
            constant,
            constant,
            jnp.full(1, advantage),
            jnp.ones(1),
            config,
        ).total

    logits = jnp.array([0.3, -0.2, 0.1])
    after = logits - 0.1 * jax.grad(total)(logits)

    assert np.sign(log_prob(after) - log_prob(logits)) == np.sign(advantage)


def test_the_probability_floor_lets_a_saturated_policy_rest():
    """As the clamp of the published library: no gradient outside [f, 1 - f]."""
    floor = 0.01
    config = dataclasses.replace(CONFIG, probability_floor=floor)
    probability = jnp.array([0.001, 0.2, 0.9, 0.995, 0.009, 0.5])

    def policy_loss(log_prob, config):
        rows = random_minibatch() | {"log_prob": log_prob}
        return a2c.actor_critic_loss(**rows, config=config).policy

    free = jax.grad(policy_loss)(jnp.log(probability), CONFIG)
    floored = jax.grad(policy_loss)(jnp.log(probability), config)

    inside = (probability >= floor) & (probability <= 1 - floor)
    assert inside.tolist() == [False, True, True, False, False, True]
    np.testing.assert_array_equal(floored, jnp.where(inside, free, 0.0))


def test_the_entropy_weight_is_a_bonus():
    rows = random_minibatch() | {"entropy": np.ones(ROWS, np.float32)}
    more = rows | {"entropy": 2 * rows["entropy"]}

    assert loss_of(more).total < loss_of(rows).total


# --- chunks ---------------------------------------------------------------------------


class Rows(NamedTuple):
    """Some minibatch."""

    rows: np.ndarray
    nothing: None
    weight: np.ndarray


def rows_with(weight):
    rows = np.random.default_rng(0).integers(9, size=(len(weight), 2))
    return Rows(rows, None, np.array(weight, np.float32))


@pytest.mark.parametrize("size", [1, 2, 4, 7, 9])  # of 7 rows
def test_sums_over_chunks_are_those_of_the_whole(size):
    batch = rows_with([1, 1, 1, 1, 1, 1, 1])

    def numbered(chunk, number):
        (length,) = chunk.weight.shape
        assert length == min(size, 7)
        place = number * length + jnp.arange(length)
        total = jnp.sum(chunk.rows, axis=0)
        return {"rows": total, "places": jnp.sum(chunk.weight * place)}

    found = jax.jit(lambda batch: a2c.sum_over_chunks(numbered, batch, size))(batch)

    np.testing.assert_array_equal(found["rows"], batch.rows.sum(axis=0))
    assert found["places"] == 0 + 1 + 2 + 3 + 4 + 5 + 6  # and padding has weight 0


@pytest.mark.parametrize(
    ("weight", "chunks"),
    [([0] * 7, 0), ([1] + [0] * 6, 1), ([0, 0, 0, 1, 0, 0, 0], 2), ([0] * 6 + [1], 4)],
)
def test_chunks_behind_the_last_weight_are_not_computed(weight, chunks):
    batch = rows_with(weight)

    def count(chunk, number):
        return jnp.ones((), jnp.int32), jnp.sum(chunk.weight)

    computed, total = jax.jit(lambda batch: a2c.sum_over_chunks(count, batch, 2))(batch)

    assert (computed, total) == (chunks, sum(weight))


# --- weights and advantages -----------------------------------------------------------


def test_normalized_weights_worked_numbers():
    np.testing.assert_array_equal(
        a2c.normalized_weights(jnp.array([1.0, 0, 1, 0])), [0.5, 0, 0.5, 0]
    )
    np.testing.assert_array_equal(a2c.normalized_weights(jnp.zeros(3)), np.zeros(3))


@variants
def test_standardized_worked_numbers(variant):
    advantage, weight = jnp.array([1.0, 3, 100]), jnp.array([0.5, 0.5, 0])

    found = variant(a2c.standardized)(advantage, weight)

    # mean 2, standard deviation 1, the third row not counted
    np.testing.assert_allclose(found, [-1, 1, 98], rtol=1e-6)


@given(advantage=vectors(ROWS), scale=st.floats(0.5, 4), shift=st.floats(-3, 3))
@quick
def test_standardized_forgets_scale_and_level(advantage, scale, shift):
    advantage[0] += 20  # never all equal
    weight = random_minibatch()["weight"]

    found = jax.jit(a2c.standardized)(advantage, weight)
    moved = jax.jit(a2c.standardized)(np.float32(scale * advantage + shift), weight)

    np.testing.assert_allclose(found, moved, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(weight @ found, 0, atol=1e-4)
    np.testing.assert_allclose(weight @ found**2, 1, rtol=1e-4)


def test_equal_advantages_standardize_to_zero():
    with jax.debug_nans(True):
        found = a2c.standardized(jnp.full(4, 2.0), jnp.full(4, 0.25))

    np.testing.assert_array_equal(found, np.zeros(4))
