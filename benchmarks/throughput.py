"""How fast whole epochs of a method are on a data set, compilation apart.

    python -m benchmarks.throughput --dataset=coat --method=darlr --json

Speeds depend on sizes alone: without --data_dir, a data set is replaced by its twin of
official size. With --invented_world_model the tables that policies are trained on are
random numbers, as to fit a world model to 12.5 M rows takes long. Figures are medians
over --repeats epochs, the first one not counted:

    transitions_per_second        real transitions, updates of all agents included
    selector_picks_per_second     the same, times k_sel; null without a learned selector
    world_model_samples_per_second  (logged row, negative) pairs, times members; null
                                  with an invented one
    evaluation_episodes_per_second  sampled episodes of all three modes
    tables_seconds                to compare users and build the tables of a run
    compile_seconds               of the training epoch and the evaluation
    peak_rss_mib                  host memory of the process
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from typing import Any

from absl import flags

from benchmarks import options
from darlr_jax import config as config_lib
from darlr_jax.config import ExperimentConfig
from darlr_jax.runs import memory
from experiments import cli

REPEATS = flags.DEFINE_integer("repeats", 5, "Epochs timed.", lower_bound=1)
INVENTED = flags.DEFINE_bool(
    "invented_world_model", False, "Time policies on random tables."
)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    config = cli.experiment_config()
    cli.configure_jax()
    options.show(measure(config, options.SEEDS.value, REPEATS.value))


def measure(config: ExperimentConfig, num_seeds: int, repeats: int) -> dict[str, Any]:
    """All figures of the module's docstring, with what they were measured on."""
    import jax

    from benchmarks.timing import timed
    from darlr_jax.experiment import build_experiment, init_seeds

    dataset = cli.prepare_dataset(data_config(config))
    if INVENTED.value:
        world_model, samples_per_second = invented_tables(dataset, config), None
    else:
        world_model, samples_per_second = time_world_model(dataset, config)
    experiment, tables_seconds = timed(
        lambda: build_experiment(dataset, world_model, config)
    )
    states = init_seeds(experiment, range(num_seeds))
    train_seconds, train_compile, states, steps = time_training(
        experiment, states, repeats
    )
    eval_seconds, eval_compile, episodes = time_evaluation(experiment, states, repeats)
    transitions = steps / train_seconds
    learned = config.reward.references == "learned"
    return {
        "dataset": dataset.name,
        "method": config.method,
        "tracker": config.tracker.kind,
        "k_sel": config.selector.k_sel if learned else None,
        "num_seeds": num_seeds,
        "device": jax.devices()[0].device_kind,
        "transitions_per_second": transitions,
        "selector_picks_per_second": transitions * config.selector.k_sel
        if learned
        else None,
        "world_model_samples_per_second": samples_per_second,
        "evaluation_episodes_per_second": episodes * num_seeds / eval_seconds,
        "tables_seconds": tables_seconds,
        "compile_seconds": train_compile + eval_compile,
        "peak_rss_mib": memory.host_peak_mib(),
    }


def data_config(config: ExperimentConfig) -> config_lib.DatasetConfig:
    """The data set, or its twin of official size where no files are given."""
    dataset = config.dataset
    if cli.DATA_DIR.value is not None or not dataset.has_published_files:
        return dataset
    return config_lib.replace(dataset, {"twin": True, "twin_scale": 1.0})


def time_world_model(dataset: Any, config: ExperimentConfig) -> tuple[Any, float]:
    """Tables of a fitted ensemble and its pairs a second; the first epoch compiles."""
    from darlr_jax.world_model.ensemble import fit_ensemble
    from darlr_jax.world_model.tables import predict_tables

    stamps: list[float] = []
    ensemble = fit_ensemble(
        dataset, config.world_model, lambda row: stamps.append(time.perf_counter())
    )
    epochs = [end - start for start, end in itertools.pairwise(stamps[1:])]
    pairs = len(dataset.log) * config.world_model.negatives * config.world_model.members
    speed = pairs / statistics.median(epochs) if epochs else float("nan")
    return predict_tables(ensemble, dataset), speed


def invented_tables(dataset: Any, config: ExperimentConfig) -> Any:
    """Tables of the right shapes, without a world model."""
    import numpy as np

    from darlr_jax.types import WorldModelTables

    rng = np.random.default_rng(0)
    slots = 1 + sum(feature.codes.shape[1] for feature in dataset.item_features)
    width = config.world_model.embedding_dim
    shape = dataset.true_reward.shape
    return WorldModelTables(
        prediction=rng.random(shape, np.float32),
        variance=rng.random(shape, np.float32),
        item_vectors=rng.random(
            (shape[1], width * slots + dataset.item_dense.shape[1]), np.float32
        ),
        user_vectors=rng.random((shape[0], width), np.float32),
    )


def time_training(experiment: Any, states: Any, repeats: int) -> tuple:
    """Median seconds of a training epoch, compile seconds, states, transitions."""
    import jax

    from benchmarks.timing import timed

    epoch = experiment.learner.train_epoch
    lifted = jax.jit(jax.vmap(epoch, (0, None, None)), donate_argnums=0)
    inputs = (experiment.tables, experiment.coefficients)
    compiled, seconds = timed(lambda: lifted.lower(states, *inputs).compile())
    times, steps = [], 0
    for _ in range(repeats + 1):
        before = int(states.env_steps.sum())
        epoch_run = functools.partial(compiled, states, *inputs)
        (states, _), elapsed = timed(epoch_run)
        times.append(elapsed)
        steps = int(states.env_steps.sum()) - before
    return statistics.median(times[1:]), seconds, states, steps


def time_evaluation(experiment: Any, states: Any, repeats: int) -> tuple:
    """Median seconds of an evaluation, compile seconds, episodes of one seed."""
    import jax

    from benchmarks.timing import timed
    from darlr_jax.evaluation.rollout import MODES, evaluate

    learner = experiment.learner
    config = learner.config
    bound = functools.partial(evaluate, policy=learner.policy, config=config)
    lifted = jax.jit(jax.vmap(bound, (0, 0, None)))
    params = jax.vmap(learner.policy_params, (0, None))(states, experiment.tables)
    inputs = (params, states.evaluation_key, experiment.evaluation)
    compiled, seconds = timed(lambda: lifted.lower(*inputs).compile())
    times = [timed(functools.partial(compiled, *inputs))[1] for _ in range(repeats + 1)]
    users = experiment.evaluation.true_reward.shape[0]
    everybody = users if config.evaluation.all_users else 0
    episodes = len(MODES) * (config.evaluation.episodes + everybody)
    return statistics.median(times[1:]), seconds, episodes


if __name__ == "__main__":
    cli.run(main)
