"""How the cost of training grows with one size while the others stay.

    python -m benchmarks.growth --dataset=coat --method=darlr --over=users --json

One of users, items, k_sel, environments and seeds takes --values, each a program of its
own on invented tables: one collect and one update, the phase `training` of
`benchmarks.phases`. A line of JSON for each value holds

    session, setting    as of `benchmarks.phases`
    over, value
    transition_microseconds    all that a real transition costs, with every seed's
                counted: as seeds are added, a run's cost falls as this does
    rates       what the machine does in a second
    figures     of the phase (`timing.Stopwatch`)

With --plot=FILE.png the curve is drawn beside its floor (the extra `plots`).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from benchmarks import machine, options
from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError
from experiments import cli

if TYPE_CHECKING:
    from benchmarks.invented import Sizes
    from benchmarks.machine import Rates
    from darlr_jax.config import ExperimentConfig

_DEFAULTS = {
    "users": (300, 1_000, 3_000, 10_000),
    "items": (300, 1_000, 3_000, 10_000),
    "k_sel": (5, 10, 20, 40),
    "seeds": (1, 2, 4, 8),
    "environments": (25, 50, 100, 200, 400),
}
OVER = flags.DEFINE_enum("over", "users", list(_DEFAULTS), "What grows.")
VALUES = flags.DEFINE_list("values", None, "Its values, in the order of measurement.")
_ELSEWHERE = {  # flags that say what --over grows
    "users": options.USERS,
    "items": options.ITEMS,
    "k_sel": options.K_SEL,
    "seeds": options.SEEDS,
}
_LEAST = {"users": 2, "items": 2}  # as of --users and --items; else 1
PLOT = flags.DEFINE_string("plot", None, "File of the curve, a PNG.")


def main(argv: list[str]) -> None:
    """Measures and prints a value after another."""
    del argv
    over = OVER.value
    fixed = [flag for name, flag in _ELSEWHERE.items() if name == over]
    cli.require_absent(fixed, f"it grows (--over={over}); --values are its values")
    given = _DEFAULTS[over] if VALUES.value is None else VALUES.value
    values = parse_values(given, _LEAST.get(over, 1))
    config, sizes = options.setting()
    if over == "k_sel":
        options.require_references(config, "--over=k_sel")
    picture = None if PLOT.value is None else picture_path(PLOT.value)
    cli.configure_jax()
    began, rates = machine.session(), machine.measured_rates()
    rows = []
    for value in values:
        grown = Setting(config, sizes, options.SEEDS.value).grown(over, value)
        rows.append({"session": began, "over": over, "value": value})
        rows[-1] |= measure(grown, rates)
        options.show(rows[-1])
    if picture is not None:
        draw(rows, picture)


def parse_values(texts: Sequence[str | int], least: int = 1) -> list[int]:
    """Whole numbers from `least`, one at least. Raises ConfigError otherwise."""
    if not texts:
        raise ConfigError("--values: names none; leave it out for those of --over")
    for text in texts:
        if not str(text).strip().isdecimal() or int(text) < least:
            raise ConfigError(f"--values: {text!r} is no whole number from {least}")
    return [int(text) for text in texts]


def picture_path(name: str) -> pathlib.Path:
    """The file of the curve, whose folder is there: measuring takes minutes.

    Raises:
      ConfigError: there is no such folder, or it is one itself.
      DataError: it would be in a home folder that nobody knows.
    """
    path = cli.user_path(name)
    if not path.parent.is_dir():
        raise ConfigError(f"--plot={name}: there is no folder {path.parent}; create it")
    if not path.name or path.is_dir():
        raise ConfigError(f"--plot={name}: is a folder; name a file, as users.png")
    return path


class Setting(NamedTuple):
    """What is measured."""

    config: ExperimentConfig
    sizes: Sizes
    num_seeds: int

    def grown(self, over: str, value: int) -> Setting:
        """The same with another size, one of the names that --over takes."""
        if over == "seeds":
            return self._replace(num_seeds=value)
        if over == "k_sel":
            config = options.with_references(self.config, value)
            return self._replace(config=config)
        if over == "environments":
            changes = {"training.environments": value}
            return self._replace(config=config_lib.replace(self.config, changes))
        return self._replace(sizes=options.resized(self.sizes, **{over: value}))


def measure(setting: Setting, rates: Rates) -> dict[str, Any]:
    """The figures of one value, and what they are of."""
    from benchmarks import counts, workload
    from benchmarks.invented import invent_experiment
    from benchmarks.timing import Stopwatch
    from darlr_jax.experiment import init_seeds

    experiment = invent_experiment(setting.config, setting.sizes)
    states = init_seeds(experiment, range(setting.num_seeds))
    shapes = counts.shapes_of(setting.config, setting.sizes)
    stopwatch = Stopwatch(rates, options.limits(), lambda text: None)
    stopwatch.time(workload.training(workload.Run(experiment, states, shapes)))
    figures = stopwatch.figures["training"]
    return {
        "setting": options.describe(
            setting.config,
            setting.sizes.users,
            setting.sizes.items,
            setting.num_seeds,
        ),
        "rates": rates._asdict(),
        "transition_microseconds": 1e6 / figures["units_per_second"],
        "figures": figures,
    }


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Microseconds of a transition and their floor, against what grew."""
    from darlr_jax.runs import plots

    figure = plots.new_figure(6.0, 4.0, str(path))
    if figure is None:
        return
    values = [row["value"] for row in rows]
    cost = [row["transition_microseconds"] for row in rows]
    ratios = [row["figures"]["ratio"] for row in rows]
    axis = figure.subplots()
    axis.loglog(values, cost, "o-", label="measured")
    floors = [c / ratio for c, ratio in zip(cost, ratios, strict=True)]
    axis.loglog(values, floors, "o:", label="floor")
    axis.set_xlabel(rows[0]["over"])
    axis.set_ylabel("microseconds a transition")
    axis.legend()
    axis.grid(alpha=0.3)
    plots.save_png(figure, path)


if __name__ == "__main__":
    cli.run(main)
