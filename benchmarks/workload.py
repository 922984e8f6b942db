"""The phases of a training run, each as a program that can be timed by itself.

A program is `(carry, *inputs) -> (carry, result)`. The carry is donated and comes back
changed, as in a run, where the large state is never copied. All seeds are lifted in one
program, as in a run on an accelerator; on a CPU a run has them one after another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import counts
from benchmarks.counts import Shapes, Work
from benchmarks.invented import InventedFit, Sizes
from darlr_jax import config as config_lib
from darlr_jax.agents import selector
from darlr_jax.config import ExperimentConfig
from darlr_jax.evaluation.rollout import MODES, evaluate
from darlr_jax.experiment import Experiment
from darlr_jax.simulation.environment import can_end_early
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.program import Program
from darlr_jax.training.rollout import collect, state_reward_scale
from darlr_jax.training.update import update_agents
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    Params,
    SimulationTables,
    TrainState,
    Transition,
)
from darlr_jax.world_model.ensemble import train_steps


class Phase(NamedTuple):
    """A program, what it is called with, and what one call does."""

    name: str
    unit: str  # of what a call does: transitions, recommendations or pairs
    run: Any  # jitted: (carry, *inputs) -> (carry, result)
    carry: Any  # donated
    inputs: tuple
    units: Callable[[Any], float]  # result -> how much of the unit the call did
    work: Callable[[float], Work]  # that much of the unit -> what it cannot do without


class Run(NamedTuple):
    """What the phases of policies are taken from."""

    experiment: Experiment
    states: Any  # [S]
    shapes: Shapes

    @property
    def config(self) -> ExperimentConfig:
        """The experiment's."""
        config: ExperimentConfig = self.experiment.learner.config
        return config

    @property
    def seeds(self) -> int:
        """S."""
        seeds: int = self.states.epoch.shape[0]
        return seeds

    @property
    def keys(self) -> Key:
        """A key for each seed, the same at every call."""
        return jax.vmap(jax.random.key)(jnp.arange(self.seeds, dtype=jnp.uint32))

    @property
    def small_states(self) -> Any:
        """Copies of the states without their store of estimates, which is large."""
        blank = jnp.zeros((self.seeds, 0, 0))
        return jax.tree.map(jnp.copy, self.states.replace(previous_estimates=blank))


def training(run: Run) -> Phase:
    """One collect, one update and all bookkeeping of both: an epoch of one collect."""
    experiment = run.experiment
    function = functools.partial(_train, program=experiment.program)
    one_collect = experiment.coefficients._replace(steps_per_epoch=jnp.asarray(1))

    def work(made: float) -> Work:
        collected = counts.collecting(run.shapes, made, run.seeds)
        return collected + learning(run, made, both=True)

    return Phase(
        name="training",
        unit="transitions",
        run=_lifted(function, (0, None, None)),
        carry=run.states,
        inputs=(experiment.tables, one_collect),
        units=lambda result: float(jnp.sum(result["transitions"])),
        work=work,
    )


