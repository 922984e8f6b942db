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
from darlr_jax.runs.directory import RunDirectory, write_json, writing
from darlr_jax.runs.plots import plot_curves
from darlr_jax.runs.preemption import StopRequest
from darlr_jax.runs.progress import Progress
from darlr_jax.runs.results import load_metrics, run_table, to_markdown
from darlr_jax.runs.storage import require_space, writing_checkpoint
from darlr_jax.runs.world_models import Report, WorldModelStore
from darlr_jax.runs.writers import MetricsWriter, Row
from darlr_jax.simulation.tables import check_sizes
from darlr_jax.types import Array, TrainState, WorldModelTables
from darlr_jax.world_model.ensemble import fit_ensemble
from darlr_jax.world_model.tables import predict_tables
from experiments.cli import say

# Published metrics first, in this order; the rest follows as training reports it.
_MODES = ("FB", "NX_0", "NX_10")
_METRICS = ("R_tra", "len_tra", "R_each", "CV", "CV_turn", "MCD")
_MAY_BE_UNDEFINED = ("_MCD", "_Diversity")  # without categories, without tags
_CHECKPOINTS_KEPT = 2
_SILENCE = 10.0  # seconds of a long epoch after which something is said


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
    stop: StopRequest | None = None,
) -> None:
    """Trains, evaluates and reports; continues what `workdir` holds.

    Raises:
      Interrupted: `stop` asked; whole epochs are kept, of a world model that is not
        fitted yet nothing is.
    """
    stop = stop or StopRequest()
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
        run.update(ground_truth=dataset.ground_truth)
        tables, report = world_model(dataset, config.world_model, store, stop)
        write_json(run.path / "world_model.json", {"epochs": _jsonable(report)})
        experiment = build_experiment(dataset, tables, config)
        _train_epochs(run, experiment, seeds, checkpoint_every, stop)
        with writing(run.curves):
            plot_curves(run.path)
        table = to_markdown(run_table(load_metrics(run.path)))
        print(f"\n{config.method} on {dataset.name}, means over epochs, "
              f"{len(seeds)} seed(s), {config.training.epochs} epochs")  # fmt: skip
        print(f"evaluation pays: {dataset.ground_truth}\n\n{table}\n")
        print(f"files: {run.path}/ (metrics.csv, metrics.jsonl, curves.png, run.json, "
              "config.json, world_model.json, checkpoints/)")  # fmt: skip


