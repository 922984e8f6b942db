"""update.py: which transitions a minibatch holds, and what learning is told of them."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import recommender, selector
from darlr_jax.agents.a2c import Losses
from darlr_jax.training import update
from darlr_jax.training.update import stored_decisions, update_agents
from darlr_jax.types import Observation, RewardScale, SelectorTrajectory, Transition
from tests import reference_simulation as reference
from tests.simulation.worlds import assemble, first_state, roll_out, tiny

K_SEL, WIDTH = 3, 4
UNIT_SCALE = RewardScale(jnp.zeros(()), jnp.ones(()))


def invented_transitions(lengths, num_turns):
    """Sessions of these lengths; item, user, reward and picks are the slot's id."""
    num_rows = len(lengths)
    ids = np.arange(num_turns * num_rows).reshape(num_turns, num_rows)
    weight = (np.arange(num_turns)[:, None] < np.array(lengths)).astype(np.float32)
    blank = np.zeros(ids.shape, np.float32)
    wide = np.zeros((*ids.shape, K_SEL), np.float32)
    window = np.zeros((*ids.shape, 3), np.int32)
    return Transition(
        user=ids,
        observation=Observation(window, window.astype(np.float32)),
        used=np.zeros((*ids.shape, 0), bool),
        item=ids,
        value=blank,
        reward=ids.astype(np.float32),
        discount=blank,  # so that the return of a slot is its id
        weight=weight,
        selector=SelectorTrajectory(
            np.zeros((*ids.shape, WIDTH), np.float32),
            np.repeat(ids[..., None], K_SEL, axis=-1),
            wide,
            wide + ids[..., None],
        ),
        metrics={},
    )


def record_minibatches(monkeypatch, config, transitions):
    """What both losses are given, minibatch by minibatch, and the reported means."""
    seen = {recommender: [], selector: []}

    def record(module, params, batch):
        seen[module].append(jax.tree.map(np.asarray, batch))
        real = jnp.sum(batch.weight > 0).astype(jnp.float32)
        return jax.tree.map(jnp.zeros_like, params), Losses(real, real, real, real)

    def of_recommender(params, key, batch, scale, *, networks, config):
        return record(recommender, params, batch)

    def of_selector(params, batch, users, *, network, config):
        return record(selector, params, batch)

    monkeypatch.setattr(recommender, "loss_gradients", of_recommender)
    monkeypatch.setattr(selector, "loss_gradients", of_selector)
    # Nothing moves by gradients of zero, and Adam would take its time without jit.
    monkeypatch.setattr(update, "_apply", lambda agent, *_: agent)
    experiment, state = assemble(config), first_state(config)
    with jax.disable_jit():  # scans become loops over arrays that can be looked at
        _, means = update_agents(
            state,
            transitions,
            jax.random.key(0),
            UNIT_SCALE,
            experiment.tables.users,
            program=experiment.program,
        )
    return seen[recommender], seen[selector], means


def real_ids(batch):
    return batch.item[batch.weight > 0].tolist()


def sessions(count, num_turns, num_rows):
    """Lengths of 1 to `num_turns` that add up to `count`."""
    lengths = np.ones(num_rows, int)
    rng = np.random.default_rng(0)
    while lengths.sum() < count:
        row = rng.integers(num_rows)
        lengths[row] += min(num_turns - lengths[row], count - lengths.sum())
    return lengths


FULL = [  # turns, sessions, transitions, sizes of the published code
    (30, 100, 3000, [1024, 1976]),
    (28, 74, 2072, [1024, 1048]),
    (23, 89, 2047, [2047]),
    (32, 64, 2048, [1024, 1024]),
    (5, 8, 40, [40]),
]
RAGGED = [  # sessions that end early: the same sizes, known at run time alone
    (30, 100, 100, [100]),
    (30, 100, 1023, [1023]),
    (30, 100, 1024, [1024]),
    (30, 100, 1500, [1500]),
    (30, 100, 2047, [2047]),
    (30, 100, 2048, [1024, 1024]),
    (30, 100, 2999, [1024, 1975]),
    (5, 8, 13, [13]),
    (40, 100, 3500, [1024, 1024, 1452]),
]


