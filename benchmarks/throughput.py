"""How fast whole epochs of a method are on a data set, compilation apart.

    python -m benchmarks.throughput --dataset=coat --method=darlr --json

Epochs are those of a run: the same program, with the updates of all agents and the
evaluation. Speeds depend on sizes alone: without --data_dir, a data set is replaced by
its twin of official size. With --invented_world_model the tables that policies are
trained on are random numbers, as to fit a world model to 12.5 M rows takes long.
Figures are medians over --repeats epochs, the first one not counted; one line of JSON
holds

    session, setting    as of `benchmarks.phases`
    transitions_per_second        real transitions of an epoch, over all of its seconds
    epoch_seconds, spread         (largest - smallest) / median of the seconds
    selector_picks_per_second     transitions times k_sel; null without a learned one
    world_model_samples_per_second  (logged row, negative) pairs, times members; null
                                  with an invented one, and where no epoch is left
                                  to be timed after the first, which compiles
    evaluation_episodes_per_second  sampled episodes of all three modes, evaluated alone
    tables_seconds                to compare users and build the tables of a run
    compile_seconds               of the epoch, whatever was compiled before
    host_peak_mib, device_peak_mib
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from typing import Any

from absl import flags

from benchmarks import machine, options
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
    sizes = (options.USERS, options.ITEMS)
    cli.require_absent(sizes, "the data set has its own")
    cli.require_absent([options.K_SEL], "here it is --set=selector.k_sel")
    repeated = (cli.EPOCHS, *options.LIMITS)
    cli.require_absent(repeated, "--repeats says how many epochs are timed")
    config = cli.experiment_config()
    import jax

    cli.configure_jax()
    jax.config.update("jax_enable_compilation_cache", False)
    options.show(measure(config, options.SEEDS.value, REPEATS.value))


def measure(config: ExperimentConfig, num_seeds: int, repeats: int) -> dict[str, Any]:
    """All figures of the module's docstring."""
    from benchmarks.timing import timed
    from darlr_jax.experiment import build_experiment, init_seeds

    began = machine.session()
    dataset = cli.prepare_dataset(data_config(config))
    if INVENTED.value:
        world_model = invented_tables(dataset, config)
        samples_per_second: float | None = None
    else:
        world_model, samples_per_second = time_world_model(dataset, config)
    experiment, tables_seconds = timed(
        lambda: build_experiment(dataset, world_model, config)
    )
    states = init_seeds(experiment, range(num_seeds))
    epochs, compile_seconds, states = time_epochs(experiment, states, repeats)
    transitions = epochs["units_per_second"]
    learned = config.reward.has_selector
    return {
        "session": began,
        "setting": options.describe(
            config, dataset.num_users, dataset.num_items, num_seeds
        ),
        "transitions_per_second": transitions,
        "epoch_seconds": epochs["seconds"],
        "spread": epochs["spread"],
        "selector_picks_per_second": transitions * config.selector.k_sel
        if learned
        else None,
        "world_model_samples_per_second": samples_per_second,
        "evaluation_episodes_per_second": time_evaluation(experiment, states, repeats),
        "tables_seconds": tables_seconds,
        "compile_seconds": compile_seconds,
        "host_peak_mib": memory.host_peak_mib(),
        "device_peak_mib": memory.device_peak_mib(),
    }


def data_config(config: ExperimentConfig) -> config_lib.DatasetConfig:
    """The data set, or its twin of official size where no files are given."""
    dataset = config.dataset
    if cli.DATA_DIR.value is not None or not dataset.has_published_files:
        return dataset
    return config_lib.replace(dataset, {"twin": True, "twin_scale": 1.0})


def time_world_model(
    dataset: Any, config: ExperimentConfig
) -> tuple[Any, float | None]:
    """Tables of a fitted ensemble and its pairs a second; the first epoch compiles."""
    from darlr_jax.world_model.ensemble import fit_ensemble
    from darlr_jax.world_model.tables import predict_tables

    stamps: list[float] = []
    ensemble = fit_ensemble(
        dataset, config.world_model, lambda row: stamps.append(time.perf_counter())
    )
    epochs = [end - start for start, end in itertools.pairwise(stamps[1:])]
    pairs = len(dataset.log) * config.world_model.negatives * config.world_model.members
    speed = pairs / statistics.median(epochs) if epochs else None
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


def time_epochs(
    experiment: Any, states: Any, repeats: int
) -> tuple[dict[str, Any], float, Any]:
    """Trains and evaluates as a run does.

    Returns:
      The summary of the epochs, in transitions; compile seconds; the states after them.
    """
    from benchmarks.timing import Call, summary, timed
    from experiments.training import compile_epoch

    compiled = compile_epoch(experiment, states)
    calls = []
    for _ in range(repeats + 1):
        before = int(states.env_steps.sum())
        epoch = functools.partial(compiled.run_epoch, states, *experiment[1:])
        (states, _), seconds = timed(epoch)
        calls.append(Call(seconds, int(states.env_steps.sum()) - before))
    return summary(calls), compiled.seconds, states


def time_evaluation(experiment: Any, states: Any, repeats: int) -> float:
    """Episodes a second, of all seeds, of evaluations alone."""
    import jax

    from benchmarks.timing import timed
    from darlr_jax.evaluation.rollout import MODES, evaluate

    learner = experiment.learner
    config = learner.config
    bound = functools.partial(evaluate, policy=learner.policy, config=config)
    lifted = jax.jit(jax.vmap(bound, (0, 0, None)))
    params = jax.vmap(learner.policy_params, (0, None))(states, experiment.tables)
    inputs = (params, states.evaluation_key, experiment.evaluation)
    compiled = lifted.lower(*inputs).compile()
    times = [timed(functools.partial(compiled, *inputs))[1] for _ in range(repeats + 1)]
    users = experiment.evaluation.true_reward.shape[0]
    everybody = users if config.evaluation.all_users else 0
    episodes = len(MODES) * (config.evaluation.episodes + everybody)
    seeds = states.evaluation_key.shape[0]
    return episodes * seeds / statistics.median(times[1:])


if __name__ == "__main__":
    cli.run(main)
