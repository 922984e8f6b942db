"""Runs a grid of experiments, one after another or a few side by side.

python -m launch.grid --methods=mbpo,dorl,darlr --datasets=coat --data_dir=DIR \
    --grid=selector.k_sel=5,15 --jobs=2 --dry_run

Every combination of data set, method and swept value is one `experiments.train`, in a
run directory of its own under --workdir. A grid that was interrupted continues with the
same command: finished runs find nothing left to do.

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end a grid as they end a run: the runs under way
keep what they have, no further one begins, and the exit code is 75. It is 75 too where
a run alone was interrupted, 1 where a flag is wrong or a run failed, and 2 where one
could not be started.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pathlib
import queue
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import app, flags

from darlr_jax import config as config_lib
from darlr_jax.data.dataset import DataError
from darlr_jax.data.text import user_path
from darlr_jax.presets import preset
from darlr_jax.runs.preemption import (
    INTERRUPTED,
    REQUEUE,
    Interrupted,
    StopRequest,
    wait,
)

# As a program the flags are the process's own. Imported they stay private, because the
# programs under experiments/ have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == "__main__" else flags.FlagValues()

_METHODS = flags.DEFINE_list(
    "methods", ["darlr"], "Rows of darlr_jax/methods.py.", flag_values=_FLAGS
)
_DATASETS = flags.DEFINE_list(
    "datasets", ["synthetic"], "Names of data sets.", flag_values=_FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where the official files lie.", flag_values=_FLAGS
)
_SEEDS = flags.DEFINE_string(
    "seeds", "0,1,2", "Seeds that each run trains side by side.", flag_values=_FLAGS
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Epochs of each run; as the preset says if absent.",
    lower_bound=1, flag_values=_FLAGS,
)  # fmt: skip
_CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", None, "Epochs between checkpoints of each run; 1 if absent.",
    lower_bound=1, flag_values=_FLAGS,
)  # fmt: skip
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Of each run; the user's own if absent.", flag_values=_FLAGS
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs", "Parent of the run directories.", flag_values=_FLAGS
)
_SET = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE for every run; may repeat.", flag_values=_FLAGS
)
_GRID = flags.DEFINE_multi_string(
    "grid", [],
    "FIELD=VALUE,VALUE,...: a run for each value; may repeat. Values end at commas, so "
    "that a tuple, as recommender.hidden=(64,64), cannot be swept: give each a grid of "
    "its own, with --set and another --workdir.",
    flag_values=_FLAGS,
)  # fmt: skip
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs side by side; each gets its share of the cores. With a GPU leave it at 1: a "
    "run takes three quarters of its memory at the start, unless "
    "XLA_PYTHON_CLIENT_PREALLOCATE=false is set, and of several GPUs all runs take the "
    "first. Coefficients can share a GPU: --beside of experiments.train.",
    lower_bound=1,
    flag_values=_FLAGS,
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the commands and run none.", flag_values=_FLAGS
)


# Fields that a flag sets, each with a preset of its own.
_FLAG_OF = {"method": "methods", "dataset.name": "datasets"}


class Job(NamedTuple):
    """One run: where it writes to, and the command as a list of arguments."""

    workdir: pathlib.Path
    command: list[str]


class CannotStart(Exception):
    """The system refuses to start a job; one line: where, why, and what to do.

    Attributes:
      failed: jobs that failed beside it.
    """

    def __init__(self, job: Job, error: OSError, failed: list[Job]):
        """Names the file that the system names, else the directory of the job."""
        super().__init__(
            f"{error.filename or job.workdir}: cannot start a run ({error.strerror}); "
            "mend that, or choose another --workdir"
        )
        self.failed = failed


def expand(
    methods: Sequence[str],
    datasets: Sequence[str],
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    epochs: int | None = None,
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    sweep: Mapping[str, Sequence[str]] | None = None,
) -> list[Job]:
    """Every combination of data set, method and swept value, in this order.

    Args:
      methods: names of methods.
      datasets: names of data sets.
      workdir: parent of the run directories.
      data_dir: folder of official files; runs whose data set has none do not get it.
      epochs: of each run; as the preset says if None.
      options: further flags that each run gets, as "--seeds=0,1".
      overrides: FIELD=VALUE, for each run.
      sweep: field -> values; the run directory carries the value in its name.

    Raises:
      ConfigError: a data set, method or field does not exist, or a field cannot have
        its value, or is given another one beside it; there is no method or data set,
        or two runs are of one directory.
    """
    sweep = sweep or {}
    _require_names(methods, datasets)
    _require_fields_of_one_place(overrides, sweep)
    if epochs is not None:
        options = [*options, f"--epochs={epochs}"]
    jobs: list[Job] = []
    for dataset, method, *values in itertools.product(
        datasets, methods, *sweep.values()
    ):
        swept = [f"{field}={value}" for field, value in zip(sweep, values, strict=True)]
        settings = [*overrides, *swept]
        # Each run checks this too, but the last one only when the others are done.
        changes = config_lib.parse_overrides(settings)
        if epochs is not None and changes.get("training.epochs", epochs) != epochs:
            raise config_lib.ConfigError(
                f"--epochs={epochs}: training.epochs={changes['training.epochs']} says "
                "something else; give one of them"
            )
        if epochs is not None:
            changes["training.epochs"] = epochs
        config = config_lib.replace(preset(dataset, method), changes)
        config_lib.validate(config)
        reads_folder = data_dir is not None and config.dataset.has_published_files
        directory = pathlib.Path(workdir, "__".join([f"{dataset}_{method}", *swept]))
        command = [
            *(sys.executable, "-m", "experiments.train"),
            *(f"--dataset={dataset}", f"--method={method}", f"--workdir={directory}"),
            *([f"--data_dir={data_dir}"] if reads_folder else []),
            *options,
            *(f"--set={setting}" for setting in settings),
        ]
        jobs.append(Job(directory, command))
    return jobs


def _require_names(methods: Sequence[str], datasets: Sequence[str]) -> None:
    """Refuses lists that are empty or name something twice.

    Raises:
      ConfigError: there would be no run, or two in one directory.
    """
    for flag, names in (("methods", methods), ("datasets", datasets)):
        if not names:
            raise config_lib.ConfigError(f"--{flag}: names none; name one at least")
        _require_once(f"--{flag}={','.join(names)}", names)


def _require_once(flag: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise config_lib.ConfigError(
                f"{flag}: {name} is named twice, for one run directory; name it once"
            )


def _require_fields_of_one_place(
    overrides: Sequence[str], sweep: Mapping[str, Sequence[str]]
) -> None:
    """Refuses fields that other flags have, and fields both set and swept.

    Raises:
      ConfigError: a run would have another method, data set or value than it is named
        after.
    """
    fields = list(config_lib.parse_overrides(overrides))
    for flag, names in (("--set", fields), ("--grid", list(sweep))):
        for name in names:
            if name in _FLAG_OF:
                raise config_lib.ConfigError(
                    f"{flag}={name}=...: use --{_FLAG_OF[name]}, which selects presets"
                )
    for name in fields:
        if name in sweep:
            raise config_lib.ConfigError(
                f"--set={name}=...: --grid sweeps {name}; give one of them"
            )


def parse_sweep(texts: Sequence[str]) -> dict[str, list[str]]:
    """Turns `["selector.k_sel=5,15"]` into `{"selector.k_sel": ["5", "15"]}`.

    Raises:
      ConfigError: a text is not of this form, or a field or value is named twice.
    """
    sweep: dict[str, list[str]] = {}
    for text in texts:
        field, _, listed = text.partition("=")
        field, values = field.strip(), [value.strip() for value in listed.split(",")]
        if not field or not all(values):
            raise config_lib.ConfigError(
                f"--grid={text}: expected FIELD=VALUE,VALUE,... as selector.k_sel=5,15"
            )
        if field in sweep:
            raise config_lib.ConfigError(f"--grid={text}: {field} is named twice")
        if any(value.count("(") != value.count(")") for value in values):
            raise config_lib.ConfigError(
                f"--grid={text}: values end at commas, so a tuple cannot be swept; "
                "give each a grid of its own, with --set and another --workdir"
            )
        _require_once(f"--grid={text}", values)
        sweep[field] = values
    return sweep


def run(
    jobs: Sequence[Job], parallel: int = 1, stop: StopRequest | None = None
) -> list[Job]:
    """Runs the jobs, `parallel` at a time, and returns those that failed.

    After a failure or an interruption no further job begins; those under way are waited
    for. Side by side, the output of a job goes to a file beside its run directory,
    WORKDIR.log, after that of earlier sessions.

    Raises:
      CannotStart: the log of a job, or its process, cannot be had. It counts as a
        failure: those under way have been waited for.
      Interrupted: no job failed, but some were interrupted, or `stop` asked before all
        had begun; the same jobs continue.
    """
    stop = stop or StopRequest()
    shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for share in _shares_of_cores(parallel):
        shares.put(share)
    failed: list[Job] = []
    interrupted: list[Job] = []
    refused: list[tuple[Job, OSError]] = []

    def run_one(job: Job) -> None:
        if failed or interrupted or refused or stop.reason is not None:
            interrupted.append(job)
            return
        share = shares.get()
        print(f"starting {job.workdir}", flush=True)
        try:
            status = _run_job(job, share, stop, log=parallel > 1)
        except OSError as error:
            refused.append((job, error))
            return
        finally:
            shares.put(share)
        if status in INTERRUPTED:
            interrupted.append(job)
        elif status != 0:
            failed.append(job)

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        list(pool.map(run_one, jobs))
    if refused:
        raise CannotStart(*refused[0], failed)
    if interrupted and not failed:
        raise Interrupted(f"{len(interrupted)} of {len(jobs)} runs are not finished")
    return failed


def _run_job(job: Job, cores: set[int], stop: StopRequest, *, log: bool) -> int:
    """Runs a job on the given cores and returns its exit status."""
    if cores and hasattr(os, "sched_setaffinity"):
        # Of this thread alone; the process that it starts inherits it, and XLA, OpenMP
        # and the others size their pools by it.
        os.sched_setaffinity(0, cores)
    environment = os.environ | ({"OMP_NUM_THREADS": str(len(cores))} if cores else {})
    if not log:
        return wait(subprocess.Popen(job.command, env=environment), stop)
    file = job.workdir.with_name(job.workdir.name + ".log")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as stream:
        process = subprocess.Popen(
            job.command, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        return wait(process, stop)


def _shares_of_cores(parallel: int) -> Iterator[set[int]]:
    """The cores of each of `parallel` jobs; the empty set if one job has them all."""
    if parallel == 1:
        yield set()
        return
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    for index in range(parallel):
        yield set(cores[index::parallel]) or {cores[index % len(cores)]}


def _forwarded() -> list[str]:
    """Flags that each run gets as they are."""
    given = {"checkpoint_every": _CHECKPOINT_EVERY.value, "cache_dir": _CACHE_DIR.value}
    return [f"--seeds={_SEEDS.value}"] + [
        f"--{name}={value}" for name, value in given.items() if value is not None
    ]


def main(argv: Sequence[str]) -> int:
    """Expands the grid of the flags, prints it, runs it. Returns the exit status."""
    if len(argv) > 1:
        print(f"unexpected argument: {argv[1]}", file=sys.stderr)
        return 1
    try:
        config_lib.parse_seeds(_SEEDS.value.split(","))
        jobs = expand(
            _METHODS.value,
            _DATASETS.value,
            user_path(_WORKDIR.value),
            data_dir=_DATA_DIR.value,
            epochs=_EPOCHS.value,
            options=_forwarded(),
            overrides=_SET.value,
            sweep=parse_sweep(_GRID.value),
        )
    except (config_lib.ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    for job in jobs:
        print(shlex.join(job.command))
    if _DRY_RUN.value:
        return 0
    refused = False
    try:
        with StopRequest() as stop:
            failed = run(jobs, _JOBS.value, stop)
    except Interrupted as interrupted:
        print(f"{interrupted}; the same command continues", file=sys.stderr)
        return REQUEUE
    except CannotStart as error:
        print(error, file=sys.stderr)
        failed, refused = error.failed, True
    for job in failed:
        print(f"failed: {shlex.join(job.command)}", file=sys.stderr)
    return 2 if refused else int(bool(failed))


if __name__ == "__main__":
    app.run(main)
