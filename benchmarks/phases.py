"""Seconds of each phase of a method at true size, and how far from the floor they are.

    python -m benchmarks.phases --dataset=coat --method=darlr --json

Tables are invented: no data are needed. --users, --items, --k_sel and --set change the
sizes, --num_seeds how many seeds are trained side by side. One line of JSON holds

    session     machine, versions, commit and load
    setting     what was measured
    rates       what the machine does in a second
    phases      name -> figures (`timing.Stopwatch`), of one call: `training` is a
                collect and an update as one program, of which the next rows are the
                parts: collect, of it the selector's; update, of it the recommender's.
                What is left of update is the selector's.
    evaluation_share    drawn users alone, of the seconds of an epoch with it; null if
                that was not measured
    host_peak_mib, device_peak_mib
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks import machine, options
from darlr_jax.runs import memory
from experiments import cli

if TYPE_CHECKING:
    from benchmarks.invented import Sizes
    from benchmarks.timing import Stopwatch
    from darlr_jax.config import ExperimentConfig

PARTS = ("training", "evaluation", "all_users", "world_model")
MEASURED = flags.DEFINE_multi_enum(
    "measure", PARTS, PARTS, "What is measured; may repeat. All if not given."
)
_GRADIENT_STEPS = 16  # of the world model, in a call


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    config, sizes = options.setting()
    cli.configure_jax()
    options.show(measure(config, sizes, options.SEEDS.value, MEASURED.value))


def measure(
    config: ExperimentConfig, sizes: Sizes, num_seeds: int, parts: list[str]
) -> dict[str, Any]:
    """All figures of the module's docstring."""
    from benchmarks.timing import Stopwatch

    began = machine.session()
    stopwatch = Stopwatch(machine.measured_rates(), options.limits(), cli.say)
    if {"training", "evaluation", "all_users"}.intersection(parts):
        time_policies(stopwatch, config, sizes, num_seeds, parts)
    if "world_model" in parts:
        time_world_model(stopwatch, config, sizes)
    return {
        "session": began,
        "setting": options.describe(config, sizes.users, sizes.items, num_seeds),
        "rates": stopwatch.rates._asdict(),
        "phases": stopwatch.figures,
        "evaluation_share": evaluation_share(stopwatch.figures, config, num_seeds),
        "host_peak_mib": memory.host_peak_mib(),
        "device_peak_mib": memory.device_peak_mib(),
    }


def time_policies(
    stopwatch: Stopwatch,
    config: ExperimentConfig,
    sizes: Sizes,
    num_seeds: int,
    parts: list[str],
) -> None:
    """Training and its parts, then evaluation."""
    from benchmarks import counts, workload
    from benchmarks.invented import invent_experiment
    from darlr_jax.experiment import init_seeds

    experiment = invent_experiment(config, sizes)
    states = init_seeds(experiment, range(num_seeds))
    run = workload.Run(experiment, states, counts.shapes_of(config, sizes))
    if "training" in parts:
        states, _ = stopwatch.time(workload.training(run))
        run = run._replace(states=states)
        _, transitions = stopwatch.time(workload.collecting(run))
        if states.selector is not None:
            stopwatch.time(workload.selecting(run, transitions))
            stopwatch.time(workload.updating(run, transitions, both=True))
        stopwatch.time(workload.updating(run, transitions, both=False))
    if "evaluation" in parts:
        stopwatch.time(workload.evaluating(run, all_users=False))
    if "all_users" in parts:
        stopwatch.time(workload.evaluating(run, all_users=True))


def time_world_model(
    stopwatch: Stopwatch, config: ExperimentConfig, sizes: Sizes
) -> None:
    """Gradient steps of the ensemble."""
    from benchmarks import workload
    from benchmarks.invented import invent_fit

    fit = invent_fit(config, sizes, _GRADIENT_STEPS)
    stopwatch.time(workload.fitting(fit, config, sizes))


def evaluation_share(
    figures: dict[str, Any], config: ExperimentConfig, num_seeds: int
) -> float | None:
    """Seconds of an evaluation of drawn users over those of a whole epoch with it."""
    if "training" not in figures or "evaluation" not in figures:
        return None
    speed = figures["training"]["units_per_second"]
    training = num_seeds * config.training.steps_per_epoch / speed
    evaluation = figures["evaluation"]["seconds"]
    return evaluation / (training + evaluation)


if __name__ == "__main__":
    cli.run(main)
