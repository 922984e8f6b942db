"""experiments.tune_world_model: from a log to flags, without the test matrix."""

from __future__ import annotations

import dataclasses
import shlex
import types

import numpy as np
import pandas as pd
import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax.config import ConfigError, ExperimentConfig
from darlr_jax.data import synthetic
from darlr_jax.data.dataset import DataError
from darlr_jax.data.splits import hold_out
from darlr_jax.world_model.ensemble import fit_ensemble
from experiments import cli, tune_world_model
from experiments import world_model_search as search
from tests.experiments.sizes import SYNTHETIC

FIT = (
    "world_model.embedding_dim=2",
    "world_model.hidden=(4,)",
    "world_model.members=2",
    "world_model.epochs=2",
    "world_model.batch_size=32",
)


@pytest.fixture
def dataset(tiny_config):
    return synthetic.generate(tiny_config.dataset.synthetic)


@pytest.fixture
def tune(tmp_path, monkeypatch, capsys):
    """Calls the program in this process; returns what it prints."""
    monkeypatch.setattr(cli, "configure_jax", lambda: None)

    def call(*arguments: str) -> str:
        settings = [f"--set={setting}" for setting in (*SYNTHETIC, *FIT)]
        with flagsaver.flagsaver():
            flags.FLAGS(
                ["tune", f"--cache_dir={tmp_path}/cache", *settings, *arguments]
            )
            tune_world_model.main([])
        return capsys.readouterr().out

    return call


def test_from_a_log_to_flags(tune, tmp_path):
    vary = "world_model.negative_weight=1.0|0.0"
    arguments = ("--splits=2", "--share=0.5", "--longest=4", f"--vary={vary}")
    out = tune(*arguments, f"--output={tmp_path}/first")

    scores = pd.read_csv(tmp_path / "first" / "scores.csv")
    fitted = scores[scores["epochs"] > 0]
    assert set(fitted["candidate"]) == {"unchanged", "negative_weight=0.0"}
    assert sorted(set(fitted["epochs"])) == [1, 2, 3, 4]
    assert len(fitted) == 2 * 4 * 2
    best = fitted.groupby(["candidate", "epochs"])["pair_accuracy"].mean()
    name, epochs = best.idxmax()
    given = [f"--set={setting}" for setting in (*SYNTHETIC, *FIT)]
    changed = [] if name == "unchanged" else ["--set=world_model.negative_weight=0.0"]
    flags_of_best = [*given, *changed, f"--set=world_model.epochs={epochs}"]
    chosen = shlex.join(flags_of_best)  # for a shell: "(4,)" is in quotes
    assert out.splitlines()[-1] == f"chosen by pair_accuracy: {chosen}"
    assert " '--set=world_model.hidden=(4,)' " in chosen
    assert (tmp_path / "first" / "world_models.md").read_text() == out
    summary = pd.read_csv(tmp_path / "first" / "world_models.csv")
    assert list(summary.columns[:6]) == [
        "candidate", "epochs", "pair_accuracy", "±", "difference", "± ",
    ]  # fmt: skip
    assert summary["pair_accuracy"].is_monotonic_decreasing

    assert tune(*arguments, f"--output={tmp_path}/again") == out
    names = ("world_models.csv", "scores.csv")
    first, again = (
        [(tmp_path / folder / name).read_text() for name in names]
        for folder in ("first", "again")
    )
    assert first == again


def test_test_data_cannot_decide(tune, tmp_path, monkeypatch):
    """Another test matrix and other held-out rows give the same files."""
    prepare = cli.prepare_dataset

    def with_other_test_data(config):
        dataset = prepare(config)
        rng = np.random.default_rng(0)
        return dataclasses.replace(
            dataset,
            held_out=dataset.log,
            true_reward=rng.normal(size=dataset.true_reward.shape).astype(np.float32),
        )

    arguments = (
        "--splits=2",
        "--share=0.5",
        "--longest=2",
        "--vary=world_model.loss=gaussian",
    )
    first = tune(*arguments, f"--output={tmp_path}/first")
    monkeypatch.setattr(cli, "prepare_dataset", with_other_test_data)
    second = tune(*arguments, f"--output={tmp_path}/second")

    assert first == second
    assert (tmp_path / "first/scores.csv").read_text() == (
        tmp_path / "second/scores.csv"
    ).read_text()


def test_a_long_fit_has_the_shorter_ones_in_it(tiny_config, dataset):
    """What lets one fit judge every number of epochs."""
    split = hold_out(dataset, 0.2, seed=0)
    (candidate,) = search.combinations(tiny_config, {})

    rows = search.score_candidate(candidate, [split], longest=3)

    short = dataclasses.replace(tiny_config.world_model, epochs=2)
    expected = fit_ensemble(split, short).report[-1]
    assert rows[1]["epochs"] == 2
    assert rows[1]["pair_accuracy"] == expected["held_out_pair_accuracy"]
    assert rows[1]["mse"] == expected["held_out_mse"]


