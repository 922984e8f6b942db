"""Small worlds: a generated data set with an invented world model, assembled once."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from darlr_jax import config as config_lib
from darlr_jax.config import DatasetConfig, ExperimentConfig
from darlr_jax.data import synthetic
from darlr_jax.data.dataset import Dataset, InteractionLog
from darlr_jax.experiment import Experiment, RunEpoch, build_experiment, make_run_epoch
from darlr_jax.presets import preset
from darlr_jax.training.program import init_state
from darlr_jax.training.rollout import collect
from darlr_jax.types import TrainState, Transition, WorldModelTables

SIZES: dict[str, Any] = {
    "dataset.synthetic.num_users": 12,
    "dataset.synthetic.num_items": 10,
    "dataset.synthetic.num_tags": 4,
    "dataset.synthetic.num_clusters": 3,
    "dataset.synthetic.log_density": 0.4,
    "environment.max_turn": 5,
    "environment.exit_rule": "none",
    "tracker.kind": "average",
    "tracker.layers": 1,
    "recommender.hidden": (8,),
    "selector.k_sel": 3,
    "selector.width": 8,
    "selector.learning_chunk": 16,
    "reward.neighbours": 3,
    "training.epochs": 2,
    "training.environments": 8,
    "training.steps_per_epoch": 80,
    "training.batch_size": 16,
    "evaluation.episodes": 6,
}


def tiny(method: str = "mbpo", **changes: Any) -> ExperimentConfig:
    """The synthetic preset of `method` in tiny sizes; `a__b` in `changes` means a.b."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return config_lib.replace(preset("synthetic", method), SIZES | dotted)


@functools.cache
def tiny_dataset(config: DatasetConfig) -> Dataset:
    """Generated, but for a log so long that the entropies of its items differ."""
    sizes = config.synthetic
    dataset = synthetic.generate(sizes)
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(sizes.num_users, dtype=np.int32), 30)
    popularity = 1 / np.arange(1, sizes.num_items + 1)
    popularity /= popularity.sum()
    items = rng.choice(sizes.num_items, len(users), p=popularity).astype(np.int32)
    stars = rng.integers(1, 6, len(users)).astype(np.float32)
    log = InteractionLog(
        users=users,
        items=items,
        labels=stars,
        rewards=stars,
        times=np.arange(len(users)),
    )
    return dataclasses.replace(dataset, log=log)


def logged_walks(dataset: Dataset) -> list[list[int]]:
    """What each user did in the log, in order of time."""
    log = dataset.log
    rows = sorted(zip(log.users, log.times, log.items, strict=True))
    walks: dict[int, list[int]] = {}
    for user, _, item in rows:
        walks.setdefault(int(user), []).append(int(item))
    return list(walks.values())


def invented_world_model(dataset: Dataset, seed: int = 0) -> WorldModelTables:
    """Tables of random numbers: all that a policy sees of a world model."""
    rng = np.random.default_rng(seed)
    shape = (dataset.num_users, dataset.num_items)

    def draw(low: float, high: float, *shape: int) -> Any:
        return rng.uniform(low, high, shape).astype(np.float32)

    return WorldModelTables(
        prediction=draw(-0.5, 4.5, *shape),
        variance=draw(0.1, 1.6, *shape),
        item_vectors=draw(-1, 1, dataset.num_items, 3),
        user_vectors=draw(-1, 1, dataset.num_users, 4),
    )


def half_of_the_world(
    dataset: Dataset, world: WorldModelTables, num_items: int = 4
) -> tuple[Dataset, WorldModelTables]:
    """An environment of 5 users and so many items in a log of more of both."""
    users = np.arange(5, dtype=np.int32)
    items = np.arange(2, 2 + num_items, dtype=np.int32)
    half = dataclasses.replace(
        dataset,
        environment_users=users,
        environment_items=items,
        true_reward=dataset.true_reward[np.ix_(users, items)],
        item_tags=dataset.item_tags[items],
        dominated=dataset.dominated[:, items],
    )
    tables = world._replace(
        prediction=world.prediction[np.ix_(users, items)],
        variance=world.variance[np.ix_(users, items)],
        item_vectors=world.item_vectors[items],
        user_vectors=world.user_vectors[users],
    )
    return half, tables


@functools.cache
def assemble(config: ExperimentConfig) -> Experiment:
    """The experiment on its generated data and an invented world model."""
    dataset = tiny_dataset(config.dataset)
    return build_experiment(dataset, invented_world_model(dataset), config)


@functools.cache
def first_state(config: ExperimentConfig, seed: int = 0) -> TrainState:
    """A fresh run of one seed."""
    experiment = assemble(config)
    init = functools.partial(init_state, program=experiment.program)
    return jax.jit(init)(jax.random.key(seed), experiment.tables)


@functools.cache
def compiled_collect(config: ExperimentConfig) -> Any:
    return jax.jit(functools.partial(collect, program=assemble(config).program))


def roll_out(
    config: ExperimentConfig, state: TrainState, seed: int = 0
) -> tuple[Transition, Any]:
    """Transitions as NumPy arrays, and the store after them."""
    experiment = assemble(config)
    transitions, store = compiled_collect(config)(
        state, jax.random.key(seed), experiment.tables, experiment.coefficients
    )
    return jax.tree.map(np.asarray, transitions), store


@functools.cache
def compiled_epoch(config: ExperimentConfig) -> RunEpoch:
    """The compiled epoch of `assemble(config)`, shared by all tests of a process."""
    return make_run_epoch(assemble(config).learner)
