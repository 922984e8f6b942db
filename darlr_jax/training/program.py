"""What a method compiles to: networks, optimisers and the functions it chose.

Built once from the configuration. Everything here is static; arrays come as arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from darlr_jax.agents import fused_picks, recommender, references, selector
from darlr_jax.config import ExperimentConfig, replace
from darlr_jax.networks.selector import make_selector
from darlr_jax.networks.state_tracker import state_width
from darlr_jax.simulation import penalties, rewards
from darlr_jax.types import (
    UNVISITED,
    AgentState,
    Array,
    Coefficients,
    Key,
    Params,
    SelectorNetwork,
    SimulationTables,
    TrainState,
)

Choice = TypeVar("Choice")

_CPU_SESSIONS = 25  # ours: a pick costs about as much in groups of 16 as of 100
_LARGEST_LOGITS = 2**28  # entries of a selector's logits on an accelerator: 1 GiB


class Program(NamedTuple):
    """A method, ready to be compiled."""

    config: ExperimentConfig
    recommender: recommender.RecommenderNetworks
    selector: SelectorNetwork | None  # None: the references are not learned
    recommender_optimizer: optax.GradientTransformation
    selector_optimizer: optax.GradientTransformation
    estimate_reward: rewards.RewardEstimator
    # None: the method has no references
    choose_references: references.ChooseReferences | None
    sessions_at_once: int  # of those that can end early, in a collect


def build_program(config: ExperimentConfig, tables: SimulationTables) -> Program:
    """Binds the configuration's choices; reads only the shapes of `tables`.

    On an accelerator learning takes larger chunks than `learning_chunk` says, which is
    for the caches of a CPU: whole minibatches, as far as their logits are not too many.
    """
    if jax.default_backend() != "cpu":
        config = _with_large_chunks(config, tables.rewards.base.shape[0])
    num_items = tables.rewards.base.shape[1]
    item_width = tables.item_vectors.shape[1]
    networks = recommender.make_networks(config, num_items, item_width)
    network = None
    if config.reward.has_selector:
        shown = item_width if config.selector.item_in_state else 0
        context_width = state_width(item_width) + shown
        feedback_width = tables.users.feedback.shape[1]
        network = make_selector(config.selector, feedback_width, context_width)
    return Program(
        config=config,
        recommender=networks,
        selector=network,
        recommender_optimizer=optax.adam(config.recommender.learning_rate),
        selector_optimizer=optax.adam(config.selector.learning_rate),
        estimate_reward=_reward_estimator(config),
        choose_references=_reference_chooser(config, network),
        sessions_at_once=_sessions_at_once(config),
    )


def coefficients_of(config: ExperimentConfig) -> Coefficients:
    """The traced numbers of a configuration."""
    return Coefficients(
        lambda_u=jnp.asarray(config.reward.lambda_u),
        lambda_e=jnp.asarray(config.reward.lambda_e),
        lambda_s=jnp.asarray(config.selector.lambda_s),
        lambda_d=jnp.asarray(config.selector.lambda_d),
        denominator_floor=jnp.asarray(config.reward.denominator_floor),
        steps_per_epoch=jnp.asarray(config.training.steps_per_epoch, jnp.int32),
    )


def init_state(key: Key, tables: SimulationTables, *, program: Program) -> TrainState:
    """A fresh run of one seed; the key is consumed. Lift over seeds with `vmap`."""
    recommender_key, selector_key, key, evaluation_key = jax.random.split(key, 4)
    params = recommender.init(recommender_key, tables.item_vectors, program.recommender)
    return TrainState(
        recommender=_agent(params, program.recommender_optimizer),
        selector=None
        if program.selector is None
        else _agent(program.selector.init(selector_key), program.selector_optimizer),
        previous_estimates=_no_estimates(tables, program.config),
        key=key,
        evaluation_key=evaluation_key,
        epoch=jnp.zeros((), jnp.int32),
        env_steps=jnp.zeros((), jnp.int32),
    )


def _agent(params: Params, optimizer: optax.GradientTransformation) -> AgentState:
    return AgentState(params, optimizer.init(params))


def _no_estimates(tables: SimulationTables, config: ExperimentConfig) -> Array:
    shape = tables.rewards.base.shape if keeps_estimates(config) else (0, 0)
    return jnp.full(shape, UNVISITED, jnp.float32)


def keeps_estimates(config: ExperimentConfig) -> bool:
    """Whether anything reads the store of previous estimates."""
    return config.reward.uncertainty_is_dynamic or config.reward.overwrite


def _sessions_at_once(config: ExperimentConfig) -> int:
    """On a CPU small groups waste little on ended sessions; elsewhere width is free."""
    sessions = config.training.environments
    return min(_CPU_SESSIONS, sessions) if jax.default_backend() == "cpu" else sessions


def _with_large_chunks(config: ExperimentConfig, num_users: int) -> ExperimentConfig:
    whole = 2 * config.training.batch_size  # the last minibatch takes in the remainder
    logits = config.selector.k_sel * min(config.selector.user_block, num_users)
    rows = max(1, min(whole, _LARGEST_LOGITS // logits))
    changed: ExperimentConfig = replace(
        config,
        {
            "recommender.learning_chunk": max(whole, config.recommender.learning_chunk),
            "selector.learning_chunk": max(rows, config.selector.learning_chunk),
        },
    )
    return changed


def _reward_estimator(config: ExperimentConfig) -> rewards.RewardEstimator:
    reward = config.reward
    estimator: rewards.RewardEstimator = rewards.static_estimate
    if reward.asks_references:
        known = _OVERWRITTEN if reward.overwrite else _OF_REFERENCES
        estimator = _code_of("reward.estimate", reward.estimate, known)
    if reward.uncertainty_is_dynamic:
        formula = _code_of("reward.uncertainty", reward.uncertainty, _DYNAMIC)
        estimator = rewards.with_dynamic_uncertainty(estimator, formula)
    return estimator


_OF_REFERENCES: dict[str, rewards.RewardEstimator] = {
    "references": rewards.reference_estimate
}
_OVERWRITTEN: dict[str, rewards.RewardEstimator] = {
    "references": rewards.overwritten_estimate
}
_DYNAMIC: dict[str, penalties.DynamicUncertainty] = {
    "dynamic": penalties.dynamic_uncertainty
}


def _code_of(field: str, choice: str, known: Mapping[str, Choice]) -> Choice:
    """What a choice stands for; one without code must not be taken for another."""
    if choice not in known:
        raise NotImplementedError(f"{field}={choice!r}: no function")
    return known[choice]


def _reference_chooser(
    config: ExperimentConfig, network: SelectorNetwork | None
) -> references.ChooseReferences | None:
    kind, k_sel = config.reward.references, config.selector.k_sel
    if kind == "learned":
        assert network is not None
        fused = fused_picks.is_chosen(config.selector)
        plain, kernel = selector.select_references, fused_picks.select_references
        return functools.partial(
            references.learned,
            network=network,
            config=config.selector,
            select=kernel if fused else plain,
        )
    choosers: dict[str, references.ChooseReferences | None] = {
        "none": None,
        "random": functools.partial(references.random, k_sel=k_sel),
        "nearest": references.nearest,
        "self": references.itself,
    }
    return _code_of("reward.references", kind, choosers)
