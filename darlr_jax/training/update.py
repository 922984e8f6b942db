"""Learning from one collect: returns, minibatches, a gradient step of each agent."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from darlr_jax.agents import recommender, selector
from darlr_jax.agents.a2c import (
    explained_variance,
    monte_carlo,
    normalized_weights,
    standardized,
)
from darlr_jax.config import A2CConfig
from darlr_jax.simulation.environment import can_end_early
from darlr_jax.training.program import Program
from darlr_jax.types import (
    AgentState,
    Array,
    Key,
    Params,
    RewardScale,
    SelectorTrajectory,
    TrainState,
    Transition,
    UserTables,
)

_AnyBatch = TypeVar("_AnyBatch", recommender.RecommenderBatch, selector.SelectorBatch)


class Batch(NamedTuple):
    """Stored decisions of both agents in M recommendations."""

    recommender: recommender.RecommenderBatch
    selector: selector.SelectorBatch | None


class Minibatches(NamedTuple):
    """Which slots of the random order each minibatch has."""

    starts: Array  # [n] its first
    ends: Array  # [n] one behind its last; its first again where it has none


class Learners(NamedTuple):
    """What minibatches update."""

    recommender: AgentState
    selector: AgentState | None
    key: Key


def update_agents(
    state: TrainState,
    transitions: Transition,
    key: Key,
    scale: RewardScale,
    users: UserTables,
    *,
    program: Program,
) -> tuple[TrainState, dict[str, Array]]:
    """One pass over the transitions `[T, B]` in random minibatches (protocol 5).

    Returns and advantages are those of the policy that acted; later minibatches use
    them unchanged. The key is consumed.

    Args:
      state: both agents.
      transitions: one collect.
      key: random key.
      scale: of shaped rewards in the state.
      users: their feedback vectors, and whom the selector may pick.
      program: the method.

    Returns:
      The new state, and `{recommender,selector}_{total,policy,value,entropy}` losses,
      means over the minibatches, with `{recommender,selector}_explained_variance`.
    """
    batch, explained = stored_decisions(transitions, program)
    key, order_key = jax.random.split(key)
    order = _random_order(order_key, batch.recommender.weight)
    size = program.config.training.batch_size
    minibatches = into_minibatches(batch.recommender.weight, size)
    step = functools.partial(
        _minibatch_step,
        batch=batch,
        order=order,
        scale=scale,
        users=users,
        program=program,
    )
    learners = Learners(state.recommender, state.selector, key)
    learners, losses = lax.scan(step, learners, minibatches)
    weight = (minibatches.ends > minibatches.starts).astype(jnp.float32)
    weight /= jnp.sum(weight)
    means = jax.tree.map(lambda values: values @ weight, losses)
    state = state.replace(recommender=learners.recommender, selector=learners.selector)
    return state, means | explained


def into_minibatches(weight: Array, size: int) -> Minibatches:
    """Splits the real transitions into minibatches, the remainder joining the last.

    Sizes follow the published code: 3,000 transitions in batches of 1,024 make 1,024
    and 1,976. How many are real is known at run time alone where sessions can end
    early; minibatches without any change nothing.
    """
    most = max(1, weight.shape[0] // size)
    number, starts = jnp.arange(most), jnp.arange(most) * size
    count = jnp.sum(weight).astype(jnp.int32)
    batches = jnp.maximum(count // size, 1)
    ends = jnp.where(number == batches - 1, count, starts + size)
    return Minibatches(starts, jnp.where(number < batches, ends, starts))


def stored_decisions(
    transitions: Transition, program: Program
) -> tuple[Batch, dict[str, Array]]:
    """Flattens transitions `[T, B]` to decisions `[T * B]` with their returns.

    Beside them `{recommender,selector}_explained_variance`, scalars.
    """
    config = program.config.recommender
    of_session = functools.partial(monte_carlo, config=config)
    outcome = jax.vmap(of_session, 1, 1)(
        transitions.reward + config.reward_offset,
        transitions.discount,
        transitions.value,
    )
    explained = explained_variance(
        outcome.returns, outcome.advantage, transitions.weight
    )
    metrics = {"recommender_explained_variance": explained}
    picks = None
    if transitions.selector is not None:
        picks, explained = _stored_picks(transitions, transitions.selector, program)
        metrics["selector_explained_variance"] = explained
    masks = config.mask_used_items
    batch = Batch(
        recommender.RecommenderBatch(
            observation=transitions.observation,
            used=transitions.used if masks else None,
            item=transitions.item,
            target=outcome.target,
            advantage=outcome.advantage,
            weight=transitions.weight,
        ),
        picks,
    )
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    return flat, metrics


def _stored_picks(
    transitions: Transition, trajectory: SelectorTrajectory, program: Program
) -> tuple[selector.SelectorBatch, Array]:
    """The selector's part: K picks are an episode, worth nothing after the last."""
    config = program.config.selector
    going_on = jnp.arange(config.k_sel) < config.k_sel - 1
    of_picks = functools.partial(monte_carlo, config=config)
    of_all = jax.vmap(jax.vmap(of_picks, (0, None, 0)), (0, None, 0))
    outcome = of_all(trajectory.reward, going_on, trajectory.value)
    weight = jnp.broadcast_to(transitions.weight[..., None], outcome.returns.shape)
    picks = selector.SelectorBatch(
        user=transitions.user,
        context=trajectory.context,
        picked=trajectory.users,
        target=outcome.target,
        advantage=outcome.advantage,
        weight=transitions.weight,
    )
    return picks, explained_variance(outcome.returns, outcome.advantage, weight)


