"""The four losses: worked numbers, NumPy references, and what they are constant in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.config import OfflineConfig
from darlr_jax.offline import bcq, cql, crr
from darlr_jax.offline.objective import conservative_gap
from tests.offline import tabular

STATES, ITEMS, SIZE, N = 5, 4, 40, 3


def random_case(name, seed=0):
    """Tables of the online and of the target network, and a minibatch."""
    rng = np.random.default_rng(seed)
    shape = (STATES, ITEMS, N) if name == "cql" else (STATES, ITEMS)
    params, old = (
        {
            head: rng.normal(0, 2, shape).astype(np.float32)
            for head in tabular.HEADS[name]
        }
        for _ in range(2)
    )
    data = tabular.batch(
        rng.integers(0, STATES, SIZE),
        rng.integers(0, STATES, SIZE),
        rng.integers(0, ITEMS, SIZE),
        rng.normal(0, 3, SIZE),
        np.where(rng.random(SIZE) < 0.3, 0.0, 0.729),
    )
    return params, old, data


def compute(name, params, old, data, config):
    to_jax = lambda tree: jax.tree.map(jnp.asarray, tree)  # noqa: E731
    value, metrics = tabular.loss(name, to_jax(params), to_jax(old), data, config)
    return float(value), {key: float(metric) for key, metric in metrics.items()}


# --- NumPy, a row at a time -----------------------------------------------------------


def huber(error):
    small = abs(error) <= 1
    return 0.5 * error**2 if small else abs(error) - 0.5


def log_softmax(row):
    return row - row.max() - np.log(np.sum(np.exp(row - row.max())))


def rows_of(data):
    fields = (data.state, data.following, data.item, data.returns, data.discount)
    return zip(*(np.asarray(field).tolist() for field in fields), strict=True)


def slow_sqn(params, old, data, config):
    total = 0.0
    for state, following, item, returns, discount in rows_of(data):
        best = np.argmax(params["value"][following])
        target = returns + discount * old["value"][following, best]
        total += huber(params["value"][state, item] - target)
        total -= log_softmax(params["supervised"][state])[item]
    return total / SIZE


def slow_bcq(params, old, data, config):
    total = 0.0
    for state, following, item, returns, discount in rows_of(data):
        likely = np.exp(log_softmax(params["imitation"][following]))
        allowed = likely / likely.max() >= config.imitation_threshold
        values = params["value"][following]
        best = max(np.flatnonzero(allowed), key=lambda a: values[a])
        target = returns + discount * old["value"][following, best]
        total += huber(params["value"][state, item] - target)
        logits = params["imitation"][state]
        total -= log_softmax(logits)[item]
        total += config.logit_penalty * np.mean(logits**2)
    return total / SIZE


def slow_cql(params, old, data, config):
    total = 0.0
    for state, following, item, returns, discount in rows_of(data):
        best = np.argmax(params["value"][following].mean(axis=-1))
        targets = returns + discount * old["value"][following, best]
        for i, quantile in enumerate(params["value"][state, item]):
            level = (i + 0.5) / N
            for target in targets:
                error = target - quantile
                total += abs(level - (error < 0)) * huber(error) / N
        values = params["value"][state].mean(axis=-1)
        gap = np.log(np.sum(np.exp(values))) - values[item]
        total += config.conservative_weight * gap
    return total / SIZE


def slow_crr(params, old, data, config):
    total = 0.0
    for state, following, item, returns, discount in rows_of(data):
        old_policy = np.exp(log_softmax(old["actor"][following]))
        target = returns + discount * old_policy @ old["critic"][following]
        values = params["critic"][state]
        total += 0.5 * (values[item] - target) ** 2
        log_probs = log_softmax(params["actor"][state])
        advantage = values[item] - np.exp(log_probs) @ values
        weight = min(np.exp(advantage / config.temperature), config.weight_cap)
        total -= weight * log_probs[item]
        gap = np.log(np.sum(np.exp(values))) - values[item]
        total += config.conservative_weight * gap
    return total / SIZE


SLOW = {"sqn": slow_sqn, "bcq": slow_bcq, "cql": slow_cql, "crr": slow_crr}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_against_numpy(name, seed):
    config = OfflineConfig(
        imitation_threshold=0.3,
        conservative_weight=1.7,
        temperature=0.5,
        weight_cap=4.0,
    )
    params, old, data = random_case(name, seed)
    value, _ = compute(name, params, old, data, config)
    np.testing.assert_allclose(value, SLOW[name](params, old, data, config), rtol=1e-5)


@pytest.mark.parametrize("name", SLOW)
def test_targets_are_constants_and_ends_are_worth_nothing(name):
    params, old, data = random_case(name)
    params = jax.tree.map(jnp.asarray, params)
    old = jax.tree.map(jnp.asarray, old)

    def of(old, following, discount):
        changed = data._replace(
            following=following, old_following=following, discount=discount
        )
        return tabular.loss(name, params, old, changed, OfflineConfig())[0]

    gradient = jax.grad(of)(old, data.following, data.discount)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
    ended = jnp.zeros(SIZE)
    there, elsewhere = of(old, data.following, ended), of(old, data.state, ended)
    assert there == elsewhere


@pytest.mark.parametrize("name", SLOW)
def test_the_target_network_is_asked_in_the_states_of_its_own_tracker(name):
    """Its states numbered otherwise, and its tables with them: nothing changes."""
    params, old, data = random_case(name)
    expected, _ = compute(name, params, old, data, OfflineConfig())
    number = np.roll(np.arange(STATES), 2)  # of each state, to the target's tracker
    old = {head: table[np.argsort(number)] for head, table in old.items()}
    data = data._replace(old_following=jnp.asarray(number)[data.following])
    value, _ = compute(name, params, old, data, OfflineConfig())
    assert value == pytest.approx(expected, rel=1e-6)


# --- worked numbers -------------------------------------------------------------------


def test_quantile_loss_by_hand():
    """Levels 1/4 and 3/4; one target of 1: errors 1 and -2, Huber 0.5 and 1.5."""
    found = cql.quantile_loss(jnp.array([0.0, 3.0]), jnp.array([1.0]))
    np.testing.assert_allclose(found, 0.25 * 0.5 + 0.25 * 1.5)


def test_conservative_gap_by_hand():
    values = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
    found = conservative_gap(values, jnp.array([1]))
    np.testing.assert_allclose(found, [np.log(8 / 2)], rtol=1e-6)


def test_supported_actions_by_hand():
    """G = 0.5, 0.3, 0.2: ratios 1, 0.6, 0.4. Used actions are not compared with."""
    logits, values = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.array([-3.0, -2.0, -1.0])

    def supported(threshold, free=None):
        config = OfflineConfig(imitation_threshold=threshold)
        return bcq.supported_values(values, logits, free, config).tolist()

    none = float("-inf")
    assert supported(0.59) == [-3, -2, none]
    assert supported(0.61) == [-3, none, none]
    assert supported(0.61, jnp.array([False, True, True])) == [none, -2, -1]
    assert supported(1.0) == [-3, none, none]  # the most likely one, always


def test_weights_of_crr_by_hand():
    """A uniform policy over Q = 0, 4: V = 2, A = -2 and 2."""
    values, logits = jnp.array([[0.0, 4.0]] * 2), jnp.zeros((2, 2))
    items = jnp.array([0, 1])
    config = OfflineConfig(temperature=2.0, weight_cap=20.0)
    found = crr.action_weight(values, logits, items, config)
    np.testing.assert_allclose(found, np.exp([-1.0, 1.0]), rtol=1e-6)
    config = OfflineConfig(temperature=0.5, weight_cap=20.0)
    found = crr.action_weight(values, logits, items, config)
    np.testing.assert_allclose(found, [np.exp(-4.0), 20.0], rtol=1e-6)


def test_the_weight_of_crr_does_not_teach_the_critic():
    """The weighted regression alone: the critic has no gradient of it."""
    params, old, data = random_case("crr")
    config = OfflineConfig(conservative_weight=0.0)

    def policy_loss(params):
        return tabular.loss("crr", params, old, data, config)[1]["policy_loss"]

    old = jax.tree.map(jnp.asarray, old)
    gradient = jax.grad(policy_loss)(jax.tree.map(jnp.asarray, params))
    assert not gradient["critic"].any()
    assert gradient["actor"].any()
