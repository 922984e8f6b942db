"""rollout.py of evaluation: the three modes, and who is evaluated how."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import recommender
from darlr_jax.config import ConfigError, EnvironmentConfig
from darlr_jax.evaluation import rollout
from darlr_jax.evaluation.rollout import (
    MODES,
    check_modes,
    episode,
    evaluate,
    evaluation_tables,
)
from darlr_jax.experiment import init_seeds, make_run_epoch
from darlr_jax.simulation import environment
from darlr_jax.simulation.tables import environment_params
from darlr_jax.types import EMPTY, EpisodeMetrics, Policy
from tests import reference_simulation as reference
from tests.simulation.worlds import assemble, first_state, tiny, tiny_dataset

FB, NX_0, NX_10 = MODES
RULES = {
    "environment__exit_rule": "tags",
    "environment__exit_threshold": 1.0,
    "environment__exit_window": 2,
    "dataset__synthetic__num_items": 14,
}


@functools.cache
def compiled_episodes(config, mode):
    policy = assemble(config).learner.policy
    run = functools.partial(episode, mode=mode, policy=policy, config=config)

    def episodes(params, users, keys, tables):
        def run_one(user, key):
            return run(params, user, key, tables=tables)[0]

        return jax.vmap(run_one, out_axes=1)(users, keys)

    return jax.jit(episodes)


def episodes(config, mode, count=60, params=None, seed=0):
    """Episodes of users 0, 1, ... as lists of (item, reward); and the users."""
    experiment = assemble(config)
    users = np.arange(count) % config.dataset.synthetic.num_users
    params = first_state(config).recommender.params if params is None else params
    found = compiled_episodes(config, mode)(
        params,
        jnp.asarray(users),
        jax.random.split(jax.random.key(seed), count),
        experiment.evaluation,
    )
    found = jax.tree.map(np.asarray, found)
    lengths = found.weights.sum(axis=0).astype(int)
    for column, length in enumerate(lengths):  # real steps come first
        assert found.weights[:length, column].all()
        assert not found.rewards[length:, column].any()
    return [
        list(
            zip(
                found.items[:length, b].tolist(),
                found.rewards[:length, b].tolist(),
                strict=True,
            )
        )
        for b, length in enumerate(lengths)
    ], users


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_episodes_pay_the_truth_and_end_by_the_rules(mode):
    config = tiny(**RULES, environment__max_turn=6)
    dataset = tiny_dataset(config.dataset)
    tags = [set(np.flatnonzero(row).tolist()) for row in dataset.item_tags]
    found, users = episodes(config, mode)
    repeats, lengths = 0, set()
    for user, steps in zip(users, found, strict=True):
        items = [item for item, _ in steps]
        repeats += len(items) - len(set(items))
        lengths.add(len(items))
        assert [paid for _, paid in steps] == dataset.true_reward[user, items].tolist()
        exits = [
            reference.leaves_by_tags(
                item, reference.looked_at(items[:t], 2, True), tags, 1
            )
            for t, item in enumerate(items)
        ]
        if mode.exits:
            assert not any(exits[:-1])
            assert exits[-1] or len(items) == 6
    assert (repeats > 0) == (mode is FB)  # NX never shows an item twice
    if mode is NX_10:
        assert lengths == {10}  # whatever the rule and the turns of the environment
    else:
        assert min(lengths) < 6 == max(lengths)


def test_ten_turns_are_ten_where_the_environment_has_more():
    config = tiny(dataset__synthetic__num_items=14, environment__max_turn=12)
    assert {len(steps) for steps in episodes(config, NX_10)[0]} == {10}
    assert {len(steps) for steps in episodes(config, NX_0)[0]} == {12}


def test_evaluation_draws_by_the_policy():
    """A policy that prefers one item beyond doubt shows it, or the next best one."""
    config = tiny(dataset__synthetic__num_items=14, tracker__kind="transformer")
    params = first_state(config).recommender.params
    bias = jnp.arange(14.0) * 50
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: bias if _is_actor_bias(path) else leaf * 0, params
    )
    for mode, shown in ((FB, [13] * 5), (NX_0, [13, 12, 11, 10, 9])):
        for steps in episodes(config, mode, count=3, params=params)[0]:
            assert [item for item, _ in steps] == shown


def _is_actor_bias(path):
    name = jax.tree_util.keystr(path)
    return "actor'" in name and "'bias'" in name


def test_evaluation_is_without_dropout():
    config = tiny(tracker__kind="transformer", tracker__dropout=0.5)
    experiment, params = assemble(config), first_state(config).recommender.params
    seen = environment.observe(environment.reset(jnp.int32(0), 10, 3), 3)
    networks = experiment.program.recommender
    scale = experiment.evaluation.scale

    def items(explore):
        act = functools.partial(recommender.act, networks=networks, explore=explore)
        drawn = jax.vmap(lambda key: act(params, key, seen, None, scale).item)
        return np.asarray(jax.jit(drawn)(keys))

    keys = jax.random.split(jax.random.key(0), 200)
    policy = jax.vmap(
        lambda key: experiment.learner.policy.act(
            params, key, jnp.int32(0), seen, None, scale
        )
    )
    found = jax.jit(policy)(keys)

    np.testing.assert_array_equal(found, items(explore=False))
    assert np.any(items(explore=True) != items(explore=False))


def test_a_policy_is_shown_the_session_and_what_it_truly_paid():
    """Its whole window, also where the exit rule remembers less; a new key a turn."""
    config = tiny(environment__exit_window=1)
    tables, seen = assemble(config).evaluation, []

    def act(params, key, user, observation, used, scale):
        seen.append((jax.random.key_data(key).tolist(), user, observation, scale))
        return jnp.int32(len(seen))  # items 1, 2, ...

    run = functools.partial(episode, tables=tables, mode=FB, config=config)
    with jax.disable_jit():  # the turns are a Python loop
        run({}, jnp.int32(4), jax.random.key(0), policy=Policy(act))
    pays = np.asarray(tables.true_reward)[4]
    for turn, (_, user, observation, scale) in enumerate(seen):
        past = list(range(1, turn + 1))
        items = reference.newest_first(past, 10, EMPTY, 3)
        paid = reference.newest_first(
            pays[past].tolist(), reference.START_REWARD, 0.0, 3
        )
        assert observation.items.tolist() == items
        assert observation.rewards.tolist() == paid
        assert (user, scale) == (4, tables.scale)
    assert len(np.unique([key for key, *_ in seen], axis=0)) == len(seen) == 5


def test_true_rewards_enter_the_state_over_their_range():
    config = tiny()
    truth = tiny_dataset(config.dataset).true_reward
    assert assemble(config).evaluation.scale == (truth.min(), truth.max())


# --- who is evaluated -----------------------------------------------------------------


@functools.cache
def compiled_evaluate(config):
    policy = assemble(config).learner.policy
    return jax.jit(functools.partial(evaluate, policy=policy, config=config))


def evaluation(config, params_seed=0, key=0, **tables):
    """All metrics as numbers, of an untrained policy."""
    truth = assemble(config).evaluation._replace(**tables)
    params = first_state(config, params_seed).recommender.params
    found, after = compiled_evaluate(config)(params, jax.random.key(key), truth)
    chex.assert_trees_all_equal(after, params)  # A2C learns nothing from evaluation
    return {name: float(value) for name, value in found.items()}


def test_every_metric_of_every_mode_is_there():
    found = evaluation(tiny(**RULES))
    metrics = (*EpisodeMetrics._fields, "all_users_R_tra")
    expected = {f"{mode.name}_{metric}" for mode in MODES for metric in metrics}
    assert set(found) == expected
    without = evaluation(tiny(**RULES, evaluation__all_users=False))
    assert set(without) == {name for name in expected if "all_users" not in name}
    for name in without:
        assert without[name] == found[name]


def test_all_users_share_common_random_numbers():
    config = tiny(**RULES)
    first, second = evaluation(config, key=1), evaluation(config, key=2)
    for mode in MODES:
        name = f"{mode.name}_all_users_R_tra"
        assert first[name] == second[name]
        assert first[f"{mode.name}_R_tra"] != second[f"{mode.name}_R_tra"]
    other = evaluation(config, params_seed=1)
    assert other["FB_all_users_R_tra"] != first["FB_all_users_R_tra"]


def test_all_users_are_every_user_once():
    config = tiny()  # five turns; what a user pays tells who she is
    levels = jnp.asarray(2.0 ** np.arange(12), jnp.float32)
    pays = jnp.broadcast_to(levels[:, None], (12, 10))
    found = evaluation(config, true_reward=pays)
    assert found["FB_all_users_R_tra"] == pytest.approx(5 * float(levels.mean()))
    assert found["NX_10_all_users_R_tra"] == pytest.approx(10 * float(levels.mean()))


@pytest.mark.parametrize("heavy", [np.arange(12) < 6, np.arange(12) >= 6])
def test_coverage_by_activity_is_of_the_users_who_were_drawn(heavy):
    """Of six sessions some are of users behind the first six, and some of those."""
    found = evaluation(tiny(), activity=jnp.asarray(2 * heavy))
    assert found["FB_CV_heavy"] > 0
    assert found["FB_CV_light"] > 0
    assert found["FB_CV_medium"] == 0


def test_the_same_key_draws_the_same_users_whatever_the_method():
    pays = jnp.broadcast_to(jnp.asarray(2.0 ** np.arange(12))[:, None], (12, 10))
    methods = [
        tiny("mbpo"),
        tiny("darlr", tracker__kind="transformer"),
    ]
    drawn = [
        [evaluation(config, seed, key, true_reward=pays)["FB_R_tra"] for key in (1, 2)]
        for seed, config in enumerate(methods)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
    modes = evaluation(methods[0], 0, 1, true_reward=pays)
    assert modes["FB_R_tra"] != modes["NX_0_R_tra"]  # users of its own for each mode


def test_users_evaluated_in_blocks_are_evaluated_alike(monkeypatch):
    config = tiny(**RULES)
    whole = evaluation(config)
    monkeypatch.setattr(rollout, "_USERS_AT_ONCE", 5)  # of 6 drawn and 12 users
    policy = assemble(config).learner.policy
    blocks = jax.jit(functools.partial(evaluate, policy=policy, config=config))
    params = first_state(config).recommender.params
    found, _ = blocks(params, jax.random.key(0), assemble(config).evaluation)
    for name, value in whole.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6)


# --- a policy that learns from what it recommends -------------------------------------


def scripted(update):
    """Recommends item n modulo I after n recommendations; `update` counts them."""

    def act(params, key, user, observation, used, scale):
        return params["shown"] % 10

    return Policy(act, update)


def count_shown(params, item, weight):
    return params | {"shown": params["shown"] + weight.astype(jnp.int32)}


def run_scripted(update, **changes):
    config = tiny(**changes)  # five turns, ten items
    evaluate_scripted = functools.partial(
        evaluate, policy=scripted(update), config=config
    )
    params = {"shown": jnp.zeros((), jnp.int32), "untouched": jnp.arange(3.0)}
    truth = assemble(config).evaluation._replace(
        true_reward=jnp.broadcast_to(jnp.arange(10.0), (12, 10))
    )
    found, after = jax.jit(evaluate_scripted)(params, jax.random.key(0), truth)
    return {name: float(value) for name, value in found.items()}, after


def test_drawn_users_are_met_one_after_another_and_all_users_are_forgotten():
    found, after = run_scripted(count_shown, evaluation__episodes=4)
    assert int(after["shown"]) == 4 * (5 + 5 + 10)  # the drawn episodes of three modes
    np.testing.assert_array_equal(after["untouched"], [0, 1, 2])
    # 0..4 then 5..9, twice; with every mode as many begin at 0 as at 5
    assert found["FB_R_tra"] == found["NX_0_R_tra"] == (10 + 35) / 2
    assert found["NX_10_R_tra"] == 45
    # every one of all users starts where the drawn ones ended: at 20, 40, 80
    assert found["FB_all_users_R_tra"] == found["NX_0_all_users_R_tra"] == 10


def test_recommendations_to_users_who_have_left_do_not_count():
    changes = {"environment__exit_rule": "tags", "environment__exit_threshold": 0.0}
    found, after = run_scripted(
        count_shown, evaluation__episodes=7, environment__exit_window=1, **changes
    )
    assert found["FB_len_tra"] < 5
    made = 7 * (found["FB_len_tra"] + found["NX_0_len_tra"] + found["NX_10_len_tra"])
    assert int(after["shown"]) == round(made)


def test_without_an_update_everybody_meets_the_same_policy():
    found, after = run_scripted(None, evaluation__episodes=4)
    assert int(after["shown"]) == 0
    assert found["FB_CV"] == pytest.approx(0.1)  # item 0 alone


# --- the anchors of Coat --------------------------------------------------------------


@pytest.fixture(scope="module")
def coat(data_dir):
    from darlr_jax.data import coat as coat_lib

    return coat_lib.load(data_dir)


def _top(matrix, count):
    return np.sort(matrix, axis=-1)[..., -count:].sum(axis=-1)


@pytest.mark.data
def test_rankings_of_the_true_matrix_of_coat(coat):
    truth = coat.true_reward.astype(np.float64)
    assert truth.mean() == pytest.approx(2.2337, abs=5e-5)
    assert _top(truth, 30).mean() == pytest.approx(88.15, abs=0.005)  # oracle
    assert _top(truth, 10).mean() == pytest.approx(31.00, abs=0.005)
    assert _top(truth.mean(axis=0), 30) == pytest.approx(84.11, abs=0.005)  # common
    assert 30 * truth.max(axis=1).mean() == pytest.approx(100.66, abs=0.005)


@pytest.mark.data
@pytest.mark.parametrize(("mode", "published"), [(NX_0, 67.01), (NX_10, 22.34)])
def test_a_uniform_policy_on_coat(coat, mode, published):
    """All users, 20 times: the published number within four standard errors.

    A session draws n of N items without replacement, so that its sum has the variance
    n (N - n) / (N - 1) times that of the user's row; users are not drawn at all.
    """
    config = tiny(
        environment__max_turn=30,
        environment__exit_rule="distance",
        environment__exit_threshold=0.0,
        dataset__synthetic__num_users=coat.num_users,
        dataset__synthetic__num_items=coat.num_items,
    )
    params = first_state(config).recommender.params
    uniform = params._replace(
        actor_critic=jax.tree.map(jnp.zeros_like, params.actor_critic)
    )
    tables = evaluation_tables(coat, environment_params(coat, config))
    repeats, turns = 20, 10 if mode is NX_10 else 30
    users = jnp.tile(jnp.arange(coat.num_users), repeats)
    keys = jax.random.split(jax.random.key(0), len(users))
    found = compiled_episodes(config, mode)(
        uniform, users, keys, jax.tree.map(jnp.asarray, tables)
    )
    assert np.all(np.asarray(found.weights).sum(axis=0) == turns)
    spread = coat.true_reward.astype(np.float64).var(axis=1).mean()
    variance = spread * turns * (coat.num_items - turns) / (coat.num_items - 1)
    error = np.sqrt(variance / len(users))
    assert error < 0.06
    score = np.asarray(found.rewards).sum(axis=0).mean()
    assert score == pytest.approx(published, abs=4 * error + 0.005)


# --- sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_items", "max_turn", "message"),
    [(29, 30, "NX_0 .* 29 items for 30 turns.*environment.max_turn=29"),
     (9, 5, "NX_10 .* 9 items for 10 turns.*data with as many items")],
)  # fmt: skip
def test_modes_without_repeats_need_as_many_items(num_items, max_turn, message):
    environment = EnvironmentConfig(max_turn=max_turn)
    check_modes(max(max_turn, 10), environment)
    with pytest.raises(ConfigError, match=message):
        check_modes(num_items, environment)


def test_an_evaluation_needs_as_many_items_as_turns():
    """Whoever assembles an experiment in Python is told, too."""
    experiment = assemble(tiny(dataset__synthetic__num_items=9))
    states = jax.eval_shape(lambda: init_seeds(experiment, [0]))
    epoch = make_run_epoch(experiment.learner)
    with pytest.raises(ConfigError, match=r"NX_10 .* 9 items for 10 turns"):
        jax.eval_shape(epoch, states, *experiment[1:])
