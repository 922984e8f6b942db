"""DeepFM against a forward pass by hand, field by field and pair by pair."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from darlr_jax.config import WorldModelConfig
from darlr_jax.networks.base import Linear
from darlr_jax.networks.deepfm import Features, Field, make_deepfm
from tests import reference

CONFIG = WorldModelConfig(embedding_dim=3, hidden=(6, 5))
USERS, ITEMS = 4, 5
USER_FIELDS = Field("user", USERS, False), Field("age", 3, False)
ITEM_FIELDS = Field("item", ITEMS, False), Field("tag", 4, True)
AGES = np.array([[2], [0], [1], [0]], np.int32)
TAGS = np.array([[1, 2, 0], [3, 0, 0], [0, 0, 0], [2, 2, 1], [0, 3, 1]], np.int32)
CELLS = [(user, item) for user in range(USERS) for item in range(ITEMS)]


def sides(dense_width):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(ITEMS, dense_width)).astype(np.float32)
    return Features((AGES,), np.zeros((USERS, 0), np.float32)), Features((TAGS,), dense)


@functools.cache
def network_of(output="identity"):
    config = dataclasses.replace(CONFIG, output=output)
    return make_deepfm(config, USER_FIELDS, ITEM_FIELDS)


@functools.cache
def params_of(dense_width):
    return reference.random_params(network_of(), args=sides(dense_width))


def slow_side(params, fields, codes):
    return reference.deepfm_side(params, [(f.name, f.padded) for f in fields], codes)


def slow_user(params, user):
    return slow_side(params, USER_FIELDS, ([user], AGES[user]))


def slow_item(params, item):
    return slow_side(params, ITEM_FIELDS, ([item], TAGS[item]))


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
@pytest.mark.parametrize("dense_width", [0, 2])
def test_prediction_matches_the_definition(output, dense_width):
    params, both = params_of(dense_width), sides(dense_width)
    users, items = (np.array(ids).reshape(2, 10) for ids in zip(*CELLS, strict=True))

    found = jax.jit(network_of(output).apply)(params, users, items, *both)

    for place in np.ndindex(2, 10):
        expected = reference.deepfm(
            params,
            slow_user(params, users[place]),
            slow_item(params, items[place]),
            both[1].dense[items[place]],
            sigmoid=output == "sigmoid",
        )
        np.testing.assert_allclose(found.mean[place], expected[0], rtol=1e-4)
        np.testing.assert_allclose(found.log_variance[place], expected[1], rtol=1e-4)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("dense_width", [0, 2])
def test_a_grid_is_all_of_its_pairs(hidden, dense_width):
    config = dataclasses.replace(CONFIG, hidden=hidden)
    network = make_deepfm(config, USER_FIELDS, ITEM_FIELDS)
    both = sides(dense_width)
    params = reference.random_params(network, args=both)
    users, items = np.arange(2), np.arange(ITEMS)
    predict = jax.jit(network.apply)

    found = predict(params, users[:, None], items[None, :], *both)

    pairs = np.repeat(users, ITEMS), np.tile(items, 2)
    for grid, flat in zip(found, predict(params, *pairs, *both), strict=True):
        assert grid.shape == (2, ITEMS)
        np.testing.assert_allclose(grid.ravel(), flat, rtol=1e-5, atol=1e-6)


def test_several_inputs_of_a_layer_are_their_concatenation():
    parts = [np.random.default_rng(n).normal(size=(3, n)) for n in (1, 2, 4)]
    layer, key = Linear(5), jax.random.key(0)
    params = layer.init(key, np.concatenate(parts, axis=-1))

    jax.tree.map(np.testing.assert_array_equal, layer.init(key, *parts), params)
    np.testing.assert_allclose(
        layer.apply(params, *parts),
        layer.apply(params, np.concatenate(parts, axis=-1)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_pairs_of_fields_interact_once():
    # All else zero: e_user . e_item + e_user . e_age + e_item . e_age, no squares.
    params = jax.tree.map(np.zeros_like, params_of(0))
    user, age, item = np.eye(3, dtype=np.float32) + 1
    for name, vector in (("user", user), ("age", age), ("item", item)):
        params[f"embedding_{name}"] += vector
    absent = np.zeros((ITEMS, 3), np.int32)
    both = sides(0)[0], Features((absent,), np.zeros((ITEMS, 0), np.float32))

    found = jax.jit(network_of().apply)(params, np.array([0]), np.array([0]), *both)

    # [2 1 1] . [1 2 1] = 5, and likewise the two others
    np.testing.assert_allclose(found.mean, [15], rtol=1e-6)


def test_an_absent_tag_has_no_influence():
    params, both = params_of(2), sides(2)
    changed = params | {
        "embedding_tag": np.copy(params["embedding_tag"]),
        "linear_tag": np.copy(params["linear_tag"]),
    }
    changed["embedding_tag"][0], changed["linear_tag"][0] = 1e3, 1e3
    users, items = np.zeros(ITEMS, np.int32), np.arange(ITEMS)
    predict = jax.jit(network_of().apply)

    found = predict(changed, users, items, *both)

    expected = predict(params, users, items, *both)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_log_variance_is_squeezed_smoothly_into_its_range():
    params, both = params_of(2), sides(2)
    users, items = np.zeros(ITEMS, np.int32), np.arange(ITEMS)
    predict = jax.jit(network_of().apply)
    head = params["log_variance_head"]["Dense_0"]["kernel"]

    found = []
    for scale in (0.0, 1e-3, 1e5, -1e5):
        scaled = {"log_variance_head": {"Dense_0": {"kernel": scale * head}}}
        found.append(predict(params | scaled, users, items, *both).log_variance)

    # z = 0: 0.5 - log(1 + e^0.5) = -0.474077, then -10 + log(1 + e^9.525923)
    np.testing.assert_allclose(found[0], np.full(ITEMS, -0.474004), atol=2e-6)
    assert (found[1] != found[0]).all()
    for high in found[2:]:
        extreme = np.isclose(high, 0.5, atol=1e-4) | np.isclose(high, -10, atol=1e-4)
        assert extreme.all()
    assert (np.sign(found[2] + 5) == -np.sign(found[3] + 5)).all()


@pytest.mark.parametrize("dense_width", [0, 2])
def test_vectors_hold_id_features_and_dense_values_in_this_order(dense_width):
    params, both = params_of(dense_width), sides(dense_width)
    network = network_of()

    users = network.embed_users(params, np.arange(USERS), both[0])
    items = network.embed_items(params, np.arange(ITEMS), both[1])

    assert users.shape == (USERS, 2 * 3)
    assert items.shape == (ITEMS, 4 * 3 + dense_width)
    for user in range(USERS):
        expected = np.concatenate(slow_user(params, user)[0])
        np.testing.assert_allclose(users[user], expected, rtol=1e-6)
    for item in range(ITEMS):
        slots = np.concatenate(slow_item(params, item)[0])
        expected = [*slots, *both[1].dense[item]]
        np.testing.assert_allclose(items[item], expected, rtol=1e-6)
