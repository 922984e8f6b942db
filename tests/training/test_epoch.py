"""epoch.py and experiment.py: reductions, determinism, and what is compiled."""

from __future__ import annotations

import functools
import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.config import replace
from darlr_jax.experiment import init_seeds, make_run_epoch, run_epoch
from darlr_jax.runs.fields import is_read
from darlr_jax.training import epoch as epoch_lib
from darlr_jax.training.epoch import train_epoch
from darlr_jax.training.program import coefficients_of
from darlr_jax.types import UNVISITED
from tests.simulation.worlds import (
    assemble,
    compiled_epoch,
    first_state,
    roll_out,
    tiny,
)

SEEDS = [7, 1, 5]
# Everything that draws numbers: both agents, dropout, users who leave. An epoch is one
# collect, so that what is drawn does not yet hang on the last bit of the parameters.
DARLR = tiny(
    "darlr",
    environment__exit_rule="tags",
    tracker__kind="transformer",
    training__steps_per_epoch=2,
)


def train(config, seeds=SEEDS, epochs=2):
    """The states after `epochs`, and the metrics of each."""
    experiment = assemble(config)
    states, history = init_seeds(experiment, seeds), []
    for _ in range(epochs):
        states, metrics = run_epoch(experiment, compiled_epoch(config), states)
        history.append(jax.device_get(metrics))
    return states, history


def values_of(tree):
    """A tree of arrays, keys as the numbers that they hold."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(
        lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf),
        tree,
    )


def difference(first, second):
    gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), first, second)
    return max(jax.tree.leaves(gaps))


# --- reductions -----------------------------------------------------------------------


def test_darlr_with_itself_as_reference_and_no_lambda_is_mbpo():
    """Bit for bit, with a tracker that drops out: both draw the same numbers."""
    same = {
        "tracker__kind": "transformer",
        "tracker__fresh_items": False,
        "tracker__readout": "newest",
        "environment__exit_rule": "tags",
        "reward__lambda_u": 0.0,
        "reward__lambda_e": 0.0,
        "selector__lambda_s": 0.0,
        "selector__lambda_d": 0.0,
    }
    mbpo, mbpo_history = train(tiny("mbpo", **same))
    darlr, darlr_history = train(tiny("darlr_self", **same))
    chex.assert_trees_all_equal(darlr.recommender, mbpo.recommender)
    for ours, theirs in zip(darlr_history, mbpo_history, strict=True):
        common = {name: ours[name] for name in theirs}
        chex.assert_trees_all_equal(common, theirs)
    assert darlr.previous_estimates.size  # the one does keep estimates, the other not
    assert not mbpo.previous_estimates.size


def test_a_control_depends_on_no_field_of_a_selector_that_learns():
    """Bit for bit, with references that are drawn: `fields.is_read` says which."""
    others = {
        **{"lambda_s": 3.0, "lambda_d": 2.0, "reward_estimate": "item_centred"},
        **{"item_in_state": True, "window": 2, "user_block": 7},
        **{"width": 16, "layers": 2, "critic_target": "mean_reward"},
        **{"discount": 0.5, "normalize_advantage": True, "learning_rate": 0.1},
    }
    config = tiny("darlr_random")
    assert not any(is_read(f"selector.{name}", config) for name in others)
    assert is_read("selector.k_sel", config)
    changed = replace(config, {f"selector.{name}": v for name, v in others.items()})
    (states, history), (same, again) = train(config), train(changed)
    chex.assert_trees_all_equal(values_of(states), values_of(same))
    chex.assert_trees_all_equal(history, again)


def test_an_agent_without_a_tracker_depends_on_no_field_of_one():
    """Bit for bit; but for the items' vectors, which a selector may be shown."""
    others = {"window": 2, "start_reward": "one"}
    others |= {"layers": 2, "dropout": 0.5, "readout": "published"}
    config = tiny("mbpo", tracker__kind="none")
    assert not any(is_read(f"tracker.{name}", config) for name in others)
    changed = replace(config, {f"tracker.{name}": v for name, v in others.items()})
    (states, history), (same, again) = train(config), train(changed)
    chex.assert_trees_all_equal(values_of(states), values_of(same))
    chex.assert_trees_all_equal(history, again)


@pytest.mark.parametrize("name", ["lambda_u", "lambda_e", "lambda_s", "lambda_d"])
def test_each_lambda_moves_what_is_learned(name):
    experiment = assemble(DARLR)
    changed = experiment.coefficients._replace(**{name: jnp.asarray(0.5)})
    params = []
    for coefficients in (experiment.coefficients, changed):
        trained, _ = compiled_epoch(DARLR)(
            init_seeds(experiment, SEEDS), *experiment[1:3], coefficients
        )
        params.append(trained)
    agent = "selector" if name in ("lambda_s", "lambda_d") else "recommender"
    first, second = (getattr(state, agent).params for state in params)
    assert difference(first, second) > 1e-4


