"""A hand-made data set of 12 x 10 cells, of which the environment has 3 x 4."""

import dataclasses

import jax
import numpy as np
import pytest

from darlr_jax.data.dataset import CategoricalFeature, Dataset, InteractionLog
from tests import reference

USERS, ITEMS = 12, 10
AGES = np.array([[2], [0], [1]] * 4, np.int32)
TAGS = np.array([[1, 2], [3, 0], [0, 0], [2, 0], [2, 1]] * 2, np.int32)


def make_log(rows):
    """A log of (user, item, label) rows."""
    users, items, labels = zip(*rows, strict=True)
    stars = np.array(labels, np.float32)
    return InteractionLog(
        np.array(users, np.int32), np.array(items, np.int32), stars, stars, times=None
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Label 4 for even items, 2 for odd ones, half a star for the user's parity.

    A random 80 of the cells are logged, the others held out. Not to be modified.
    """
    cells = [
        (user, item, 4.0 - 2 * (item % 2) + 0.5 * (user % 2))
        for user in range(USERS)
        for item in range(ITEMS)
    ]
    order = np.random.default_rng(0).permutation(len(cells))
    environment_users = np.array([4, 0, 11], np.int32)
    environment_items = np.array([3, 9, 0, 4], np.int32)
    shape = len(environment_users), len(environment_items)
    return Dataset(
        name="hand-made",
        log=make_log([cells[n] for n in order[:80]]),
        held_out=make_log([cells[n] for n in order[80:]]),
        num_logged_users=USERS,
        num_logged_items=ITEMS,
        user_features=(CategoricalFeature("age", AGES, size=3),),
        item_features=(CategoricalFeature("tag", TAGS, size=4, padded=True),),
        item_dense=np.linspace(-1, 1, ITEMS, dtype=np.float32)[:, None],
        environment_users=environment_users,
        environment_items=environment_items,
        true_reward=np.ones(shape, np.float32),
        item_tags=np.zeros((shape[1], 1), bool),
        dominated=np.zeros((0, shape[1]), bool),
        dominated_names=(),
        ground_truth="made up",
        sources={},
    )


@pytest.fixture
def with_log(dataset):
    """The data set with another log, a list of (user, item, label), and its sizes."""

    def replace(rows, users=USERS, items=ITEMS):
        return dataclasses.replace(
            dataset,
            log=make_log(rows),
            num_logged_users=users,
            num_logged_items=items,
        )

    return replace


def slow_prediction(dataset, params, user, item):
    """Mean and log-variance of one member for one cell."""
    user_side = reference.deepfm_side(
        params, [("user", False), ("age", False)], ([user], AGES[user])
    )
    item_side = reference.deepfm_side(
        params, [("item", False), ("tag", True)], ([item], TAGS[item])
    )
    return reference.deepfm(params, user_side, item_side, dataset.item_dense[item])


def random_members(network, sides, size=3):
    """Parameters of order one with a leading axis E, and those of each member."""
    members = [
        reference.random_params(network, seed, args=sides) for seed in range(size)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *members), members
