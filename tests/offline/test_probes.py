"""A decision problem of three states whose optimum is known, learned from its log.

From state 0, item 0 pays 0.5 and ends; item 1 pays nothing and leads to state 1, where
item 1 pays 1; item 2 pays -1 everywhere and ends. Item 3 is never logged: what a
learner thinks of it, it made up. The log takes item 1 seldom: to imitate is not to win.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from darlr_jax.config import OfflineConfig
from tests.offline import tabular

ITEMS, UNLOGGED, GAMMA = 4, 3, 0.9
# (state, item) -> reward, next state or None; logged this often.
LOG = {
    (0, 0): (0.5, None, 5),
    (0, 1): (0.0, 1, 2),
    (0, 2): (-1.0, None, 1),
    (1, 0): (0.3, None, 5),
    (1, 1): (1.0, None, 2),
    (1, 2): (-1.0, None, 1),
}
# Of the logged items, under the best policy.
OPTIMAL = {(0, 0): 0.5, (0, 1): GAMMA, (0, 2): -1.0, (1, 0): 0.3, (1, 1): 1.0}
LOGGED = np.array([[5, 2, 1, 0], [5, 2, 1, 0]]) / 8


def whole_log():
    rows = [
        (state, following or 0, item, reward, GAMMA * (following is not None))
        for (state, item), (reward, following, times) in LOG.items()
        for _ in range(times)
    ]
    return tabular.batch(*zip(*rows, strict=True))


@functools.cache
def learned(name, **changes):
    """Tables after 3,000 gradient steps; of the unlogged item they start at 5."""
    config = OfflineConfig(**changes)
    optimizer = optax.adam(1e-2)
    start = jnp.zeros((2, ITEMS)).at[:, UNLOGGED].set(5.0)
    params = {
        head: start if head in ("value", "critic") else jnp.zeros((2, ITEMS))
        for head in tabular.HEADS[name]
    }
    if name == "cql":
        params = {"value": jnp.repeat(start[..., None], 5, axis=-1)}
    data = whole_log()

    def update(carry, step):
        params, old, opt_state = carry
        old = jax.tree.map(lambda a, b: jnp.where(step % 50 == 0, a, b), params, old)
        grads = jax.grad(lambda p: tabular.loss(name, p, old, data, config)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), old, opt_state), None

    carry = (params, params, optimizer.init(params))
    (params, _, _), _ = jax.jit(
        lambda carry: jax.lax.scan(update, carry, jnp.arange(3000))
    )(carry)
    return params, config


def wants(name, free=None, **changes):
    """What each state wants `[2, I]`."""
    params, config = learned(name, **changes)
    return np.stack(
        [
            tabular.preferences(name, params, state, free, config)
            for state in jnp.arange(2)
        ]
    )


def test_bcq_finds_the_best_logged_item_and_its_value():
    params, _ = learned("bcq", imitation_threshold=0.1, logit_penalty=0.0)
    for (state, item), value in OPTIMAL.items():
        np.testing.assert_allclose(params["value"][state, item], value, atol=0.02)
    wanted = wants("bcq", imitation_threshold=0.1, logit_penalty=0.0)
    assert wanted.argmax(axis=1).tolist() == [1, 1]
    # It still believes that the unlogged item pays 5, but does not ask.
    np.testing.assert_allclose(params["value"][:, UNLOGGED], 5.0)
    assert np.isneginf(wanted[:, UNLOGGED]).all()


def test_bcq_with_a_threshold_near_one_imitates():
    wanted = wants("bcq", imitation_threshold=0.9, logit_penalty=0.0)
    assert np.isfinite(wanted).tolist() == [[True, False, False, False]] * 2


def test_bcq_does_not_fall_for_the_unlogged_item_while_a_logged_one_is_free():
    free = jnp.array([False, False, True, True])
    wanted = wants("bcq", free, imitation_threshold=0.1, logit_penalty=0.0)
    assert wanted.argmax(axis=1).tolist() == [2, 2]


def test_cql_holds_the_unlogged_item_down():
    # Of the right size here: 10 is for returns of tens.
    wanted = wants("cql", conservative_weight=0.05, quantiles=5)
    assert wanted.argmax(axis=1).tolist() == [1, 1]
    assert (wanted[:, UNLOGGED] < wanted[:, 1]).all()
    naive = wants("cql", conservative_weight=0.0, quantiles=5)
    assert naive.argmax(axis=1).tolist() == [UNLOGGED, UNLOGGED]


def test_sqn_recommends_what_was_logged_whatever_its_values_say():
    params, _ = learned("sqn")
    shares = np.exp(wants("sqn"))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, LOGGED, atol=0.02)
    # The values bootstrap from the unlogged item, which is why they do not act.
    np.testing.assert_allclose(params["value"][1, :3], [0.3, 1.0, -1.0], atol=0.02)
    np.testing.assert_allclose(params["value"][0, 1], GAMMA * 5, atol=0.1)


def test_crr_prefers_good_logged_items():
    wanted = wants("crr", conservative_weight=0.0, temperature=0.1)
    assert wanted.argmax(axis=1).tolist() == [1, 1]
    assert wanted.argmin(axis=1).tolist() == [UNLOGGED, UNLOGGED]


def test_crr_weighs_the_log_by_what_items_pay():
    """Where nothing follows: pi ~ mu exp(r / beta)."""
    expected = LOGGED[1, :3] * np.exp([0.3, 1.0, -1.0])
    shares = np.exp(wants("crr", conservative_weight=0.0)[1, :3])
    np.testing.assert_allclose(
        shares / shares.sum(), expected / expected.sum(), atol=0.03
    )


def test_crr_with_the_published_conservative_term_is_squared_popularity():
    """That term alone is least where Q = log mu + c, whence pi ~ mu exp(log mu)."""
    shares = np.exp(wants("crr", conservative_weight=10.0))
    expected = LOGGED**2 / (LOGGED**2).sum(axis=1, keepdims=True)
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=0.03)
