"""merge_seeds.py: the run of all seeds is the one that trained them together."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest

from darlr_jax import config as config_lib
from darlr_jax.data.loading import load_dataset
from darlr_jax.presets import preset
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunDirectory, RunError, read_json
from darlr_jax.runs.pieces import Piece, read_pieces
from experiments import merge_seeds, session
from tests.experiments.sizes import SYNTHETIC, TRAINING
from tests.simulation.worlds import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
SEEDS = [0, 1, 2, 3]
PIECES = ([3, 0], [2, 1])


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "plot_curves", lambda _: None)
        yield


def configured(epochs=2):
    settings = (*SYNTHETIC, *TRAINING, "training.steps_per_epoch=80")
    overrides = config_lib.parse_overrides(settings) | {"training.epochs": epochs}
    return config_lib.replace(preset("synthetic", "mopo"), overrides)


def train(path, cache, seeds, config=None):
    config = config or configured()
    session.train(
        {str(path): config},
        load_dataset(config.dataset),
        seeds,
        cache_dir=cache,
        resume="auto",
        overwrite=False,
        checkpoint_every=1,
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `together`, the pieces and, of these, `merged`."""
    folder = tmp_path_factory.mktemp("runs")
    cache = folder / "cache"
    train(folder / "together", cache, SEEDS)
    for number, seeds in enumerate(PIECES):
        train(folder / f"piece_{number}", cache, seeds)
    merge(folder, "merged")
    return folder


def merge(folder, name, dataset=None):
    paths = [folder / f"piece_{number}" for number in range(len(PIECES))]
    dataset = dataset or load_dataset(configured().dataset)
    merge_seeds.merge(read_pieces(paths), dataset, folder / name, folder / "cache")


def states_of(path):
    """The last states of a run of SEEDS."""
    with Checkpointer(RunDirectory(path).checkpoints) as checkpoints:
        described = read_json(checkpoints.newest() / "_CHECKPOINT_METADATA")
        assert described["custom_metadata"]["score"] is not None
    return session.restore(path, cache_dir=path.parent / "cache").states


def assert_alike(path, other):
    """To rounding: programs of another number of seeds add up in another order."""
    metrics = [
        pd.read_csv(one / "metrics.csv").drop(columns="seconds")
        for one in (path, other)
    ]
    pd.testing.assert_frame_equal(*metrics, rtol=1e-3, atol=1e-4)


def test_metrics_and_states_are_those_of_the_run_together(folder):
    assert_alike(folder / "merged", folder / "together")
    states = [states_of(folder / name) for name in ("merged", "together")]
    for merged, together in zip(*map(jax.tree.leaves, states), strict=True):
        if jax.dtypes.issubdtype(merged.dtype, jax.dtypes.prng_key):
            merged, together = map(jax.random.key_data, (merged, together))
        np.testing.assert_allclose(merged, together, rtol=2e-3, atol=2e-4)


def test_python_in_the_readme_takes_a_run(folder):
    """With another folder than it names."""
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    named = 'session.restore("runs/coat_darlr", data_dir="path/to/data")'
    assert named in code
    cache = str(folder / "cache")
    ours = f'session.restore("{folder / "merged"}", cache_dir="{cache}")'
    found: dict = {}
    exec(code.replace(named, ours), found)
    config = configured()
    turns, sessions = config.environment.max_turn, config.training.environments
    assert found["transitions"].item.shape == (turns, sessions)
    assert found["metrics"]["NX_0_R_tra"].shape == ()
    assert (found["run"].states.epoch == config.training.epochs).all()


def test_python_in_the_readme_trains_without_a_run(capsys):
    """With smaller sizes than it names, and a method that compiles sooner."""
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    named = 'replace(preset("synthetic", "darlr"), {"selector.k_sel": 5})'
    assert named in code
    model = {"embedding_dim": 4, "hidden": (8,), "members": 2, "epochs": 1}
    sizes = {f"world_model.{name}": value for name, value in model.items()}
    found = {"tiny_config": config_lib.replace(tiny("mbpo"), sizes)}
    exec(code.replace(named, "tiny_config"), found)
    assert found["states"].epoch.tolist() == [3, 3]
    assert "[3 3]" in capsys.readouterr().out


def test_a_run_of_other_data_is_not_restored(folder, monkeypatch):
    other = configured().dataset
    other = dataclasses.replace(
        other, synthetic=dataclasses.replace(other.synthetic, num_users=13)
    )
    monkeypatch.setattr(session.preparation, "prepare", lambda *_: load_dataset(other))
    with pytest.raises(RunError, match="was made of other data than these"):
        session.restore(folder / "merged", cache_dir=folder / "cache")


