"""Probe problems: each isolates one thing that the agents must be able to learn.

The worlds are handmade tables, so that the optimum is known; nothing is tuned beyond a
higher learning rate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import recommender
from darlr_jax.config import ExperimentConfig
from darlr_jax.experiment import (
    Experiment,
    build_experiment,
    init_seeds,
    make_run_epoch,
    run_epoch,
)
from darlr_jax.simulation import environment
from darlr_jax.training.rollout import state_reward_scale
from darlr_jax.types import RewardScale
from tests.simulation.worlds import invented_world_model, tiny, tiny_dataset

SIZES = {
    "environment__max_turn": 8,
    "recommender__hidden": (32,),
    "recommender__learning_rate": 1e-2,
    "reward__entropy_orders": (),
    "training__environments": 64,
    "training__batch_size": 256,
    "training__steps_per_epoch": 64 * 8 * 25,  # 50 gradient steps
    "evaluation__episodes": 100,
}


def world(config: ExperimentConfig, pays: np.ndarray, **tables) -> Experiment:
    """An experiment where recommending pays `pays [U, I]`, in training and in tests."""
    dataset = tiny_dataset(config.dataset)
    experiment = build_experiment(dataset, invented_world_model(dataset), config)
    pays = jnp.asarray(pays, jnp.float32)
    low, high = (
        jnp.zeros(()),
        pays.max(),
    )  # so that rewards are neither shifted nor scaled
    rewards = experiment.tables.rewards._replace(
        base=pays, static=pays, estimate_low=low, estimate_high=high
    )
    return experiment._replace(
        tables=experiment.tables._replace(rewards=rewards, **tables),
        evaluation=experiment.evaluation._replace(
            true_reward=pays, scale=RewardScale(low, high)
        ),
    )


def train(experiment: Experiment, epochs: int):
    """The state of one seed, and the metrics of each epoch."""
    epoch = make_run_epoch(experiment.learner)
    states, history = init_seeds(experiment, [0]), []
    for _ in range(epochs):
        states, metrics = run_epoch(experiment, epoch, states)
        history.append({name: float(value[0]) for name, value in metrics.items()})
    return jax.tree.map(lambda leaf: leaf[0], states), history


def test_one_item_pays_and_everybody_gets_it():
    config = tiny("mbpo", **SIZES)
    pays = np.zeros((12, 10))
    pays[:, 3] = 1.0
    _, history = train(world(config, pays), epochs=2)
    assert history[-1]["FB_R_tra"] > 7.8  # of 8; a random policy earns 0.8
    assert history[-1]["NX_0_R_tra"] <= 1  # it pays once where nothing is repeated


def test_what_a_user_likes_shows_in_what_past_items_paid():
    """Half of the users like item 0, the others item 1: rewards tell them apart."""
    config = tiny("mbpo", **SIZES)
    pays = np.zeros((12, 10))
    pays[:6, 0] = pays[6:, 1] = 1.0
    _, history = train(world(config, pays), epochs=8)
    # One item for everybody earns 4 of 8, trying one and then staying or changing 7.5.
    assert history[-1]["FB_all_users_R_tra"] > 6.5


def test_users_stay_while_items_alternate():
    """All items pay alike, but the user leaves when two in a row share a tag."""
    rules = {"environment__exit_rule": "tags", "environment__exit_window": 1}
    config = tiny("mbpo", **SIZES | rules)
    experiment = world(config, np.ones((12, 10)))
    tags = np.zeros((10, 2), np.float32)
    tags[:7, 0] = tags[7:, 1] = 1.0
    env = experiment.tables.env._replace(item_tags=jnp.asarray(tags))
    experiment = experiment._replace(
        tables=experiment.tables._replace(env=env),
        evaluation=experiment.evaluation._replace(env=env),
    )
    _, history = train(experiment, epochs=6)
    assert history[-1]["FB_len_tra"] > 7.5  # of 8; a random policy stays for 2.4


def test_the_critic_learns_what_remains_of_a_session():
    """Every item pays 1: the value is the discounted number of turns that are left."""
    sizes = SIZES | {
        "environment__max_turn": 2,
        "training__steps_per_epoch": 64 * 2 * 50,
    }
    config = tiny("mbpo", **sizes, tracker__window=3)
    experiment = world(config, np.ones((12, 10)))
    state, _ = train(experiment, epochs=8)
    session = environment.reset(jnp.int32(0), 10, 3)
    scale = state_reward_scale(experiment.tables.rewards, experiment.coefficients)
    values = []
    for turn in range(2):
        action = recommender.act(
            state.recommender.params,
            jax.random.key(turn),
            environment.observe(session, 3),
            None,
            scale,
            networks=experiment.program.recommender,
            explore=False,
        )
        values.append(float(action.value))
        session = environment.step(
            session,
            action.item,
            jnp.ones(()),
            experiment.tables.env,
            config=config.environment,
        )
    np.testing.assert_allclose(values, [1 + 0.9, 1], atol=0.1)


@pytest.mark.parametrize(
    ("critic_target", "least", "most"),
    [("return", 0.5, 0.69), ("mean_reward", 0.99, 1)],
)
def test_how_much_is_left_does_not_show_in_a_window(critic_target, least, most):
    """Every item pays 1 for 8 turns: of 3 items the critic sees the first turns alone.

    Of (1 - 0.9^n) / 0.1, n = 8 to 1, it can then tell 8, 7 and 6 from the rest, which
    explains .683 of the variance. One asked for mean rewards has nothing to guess.
    """
    config = tiny(
        "mbpo", **SIZES, recommender__critic_target=critic_target, tracker__window=3
    )
    _, history = train(world(config, np.ones((12, 10))), epochs=4)
    assert least < history[-1]["recommender_explained_variance"] <= most


def test_the_selector_finds_the_users_own_cluster():
    """Two clusters with orthogonal feedback, and similarity the only reward."""
    config = tiny(
        "darlr",
        **SIZES | {"training__steps_per_epoch": 64 * 8 * 10},
        selector__reward_estimate="absent",
        selector__lambda_s=1.0,
        selector__lambda_d=0.0,
        selector__learning_rate=1e-2,
        selector__width=16,
    )
    cluster = np.arange(12) % 2
    feedback = np.eye(2)[cluster].repeat(5, axis=1)
    experiment = world(config, np.random.default_rng(1).random((12, 10)))
    users = experiment.tables.users._replace(
        feedback=jnp.asarray(feedback, jnp.float32),
        similarity=jnp.asarray(feedback @ feedback.T / 5, jnp.float32),
    )
    experiment = experiment._replace(tables=experiment.tables._replace(users=users))
    _, history = train(experiment, epochs=4)
    assert history[-1]["similarity"] > 0.9  # share of own cluster: 5 / 11 by chance
    assert history[-1]["effective_users_picked"] > 4  # both clusters are served
