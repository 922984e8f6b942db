"""A2C of both agents as a learner: what `experiment.py` puts beside the others."""

from __future__ import annotations

import functools

from darlr_jax.agents import recommender
from darlr_jax.agents.recommender import RecommenderNetworks, RecommenderParams
from darlr_jax.config import ExperimentConfig
from darlr_jax.data.dataset import Dataset
from darlr_jax.simulation.tables import build_tables
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.program import build_program, init_state, keeps_estimates
from darlr_jax.types import (
    Array,
    Key,
    Learner,
    Observation,
    Policy,
    RewardScale,
    SimulationTables,
    TrainState,
    WorldModelTables,
)


def build(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> tuple[Learner, SimulationTables]:
    """The learner, and the tables `[U, I]` of its simulated users as NumPy arrays.

    Raises:
      ConfigError: a field does not fit the data.
    """
    tables = build_tables(dataset, world_model, config)
    program = build_program(config, tables)
    learner = Learner(
        config=config,
        init=functools.partial(init_state, program=program),
        train_epoch=functools.partial(train_epoch, program=program),
        policy=Policy(functools.partial(act, networks=program.recommender)),
        policy_params=recommender_params,
        estimates=stored_estimates if keeps_estimates(config) else None,
        program=program,
    )
    return learner, tables


def recommender_params(
    state: TrainState, tables: SimulationTables
) -> RecommenderParams:
    """What the recommender acts by; the selector is not asked in evaluation."""
    del tables
    params: RecommenderParams = state.recommender.params
    return params


def stored_estimates(state: TrainState) -> Array:
    """r_hat_{-1} of every cell `[U, I]`."""
    return state.previous_estimates


def act(
    params: RecommenderParams,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
) -> Array:
    """Samples an item `[]` without dropout; of the user it knows the observation."""
    del user
    action = recommender.act(
        params, key, observation, used, scale, networks=networks, explore=False
    )
    return action.item
