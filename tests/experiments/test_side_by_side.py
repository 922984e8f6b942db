"""Runs of other coefficients in one program: each leaves what it would alone."""

from __future__ import annotations

import errno
import math
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError
from darlr_jax.data.loading import load_dataset
from darlr_jax.experiment import (
    init_seeds,
    make_run_epoch,
    run_epoch,
    stack_coefficients,
)
from darlr_jax.presets import preset
from darlr_jax.runs.directory import RunError, load_config, read_json
from darlr_jax.runs.writers import MetricsWriter
from darlr_jax.training.program import coefficients_of
from experiments import cli, session, training
from tests.experiments.sizes import SYNTHETIC, TRAINING
from tests.simulation.worlds import assemble
from tests.simulation.worlds import tiny as tiny_config

SEEDS = [3, 0]
SETTINGS = (*SYNTHETIC, *TRAINING, "training.steps_per_epoch=80")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(session, "plot_curves", lambda _: None)


def configured(epochs, lambda_u, method="mopo"):
    overrides = config_lib.parse_overrides(SETTINGS)
    overrides |= {"training.epochs": epochs, "reward.lambda_u": lambda_u}
    return config_lib.replace(preset("synthetic", method), overrides)


def train(cache, runs, every=1, overwrite=False):
    """Trains `runs`, directory -> configuration, in this process."""
    dataset = load_dataset(next(iter(runs.values())).dataset)
    session.train(
        {str(path): config for path, config in runs.items()},
        dataset,
        SEEDS,
        cache_dir=cache,
        resume="auto",
        overwrite=overwrite,
        checkpoint_every=every,
    )


def assert_alike(path, other):
    """Metrics of two runs, the time apart, to rounding."""
    first, second = (
        pd.read_csv(folder / "metrics.csv").drop(columns="seconds")
        for folder in (path, other)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-4, atol=1e-5)


def test_each_run_leaves_what_it_leaves_alone(cache, tmp_path, capsys):
    careless, careful = configured(2, 0.0), configured(2, 0.7)
    together = {tmp_path / "careless": careless, tmp_path / "careful": careful}
    train(cache, together)
    assert "mopo, 2 runs, 4 seed(s)" in capsys.readouterr().err
    for path, config in together.items():
        assert load_config(path) == config
        record = read_json(path / "run.json")
        assert record["status"] == "finished"
        assert record["side_by_side"] == 2
        train(cache, {path.with_name(f"{path.name}_alone"): config})
        assert_alike(path, path.with_name(f"{path.name}_alone"))
    first, second = (
        pd.read_csv(path / "metrics.csv")["shaped_reward"] for path in together
    )
    assert not np.allclose(first, second, rtol=1e-3)


def test_a_run_that_lags_catches_up_and_they_go_on_together(cache, tmp_path, capsys):
    """As after a kill between two checkpoints, or with one that was begun alone."""
    ahead, behind = tmp_path / "ahead", tmp_path / "behind"
    train(cache, {ahead: configured(2, 0.0)})
    train(cache, {ahead: configured(3, 0.0), behind: configured(3, 0.7)})
    said = capsys.readouterr().err
    assert f"{ahead}: continues after epoch 2" in said
    assert "mopo, 2 runs, 4 seed(s)" in said
    for path in (ahead, behind):
        assert pd.read_csv(path / "metrics.csv")["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
        assert read_json(path / "run.json")["status"] == "finished"
    train(cache, {tmp_path / "alone": configured(3, 0.7)})
    assert_alike(behind, tmp_path / "alone")


def test_seconds_are_of_every_program_of_a_session(cache, tmp_path, monkeypatch):
    """One run catches up alone, then both go on; an epoch takes a minute."""
    compiled, now = training.compile_epoch, [0.0]

    def compile_slow(experiment, states):
        made = compiled(experiment, states)

        def slow(*arguments):
            now[0] += 60
            return made.run_epoch(*arguments)

        return made._replace(run_epoch=slow, seconds=7.0)

    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(training, "compile_epoch", compile_slow)
    monkeypatch.setattr(training, "_forecast", lambda *_: None)
    monkeypatch.setattr(training, "time", clock)
    ahead, behind = tmp_path / "ahead", tmp_path / "behind"
    train(cache, {ahead: configured(2, 0.0)})
    train(cache, {ahead: configured(3, 0.0), behind: configured(3, 0.7)})
    for path, epochs, programs in ((ahead, 1, 1), (behind, 3, 2)):
        record = read_json(path / "run.json")
        assert record["run_seconds"] == 60 * epochs
        assert record["compile_seconds"] == 7 * programs


def test_a_disk_that_takes_no_more_is_one_line(cache, tmp_path, monkeypatch):
    """The rows come when the states of the epoch before have been given away."""
    write = MetricsWriter.write

    def refuse(self, rows):
        if rows[0]["epoch"] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, rows)

    monkeypatch.setattr(MetricsWriter, "write", refuse)
    first, second = tmp_path / "first", tmp_path / "second"
    runs = {first: configured(3, 0.0), second: configured(3, 0.7)}
    with pytest.raises(RunError, match=r"first/metrics\.csv: cannot be written to"):
        train(cache, runs)
    monkeypatch.undo()
    monkeypatch.setattr(session, "plot_curves", lambda _: None)
    train(cache, runs)
    for path in runs:
        assert pd.read_csv(path / "metrics.csv")["epoch"].tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "method", ["random", pytest.param("ucb", marks=pytest.mark.slow)]
)
def test_what_learns_no_policy_goes_on_as_if_it_had_not_stopped(
    cache, tmp_path, method
):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    changes = {"world_model.members": 1, "evaluation.all_users": False}
    for path, epochs in ((stopped, 1), (stopped, 2), (whole, 2)):
        config = configured(epochs, 0.0, method)
        train(cache, {path: config_lib.replace(config, changes)})
    found, expected = (
        pd.read_csv(path / "metrics.csv", dtype=str).drop(columns="seconds")
        for path in (stopped, whole)
    )
    assert found["epoch"].tolist() == ["1", "1", "2", "2"]
    pd.testing.assert_frame_equal(found, expected)


