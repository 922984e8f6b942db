"""presets.py, methods.py, experiment.py: every method on every data set."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from darlr_jax import config as config_lib
from darlr_jax import presets
from darlr_jax.config import ConfigError, replace, validate
from darlr_jax.experiment import (
    build_experiment,
    init_seeds,
    make_run_epoch,
    needs_world_model,
    steps_of_an_epoch,
)
from darlr_jax.methods import METHODS, get_method
from darlr_jax.presets import DATASETS, preset
from tests.simulation.worlds import (
    SIZES,
    assemble,
    half_of_the_world,
    invented_world_model,
    tiny,
    tiny_dataset,
)

PAIRS = [
    (dataset, method)
    for dataset in DATASETS
    for method in METHODS
    if not METHODS[method].needs_tags
    or preset(dataset, method).environment.exit_rule == "tags"
]
DATASET = tiny_dataset(tiny().dataset)
LARGER = tiny_dataset(tiny(dataset__synthetic__num_items=14).dataset)


@pytest.mark.parametrize(("dataset", "method"), PAIRS)
def test_a_preset_is_the_row_of_its_method(dataset, method):
    config = preset(dataset, method)
    validate(config)
    row = get_method(method)
    assert (config.dataset.name, config.method) == (dataset, method)
    assert config.reward.estimate == row.estimate
    # ROLeR has a penalty on KuaiRec alone (protocol 3.2).
    penalised = (dataset, method) == ("kuairec", "roler")
    uncertainty = "neighbour_variance" if penalised else row.uncertainty
    assert config.reward.uncertainty == uncertainty
    assert config.reward.references == row.references
    assert row.entropy or config.reward.lambda_e == 0
    assert config.environment.max_turn == 30


@pytest.mark.parametrize(
    ("dataset", "like", "changes", "expected"),
    [
        ("kuairec", "roler", {"uncertainty": "ensemble_variance"}, "ensemble_variance"),
        ("kuairec", "roler", {"references": "self"}, "neighbour_variance"),
        ("coat", "darlr", {"uncertainty": "none"}, "none"),
    ],
)
def test_a_row_has_the_presets_of_its_family_but_for_what_it_replaces(
    monkeypatch, dataset, like, changes, expected
):
    row = METHODS[like]._replace(family=like, **changes)
    monkeypatch.setitem(METHODS, "invented", row)
    monkeypatch.setitem(presets._COEFFICIENTS, (dataset, "invented"), (0.25, 0.0))
    reward = preset(dataset, "invented").reward
    assert (reward.uncertainty, reward.lambda_u) == (expected, 0.25)
    assert reward.references == row.references
    assert reward.neighbour_source == preset(dataset, like).reward.neighbour_source


def test_a_row_has_the_presets_of_its_learner(monkeypatch):
    monkeypatch.setitem(METHODS, "invented", METHODS["cql"])
    for dataset in DATASETS:
        steps = preset(dataset, "cql").training.steps_per_epoch
        assert preset(dataset, "invented").training.steps_per_epoch == steps


def test_references_that_nobody_chooses_are_no_others():
    """A choice without code must not become the one that is written last."""
    config = tiny("darlr_self")
    changed = dataclasses.replace(config.reward, references="median")
    with pytest.raises(NotImplementedError, match="references='median'"):
        assemble(dataclasses.replace(config, reward=changed))


def built(dataset, method):
    """A preset in tiny sizes on tiny data, its own choices kept."""
    keep = ("environment.exit_rule", "tracker.kind")
    sizes = {name: value for name, value in SIZES.items() if name not in keep}
    sizes["evaluation.all_users"] = False
    config = replace(preset(dataset, method), sizes)
    if config.reward.neighbour_source == "log":  # asks users outside the environment
        world = invented_world_model(LARGER)
        return build_experiment(*half_of_the_world(LARGER, world, 10), config)
    return build_experiment(DATASET, invented_world_model(DATASET), config)


@pytest.mark.parametrize(("dataset", "method"), PAIRS)
def test_every_preset_builds(dataset, method):
    experiment = built(dataset, method)
    assert experiment.learner.config.method == method
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(experiment.tables))


# Tracing takes seconds: a method of each kind, and the rules of the other data set.
KINDS = ("gt", "dorl", "roler", "darlr", "darlr_self", "cirs", "crr", "ucb", "random")


@pytest.mark.parametrize(
    ("dataset", "method"),
    [("coat", method) for method in KINDS]
    + [("synthetic", "darlr"), ("kuairec", "roler"), ("kuairand", "epsilon_greedy")],
)
def test_every_kind_of_method_makes_a_program(dataset, method):
    """Traced, not compiled: shapes and types fit from the tables to the metrics."""
    experiment = built(dataset, method)
    states = jax.eval_shape(lambda: init_seeds(experiment, [0, 1]))
    epoch = make_run_epoch(experiment.learner)
    after, metrics = jax.eval_shape(epoch, states, *experiment[1:])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), states
    )
    assert {value.shape for value in metrics.values()} == {(2,)}
    assert {"epoch", "env_steps", "NX_0_R_tra"} <= set(metrics)
    trained_by_a2c = METHODS[method].learner == "a2c"
    assert ("recommender_total_loss" in metrics) == trained_by_a2c
    learned = METHODS[method].references == "learned"
    assert ("selector_total_loss" in metrics) == learned
    assert ("effective_users_picked" in metrics) == learned
    has_references = METHODS[method].references != "none"
    assert ("knn_overlap" in metrics) == has_references


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("koat", "mbpo"), "no such data set; did you mean 'coat'"),
        (lambda: preset("coat", "dalr"), "no such method; did you mean 'darlr'"),
        (lambda: get_method("mopi"), "did you mean 'mopo'"),
        (lambda: preset("zzzzzz", "mbpo"), "one of: coat, csv, kuairand"),
    ],
)  # fmt: skip
def test_unknown_names_get_the_nearest_one(call, message):
    with pytest.raises(ConfigError) as error:
        call()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("mbpo", {"reward__references": "learned"}, "nothing uses the references"),
        ("mbpo", {"reward__estimate": "none"}, "needs an estimate"),
        ("ucb", {"reward__estimate": "true"}, "needs reward.estimate=none"),
        ("mopo", {"world_model__loss": "squared"}, "predicts no variance"),
    ],
)
def test_contradictions_are_refused_before_anything_is_built(method, changes, message):
    config = tiny(method, **changes)
    with pytest.raises(ConfigError, match=message):
        build_experiment(DATASET, invented_world_model(DATASET), config)


def test_a_family_lends_its_presets_and_a_row_has_its_own(monkeypatch):
    changed = METHODS["darlr"]._replace(references="nearest")
    monkeypatch.setitem(METHODS, "other", changed)
    of_darlr = config_lib.flatten(preset("coat", "darlr"))
    told = {"method": "other", "reward.references": "nearest"}
    assert config_lib.flatten(preset("coat", "other")) == of_darlr | told
    monkeypatch.setitem(presets._METHODS, "other", {"selector.lambda_s": 7.0})
    monkeypatch.setitem(presets._COEFFICIENTS, ("coat", "other"), (0.25, 0.0))
    found = preset("coat", "other")
    assert (found.selector.lambda_s, found.reward.lambda_u) == (7.0, 0.25)
    assert found.selector.lambda_d == of_darlr["selector.lambda_d"]


def test_a_penalty_without_a_weight_is_no_preset(monkeypatch):
    alone = METHODS["mopo"]._replace(summary="another")
    monkeypatch.setitem(METHODS, "my_mopo", alone)
    with pytest.raises(ConfigError, match="no lambda_u and lambda_e of it on coat"):
        preset("coat", "my_mopo")
    monkeypatch.setitem(METHODS, "my_mopo", alone._replace(family="mopo"))
    assert preset("coat", "my_mopo").reward.lambda_u == 0.2


@pytest.mark.parametrize(
    ("family", "changes"),
    [("darlr", {"uncertainty": "ensemble_variance"}), ("mopo", {"entropy": True})],
)
def test_what_is_its_own_does_not_take_its_family_s_weight(
    monkeypatch, family, changes
):
    like = METHODS[family]._replace(family=family)
    monkeypatch.setitem(METHODS, "other", like._replace(uncertainty="none"))
    assert preset("coat", "other") == config_lib.replace(
        preset("coat", family), {"method": "other", "reward.uncertainty": "none"}
    )
    monkeypatch.setitem(METHODS, "other", like._replace(**changes))
    with pytest.raises(ConfigError, match="no lambda_u and lambda_e of it on coat"):
        preset("coat", "other")
    monkeypatch.setitem(presets._COEFFICIENTS, ("coat", "other"), (0.25, 0.0))
    assert preset("coat", "other").reward.lambda_u == 0.25


def test_every_preset_is_of_a_method():
    """One of a name that no method has would never be read."""
    of_data = {*presets._EXCEPTIONS, *presets._COEFFICIENTS}
    assert {*presets._METHODS, *(method for _, method in of_data)} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_given_a_world_model_if_it_reads_one(method):
    config = tiny(method, environment__exit_rule="tags")
    needed = METHODS[method].learner in ("a2c", "sqn", "bcq", "cql", "crr")
    assert needs_world_model(config) == needed
    if not needed:
        build_experiment(DATASET, None, config)


@pytest.mark.parametrize(("method", "steps"), [("mbpo", 80), ("crr", 80), ("ucb", 0)])
def test_epochs_are_measured_in_transitions_where_there_are_any(method, steps):
    assert steps_of_an_epoch(tiny(method)) == steps


def test_seeds_are_the_same_wherever_they_stand():
    experiment = assemble(tiny())
    several, alone = init_seeds(experiment, [3, 2**32 - 1]), init_seeds(experiment, [3])
    for first, second in zip(
        jax.tree.leaves(several.recommender), jax.tree.leaves(alone.recommender),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(first[0], second[0])
