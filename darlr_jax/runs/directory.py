"""The directory of a run: who may write to it, what it was started with.

A run directory holds::

    config.json     the configuration, every field
    run.json        command, commit, versions, device, data, times, status, what failed
    metrics.csv     one row per seed and epoch; metrics.jsonl holds the same rows
    checkpoints/    the newest states, and the best
    failed/         states of seeds that failed, where there are any
    curves.png      the curves of metrics.csv
    world_model.json, calibration.json, estimates.json
                    errors of the world model by epoch, where it is calibrated, and of
                    the rewards that trained agents are paid; where there are any
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import darlr_jax
from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, ExperimentConfig
from darlr_jax.files import remove_abandoned, replacing
from darlr_jax.runs.preemption import Interrupted

_LOCK = ".lock"
_RESTORE = "bring back a copy, or start over with --overwrite"
_CHANGED = "+dirty"  # behind a commit whose files were changed
_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# A resumed run may be asked for more epochs than it was started with, nothing else.
_MAY_CHANGE = ("training.epochs",)
# What run.json says of the epochs of all sessions: the next session goes on with it.
OF_THE_RUN: Mapping[str, Any] = {"failed_seeds": [], "warnings": []}


class RunError(RuntimeError):
    """A run directory that cannot be used; one line: which, why, and what to do."""


class RunInUse(RunError):
    """Another process writes to a run directory."""


class Identity(NamedTuple):
    """What makes two runs the same experiment."""

    config: ExperimentConfig
    seeds: list[int]
    data: dict[str, str]  # file name (or generator) -> sha256 of what was read

    def differences(self, before: Identity) -> list[str]:
        """What is not as it was `before`, as "selector.k_sel: 15 -> 20"."""
        old, new = config_lib.flatten(before.config), config_lib.flatten(self.config)
        differences = [
            f"{name}: {old[name]!r} -> {new[name]!r}"
            for name in new
            if name not in _MAY_CHANGE and old[name] != new[name]
        ]
        for name in ("seeds", "data"):
            was, is_now = getattr(before, name), getattr(self, name)
            if was != is_now:
                differences.append(f"{name}: {was!r} -> {is_now!r}")
        return differences


class Resume(enum.StrEnum):
    """What to do with a directory that holds a run already."""

    AUTO = "auto"  # continue it if it is the same experiment
    NEVER = "never"  # refuse
    MUST = "must"  # continue it; refuse to start a new one


def read_text(file: pathlib.Path) -> str:
    """The text of a file of a run. Raises RunError where it has none."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunError(
            f"{file}: is damaged, byte {error.start} is no UTF-8 text; {_RESTORE}"
        ) from error


