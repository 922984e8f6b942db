"""experiments.train asked to stop, killed, or out of disk: what is kept, what is said.

In this process an invented epoch stands for the compiled one, and the signal comes in
the middle of it; in processes of their own, runs are compared bit for bit.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from orbax.checkpoint import v1 as orbax

from darlr_jax import config as config_lib
from darlr_jax.data.loading import load_dataset, world_model_hash
from darlr_jax.experiment import Experiment
from darlr_jax.presets import preset
from darlr_jax.runs import directory
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.preemption import SIGNALS, Interrupted, StopRequest
from darlr_jax.runs.world_models import WorldModelStore
from darlr_jax.runs.writers import MetricsWriter
from darlr_jax.types import AgentState, TrainState, WorldModelTables
from darlr_jax.world_model.ensemble import FitState
from experiments import diagnosis, session, training
from tests.environments import ROOT, WARNINGS
from tests.experiments.sizes import SYNTHETIC, TRAINING

SETTINGS = (*SYNTHETIC, *TRAINING)


def status_of(workdir):
    """What run.json says, and what is to be said of it."""
    said = json.loads((workdir / "run.json").read_text())["status"]
    return said, RunDirectory(workdir).status()


def epochs_in(workdir):
    return pd.read_csv(workdir / "metrics.csv")["epoch"].tolist()


def last_checkpoint(workdir):
    checkpoints = Checkpointer(workdir / "checkpoints")
    epoch = checkpoints.latest_epoch()
    checkpoints.close()
    return epoch


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


# --- an invented epoch, in this process -----------------------------------------------

TABLES = WorldModelTables(
    *(np.full(2, n) for n in range(len(WorldModelTables._fields)))
)
REPORT = [{"epoch": n, "held_out_mae": 0.5 / (n + 1)} for n in range(3)]


def invented_state():
    """A state of one seed, whose agent has two weights."""
    keys = jax.random.split(jax.random.key(0), 1)
    fields = TrainState.__dataclass_fields__
    state = {name: keys for name in fields if name.endswith("key")}
    state["recommender"] = AgentState({"weights": jnp.arange(2.0)}, ())
    return TrainState(
        selector=None,
        previous_estimates=jnp.zeros((1, 0, 0)),
        epoch=jnp.zeros(1, jnp.int32),
        env_steps=jnp.zeros(1, jnp.int32),
        **state,
    )


@pytest.fixture(scope="module")
def config():
    overrides = config_lib.parse_overrides(SETTINGS)
    overrides |= {"training.epochs": 4, "world_model.epochs": 2}
    return config_lib.replace(preset("synthetic", "mbpo"), overrides)


@pytest.fixture(scope="module")
def dataset(config):
    return load_dataset(config.dataset)


@pytest.fixture
def train(config, dataset, tmp_path, monkeypatch):
    """Trains by epochs that do nothing but count and call `during(epoch)`."""
    workdir = tmp_path / "run"
    WorldModelStore(tmp_path / "world_models").save(
        config.world_model, world_model_hash(dataset), TABLES, REPORT
    )
    experiment = Experiment(types.SimpleNamespace(config=config), None, None, None)
    state = invented_state()
    for name, value in {
        "build_experiment": experiment,
        "calibration_report": {},
        "plot_curves": None,
        "load_metrics": None,
        "run_table": pd.DataFrame(),
    }.items():
        monkeypatch.setattr(session, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(training, "init_seeds", lambda *_: state)
    monkeypatch.setattr(training, "_forecast", lambda *_: None)
    monkeypatch.setattr(diagnosis, "write_estimates", lambda *_: None)

    def start(
        during=lambda epoch: None, stop=None, every=100, compile_epoch=lambda *_: None
    ):
        def epoch(states, *tables):
            assert tables[:2] == experiment[1:3]
            states = states.replace(epoch=states.epoch + 1)
            during(int(states.epoch[0]))
            counters = {"epoch": states.epoch, "env_steps": states.env_steps}
            return states, counters | {"NX_0_R_tra": np.ones(1)}

        compiled = training.Compiled(epoch, 0.0, training.Memory(0, 0, 0, None))
        monkeypatch.setattr(
            training, "compile_epoch", lambda *a: compile_epoch(*a) or compiled
        )
        session.train(
            {str(workdir): config},
            dataset,
            [0],
            cache_dir=tmp_path,
            resume="auto",
            overwrite=False,
            checkpoint_every=every,
            stop=stop,
        )

    start.workdir = workdir
    return start


def send(number, in_epoch):
    def during(epoch):
        if epoch == in_epoch:
            os.kill(os.getpid(), number)

    return during


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_run_after_the_epoch(train, number):
    with StopRequest() as stop, pytest.raises(Interrupted) as error:
        train(send(number, in_epoch=2), stop)
    assert str(error.value) == (
        f"{number.name}: stopped after epoch 2 of 4, nothing is lost"
    )
    assert epochs_in(train.workdir) == [1, 2]
    assert last_checkpoint(train.workdir) == 2
    assert status_of(train.workdir) == ("interrupted", "interrupted")
    train()
    assert epochs_in(train.workdir) == [1, 2, 3, 4]
    assert status_of(train.workdir) == ("finished", "finished")


def test_a_signal_in_the_last_epoch_comes_too_late(train):
    with StopRequest() as stop:
        train(send(signal.SIGTERM, in_epoch=4), stop)
        assert stop.reason == "SIGTERM"
    assert last_checkpoint(train.workdir) == 4
    assert status_of(train.workdir)[0] == "finished"


def test_an_epoch_that_has_its_checkpoint_gets_no_other(train):
    with StopRequest() as stop, pytest.raises(Interrupted):
        train(send(signal.SIGTERM, in_epoch=2), stop, every=2)
    assert last_checkpoint(train.workdir) == 2


def test_time_is_up(train):
    now = [0.0]

    def a_minute(epoch):
        now[0] += 60

    stop = StopRequest(100, clock=lambda: now[0])
    with pytest.raises(Interrupted, match=r"^--max_seconds=100: stopped after epoch 2"):
        train(a_minute, stop)
    assert epochs_in(train.workdir) == [1, 2]
    stop = StopRequest(100, clock=lambda: now[0])  # each session has its own time
    train(a_minute, stop)
    assert epochs_in(train.workdir) == [1, 2, 3, 4]
    train(a_minute, StopRequest(0))  # nothing is left to be interrupted
    assert status_of(train.workdir)[0] == "finished"


def test_before_the_first_epoch(train, monkeypatch):
    with pytest.raises(Interrupted, match="stopped before epoch 1 of 4, nothing is"):
        train(stop=StopRequest(0))
    assert status_of(train.workdir)[0] == "interrupted"
    train()
    assert epochs_in(train.workdir) == [1, 2, 3, 4]


@pytest.fixture
def fitting(monkeypatch):
    """What is known of a world model as it is fitted, which takes no time.

    Its epochs, and before each of them but 0 the shares that are done.
    """
    known = []

    def fit(dataset, config, on_epoch, on_progress, *, resume, keep):
        del dataset, config
        done = 0
        if resume is not None:
            done = len(resume.report)
            assert resume.report == REPORT[:done]
            np.testing.assert_array_equal(resume.arrays["epochs"], np.arange(done))
        for number, row in enumerate(REPORT[done:], start=done):
            for share in [0.5, 1.0] if number else []:
                known.append(share)
                on_progress(share)
            known.append(row)
            if number:
                arrays = {"epochs": np.arange(number + 1)}
                keep(FitState(arrays, REPORT[: number + 1]))
            on_epoch(row)
        return types.SimpleNamespace(report=REPORT)

    monkeypatch.setattr(session, "fit_ensemble", fit)
    monkeypatch.setattr(session, "predict_tables", lambda *_: TABLES)
    return known


FIT = [REPORT[0], 0.5, 1.0, REPORT[1], 0.5, 1.0, REPORT[2]]


@pytest.mark.parametrize(("known", "kept"), [(1, 0), (2, 0), (4, 1), (5, 1)])
def test_of_a_world_model_whole_epochs_are_kept(
    train, fitting, tmp_path, capfd, known, kept
):
    """Asked before an epoch, or in the middle of it."""
    models = tmp_path / "world_models"
    shutil.rmtree(models)
    with pytest.raises(Interrupted) as error:
        train(stop=StopRequest(known, clock=lambda: len(fitting)))
    assert str(error.value) == (
        f"--max_seconds={known}: stopped before the world model was ready, of which "
        f"{kept} of 2 epochs are kept"
    )
    assert fitting == FIT[:known]
    assert [path.name[64:] for path in models.glob("*")] == [".fit.npz"] * kept
    assert status_of(train.workdir)[0] == "interrupted"
    fitting.clear()
    train()
    assert fitting == (FIT[4:] if kept else FIT)
    said = capfd.readouterr().err
    assert ("world model: continues after epoch 1/2" in said) == bool(kept)
    assert [path.name[64:] for path in models.glob("*")] == [".npz"]
    assert epochs_in(train.workdir) == [1, 2, 3, 4]


def test_a_damaged_fit_is_named_and_begins_anew(train, fitting, tmp_path, caplog):
    models = tmp_path / "world_models"
    shutil.rmtree(models)
    with pytest.raises(Interrupted):
        train(stop=StopRequest(5, clock=lambda: len(fitting)))
    (file,) = models.glob("*")
    file.write_bytes(file.read_bytes()[:-30])
    fitting.clear()
    train()
    assert fitting == FIT
    assert f"{file}: damaged, the fit begins anew (BadZipFile" in caplog.text


@pytest.mark.parametrize("known", [6, 7])
def test_time_that_is_up_after_the_last_epoch_costs_no_world_model(
    config, dataset, fitting, tmp_path, known
):
    stop = StopRequest(known, clock=lambda: len(fitting))
    store = WorldModelStore(tmp_path)
    session.world_model(dataset, config.world_model, store, stop)
    assert stop.reason is not None
    assert store.load(config.world_model, world_model_hash(dataset))[1] == REPORT


def test_time_that_is_up_while_tables_are_predicted_keeps_every_epoch(
    config, dataset, fitting, tmp_path, monkeypatch
):
    def predict(ensemble, dataset, on_progress):
        on_progress(0.5)
        return TABLES

    monkeypatch.setattr(session, "predict_tables", predict)
    stop = StopRequest(len(FIT), clock=lambda: len(fitting))
    store = WorldModelStore(tmp_path)
    with pytest.raises(Interrupted, match="of which 2 of 2 epochs are kept"):
        session.world_model(dataset, config.world_model, store, stop)
    fitting.clear()
    session.world_model(dataset, config.world_model, store, StopRequest(1))
    assert fitting == []
    assert store.load(config.world_model, world_model_hash(dataset))[1] == REPORT


def test_a_run_that_goes_on_under_another_commit_says_so(train, monkeypatch, capfd):
    commits = iter("aabb")
    monkeypatch.setattr(directory, "git_commit", lambda: next(commits) * 40)
    for epoch in (1, 2, 3):
        with StopRequest() as stop, pytest.raises(Interrupted):
            train(send(signal.SIGTERM, in_epoch=epoch), stop)
        said = capfd.readouterr().err
        assert ("computed by others" in said) == (epoch == 3)
    assert (
        f"{train.workdir}: so far it was computed by others (commit aaaaaaaaa -> "
        "bbbbbbbbb); to begin anew, --overwrite or another --workdir"
    ) in said
    train()
    assert "computed by others" not in capfd.readouterr().err


def test_a_run_that_goes_on_with_another_fit_says_so_and_keeps_the_first(
    train, config, dataset, tmp_path, capfd
):
    store = WorldModelStore(tmp_path / "world_models")
    for epoch, loss in ((1, 0.25), (2, 0.25), (3, 0.2500001)):
        report = [row | {"loss": loss} for row in REPORT]
        where = config.world_model, world_model_hash(dataset)
        store.save(*where, TABLES, report)
        with StopRequest() as stop, pytest.raises(Interrupted):
            train(send(signal.SIGTERM, in_epoch=epoch), stop)
        said = capfd.readouterr().err
        assert ("began with another fit of its world model" in said) == (epoch == 3)
    kept = json.loads((train.workdir / "world_model.json").read_text())["epochs"]
    assert {row["loss"] for row in kept} == {0.25}


def test_a_run_that_begins_anew_names_the_fit_that_it_uses(
    train, config, dataset, tmp_path, capfd
):
    """It was killed before its first checkpoint, and the world model is another now."""
    store = WorldModelStore(tmp_path / "world_models")
    where = config.world_model, world_model_hash(dataset)

    def end(epoch):
        if epoch == 3:
            raise ZeroDivisionError

    store.save(*where, TABLES, [row | {"loss": 0.25} for row in REPORT])
    with pytest.raises(ZeroDivisionError):
        train(end)
    store.save(*where, TABLES, [row | {"loss": 0.26} for row in REPORT])
    train()
    said = capfd.readouterr().err
    assert "has no checkpoint; its 2 epochs are made again" in said
    assert "another fit" not in said
    named = json.loads((train.workdir / "world_model.json").read_text())["epochs"]
    assert {row["loss"] for row in named} == {0.26}


def test_epochs_of_an_interrupted_run_are_kept_without_its_checkpoints(train):
    with StopRequest() as stop, pytest.raises(Interrupted):
        train(send(signal.SIGTERM, in_epoch=3), stop, every=1)
    shutil.rmtree(train.workdir / "checkpoints")
    with pytest.raises(RunError, match="has 3 epochs and no checkpoint to continue"):
        train()
    assert epochs_in(train.workdir) == [1, 2, 3]


def test_a_run_that_had_no_checkpoint_yet_begins_anew(train):
    """Also where the next session was asked to stop before its first epoch."""

    def end(epoch):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(end)
    with pytest.raises(Interrupted):
        train(stop=StopRequest(0))
    train()
    assert epochs_in(train.workdir) == [1, 2, 3, 4]


def out_of_memory(*_, **__):
    raise jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore"
    )


@pytest.mark.parametrize(
    "when", ["making tables", "making states", "compiling", "training"]
)
def test_memory_that_is_not_there_is_one_line(train, monkeypatch, when):
    start = train
    if when == "making tables":
        monkeypatch.setattr(session, "build_experiment", out_of_memory)
    elif when == "making states":
        monkeypatch.setattr(training, "init_seeds", out_of_memory)
    elif when == "compiling":
        start = functools.partial(train, compile_epoch=out_of_memory)
    else:
        start = functools.partial(train, out_of_memory)
    with pytest.raises(RunError, match=r"not enough memory .*; need less: ") as error:
        start()
    assert "\n" not in str(error.value)
    assert status_of(train.workdir)[0] == "failed"


@pytest.mark.parametrize("step", ["fit_ensemble", "predict_tables"])
def test_a_fit_says_what_it_can_have_less_of(train, tmp_path, monkeypatch, step):
    shutil.rmtree(tmp_path / "world_models")
    monkeypatch.setattr(session, "fit_ensemble", lambda *_, **__: None)
    monkeypatch.setattr(session, step, out_of_memory)
    less = r"need less: a smaller world_model\.batch_size, .*JAX_PLATFORMS=cpu"
    with pytest.raises(RunError, match=less):
        train()


def test_estimates_that_do_not_fit_into_memory_fail_no_run(train, monkeypatch, capfd):
    monkeypatch.setattr(diagnosis, "write_estimates", out_of_memory)
    train()
    said = capfd.readouterr().err
    assert f"warning: {train.workdir}: no estimates.json, which reports alone" in said
    assert epochs_in(train.workdir) == [1, 2, 3, 4]
    assert status_of(train.workdir)[0] == "finished"


def test_a_restored_run_that_does_not_fit_into_memory_is_one_line(
    train, dataset, tmp_path, monkeypatch
):
    train()
    monkeypatch.setattr(session, "init_seeds", out_of_memory)
    monkeypatch.setattr(session.preparation, "prepare", lambda *_: dataset)
    with pytest.raises(RunError, match="not enough memory"):
        session.restore(train.workdir, cache_dir=tmp_path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(train, capfd, caplog):
    train(every=1)
    checkpoints = train.workdir / "checkpoints"
    manifest = checkpoints / "4" / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:20])
    capfd.readouterr()
    kept = []
    train(lambda epoch: kept.append((epoch, epochs_in(train.workdir))), every=1)
    assert f"{checkpoints / '4'}: damaged checkpoint" in caplog.text
    assert f"{train.workdir}: continues after epoch 3\n" in capfd.readouterr().err
    assert kept == [(4, [1, 2, 3])]
    assert epochs_in(train.workdir) == [1, 2, 3, 4]
    assert (checkpoints / "damaged_4").is_dir()
    assert last_checkpoint(train.workdir) == 4
    assert status_of(train.workdir)[0] == "finished"


def test_a_checkpoint_whose_rows_are_lost_is_named_and_the_one_before_is_used(
    train, caplog
):
    train(every=1)
    for name in ("metrics.csv", "metrics.jsonl"):
        file = train.workdir / name
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    train(every=1)
    assert "4: damaged checkpoint (metrics.csv ends at epoch 3)" in caplog.text
    assert epochs_in(train.workdir) == [1, 2, 3, 4]
    assert last_checkpoint(train.workdir) == 4
    for name in ("metrics.csv", "metrics.jsonl"):
        (train.workdir / name).write_text("")
    with pytest.raises(RunError, match=r"ends at epoch 0 .* is of epoch 4"):
        train()


def refuse(code):
    def write(*_, **__):
        raise OSError(code, os.strerror(code))

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("owner", "method", "file"),
    [
        (orbax.training.Checkpointer, "save_async", "checkpoints"),
        (MetricsWriter, "write", "metrics.csv"),
        (os, "replace", "run.json"),
    ],
)
def test_a_disk_that_takes_no_more(train, monkeypatch, owner, method, file, code):
    """From epoch 3 on; also what is noted of the failure cannot be written then."""
    with monkeypatch.context() as patch:

        def fill(epoch):
            if epoch == 3:
                patch.setattr(owner, method, refuse(code))
                patch.setattr(os, "replace", refuse(code))

        with pytest.raises(RunError) as error:
            train(fill, every=1)
    assert str(error.value) == (
        f"{train.workdir / file}: cannot be written to ({os.strerror(code)}); mend "
        "that and run the same command again, the last checkpoint is intact"
    )
    assert last_checkpoint(train.workdir) == (3 if file == "run.json" else 2)
    assert status_of(train.workdir) == ("running", "killed")
    train()
    assert epochs_in(train.workdir) == [1, 2, 3, 4]


def test_a_run_that_will_not_fit_does_not_begin(train, monkeypatch):
    usage = shutil._ntuple_diskusage(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        RunError, match=r"1\.0 MiB free, .* \(4 checkpoints of .*, 4 ro"
    ):
        train()
    assert not (train.workdir / "metrics.csv").read_text()
    assert status_of(train.workdir)[0] == "failed"


def test_checkpoints_that_are_there_need_no_more_space(train, monkeypatch):
    asked = []
    monkeypatch.setattr(
        training, "require_space", lambda *_, **sizes: asked.append(sizes)
    )
    with StopRequest() as stop, pytest.raises(Interrupted):
        train(send(signal.SIGTERM, in_epoch=3), stop, every=1)
    train()
    assert asked == [{"checkpoints": 4, "rows": 4}, {"checkpoints": 1, "rows": 1}]


# --- processes ------------------------------------------------------------------------

EPOCHS = 10


class Process:
    """`python -m experiments.train` under way."""

    def __init__(self, cache, workdir, *arguments, shell=()):
        self.command = [
            *(f"--set={setting}" for setting in SETTINGS),
            # An epoch of a few tenths of a second, which a signal can hit.
            *("--method=mbpo", "--set=training.steps_per_epoch=40000"),
            "--set=evaluation.all_users=false",
            *(f"--epochs={EPOCHS}", "--checkpoint_every=4"),
            *(f"--cache_dir={cache}", f"--workdir={workdir}", *arguments),
        ]
        self._popen = subprocess.Popen(
            [
                *(*shell, sys.executable, *WARNINGS),
                *("-m", "experiments.train", *self.command),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []

    def wait_for(self, words):
        """Returns when it has said so."""
        for line in self._popen.stderr:
            self.said.append(line)
            if words in line:
                return self
        raise AssertionError("".join(self.said))

    def in_an_epoch(self):
        """Returns when an epoch is over, and the next one under way."""
        return self.wait_for(" steps/s ")

    def signal(self, number):
        self._popen.send_signal(number)
        return self

    def end(self):
        """The exit code; what it said is in `said` then."""
        try:
            _, rest = self._popen.communicate(timeout=300)
        finally:
            self._popen.kill()
        self.said += rest.splitlines(keepends=True)
        assert not any("Traceback" in line for line in self.said), "".join(self.said)
        return self._popen.returncode


@pytest.fixture(scope="module")
def uninterrupted(cache, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    process = Process(cache, workdir)
    assert process.end() == 0, "".join(process.said)
    return workdir


def assert_same_run(workdir, other):
    """Metrics, the time apart, and checkpoints, to the last bit."""
    first, second = (
        pd.read_csv(path / "metrics.csv", dtype=str).drop(columns="seconds")
        for path in (workdir, other)
    )
    pd.testing.assert_frame_equal(first, second)
    assert first["epoch"].tolist() == [str(n) for n in range(1, EPOCHS + 1)]
    assert _digests(workdir) == _digests(other)


def _digests(workdir):
    """What the checkpoint of the last epoch says of every array."""
    checkpoints = Checkpointer(workdir / "checkpoints")
    leaves = checkpoints._orbax.metadata(EPOCHS).custom_metadata["leaves"]
    checkpoints.close()
    assert len(leaves) > 15
    return leaves


def test_a_run_stopped_by_sigterm_equals_one_that_was_not(
    uninterrupted, cache, tmp_path
):
    workdir = tmp_path / "run"
    process = Process(cache, workdir).in_an_epoch().signal(signal.SIGTERM)
    assert process.end() == 75
    assert 1 <= last_checkpoint(workdir) < EPOCHS
    assert last_checkpoint(workdir) == epochs_in(workdir)[-1]
    assert status_of(workdir)[0] == "interrupted"
    said, last = process.said[-3:], process.said[-1]
    assert any(line.startswith("SIGTERM: stopping as soon as") for line in said)
    assert last.startswith("SIGTERM: stopped after epoch ")
    continuation = shlex.split(last.partition("continue with: ")[2])
    assert continuation == ["python", "-m", "experiments.train", *process.command]
    assert Process(cache, workdir).end() == 0
    assert_same_run(workdir, uninterrupted)


def test_what_was_overwritten_is_not_overwritten_again(uninterrupted, cache, tmp_path):
    process = Process(cache, tmp_path / "run", "--max_seconds=0", "--overwrite")
    assert process.end() == 75
    assert process.said[-1].startswith("--max_seconds=0: stopped before epoch 1 of 10")
    assert process.said[-1].endswith(" --overwrite --nooverwrite\n")


@pytest.mark.slow
def test_a_run_stopped_and_killed_in_every_way_equals_one_that_was_not(
    uninterrupted, cache, tmp_path
):
    workdir = tmp_path / "run"
    # As shells start a background job: with SIGINT ignored.
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    process = Process(cache, workdir, shell=shell).in_an_epoch()
    assert process.signal(signal.SIGINT).end() == 75
    stopped = last_checkpoint(workdir)
    assert status_of(workdir) == ("interrupted", "interrupted")

    process = Process(cache, workdir).in_an_epoch()
    assert status_of(workdir) == ("running", "running")
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    assert status_of(workdir) == ("running", "killed")
    assert last_checkpoint(workdir) >= stopped

    process = Process(cache, workdir).in_an_epoch().signal(signal.SIGUSR1)
    assert process.end() == 75
    assert Process(cache, workdir).end() == 0
    assert_same_run(workdir, uninterrupted)
    record = json.loads((workdir / "run.json").read_text())
    assert [earlier["status"] for earlier in record["earlier_sessions"]] == [
        *("interrupted", "killed", "interrupted")
    ]


@pytest.mark.slow
def test_a_second_interrupt_ends_a_run_at_once(cache, tmp_path):
    """In an epoch of minutes: it is not over before the second one comes."""
    long = "--set=training.steps_per_epoch=100000000"
    process = Process(cache, tmp_path / "run", long)
    process.wait_for("an epoch is expected to take")
    time.sleep(2)  # until it is under way: asked before it, a run ends in order
    process.signal(signal.SIGINT).wait_for("SIGINT: stopping")
    assert process.signal(signal.SIGINT).end() == 130
    assert status_of(tmp_path / "run") == ("running", "killed")
