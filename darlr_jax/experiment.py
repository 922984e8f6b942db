"""One experiment, assembled: tables, program, and the compiled epoch over all seeds.

The jit border of policy training: `run_epoch` trains and evaluates every seed for one
epoch without touching the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from darlr_jax.config import ExperimentConfig, validate
from darlr_jax.data.dataset import Dataset
from darlr_jax.evaluation.rollout import evaluate, evaluation_tables
from darlr_jax.simulation.tables import build_tables
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.program import (
    Program,
    build_program,
    coefficients_of,
    init_state,
)
from darlr_jax.types import (
    Array,
    Coefficients,
    EvaluationTables,
    SimulationTables,
    TrainState,
    WorldModelTables,
)

RunEpoch = Callable[
    [TrainState, SimulationTables, EvaluationTables, Coefficients],
    tuple[TrainState, dict[str, Array]],
]


class Experiment(NamedTuple):
    """What one run needs; the arrays lie on the device."""

    program: Program
    tables: SimulationTables
    evaluation: EvaluationTables
    coefficients: Coefficients


def build_experiment(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> Experiment:
    """Assembles a method on a data set. Raises ConfigError on contradictions."""
    validate(config)
    tables = build_tables(dataset, world_model, config)
    program = build_program(config, tables)
    tables, truth = _to_device(tables, evaluation_tables(dataset, tables.env))
    return Experiment(program, tables, truth, coefficients_of(config))


def _to_device(*trees: Any) -> tuple:
    """The same trees of device arrays; an array that stands in several is put once."""
    placed: dict[int, Array] = {}

    def put(leaf: Any) -> Array:
        if id(leaf) not in placed:
            placed[id(leaf)] = jnp.asarray(leaf)
        return placed[id(leaf)]

    return jax.tree.map(put, trees)


def init_seeds(experiment: Experiment, seeds: Sequence[int]) -> TrainState:
    """Fresh runs with a leading axis S."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    init = functools.partial(init_state, program=experiment.program)
    return jax.jit(jax.vmap(init, (0, None)))(keys, experiment.tables)


def make_run_epoch(program: Program) -> RunEpoch:
    """The compiled epoch `(states [S], tables, evaluation tables, coefficients)`.

    Returns the new states and metrics `[S]`. The states are donated.
    """
    epoch = functools.partial(_run_epoch, program=program)
    return jax.jit(jax.vmap(epoch, (0, None, None, None)), donate_argnums=0)


def run_epoch(experiment: Experiment, compiled: RunEpoch, states: TrainState) -> tuple:
    """Calls a compiled epoch with the experiment's arrays."""
    return compiled(
        states, experiment.tables, experiment.evaluation, experiment.coefficients
    )


def _run_epoch(
    state: TrainState,
    tables: SimulationTables,
    truth: EvaluationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[TrainState, dict[str, Array]]:
    """Trains one seed for an epoch, then evaluates it."""
    state, metrics = train_epoch(state, tables, coefficients, program=program)
    key = jax.random.fold_in(state.evaluation_key, state.epoch)
    scores = evaluate(
        state.recommender.params,
        key,
        truth,
        networks=program.recommender,
        config=program.config,
    )
    counters = {"epoch": state.epoch, "env_steps": state.env_steps}
    return state, counters | scores | metrics
