"""agent.py: an epoch of updates, the target network, seeds, acting under a mask."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.config import ConfigError
from darlr_jax.experiment import build_experiment, init_seeds, run_epoch
from darlr_jax.offline.agent import OBJECTIVES, loss
from darlr_jax.offline.replay import draw
from darlr_jax.types import EMPTY, Observation, RewardScale
from tests.simulation.worlds import (
    assemble,
    compiled_epoch,
    invented_world_model,
    tiny,
    tiny_dataset,
)

LEARNERS = tuple(OBJECTIVES)
NO_SCALE = RewardScale(jnp.float32(0), jnp.float32(1))


def size(name, **changes):
    return tiny(name, evaluation__episodes=2, evaluation__all_users=False, **changes)


def fresh(config, *seeds):
    return init_seeds(assemble(config), seeds)


@functools.cache
def compiled_updates(config):
    """`(states [S], tables) -> (states, metrics [S])`: an epoch without evaluation."""
    train = assemble(config).learner.train_epoch
    return jax.jit(jax.vmap(train, (0, None, None)))


def updated(config, states):
    experiment = assemble(config)
    inputs = (experiment.tables, experiment.coefficients)
    return compiled_updates(config)(states, *inputs)


@functools.cache
def after_one_epoch(name, *seeds):
    """States and metrics after 5 updates."""
    return updated(size(name), fresh(size(name), *seeds))


def nth(states, index):
    return jax.tree.map(lambda leaf: leaf[index], states)


def largest_change(before, after):
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), before, after)
    return float(jnp.max(jnp.stack(jax.tree.leaves(differences))))


# --- an epoch -------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_an_epoch_learns_and_counts(name):
    states, metrics = after_one_epoch(name, 3, 4)
    assert states.epoch.tolist() == [1, 1]
    assert states.updates.tolist() == [5, 5]
    assert states.env_steps.tolist() == [80, 80]
    assert {"loss", "value", "value_loss"} <= set(metrics)
    assert all(np.isfinite(values).all() for values in metrics.values())
    before = fresh(size(name), 3, 4)
    assert largest_change(before.params, states.params) > 1e-4
    keys = [jax.random.key_data(one.key) for one in (before, states)]
    assert np.all(np.any(keys[0] != keys[1], axis=1))  # other rows in the next update


def test_an_epoch_is_so_many_updates_and_reports_their_means():
    experiment = assemble(size("bcq"))
    one = experiment.coefficients._replace(steps_per_epoch=jnp.int32(16))
    states, history = fresh(size("bcq"), 3, 4), []
    for _ in range(5):
        update = compiled_updates(size("bcq"))
        states, metrics = update(states, experiment.tables, one)
        history.append(metrics)
    after, found = after_one_epoch("bcq", 3, 4)
    assert largest_change(after.params, states.params) < 1e-5
    for name, values in found.items():
        expected = np.mean([metrics[name] for metrics in history], axis=0)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
        assert np.ptp([metrics[name] for metrics in history]) > 0


def test_a_learner_is_evaluated_as_every_other():
    experiment = assemble(size("bcq"))
    _, metrics = run_epoch(
        experiment, compiled_epoch(size("bcq")), fresh(size("bcq"), 0, 1)
    )
    assert {"supported_items", "NX_0_R_tra", "FB_R_tra"} <= set(metrics)
    assert metrics["NX_0_CV_turn"].min() >= 5 / 10  # nothing twice in a session of 5


def test_seeds_neither_share_nor_disturb_each_other():
    states, _ = after_one_epoch("sqn", 3, 4)
    assert largest_change(nth(states.params, 0), nth(states.params, 1)) > 1e-2
    others, _ = after_one_epoch("sqn", 4, 9)
    assert largest_change(nth(others.params, 0), nth(states.params, 1)) == 0


def test_the_target_follows_every_third_update():
    config = size(
        "bcq", offline__target_interval=3, training__steps_per_epoch=16
    )  # an epoch is an update
    states, history = fresh(config, 0), []
    for _ in range(7):
        history.append(states.params)
        states, _ = updated(config, states)
        latest = (len(history) - 1) // 3 * 3  # before the updates 0, 3 and 6
        assert largest_change(states.target, history[latest]) == 0
    assert largest_change(history[6], history[3]) > 0


@pytest.mark.parametrize("name", LEARNERS)
def test_what_follows_is_seen_and_valued_by_the_target(name):
    config, experiment = size(name), assemble(size(name))
    params = nth(fresh(config, 3, 4).params, 0)

    @jax.jit
    def loss_of(target, replay):
        key = jax.random.key(0)
        n = config.offline.n_step
        sample = draw(key, replay, size=16, window=3, n=n, num_items=10)
        bound = {"scale": replay.scale, "program": experiment.program}
        return loss(params, target, sample, key, **bound)[0]

    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    before = loss_of(params, experiment.tables.replay)
    for changed in ({"tracker": moved.tracker}, {"heads": moved.heads}):
        after = loss_of(params._replace(**changed), experiment.tables.replay)
        assert abs(after - before) > 1e-3


def test_a_loss_sees_the_states_of_both_trackers():
    """What follows by both, without dropout; what was shown by the online, with it."""
    config = size("sqn", tracker__kind="transformer", tracker__dropout=0.5)
    program, replay = assemble(config).program, assemble(config).tables.replay
    params = nth(fresh(config, 3, 4).params, 0)
    target = params._replace(tracker=jax.tree.map(lambda x: x + 0.1, params.tracker))
    objective = program.objective._replace(
        loss=lambda params, old, batch, **options: (jnp.zeros(()), {"batch": batch})
    )
    program = program._replace(objective=objective)

    @jax.jit
    def states(key):
        sample = draw(key, replay, size=16, window=3, n=3, num_items=10)
        bound = {"scale": replay.scale, "program": program}
        seen = program.tracker.apply
        expected = (
            seen(params.tracker, sample.observation, replay.scale, key),
            seen(params.tracker, sample.following, replay.scale),
            seen(target.tracker, sample.following, replay.scale),
        )
        return loss(params, target, sample, key, **bound)[1]["batch"], expected

    found, expected = states(jax.random.key(0))
    for one, two in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert np.abs(found.following - found.old_following).max() > 1e-2


@pytest.mark.parametrize("trained", [True, False])
def test_the_tracker_is_trained_or_frozen(trained):
    config = size("crr", offline__train_tracker=trained)
    before = fresh(config, 0, 1)
    after, _ = updated(config, before)
    moved = largest_change(before.params.tracker, after.params.tracker)
    assert (moved > 1e-4) == trained
    assert largest_change(before.params.heads, after.params.heads) > 1e-4


def test_an_epoch_without_an_update_is_refused():
    config = size("cql", training__steps_per_epoch=15)
    dataset = tiny_dataset(config.dataset)
    with pytest.raises(ConfigError, match=r"training\.steps_per_epoch=15: below"):
        build_experiment(dataset, invented_world_model(dataset), config)


# --- acting ---------------------------------------------------------------------------


@functools.cache
def policy(name):
    """`(key, observation, used) -> item` after an epoch, and its parameters."""
    learner, tables = assemble(size(name)).learner, assemble(size(name)).tables
    acting = learner.policy_params(nth(after_one_epoch(name, 3, 4)[0], 0), tables)

    @jax.jit
    def act(key, observation, used, scale=NO_SCALE):
        return learner.policy.act(acting, key, jnp.int32(0), observation, used, scale)

    return act, acting


def observation(newest=2, reward=3.0):
    items = jnp.array([newest, 10, EMPTY], jnp.int32)  # 10 is the start token
    return Observation(items, jnp.array([reward, 1.0, 0.0]))


@pytest.mark.parametrize("name", LEARNERS)
def test_used_items_are_never_recommended_again(name):
    """Down to the last one: with every preference below zero, as raw values may be."""
    act, _ = policy(name)
    used, seen = jnp.zeros(10, bool), []
    for turn in range(10):
        item = int(act(jax.random.key(turn), observation(), used))
        assert not used[item]
        used = used.at[item].set(True)
        seen.append(item)
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("name", ["sqn", "cql"])
def test_the_others_keep_their_order_under_the_mask(name):
    """The published mask forgets the order of raw values (protocol 10.2, B5)."""
    act, acting = policy(name)
    program = assemble(size(name)).program
    params = acting.params
    state = program.tracker.apply(params.tracker, observation(), acting.scale)
    wanted = program.objective.preferences(
        params.heads, state, None, heads=program.heads, config=program.config.offline
    )
    used, order = jnp.zeros(10, bool), np.argsort(-np.asarray(wanted)).tolist()
    for expected in order:
        item = act(jax.random.key(0), observation(), used)
        assert int(item) == expected
        used = used.at[item].set(True)


def test_crr_draws_from_the_renormalised_policy():
    act, acting = policy("crr")
    program, params = assemble(size("crr")).program, acting.params
    state = program.tracker.apply(params.tracker, observation(), acting.scale)
    logits = program.heads["actor"].apply(params.heads["actor"], state)
    used = jnp.arange(10) < 7
    expected = np.asarray(jax.nn.softmax(logits))[7:]
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(act, (0, None, None))(keys, observation(), used)
    shares = np.bincount(drawn, minlength=10) / len(keys)
    np.testing.assert_allclose(shares[7:], expected / expected.sum(), atol=0.03)


def test_rewards_are_scaled_in_tests_as_in_the_log():
    """Whatever the evaluation says: its bounds are those of the true matrix (B7)."""
    _, acting = policy("sqn")
    rewards = assemble(size("sqn")).tables.replay.rewards
    assert float(acting.scale.low) == rewards.min()
    assert float(acting.scale.high) == rewards.max()
