"""One training session on the host: data, world model, compiled epochs, files."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from darlr_jax.config import ExperimentConfig, WorldModelConfig
from darlr_jax.data import preparation
from darlr_jax.data.dataset import Dataset
from darlr_jax.data.loading import world_model_hash
from darlr_jax.evaluation.calibration import calibration_report
from darlr_jax.evaluation.rollout import check_modes
from darlr_jax.experiment import (
    Experiment,
    build_experiment,
    init_seeds,
    needs_world_model,
)
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import (
    Identity,
    RunDirectory,
    RunError,
    load_identity,
    write_json,
    writing,
)
from darlr_jax.runs.failures import summary
from darlr_jax.runs.memory import device_peak_mib, host_peak_mib
from darlr_jax.runs.panels import plot_curves
from darlr_jax.runs.preemption import StopRequest
from darlr_jax.runs.results import (
    digest_of_fit,
    fit_of,
    load_metrics,
    run_table,
    to_markdown,
)
from darlr_jax.runs.world_models import Report, WorldModelStore
from darlr_jax.simulation.tables import check_sizes
from darlr_jax.types import WorldModelTables
from darlr_jax.world_model.ensemble import FitState, fit_ensemble
from darlr_jax.world_model.tables import predict_tables
from experiments import cli, diagnosis
from experiments.cli import say
from experiments.training import OutOfMemory, Trained, train_runs, within_memory

# Of what a fit can have less.
_OF_A_FIT = (
    "a smaller world_model.batch_size, world_model.members or world_model.hidden "
    "(JAX_PLATFORMS=cpu fits it in the host's memory; it is kept for later runs)"
)
_SILENCE = 10.0  # seconds of a long epoch after which something is said


def train(
    runs: Mapping[str, ExperimentConfig],
    dataset: Dataset,
    seeds: Sequence[int],
    *,
    cache_dir: pathlib.Path,
    resume: str,
    overwrite: bool,
    checkpoint_every: int,
    stop: StopRequest | None = None,
    program: str = "experiments.train",
) -> None:
    """Trains, evaluates and reports; continues what the run directories hold.

    Args:
      runs: run directory -> configuration; where there are several, they differ in
        coefficients alone (`config.COEFFICIENTS`) and train side by side.
      dataset: of all runs.
      seeds: of each run.
      cache_dir: of fitted world models.
      resume: what to do with directories that hold a run.
      overwrite: whether to replace such runs.
      checkpoint_every: epochs between checkpoints.
      stop: asked between epochs.
      program: whose command line run.json is to hold.

    Raises:
      Interrupted: `stop` asked; whole epochs are kept, those of the world model too.
      FloatingPointError: no seed of a run is left; the other runs have been finished.
    """
    stop = stop or StopRequest()
    config = next(iter(runs.values()))
    check_sizes(dataset, config)  # before anything is fitted or written
    check_modes(dataset.num_items, config.environment)
    with contextlib.ExitStack() as stack:
        directories = [
            stack.enter_context(
                RunDirectory.claim(
                    workdir,
                    run_config,
                    seeds=seeds,
                    command=["python", "-m", program, *sys.argv[1:]],
                    data_hashes=dataset.sources,
                    resume=resume,
                    overwrite=overwrite,
                )
            )
            for workdir, run_config in runs.items()
        ]
        for run in directories:
            run.begin()
        say(
            f"{dataset.name}: {dataset.num_users} users x {dataset.num_items} items, "
            f"{len(dataset.log):,} logged; evaluation pays: {dataset.ground_truth}"
        )
        prepared = prepare(dataset, config, cache_dir, stop)
        experiment, tables, report = prepared
        if tables is not None:
            calibration = diagnosis.plain(
                calibration_report(
                    dataset,
                    tables,
                    predicts_variance=config.world_model.predicts_variance,
                )
            )
        for run in directories:
            run.update(ground_truth=dataset.ground_truth)
            if tables is not None:
                _note_world_model(run, {"epochs": diagnosis.plain(report)})
                write_json(run.calibration, calibration)
        trained = train_runs(directories, experiment, seeds, checkpoint_every, stop)
        for run, part in zip(directories, trained, strict=True):
            if part.failure is None:
                _finish(run, dataset, prepared, part)
        for part in trained:
            if part.failure is not None:
                raise part.failure


def _note_world_model(run: RunDirectory, report: dict[str, Any]) -> None:
    """Writes down the fit that a run begins with; what goes on with another says so."""
    if not run.has_checkpoint() or not run.world_model.exists():
        write_json(run.world_model, report)
    elif fit_of(run.path) != digest_of_fit(report):
        say(
            f"{run.path}: began with another fit of its world model (fits of other "
            "machines and versions differ by rounding); world_model.json is of that"
        )


def _finish(
    run: RunDirectory, dataset: Dataset, prepared: Prepared, trained: Trained
) -> None:
    """Measures and reports a trained run, and lets its directory go."""
    experiment, tables, _ = prepared
    try:
        with within_memory():
            diagnosis.write_estimates(run, experiment, dataset, tables, trained)
    except OutOfMemory as error:  # the run is whole without them
        say(
            f"warning: {run.path}: no estimates.json, which reports alone read: {error}"
        )
    run.update(peak_memory_mib={"host": host_peak_mib(), "device": device_peak_mib()})
    _report(run, dataset, run.identity.config, len(run.identity.seeds))
    run.close()


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


class Prepared(NamedTuple):
    """What the seeds of a run have in common."""

    experiment: Experiment
    world_model: WorldModelTables | None
    report: Report | None  # of the world model's fit


def prepare(
    dataset: Dataset,
    config: ExperimentConfig,
    cache_dir: pathlib.Path,
    stop: StopRequest | None = None,
) -> Prepared:
    """The program and its arrays, and the world model that they are made of, if any.

    Raises:
      Interrupted: as `world_model`.
      OutOfMemory: of the fit, or of the program's arrays; as `within_memory`.
    """
    tables = report = None
    if needs_world_model(config):
        store = WorldModelStore(cache_dir / "world_models")
        with within_memory(_OF_A_FIT):
            tables, report = world_model(
                dataset, config.world_model, store, stop or StopRequest()
            )
    with within_memory():
        experiment = build_experiment(dataset, tables, config)
    return Prepared(experiment, tables, report)


class Restored(NamedTuple):
    """A run as its last checkpoint has it: to look at, or to go on with."""

    dataset: Dataset
    experiment: Experiment
    states: Any  # [S] of the learner, in the order of the run's seeds


def restore(
    path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Restored:
    """Reads a run directory, for work in Python; needs no flags.

    Args:
      path: the run directory.
      data_dir: as of `--data_dir`: where it is given nothing is downloaded, else what
        the cache lacks is.
      cache_dir: as of `--cache_dir`; a world model that is not kept there is fitted.

    Raises:
      RunError: there is no run, it is under way, it has no checkpoint that can be read,
        or the data are others.
      DataError: data are missing or malformed.
    """
    identity, run = load_identity(path), RunDirectory(path)
    cache = cli.private_folder(pathlib.Path(cache_dir or cli.users_cache()))
    folders = preparation.Folders(pathlib.Path(data_dir) if data_dir else None, cache)
    with run.reading():
        return _restore(run, identity, folders)


def _restore(
    run: RunDirectory, identity: Identity, folders: preparation.Folders
) -> Restored:
    if not run.has_checkpoint():
        raise RunError(f"{run.path}: has no checkpoint, as copies of a run's metrics")
    dataset = preparation.prepare(identity.config.dataset, folders, say)
    if dataset.sources != identity.data:
        raise RunError(f"{run.path}: was made of other data than these")
    experiment = prepare(dataset, identity.config, folders.cache_dir).experiment
    with (
        within_memory(),
        Checkpointer(run.checkpoints, identity=identity) as stored,
    ):
        example = init_seeds(experiment, identity.seeds)
        return Restored(dataset, experiment, stored.restore(example))


def world_model(
    dataset: Dataset,
    config: WorldModelConfig,
    store: WorldModelStore,
    stop: StopRequest,
) -> tuple[WorldModelTables, Report]:
    """The stored world model of this data and configuration, else a new one.

    Raises:
      Interrupted: `stop` asked before the tables were there; whole epochs are kept.
    """
    of_data = world_model_hash(dataset)
    stored = store.load(config, of_data)
    if stored is not None:
        errors = _describe_errors(stored[1][-1])
        say(f"world model: reused, epoch {len(stored[1]) - 1}: {errors}")
        return stored
    fit = _Fit(config, store, of_data, stop)
    ensemble = fit_ensemble(
        dataset, config, fit.tell, fit.wait, resume=fit.earlier(), keep=fit.keep
    )
    tables = predict_tables(
        ensemble, dataset, functools.partial(fit.wait, whole="the tables")
    )
    with writing(store.path(config, of_data)):
        store.save(config, of_data, tables, ensemble.report)
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

    def wait(self, share: float, whole: str = "an epoch") -> None:
        self._patience(share, whole)
        if share < 1:
            self._check()

    def _check(self) -> None:
        self._stop.check(
            f"before the world model was ready, of which {self._kept} of "
            f"{self._config.epochs} epochs are kept"
        )


class _Patience:
    """Tells how far a long epoch of the world model is, or the prediction after it."""

    def __init__(self, started: float):
        self._told = started

    def __call__(self, share: float, whole: str) -> None:
        now = time.perf_counter()
        if now - self._told >= _SILENCE and share < 1:
            say(f"world model: [{'#' * int(20 * share):.<20}] {share:.0%} of {whole}")
            self._told = now


def _describe_errors(row: Mapping[str, float]) -> str:
    names = [name for name in row if name.startswith("held_out_")]
    return "  ".join(f"{n.removeprefix('held_out_')} {row[n]:.3f}" for n in names)
