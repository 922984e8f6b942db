"""The tables that policies are trained on, cell by cell."""

import math

import numpy as np
import pytest

from darlr_jax.config import WorldModelConfig
from darlr_jax.world_model import tables
from darlr_jax.world_model.ensemble import Ensemble, build_network
from tests.world_model.conftest import random_members, slow_prediction

CONFIG = WorldModelConfig(embedding_dim=3, hidden=(6,))


@pytest.fixture
def fitted(dataset):
    """An ensemble of random members, and the parameters of each."""
    sides, network = build_network(dataset, CONFIG)
    params, members = random_members(network, sides)
    return Ensemble(network, params, sides, report=[]), members


def test_cells_are_the_mean_of_means_and_the_largest_variance(dataset, fitted):
    ensemble, members = fitted

    found = tables.predict_tables(ensemble, dataset)

    assert found.prediction.shape == found.variance.shape == (3, 4)
    largest = set()
    for row, user in enumerate(dataset.environment_users):
        for column, item in enumerate(dataset.environment_items):
            cell = [slow_prediction(dataset, one, user, item) for one in members]
            means = [mean for mean, _ in cell]
            variances = [math.exp(log_variance) for _, log_variance in cell]
            place = row, column
            np.testing.assert_allclose(
                found.prediction[place], np.mean(means), rtol=1e-4
            )
            np.testing.assert_allclose(found.variance[place], max(variances), rtol=1e-4)
            largest.add(int(np.argmax(variances)))
    assert len(largest) > 1


def test_vectors_are_those_of_the_first_member(dataset, fitted):
    ensemble, members = fitted

    found = tables.predict_tables(ensemble, dataset)

    # id, then features, then dense values; the rows of the environment, in its order
    users, items = dataset.environment_users, dataset.environment_items
    np.testing.assert_array_equal(
        found.user_vectors[:, :3], members[0]["embedding_user"][users]
    )
    np.testing.assert_array_equal(
        found.item_vectors[:, :3], members[0]["embedding_item"][items]
    )
    np.testing.assert_array_equal(found.item_vectors[:, -1:], dataset.item_dense[items])
    assert found.user_vectors.shape == (3, 2 * 3)
    assert found.item_vectors.shape == (4, 3 * 3 + 1)


@pytest.mark.parametrize("cells", [1, 4, 8])  # blocks of 1, 1 and 2 of the 3 users
def test_blocks_of_users_make_no_difference(dataset, fitted, monkeypatch, cells):
    ensemble, _ = fitted
    at_once = tables.predict_tables(ensemble, dataset)
    monkeypatch.setattr(tables, "_CELLS_A_BLOCK", cells)
    shares: list[float] = []

    found = tables.predict_tables(ensemble, dataset, shares.append)

    assert shares == sorted(shares)
    assert len(shares) == (2 if cells == 8 else 3)
    assert shares[-1] == 1
    np.testing.assert_allclose(found.prediction, at_once.prediction, rtol=1e-5)
    np.testing.assert_allclose(found.variance, at_once.variance, rtol=1e-5)