def test_a_directory_that_is_refused_changes_nothing_in_the_others(cache, tmp_path):
    """Nor where it comes last, and the others are to be replaced."""
    kept, foreign = tmp_path / "kept", tmp_path / "foreign"
    train(cache, {kept: configured(1, 0.0)})
    files = [path for path in kept.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    runs = {kept: configured(1, 0.0), foreign: configured(1, 0.7)}
    for overwrite in (False, True):
        with pytest.raises(RunError, match="foreign: not empty, and no run directory"):
            train(cache, runs, overwrite=overwrite)
        assert {path: path.read_bytes() for path in files} == before


def test_a_run_without_a_seed_left_ends_and_the_others_go_on(
    cache, tmp_path, monkeypatch, capsys
):
    """Both seeds of the first run fail in epoch 2; the second one has three epochs."""
    compiled = training.compile_epoch

    def compile_spoilt(experiment, states):
        made = compiled(experiment, states)

        def spoilt(states, *tables):
            states, metrics = made.run_epoch(states, *tables)
            if metrics["epoch"][0] == 2:
                loss = metrics["recommender_total_loss"].at[:2].set(math.nan)
                metrics = metrics | {"recommender_total_loss": loss}
            return states, metrics

        return made._replace(run_epoch=spoilt)

    monkeypatch.setattr(training, "compile_epoch", compile_spoilt)
    lost, kept = tmp_path / "lost", tmp_path / "kept"
    with pytest.raises(FloatingPointError, match="no seed is left"):
        train(cache, {lost: configured(3, 0.0), kept: configured(3, 0.7)})
    assert f"error: {lost}: " in capsys.readouterr().err
    assert read_json(lost / "run.json")["status"] == "failed"
    assert pd.read_csv(lost / "metrics.csv")["epoch"].max() == 1
    assert pd.read_csv(kept / "metrics.csv")["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
    assert read_json(kept / "run.json")["status"] == "finished"
    assert read_json(kept / "estimates.json")["epoch"] == 3
    assert not (lost / "estimates.json").exists()
    monkeypatch.undo()
    train(cache, {tmp_path / "alone": configured(3, 0.7)})
    assert_alike(kept, tmp_path / "alone")


# --- what is computed -----------------------------------------------------------------


def test_settings_side_by_side_or_a_few_at_a_time_are_the_same():
    config = tiny_config("mopo", training__steps_per_epoch=2)
    experiment = assemble(config)
    other = coefficients_of(config_lib.replace(config, {"reward.lambda_u": 0.5}))
    stacked = stack_coefficients([experiment.coefficients, other], 2)
    assert stacked.lambda_u.shape == (4,)
    stacked = jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 2, 3, 3])], stacked)
    seeds = [4, 9, 4, 9, 5]
    found = {}
    for at_once in (None, 3, 2, 1):  # of five: in one round, two, three, five
        epoch = make_run_epoch(experiment.learner, at_once)
        states = init_seeds(experiment, seeds)
        both = experiment._replace(coefficients=stacked)
        found[at_once] = jax.device_get(run_epoch(both, epoch, states)[1])
    for at_once in (3, 2, 1):
        for name, value in found[None].items():
            np.testing.assert_allclose(
                found[at_once][name], value, rtol=1e-4, atol=1e-5, err_msg=name
            )
    rewards = found[None]["shaped_reward"]
    assert not np.allclose(rewards[:2], rewards[2:4], rtol=1e-3)


