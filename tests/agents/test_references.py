"""The choosers of reference users behind their one signature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.agents import references, selector
from darlr_jax.config import SelectorConfig
from darlr_jax.networks.selector import make_selector
from darlr_jax.types import UserTables
from tests import reference

USERS, FEATURES, CONTEXT, K_SEL = 6, 3, 2, 3
CONFIG = SelectorConfig(k_sel=K_SEL, width=4)
NETWORK = make_selector(CONFIG, FEATURES, CONTEXT)
FEEDBACK = np.random.default_rng(0).normal(size=(USERS, FEATURES)).astype(np.float32)
NEIGHBOURS = (np.arange(USERS)[:, None] + [1, 3, 2]).astype(np.int32) % USERS
TABLES = UserTables(FEEDBACK, FEEDBACK @ FEEDBACK.T, jnp.asarray(NEIGHBOURS))
USER = jnp.array(4, jnp.int32)


def choose(chooser, key):
    params = reference.random_params(NETWORK)
    codes = NETWORK.encode_users(params, FEEDBACK)
    context = jnp.ones(CONTEXT)
    return jax.jit(chooser)(params, key, USER, context, codes, TABLES)


@pytest.mark.parametrize(
    ("chooser", "pool", "size"),
    [
        (
            functools.partial(references.learned, network=NETWORK, config=CONFIG),
            {0, 1, 2, 3, 5},
            K_SEL,
        ),
        (functools.partial(references.random, k_sel=K_SEL), {0, 1, 2, 3, 5}, K_SEL),
        (references.nearest, {5, 1, 0}, K_SEL),
        (references.itself, {4}, 1),
    ],
    ids=["learned", "random", "nearest", "itself"],
)
def test_choosers_pick_from_their_pool_without_repeats(chooser, pool, size):
    picks = [choose(chooser, jax.random.key(seed)) for seed in range(3)]

    for users, value in picks:
        assert users.shape == value.shape == (size,)
        assert users.dtype == jnp.int32
        assert len(set(users.tolist())) == size
        assert set(users.tolist()) <= pool
    chosen = {tuple(users.tolist()) for users, _ in picks}
    assert (len(chosen) > 1) == (len(pool) > size)  # no choice, no chance


def test_the_learned_chooser_is_the_selector():
    chooser = functools.partial(references.learned, network=NETWORK, config=CONFIG)
    key = jax.random.key(0)

    def select(params, key, user, context, codes, users):
        return selector.select_references(
            params, key, user, context, codes, users, network=NETWORK, config=CONFIG
        )

    found, expected = choose(chooser, key), choose(select, key)

    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[1] != 0).all()
