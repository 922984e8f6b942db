"""What the programs share: flags of an experiment, and errors as one clear line."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, DatasetConfig, ExperimentConfig
from darlr_jax.methods import METHODS
from darlr_jax.presets import DATASETS, preset

if TYPE_CHECKING:
    from darlr_jax.data.dataset import Dataset

DATASET = flags.DEFINE_string(
    "dataset", "synthetic", f"Data set: {', '.join(DATASETS)}."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with a folder of the official files for each data set; if not given, files "
    "are downloaded into the folder of --cache_dir.",
)
TWIN = flags.DEFINE_bool(
    "twin",
    False,
    "Use generated files of the official form instead of the official ones.",
)
TWIN_SCALE = flags.DEFINE_float(
    "twin_scale",
    None,
    "Size of a twin as a share of the official counts, 1 at most; 0.02 if not given.",
)
METHOD = flags.DEFINE_string("method", "darlr", f"Method: {', '.join(METHODS)}.")
EPOCHS = flags.DEFINE_integer(
    "epochs",
    None,
    "Training epochs; the data set's preset if not given.",
    lower_bound=1,
)
OVERRIDES = flags.DEFINE_multi_string(
    "set", [], "FIELD=VALUE of the configuration, as selector.k_sel=20; may repeat."
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Folder for downloads, twins, parsed data, fitted world models and compiled "
    "programs; if not given, $XDG_CACHE_HOME/darlr_jax or ~/.cache/darlr_jax.",
)


def experiment_config() -> ExperimentConfig:
    """The preset of --dataset and --method with --epochs and every --set applied.

    Raises:
      ConfigError: unknown names, mistyped or contradictory values.
    """
    config = preset(DATASET.value, METHOD.value)
    changes = settings()
    for path in ("method", "dataset.name"):
        if path in changes:
            flag = path.partition(".")[0]
            raise ConfigError(f"--set={path}=...: use --{flag}, which selects a preset")
    config = config_lib.replace(config, changes)
    config_lib.validate(config)
    require_data_dir_is_read(config.dataset)
    return config


def settings() -> dict[str, Any]:
    """Dotted field -> value of every --set, and of the flags that fields have.

    Raises:
      ConfigError: a --set of another form, or one that contradicts a flag.
    """
    changes = config_lib.parse_overrides(OVERRIDES.value)
    changes = _fields_of_flags(changes) | changes
    if TWIN_SCALE.value is not None and not changes.get("dataset.twin"):
        raise ConfigError("--twin_scale: official files have one size; add --twin")
    return changes


def require_runs_alone(reads_data: bool = False) -> None:
    """Refuses the flags of an experiment where it is read from runs that are there.

    Args:
      reads_data: whether the program reads their data, and so the flags of folders.

    Raises:
      ConfigError: one of them was given.
    """
    experiment = (DATASET, TWIN, TWIN_SCALE, METHOD, EPOCHS, OVERRIDES)
    require_absent(experiment, "the runs say it themselves")
    if not reads_data:
        require_absent((DATA_DIR, CACHE_DIR), "nothing is read but the runs")


def require_absent(ignored: Iterable[flags.FlagHolder], why: str) -> None:
    """Refuses flags that would be ignored.

    Args:
      ignored: what must not be given, not even with its default.
      why: ends the message: whose they are, or what to do instead.

    Raises:
      ConfigError: one of them was given.
    """
    for flag in ignored:
        if flag.present:
            raise ConfigError(f"--{flag.name}: {why}")


def require_data_dir_is_read(dataset: DatasetConfig) -> None:
    """Refuses a folder of official files beside a data set that has none.

    Raises:
      ConfigError: --data_dir was given for a twin, a user's own log or synthetic data.
    """
    if DATA_DIR.value is None or dataset.has_published_files:
        return
    what = "a twin" if dataset.twin else f"--dataset={dataset.name}"
    raise ConfigError(
        f"--data_dir={DATA_DIR.value:.200}: {what} has no official files, and none of "
        "these would be read; leave --data_dir out"
    )


def _fields_of_flags(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that have flags of their own; `--set` must not say something else."""
    given = {
        "twin": ("dataset.twin", TWIN.value or None),
        "twin_scale": ("dataset.twin_scale", TWIN_SCALE.value),
        "epochs": ("training.epochs", EPOCHS.value),
    }
    fields = {path: value for path, value in given.values() if value is not None}
    for flag, (path, value) in given.items():
        if path in fields and changes.get(path, value) != value:
            raise ConfigError(
                f"--set={path}={changes[path]}: --{flag}={value} says something else; "
                "give one of them"
            )
    return fields


