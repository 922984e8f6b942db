"""One training session on the host: data, world model, compiled epochs, files."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from darlr_jax.config import ExperimentConfig, WorldModelConfig
from darlr_jax.data.dataset import Dataset
from darlr_jax.data.loading import data_hash
from darlr_jax.evaluation.rollout import check_modes
from darlr_jax.experiment import (
    Experiment,
    RunEpoch,
    build_experiment,
    init_seeds,
    make_run_epoch,
    needs_world_model,
    steps_of_an_epoch,
)
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunDirectory, write_json, writing
from darlr_jax.runs.failures import summary
from darlr_jax.runs.journal import Journal
from darlr_jax.runs.plots import plot_curves
from darlr_jax.runs.preemption import StopRequest
from darlr_jax.runs.progress import NullProgress, Progress
from darlr_jax.runs.results import load_metrics, run_table, to_markdown
from darlr_jax.runs.storage import require_space
from darlr_jax.runs.world_models import Report, WorldModelStore
from darlr_jax.simulation.tables import check_sizes
from darlr_jax.types import TrainState, WorldModelTables
from darlr_jax.world_model.ensemble import FitState, fit_ensemble
from darlr_jax.world_model.tables import predict_tables
from experiments.cli import say

_CHECKPOINTS_KEPT = 2  # the newest ones; the best is kept beside them
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
      Interrupted: `stop` asked; whole epochs are kept, those of the world model too.
    """
    stop = stop or StopRequest()
    check_sizes(dataset, config)  # before anything is written
    check_modes(dataset.num_items, config.environment)
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
        tables = None
        if needs_world_model(config):
            tables, report = world_model(dataset, config.world_model, store, stop)
            write_json(run.path / "world_model.json", {"epochs": _jsonable(report)})
        experiment = build_experiment(dataset, tables, config)
        _train_epochs(run, experiment, seeds, checkpoint_every, stop)
        _report(run, dataset, config, len(seeds))


def _report(
    run: RunDirectory, dataset: Dataset, config: ExperimentConfig, num_seeds: int
) -> None:
    """Curves and a table; where seeds failed neither, but what became of them."""
    print(f"\n{config.method} on {dataset.name}, means over epochs, "
          f"{num_seeds} seed(s), {config.training.epochs} epochs")  # fmt: skip
    print(f"evaluation pays: {dataset.ground_truth}\n")
    failed = run.noted("failed_seeds")
    if failed:
        print(f"{summary(failed, num_seeds)}\n")
    else:
        with writing(run.curves):
            plot_curves(run.path)
        print(f"{to_markdown(run_table(load_metrics(run.path)))}\n")
    names = sorted(path.name for path in run.path.iterdir() if path.name[0] != ".")
    print(f"files: {run.path}/ ({', '.join(names)})")


def world_model(
    dataset: Dataset,
    config: WorldModelConfig,
    store: WorldModelStore,
    stop: StopRequest,
) -> tuple[WorldModelTables, Report]:
    """The stored world model of this data and configuration, else a new one.

    Raises:
      Interrupted: `stop` asked before the last epoch ended; whole epochs are kept.
    """
    stored = store.load(config, data_hash(dataset))
    if stored is not None:
        errors = _describe_errors(stored[1][-1])
        say(f"world model: reused, epoch {len(stored[1]) - 1}: {errors}")
        return stored
    fit = _Fit(config, store, data_hash(dataset), stop)
    ensemble = fit_ensemble(
        dataset, config, fit.tell, fit.wait, resume=fit.earlier(), keep=fit.keep
    )
    tables = predict_tables(ensemble, dataset)
    with writing(store.path(config, data_hash(dataset))):
        store.save(config, data_hash(dataset), tables, ensemble.report)
    return tables, ensemble.report