# --- determinism ----------------------------------------------------------------------


def test_same_seed_twice_is_bit_equal():
    first, second = train(DARLR), train(DARLR)
    chex.assert_trees_all_equal(values_of(first[0]), values_of(second[0]))
    chex.assert_trees_all_equal(first[1], second[1])


def test_different_seeds_differ():
    states, _ = train(DARLR)
    for agent in (states.recommender, states.selector):
        first = jax.tree.map(lambda leaf: leaf[0], agent.params)
        second = jax.tree.map(lambda leaf: leaf[1], agent.params)
        assert difference(first, second) > 1e-3


def test_one_seed_alone_is_its_row_under_vmap():
    experiment = assemble(DARLR)
    alone = jax.jit(functools.partial(train_epoch, program=experiment.program))
    together, _ = train(DARLR, epochs=1)
    for row, seed in enumerate(SEEDS):
        state, _ = alone(
            first_state(DARLR, seed), experiment.tables, experiment.coefficients
        )
        expected = jax.tree.map(lambda leaf, row=row: leaf[row], values_of(together))
        found = values_of(state)
        for agent in ("recommender", "selector"):
            chex.assert_trees_all_close(
                without_key_bias(getattr(found, agent).params),
                without_key_bias(getattr(expected, agent).params),
                rtol=1e-4,
                atol=1e-5,
            )
        np.testing.assert_allclose(
            found.previous_estimates, expected.previous_estimates, rtol=1e-5
        )
        np.testing.assert_array_equal(found.key, expected.key)
        assert (found.epoch, found.env_steps) == (1, expected.env_steps)


def without_key_bias(params):
    """All leaves but those that move nothing: a bias that all keys of a softmax share.

    Their gradient is rounding error, which Adam scales up to the learning rate.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    idle = re.compile(r"\['(user_)?key'\].*\['bias'\]")
    return {name: leaf for name, leaf in named.items() if not idle.search(name)}


def test_seeds_do_not_see_each_other():
    states, _ = train(DARLR, SEEDS, epochs=1)
    reordered, _ = train(DARLR, SEEDS[::-1], epochs=1)
    expected = jax.tree.map(lambda leaf: leaf[::-1], values_of(reordered.recommender))
    chex.assert_trees_all_equal(values_of(states.recommender), expected)


def test_no_key_is_used_twice():
    """JAX's own checker over a whole epoch of both agents, dropout included."""
    experiment = assemble(DARLR)
    state = first_state(DARLR)
    clone = jax.random.clone  # the cached state is not ours to consume
    state = state.replace(
        key=clone(state.key), evaluation_key=clone(state.evaluation_key)
    )
    with jax.debug_key_reuse(True):
        epoch = jax.jit(functools.partial(train_epoch, program=experiment.program))
        following, _ = epoch(state, experiment.tables, experiment.coefficients)
        assert following.epoch == 1
        with pytest.raises(jax.errors.KeyReuseError, match="Previously-consumed"):
            epoch(state, experiment.tables, experiment.coefficients)


# --- an epoch -------------------------------------------------------------------------


@pytest.fixture
def one_epoch(monkeypatch):
    """Runs `train_epoch` on a collect that is given, without learning from it."""

    def run(config, state, transitions, store):
        monkeypatch.setattr(epoch_lib, "collect", lambda *_, **__: (transitions, store))
        learned = {"recommender_total": jnp.float32(2.5)}
        monkeypatch.setattr(
            epoch_lib, "update_agents", lambda s, *_, **__: (s, learned)
        )
        experiment = assemble(config)
        epoch = functools.partial(train_epoch, program=experiment.program)
        return jax.jit(epoch)(state, experiment.tables, experiment.coefficients)

    return run


@pytest.mark.parametrize(("steps", "made"), [(2, 40), (40, 40), (41, 80), (80, 80)])
def test_an_epoch_collects_until_it_has_its_steps(one_epoch, steps, made):
    config = tiny()  # 8 sessions of 5 turns a collect
    state = first_state(config)
    collected = roll_out(config, state)
    config = replace(config, {"training.steps_per_epoch": steps})
    for epoch in (1, 2):
        state, _ = one_epoch(config, state, *collected)
        assert (state.epoch, state.env_steps) == (epoch, epoch * made)


def test_what_a_collect_stores_the_next_one_finds():
    experiment = assemble(DARLR)
    states, known = init_seeds(experiment, SEEDS), []
    for _ in range(3):  # collects, of an epoch each
        states, _ = run_epoch(experiment, compiled_epoch(DARLR), states)
        known.append(np.asarray(states.previous_estimates) != UNVISITED)
    assert known[0].any()
    for before, after in itertools.pairwise(known):
        assert (after >= before).all()
        assert after.sum() > before.sum()