def world_model(
    dataset: Dataset,
    config: WorldModelConfig,
    store: WorldModelStore,
    stop: StopRequest,
) -> tuple[WorldModelTables, Report]:
    """The stored world model of this data and configuration, else a new one.

    Raises:
      Interrupted: `stop` asked before the last epoch ended; nothing is kept.
    """
    stored = store.load(config, data_hash(dataset))
    if stored is not None:
        errors = _describe_errors(stored[1][-1])
        say(f"world model: reused, epoch {len(stored[1]) - 1}: {errors}")
        return stored
    started = time.perf_counter()
    patience = _Patience(started)
    where = "while the world model was fitted, of which nothing is kept"

    def show(row: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - started
        say(
            f"world model: epoch {row['epoch']:.0f}/{config.epochs}  {seconds:.1f} s  "
            f"{_describe_errors(row)}"
        )
        if row["epoch"] < config.epochs:  # after the last one it can be kept
            stop.check(where)

    def wait(share: float) -> None:
        patience(share)
        if share < 1:
            stop.check(where)

    ensemble = fit_ensemble(dataset, config, show, wait)
    tables = predict_tables(ensemble, dataset)
    with writing(store.path(config, data_hash(dataset))):
        store.save(config, data_hash(dataset), tables, ensemble.report)
    return tables, ensemble.report


class _Patience:
    """Tells how far a long epoch of the world model is."""

    def __init__(self, started: float):
        self._told = started

    def __call__(self, share: float) -> None:
        now = time.perf_counter()
        if now - self._told >= _SILENCE and share < 1:
            say(f"world model: [{'#' * int(20 * share):.<20}] {share:.0%} of an epoch")
            self._told = now


def _train_epochs(
    run: RunDirectory,
    experiment: Experiment,
    seeds: Sequence[int],
    every: int,
    stop: StopRequest,
) -> None:
    """Trains from the last checkpoint on, to the last epoch or until `stop` asks."""
    training = experiment.program.config.training
    checkpoints = Checkpointer(run.checkpoints, keep=_CHECKPOINTS_KEPT)
    states, done = _last_states(run, experiment, seeds, checkpoints)
    writer = _open_metrics(run, done)
    _require_space(run, states, rows=(training.epochs - done) * len(seeds))
    if done < training.epochs:
        stop.check(f"before epoch {done + 1} of {training.epochs}, nothing is lost")
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
        if stop.reason is not None:
            break
        states, values, steps, elapsed = _run_epoch(compiled, experiment, states)
        _require_finite(values, seeds, epoch)
        with writing(run.metrics_csv):
            writer.write(_rows(values, seeds, elapsed))
        if epoch % every == 0:
            _save(checkpoints, states, epoch, run)
        progress.update(epoch, steps, elapsed, _headline(values))
        run.update(run_seconds=time.perf_counter() - started)
        done = epoch
    progress.close()
    if done > (checkpoints.latest_epoch() or 0):
        _save(checkpoints, states, done, run)
    checkpoints.close()
    if done < training.epochs:
        stop.check(f"after epoch {done} of {training.epochs}, nothing is lost")


def _last_states(
    run: RunDirectory,
    experiment: Experiment,
    seeds: Sequence[int],
    checkpoints: Checkpointer,
) -> tuple[TrainState, int]:
    """The states that training goes on from, and the epochs behind them."""
    states = init_seeds(experiment, seeds)
    if checkpoints.latest_epoch() is None:
        return states, 0
    states = checkpoints.restore(states)
    done = int(np.asarray(states.epoch)[0])
    say(f"{run.path}: continues after epoch {done}")
    return states, done


def _open_metrics(run: RunDirectory, done: int) -> MetricsWriter:
    """Metrics that end where the checkpoint does."""
    writer = MetricsWriter(run)
    with writing(run.metrics_csv):
        writer.truncate_after(done)
    return writer


def _require_space(run: RunDirectory, states: TrainState, rows: int) -> None:
    """Refuses to train where the checkpoints and metrics to come do not fit."""
    stored = sum(path.name.isdecimal() for path in run.checkpoints.iterdir())
    missing = _CHECKPOINTS_KEPT + 1 - stored  # the oldest goes when a new one is there
    require_space(run.path, states, checkpoints=missing, rows=rows)


def _save(
    checkpoints: Checkpointer, states: TrainState, epoch: int, run: RunDirectory
) -> None:
    with writing_checkpoint(run.checkpoints):
        checkpoints.save(states, epoch)


def _compile(experiment: Experiment, states: TrainState) -> tuple[RunEpoch, float]:
    """The compiled epoch, and how long the compilation took."""
    started = time.perf_counter()
    run_epoch = make_run_epoch(experiment.program)
    compiled = run_epoch.lower(states, *experiment[1:]).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def _run_epoch(
    compiled: RunEpoch, experiment: Experiment, states: TrainState
) -> tuple[TrainState, dict[str, np.ndarray], int, float]:
    """The next states, metrics `[S]`, transitions of all seeds, and seconds."""
    started = time.perf_counter()
    before = np.asarray(states.env_steps)
    states, metrics = compiled(states, *experiment[1:])
    values = {name: np.asarray(value) for name, value in metrics.items()}
    steps = int(np.sum(values["env_steps"] - before))
    return states, values, steps, time.perf_counter() - started


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
