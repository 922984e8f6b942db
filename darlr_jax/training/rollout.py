"""One batch of training episodes: act, select, estimate, shape, step.

Nothing here is differentiated: learning re-evaluates what is stored.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.agents import recommender, selector
from darlr_jax.agents.a2c import left_by_separate_passes
from darlr_jax.config import ExperimentConfig
from darlr_jax.simulation import environment, penalties, rewards
from darlr_jax.training.program import Program, keeps_estimates
from darlr_jax.types import (
    UNVISITED,
    Array,
    Coefficients,
    EnvState,
    Estimate,
    Key,
    Observation,
    Params,
    References,
    RewardScale,
    RewardTables,
    SelectorTrajectory,
    SimulationTables,
    TrainState,
    Transition,
    UserCodes,
)


class RolloutInputs(NamedTuple):
    """What one collect reads; constant while it lasts."""

    recommender: Params
    selector: Params | None
    codes: UserCodes | None
    in_warm_up: Array  # [] bool
    shift: Array  # [] MIN_R of the shaped reward
    scale: RewardScale  # of shaped rewards in the state
    tables: SimulationTables
    coefficients: Coefficients


def collect(
    state: TrainState,
    key: Key,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[Transition, Array]:
    """Rolls out one episode in each environment. The key is consumed.

    Returns:
      Transitions `[T, B]`, and the store of previous estimates after them.
    """
    user_key, turn_key = jax.random.split(key)
    user_keys = jax.random.split(user_key, program.config.training.environments)
    users = jax.vmap(environment.draw_user, (0, None))(user_keys, tables.env)
    return roll_out(state, users, turn_key, tables, coefficients, program=program)


def roll_out(
    state: TrainState,
    users: Array,
    key: Key,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[Transition, Array]:
    """As `collect`, with an episode of each of `users [B]`. The key is consumed."""
    turn_keys = jax.random.split(key, program.config.environment.max_turn + 1)
    reset = functools.partial(
        environment.reset,
        num_items=tables.rewards.base.shape[1],
        history=_history_length(program.config),
    )
    inputs = rollout_inputs(state, tables, coefficients, program)
    turn = functools.partial(_turn, inputs=inputs, program=program)
    carry = (jax.vmap(reset)(users), state.previous_estimates)
    (_, previous), transitions = lax.scan(turn, carry, turn_keys[:-1])
    if program.config.recommender.value_passes == "separate":
        transitions = _valued_apart(transitions, turn_keys[-1], inputs, program)
    elif program.recommender.learns_elsewhere:
        transitions = _valued_where_learned(transitions, turn_keys[-1], inputs, program)
    return transitions, previous


def _valued_where_learned(
    transitions: Transition, key: Key, inputs: RolloutInputs, program: Program
) -> Transition:
    """Transitions `[T, B]` whose values are those of the states to be learned in.

    Those differ from the states acted in at the first turn, and until the window is
    full. The key is consumed.
    """
    filling = max(1, program.config.tracker.window - 1)
    turns = min(filling, program.config.environment.max_turn)
    early = jax.tree.map(lambda leaf: leaf[:turns], transitions.observation)
    learned = _learned_values(early, key, inputs, program)
    return transitions._replace(value=transitions.value.at[:turns].set(learned))


def _valued_apart(
    transitions: Transition, key: Key, inputs: RolloutInputs, program: Program
) -> Transition:
    """Transitions `[T, B]` with values of two passes more, as published (protocol 5).

    The second is V(s') of the state before, and enters what that one pays. The key is
    consumed.
    """
    value, again = (
        _learned_values(transitions.observation, one, inputs, program)
        for one in jax.random.split(key)
    )
    discount = program.config.recommender.discount
    of_sessions = jax.vmap(left_by_separate_passes, (1, 1, 1, None), 1)
    left = of_sessions(value, again, transitions.discount, discount)
    return transitions._replace(value=value, reward=transitions.reward + left)


def _learned_values(
    seen: Observation, key: Key, inputs: RolloutInputs, program: Program
) -> Array:
    """The critic's values `[T, B]` where the recommender will learn what it has `seen`.

    The key is consumed.
    """
    value = functools.partial(recommender.learned_value, networks=program.recommender)
    of_sessions = jax.vmap(value, (None, 0, 0, None))
    keys = jax.random.split(key, seen.items.shape[:2])
    return jax.vmap(of_sessions, (None, 0, 0, None))(
        inputs.recommender, keys, seen, inputs.scale
    )


def _history_length(config: ExperimentConfig) -> int:
    """The items that a session remembers: all of them, if exposure is asked for."""
    turns = config.environment.max_turn if config.reward.exposure_weight else 0
    return max(config.tracker.window, config.environment.exit_window, turns)


def state_reward_scale(tables: RewardTables, coefficients: Coefficients) -> RewardScale:
    """Shaped rewards enter the state as r / (MAX_R - MIN_R) (protocol 4.1)."""
    bounds = rewards.reward_bounds(tables, coefficients)
    return RewardScale(jnp.zeros_like(bounds.low), bounds.high - bounds.low)


def rollout_inputs(
    state: TrainState,
    tables: SimulationTables,
    coefficients: Coefficients,
    program: Program,
) -> RolloutInputs:
    """What the turns of one collect share; the users' codes are made here, once."""
    params, codes = None, None
    if program.selector is not None and state.selector is not None:
        params = state.selector.params
        codes = selector.encode_users(
            params,
            tables.users,
            network=program.selector,
            config=program.config.selector,
        )
    return RolloutInputs(
        recommender=state.recommender.params,
        selector=params,
        codes=codes,
        in_warm_up=state.epoch < program.config.training.warm_up_epochs,
        shift=rewards.reward_bounds(tables.rewards, coefficients).low,
        scale=state_reward_scale(tables.rewards, coefficients),
        tables=tables,
        coefficients=coefficients,
    )


def _turn(
    carry: tuple[EnvState, Array],
    key: Key,
    *,
    inputs: RolloutInputs,
    program: Program,
) -> tuple[tuple[EnvState, Array], Transition]:
    """One turn of all environments. The key is consumed."""
    state, previous = carry
    config = program.config
    transition = _recommend_all(state, key, previous, inputs=inputs, program=program)
    step = functools.partial(environment.step, config=config.environment)
    following = jax.vmap(step, (0, 0, 0, None))(
        state, transition.item, transition.reward, inputs.tables.env
    )
    if keeps_estimates(config):
        # ROLeR's rewards are no answers of reference users: none is kept of a warm-up.
        dynamic = transition.weight * (1.0 - inputs.in_warm_up)
        previous = record_estimates(
            previous,
            state.user,
            transition.item,
            transition.metrics["estimate"],
            dynamic,
        )
    transition = transition._replace(discount=following.discount)
    return (following, previous), transition


def _recommend_all(
    state: EnvState,
    key: Key,
    previous: Array,
    *,
    inputs: RolloutInputs,
    program: Program,
) -> Transition:
    """`_recommend` lifted over sessions; what ended ones get has no weight.

    With groups smaller than all, sessions that go on come first and are served a group
    at a time, so that groups of ended ones cost (almost) nothing. Else all are served:
    a loop whose length is known at run time alone would stop an accelerator at every
    turn. A session's randomness depends on its row alone. The key is consumed.
    """
    # Compiled by itself, it is traced once: for its shapes, and in the loop.
    recommend = jax.jit(functools.partial(_recommend_rows, program=program))
    shared = key, previous, inputs
    sessions, size = state.user.shape[0], program.sessions_at_once
    if size >= sessions or not environment.can_end_early(program.config.environment):
        transitions: Transition = recommend(state, jnp.arange(sessions), *shared)
        return transitions
    alive = state.discount > 0
    order = jnp.argsort(~alive, stable=True)
    order = jnp.pad(order, (0, -sessions % size), constant_values=sessions)

    def serve(group: Array, transitions: Transition) -> Transition:
        rows = lax.dynamic_slice_in_dim(order, group * size, size)
        states = jax.tree.map(lambda leaf: leaf[rows], state)
        served = recommend(states, rows, *shared)
        return jax.tree.map(
            lambda leaf, part: leaf.at[rows].set(part, mode="drop"), transitions, served
        )

    some = jax.tree.map(lambda leaf: leaf[:size], state)
    shapes = jax.eval_shape(recommend, some, order[:size], *shared)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros((sessions, *leaf.shape[1:]), leaf.dtype), shapes
    )
    groups = (jnp.sum(alive) + size - 1) // size
    return lax.fori_loop(0, groups, serve, nothing)


