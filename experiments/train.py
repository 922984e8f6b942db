"""Trains a method on a data set, evaluates every epoch and reports.

    python -m experiments.train --dataset=coat --data_dir=DIR --method=darlr \
        --seeds=0,1,2 --epochs=200 --workdir=runs/coat_darlr --set=selector.k_sel=20

All seeds train side by side in one compiled program. The same command continues a run
that was interrupted; it loses at most the epochs since the last checkpoint.
"""

from __future__ import annotations

from absl import flags

from experiments import cli

SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, trained side by side.")
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
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --workdir.")
CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", 10, "Epochs between checkpoints.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Flags -> configuration -> session."""
    del argv
    config = cli.experiment_config()  # before JAX is imported: mistakes answer at once
    seeds = cli.parse_seeds(SEEDS.value)
    cli.configure_jax()
    dataset = cli.prepare_dataset(config.dataset)
    from experiments import session

    workdir = WORKDIR.value or f"runs/{config.dataset.name}_{config.method}"
    session.train(
        config,
        dataset,
        seeds,
        workdir,
        cache_dir=cli.cache_directory(),
        resume=RESUME.value,
        overwrite=OVERWRITE.value,
        checkpoint_every=CHECKPOINT_EVERY.value,
    )


if __name__ == "__main__":
    cli.run(main)