def test_combinations_hold_each_choice_once_and_what_changes_nothing():
    values = search.parse_values(
        ["world_model.hidden=(8,)|(128, 128)", "world_model.loss=gaussian|squared"]
    )

    found = search.combinations(ExperimentConfig(), values)

    assert [candidate.name for candidate in found] == [
        "unchanged",
        "hidden=(8,)",
        "hidden=(8,) loss=squared",
        "loss=squared",
    ]
    assert found[2].config.hidden == (8,)
    assert found[2].flags(7) == [
        "--set=world_model.hidden=(8,)",
        "--set=world_model.loss=squared",
        "--set=world_model.epochs=7",
    ]


def test_a_candidate_that_diverges_is_named(tiny_config, monkeypatch):
    def diverge(dataset, config):
        raise FloatingPointError(f"the loss of epoch {config.epochs} is nan")

    monkeypatch.setattr(search, "fit_ensemble", diverge)
    values = {"world_model.learning_rate": [10.0]}
    candidate = search.combinations(tiny_config, values)[1]

    with pytest.raises(FloatingPointError) as caught:
        search.score_candidate(candidate, [None], longest=3)

    expected = "candidate 'learning_rate=10.0': the loss of epoch 3 is nan"
    assert str(caught.value) == expected


def diverge_where(monkeypatch, field, value):
    """Invented fits; of this value they diverge on the second split (an odd seed)."""
    fitted = []

    def fit(dataset, config):
        fitted.append(config)
        if getattr(config, field) == value and config.seed % 2:
            raise FloatingPointError("the loss of epoch 1 is nan")
        rows = range(config.epochs + 1)
        report = [{"epoch": row, "held_out_pair_accuracy": 0.6} for row in rows]
        return types.SimpleNamespace(report=report)

    monkeypatch.setattr(search, "fit_ensemble", fit)
    return fitted


def test_a_candidate_that_diverges_costs_no_other(
    tiny_config, dataset, monkeypatch, capsys
):
    splits = [hold_out(dataset, 0.2, seed) for seed in (0, 1)]
    values = {"world_model.learning_rate": [10.0, 0.02]}
    candidates = search.combinations(tiny_config, values)
    fitted = diverge_where(monkeypatch, "learning_rate", 10.0)

    scores = search.score_all(candidates, splits, longest=1)

    assert len(fitted) == 3 * 2
    names = set(scores.loc[scores["epochs"] > 0, "candidate"])
    assert names == {search.UNCHANGED, "learning_rate=0.02"}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "candidate 1/3: unchanged",
        "candidate 2/3: learning_rate=10.0",
        "left out: candidate 'learning_rate=10.0': the loss of epoch 1 is nan",
        "candidate 3/3: learning_rate=0.02",
    ]


def test_what_all_are_compared_with_must_not_diverge(tiny_config, dataset, monkeypatch):
    rate = tiny_config.world_model.learning_rate
    diverge_where(monkeypatch, "learning_rate", rate)
    splits = [hold_out(dataset, 0.2, seed) for seed in (0, 1)]
    candidates = search.combinations(tiny_config, {})

    with pytest.raises(FloatingPointError, match="candidate 'unchanged': the loss"):
        search.score_all(candidates, splits, longest=1)


def test_where_every_other_diverges_the_reference_is_chosen(
    tune, tmp_path, monkeypatch
):
    diverge_where(monkeypatch, "negative_weight", 0.0)

    out = tune(
        "--splits=2",
        "--share=0.5",
        "--longest=2",
        "--vary=world_model.negative_weight=0.0",
        f"--output={tmp_path}/out",
    )

    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(scores.loc[scores["epochs"] > 0, "candidate"]) == {search.UNCHANGED}
    *_, left_out, chosen = out.splitlines()
    assert left_out == "left out, as they diverge: negative_weight=0.0"
    assert "negative_weight" not in chosen


def test_rows_that_rank_nothing_are_refused_before_any_fit(tune, monkeypatch):
    """Of so few rows a user one is held out: there is no pair of hers."""
    monkeypatch.setattr(search, "fit_ensemble", lambda *_: pytest.fail("fitted"))

    with pytest.raises(DataError, match=r"no user has two held-out rows .* --share"):
        tune("--share=0.15", "--splits=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary=selector.k_sel=1|2"], "--vary=selector.k_sel: expected a field of"),
        (["--vary=world_model.epochs=1|2"], "every number of epochs up to --longest"),
        (["--vary=world_model.seed=1|2"], "every split has a seed of its own"),
        (["--vary=world_model.los=gaussian"], "did you mean 'world_model.loss'?"),
        (["--vary=world_model.loss=gausian"], "world_model.loss='gausian'"),
        (["--vary=world_model.loss"], "expected FIELD=VALUE"),
        (["--vary=world_model.loss=squared"] * 2, "is given twice"),
        (["--epochs=3"], "--epochs: is of training; --longest says how long"),
    ],
)
def test_mistake_in_the_command_says_what(arguments, message, tune):
    with pytest.raises(ConfigError) as caught:
        tune(*arguments)

    assert message in str(caught.value)


def test_a_folder_that_cannot_be_written_stops_before_any_work(tune, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Exception, match="cannot be written to"):
        tune(f"--output={tmp_path}/file")
