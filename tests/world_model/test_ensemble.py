"""Fitting the world model: its loss, its batches, its members."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from darlr_jax.config import WorldModelConfig
from darlr_jax.networks.deepfm import Prediction, WorldModelNetwork
from darlr_jax.world_model import ensemble
from darlr_jax.world_model.losses import LOSSES, gaussian_loss, propensity_loss
from darlr_jax.world_model.negatives import draw_training_pairs
from tests import reference
from tests.world_model.conftest import (
    ITEMS,
    USERS,
    make_log,
    random_members,
    slow_prediction,
)

CONFIG = WorldModelConfig(
    embedding_dim=3,
    hidden=(6,),
    members=3,
    epochs=1,
    batch_size=64,
    negatives=2,
    learning_rate=2e-2,
    weight_decay=1e-3,
)
PAIRS = 160  # 80 logged rows, two negatives each


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


# --- loss -----------------------------------------------------------------------------


def test_parameter_decay_counts_all_and_embeddings_twice():
    config = WorldModelConfig(weight_decay=0.1, embedding_decay=0.01)
    rng = np.random.default_rng(0)
    params = {
        "embedding_user": rng.normal(size=(3, 2)).astype(np.float32),
        "linear_user": rng.normal(size=3).astype(np.float32),
        "deep": {"Linear_0": {"kernel": rng.normal(size=(2, 4)).astype(np.float32)}},
    }

    found = ensemble.parameter_decay(params, config)

    embeddings = reference.squares(params["embedding_user"])
    expected = 0.1 * reference.squares(params) + 0.01 * embeddings
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def slow_loss(dataset, params, pairs, rows):
    """The loss of some pairs; pair p belongs to row p mod N of the log."""
    logged = [p % len(pairs.users) for p in rows]
    predict = functools.partial(slow_prediction, dataset, params)
    return reference.pointneg_loss(
        [predict(pairs.users[n], pairs.items[n]) for n in logged],
        [predict(pairs.negative_users[p], pairs.negative_items[p]) for p in rows],
        pairs.labels[logged],
        np.ones(len(rows)),
    )


def slow_propensity_loss(dataset, params, pairs, rows):
    """Over the rows of the item, and a negative for a quarter."""
    total = 0.0
    for p in rows:
        user, item, label = (column[p % len(pairs.users)] for column in pairs[:3])
        fit, _ = slow_prediction(dataset, params, user, item)
        cell = pairs.negative_users[p], pairs.negative_items[p]
        push, _ = slow_prediction(dataset, params, *cell)
        total += (fit - label) ** 2 / np.sum(dataset.log.items == item) + push**2 / 4
    return total


@pytest.mark.parametrize(
    ("loss", "negative_weight", "definition"),
    [(gaussian_loss, 1.0, slow_loss), (propensity_loss, 0.25, slow_propensity_loss)],
    ids=["gaussian", "propensity"],
)
def test_batch_loss_matches_the_definition(dataset, loss, negative_weight, definition):
    sides, network = ensemble.build_network(dataset, CONFIG)
    pairs = draw_training_pairs(dataset, CONFIG.negatives, seed=0)
    params = reference.random_params(network, args=sides)
    rows = np.array([3, -1, 97, 159, -1])  # -1 is padding

    batch_loss = jax.jit(
        functools.partial(
            ensemble._batch_loss,
            network=network,
            loss=loss,
            negative_weight=negative_weight,
        )
    )
    found = batch_loss(params, rows, jax.tree.map(jnp.asarray, pairs), sides)

    expected = definition(dataset, params, pairs, rows[rows >= 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_descends_what_the_configuration_says(dataset, name):
    """Its loss, its weight of a negative, and the decay, of a model of 22 numbers."""
    config = changed(loss=name, negative_weight=0.25, weight_decay=0.1)
    pairs = jax.tree.map(jnp.asarray, draw_training_pairs(dataset, 2, seed=0))
    params = {"user": jnp.linspace(1, 4, USERS), "item": jnp.linspace(-1, 1, ITEMS)}
    network = WorldModelNetwork(None, predict_apart, None, None)
    rows, optimizer = jnp.array([3, 97, 159]), optax.sgd(1.0)

    after, _ = ensemble.train_steps(
        ensemble.Member(params, optimizer.init(params), jax.random.key(0)),
        rows[None],
        pairs,
        (),
        network=network,
        optimizer=optimizer,
        config=config,
    )

    def objective(params):
        inputs = (params, rows, pairs, (), network)
        loss = ensemble._batch_loss(*inputs, LOSSES[name], 0.25)
        return loss + ensemble.parameter_decay(params, config)

    gradient = jax.jit(jax.grad(objective))(params)
    expected = jax.tree.map(jnp.subtract, params, gradient)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, after.params, expected)


def predict_apart(params, users, items):
    """Means by user, log-variances by item."""
    return Prediction(params["user"][users], params["item"][items])


def test_reported_loss_is_that_of_every_pair_once_and_without_decay(dataset):
    still = changed(learning_rate=0.0, weight_decay=1.0)  # a step changes nothing

    fitted = ensemble.fit_ensemble(dataset, still)

    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), fitted.params)
    pairs = draw_training_pairs(dataset, CONFIG.negatives, CONFIG.seed)
    expected = slow_loss(dataset, first, pairs, np.arange(PAIRS)) / PAIRS
    found = [row["loss"] for row in fitted.report]
    assert np.isnan(found[0])  # before training
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)


# --- fitting --------------------------------------------------------------------------


def test_fitting_lowers_the_held_out_error_and_repeats_itself(dataset):
    config, rows = changed(epochs=10), []

    fitted = ensemble.fit_ensemble(dataset, config, rows.append)
    again = ensemble.fit_ensemble(dataset, config)

    assert [row["epoch"] for row in rows] == list(range(11))
    assert rows[-1]["held_out_mse"] < 0.5 * rows[0]["held_out_mse"]
    assert rows[-1]["held_out_pair_accuracy"] > 0.9 > rows[0]["held_out_pair_accuracy"]
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert str(rows) == str(fitted.report) == str(again.report)  # nan and all
    jax.tree.map(np.testing.assert_array_equal, fitted.params, again.params)


@pytest.mark.parametrize("identical", [True, False])
def test_members_start_alike_if_published_and_then_part(dataset, identical):
    config = changed(identical_init=identical)
    # No epoch: the parameters as they start.
    start = ensemble.fit_ensemble(dataset, dataclasses.replace(config, epochs=0)).params
    after = ensemble.fit_ensemble(dataset, config).params

    def members_equal(params):
        leaf = np.asarray(params["embedding_item"])
        return [bool((leaf[0] == leaf[member]).all()) for member in (1, 2)]

    assert members_equal(start) == [identical] * 2
    assert members_equal(after) == [False] * 2


def test_padding_of_the_last_batch_has_no_influence(dataset):
    exact = ensemble.fit_ensemble(dataset, changed(batch_size=PAIRS))

    padded = ensemble.fit_ensemble(dataset, changed(batch_size=PAIRS + 7))

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, padded.params, exact.params)
    np.testing.assert_allclose(
        padded.report[1]["loss"], exact.report[1]["loss"], rtol=1e-6
    )


def test_an_epoch_in_calls_is_the_same_epoch(dataset, monkeypatch):
    """Bit for bit; and whoever waits hears how far it is."""
    config, heard = changed(epochs=2), []
    whole = ensemble.fit_ensemble(dataset, config)
    monkeypatch.setattr(ensemble, "_STEPS_A_CALL", 2)

    cut = ensemble.fit_ensemble(dataset, config, on_progress=heard.append)

    jax.tree.map(np.testing.assert_array_equal, cut.params, whole.params)
    assert cut.report[2]["loss"] == pytest.approx(whole.report[2]["loss"], rel=1e-6)
    calls = math.ceil(math.ceil(PAIRS / config.batch_size) / 2)
    assert calls > 1
    assert len(heard) == 2 * calls
    assert heard[:calls] == sorted(heard[:calls])
    assert heard[calls - 1] == 1.0


def test_a_fit_that_goes_on_after_any_epoch_is_the_same_fit(dataset):
    """Bit for bit, the reports too; a state is not used up by going on from it."""
    config, states, rows = changed(epochs=3), [], []
    whole = ensemble.fit_ensemble(dataset, config, keep=states.append)

    assert [len(state.report) for state in states] == [2, 3, 4]
    for state in [*states, states[0]]:
        rows.clear()
        rest = ensemble.fit_ensemble(dataset, config, rows.append, resume=state)
        jax.tree.map(np.testing.assert_array_equal, rest.params, whole.params)
        assert str(rest.report) == str(whole.report)
        assert str(rows) == str(whole.report[len(state.report) :])
    kept = states[0].arrays
    assert {type(array) for array in kept.values()} == {np.ndarray}
    assert ".opt_state[0].mu['embedding_user']" in kept
    assert kept[".key"].dtype == np.uint32


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays | {".more": np.zeros(1)},
        lambda arrays: arrays | {".key": arrays[".key"][:1]},
        lambda arrays: arrays | {".key": arrays[".key"].astype(np.int32)},
    ],
)
def test_a_state_of_another_fit_is_refused(dataset, change):
    states = []
    ensemble.fit_ensemble(dataset, CONFIG, keep=states.append)
    state = states[0]._replace(arrays=change(states[0].arrays))
    with pytest.raises(ValueError, match="of another fit"):
        ensemble.fit_ensemble(dataset, CONFIG, resume=state)


def test_a_loss_that_is_not_finite_stops_the_fit(dataset):
    log = make_log([(0, 0, np.inf), (1, 1, 1.0)])

    with pytest.raises(FloatingPointError, match="loss of epoch 1 is inf"):
        ensemble.fit_ensemble(dataclasses.replace(dataset, log=log), CONFIG)


def test_held_out_rows_are_predicted_block_by_block(dataset, monkeypatch):
    whole = ensemble.fit_ensemble(dataset, CONFIG).report
    monkeypatch.setattr(ensemble, "_ROWS_A_BLOCK", 7)

    in_blocks = ensemble.fit_ensemble(dataset, CONFIG).report

    assert len(dataset.held_out) == 40
    for expected, found in zip(whole, in_blocks, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_predicted_labels_are_the_mean_of_the_members(dataset):
    sides, network = ensemble.build_network(dataset, CONFIG)
    params, members = random_members(network, sides)
    users, items = np.array([5, 0, 3], np.int32), np.array([1, 4, 0], np.int32)

    predict = jax.jit(functools.partial(ensemble.predict_labels, network=network))
    found = predict(params, users, items, sides)

    for n, cell in enumerate(zip(users, items, strict=True)):
        means = [slow_prediction(dataset, member, *cell)[0] for member in members]
        np.testing.assert_allclose(found[n], np.mean(means), rtol=1e-5)
