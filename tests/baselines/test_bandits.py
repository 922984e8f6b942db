"""bandits.py: bounds, exploration, and a world model that is trained in between."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.baselines import bandits
from darlr_jax.baselines.bandits import BanditParams
from darlr_jax.config import BanditConfig
from darlr_jax.experiment import build_experiment, init_seeds, run_epoch
from tests.simulation.worlds import (
    assemble,
    compiled_epoch,
    half_of_the_world,
    invented_world_model,
    tiny,
    tiny_dataset,
)

MODEL = {
    "world_model__embedding_dim": 3,
    "world_model__hidden": (6,),
    "world_model__batch_size": 64,
    "world_model__learning_rate": 1e-2,
    "evaluation__all_users": False,
}
EPISODES = 6
SHOWN = EPISODES * (5 + 5 + 10)  # recommendations of an epoch's three modes


def config_of(method):
    return tiny(method, **MODEL)


@functools.cache
def trained(method, epochs=2, seeds=(0, 1)):
    """States after some epochs, and the metrics of each."""
    config, history = config_of(method), []
    experiment = assemble(config)
    states = init_seeds(experiment, seeds)
    for _ in range(epochs):
        states, metrics = run_epoch(experiment, compiled_epoch(config), states)
        history.append({name: np.asarray(value) for name, value in metrics.items()})
    return states, history


# --- what is recommended --------------------------------------------------------------


def ucb(prediction, counts, used=None, confidence=2.0):
    params = BanditParams(jnp.array([prediction]), jnp.array(counts))
    mask = None if used is None else jnp.array(used)
    act = functools.partial(
        bandits.upper_confidence_bound, config=BanditConfig(confidence=confidence)
    )
    return int(act(params, None, jnp.int32(0), None, mask, None))


def slow_ucb(prediction, counts, used, confidence):
    total = sum(counts)
    scores = {
        item: value + math.sqrt(confidence * math.log(total) / count)
        for item, (value, count) in enumerate(zip(prediction, counts, strict=True))
        if not used[item]
    }
    return max(scores, key=scores.get)


def test_the_bound_worked_numbers():
    # n = 5: sqrt(2 ln 5 / 1) = 1.794, sqrt(2 ln 5 / 4) = 0.897
    assert ucb([1.0, 1.9], [1, 4]) == 1  # 2.794 against 2.797
    # n = 6: sqrt(2 ln 6 / 1) = 1.893, sqrt(2 ln 6 / 5) = 0.847
    assert ucb([1.0, 1.9], [1, 5]) == 0  # 2.893 against 2.747
    assert ucb([1.0, 1.9], [1, 5], confidence=0.0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_matches_the_definition(seed):
    """Under a mask too, where the published code forgets the bound."""
    rng = np.random.default_rng(seed)
    prediction, counts = rng.normal(size=6), rng.integers(1, 9, size=6)
    used = rng.permutation([True, True, False, False, False, False])
    prediction = prediction.astype(np.float32)
    found = ucb(prediction, counts.tolist(), used, 2.0)
    assert found == slow_ucb(prediction.tolist(), counts.tolist(), used, 2.0)


def test_the_bonus_vanishes_with_counts():
    assert ucb([1.0, 1.5], [1, 1000]) == 0
    assert ucb([1.0, 1.5], [1000, 1000]) == ucb([1.0, 1.5], [1, 1]) == 1
    assert ucb([1.0, 1.5], [10**6, 1]) == 1


def test_counting():
    params = BanditParams(jnp.zeros((1, 3)), jnp.array([1, 4, 2]))
    shown = bandits.count(params, jnp.int32(1), jnp.ones(()))
    np.testing.assert_array_equal(shown.counts, [1, 5, 2])
    gone = bandits.count(params, jnp.int32(1), jnp.zeros(()))
    np.testing.assert_array_equal(gone.counts, params.counts)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_probability_of_any_allowed_item(epsilon):
    params = BanditParams(jnp.array([[3.0, 9.0, 1.0, 2.0]]), jnp.ones(4, jnp.int32))
    act = functools.partial(bandits.explore, config=BanditConfig(epsilon=epsilon))
    keys = jax.random.split(jax.random.key(1), 4000)
    for used, expected in (
        (None, [epsilon / 4] * 4 + (1 - epsilon) * np.eye(4)[1]),
        (
            [0, 1, 0, 0],
            epsilon * np.array([1, 0, 1, 1]) / 3 + (1 - epsilon) * np.eye(4)[0],
        ),
    ):
        mask = None if used is None else jnp.array(used, bool)
        items = jax.vmap(
            lambda key, mask=mask: act(params, key, jnp.int32(0), None, mask, None)
        )(keys)
        share = np.bincount(items, minlength=4) / len(keys)
        np.testing.assert_allclose(share, expected, atol=0.03)


# --- what is learned ------------------------------------------------------------------


def test_counts_are_those_of_the_drawn_users_over_the_whole_run():
    states, _ = trained("ucb")
    np.testing.assert_array_equal(np.asarray(states.counts).sum(axis=1), 10 + 2 * SHOWN)
    assert (np.asarray(states.counts) >= 1).all()
    greedy, _ = trained("epsilon_greedy")
    np.testing.assert_array_equal(greedy.counts, np.ones((2, 10)))  # counts nothing


def test_both_bandits_ask_the_same_world_model():
    (ucb_states, ucb_history), (greedy, greedy_history) = map(
        trained, ("ucb", "epsilon_greedy")
    )
    for one, two in zip(
        jax.tree.leaves(ucb_states.member.params),
        jax.tree.leaves(greedy.member.params),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    for one, two in zip(ucb_history, greedy_history, strict=True):
        np.testing.assert_allclose(one["held_out_mse"], two["held_out_mse"], rtol=1e-4)


def test_the_world_model_learns_an_epoch_at_a_time():
    states, history = trained("ucb", epochs=4)
    losses = np.stack([metrics["world_model_loss"] for metrics in history])
    # Few rows, most of them repeated: after the first epoch it wavers.
    assert (losses[1:] < losses[0] - 1).all() and (losses[-1] < losses[1]).all()
    assert len(np.unique(losses)) == losses.size
    assert states.epoch.tolist() == [4, 4]
    assert states.env_steps.tolist() == [0, 0]


def test_predictions_and_errors_are_those_of_the_member():
    """Asked cell by cell; of the environment the table, of the held-out rows errors."""
    config = config_of("ucb")
    dataset, world = half_of_the_world(
        tiny_dataset(config.dataset), invented_world_model(tiny_dataset(config.dataset))
    )
    del world
    experiment = build_experiment(dataset, None, config)
    start = jax.tree.map(lambda leaf: leaf[0], init_seeds(experiment, [5]))
    state, metrics = jax.jit(experiment.learner.train_epoch)(
        start, experiment.tables, experiment.coefficients
    )
    network, sides = experiment.program.network, experiment.tables.sides

    def ask(user, item):
        return float(network.apply(state.member.params, user, item, *sides).mean)

    found = experiment.learner.policy_params(state, experiment.tables).prediction
    users, items = dataset.environment_users, dataset.environment_items
    expected = [[ask(user, item) for item in items] for user in users]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    held_out = dataset.held_out
    predicted = [ask(*row) for row in zip(held_out.users, held_out.items, strict=True)]
    error = np.array(predicted) - held_out.labels
    np.testing.assert_allclose(metrics["held_out_mse"], (error**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["held_out_mae"], np.abs(error).mean(), rtol=1e-4)
