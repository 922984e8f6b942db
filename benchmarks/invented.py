"""Experiments of true size without data: tables of the right shapes, random numbers.

What a program costs depends on shapes, and on how long sessions last; so speed can be
measured where there are no files, and in seconds, where the real tables of KuaiRand
take minutes. Nothing learned from these tables means anything.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from darlr_jax.config import ConfigError, ExperimentConfig, validate
from darlr_jax.experiment import Experiment
from darlr_jax.networks.deepfm import Features, Field, WorldModelNetwork, make_deepfm
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.learner import act, recommender_params
from darlr_jax.training.program import build_program, coefficients_of, init_state
from darlr_jax.types import (
    EMPTY,
    Array,
    Clusters,
    EntropyTables,
    EnvParams,
    EvaluationTables,
    ItemFacts,
    Learner,
    Policy,
    RewardScale,
    RewardTables,
    SimulationTables,
    UserTables,
)
from darlr_jax.world_model.ensemble import Member, Sides, init_member
from darlr_jax.world_model.negatives import TrainingPairs

_SEED = 0
_PAIRS = 100_000  # listed pairs of the order-2 entropy: searched in 17 steps
_OWN_ROWS = ("true", "world_model")  # estimates that are rows of the base table
_TAGS_OF_AN_ITEM = (1, 2)  # as most videos of KuaiRec and KuaiRand have


class Vocabulary(NamedTuple):
    """A categorical field of the world model."""

    size: int  # categories, padding included
    slots: int = 1  # categories that a row may hold


class Sizes(NamedTuple):
    """What the cost of a data set depends on."""

    users: int  # U, of the environment
    items: int  # I
    tags: int  # C, of the exit rule
    logged_users: int  # X, that the world model knows
    logged_items: int  # Y
    user_fields: tuple[Vocabulary, ...] = ()
    item_fields: tuple[Vocabulary, ...] = ()
    dense: int = 0  # numeric features of an item


_SIZES = {  # counts of their publishers (protocol 1.2); fields as `data/` reads them
    "coat": Sizes(
        *(290, 300, 0, 290, 300),
        user_fields=tuple(map(Vocabulary, (2, 6, 3, 3))),
        item_fields=tuple(map(Vocabulary, (2, 16, 13, 2))),
    ),
    "yahoo": Sizes(5_400, 1_000, 0, 15_400, 1_000),
    "kuairec": Sizes(
        *(1_411, 3_327, 31, 7_176, 10_728),
        item_fields=(Vocabulary(32, 4),),
        dense=1,
    ),
    "kuairand": Sizes(
        *(27_285, 7_583, 70, 27_285, 7_583),
        item_fields=(Vocabulary(71, 3),),
        dense=1,
    ),
}


def sizes_of(config: ExperimentConfig) -> Sizes:
    """The sizes of the data set that a configuration names.

    Raises:
      ConfigError: they are not known.
    """
    name = config.dataset.name
    if name == "synthetic":
        own = config.dataset.synthetic
        users, items, tags = own.num_users, own.num_items, own.num_tags
        groups = (Vocabulary(own.num_clusters),)
        tag_field = (Vocabulary(tags + 1, max(_TAGS_OF_AN_ITEM)),)
        return Sizes(users, items, tags, users, items, groups, tag_field, dense=1)
    if name not in _SIZES:
        raise ConfigError(
            f"--dataset={name}: no sizes to invent tables of; one of: "
            f"synthetic, {', '.join(_SIZES)}, with --users and --items as you like"
        )
    return _SIZES[name]


def item_width(config: ExperimentConfig, sizes: Sizes) -> int:
    """Entries of an item vector: embeddings of id and features, dense ones."""
    return _embeddings_width(config, sizes.item_fields) + sizes.dense


def _embeddings_width(config: ExperimentConfig, fields: Sequence[Vocabulary]) -> int:
    """Entries of what embeds an id and the features beside it."""
    slots = 1 + sum(field.slots for field in fields)
    return config.world_model.embedding_dim * slots


def feedback_width(config: ExperimentConfig, sizes: Sizes) -> int:
    """F, entries of a user's feedback vector."""
    widths = {
        "predicted": sizes.items,
        "logged": sizes.logged_items,
        "embedding": _embeddings_width(config, sizes.user_fields),
    }
    return widths[config.selector.feedback]


# --- policies -------------------------------------------------------------------------


def invent_experiment(config: ExperimentConfig, sizes: Sizes) -> Experiment:
    """A method that learns by A2C on invented tables, assembled as for a run.

    Raises:
      ConfigError: contradictions, more reference users than there are, other learners.
    """
    validate(config)
    if config.learner != "a2c":
        raise ConfigError(
            f"--method={config.method}: only methods that learn by A2C can be timed on "
            "invented tables"
        )
    if config.reward.references != "none" and _wanted(config) >= sizes.users:
        raise ConfigError(
            f"{_wanted(config)} reference users (selector.k_sel, or selector.pool_size)"
            f" and {sizes.users} users: there must be fewer of them than of others; "
            "set --users or --k_sel"
        )
    rng = np.random.default_rng(_SEED)
    tables = simulation_tables(config, sizes, rng)
    return Experiment(
        _learner(config, tables),
        tables,
        evaluation_tables(tables.env, sizes, rng),
        coefficients_of(config),
    )


