"""One training session on the host: data, world model, compiled epochs, files."""

from __future__ import annotations

import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from darlr_jax.config import ExperimentConfig, WorldModelConfig
from darlr_jax.data.dataset import Dataset
from darlr_jax.data.loading import data_hash
from darlr_jax.experiment import (
    Experiment,
    RunEpoch,
    build_experiment,
    init_seeds,
    make_run_epoch,
)
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunDirectory, write_json
from darlr_jax.runs.plots import plot_curves
from darlr_jax.runs.progress import Progress
from darlr_jax.runs.results import load_metrics, run_table, to_markdown
from darlr_jax.runs.world_models import Report, WorldModelStore
from darlr_jax.runs.writers import MetricsWriter, Row
from darlr_jax.simulation.tables import check_sizes
from darlr_jax.types import Array, EpisodeMetrics, TrainState, WorldModelTables
from darlr_jax.world_model.ensemble import fit_ensemble
from darlr_jax.world_model.tables import predict_tables
from experiments.cli import say

# Published metrics first, in this order; the rest follows as training reports it.
_MODES = ("FB", "NX_0", "NX_10")
_METRICS = EpisodeMetrics._fields
_MAY_BE_UNDEFINED = ("_MCD", "_Diversity")  # without categories, without tags


def train(
    config: ExperimentConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    workdir: str,
    *,
    cache_dir: pathlib.Path,
    resume: str,
    overwrite: bool,
    checkpoint_every: int,
) -> None:
    """Trains, evaluates and reports; continues what `workdir` holds."""
    check_sizes(dataset, config)  # before anything is written
    store = WorldModelStore(cache_dir / "world_models")
    with RunDirectory.open(
        workdir,
        config,
        seeds=seeds,
        command=["python", "-m", "experiments.train", *sys.argv[1:]],
        data_hashes=dataset.sources,
        resume=resume,
        overwrite=overwrite,
    ) as run:
        say(
            f"{dataset.name}: {dataset.num_users} users x {dataset.num_items} items, "
            f"{len(dataset.log):,} logged; evaluation pays: {dataset.ground_truth}"
        )
        tables, report = world_model(dataset, config.world_model, store)
        write_json(run.path / "world_model.json", {"epochs": _jsonable(report)})
        experiment = build_experiment(dataset, tables, config)
        _train_epochs(run, experiment, seeds, checkpoint_every)
        plot_curves(run.path)
        table = to_markdown(run_table(load_metrics(run.path)))
        print(f"\n{config.method} on {dataset.name}, means over epochs, "
              f"{len(seeds)} seed(s), {config.training.epochs} epochs")  # fmt: skip
        print(f"evaluation pays: {dataset.ground_truth}\n\n{table}\n")
        print(f"files: {run.path}/ (metrics.csv, metrics.jsonl, curves.png, run.json, "
              "config.json, world_model.json, checkpoints/)")  # fmt: skip


def world_model(
    dataset: Dataset, config: WorldModelConfig, store: WorldModelStore
) -> tuple[WorldModelTables, Report]:
    """The stored world model of this data and configuration, else a new one."""
    stored = store.load(config, data_hash(dataset))
    if stored is not None:
        errors = _describe_errors(stored[1][-1])
        say(f"world model: reused, epoch {len(stored[1]) - 1}: {errors}")
        return stored
    started = time.perf_counter()

    def show(row: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - started
        say(
            f"world model: epoch {row['epoch']:.0f}/{config.epochs}  {seconds:.1f} s  "
            f"{_describe_errors(row)}"
        )

    ensemble = fit_ensemble(dataset, config, show)
    tables = predict_tables(ensemble, dataset)
    store.save(config, data_hash(dataset), tables, ensemble.report)
    return tables, ensemble.report


def _train_epochs(
    run: RunDirectory, experiment: Experiment, seeds: Sequence[int], every: int
) -> None:
    training = experiment.program.config.training
    states = init_seeds(experiment, seeds)
    checkpoints = Checkpointer(run.checkpoints)
    writer = MetricsWriter(run)
    done = checkpoints.latest_epoch() or 0
    if done:
        states = checkpoints.restore(states)
        done = int(np.asarray(states.epoch)[0])
        say(f"{run.path}: continues after epoch {done}")
    writer.truncate_after(done)
    compiled, seconds = _compile(experiment, states)
    run.update(compile_seconds=seconds)
    say(f"compiled in {seconds:.1f} s")
    progress = Progress(
        training.epochs,
        training.steps_per_epoch * len(seeds),
        f"{experiment.program.config.method}, {len(seeds)} seed(s)",
    )
    started = time.perf_counter()
    for epoch in range(done + 1, training.epochs + 1):
        begun = time.perf_counter()
        before = np.asarray(states.env_steps)
        states, metrics = compiled(states, *experiment[1:])
        values = {name: np.asarray(value) for name, value in metrics.items()}
        elapsed = time.perf_counter() - begun
        _require_finite(values, seeds, epoch)
        writer.write(_rows(values, seeds, elapsed))
        if epoch % every == 0 or epoch == training.epochs:
            checkpoints.save(states, epoch)
        steps = int(np.sum(values["env_steps"] - before))
        progress.update(epoch, steps, elapsed, _headline(values))
        run.update(run_seconds=time.perf_counter() - started)
    progress.close()
    checkpoints.close()


def _compile(experiment: Experiment, states: TrainState) -> tuple[RunEpoch, float]:
    """The compiled epoch, and how long the compilation took."""
    started = time.perf_counter()
    run_epoch = make_run_epoch(experiment.program)
    compiled = run_epoch.lower(states, *experiment[1:]).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def _rows(
    values: Mapping[str, np.ndarray], seeds: Sequence[int], seconds: float
) -> list[Row]:
    """One row a seed; `seconds` is what the epoch took for all seeds together."""
    published = [f"{mode}_{metric}" for mode in _MODES for metric in _METRICS]
    published += [f"{mode}_all_users_R_tra" for mode in _MODES]
    first = ["epoch", "env_steps"]
    names = [name for name in published if name in values]
    names += sorted(set(values) - set(first) - set(names))
    rows: list[Row] = []
    for index, seed in enumerate(seeds):
        row: dict[str, float | int] = {"seed": seed}
        row |= {name: int(values[name][index]) for name in first}
        row["seconds"] = round(seconds, 4)
        row |= {name: float(values[name][index]) for name in names}
        rows.append(row)
    return rows


def _require_finite(
    values: Mapping[str, np.ndarray], seeds: Sequence[int], epoch: int
) -> None:
    for name, value in values.items():
        if name.endswith(_MAY_BE_UNDEFINED):
            continue
        for seed, number in zip(seeds, np.atleast_1d(value), strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{name} is {number} in epoch {epoch}, seed {seed}; the last "
                    "checkpoint is intact. Lower recommender.learning_rate, "
                    "selector.learning_rate or reward.lambda_u"
                )


def _headline(values: Mapping[str, Array | np.ndarray]) -> dict[str, float]:
    names = {"NX_0_R_tra": "NX_0", "NX_0_all_users_R_tra": "all users"}
    return {
        title: float(np.mean(values[name]))
        for name, title in names.items()
        if name in values
    }


def _describe_errors(row: Mapping[str, float]) -> str:
    names = [name for name in row if name.startswith("held_out_")]
    return "  ".join(f"{n.removeprefix('held_out_')} {row[n]:.3f}" for n in names)


def _jsonable(report: Report) -> list[dict[str, float | None]]:
    """JSON has no word for not-a-number."""
    return [{k: v if math.isfinite(v) else None for k, v in r.items()} for r in report]