@pytest.mark.parametrize(
    ("can_end_early", "turns", "rows", "count", "sizes"),
    [(False, *case) for case in FULL] + [(True, *case) for case in FULL + RAGGED],
)
def test_each_real_transition_is_learned_from_once(
    monkeypatch, can_end_early, turns, rows, count, sizes
):
    config = tiny(
        "darlr",
        training__batch_size=1024,
        environment__exit_rule="tags" if can_end_early else "none",
    )
    assert sizes == reference.minibatch_sizes(count, 1024)
    transitions = invented_transitions(sessions(count, turns, rows), turns)
    first, second, means = record_minibatches(monkeypatch, config, transitions)
    real = [batch for batch in first if real_ids(batch)]
    assert [len(real_ids(batch)) for batch in real] == sizes
    learned_from = [number for batch in real for number in real_ids(batch)]
    assert sorted(learned_from) == transitions.item[transitions.weight > 0].tolist()
    assert learned_from != sorted(learned_from)  # in a random order
    for batch, of_selector, size in zip(
        real, [b for b in second if np.any(b.weight)], sizes, strict=True
    ):
        kept = batch.weight > 0
        np.testing.assert_allclose(batch.weight[kept], 1 / size, rtol=1e-6)
        np.testing.assert_array_equal(batch.target[kept], batch.item[kept])
        np.testing.assert_array_equal(of_selector.weight, batch.weight)
        np.testing.assert_array_equal(of_selector.user, batch.item)
    # Minibatches without a transition count in no mean.
    np.testing.assert_allclose(means["recommender_total"], np.mean(sizes), rtol=1e-5)
    np.testing.assert_allclose(means["selector_entropy"], np.mean(sizes), rtol=1e-5)


def test_the_order_depends_on_the_key(monkeypatch):
    config = tiny(training__batch_size=1024)
    transitions = invented_transitions([5] * 8, 5)._replace(selector=None)
    batches = record_minibatches(monkeypatch, config, transitions)[0]
    assert real_ids(batches[0]) != sorted(real_ids(batches[0]))


@pytest.mark.parametrize("normalizes", [(True, True), (True, False), (False, True)])
def test_normalized_advantages_have_mean_zero_and_deviation_one(
    monkeypatch, normalizes
):
    agents = ("recommender", "selector")  # each as its own configuration says
    fields = [f"{agent}__normalize_advantage" for agent in agents]
    config = tiny(
        "darlr",
        **dict(zip(fields, normalizes, strict=True)),
        environment__exit_rule="tags",
    )
    transitions = invented_transitions(sessions(37, 5, 16), 5)
    *learned, _ = record_minibatches(monkeypatch, config, transitions)
    for batches, normalized in zip(learned, normalizes, strict=True):
        real = [batch for batch in batches if np.any(batch.weight)]
        assert len(real) == 2
        for batch in real:
            advantage = batch.advantage[batch.weight > 0]
            if normalized:
                np.testing.assert_allclose(advantage.mean(), 0, atol=1e-5)
                np.testing.assert_allclose(advantage.std(), 1, rtol=1e-4)
            else:
                assert advantage.mean() > 10  # what was paid are the slots' ids


# --- returns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("critic_target", "offset"),
    [("return", 0.0), ("mean_reward", 0.0), ("return", 0.25), ("mean_reward", -2.0)],
)
def test_stored_returns_against_sums(critic_target, offset):
    """Recommendations: discounted to the end of the session; picks: to the last one."""
    config = tiny(
        "darlr",
        environment__exit_rule="tags",
        recommender__discount=0.8,
        recommender__critic_target=critic_target,
        recommender__reward_offset=offset,
        selector__discount=0.6,
        selector__critic_target=critic_target,
    )
    transitions, _ = roll_out(config, first_state(config))
    batch, explained = stored_decisions(transitions, assemble(config).program)
    num_turns, rows = transitions.item.shape
    lengths = transitions.weight.sum(axis=0).astype(int)
    assert 1 <= lengths.min() < lengths.max()

    def left(count, discount):  # of an episode that runs to its limit
        if critic_target == "return":
            return np.ones(count)
        return np.array(reference.discounted_returns(np.ones(count), discount))

    turns_left, picks_left = left(num_turns, 0.8), left(K_SEL, 0.6)
    for row, length in enumerate(lengths):
        paid = transitions.reward[:length, row] + offset
        expected = reference.discounted_returns(paid, 0.8)
        for turn in range(length):
            slot = turn * rows + row
            np.testing.assert_allclose(
                batch.recommender.target[slot],
                expected[turn] / turns_left[turn],
                rtol=1e-5,
            )
            np.testing.assert_allclose(
                batch.recommender.advantage[slot],
                expected[turn] - turns_left[turn] * transitions.value[turn, row],
                rtol=1e-4,
                atol=1e-5,
            )
            picks = transitions.selector.reward[turn, row]
            gains = reference.discounted_returns(picks, 0.6)
            np.testing.assert_allclose(
                batch.selector.target[slot], gains / picks_left, rtol=1e-5
            )
            np.testing.assert_allclose(
                batch.selector.advantage[slot],
                gains - picks_left * transitions.selector.value[turn, row],
                rtol=1e-4,
                atol=1e-5,
            )
    assert num_turns * rows == len(batch.recommender.target)
    of_slots = {
        "recommender": np.repeat(turns_left, rows),
        "selector": np.tile(picks_left, (num_turns * rows, 1)),
    }
    for agent, factor in of_slots.items():
        decisions = jax.tree.map(np.asarray, getattr(batch, agent))
        real = decisions.weight > 0
        total, missed = (decisions.target * factor)[real], decisions.advantage[real]
        np.testing.assert_allclose(
            explained[f"{agent}_explained_variance"],
            1 - missed.var() / total.var(),
            rtol=1e-4,
        )


