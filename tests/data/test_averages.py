"""averages.py against averages taken one by one."""

from __future__ import annotations

import numpy as np
import pytest

from darlr_jax.data import averages
from darlr_jax.data.dataset import InteractionLog


def make_log(users, items, labels):
    stars = np.array(labels, np.float32)
    ids = (np.array(users, np.int32), np.array(items, np.int32))
    return InteractionLog(*ids, stars, stars, times=None)


def test_worked_numbers():
    log = make_log([0, 0, 1, 2, 2], [0, 1, 0, 1, 3], [5, 3, 4, 1, 2])

    np.testing.assert_allclose(averages.global_mean(log, (3, 4)), np.full((3, 4), 3))
    # Item 0: +2 and +1, with one row added 3 / 3. Item 1: 0 and -2. Item 3: -1.
    found = averages.item_means(log, (3, 4), shrinkage=1.0)
    np.testing.assert_allclose(found, [[3 + 1, 3 - 2 / 3, 3, 3 - 1 / 2]] * 3)
    # Users: (2 + 0) / 3, 1 / 2, (-2 - 1) / 3. Item 3 is left with -1 + 1 = 0.
    found = averages.user_and_item_means(log, (3, 4), shrinkage=1.0)
    np.testing.assert_allclose(found[:, 3], [3 + 2 / 3, 3 + 1 / 2, 3 - 1])


@pytest.mark.parametrize("shrinkage", [0.5, 4.0])
def test_match_the_definition(shrinkage):
    rng = np.random.default_rng(0)
    log = make_log(*rng.integers((7, 5, 6), size=(40, 3)).T)
    mean = log.labels.mean(dtype=float)

    def shrunk(ids, wanted, residual):
        own = [r for n, r in zip(ids, residual, strict=True) if n == wanted]
        return sum(own) / (len(own) + shrinkage)

    residual = log.labels - mean
    users = [shrunk(log.users, user, residual) for user in range(7)]
    left = [r - users[u] for u, r in zip(log.users, residual, strict=True)]
    expected = [
        [mean + level + shrunk(log.items, item, left) for item in range(5)]
        for level in users
    ]
    found = averages.user_and_item_means(log, (7, 5), shrinkage)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    expected = [mean + shrunk(log.items, item, residual) for item in range(5)]
    found = averages.item_means(log, (7, 5), shrinkage)
    np.testing.assert_allclose(found, [expected] * 7, rtol=1e-5)