def _random_order(key: Key, weight: Array) -> Array:
    """A random order of the slots, real transitions first, padded for slicing."""
    noise = jax.random.uniform(key, weight.shape)
    order = jnp.argsort(jnp.where(weight > 0, noise, 2.0))
    return jnp.pad(order, (0, weight.shape[0]))


def _minibatch_step(
    learners: Learners,
    minibatch: Minibatches,
    *,
    batch: Batch,
    order: Array,
    scale: RewardScale,
    users: UserTables,
    program: Program,
) -> tuple[Learners, dict[str, Array]]:
    """A gradient step of each agent on one of the minibatches.

    They are of one shape, the largest that may be needed, so that there is one step to
    compile; of rows behind its end a minibatch computes less than a chunk.
    """
    start, end = minibatch
    slots, size = batch.recommender.weight.shape[0], program.config.training.batch_size
    width = min(slots, 2 * size - 1)
    rows = lax.dynamic_slice(order, (start,), (width,))
    chosen = jax.tree.map(lambda leaf: leaf[rows], batch)
    inside = (jnp.arange(width) < end - start).astype(jnp.float32)
    key, dropout_key = jax.random.split(learners.key)
    new_recommender, metrics = _recommender_step(
        learners.recommender, dropout_key, chosen.recommender, inside, scale, program
    )
    new_selector = learners.selector
    if chosen.selector is not None and learners.selector is not None:
        new_selector, more = _selector_step(
            learners.selector, chosen.selector, inside, users, program
        )
        metrics |= more
    agents = (new_recommender, new_selector)
    if can_end_early(program.config.environment):  # an empty one must not move Adam
        keep = functools.partial(jnp.where, end > start)
        agents = jax.tree.map(keep, agents, (learners.recommender, learners.selector))
    return Learners(*agents, key), metrics


def _recommender_step(
    agent: AgentState,
    key: Key,
    batch: recommender.RecommenderBatch,
    inside: Array,
    scale: RewardScale,
    program: Program,
) -> tuple[AgentState, dict[str, Array]]:
    config = program.config.recommender
    grads, losses = recommender.loss_gradients(
        agent.params,
        key,
        _weighted(batch, inside, config),
        scale,
        networks=program.recommender,
        config=config,
    )
    metrics = {f"recommender_{k}": v for k, v in losses._asdict().items()}
    return _apply(agent, grads, program.recommender_optimizer), metrics


def _selector_step(
    agent: AgentState,
    batch: selector.SelectorBatch,
    inside: Array,
    users: UserTables,
    program: Program,
) -> tuple[AgentState, dict[str, Array]]:
    assert program.selector is not None
    config = program.config.selector
    grads, losses = selector.loss_gradients(
        agent.params,
        _weighted(batch, inside, config),
        users,
        network=program.selector,
        config=config,
    )
    metrics = {f"selector_{k}": v for k, v in losses._asdict().items()}
    return _apply(agent, grads, program.selector_optimizer), metrics


def _weighted(batch: _AnyBatch, inside: Array, config: A2CConfig) -> _AnyBatch:
    """Makes the slots before a minibatch's end share a weight of one."""
    weight = normalized_weights(batch.weight * inside)
    if not config.normalize_advantage:
        return batch._replace(weight=weight)
    advantage = batch.advantage
    trailing = (1,) * (advantage.ndim - 1)  # the K picks of a recommendation share it
    share = jnp.broadcast_to(weight.reshape(-1, *trailing), advantage.shape)
    share = share * weight.size / advantage.size
    return batch._replace(weight=weight, advantage=standardized(advantage, share))


def _apply(
    agent: AgentState, grads: Params, optimizer: optax.GradientTransformation
) -> AgentState:
    updates, opt_state = optimizer.update(grads, agent.opt_state, agent.params)
    return AgentState(optax.apply_updates(agent.params, updates), opt_state)
