"""One experiment, assembled: learner, tables, and the compiled epoch over all seeds.

The jit border: `run_epoch` trains and evaluates every seed for one epoch without
touching the host. Which algorithm learns is `config.learner`; all of them come as a
`types.Learner`, and here is the only place that knows their names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.baselines import bandits, fixed
from darlr_jax.config import ExperimentConfig, validate
from darlr_jax.data.dataset import Dataset
from darlr_jax.evaluation.metrics import visited_error
from darlr_jax.evaluation.rollout import evaluate, evaluation_tables
from darlr_jax.offline import agent as offline
from darlr_jax.simulation.tables import environment_params
from darlr_jax.training import learner as actor_critic
from darlr_jax.training.program import coefficients_of
from darlr_jax.types import (
    Array,
    Coefficients,
    EvaluationTables,
    Learner,
    WorldModelTables,
)

RunEpoch = Callable[
    [Any, Any, EvaluationTables, Coefficients], tuple[Any, dict[str, Array]]
]


class Algorithm(NamedTuple):
    """A value of `config.learner`."""

    # (dataset, world model or None, config) -> (learner, the arrays that it reads)
    build: Callable[..., tuple[Learner, Any]]
    needs_world_model: bool  # reads tables of a fitted one
    counts_steps: bool = True  # an epoch is `training.steps_per_epoch` transitions


_ALGORITHMS = {
    "a2c": Algorithm(actor_critic.build, needs_world_model=True),
    "sqn": Algorithm(offline.build, needs_world_model=True),
    "bcq": Algorithm(offline.build, needs_world_model=True),
    "cql": Algorithm(offline.build, needs_world_model=True),
    "crr": Algorithm(offline.build, needs_world_model=True),
    "ucb": Algorithm(bandits.build_ucb, False, False),
    "epsilon_greedy": Algorithm(bandits.build_epsilon_greedy, False, False),
    "random": Algorithm(fixed.build_random, False, False),
    "random_other_tags": Algorithm(fixed.build_other_tags, False, False),
    "popularity": Algorithm(fixed.build_popularity, False, False),
    "oracle": Algorithm(fixed.build_oracle, False, False),
}


class Experiment(NamedTuple):
    """What one run needs; the arrays lie on the device."""

    learner: Learner
    tables: Any  # that the learner reads; of A2C: SimulationTables
    evaluation: EvaluationTables
    coefficients: Coefficients

    @property
    def program(self) -> Any:
        """What the learner's functions are bound to; of A2C: Program."""
        return self.learner.program


def needs_world_model(config: ExperimentConfig) -> bool:
    """Whether the method reads tables of a fitted world model."""
    return _ALGORITHMS[config.learner].needs_world_model


def steps_of_an_epoch(config: ExperimentConfig) -> int:
    """The transitions that an epoch learns from; 0 where it is not measured in them."""
    counts = _ALGORITHMS[config.learner].counts_steps
    return config.training.steps_per_epoch if counts else 0


def build_experiment(
    dataset: Dataset, world_model: WorldModelTables | None, config: ExperimentConfig
) -> Experiment:
    """Assembles a method on a data set; `world_model` may be None if none is needed.

    Raises:
      ConfigError: contradictions, or a field that does not fit the data.
    """
    validate(config)
    learner, tables = _ALGORITHMS[config.learner].build(dataset, world_model, config)
    truth = evaluation_tables(dataset, environment_params(dataset, config))
    tables, truth = _to_device(tables, truth)
    return Experiment(learner, tables, truth, coefficients_of(config))


def _to_device(*trees: Any) -> tuple:
    """The same trees of device arrays; an array that stands in several is put once."""
    placed: dict[int, Array] = {}

    def put(leaf: Any) -> Array:
        if id(leaf) not in placed:
            placed[id(leaf)] = jnp.asarray(leaf)
        return placed[id(leaf)]

    return jax.tree.map(put, trees)


