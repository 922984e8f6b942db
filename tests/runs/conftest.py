"""A run directory with invented metrics."""

from __future__ import annotations

import math

import pytest

from darlr_jax.config import ExperimentConfig, replace
from darlr_jax.runs.directory import RunDirectory
from darlr_jax.runs.writers import MetricsWriter

CONFIG = ExperimentConfig()


def open_run(path, config=CONFIG, **changes):
    """`RunDirectory.open` with arguments that matter to no test but its own."""
    arguments = {"seeds": [0, 1], "command": ["train"], "data_hashes": {"log": "abc"}}
    return RunDirectory.open(path, config, **arguments | changes)


def metrics_row(seed, epoch):
    """Round numbers: NX_0 R_tra is 10 * epoch + seed."""
    row = {"seed": seed, "epoch": epoch, "env_steps": 100 * epoch, "seconds": 0.5}
    for mode, score in (("FB", 1.0), ("NX_0", 10.0 * epoch + seed), ("NX_10", 5.0)):
        row |= {f"{mode}_R_tra": score, f"{mode}_len_tra": 4.0, f"{mode}_MCD": math.nan}
        row |= {f"{mode}_all_users_R_tra": score + 0.25}
    return row | {"recommender_policy_loss": -0.1, "recommender_entropy": 2.0}


@pytest.fixture
def write_run(tmp_path):
    """Writes a finished run of `epochs` epochs and returns its directory."""

    def write(name="run", seeds=(0, 1), epochs=8, method="darlr"):
        settings = {"method": method, "dataset.name": "coat"}
        settings["training.epochs"] = epochs
        settings["environment.exit_rule"] = "none"  # as the preset has it
        config = replace(CONFIG, settings)
        with open_run(tmp_path / name, config, seeds=seeds) as run:
            writer = MetricsWriter(run)
            for epoch in range(1, epochs + 1):
                writer.write([metrics_row(seed, epoch) for seed in seeds])
        return run.path

    return write