class RunDirectory:
    """A run directory that this process alone writes to, until it is closed.

    Use it as a context manager: an exception that leaves the block is noted as status
    "failed" or "interrupted" in run.json. A process that is killed notes nothing; what
    became of it the lock tells, see `status`.

    Attributes:
      path: the directory.
      resumed: whether it held a run already, which this process continues.
      config_file: config.json.
      run_file: run.json.
      metrics_csv: metrics.csv.
      metrics_jsonl: metrics.jsonl.
      checkpoints: the directory of the checkpoints.
      curves: curves.png.
      world_model: world_model.json.
      calibration: calibration.json.
      estimates: estimates.json.
      failed: the directory of the states of seeds that failed.
      identity: what the run is; of a directory that was opened.
    """

    identity: Identity

    def __init__(self, path: str | os.PathLike[str]):
        """Names the files under `path`; touches none. See `RunDirectory.open`."""
        self.path = pathlib.Path(path)
        self.resumed = False
        self.config_file = self.path / "config.json"
        self.run_file = self.path / "run.json"
        self.metrics_csv = self.path / "metrics.csv"
        self.metrics_jsonl = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.curves = self.path / "curves.png"
        self.world_model = self.path / "world_model.json"
        self.calibration = self.path / "calibration.json"
        self.estimates = self.path / "estimates.json"
        self.failed = self.path / "failed"
        self._lock: IO[bytes] | None = None
        self._command: list[str] = []
        self._earlier: dict[str, Any] | None = None  # run.json of what goes on
        self._record: dict[str, Any] = {}  # empty until the run begins

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], config: ExperimentConfig, **how: Any
    ) -> RunDirectory:
        """Creates the directory of a new run, or opens that of an interrupted one.

        `claim` has the arguments, and what is raised.
        """
        run = cls.claim(path, config, **how)
        run.begin()
        return run

    @classmethod
    def claim(
        cls,
        path: str | os.PathLike[str],
        config: ExperimentConfig,
        *,
        seeds: Sequence[int],
        command: Sequence[str],
        data_hashes: Mapping[str, str],
        resume: Resume | str = Resume.AUTO,
        overwrite: bool = False,
    ) -> RunDirectory:
        """Locks a directory in which a run may begin or go on; writes nothing else.

        Who needs several claims them all before the first one begins.

        Args:
          path: the directory; created, with its parents, where it does not exist.
          config: what the run is.
          seeds: the seeds that the run trains side by side.
          command: the command line, as in `sys.argv`.
          data_hashes: file name (or generator) -> sha256 of what was read.
          resume: what to do where `path` holds a run.
          overwrite: remove the files of the run that `path` holds, and start anew.

        Raises:
          RunError: another process writes to it; it holds another experiment (which
            fields differ), epochs whose checkpoints were taken away, files of
            something else, or nothing where a run must be resumed.
        """
        resume = Resume(resume)
        if overwrite and resume is Resume.MUST:
            raise RunError("--overwrite and --resume=must contradict each other")
        run = cls(path)
        run.identity = Identity(config, [int(s) for s in seeds], dict(data_hashes))
        if resume is Resume.MUST and not run.has_begun():
            raise RunError(f"{run.path}: no run to resume; drop --resume=must")
        run._command = list(command)
        run._acquire_lock()
        try:
            run._earlier = run._earlier_session(resume, overwrite)
            if run._earlier is not None:
                run._require_same_experiment()
                run._require_checkpoint(run._earlier)
        except BaseException:
            run._release_lock()
            raise
        return run

    def begin(self) -> None:
        """Notes that the run begins, in place of what is not to go on, or goes on."""
        try:
            for folder in (self.path, self.failed):
                remove_abandoned(folder, age=None)  # the lock is ours
            seeds, data = self.identity.seeds, self.identity.data
            self._record = describe_session(seeds, self._command, data)
            if self._earlier is not None:
                self._go_on_from(self._earlier)
            else:
                self._remove_files()
            write_json(self.config_file, config_lib.to_dict(self.identity.config))
            write_json(self.run_file, self._record)
            with writing(self.checkpoints):  # from here on, only others remove it
                self.checkpoints.mkdir(exist_ok=True)
        except BaseException:
            self._release_lock()
            raise

    def update(self, **fields: Any) -> None:
        """Sets fields of run.json, as `compile_seconds=3.5`.

        Raises:
          RunError: a name that run.json does not have.
        """
        unknown = sorted(set(fields) - set(self._record))
        if unknown:
            raise RunError(f"run.json has no field {', '.join(unknown)}")
        self._record |= fields
        write_json(self.run_file, self._record)

    def noted(self, name: str) -> Any:
        """A field of run.json as `update`, or an earlier session, has set it."""
        return self._record[name]

    def computed_otherwise(self) -> list[str]:
        """Commit and versions that are not those of the session before, old -> new.

        Of a commit with changed files nobody knows which they were: it always counts.
        """
        if not self.resumed:
            return []
        sessions = (self._record["earlier_sessions"][-1], self._record)
        before, now = map(_computed_by, sessions)
        return [
            f"{name} {before[name]} -> {value}"
            for name, value in now.items()
            if name in before and (before[name] != value or value.endswith(_CHANGED))
        ]

    def status(self) -> str:
        """How the run stands: running, finished, interrupted, failed or killed.

        Killed is a run that run.json calls running while nobody holds its lock.

        Raises:
          RunError: run.json or the lock cannot be read, or run.json has no status.
        """
        status = read_json(self.run_file).get("status")
        if not isinstance(status, str):
            raise RunError(f"{self.run_file}: has no status")
        return "killed" if status == "running" and not self._in_use() else status

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps writers out: opening the checkpoints of a run under way disturbs it.

        Raises:
          RunInUse: somebody writes to it.
          RunError: its lock cannot be read.
        """
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context(open(self.path / _LOCK, "rb"))
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except FileNotFoundError:
                pass  # copied without its lock: nobody writes to a copy
            except BlockingIOError as error:
                raise RunInUse(
                    f"{self.path}: is being trained; read it when that has ended"
                ) from error
            except OSError as error:
                raise RunError(
                    f"{self.path / _LOCK}: cannot be read ({error.strerror})"
                ) from error
            yield

    def has_begun(self) -> bool:
        """Whether there is a run, or files of something else.

        A run that was killed between its first two files has left its configuration
        alone: it has not begun.
        """
        if not self.path.is_dir():
            return False
        names = {entry.name for entry in self.path.iterdir() if entry.name[0] != "."}
        return not names <= {self.config_file.name}

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint is there, be it damaged."""
        stored = self.checkpoints.glob("*")
        return any(entry.name.isdecimal() for entry in stored)

    def epochs_done(self) -> int:
        """The epoch of the last whole row of metrics.csv, 0 without any.

        Raises:
          RunError: metrics.csv cannot be read.
        """
        if not self.metrics_csv.exists():
            return 0
        lines = read_text(self.metrics_csv).split("\n")[:-1]
        cells = lines[-1].split(",") if lines else []
        return int(cells[1]) if len(cells) > 1 and cells[1].isdecimal() else 0

    def close(self, status: str = "finished") -> None:
        """Notes how the run ended and lets other processes have the directory.

        One that has not begun is let go as it is.

        Raises:
          RunError: run.json cannot be written; the directory is let go all the same.
        """
        if self._lock is not None:
            try:
                if self._record:
                    self.update(status=status, ended=_utc_now())
            finally:
                self._release_lock()

    def __enter__(self) -> RunDirectory:
        """The directory itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes the directory as finished, interrupted or failed."""
        if kind is None:
            self.close()
            return
        stopped = issubclass(kind, Interrupted | KeyboardInterrupt | SystemExit)
        # On a full disk the exception that ended the run says what is to be done.
        with contextlib.suppress(RunError):
            self.close("interrupted" if stopped else "failed")

    def _acquire_lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Without a buffer, of which a full disk would leave something to write.
            lock = open(self.path / _LOCK, "ab+", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().decode(errors="replace").strip() or "another process"
            lock.close()
            in_use = isinstance(error, BlockingIOError)
            why = f"in use by {owner}" if in_use else f"no lock ({error.strerror})"
            raise RunError(f"{self.path}: {why}; choose another --workdir") from error
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            lock.close()
            raise self._unwritable(error) from error
        self._lock = lock

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: cannot be created or written to ({error.strerror})"
        )

    def _release_lock(self) -> None:
        # The file stays: removing it would let two later processes lock two files.
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the disk may be read-only by now
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _in_use(self) -> bool:
        """Whether a process, this one included, writes to the directory."""
        try:
            with self.reading():
                return False
        except RunInUse:
            return True

    def _earlier_session(
        self, resume: Resume, overwrite: bool
    ) -> dict[str, Any] | None:
        """run.json of the run that the directory holds, None where none has begun."""
        if not self.has_begun():
            if self.config_file.exists() and not overwrite:
                load_config(self.path)  # or it is a file of something else
            return None
        if not self.config_file.exists():
            raise RunError(
                f"{self.path}: not empty, and no run directory (it has no "
                "config.json); choose another --workdir"
            )
        if resume is Resume.NEVER and not overwrite:
            raise RunError(
                f"{self.path}: holds a run already; choose another --workdir, or "
                "--overwrite to replace it"
            )
        if overwrite:
            return None
        return read_json(self.run_file)

    def _go_on_from(self, earlier: dict[str, Any]) -> None:
        if earlier.get("status") == "running":
            earlier["status"] = "killed"  # or it would have the lock still
        for name, default in OF_THE_RUN.items():
            self._record[name] = earlier.pop(name, default)
        history = earlier.pop("earlier_sessions", [])
        self._record["earlier_sessions"] = [*history, earlier]
        self.resumed = True

    def _require_same_experiment(self) -> None:
        differences = self.identity.differences(load_identity(self.path))
        if differences:
            raise RunError(
                f"{self.path}: holds another experiment ({'; '.join(differences)}); "
                "choose another --workdir, or --overwrite to replace it"
            )

        done, epochs = self.epochs_done(), self.identity.config.training.epochs
        if done > epochs:
            raise RunError(f"{self.path}: has {done} epochs already; --epochs is fewer")

    def _require_checkpoint(self, earlier: Mapping[str, Any]) -> None:
        """Refuses epochs whose checkpoints were taken away: to go on would lose them.

        A run that was killed before its first one has their folder, as `begin` leaves
        it, and is begun anew.
        """
        taken = earlier.get("status") == "finished" or not self.checkpoints.is_dir()
        epochs = self.epochs_done()
        if epochs and taken and not self.has_checkpoint():
            raise RunError(
                f"{self.path}: has {epochs} epochs and no checkpoint to continue from; "
                f"bring {self.checkpoints.name}/ back, choose another --workdir, or "
                "--overwrite to replace it"
            )

    def _remove_files(self) -> None:
        # Only what runs write: the user may keep notes beside them.
        for folder in (self.checkpoints, self.failed):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (
            *(self.metrics_csv, self.metrics_jsonl, self.curves),
            *(self.world_model, self.calibration, self.estimates),
            *(self.run_file, self.config_file),
        ):
            file.unlink(missing_ok=True)