class _Fit:
    """The fit of a world model under way: what is said of it, what is kept of it."""

    def __init__(
        self,
        config: WorldModelConfig,
        store: WorldModelStore,
        data_hash: str,
        stop: StopRequest,
    ):
        self._config, self._store, self._hash = config, store, data_hash
        self._stop = stop
        self._kept = 0  # epochs
        self._started = time.perf_counter()
        self._patience = _Patience(self._started)

    def earlier(self) -> FitState | None:
        """What an interrupted fit has left."""
        stored = self._store.load_fit(self._config, self._hash)
        if stored is None:
            return None
        state = FitState(*stored)
        self._kept = len(state.report) - 1
        say(f"world model: continues after epoch {self._kept}/{self._config.epochs}")
        return state

    def keep(self, state: FitState) -> None:
        with writing(self._store.fit_path(self._config, self._hash)):
            self._store.save_fit(self._config, self._hash, *state)
        self._kept = len(state.report) - 1

    def tell(self, row: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self._started
        say(
            f"world model: epoch {row['epoch']:.0f}/{self._config.epochs}  "
            f"{seconds:.1f} s  {_describe_errors(row)}"
        )
        if row["epoch"] < self._config.epochs:  # after the last one it can be kept
            self._check()

    def wait(self, share: float) -> None:
        self._patience(share)
        if share < 1:
            self._check()

    def _check(self) -> None:
        self._stop.check(
            f"while the world model was fitted, of which {self._kept} of "
            f"{self._config.epochs} epochs are kept"
        )


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
    total = experiment.learner.config.training.epochs
    with Checkpointer(run.checkpoints, _CHECKPOINTS_KEPT, run.identity) as checkpoints:
        training = _Training(run, experiment, seeds, checkpoints)
        if training.done < total:
            stop.check(f"before epoch {training.done + 1} of {total}, nothing is lost")
            training.compile()
        with contextlib.closing(training):
            while training.done < total and stop.reason is None:
                training.run_epoch()
                if training.done % every == 0:
                    training.save()
                training.note_time()
            training.save()
    if training.done < total:
        stop.check(f"after epoch {training.done} of {total}, nothing is lost")


class _Training:
    """The states of all seeds, one compiled epoch after another.

    Attributes:
      done: epochs behind the states.
    """

    def __init__(
        self,
        run: RunDirectory,
        experiment: Experiment,
        seeds: Sequence[int],
        checkpoints: Checkpointer,
    ):
        """Restores the last checkpoint, else initial states; the rest fits to it."""
        config = experiment.learner.config
        learned = config.reward.references == "learned"
        self._run, self._experiment, self._checkpoints = run, experiment, checkpoints
        self._states, self.done = _last_states(run, experiment, seeds, checkpoints)
        self._journal = Journal(
            run,
            seeds,
            self.done,
            k_sel=config.selector.k_sel if learned else None,
            say=say,
        )
        self._score: float | None = None
        self._progress: Progress | NullProgress = NullProgress()
        rows = (config.training.epochs - self.done) * len(seeds)
        _require_space(run, self._states, rows)

    def compile(self) -> None:
        """Compiles the epoch; from here on time counts as training."""
        self._compiled, seconds = _compile(self._experiment, self._states)
        self._run.update(compile_seconds=seconds)
        say(f"compiled in {seconds:.1f} s")
        config, seeds = self._experiment.learner.config, len(self._journal.live)
        steps = steps_of_an_epoch(config) * seeds
        label = f"{config.method}, {seeds} seed(s)"
        self._progress = Progress(config.training.epochs, steps, label)
        self._started = time.perf_counter()

    def run_epoch(self) -> None:
        """Trains, evaluates, writes down."""
        began, epoch, journal = time.perf_counter(), self.done + 1, self._journal
        before = np.array(self._states.env_steps)  # the states are donated
        states, values = self._compiled(self._states, *self._experiment[1:])
        metrics = {name: np.asarray(value) for name, value in values.items()}
        elapsed = time.perf_counter() - began
        self._states = journal.sort_out(
            states, metrics, epoch, self._checkpoints.newest
        )
        journal.record(metrics, epoch, elapsed)
        self.done, self._score = epoch, journal.score(metrics)
        steps = (metrics["env_steps"] - before)[list(journal.live)]
        self._progress.update(
            epoch, int(np.sum(steps)), elapsed, _headline(journal, metrics)
        )

    def note_time(self) -> None:
        """Says in run.json how long the epochs have taken."""
        self._run.update(run_seconds=time.perf_counter() - self._started)

    def save(self) -> None:
        """Begins to store the states, where they are not stored yet."""
        if self.done > (self._checkpoints.latest_epoch() or 0):
            self._checkpoints.save(self._states, self.done, self._score)

    def close(self) -> None:
        """Leaves the last line of the progress standing."""
        self._progress.close()


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


def _require_space(run: RunDirectory, states: TrainState, rows: int) -> None:
    """Refuses to train where the checkpoints and metrics to come do not fit."""
    stored = sum(path.name.isdecimal() for path in run.checkpoints.iterdir())
    # Beside the newest there is the best, and the oldest goes when a new one is there.
    missing = max(1, _CHECKPOINTS_KEPT + 2 - stored)
    require_space(run.path, states, checkpoints=missing, rows=rows)


def _compile(experiment: Experiment, states: TrainState) -> tuple[RunEpoch, float]:
    """The compiled epoch, and how long the compilation took."""
    started = time.perf_counter()
    run_epoch = make_run_epoch(experiment.learner)
    compiled = run_epoch.lower(states, *experiment[1:]).compile()  # type: ignore[attr-defined]
    return compiled, time.perf_counter() - started


def _headline(journal: Journal, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    names = {"NX_0_R_tra": "NX_0", "NX_0_all_users_R_tra": "all users"}
    return {
        title: journal.mean(metrics, name)
        for name, title in names.items()
        if name in metrics
    }


def _describe_errors(row: Mapping[str, float]) -> str:
    names = [name for name in row if name.startswith("held_out_")]
    return "  ".join(f"{n.removeprefix('held_out_')} {row[n]:.3f}" for n in names)


def _jsonable(report: Report) -> list[dict[str, float | None]]:
    """JSON has no word for not-a-number."""
    return [{k: v if math.isfinite(v) else None for k, v in r.items()} for r in report]