def test_a_cpu_takes_one_after_another_and_an_accelerator_all(monkeypatch):
    experiment = assemble(tiny_config("mbpo", training__steps_per_epoch=2))
    states = init_seeds(experiment, range(4))
    one_by_one = training.compile_epoch(experiment, states)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    side_by_side = training.compile_epoch(experiment, states)
    assert one_by_one.memory.working < side_by_side.memory.working


def test_as_many_at_a_time_as_there_is_memory_for(monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    experiment = assemble(tiny_config("mbpo", training__steps_per_epoch=2))
    states = init_seeds(experiment, range(4))
    all_at_once = training.compile_epoch(experiment, states)
    assert all_at_once.memory.fits
    short = all_at_once.memory.total - 1
    monkeypatch.setattr(training, "memory_of_device", lambda: short)
    fewer = training.compile_epoch(experiment, states)
    assert fewer.memory.working < all_at_once.memory.working
    assert "too much; 2 seeds at a time" in capsys.readouterr().err
    monkeypatch.setattr(training, "memory_of_device", lambda: 1)
    training.compile_epoch(experiment, states)
    said = capsys.readouterr().err
    assert "too much; 1 seeds at a time" in said
    assert "may not fit" in said


def test_the_forecast_is_an_evaluation_and_the_collects_of_an_epoch(monkeypatch):
    config = tiny_config("mbpo", training__steps_per_epoch=1000)
    experiment = assemble(config)
    collect = config.training.environments * config.environment.max_turn
    collect = max(collect, config.training.batch_size)
    states = init_seeds(experiment, [0])

    def trial(compiled, experiment, states, *, steps):
        assert steps in (0, config.training.batch_size)
        return (2.0, 0) if steps == 0 else (2.5, collect)

    monkeypatch.setattr(training, "_trial", trial)
    memory = training.Memory(0, 0, 0, None)
    compiled = training.Compiled(lambda *_: None, 0.0, memory)
    found = training._forecast(compiled, experiment, states)
    assert found == 2.0 + 0.5 * math.ceil(1000 / collect)


def test_a_trial_changes_nothing_and_counts_its_transitions():
    config = tiny_config("mbpo", training__steps_per_epoch=10_000)
    experiment = assemble(config)
    states = init_seeds(experiment, [0, 1])
    compiled = training.compile_epoch(experiment, states)
    seconds, made = training._trial(compiled, experiment, states, steps=1)
    assert seconds > 0
    assert 0 < made <= config.training.environments * config.environment.max_turn
    assert training._trial(compiled, experiment, states, steps=0)[1] == 0
    assert states.epoch.tolist() == [0, 0]  # and not donated
    assert not jnp.any(states.env_steps)


# --- flags ----------------------------------------------------------------------------


def test_runs_beside_are_the_first_with_other_coefficients():
    config = configured(2, 0.0)
    runs = cli.runs_beside(
        config,
        "runs/a",
        ["runs/b: reward.lambda_u=0.5,selector.lambda_s=2", "c:reward.lambda_e=1"],
    )
    assert list(runs) == ["runs/a", "runs/b", "c"]
    assert runs["runs/a"] == config
    changes = {"reward.lambda_u": 0.5, "selector.lambda_s": 2.0}
    assert runs["runs/b"] == config_lib.replace(config, changes)
    assert runs["c"].reward.lambda_e == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs/b", "expected DIR: FIELD=VALUE"),
        (": reward.lambda_u=1", "expected DIR: FIELD=VALUE"),
        ("runs/b:", "expected DIR: FIELD=VALUE"),
        ("runs/b: selector.k_sel=3", "selector.k_sel needs a program of its own"),
        ("runs/b: reward.lamda_u=1", "no such field; did you mean 'reward.lambda_u'"),
        ("runs/b: reward.lambda_u=low", "expected a number"),
        ("./runs/a: reward.lambda_u=1", "is the directory of two runs"),
    ],
)
def test_what_cannot_stand_beside_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        cli.runs_beside(configured(2, 0.0), "runs/a", [text])


def test_every_coefficient_is_traced():
    """What may differ beside each other is what `coefficients_of` reads."""
    base = preset("synthetic", "darlr")
    for field in config_lib.COEFFICIENTS:
        changed = config_lib.replace(base, {field: 0.123})
        before, after = coefficients_of(base), coefficients_of(changed)
        moved = [n for n in before._fields if getattr(before, n) != getattr(after, n)]
        assert moved == [field.rpartition(".")[2]]