def load_config(path: str | os.PathLike[str]) -> ExperimentConfig:
    """The configuration of the run in the directory `path`.

    Raises:
      RunError: config.json is missing, malformed, or of another version.
    """
    file = RunDirectory(path).config_file
    try:
        return config_lib.from_dict(read_json(file))
    except ConfigError as error:
        raise RunError(
            f"{file}: not a configuration of this version ({error})"
        ) from error


def load_identity(path: str | os.PathLike[str]) -> Identity:
    """What the run in the directory `path` is.

    Raises:
      RunError: config.json or run.json is missing, malformed, or of another version.
    """
    record = read_json(RunDirectory(path).run_file)
    return Identity(load_config(path), record.get("seeds", []), record.get("data", {}))


def describe_session(
    seeds: Sequence[int], command: Sequence[str], data_hashes: Mapping[str, str]
) -> dict[str, Any]:
    """What run.json says of this process, on this machine, at this time."""
    import jax  # here: reading results needs no JAX, and it takes a second to import

    devices = jax.devices()
    return {
        "status": "running",
        "command": list(command),
        "seeds": [int(seed) for seed in seeds],
        "data": dict(data_hashes),
        "ground_truth": None,  # one line: which matrix pays the evaluation
        "started": _utc_now(),
        "ended": None,
        "compile_seconds": None,
        "run_seconds": None,  # of all runs that share the program
        "side_by_side": 1,  # how many those are
        "peak_memory_mib": None,  # "host" and "device", of the whole process
        "commit": git_commit(),
        "versions": {
            "darlr_jax": darlr_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        },
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "host": {"system": platform.system(), "cpus": os.cpu_count()},
        "earlier_sessions": [],
        **OF_THE_RUN,
    }