def _recommend_rows(
    states: EnvState,
    rows: Array,
    key: Key,
    previous: Array,
    inputs: RolloutInputs,
    *,
    program: Program,
) -> Transition:
    """`_recommend` of the sessions `states` in the rows `rows [B]`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    bound = functools.partial(_recommend, inputs=inputs, program=program)
    return jax.vmap(bound, (0, 0, None))(states, keys, previous)


def _recommend(
    state: EnvState,
    key: Key,
    previous: Array,
    *,
    inputs: RolloutInputs,
    program: Program,
) -> Transition:
    """One recommendation and what it pays. _Unbatched_; the discount is set later."""
    config, masks = program.config, program.config.recommender.mask_used_items
    act_key, select_key = jax.random.split(key)
    observation = environment.observe(state, config.tracker.window)
    action = recommender.act(
        inputs.recommender,
        act_key,
        observation,
        state.used if masks else None,
        inputs.scale,
        networks=program.recommender,
        explore=True,
    )
    references, trajectory = select(
        state.user, action.item, action.state, select_key, inputs, program
    )
    estimate = estimate_reward(
        state.user, action.item, references, previous, inputs, program
    )
    reward, metrics = _pay(state, action.item, estimate, inputs, config)
    if references is not None:
        metrics |= _reference_metrics(
            state.user, action.item, references, inputs.tables
        )
        if keeps_estimates(config):
            metrics |= _visit_metrics(estimate, previous[state.user, action.item])
    if trajectory is not None:
        metrics["intrinsic_reward"] = jnp.mean(trajectory.reward)
    return Transition(
        user=state.user,
        observation=observation,
        used=state.used if masks else state.used[:0],
        item=action.item,
        value=action.value,
        reward=reward,
        discount=state.discount,
        weight=(state.discount > 0).astype(jnp.float32),
        selector=trajectory,
        metrics=metrics,
    )


def _pay(
    state: EnvState,
    item: Array,
    estimate: Estimate,
    inputs: RolloutInputs,
    config: ExperimentConfig,
) -> tuple[Array, dict[str, Array]]:
    """What is learned from an item, and the terms that it is made of."""
    tables, coefficients = inputs.tables, inputs.coefficients
    orders = config.reward.entropy_orders
    bonus = penalties.entropy_bonus(
        item, state.items[0], tables.rewards.entropy, orders
    )
    reward = rewards.shape_reward(estimate, bonus, inputs.shift, coefficients)
    if config.reward.exposure_weight:
        reward = _less_for_the_like(reward, item, state, tables, config)
    return reward, {
        "estimate": estimate.value,
        "shaped_reward": reward,
        "penalty": coefficients.lambda_u * estimate.uncertainty,
        "entropy_bonus": bonus,
    }


def _less_for_the_like(
    reward: Array,
    item: Array,
    state: EnvState,
    tables: SimulationTables,
    config: ExperimentConfig,
) -> Array:
    """R / (1 + gamma_e e_t): an item pays less, the more like it was seen (CIRS)."""
    exposure = penalties.exposure_effect(
        item,
        state.items,
        state.turn,
        tables.exposure_distance,
        config.reward.exposure_tau,
    )
    return reward / (1.0 + config.reward.exposure_weight * exposure)


def select(
    user: Array,
    item: Array,
    state: Array,
    key: Key,
    inputs: RolloutInputs,
    program: Program,
) -> tuple[References | None, SelectorTrajectory | None]:
    """The method's reference users; the selector's trajectory if they are learned.

    They are asked about `item []`, recommended to `user []` in the recommender's
    `state [D]`. _Unbatched_; the key is consumed.
    """
    if program.choose_references is None:
        return None, None
    config, tables = program.config.selector, inputs.tables
    context = state
    if config.item_in_state:
        vectors = inputs.recommender.tracker["item_vectors"]
        context = jnp.concatenate([context, vectors[item]])
    picked, value = program.choose_references(
        inputs.selector, key, user, context, inputs.codes, tables.users
    )
    references = selector.reference_users(user, picked, tables.users)
    if program.selector is None:
        return references, None
    reward = selector.intrinsic_reward(
        user,
        item,
        references,
        tables.rewards,
        inputs.coefficients,
        config=config,
    )
    return references, SelectorTrajectory(context, picked, value, reward)


def estimate_reward(
    user: Array,
    item: Array,
    references: References | None,
    previous: Array,
    inputs: RolloutInputs,
    program: Program,
) -> Estimate:
    """The method's estimate, or ROLeR's static one, unpenalised, in the warm-up.

    _Unbatched_; `previous` is the store of estimates `[U, I]`.
    """
    arguments = (
        user, item, references, previous, inputs.tables.rewards, inputs.coefficients
    )  # fmt: skip
    estimate = program.estimate_reward(*arguments)
    if not program.config.training.warm_up_epochs:
        return estimate
    static = rewards.static_estimate(*arguments)
    static = static._replace(uncertainty=jnp.zeros_like(estimate.uncertainty))
    choose = functools.partial(jnp.where, inputs.in_warm_up)
    return jax.tree.map(choose, static, estimate)


def _reference_metrics(
    user: Array, item: Array, references: References, tables: SimulationTables
) -> dict[str, Array]:
    """What shows whether a selector selects: logged of every run with references."""
    neighbours = tables.users.neighbours[user]
    is_neighbour = jnp.any(references.users[:, None] == neighbours[None, :], axis=1)
    base = tables.rewards.base
    answer = jnp.mean(base[references.users, item])
    return {
        "similarity": jnp.mean(references.similarity),
        "diversity": jnp.mean(references.diversity),
        "inflation": answer - base[user, item],
        "knn_overlap": jnp.mean(is_neighbour),
    }


def _visit_metrics(estimate: Estimate, stored: Array) -> dict[str, Array]:
    """Uncertainty where a cell has no stored estimate yet, and where it has."""
    first = stored == UNVISITED
    return {
        "first_visits": first.astype(jnp.float32),
        "uncertainty_first": jnp.where(first, estimate.uncertainty, 0.0),
        "uncertainty_repeat": jnp.where(first, 0.0, estimate.uncertainty),
    }


def record_estimates(
    previous: Array, users: Array, items: Array, values: Array, weights: Array
) -> Array:
    """Stores the estimates `[B]` of one turn in `previous [U, I]`.

    Environments that hit one cell in the same turn store their mean. They are sorted
    first, so that not even its rounding depends on their order.
    """
    order = jnp.lexsort((weights, items, users, values))
    users, items, values, weights = (
        leaf[order] for leaf in (users, items, values, weights)
    )
    same = (users[:, None] == users[None, :]) & (items[:, None] == items[None, :])
    same = same * weights[None, :]
    sums = jnp.matmul(same, values, precision=lax.Precision.HIGHEST)
    means = sums / jnp.maximum(jnp.sum(same, axis=1), 1.0)
    rows = jnp.where(weights > 0, users, previous.shape[0])  # out of range: dropped
    return previous.at[rows, items].set(means, mode="drop")