def runs_beside(
    config: ExperimentConfig, workdir: str, beside: Sequence[str]
) -> dict[str, ExperimentConfig]:
    """Run directory -> configuration: `config` in `workdir`, and what stands beside it.

    Args:
      config: of the first run.
      workdir: its directory.
      beside: texts "DIR: FIELD=VALUE, FIELD=VALUE", each a run that differs from the
        first in coefficients.

    Raises:
      ConfigError: a text of another form, a field that is no coefficient, a directory
        that is given twice.
    """
    runs = {workdir: config}
    for text in beside:
        directory, colon, settings = text.partition(":")
        if not colon or not directory.strip() or not settings.strip():
            raise ConfigError(
                f"--beside={text!r:.80}: expected DIR: FIELD=VALUE, as "
                "runs/other: reward.lambda_u=0.1"
            )
        changes = config_lib.parse_overrides(settings.split(","))
        changed = config_lib.replace(config, changes)
        for field in changes:
            if field not in config_lib.COEFFICIENTS:
                raise ConfigError(
                    f"--beside={text!r:.80}: {field} needs a program of its own; "
                    f"beside each other may differ {', '.join(config_lib.COEFFICIENTS)}"
                )
        directory = str(user_path(directory.strip()))
        if any(os.path.abspath(directory) == os.path.abspath(run) for run in runs):
            raise ConfigError(f"--beside: {directory} is the directory of two runs")
        runs[directory] = changed
    return runs


def user_path(name: str) -> pathlib.Path:
    """The path that a flag names, in which `~` is a home folder.

    Raises:
      DataError: nobody knows that home folder.
    """
    from darlr_jax.data import text

    return text.user_path(name)


def users_cache() -> pathlib.Path:
    """The user's own cache folder, where no flag names another.

    Raises:
      DataError: it would be in a home folder that nobody knows.
    """
    root = os.environ.get("XDG_CACHE_HOME") or user_path("~") / ".cache"
    return pathlib.Path(root) / "darlr_jax"


def cache_directory(*parts: str) -> pathlib.Path:
    """--cache_dir, or the user's own cache folder, or a folder in it; it exists then.

    Raises:
      ConfigError: it cannot be created.
      DataError: it would be in a home folder that nobody knows.
    """
    cache = user_path(CACHE_DIR.value) if CACHE_DIR.value else users_cache()
    return private_folder(cache, *parts)


def private_folder(root: pathlib.Path, *parts: str) -> pathlib.Path:
    """A folder of the cache `root`, or that itself; it exists then.

    A folder that was not there is private to the user, and with it all that it holds.

    Raises:
      ConfigError: it cannot be created.
    """
    path = root.joinpath(*parts)
    try:
        for folder in (root, path):  # a mode is for the last folder of a path alone
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"--cache_dir={root}: cannot be created or entered ({error.strerror})"
        ) from error
    return path


def prepare_dataset(config: DatasetConfig, *, download: bool = False) -> Dataset:
    """The data set, found, downloaded or generated as the flags say; says what it does.

    Raises:
      DataError: files are missing or malformed; names them and what to do.
    """
    from darlr_jax.data import preparation

    data_dir = user_path(DATA_DIR.value) if DATA_DIR.value else None
    folders = preparation.Folders(data_dir, cache_directory())
    return preparation.prepare(config, folders, say, download=download)


def say(text: str) -> None:
    """Progress for whoever watches; results go to standard output."""
    print(text, file=sys.stderr, flush=True)


def configure_jax() -> None:
    """Quiet logs, errors instead of silent broadcasts, programs that stay compiled."""
    programs = cache_directory("programs")
    import jax

    logging.set_verbosity(logging.WARNING)  # orbax logs every step of a save
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(programs))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a program; what its user can mend ends as one line and exit code 1."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; flags start with --")
        try:
            main(argv)
        except _user_errors() as error:
            sys.exit(_in_one_line(error))

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """As absl parses flags; but a mistake is one line here, as all others are."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, OSError, ValueError) as error:  # also of --flagfile, --nox=1
        sys.exit(f"{_in_one_line(error)}; --help lists the flags")


def _in_one_line(error: Exception) -> str:
    """Also where a name holds a line end, or absl lists its suggestions."""
    return f"error: {' '.join(str(error).splitlines())}"


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors whose message tells the user what to do; others keep their traceback.

    Modules that were not imported cannot have raised anything.
    """
    kinds: list[type[Exception]] = [ConfigError, FloatingPointError]
    for module, name in (
        ("darlr_jax.data.dataset", "DataError"),
        ("darlr_jax.runs.directory", "RunError"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)