# --- padding --------------------------------------------------------------------------


@functools.cache
def compiled_update(config):
    return jax.jit(functools.partial(update_agents, program=assemble(config).program))


def learn(config, transitions):
    users = assemble(config).tables.users
    key = jax.random.key(3)
    return compiled_update(config)(
        first_state(config), transitions, key, UNIT_SCALE, users
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_what_lies_behind_the_end_of_a_session_is_never_learned(normalize):
    config = tiny(
        "darlr",
        environment__exit_rule="tags",
        recommender__normalize_advantage=normalize,
        selector__normalize_advantage=normalize,
    )
    transitions, _ = roll_out(config, first_state(config))
    assert np.any(transitions.weight == 0)
    rng = np.random.default_rng(0)

    def spoil(leaf):
        dead = np.expand_dims(transitions.weight == 0, tuple(range(2, leaf.ndim)))
        garbage = rng.permutation(leaf.flatten()).reshape(leaf.shape)
        return np.where(dead, garbage * (1 if leaf.dtype != np.float32 else 50), leaf)

    spoilt = jax.tree.map(spoil, transitions)
    spoilt = spoilt._replace(
        weight=transitions.weight, discount=transitions.discount, metrics={}
    )
    assert not np.array_equal(spoilt.item, transitions.item)
    clean = learn(config, transitions._replace(metrics={}))
    chex.assert_trees_all_equal(clean, learn(config, spoilt))


def test_a_minibatch_without_transitions_moves_neither_parameters_nor_adam():
    # 40 slots in batches of 16 make two minibatches; 13 transitions fill only one.
    options = {"environment__exit_rule": "tags"}
    config = tiny("darlr", **options, training__batch_size=16)
    single = tiny("darlr", **options, training__batch_size=40)
    transitions, _ = roll_out(config, first_state(config))
    weight = np.arange(40).reshape(5, 8) < 13
    transitions = transitions._replace(weight=weight.astype(np.float32), metrics={})
    state, losses = learn(config, transitions)
    expected, expected_losses = learn(single, transitions)
    assert state.recommender.opt_state[0].count == 1
    assert state.selector.opt_state[0].count == 1
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)
    close(state.recommender, expected.recommender)
    close(state.selector, expected.selector)
    close(losses, expected_losses)
    start = first_state(config)
    moved = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b))),
        (state.recommender.params, state.selector.params),
        (start.recommender.params, start.selector.params),
    )
    assert max(jax.tree.leaves(moved)) > 1e-4


# --- rates ----------------------------------------------------------------------------


@pytest.mark.parametrize("still", ["recommender", "selector"])
def test_each_agent_has_its_own_learning_rate(still):
    config = tiny("darlr", **{f"{still}__learning_rate": 0.0})
    start = first_state(config)
    transitions, _ = roll_out(config, start)

    state, _ = learn(config, transitions._replace(metrics={}))

    for agent in ("recommender", "selector"):
        before, after = (getattr(s, agent).params for s in (start, state))
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
        assert any(jax.tree.leaves(moved)) == (agent != still)