def test_a_copy_without_checkpoints_is_not_restored(folder, tmp_path):
    for name in ("config.json", "run.json", "metrics.csv"):
        shutil.copy(folder / "merged" / name, tmp_path)
    with pytest.raises(RunError, match="has no checkpoint, as copies"):
        session.restore(tmp_path, cache_dir=folder / "cache")
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_under_way_is_left_alone(folder, tmp_path):
    path = shutil.copytree(folder / "merged", tmp_path / "run")
    config = configured()
    data = load_dataset(config.dataset).sources
    opened = {"seeds": SEEDS, "command": ["-"], "data_hashes": data}
    with (
        RunDirectory.open(path, config, **opened),
        pytest.raises(RunError, match="is being trained"),
    ):
        session.restore(path, cache_dir=folder / "cache")


def test_it_is_a_run_like_any_other(folder):
    run = RunDirectory(folder / "merged")
    record = read_json(run.run_file)
    assert run.status() == "finished" and record["seeds"] == SEEDS
    sessions = [s["seeds"] for s in record["earlier_sessions"]]
    assert sessions == [*map(list, PIECES), SEEDS]  # and the merging itself
    assert record["command"][:3] == ["python", "-m", "experiments.merge_seeds"]
    estimates = read_json(run.estimates)
    assert estimates["seeds"] == SEEDS and len(estimates["by_seed"]) == len(SEEDS)
    assert run.calibration.exists() and run.world_model.exists()


def test_the_same_command_ends_what_was_killed_behind_its_last_file(
    folder, monkeypatch
):
    """What is left to do then, the session that follows does."""
    sessions = []
    monkeypatch.setattr(merge_seeds, "_write", None)
    monkeypatch.setattr(session, "train", lambda runs, *_, **how: sessions.append(how))
    merge(folder, "merged")
    assert [how["resume"] for how in sessions] == ["must"]
    assert merge_seeds._was_merged(folder / "merged")
    assert not merge_seeds._was_merged(folder / "together")
    assert not merge_seeds._was_merged(folder)


def test_it_goes_on_as_the_run_together(folder):
    paths = [folder / name for name in ("merged", "together")]
    for path in paths:
        train(path, folder / "cache", SEEDS, configured(3))
    assert_alike(*paths)
    assert int(pd.read_csv(paths[0] / "metrics.csv")["epoch"].max()) == 3


def test_runs_that_went_on_are_not_merged_into_what_they_were(folder, monkeypatch):
    pieces = read_pieces([folder / "piece_0", folder / "piece_1"])
    dataset = load_dataset(configured().dataset)
    monkeypatch.setattr(Piece, "epochs", property(lambda _: 7))
    with pytest.raises(RunError, match=r"merged: has \d epochs, the runs 7; choose"):
        merge_seeds.merge(pieces, dataset, folder / "merged", folder / "cache")


def test_what_cannot_be_read_is_not_called_unwritable(folder, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(merge_seeds, "_joined_states", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        merge(folder, "nothing")


def test_what_a_killed_merge_has_left_goes_a_day_later(folder, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(merge_seeds, "_joined_states", refuse)
    for name, days in (("again.0", 2), ("again.1", 0), ("other.2", 2)):
        left = folder / f".{name}.tmp"
        (left / "checkpoints").mkdir(parents=True)
        os.utime(left, times=(time.time() - days * 86_400,) * 2)
    with pytest.raises(OSError, match="Input/output error"):
        merge(folder, "again")
    assert sorted(path.name for path in folder.glob(".*.tmp")) == [
        ".again.1.tmp",  # whose writer may be at work
        ".other.2.tmp",
    ]


def test_other_data_write_nothing(folder):
    other = config_lib.replace(configured(), {"dataset.synthetic.seed": 9})
    with pytest.raises(RunError, match="piece_0: was made of other data"):
        merge(folder, "nothing", load_dataset(other.dataset))
    assert not [path for path in folder.iterdir() if "nothing" in path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs=a,b"], "error: --workdir: where the run of all seeds is to be"),
        (["--workdir=w", "--runs=a"], "error: 1 run given: there is nothing to merge"),
        (["--workdir=w", "--runs=a,b"], "error: a: no run directory (it has no conf"),
        (["--workdir=w", "--epochs=3"], "error: --epochs: the runs say it themselves"),
        (["--workdir=.", "--runs=a,b"], "error: .: exists already; choose another"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.merge_seeds", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
