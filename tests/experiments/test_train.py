"""experiments.train: what a run leaves behind, how it continues, how it refuses."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax import config as config_lib
from darlr_jax.data import coat
from darlr_jax.data.loading import load_dataset
from darlr_jax.presets import preset
from darlr_jax.runs.arrays import load_arrays
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunError
from experiments import cli, session, training
from experiments import train as program
from tests.environments import ROOT, WARNINGS
from tests.experiments.sizes import REFERENCES, SYNTHETIC, TRAINING

EPOCHS, SEEDS = 4, [0, 1]
SETTINGS = (*SYNTHETIC, *TRAINING, *REFERENCES)


class Done(NamedTuple):
    """A finished process."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Done:
    """`python -m experiments.train` with these arguments alone."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-m", "experiments.train", *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def call(*arguments: str) -> Done:
    """The same in this process, which spares imports, where it is to be refused."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        pytest.raises(cli._user_errors()) as error,
    ):
        patch.setattr(cli, "configure_jax", lambda: None)
        flags.FLAGS(["train", *arguments])
        program.main([])
    return Done(1, out.getvalue(), f"{err.getvalue()}{cli._in_one_line(error.value)}")


def tiny(cache: pathlib.Path, *arguments: str) -> list[str]:
    """Arguments of a run of seconds; later ones win."""
    settings = [f"--set={setting}" for setting in SETTINGS]
    return [*settings, f"--cache_dir={cache}", "--epochs=1", *arguments]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """One run of two seeds and four epochs: its arguments, what it said, its files."""
    workdir = tmp_path_factory.mktemp("runs") / "deep" / "run"
    arguments = tiny(
        cache,
        f"--epochs={EPOCHS}",
        "--seeds=0,1",
        "--checkpoint_every=2",
        f"--workdir={workdir}",
    )
    return arguments, run(*arguments), workdir


def metrics_of(workdir: pathlib.Path) -> pd.DataFrame:
    return pd.read_csv(workdir / "metrics.csv")


def read_json(path: pathlib.Path):
    return json.loads(path.read_text())


# --- a run ----------------------------------------------------------------------------

MODES = ("FB", "NX_0", "NX_10")
PUBLISHED = ("R_tra", "len_tra", "R_each", "CV", "CV_turn", "MCD")
OTHERS = ("Diversity", "Novelty", "Gini", "CV_light", "CV_medium", "CV_heavy")


def test_a_run_ends_with_a_table(finished):
    _, done, workdir = finished
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "Warning" not in done.err
    for word in ("R_tra", "MCD", "| FB", "| NX_0", "| NX_10", "2 seed(s), 4 epochs"):
        assert word in done.out
    assert str(workdir) in done.out
    score = metrics_of(workdir).groupby("seed")["NX_0_R_tra"].mean().mean()
    row = next(line for line in done.out.splitlines() if line.startswith("| NX_0 "))
    assert float(row.split("|")[2]) == pytest.approx(score, abs=0.006)
    for line in ("world model: epoch 1/1", "compiled in", "4/4", "steps/s", "ETA"):
        assert line in done.err


def test_a_run_leaves_its_files(finished):
    _, _, workdir = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        ".lock", "calibration.json", "checkpoints", "config.json", "curves.png",
        "estimates.json", "metrics.csv", "metrics.jsonl", "run.json",
        "world_model.json",
    }  # fmt: skip
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = config_lib.from_dict(read_json(workdir / "config.json"))
    changes = config_lib.parse_overrides(SETTINGS) | {"training.epochs": EPOCHS}
    assert config == config_lib.replace(preset("synthetic", "darlr"), changes)
    record = read_json(workdir / "run.json")
    assert record["status"] == "finished"
    assert record["seeds"] == SEEDS
    assert "--seeds=0,1" in record["command"]
    assert record["compile_seconds"] > 0
    assert record["run_seconds"] > 0
    assert {"jax", "python", "darlr_jax"} <= set(record["versions"])
    assert record["device"]["platform"] == "cpu"
    assert len(record["data"]["synthetic"]) == 64
    report = read_json(workdir / "world_model.json")["epochs"]
    assert [row["epoch"] for row in report] == [0, 1]
    assert {"held_out_mae", "held_out_mse", "held_out_ndcg_at_10"} <= set(report[1])
    calibration = read_json(workdir / "calibration.json")
    assert calibration["true_matrix"]["cells"] == 120
    assert calibration["held_out"]["fit"]["mae"] == pytest.approx(
        report[1]["held_out_mae"], rel=1e-4
    )
    estimates = read_json(workdir / "estimates.json")
    assert (estimates["epoch"], estimates["seeds"]) == (EPOCHS, SEEDS)
    for part in ("recommended", "other"):
        assert estimates[part]["cells"] > 20
        assert set(estimates[part]["overall"]) == {
            "own estimate", "nearest users (ROLeR)", "mean of all users",
            "selected users",
        }  # fmt: skip


