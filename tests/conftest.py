"""What all tests share: strict JAX, a shared compilation cache, tiny configurations."""

from __future__ import annotations

import os
import pathlib

import hypothesis
import jax
import pytest

from darlr_jax import config as config_lib

# Two shapes that broadcast in silence are an error, in tests as in programs.
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    # JAX reads the directory by itself, but keeps only what took a second to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# The same examples in each run, and no deadline: the first example compiles.
hypothesis.settings.register_profile(
    "darlr_jax", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("darlr_jax")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Where the official files lie; tests that need them are marked `data`."""
    if "DARLR_DATA_DIR" not in os.environ:
        pytest.skip("DARLR_DATA_DIR is not set: the official files are not at hand")
    return pathlib.Path(os.environ["DARLR_DATA_DIR"])


@pytest.fixture(scope="session")
def tiny_config() -> config_lib.ExperimentConfig:
    """An experiment of a second or two on the synthetic data set."""
    return config_lib.replace(
        config_lib.ExperimentConfig(),
        {
            "dataset.synthetic.num_users": 20,
            "dataset.synthetic.num_items": 24,
            "dataset.synthetic.num_tags": 4,
            "dataset.synthetic.num_clusters": 3,
            "dataset.synthetic.log_density": 0.3,
            "world_model.embedding_dim": 4,
            "world_model.hidden": (8,),
            "world_model.members": 2,
            "world_model.epochs": 1,
            "world_model.batch_size": 32,
            "environment.max_turn": 5,
            "recommender.hidden": (8,),
            "selector.k_sel": 3,
            "selector.width": 8,
            "reward.neighbours": 3,
            "training.epochs": 2,
            "training.environments": 4,
            "training.steps_per_epoch": 40,
            "training.batch_size": 16,
            "evaluation.episodes": 4,
        },
    )