def _wanted(config: ExperimentConfig) -> int:
    """Other users that there must be."""
    near = config.selector.pool_size if config.selector.pool == "nearest" else 0
    return max(config.selector.k_sel, near)


def _learner(config: ExperimentConfig, tables: SimulationTables) -> Learner:
    """As `training.learner.build`, of tables that exist already."""
    program = build_program(config, tables)
    return Learner(
        config=config,
        init=functools.partial(init_state, program=program),
        train_epoch=functools.partial(train_epoch, program=program),
        policy=Policy(functools.partial(act, networks=program.recommender)),
        policy_params=recommender_params,
        program=program,
    )


def simulation_tables(
    config: ExperimentConfig, sizes: Sizes, rng: np.random.Generator
) -> SimulationTables:
    """What policies are trained on; tables are shared where real ones are."""
    base = _uniform(rng, sizes.users, sizes.items)
    return SimulationTables(
        env=_env_params(config, sizes, rng),
        rewards=_reward_tables(config, base, rng),
        users=_user_tables(config, sizes, base, rng),
        item_vectors=_uniform(rng, sizes.items, item_width(config, sizes)),
        exposure_distance=_uniform(rng, sizes.items, sizes.items)
        if config.reward.exposure_weight
        else jnp.zeros((0, 0)),
    )


def evaluation_tables(
    env: EnvParams, sizes: Sizes, rng: np.random.Generator
) -> EvaluationTables:
    """What policies are evaluated on."""
    return EvaluationTables(
        env=env,
        true_reward=_uniform(rng, sizes.users, sizes.items),
        items=ItemFacts(
            dominated=jnp.asarray(rng.random((1, sizes.items)) < 0.5, jnp.float32),
            popularity=0.5 + _uniform(rng, sizes.items),
        ),
        activity=jnp.asarray(rng.integers(0, 3, sizes.users), jnp.int32),
        scale=RewardScale(jnp.zeros(()), jnp.ones(())),
    )


