"""What one part of an epoch hands to the next: states and scales.

Each part has its own test against a slow twin; here is what lies between them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import recommender, selector
from darlr_jax.training import epoch as epoch_lib
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.rollout import state_reward_scale
from darlr_jax.training.update import stored_decisions
from tests.simulation.worlds import assemble, first_state, roll_out, tiny

# An epoch is one collect; sessions end early, and every term of the reward shows.
ONE_COLLECT = {
    "environment__exit_rule": "tags",
    "reward__lambda_u": 0.3,
    "reward__lambda_e": 0.7,
    "training__steps_per_epoch": 2,
}
CALM = {"tracker__kind": "transformer", "tracker__dropout": 0.0}


def reevaluated(state, transitions, key, scale, users, *, program):
    """In place of learning: how far the critics are from what they said when acting."""
    batch, _ = stored_decisions(transitions, program)
    said = transitions.value.ravel()
    share = jnp.full(said.shape, 1 / said.size)
    config = program.config
    _, first = recommender.loss(
        state.recommender.params,
        key,
        batch.recommender._replace(target=said, weight=share),
        scale,
        networks=program.recommender,
        config=config.recommender,
    )
    said_of_picks = transitions.selector.value.reshape(said.size, -1)
    options = {"network": program.selector, "config": config.selector}
    params = state.selector.params
    _, second = selector.loss(
        params,
        selector.encode_users(params, users, **options),
        batch.selector._replace(target=said_of_picks, weight=share),
        users,
        **options,
    )
    return state, {
        "recommender_value": first.value / jnp.var(said),
        "selector_value": second.value / jnp.var(said_of_picks),
    }


@pytest.mark.parametrize("item_in_state", [False, True])
@pytest.mark.parametrize("readout", ["newest", "published"])
def test_learning_sees_the_states_that_the_critics_judged(
    monkeypatch, readout, item_in_state
):
    """Before the first step critics say of a stored state what they said of it."""
    config = tiny(
        "darlr",
        **ONE_COLLECT,
        **CALM,
        tracker__readout=readout,
        selector__item_in_state=item_in_state,
    )
    monkeypatch.setattr(epoch_lib, "update_agents", reevaluated)
    experiment = assemble(config)
    epoch = jax.jit(functools.partial(train_epoch, program=experiment.program))

    _, found = epoch(first_state(config), experiment.tables, experiment.coefficients)

    assert found["recommender_value_loss"] < 1e-6  # in variances of what they said
    assert found["selector_value_loss"] < 1e-6


@pytest.mark.parametrize("item_in_state", [False, True])
def test_the_selector_sees_the_state_that_the_recommender_acted_in(item_in_state):
    config = tiny("darlr", **ONE_COLLECT, **CALM, selector__item_in_state=item_in_state)
    experiment, params = assemble(config), first_state(config).recommender.params
    transitions, _ = roll_out(config, first_state(config))
    scale = state_reward_scale(experiment.tables.rewards, experiment.coefficients)
    track = jax.jit(experiment.program.recommender.tracker.apply)
    state = track(params.tracker, transitions.observation, scale)
    shown = params.tracker["item_vectors"][transitions.item][..., : 3 * item_in_state]

    found = transitions.selector.context

    assert np.abs(found - found[:1, :1]).max() > 0.1
    expected = np.concatenate([state, shown], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_exploration_drops_out_and_each_session_otherwise():
    """Every session starts in one observation: only dropout tells them apart."""
    options = {"tracker__kind": "transformer", "training__environments": 8}
    values = {
        dropout: roll_out(config, first_state(config))[0].value[0]
        for dropout in (0.0, 0.5)
        for config in [tiny("mbpo", **options, tracker__dropout=dropout)]
    }
    np.testing.assert_allclose(values[0.0], values[0.0][0], rtol=1e-5)
    assert len(np.unique(values[0.5])) == 8
