"""failures.py: who failed, what is kept of it, who takes the place."""

from __future__ import annotations

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.runs.arrays import load_arrays
from darlr_jax.runs.failures import (
    Failure,
    find_failures,
    keep_checkpoint,
    keep_failed_state,
    replace_seeds,
    summary,
)

METRICS = {
    "NX_0_MCD": np.array([math.nan] * 3),  # undefined without categories
    "loss": np.array([1.0, math.nan, 2.0]),
    "entropy": np.array([0.5, math.inf, -math.inf]),
}


def states():
    """Three seeds; what the second one learned is not a number."""
    weights = jnp.arange(6.0).reshape(3, 2).at[1].set(jnp.nan)
    return {
        "weights": weights,
        "half": weights.astype(jnp.bfloat16),
        "key": jax.random.split(jax.random.key(0), 3),
        "unvisited": jnp.full((3, 2), -jnp.inf),
        "none": jnp.zeros((3, 0)),
    }


def test_the_first_metric_that_is_not_finite_counts():
    assert find_failures(METRICS, [7, 8, 9], 4) == {
        1: Failure(8, 4, "loss", "nan"),
        2: Failure(9, 4, "entropy", "-inf"),
    }
    assert str(Failure(8, 4, "loss", "nan")) == "loss is nan in epoch 4, seed 8"
    assert find_failures({"loss": np.ones(3)}, [7, 8, 9], 4) == {}


def test_a_healthy_seed_takes_the_place_of_all_others():
    replaced = replace_seeds(states(), healthy=[2])
    for name, leaf in states().items():
        assert replaced[name].dtype == leaf.dtype
        data = jax.random.key_data if name == "key" else np.asarray
        for position in range(3):
            np.testing.assert_array_equal(data(replaced[name][position]), data(leaf[2]))


def test_those_who_are_healthy_stay_as_they_are():
    replaced = replace_seeds(states(), healthy=[0, 2])["weights"]
    np.testing.assert_array_equal(replaced, [[0, 1], [0, 1], [4, 5]])


def test_a_failed_state_can_be_inspected(tmp_path):
    failure = Failure(8, 4, "loss", "nan")
    path = keep_failed_state(tmp_path / "failed", states(), 1, failure)
    assert path == tmp_path / "failed" / "seed_8_epoch_4.npz"
    arrays, note = load_arrays(path)
    assert note == {
        **{"seed": 8, "epoch": 4, "term": "loss", "value": "nan"},
        "nan_in": ["['half']", "['weights']"],
    }
    with np.load(path, allow_pickle=False) as stored:  # as the docstring says
        assert np.isnan(stored["['half']"]).all()
    assert arrays["['half']"].dtype == np.float32
    assert arrays["['none']"].shape == (0,)
    np.testing.assert_array_equal(
        arrays["['key']"], jax.random.key_data(states()["key"][1])
    )


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_outlives_its_removal(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError("this file system knows no second names")

        monkeypatch.setattr(os, "link", refuse)
    step = tmp_path / "checkpoints" / "3"
    (step / "state").mkdir(parents=True)
    (step / "state" / "data").write_text("numbers")
    kept = keep_checkpoint(step, tmp_path / "failed")
    assert keep_checkpoint(step, tmp_path / "failed") == kept  # a second seed's
    (step / "state" / "data").unlink()
    assert kept == tmp_path / "failed" / "checkpoint_3"
    assert (kept / "state" / "data").read_text() == "numbers"
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint_3"]


def test_the_summary_names_each_seed():
    entry = {"seed": 8, "epoch": 4, "term": "loss", "value": "nan", "state": "x.npz"}
    assert summary([entry], 3).splitlines() == [
        "1 of 3 seeds failed; a mean over the others is no result:",
        "  seed 8: loss is nan in epoch 4; its state: x.npz",
    ]