def _uniform(rng: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(rng.random(shape, np.float32))


def _env_params(
    config: ExperimentConfig, sizes: Sizes, rng: np.random.Generator
) -> EnvParams:
    tags = np.zeros((sizes.items, sizes.tags), np.float32)
    for row in tags if sizes.tags else ():
        count = int(rng.choice(_TAGS_OF_AN_ITEM))
        row[rng.choice(sizes.tags, min(count, sizes.tags), replace=False)] = 1
    by_distance = config.environment.exit_rule == "distance"
    return EnvParams(
        item_tags=jnp.asarray(tags),
        item_distance=_uniform(rng, sizes.items, sizes.items)
        if by_distance
        else jnp.zeros((0, 0)),
        exit_threshold=jnp.float32(config.environment.exit_threshold),
        num_users=jnp.int32(sizes.users),
    )


def _reward_tables(
    config: ExperimentConfig, base: Array, rng: np.random.Generator
) -> RewardTables:
    """The static estimate is the base table, unless the method mixes its rows."""
    reward = config.reward
    mixes = not reward.asks_references and reward.estimate not in _OWN_ROWS
    mixes |= config.training.warm_up_epochs > 0
    has_no_table = reward.uncertainty == "none" or reward.uncertainty_is_dynamic
    return RewardTables(
        base=base,
        item_mean=base.mean(axis=0),
        static=_uniform(rng, *base.shape) if mixes else base,
        uncertainty=jnp.zeros((0, 0)) if has_no_table else _uniform(rng, *base.shape),
        entropy=_entropy_tables(config, base.shape[1], rng),
        estimate_low=jnp.zeros(()),
        estimate_high=jnp.ones(()),
        uncertainty_low=jnp.zeros(()),
        uncertainty_high=jnp.ones(()),
    )


def _entropy_tables(
    config: ExperimentConfig, num_items: int, rng: np.random.Generator
) -> EntropyTables:
    orders = config.reward.entropy_orders
    drawn = rng.integers(0, num_items**2, _PAIRS if 2 in orders else 1)
    codes = np.unique(drawn).astype(np.int32)
    return EntropyTables(
        single=_uniform(rng, num_items),
        pair_codes=jnp.asarray(codes),
        pair_entropy=_uniform(rng, len(codes)),
        low=jnp.zeros(()),
        high=jnp.float32(len(orders)),
    )


def _user_tables(
    config: ExperimentConfig, sizes: Sizes, base: Array, rng: np.random.Generator
) -> UserTables:
    """Feedback vectors that are predictions are the base table itself."""
    if config.reward.references == "none":
        nothing = jnp.zeros((0, 0))
        return UserTables(nothing, nothing, jnp.zeros((0, 0), jnp.int32))
    users = sizes.users
    predicted = config.selector.feedback == "predicted"
    width = feedback_width(config, sizes)
    return UserTables(
        feedback=base if predicted else _uniform(rng, users, width),
        similarity=_uniform(rng, users, users),
        neighbours=_others(rng, users, config.selector.k_sel),
        pool=_pool(config, users, rng),
    )


def _others(rng: np.random.Generator, users: int, count: int) -> Array:
    """`count` other users of each `[U, count]`, by rising id."""
    steps = 1 + rng.choice(users - 1, count, replace=False)
    others = (np.arange(users)[:, None] + steps[None, :]) % users
    return jnp.asarray(np.sort(others, axis=1), jnp.int32)


def _pool(
    config: ExperimentConfig, users: int, rng: np.random.Generator
) -> Array | Clusters | None:
    """Whom the selector may pick, in the form that `selector.pool` wants."""
    if config.selector.pool == "all" or not config.reward.has_selector:
        return None
    if config.selector.pool == "nearest":
        return _others(
            rng, users, max(config.selector.pool_size, config.selector.k_sel)
        )
    groups, size = clusters_of(config, users)
    order = rng.permutation(users)
    members = np.full(groups * size, EMPTY, np.int32)
    members[:users] = order
    slot = np.argsort(order).astype(np.int32)
    return Clusters(jnp.asarray(members.reshape(groups, size)), jnp.asarray(slot))


def clusters_of(config: ExperimentConfig, users: int) -> tuple[int, int]:
    """The number of clusters of users, and the users in one."""
    size = config.selector.cluster_size or math.isqrt(users - 1) + 1
    return -(-users // size), size


# --- world model ----------------------------------------------------------------------


class InventedFit(NamedTuple):
    """What `world_model.ensemble.train_steps` takes, and what it is bound to."""

    members: Member  # leading axis E
    order: Array  # [E, steps, batch]
    pairs: TrainingPairs
    sides: Sides
    network: WorldModelNetwork
    optimizer: optax.GradientTransformation


def invent_fit(config: ExperimentConfig, sizes: Sizes, steps: int) -> InventedFit:
    """A fit of the ensemble to invented rows, `steps` gradient steps of it."""
    model = config.world_model
    rng = np.random.default_rng(_SEED)
    user_id = Field("user", sizes.logged_users, False)
    item_id = Field("item", sizes.logged_items, False)
    user_fields = (user_id, *_fields("user", sizes.user_fields))
    item_fields = (item_id, *_fields("item", sizes.item_fields))
    network = make_deepfm(model, user_fields, item_fields)
    sides = Sides(
        _features(rng, sizes.logged_users, sizes.user_fields, 0),
        _features(rng, sizes.logged_items, sizes.item_fields, sizes.dense),
    )
    optimizer = optax.adam(model.learning_rate)
    init = functools.partial(
        init_member, sides=sides, network=network, optimizer=optimizer
    )
    keys = jax.random.split(jax.random.key(_SEED), (2, model.members))
    rows = steps * model.batch_size
    order = rng.integers(0, rows, (model.members, steps, model.batch_size))
    return InventedFit(
        members=jax.jit(jax.vmap(init))(*keys),
        order=jnp.asarray(order, jnp.int32),
        pairs=_training_pairs(rng, rows, sizes),
        sides=sides,
        network=network,
        optimizer=optimizer,
    )


def _fields(side: str, vocabularies: tuple[Vocabulary, ...]) -> list[Field]:
    return [
        Field(f"{side}_{number}", vocabulary.size, vocabulary.slots > 1)
        for number, vocabulary in enumerate(vocabularies)
    ]


def _features(
    rng: np.random.Generator,
    rows: int,
    vocabularies: tuple[Vocabulary, ...],
    dense: int,
) -> Features:
    codes = tuple(
        jnp.asarray(rng.integers(0, size, (rows, slots)), jnp.int32)
        for size, slots in vocabularies
    )
    return Features(codes, _uniform(rng, rows, dense))


def _training_pairs(rng: np.random.Generator, rows: int, sizes: Sizes) -> TrainingPairs:
    """`rows` logged rows with one negative each, as device arrays."""

    def ids(size: int) -> np.ndarray:
        return rng.integers(0, size, rows).astype(np.int32)

    users, items = sizes.logged_users, sizes.logged_items
    labels, importance = rng.random((2, rows), np.float32)
    pairs = TrainingPairs(
        ids(users), ids(items), labels, ids(users), ids(items), importance
    )
    return jax.tree.map(jnp.asarray, pairs)
