"""The kernel of K_sel picks against the plain ones: interpreted, lowered, on a GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from darlr_jax.agents import fused_picks, references, selector
from darlr_jax.agents.fused_picks import Tuning
from darlr_jax.config import ConfigError, SelectorConfig
from darlr_jax.networks.selector import make_selector
from darlr_jax.training.rollout import collect
from darlr_jax.types import UserTables
from tests import reference
from tests.simulation.worlds import assemble, first_state, roll_out, tiny

FEATURES, CONTEXT = 7, 5
CONFIG = SelectorConfig(k_sel=5, window=3, width=8, heads=2)
H100 = AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")

interpreted = functools.partial(fused_picks.select_references, interpret=True)


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def network_of(config):
    return make_selector(config, FEATURES, CONTEXT)


def params_of(config, seed=0):
    return reference.random_params(network_of(config), seed)


def tables_of(num_users):
    feedback = np.random.default_rng(1).normal(size=(num_users, FEATURES))
    return UserTables(feedback.astype(np.float32), similarity=None, neighbours=None)


def situations(num_users, sessions, seed=2):
    """Keys, users and contexts of some recommendations."""
    rng = np.random.default_rng(seed)
    users = rng.integers(num_users, size=sessions).astype(np.int32)
    contexts = rng.normal(size=(sessions, CONTEXT)).astype(np.float32)
    return jax.random.split(jax.random.key(seed), sessions), users, contexts


def selecting(config, select):
    """`select` of a batch of sessions, under one set of parameters."""
    bound = {"network": network_of(config), "config": config}
    batched = jax.vmap(functools.partial(select, **bound), (None, 0, 0, 0, None, None))

    def run(params, keys, users, contexts, tables):
        codes = selector.encode_users(params, tables, **bound)
        return batched(params, keys, users, contexts, codes, tables)

    return run


def value_errors(config, params, users, contexts, tables, picked, values):
    """Of the values `[M, K]` from those that learning computes for the same picks."""
    bound = {"network": network_of(config), "config": config}
    number = jnp.zeros(picked.shape)
    batch = selector.SelectorBatch(
        users, contexts, picked, number, number, jnp.zeros(len(users))
    )

    @jax.jit
    def evaluate(params, batch, tables):
        codes = selector.encode_users(params, tables, **bound)
        windows = selector._windows(params, batch, codes, **bound)
        return bound["network"].apply(params, *windows).value

    return np.abs(evaluate(params, batch, tables) - values)


def assert_same_picks(config, num_users, sessions=32, users=512, **options):
    """Compares `fused_picks` with `selector`, at the same keys."""
    params, tables = params_of(config), tables_of(num_users)
    inputs = (params, *situations(num_users, sessions), tables)
    fused = functools.partial(
        fused_picks.select_references, tuning=Tuning(users), **options
    )

    picked, values = jax.jit(selecting(config, fused))(*inputs)
    expected, _ = jax.jit(selecting(config, selector.select_references))(*inputs)

    assert picked.dtype == jnp.int32
    same = np.all(np.asarray(picked) == np.asarray(expected), axis=1)
    assert same.mean() > 0.97  # of sessions; rounding moves a number over a boundary
    for user, picks in zip(inputs[2].tolist(), picked.tolist(), strict=True):
        assert len({user, *picks}) == config.k_sel + 1
    errors = value_errors(config, params, *inputs[2:], picked, values)
    assert errors.max() < 2e-5 * max(1, np.abs(values).max())


# --- the same picks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_users", "changes", "users"),
    [
        (50, {"width": 32, "heads": 1, "k_sel": 15}, 16),  # four blocks, one not full
        (20, {"k_sel": 19, "window": 1}, 512),  # everybody, from one block
        (33, {"k_sel": 4, "window": 6}, 8),  # a window that is never filled
    ],
)
def test_picks_and_values_are_those_of_the_plain_selector(num_users, changes, users):
    assert_same_picks(changed(**changes), num_users, users=users, interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_users", [50, 290, 1411])
@pytest.mark.parametrize("k_sel", [1, 5, 15])
def test_picks_are_the_plain_ones_at_the_size_of_data_sets(num_users, k_sel):
    config = changed(k_sel=k_sel, width=32, heads=1)
    assert_same_picks(config, num_users, sessions=100, interpret=True)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="JAX finds no GPU")
@pytest.mark.parametrize(("num_users", "k_sel"), [(50, 15), (290, 15), (1411, 30)])
def test_picks_are_the_plain_ones_on_a_gpu(num_users, k_sel):
    config = changed(k_sel=k_sel, width=32, heads=1)
    with jax.default_matmul_precision("highest"):  # the plain ones would use TF32
        assert_same_picks(config, num_users, sessions=100)


def test_everybody_is_drawn_at_the_quantiles_that_are_hers():
    num_users, config, me = 21, changed(k_sel=1), 4
    params, network = params_of(config), network_of(config)
    context = np.ones(CONTEXT, np.float32)
    codes = selector.encode_users(
        params, tables_of(num_users), network=network, config=config
    )
    of_context = network.encode_context(params, context)
    newest = codes.images[me] + of_context[0]
    query, _ = network.apply(params, newest[None], np.ones(1, bool))
    others = np.delete(np.arange(num_users), me)
    chances = reference.probabilities(codes.keys @ query, np.arange(num_users) != me)
    ends = np.cumsum(chances)
    inside = np.stack([ends - 0.99 * chances, ends - 0.01 * chances])[:, others]

    picks = functools.partial(
        fused_picks.picks_at,
        params=params,
        user=me,
        context=context,
        codes=codes,
        network=network,
        config=config,
        tuning=Tuning(8),
        interpret=True,
    )
    picked, _ = jax.jit(jax.vmap(picks))(inside.reshape(-1, 1).astype(np.float32))

    assert chances[others].min() > 1e-4  # or a quantile would be a matter of rounding
    np.testing.assert_array_equal(picked.ravel(), np.tile(others, 2))


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_unit_interval_draw_somebody_who_is_free(uniform):
    num_users, config = 6, changed(k_sel=5)
    params, network = params_of(config), network_of(config)
    codes = selector.encode_users(
        params, tables_of(num_users), network=network, config=config
    )

    picked, _ = fused_picks.picks_at(
        jnp.full(5, uniform, jnp.float32),
        params,
        0,
        np.ones(CONTEXT, np.float32),
        codes,
        network=network,
        config=config,
        tuning=Tuning(2),
        interpret=True,
    )

    first_to_last = [1, 2, 3, 4, 5]
    assert picked.tolist() == (first_to_last if uniform == 0 else first_to_last[::-1])


def test_seeds_side_by_side_pick_as_each_alone():
    num_users, seeds = 20, 2
    select = selecting(CONFIG, interpreted)
    tables = tables_of(num_users)
    params = [params_of(CONFIG, seed) for seed in range(seeds)]
    inputs = [situations(num_users, 4, seed) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
    all_params = jax.tree.map(lambda *leaves: np.stack(leaves), *params)

    picked, values = jax.jit(jax.vmap(select, (0, 0, 0, 0, None)))(
        all_params, *stacked, tables
    )

    for seed in range(seeds):
        alone = jax.jit(select)(params[seed], *inputs[seed], tables)
        np.testing.assert_array_equal(picked[seed], alone[0])
        np.testing.assert_allclose(values[seed], alone[1], rtol=1e-5, atol=1e-5)
    assert (picked[0] != picked[1]).any()


@pytest.mark.slow
def test_a_collect_with_the_kernel_is_the_plain_one():
    config = tiny("darlr", environment__exit_rule="tags")  # sessions in groups
    program = assemble(config).program
    choose = functools.partial(
        references.learned,
        network=program.selector,
        config=config.selector,
        select=interpreted,
    )
    experiment, state = assemble(config), first_state(config)
    fused = jax.jit(
        functools.partial(collect, program=program._replace(choose_references=choose))
    )

    transitions, _ = fused(
        state, jax.random.key(0), experiment.tables, experiment.coefficients
    )
    expected, _ = roll_out(config, state)

    np.testing.assert_array_equal(transitions.selector.users, expected.selector.users)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, transitions, expected)


# --- compiled, without a device -------------------------------------------------------


@pytest.mark.parametrize(
    ("num_users", "changes"),
    [(290, {"width": 32, "heads": 1, "k_sel": 15}), (27_285, {"k_sel": 30}), (7, {})],
)
def test_the_kernel_is_lowered_for_a_gpu(num_users, changes):
    config = changed(**changes)
    select = selecting(config, fused_picks.select_references)
    stack = functools.partial(jax.tree.map, lambda leaf: jnp.stack([leaf] * 3))
    inputs = (*stack((params_of(config), *situations(num_users, 2))),)
    seeds = jax.jit(jax.vmap(select, (0, 0, 0, 0, None)))

    with use_abstract_mesh(AbstractMesh((), (), abstract_device=H100)):
        traced = seeds.trace(*inputs, tables_of(num_users))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()

    kernels = [line for line in text.splitlines() if "xla.gpu.triton" in line]
    assert len(kernels) == 1
    assert "grid_x = 2 : i32, grid_y = 3 : i32" in kernels[0]  # sessions, seeds


# --- when it is used ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"k_sel": 31, "window": 100, "width": 64}, ""),
        ({"k_sel": 32}, "k_sel must be at most 31, not 32"),
        ({"layers": 2}, "layers must be 1, not 2"),
        ({"width": 24}, "width must be a power of two up to 64"),
        ({"width": 128}, "width must be a power of two up to 64"),
        ({"pool": "nearest"}, "pool must be 'all', not 'nearest'"),
    ],
)
def test_what_the_kernel_cannot_do_has_a_reason(changes, reason):
    found = fused_picks.unsupported(changed(**changes))

    assert found == (f"selector.{reason}" if reason else "")


def test_without_its_backend_the_kernel_is_unsupported(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_picks, "_BACKEND", "jax.experimental.no_such_backend")

    assert not fused_picks.is_chosen(changed(picks="auto"))
    with pytest.raises(ConfigError, match=r"JAX has no jax\.experimental\.no_such"):
        fused_picks.is_chosen(changed(picks="fused"))


def test_on_a_gpu_picks_are_fused_where_they_can_be(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    assert fused_picks.is_chosen(changed(picks="fused"))
    assert not fused_picks.is_chosen(changed(picks="plain"))
    assert fused_picks.is_chosen(changed(picks="auto"))
    assert not fused_picks.is_chosen(changed(picks="auto", layers=2))
    with pytest.raises(ConfigError, match=r"'fused': selector\.layers must be 1"):
        fused_picks.is_chosen(changed(picks="fused", layers=2))


def test_without_a_gpu_picks_are_plain_or_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")

    assert not fused_picks.is_chosen(changed(picks="auto"))
    with pytest.raises(ConfigError, match="needs a GPU, and the device is cpu; set"):
        assemble(tiny("darlr", selector__picks="fused"))