def test_metrics_are_means_over_real_transitions(one_epoch):
    config = tiny(
        "darlr",
        environment__exit_rule="tags",
        training__steps_per_epoch=2,
        dataset__synthetic__num_items=4,
    )
    state = first_state(config)
    _, store = roll_out(config, state, 1)
    transitions, store = roll_out(config, state.replace(previous_estimates=store), 2)
    _, found = one_epoch(config, state, transitions, store)
    alive = transitions.weight > 0
    assert found["recommender_total_loss"] == 2.5
    values = {name: value[alive] for name, value in transitions.metrics.items()}
    for name in ("estimate", "shaped_reward", "penalty", "similarity", "inflation"):
        np.testing.assert_allclose(found[name], values[name].mean(), rtol=1e-4)
    paid = transitions.reward[alive].mean()
    np.testing.assert_allclose(found["shaped_reward"], paid, rtol=1e-4)
    penalty = values["penalty"] / config.reward.lambda_u
    first = values["first_visits"] > 0
    assert 0 < first.mean() < 1
    for name, rows in (("first", first), ("repeat", ~first)):
        expected = penalty[rows].mean()
        np.testing.assert_allclose(found[f"uncertainty_{name}"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["first_visit_share"], first.mean(), rtol=1e-5)
    counts = np.bincount(transitions.selector.users[alive].ravel())
    shares = [count / counts.sum() for count in counts if count]
    effective = math.exp(-sum(share * math.log(share) for share in shares))
    np.testing.assert_allclose(found["effective_users_picked"], effective, rtol=1e-4)
    base = np.asarray(assemble(config).tables.rewards.base)
    own = base[transitions.user, transitions.item][alive]
    inflation = (values["estimate"] - own).mean()
    np.testing.assert_allclose(found["inflation"], inflation, rtol=1e-3, atol=1e-5)


# --- what is compiled -----------------------------------------------------------------


def test_three_epochs_are_traced_once():
    experiment = assemble(DARLR)
    learn = experiment.learner.train_epoch
    once = chex.assert_max_traces(lambda *inputs: learn(*inputs), n=1)
    epoch = make_run_epoch(experiment.learner._replace(train_epoch=once))
    states = init_seeds(experiment, SEEDS)
    for _ in range(3):
        states, _ = run_epoch(experiment, epoch, states)
    # Nor do other coefficients need another program: they are traced.
    changes = {
        "reward.lambda_u": 0.7,
        "reward.lambda_e": 0.0,
        "selector.lambda_s": -3.0,
        "selector.lambda_d": 2.0,
        "reward.denominator_floor": 0.5,
    }
    other = experiment._replace(coefficients=coefficients_of(replace(DARLR, changes)))
    states, _ = run_epoch(other, epoch, states)
    assert states.epoch.tolist() == [4] * len(SEEDS)


def test_coefficients_are_of_all_or_one_each():
    """One that alone has an axis would be taken for the axis of something else."""
    experiment = assemble(DARLR)
    mixed = experiment.coefficients._replace(lambda_s=jnp.zeros(len(SEEDS)))
    states = init_seeds(experiment, SEEDS)
    with pytest.raises(AssertionError, match="rank"):
        jax.eval_shape(
            make_run_epoch(experiment.learner),
            *(states, experiment.tables, experiment.evaluation, mixed),
        )


def test_an_epoch_moves_nothing_between_host_and_device():
    experiment = assemble(DARLR)
    epoch = compiled_epoch(DARLR)
    states, _ = run_epoch(experiment, epoch, init_seeds(experiment, SEEDS))
    with jax.transfer_guard("disallow"):
        states, metrics = run_epoch(experiment, epoch, states)
        jax.block_until_ready(metrics)
        with pytest.raises(RuntimeError, match="transfer"):  # the guard does watch
            jnp.add(states.epoch, np.ones(len(SEEDS), np.int32))


def test_variants_train_and_stay_finite():
    """The switches that the other tests leave alone, all at once where they combine."""
    config = tiny(
        "darlr",
        reward__overwrite=True,
        recommender__mask_used_items=True,
        recommender__normalize_advantage=True,
        recommender__entropy_weight=0.01,
        selector__normalize_advantage=True,
        selector__item_in_state=True,
        selector__center_feedback=True,
        selector__reward_estimate="user_centred",
        training__warm_up_epochs=1,
    )
    states, history = train(config, [0], epochs=2)
    for metrics in history:
        assert all(np.isfinite(value).all() for value in metrics.values())
    start = init_seeds(assemble(config), [0])
    for agent in ("recommender", "selector"):
        before, after = (getattr(s, agent).params for s in (start, states))
        assert difference(before, after) > 1e-3
