r"""Trains a method on a data set, evaluates every epoch and reports.

    python -m experiments.train --dataset=coat --data_dir=DIR --method=darlr \
        --seeds=0,1,2 --epochs=200 --workdir=runs/coat_darlr --set=selector.k_sel=20

All seeds train in one compiled program. The same command continues a run
that was interrupted, with the same numbers; one that was killed loses at most the epoch
under way, or as many as --checkpoint_every says; of the world model the epoch under
way. A seed whose metrics are not finite is marked in run.json and ends; the others go
on, and their numbers are those of a run in which it had not failed.

Runs that differ in coefficients alone share the program, and cost little more than one
where the machine has room: `--beside` adds one, as often as it is given,

    --beside='runs/coat_careful: reward.lambda_u=0.1, selector.lambda_s=2'

with a run directory of its own, in which it is continued, reported and tabulated as if
it had been trained alone.

SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and --max_seconds end a run after the epoch under way,
which is kept, with exit code 75; a second SIGINT ends it at once, with 130. Mistakes
end with 1.
"""

from __future__ import annotations

import shlex
import sys

from absl import flags

from darlr_jax.config import ConfigError, ExperimentConfig, parse_seeds
from darlr_jax.runs.preemption import REQUEUE, Interrupted, StopRequest
from experiments import cli

flags.adopt_module_key_flags(cli)  # so that --help lists them

SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, trained in one program.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; runs/DATASET_METHOD if not given."
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "Where --workdir holds a run already: continue it if it is the same experiment, "
    "refuse, or insist on one.",
)
BESIDE = flags.DEFINE_multi_string(
    "beside",
    [],
    "DIR: FIELD=VALUE, FIELD=VALUE. Another run, with these coefficients, trained in "
    "the same program; may repeat.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --workdir.")
CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every",
    1,
    "Epochs between checkpoints; a run that is killed loses at most so many.",
    lower_bound=1,
)
MAX_SECONDS = flags.DEFINE_float(
    "max_seconds",
    None,
    "Stop, as after SIGTERM, at the end of the epoch in which so many seconds since "
    "the start are over.",
    lower_bound=0,
)


def main(argv: list[str]) -> None:
    """Flags -> configuration -> session. Exits with 75 where it was asked to stop."""
    del argv
    if OVERWRITE.value and RESUME.value == "must":
        raise ConfigError("--overwrite: --resume=must says the opposite; drop one")
    config = cli.experiment_config()  # before JAX is imported: mistakes answer at once
    seeds = parse_seeds(SEEDS.value)
    workdir = WORKDIR.value or f"runs/{config.dataset.name}_{config.method}"
    runs = cli.runs_beside(config, str(cli.user_path(workdir)), BESIDE.value)
    with StopRequest(MAX_SECONDS.value, on_signal=_acknowledge) as stop:
        try:
            _train(runs, seeds, stop)
        except Interrupted as interrupted:
            cli.say(f"{interrupted}; continue with: {_continuation()}")
            sys.exit(REQUEUE)


def _train(
    runs: dict[str, ExperimentConfig], seeds: list[int], stop: StopRequest
) -> None:
    cli.configure_jax()
    dataset = cli.prepare_dataset(next(iter(runs.values())).dataset)
    from experiments import session

    session.train(
        runs,
        dataset,
        seeds,
        cache_dir=cli.cache_directory(),
        resume=RESUME.value,
        overwrite=OVERWRITE.value,
        checkpoint_every=CHECKPOINT_EVERY.value,
        stop=stop,
    )


def _acknowledge(name: str) -> None:
    cli.say(f"{name}: stopping as soon as nothing is lost by it (SIGINT twice: now)")


def _continuation() -> str:
    """The command that continues this run: what it replaces, it has replaced."""
    command = ["python", "-m", "experiments.train", *sys.argv[1:]]
    if OVERWRITE.value:
        command.append("--nooverwrite")
    if RESUME.value == "never":
        command.append("--resume=auto")
    return shlex.join(command)


if __name__ == "__main__":
    cli.run(main)
