"""Flags that benchmarks share beside those of an experiment (`experiments.cli`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, ExperimentConfig
from experiments import cli

if TYPE_CHECKING:
    from benchmarks.invented import Sizes

JSON = flags.DEFINE_bool("json", False, "Print JSON, a line a result, nothing else.")
SEEDS = flags.DEFINE_integer("num_seeds", 1, "Seeds side by side.", lower_bound=1)
CALLS = flags.DEFINE_integer(
    "calls", 20, "Calls timed of each program, at most.", lower_bound=1
)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "No further call of a program is timed after so many."
)
USERS = flags.DEFINE_integer(
    "users", None, "Invented users; those of the data set if not given.", lower_bound=2
)
ITEMS = flags.DEFINE_integer(
    "items", None, "Invented items; those of the data set if not given.", lower_bound=2
)
K_SEL = flags.DEFINE_integer(
    "k_sel", None, "As --set=selector.k_sel, with as many neighbours.", lower_bound=1
)


# For programs that do not read them: `cli.require_absent`.
LIMITS = (CALLS, SECONDS)
SIZES = (SEEDS, USERS, ITEMS, K_SEL)


class Limits(NamedTuple):
    """How often a program is called."""

    calls: int  # timed, at most
    seconds: float  # after which no further call is begun
    at_least: int = 3  # calls timed, however long they take


def setting() -> tuple[ExperimentConfig, Sizes]:
    """What the flags ask for: a configuration, and the sizes of invented tables.

    Raises:
      ConfigError: a flag of the experiment cannot be used, or sizes are not known.
    """
    from benchmarks.invented import sizes_of

    files = (cli.DATA_DIR, cli.TWIN, cli.TWIN_SCALE)
    cli.require_absent(files, "tables are invented, and no files are read")
    config = cli.experiment_config()
    if K_SEL.value is not None:
        require_references(config, f"--k_sel={K_SEL.value}")
        config = with_references(config, K_SEL.value)
    return config, resized(sizes_of(config), USERS.value, ITEMS.value)


def limits() -> Limits:
    """How often programs are called."""
    return Limits(CALLS.value, SECONDS.value)


def resized(sizes: Sizes, users: int | None = None, items: int | None = None) -> Sizes:
    """The same with other numbers of users and items; what was logged grows along."""
    users, items = users or sizes.users, items or sizes.items
    return sizes._replace(
        users=users,
        items=items,
        logged_users=max(users, sizes.logged_users),
        logged_items=max(items, sizes.logged_items),
    )


def with_references(config: ExperimentConfig, k_sel: int) -> ExperimentConfig:
    """`config` with so many reference users, and as many neighbours beside them."""
    changes = {"selector.k_sel": k_sel, "reward.neighbours": k_sel}
    return config_lib.replace(config, changes)


def asks_references(config: ExperimentConfig) -> bool:
    """Whether a method asks other users, so that K_sel is a number of anything."""
    return config.reward.references not in ("none", "self")


def require_references(config: ExperimentConfig, flag: str) -> None:
    """Refuses a number of reference users where nobody is asked.

    Raises:
      ConfigError: `flag` sets one, and the method has no references.
    """
    if not asks_references(config):
        raise ConfigError(
            f"{flag}: --method={config.method} asks no reference users; take one that "
            "does, as darlr"
        )


def describe(
    config: ExperimentConfig, users: int, items: int, num_seeds: int
) -> dict[str, Any]:
    """What speed depends on, by name; `k_sel` is null where nobody is asked."""
    return {
        "dataset": config.dataset.name,
        "method": config.method,
        "tracker": config.tracker.kind,
        "users": users,
        "items": items,
        "k_sel": config.selector.k_sel if asks_references(config) else None,
        "environments": config.training.environments,
        "max_turn": config.environment.max_turn,
        "num_seeds": num_seeds,
    }


def show(record: dict[str, Any]) -> None:
    """Prints a record: as a line of JSON with --json, else a line a figure."""
    if JSON.value:
        print(json.dumps(record), flush=True)
        return
    for name, value in _flat(record).items():
        print(f"{name:44s} {_readable(value)}", flush=True)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _readable(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"
