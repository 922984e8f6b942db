"""Where parameters start: the defaults of the published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_flatten_with_path

from darlr_jax.config import SelectorConfig, TrackerConfig, WorldModelConfig
from darlr_jax.networks.actor_critic import make_actor_critic
from darlr_jax.networks.deepfm import Features, Field, make_deepfm
from darlr_jax.networks.selector import make_selector
from darlr_jax.networks.state_tracker import make_state_tracker

KEY = jax.random.key(0)
PROJECTIONS = ("query", "key", "value")


def layers(params, prefix=""):
    """(name, parameters) of every dense layer."""
    if "kernel" in params:
        yield prefix, params
    else:
        for name, branch in params.items():
            if isinstance(branch, dict):
                yield from layers(branch, f"{prefix}/{name}")


def assert_uniform(values, bound, name):
    """Within the bound, and near it if there are enough numbers to come near."""
    values = np.abs(np.asarray(values))
    assert values.max() <= bound, name
    if values.size >= 32:
        assert values.max() > 0.8 * bound, name


@pytest.mark.parametrize(
    ("init", "layer_count"),
    [
        (make_actor_critic((64, 48), 40, 33).init, 4),
        # 3 encoders, actor, 2 of the critic; each transformer layer has 4 + 2
        (make_selector(SelectorConfig(width=32, layers=2), 50, 20).init, 6 + 2 * 6),
    ],
    ids=["recommender", "selector"],
)
def test_affine_layers_start_within_the_root_of_their_inputs(init, layer_count):
    checked = 0
    for name, layer in layers(jax.jit(init)(KEY)):
        inputs, outputs = layer["kernel"].shape
        fan_in = 1 / np.sqrt(inputs)
        if name.endswith(PROJECTIONS):  # Xavier, as one matrix to 3 D outputs
            assert_uniform(layer["kernel"], np.sqrt(6 / (inputs + 3 * outputs)), name)
            np.testing.assert_array_equal(layer["bias"], 0)
        elif name.endswith("out"):
            assert_uniform(layer["kernel"], fan_in, name)
            np.testing.assert_array_equal(layer["bias"], 0)
        else:
            assert_uniform(layer["kernel"], fan_in, name)
            assert_uniform(layer["bias"], fan_in, name)
        checked += 1
    assert checked == layer_count


@pytest.mark.parametrize("fresh", [False, True])
def test_items_start_from_the_given_vectors_unless_drawn_anew(fresh):
    config = TrackerConfig(fresh_items=fresh)
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)

    found = jax.jit(make_state_tracker(config, 300, 8).init)(KEY, vectors)

    items, start = found["item_vectors"][:300], found["item_vectors"][300]
    if fresh:
        np.testing.assert_allclose(np.std(items), 0.01, rtol=0.1)
    else:
        np.testing.assert_array_equal(items, vectors)
    assert 0.001 < np.std(start) < 0.03


def test_world_model_starts_near_zero():
    fields = [Field("user", 400, False)], [Field("item", 500, False)]
    config = WorldModelConfig(embedding_dim=8, hidden=(64, 64))
    network = make_deepfm(config, *map(tuple, fields))
    sides = Features((), jnp.zeros((400, 0))), Features((), jnp.zeros((500, 1)))

    params = jax.jit(network.init)(KEY, *sides)

    spread = {"embedding_": 1e-3, "linear_": 1e-4, "['deep']": 1e-3}
    for path, leaf in tree_flatten_with_path(params)[0]:
        name = keystr(path)
        for part, deviation in spread.items():
            if part in name and "bias" not in name:
                np.testing.assert_allclose(np.std(leaf), deviation, rtol=0.2)
    for n, inputs in enumerate([17, 64]):
        bias = params["deep"][f"Linear_{n}"]["Dense_0"]["bias"]
        assert_uniform(bias, 1 / np.sqrt(inputs), f"deep {n}")
    for head in ("mean_head", "log_variance_head"):
        assert list(params[head]["Dense_0"]) == ["kernel"]  # no bias
        assert_uniform(params[head]["Dense_0"]["kernel"], 1 / 8, head)
    np.testing.assert_array_equal(params["bias"], 0)
