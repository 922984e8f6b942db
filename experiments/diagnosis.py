"""How near the true reward are the estimates that agents were trained on?

The answer, estimates.json, is analysis: nothing reads it but reports.
"""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from darlr_jax.config import ExperimentConfig
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.evaluation.calibration import labels_are_rewards, logged_rows
from darlr_jax.evaluation.estimates import Estimates, count_visits, estimate_errors
from darlr_jax.experiment import Experiment
from darlr_jax.runs.directory import RunDirectory, read_json, write_json
from darlr_jax.simulation.tables import find_neighbours, neighbour_reward
from darlr_jax.training.program import Program
from darlr_jax.training.visits import Visits, sample_visits
from darlr_jax.types import WorldModelTables
from experiments.cli import say
from experiments.training import Trained

_VISITS = 10_000  # that a seed's agents make, at most: as many sessions as fit
_SEED = 20250509
_CHOSEN = {  # whom a method asks, as its estimator is called
    "learned": "selected users",
    "random": "random users",
    "nearest": "nearest users",
    "self": "the user alone",
}


class _Compared(NamedTuple):
    """The cells of one seed."""

    recommended: Estimates
    other: Estimates


def write_estimates(
    run: RunDirectory,
    experiment: Experiment,
    dataset: Dataset,
    world_model: WorldModelTables | None,
    trained: Trained,
) -> None:
    """Writes estimates.json, unless it is there or the method estimates nothing.

    Args:
      run: where to.
      experiment: the method.
      dataset: the data.
      world_model: its tables, None where the method has none.
      trained: the agents to be measured.
    """
    if world_model is None or not isinstance(experiment.program, Program):
        return
    epoch = int(np.asarray(trained.states.epoch)[0])
    if run.estimates.exists() and read_json(run.estimates).get("epoch") == epoch:
        return
    started = time.perf_counter()
    report = estimate_report(experiment, dataset, world_model, trained)
    write_json(run.estimates, plain({"epoch": epoch} | report))
    seconds = time.perf_counter() - started
    say(f"estimates against the true reward: measured in {seconds:.1f} s")


def estimate_report(
    experiment: Experiment,
    dataset: Dataset,
    world_model: WorldModelTables,
    trained: Trained,
) -> dict:
    """The errors of the user's own row, of her nearest users and of the chosen ones.

    Trained agents play a training episode with each user, or with evenly spaced ones
    where they are many. Compared are the cells that they recommend, and other items in
    the same states; arguments as of `write_estimates`.

    Returns:
      `seeds`; `users`, how many; `recommended` and `other` (see
      `evaluation.estimates.estimate_errors`) over all seeds; `by_seed`, the overall
      errors of the recommended cells of each.
    """
    config = experiment.learner.config
    users = _spaced_users(dataset.num_users, _VISITS // config.environment.max_turn)
    play = jax.jit(functools.partial(sample_visits, program=experiment.program))
    neighbours = _neighbour_rows(dataset, world_model, config, users)
    made = []
    for position, seed in trained.live.items():
        visits = play(
            jax.tree.map(operator.itemgetter(position), trained.states),
            users,
            jax.random.fold_in(jax.random.key(_SEED), seed),
            experiment.tables,
            trained.coefficients,
        )
        made.append(_compare(visits, users, world_model, neighbours, config))
    measure = functools.partial(
        estimate_errors,
        true_reward=dataset.true_reward,
        activity=logged_rows(dataset)[0],
        same_unit=_units(dataset, config),
    )
    return {
        "seeds": list(trained.live.values()),
        "users": len(users),
        "recommended": measure(_joined([of_seed.recommended for of_seed in made])),
        "other": measure(_joined([of_seed.other for of_seed in made])),
        "by_seed": [measure(of_seed.recommended)["overall"] for of_seed in made],
    }


def plain(value: Any) -> Any:
    """`value` for JSON, which has no word for not-a-number."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _spaced_users(num_users: int, most: int) -> np.ndarray:
    """All users, or `most` of them, by rising id `[B]`."""
    count = min(num_users, max(1, most))
    return np.linspace(0, num_users - 1, count).astype(np.int32)


def _neighbour_rows(
    dataset: Dataset,
    world_model: WorldModelTables,
    config: ExperimentConfig,
    users: np.ndarray,
) -> np.ndarray | None:
    """ROLeR's rewards of some users; None where these data have no such neighbours."""
    try:
        neighbours = find_neighbours(
            dataset, world_model.prediction, config.reward, users
        )
        return neighbour_reward(neighbours, config.reward)
    except DataError as error:
        say(f"estimates: without nearest users ({error})")
        return None


def _units(dataset: Dataset, config: ExperimentConfig) -> dict[str, bool]:
    """Estimator -> whether it answers in the unit of the true reward."""
    own = labels_are_rewards(dataset)
    neighbours = own or config.reward.neighbour_source == "log"
    chosen = neighbours if config.reward.base == "neighbours" else own
    return {
        "own estimate": own,
        "nearest users (ROLeR)": neighbours,
        "mean of all users": own,
        _chosen(config): chosen,
    }


def _chosen(config: ExperimentConfig) -> str:
    """How the estimator is called of whom the method asks."""
    kind = config.reward.references
    return _CHOSEN.get(kind, f"{kind} users")


def _compare(
    visits: Visits,
    users: np.ndarray,
    world_model: WorldModelTables,
    neighbours: np.ndarray | None,
    config: ExperimentConfig,
) -> _Compared:
    """What every estimator says of the recommended cells, and of the other ones."""
    real = np.asarray(visits.weight) > 0
    who, item, paid, other, paid_other = (
        np.asarray(column)[real] for column in visits[:5]
    )
    prediction = world_model.prediction
    counts = count_visits(who, item, prediction.shape)
    item_mean = prediction.mean(axis=0)

    def estimates(items: np.ndarray, chosen: np.ndarray) -> Estimates:
        values = {"own estimate": prediction[who, items]}
        if neighbours is not None:
            rows = np.searchsorted(users, who)
            values["nearest users (ROLeR)"] = neighbours[rows, items]
        values["mean of all users"] = item_mean[items]
        if config.reward.asks_references:
            values[_chosen(config)] = chosen
        return Estimates(who, items, counts[who, items], values)

    return _Compared(
        estimates(item, paid),
        estimates(other, paid_other),
    )


def _joined(parts: list[Estimates]) -> Estimates:
    """The cells of all seeds."""
    users, items, visits = (
        np.concatenate([part[n] for part in parts]) for n in range(3)
    )
    values = {
        name: np.concatenate([part.values[name] for part in parts])
        for name in parts[0].values
    }
    return Estimates(users, items, visits, values)