def _lifted(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Any:
    """`function` over seeds, compiled, its first argument donated."""
    return jax.jit(jax.vmap(function, axes), donate_argnums=0)


def _train(
    state: TrainState,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[TrainState, dict[str, Array]]:
    following, metrics = train_epoch(state, tables, coefficients, program=program)
    made = following.env_steps - state.env_steps
    return following, metrics | {"transitions": made}


def collecting(run: Run) -> Phase:
    """A rollout of all environments; its result are the transitions `[S, T, B]`."""
    experiment = run.experiment
    function = functools.partial(_collect, program=experiment.program)
    return Phase(
        name="collect",
        unit="transitions",
        run=_lifted(function, (0, 0, 0, None, None)),
        carry=jnp.copy(run.states.previous_estimates),
        inputs=(
            *(run.small_states, run.keys),
            *(experiment.tables, experiment.coefficients),
        ),
        units=lambda result: float(jnp.sum(result.weight)),
        work=lambda made: counts.collecting(run.shapes, made, run.seeds),
    )


def _collect(
    previous: Array,
    state: TrainState,
    key: Key,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[Array, Transition]:
    state = state.replace(previous_estimates=previous)
    made, previous = collect(state, key, tables, coefficients, program=program)
    return previous, made


def selecting(run: Run, transitions: Transition) -> Phase:
    """The picks of such a collect alone: as many groups of sessions, one by one."""
    experiment, shapes = run.experiment, run.shapes
    groups, size = _groups_served(experiment.program, np.asarray(transitions.weight))
    real = float(jnp.sum(transitions.weight))
    function = functools.partial(
        _select, groups=groups, size=size, shapes=shapes, program=experiment.program
    )
    encoding = counts.encoding(shapes).times(run.seeds)
    return Phase(
        name="collect: selector",
        unit="transitions",
        run=_lifted(function, (None, 0, 0, None)),
        carry=None,
        inputs=(run.states.selector.params, run.keys, experiment.tables),
        units=lambda result: real,
        work=lambda made: counts.picking(shapes).times(made) + encoding,
    )


def _groups_served(program: Program, weight: np.ndarray) -> tuple[int, int]:
    """Groups of sessions that a collect serves, given weights `[S, T, B]`; their size.

    Seeds go side by side: a turn has as many as the seed with most sessions needs.
    """
    size = program.sessions_at_once
    if size >= weight.shape[2] or not can_end_early(program.config.environment):
        return weight.shape[1], weight.shape[2]
    alive = np.max(np.sum(weight > 0, axis=2), axis=0)  # [T]
    return int(np.sum(-(-alive // size))), size


def _select(
    carry: None,
    params: Params,
    key: Key,
    tables: SimulationTables,
    *,
    groups: int,
    size: int,
    shapes: Shapes,
    program: Program,
) -> tuple[None, tuple[Array, Array]]:
    assert program.selector is not None and program.choose_references is not None
    codes = selector.encode_users(
        params, tables.users, network=program.selector, config=program.config.selector
    )
    choose = jax.vmap(program.choose_references, (None, 0, 0, 0, None, None))

    def serve(carry: None, key: Key) -> tuple[None, tuple[Array, Array]]:
        user_key, context_key, pick_key = jax.random.split(key, 3)
        users = jax.random.randint(user_key, (size,), 0, shapes.users)
        contexts = jax.random.normal(context_key, (size, shapes.context))
        keys = jax.random.split(pick_key, size)
        return None, choose(params, keys, users, contexts, codes, tables.users)

    return lax.scan(serve, carry, jax.random.split(key, groups))


def updating(run: Run, transitions: Transition, *, both: bool) -> Phase:
    """Learning from a collect: of both agents, or of the recommender alone."""
    experiment, carry = run.experiment, run.small_states
    real = float(jnp.sum(transitions.weight))
    if not both:
        carry = carry.replace(selector=None)
        transitions = transitions._replace(selector=None)
    function = functools.partial(_update, program=experiment.program)
    return Phase(
        name="update" if both else "update: recommender",
        unit="transitions",
        run=_lifted(function, (0, 0, 0, None, None)),
        carry=carry,
        inputs=(
            *(transitions, run.keys),
            *(experiment.tables, experiment.coefficients),
        ),
        units=lambda result: real,
        work=lambda made: learning(run, made, both=both),
    )


def _update(
    state: TrainState,
    transitions: Transition,
    key: Key,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[TrainState, dict[str, Array]]:
    scale = state_reward_scale(tables.rewards, coefficients)
    return update_agents(state, transitions, key, scale, tables.users, program=program)


def learning(run: Run, transitions: float, *, both: bool) -> Work:
    """What an update of all seeds cannot do without.

    A minibatch takes in the remainder of a collect, so there is always at least one.
    """
    of_a_seed = transitions / run.seeds
    steps = run.seeds * max(1, of_a_seed // run.config.training.batch_size)
    learned = counts.learning(run.shapes, transitions, steps)
    if not both:
        return learned
    return learned + counts.learning_picks(run.shapes, transitions, steps)


def evaluating(run: Run, *, all_users: bool) -> Phase:
    """All modes: of the drawn users, or of these and then of every user."""
    learner, states = run.experiment.learner, run.states
    changes = {"evaluation.all_users": all_users}
    config = config_lib.replace(run.config, changes)
    function = functools.partial(_evaluate, policy=learner.policy, config=config)
    params = jax.vmap(learner.policy_params, (0, None))(states, run.experiment.tables)
    users = config.evaluation.episodes + all_users * run.shapes.users
    return Phase(
        name="evaluation, all users" if all_users else "evaluation",
        unit="recommendations",
        run=_lifted(function, (None, 0, 0, None)),
        carry=None,
        inputs=(params, states.evaluation_key, run.experiment.evaluation),
        units=lambda result: users * _turns(result),
        work=counts.recommending(run.shapes).times,
    )


def _evaluate(
    carry: None, params: Params, key: Key, truth: Any, *, policy: Any, config: Any
) -> tuple[None, dict[str, Array]]:
    scores, _ = evaluate(params, key, truth, policy=policy, config=config)
    return carry, scores


def _turns(scores: dict[str, Array]) -> float:
    """Mean length of an episode, summed over modes and seeds; of drawn users."""
    return sum(float(jnp.sum(scores[f"{mode.name}_len_tra"])) for mode in MODES)


def fitting(fit: InventedFit, config: ExperimentConfig, sizes: Sizes) -> Phase:
    """Gradient steps of the world model, all members side by side."""
    model = config.world_model
    function = functools.partial(
        train_steps, network=fit.network, optimizer=fit.optimizer, config=model
    )
    members, steps, batch = fit.order.shape
    pairs = float(members * steps * batch)
    return Phase(
        name="world model",
        unit="pairs",
        run=_lifted(function, (0, 0, None, None)),
        carry=fit.members,
        inputs=(fit.order, fit.pairs, fit.sides),
        units=lambda losses: pairs,
        work=lambda pairs: counts.fitting(config, sizes, pairs, steps),
    )