def test_metrics_hold_what_was_asked_for(finished):
    metrics = metrics_of(finished[2])
    columns = metrics.columns.tolist()
    expected = ["seed", "epoch", "env_steps", "seconds"]
    expected += [f"{mode}_{metric}" for mode in MODES for metric in PUBLISHED]
    expected += [f"{mode}_all_users_R_tra" for mode in MODES]
    assert columns[: len(expected)] == expected
    assert {f"{mode}_{name}" for mode in MODES for name in OTHERS} <= set(columns)
    losses = {
        f"{agent}_{term}_loss"
        for agent in ("recommender", "selector")
        for term in ("total", "policy", "value")
    }
    others = {
        "shaped_reward", "penalty", "similarity", "diversity", "inflation",
        "effective_users_picked", "knn_overlap", "recommender_entropy",
        "selector_entropy", "uncertainty_first", "uncertainty_repeat",
    }  # fmt: skip
    assert losses | others <= set(columns)
    rows = [(seed, epoch) for epoch in range(1, EPOCHS + 1) for seed in SEEDS]
    assert list(metrics[["seed", "epoch"]].itertuples(index=False, name=None)) == rows
    assert np.isfinite(metrics.to_numpy()).all()
    steps = metrics.pivot(index="epoch", columns="seed", values="env_steps")
    assert (steps.diff().iloc[1:] >= 80).all(axis=None)
    with open(finished[2] / "metrics.csv", newline="") as stream:
        cells = list(csv.reader(stream))[1:]
    lines = (finished[2] / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [list(row) for row in rows] == [columns] * len(cells)
    assert [list(map(float, row)) for row in cells] == [list(r.values()) for r in rows]


def test_the_same_command_again_changes_nothing(finished):
    arguments, first, workdir = finished
    kept = (
        *("metrics.csv", "metrics.jsonl", "config.json", "world_model.json"),
        *("calibration.json", "estimates.json"),
    )
    before = {name: (workdir / name).read_bytes() for name in kept}
    stored = sorted((workdir / "checkpoints").rglob("*"))
    again = run(*arguments)
    assert again.code == 0, again.err
    assert again.out == first.out
    assert f"continues after epoch {EPOCHS}" in again.err
    assert "world model: reused" in again.err
    assert {name: (workdir / name).read_bytes() for name in kept} == before
    assert sorted((workdir / "checkpoints").rglob("*")) == stored
    record = read_json(workdir / "run.json")
    assert record["status"] == "finished"
    assert len(record["earlier_sessions"]) >= 1


# --- continuing, in this process ------------------------------------------------------


def train(cache, workdir, epochs, **changes):
    """The session of `finished`, for `epochs`."""
    overrides = config_lib.parse_overrides(SETTINGS) | {"training.epochs": epochs}
    config = config_lib.replace(preset("synthetic", "darlr"), overrides | changes)
    session.train(
        {str(workdir): config},
        load_dataset(config.dataset),
        SEEDS,
        cache_dir=cache,
        resume="auto",
        overwrite=False,
        checkpoint_every=2,
    )


def assert_same_run(workdir, other):
    """Metrics to the last bit, the time apart, and the digests of the checkpoints."""
    first, second = (
        pd.read_csv(path / "metrics.csv", dtype=str).drop(columns="seconds")
        for path in (workdir, other)
    )
    pd.testing.assert_frame_equal(first, second)
    assert _digests(workdir) == _digests(other)


def _digests(workdir):
    """What the checkpoint of the last epoch says of every array."""
    checkpoints = Checkpointer(workdir / "checkpoints")
    assert checkpoints.latest_epoch() == EPOCHS
    leaves = checkpoints._orbax.metadata(EPOCHS).custom_metadata["leaves"]
    checkpoints.close()
    assert len(leaves) > 20
    return leaves


def test_epochs_whose_checkpoints_were_taken_away_are_kept(finished, cache, tmp_path):
    """As of the committed results, or where somebody has made room."""
    ignored = shutil.ignore_patterns("checkpoints", ".lock")
    workdir = shutil.copytree(finished[2], tmp_path / "run", ignore=ignored)
    files = [path for path in workdir.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    for epochs in (EPOCHS, EPOCHS + 1):
        with pytest.raises(RunError, match=f"has {EPOCHS} epochs and no checkpoint"):
            train(cache, workdir, epochs)
        assert {path: path.read_bytes() for path in files} == before


@pytest.fixture
def spoil(monkeypatch):
    """Makes some seeds fail in an epoch: a metric, and what was learned, is nan."""
    compiled = training.compile_epoch

    def start(epoch, positions):
        def compile_spoilt(experiment, states):
            made = compiled(experiment, states)

            def run_epoch(states, *tables):
                states, metrics = made.run_epoch(states, *tables)
                if metrics["epoch"][0] == epoch:
                    states, loss = jax.tree.map(
                        lambda leaf: (
                            leaf.at[positions].set(math.nan)
                            if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
                            else leaf
                        ),
                        (states, metrics["selector_total_loss"]),
                    )
                    metrics = metrics | {"selector_total_loss": loss}
                return states, metrics

            return made._replace(run_epoch=run_epoch)

        monkeypatch.setattr(training, "compile_epoch", compile_spoilt)

    monkeypatch.setattr(session, "plot_curves", lambda _: None)
    yield start


def test_a_run_that_failed_and_goes_on_equals_one_that_did_not(
    finished, cache, tmp_path, spoil, monkeypatch
):
    """Both seeds fail in epoch 4.

    The last checkpoint is that of epoch 2, so that epoch 3 is learned anew.
    """
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil(4, np.array([0, 1]))
        with pytest.raises(FloatingPointError) as error:
            train(cache, workdir, EPOCHS)
        patch.undo()
    assert str(error.value) == (
        "selector_total_loss is nan in epoch 4, seed 0, and no seed is left; the last "
        f"checkpoint is intact, the states are in {workdir}/failed. Lower "
        "recommender.learning_rate, selector.learning_rate or reward.lambda_u"
    )
    assert metrics_of(workdir)["epoch"].max() == 3
    record = read_json(workdir / "run.json")
    assert record["status"] == "failed"
    assert [entry["seed"] for entry in record["failed_seeds"]] == [0, 1]
    monkeypatch.undo()
    train(cache, workdir, EPOCHS)
    assert_same_run(workdir, finished[2])
    assert read_json(workdir / "run.json")["failed_seeds"] == []


def test_a_seed_that_fails_alone_is_marked_and_the_others_go_on(
    finished, cache, tmp_path, spoil, capsys, monkeypatch
):
    """It fails in epoch 3; the run is stopped after that epoch, and goes on."""
    workdir = tmp_path / "run"
    spoil(3, np.array([1]))
    train(cache, workdir, 3)
    monkeypatch.undo()
    train(cache, workdir, EPOCHS)
    whole = pd.read_csv(finished[2] / "metrics.csv", dtype=str)
    expected = whole[(whole["seed"] == "0") | whole["epoch"].isin(["1", "2"])]
    pd.testing.assert_frame_equal(
        pd.read_csv(workdir / "metrics.csv", dtype=str).drop(columns="seconds"),
        expected.drop(columns="seconds").reset_index(drop=True),
    )
    record = read_json(workdir / "run.json")
    assert record["status"] == "finished"
    assert record["failed_seeds"] == [
        {
            "seed": 1, "epoch": 3, "term": "selector_total_loss", "value": "nan",
            "state": "failed/seed_1_epoch_3.npz", "before": "failed/checkpoint_2",
        }
    ]  # fmt: skip
    arrays, note = load_arrays(workdir / "failed" / "seed_1_epoch_3.npz")
    assert note["seed"] == 1
    assert ".recommender.params.tracker['item_vectors']" in note["nan_in"]
    assert ".previous_estimates" in note["nan_in"]
    assert arrays[".epoch"] == 3
    with Checkpointer(workdir / "failed") as checkpoints:
        assert checkpoints.latest_epoch() is None  # it has another name there
    said = capsys.readouterr()
    assert "failed: selector_total_loss is nan in epoch 3, seed 1; lower" in said.err
    assert "1 of 2 seeds failed; a mean over the others is no result:" in said.out
    assert "| NX_0" not in said.out


# --- refusals -------------------------------------------------------------------------


def assert_one_line(done, message):
    """One line on standard error says what is wrong; nothing looks like a result."""
    assert done.code == 1
    assert done.out == ""
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert done.err.splitlines()[-1] == errors[0]
    assert message in errors[0]


def assert_nothing_written(workdir):
    """At most the lock, so that the mended command can start there."""
    assert not workdir.exists() or [p.name for p in workdir.iterdir()] in (
        [],
        [".lock"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dataset=koat", "--dataset=koat: no such data set; did you mean 'coat'?"),
        ("--method=dalr", "--method=dalr: no such method; did you mean 'darlr'?"),
        ("--set=selector.k_sell=3", "did you mean 'selector.k_sel'?"),
        ("--set=selector.k_sel=3.5", "selector.k_sel=3.5: expected a whole number"),
        ("--set=selector.k_sel=0", "selector.k_sel=0: must be within"),
        ("--set=recommender.discount=1e999", "must be within [0, 1]"),
        ("--set=tracker.kind=averge", "did you mean 'average'?"),
        ("--set=k_sel", "expected FIELD=VALUE"),
        ("--set=method=mbpo", "use --method"),
        ("--set=dataset.name=coat", "use --dataset"),
        ("--set=reward.references=none", "need learned, random, nearest or self"),
        ("--seeds=0,x", "--seeds: 'x' is no whole number"),
        ("--seeds=0,-1", "--seeds: '-1' is no whole number"),
        ("--seeds=0,4294967296", "no whole number below 2**32"),
        ("--seeds=" + "9" * 5000, "no whole number below 2**32"),
        ("--seeds=1,1", "expected distinct numbers"),
        ("--seeds=", "expected distinct numbers"),
        ("stray", "unexpected argument 'stray'"),
        ("--epochs=3 --set=training.epochs=4", "--epochs=3 says something else"),
        ("--twin --set=dataset.twin=false", "--twin=True says something else"),
        ("--dataset=coat --twin_scale=0.1", "official files have one size; add --twin"),
        ("--dataset=coat --twin --data_dir=files", "a twin has no official files"),
        ("--dataset=csv --data_dir=files", "--dataset=csv has no official files"),
        ("--overwrite --resume=must", "--resume=must says the opposite; drop one"),
    ],
    ids=lambda value: value[:30],
)
def test_a_mistake_in_the_command_is_one_line(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    done = run(*arguments.split(" "), f"--workdir={workdir}")
    assert_one_line(done, message)
    assert done.err.count("\n") == 1  # and it came before anything was loaded
    assert_nothing_written(workdir)


@pytest.mark.parametrize(
    "argument",
    ["--epochs=0", "--epochs=many", "--resume=perhaps", "--nosuch=1"],
)
def test_a_flag_that_cannot_be_parsed_is_named(tmp_path, argument):
    done = run(argument, f"--workdir={tmp_path / 'run'}")
    assert done.code == 1
    assert done.out == ""
    assert "Traceback" not in done.err
    assert argument.partition("=")[0].strip("-") in done.err.splitlines()[0]
    assert not (tmp_path / "run").exists()


def broken_coat(folder: pathlib.Path) -> pathlib.Path:
    """Files like Coat's in name and shape, with a word in line 7 of each."""
    rows = [" ".join(["0"] * 300)] * 290
    rows[6] = rows[6].replace("0", "zero", 1)
    for name in (coat.TRAIN, coat.TEST, coat.TRUTH):
        (folder / "coat").mkdir(parents=True, exist_ok=True)
        (folder / "coat" / name).write_text("\n".join(rows) + "\n")
    for name in (coat.USER_FEATURES, coat.ITEM_FEATURES):
        (folder / "coat" / name).parent.mkdir(exist_ok=True)
        (folder / "coat" / name).write_text("")
    return folder


def test_data_that_cannot_be_read_are_one_line(tmp_path):
    workdir = tmp_path / "run"
    command = ["--dataset=coat", "--method=mbpo", f"--workdir={workdir}"]
    missing = run(*command, f"--data_dir={tmp_path}")
    assert_one_line(
        missing, f"{tmp_path}/coat/train.ascii: no such file; it comes from"
    )
    broken = run(*command, f"--data_dir={broken_coat(tmp_path / 'broken')}")
    assert_one_line(broken, f"{tmp_path}/broken/coat/train.ascii: line 7")
    assert_nothing_written(workdir)


@pytest.mark.parametrize(
    ("start", "arguments", "message"),
    [
        (run, ["--set=selector.k_sel=12"], "must be below the number of users (12)"),
        (call, ["--method=roler", "--set=reward.neighbours=13"],
         "reward.neighbours=13: there are 12 users"),
        (call, ["--set=dataset.synthetic.num_clusters=13"],
         "num_clusters=13: must not"),
        (call, ["--method=roler", "--set=tracker.kind=transformer",
                "--set=tracker.heads=5"], "tracker.heads=5"),
        (call, ["--resume=must"], "no run to resume"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused_before_a_run_begins(
    cache, tmp_path, start, arguments, message
):
    workdir = tmp_path / "run"
    done = start(*tiny(cache, f"--workdir={workdir}", *arguments))
    assert_one_line(done, message)
    assert_nothing_written(workdir)


@pytest.mark.parametrize(("start", "flag"), [(call, "--workdir"), (run, "--cache_dir")])
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, cache, start, flag):
    (tmp_path / "file").write_text("")
    below, workdir = tmp_path / "file" / "below", tmp_path / "run"
    done = start(*tiny(cache, f"--workdir={workdir}", f"{flag}={below}"))
    assert_one_line(done, str(below))
    assert_nothing_written(workdir)


@pytest.mark.parametrize(
    ("start", "argument", "message"),
    [
        (run, "--set=selector.k_sel=2", "another experiment (selector.k_sel: 3 -> 2)"),
        (call, "--seeds=0,2", "holds another experiment (seeds: [0, 1] -> [0, 2])"),
        (call, "--resume=never", "holds a run already"),
        (call, "--epochs=1", "has 4 epochs already; --epochs is fewer"),
    ],
)
def test_another_command_leaves_a_finished_run_as_it_is(
    finished, start, argument, message
):
    command, _, workdir = finished
    names = ("config.json", "metrics.csv", "run.json", "world_model.json")
    before = {name: (workdir / name).read_bytes() for name in names}
    try:
        assert_one_line(start(*command, argument), message)
        assert {name: (workdir / name).read_bytes() for name in names} == before
    finally:
        for name, content in before.items():  # the other tests share this run
            (workdir / name).write_bytes(content)


def test_a_loss_that_is_really_not_finite_is_one_line(cache, tmp_path):
    """Twelve layers at a learning rate of 10 overflow within one epoch."""
    workdir = tmp_path / "run"
    layers = f"--set=recommender.hidden={(64,) * 12}"
    rate = "--set=recommender.learning_rate=10"
    arguments = tiny(cache, "--method=mbpo", layers, rate, f"--workdir={workdir}")
    done = run(*arguments)
    assert_one_line(done, "nan in epoch 1, seed 0")
    assert "learning_rate" in done.err.splitlines()[-1]
    assert read_json(workdir / "run.json")["status"] == "failed"
    assert (workdir / "metrics.csv").read_text() == ""