def init_seeds(experiment: Experiment, seeds: Sequence[int]) -> Any:
    """Fresh states with a leading axis S."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    init = experiment.learner.init
    return jax.jit(jax.vmap(init, (0, None)))(keys, experiment.tables)


def make_run_epoch(learner: Learner, at_once: int | None = None) -> RunEpoch:
    """The compiled epoch `(states [S], tables, evaluation tables, coefficients)`.

    Returns the new states and metrics `[S]`. The states are donated. Coefficients are
    those of all, or have the axis S as well: then each state has its own.

    Args:
      learner: what is trained.
      at_once: how many of S are computed side by side at most, in groups of one size,
        one after another; all if None. Fewer need less memory, and more time; where the
        groups have more room than S, the last state is computed again. 1 is without
        `vmap`, under which both branches of a `cond` are taken.
    """
    run_all = functools.partial(_run_all, learner=learner, at_once=at_once)
    return jax.jit(run_all, donate_argnums=0)


def _run_all(
    states: Any,
    tables: Any,
    truth: EvaluationTables,
    coefficients: Coefficients,
    *,
    learner: Learner,
    at_once: int | None,
) -> tuple[Any, dict[str, Array]]:
    chex.assert_equal_rank(jax.tree.leaves(coefficients))  # of all, or one each
    own = coefficients.lambda_u.ndim > 0
    epoch = functools.partial(_run_epoch, learner=learner)
    together = jax.vmap(epoch, (0, None, None, 0 if own else None))
    count = jax.tree.leaves(states)[0].shape[0]
    if at_once is None or at_once >= max(count, 2):
        return together(states, tables, truth, coefficients)
    rounds = math.ceil(count / at_once)
    size = math.ceil(count / rounds)
    alone = size == 1

    def follow(group: tuple[Any, Any]) -> tuple[Any, dict[str, Array]]:
        states, theirs = group
        run = epoch if alone else together
        return run(states, tables, truth, theirs if own else coefficients)

    groups = (states, coefficients if own else None)
    if alone:
        return lax.map(follow, groups)
    done = lax.map(follow, _split(groups, rounds, size))
    return jax.tree.map(
        lambda leaf: leaf.reshape(rounds * size, *leaf.shape[2:])[:count], done
    )


def _split(tree: Any, groups: int, size: int) -> Any:
    """Leaves `[S, ...]` as `[groups, size, ...]`, filled up with the last of them."""

    def split(leaf: Array) -> Array:
        missing = groups * size - leaf.shape[0]
        full = jnp.concatenate([leaf, *[leaf[-1:]] * missing])
        return full.reshape(groups, size, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def stack_coefficients(
    coefficients: Sequence[Coefficients], num_seeds: int
) -> Coefficients:
    """Coefficients `[S]` of several settings, each for `num_seeds` states in a row."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *coefficients)
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_seeds), stacked)


def run_epoch(experiment: Experiment, compiled: RunEpoch, states: Any) -> tuple:
    """Calls a compiled epoch with the experiment's arrays."""
    return compiled(
        states, experiment.tables, experiment.evaluation, experiment.coefficients
    )


def _run_epoch(
    state: Any,
    tables: Any,
    truth: EvaluationTables,
    coefficients: Coefficients,
    *,
    learner: Learner,
) -> tuple[Any, dict[str, Array]]:
    """Trains one seed for an epoch, then evaluates it."""
    state, metrics = learner.train_epoch(state, tables, coefficients)
    key = jax.random.fold_in(state.evaluation_key, state.epoch)
    scores, params = evaluate(
        learner.policy_params(state, tables),
        key,
        truth,
        policy=learner.policy,
        config=learner.config,
    )
    if learner.estimates is not None:
        error = visited_error(learner.estimates(state), truth.true_reward)
        metrics = metrics | {"visited_error": error}
    if learner.after_evaluation is not None:
        state = learner.after_evaluation(state, params)
    counters = {"epoch": state.epoch, "env_steps": state.env_steps}
    return state, counters | scores | metrics