def _computed_by(record: Mapping[str, Any]) -> dict[str, str]:
    """Commit, shortened, and versions of a session, as far as it knows them."""
    named = dict(record.get("versions", {}))
    if commit := record.get("commit"):
        base, mark, _ = commit.partition(_CHANGED)
        named["commit"] = base[:9] + mark
    return named


def git_commit() -> str | None:
    """Commit of the package's source tree, with `_CHANGED` where files were.

    None where the package does not lie in a git checkout of its own.
    """
    source = pathlib.Path(darlr_jax.__file__).resolve().parent.parent
    # An installed package may lie inside a checkout of something else.
    if _git(source, "rev-parse", "--show-toplevel") != str(source):
        return None
    commit = _git(source, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return None
    return commit + (_CHANGED if _git(source, "status", "--porcelain") else "")


def _git(directory: pathlib.Path, *arguments: str) -> str | None:
    """What git answers, None where there is no git or it refuses."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Names `path` where the system refuses to write to it: full, read-only, gone.

    Raises:
      RunError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        intact = ", the last checkpoint is intact" * _is_of_a_kept_run(path)
        raise RunError(
            f"{path}: cannot be written to ({error.strerror}); mend that and run the "
            f"same command again{intact}"
        ) from error


def _is_of_a_kept_run(path: pathlib.Path) -> bool:
    """Whether `path` lies in a run directory that has a checkpoint."""
    with contextlib.suppress(OSError):  # the disk may be gone
        return RunDirectory(path.parent).has_checkpoint()
    return False


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes `content`, sorted and indented, in place of `path`.

    Raises:
      RunError: the system refuses.
    """
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    with writing(path), replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in the file `path`.

    Raises:
      RunError: there is no such file, or it does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); {_RESTORE}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object; {_RESTORE}")
    return content


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
