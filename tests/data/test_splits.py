"""splits.py: what is held out of the training log, and that no test data are left."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from darlr_jax.config import DatasetConfig, SyntheticConfig, ValidationConfig
from darlr_jax.data import averages, loading, synthetic
from darlr_jax.data.dataset import DataError, InteractionLog
from darlr_jax.data.splits import hold_out, validation_data


@pytest.fixture(scope="module")
def dataset():
    sizes = {"num_users": 30, "num_items": 40, "num_tags": 4, "num_clusters": 3}
    return synthetic.generate(SyntheticConfig(log_density=0.3, **sizes))


def rows_of(log):
    columns = (log.users.tolist(), log.items.tolist(), log.labels.tolist())
    return sorted(zip(*columns, strict=True))


def counts(log, size):
    return np.bincount(log.users, minlength=size)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_parts_of_the_log_are_the_log(dataset, share):
    split = hold_out(dataset, share, seed=3)

    assert rows_of(split.log) + rows_of(split.held_out) != rows_of(dataset.log)
    both = sorted(rows_of(split.log) + rows_of(split.held_out))
    assert both == rows_of(dataset.log)
    loading.check(dataclasses.replace(split, true_reward=dataset.true_reward))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_user_gives_a_share(dataset, share):
    split = hold_out(dataset, share, seed=3)

    before = counts(dataset.log, dataset.num_logged_users)
    expected = [min(int(share * n + 0.5), max(n - 1, 0)) for n in before]
    assert counts(split.held_out, len(before)).tolist() == expected


def test_nothing_is_left_to_evaluate_by(dataset):
    split = hold_out(dataset, 0.2, seed=0)

    assert not split.true_reward.any()
    assert split.true_reward.shape == dataset.true_reward.shape
    assert set(rows_of(split.held_out)) <= set(rows_of(dataset.log))


def test_splits_depend_on_the_seed_alone(dataset):
    first, again, other = (hold_out(dataset, 0.2, seed) for seed in (0, 0, 1))

    assert rows_of(first.held_out) == rows_of(again.held_out)
    assert rows_of(first.held_out) != rows_of(other.held_out)
    assert loading.data_hash(first) == loading.data_hash(again)
    hashes = {loading.data_hash(d) for d in (dataset, first, other)}
    assert len(hashes) == 3  # their world models are not the same


def test_every_row_may_be_held_out(dataset):
    """Of 200 splits none leaves a row in one part for ever, whatever its place."""
    seen = np.zeros(len(dataset.log))
    for seed in range(200):
        held_out = hold_out(dataset, 0.3, seed).held_out
        seen += np.isin(
            dataset.log.users * 1000 + dataset.log.items,
            held_out.users * 1000 + held_out.items,
        )
    assert 20 < seen.min() <= seen.max() < 110  # 60 expected, deviation 6.5


def test_a_log_without_enough_rows_is_refused(dataset):
    users = np.arange(5, dtype=np.int32)
    stars = np.ones(5, np.float32)
    log = InteractionLog(users, users, stars, stars, times=None)

    with pytest.raises(DataError, match=r"a share of 0\.5 holds out no row"):
        hold_out(dataclasses.replace(dataset, log=log), 0.5, seed=0)


# --- in place of the test data --------------------------------------------------------


def test_held_out_means_are_paid(dataset):
    config = ValidationConfig(share=0.3, seed=2, shrinkage=4.0)
    found = validation_data(dataset, config)

    split = hold_out(dataset, 0.3, seed=2)
    assert rows_of(found.log) == rows_of(split.log)
    assert rows_of(found.held_out) == rows_of(split.held_out)
    shape = dataset.num_logged_users, dataset.num_logged_items
    means = averages.user_and_item_means(split.held_out, shape, 4.0)
    np.testing.assert_allclose(found.true_reward, means, rtol=1e-6)
    assert found.ground_truth.startswith("means of 0.3 of the training log, held out")
    assert loading.data_hash(found) != loading.data_hash(split)
    loading.check(found)


def test_means_are_of_rewards_and_of_cells_of_the_environment(dataset):
    """Labels may be of another unit, and the environment a part of what is logged."""
    log = dataclasses.replace(dataset.log, rewards=-dataset.log.labels)
    users, items = np.array([4, 1], np.int32), np.array([3, 0, 9], np.int32)
    part = dataclasses.replace(
        dataset,
        log=log,
        environment_users=users,
        environment_items=items,
        true_reward=np.ones((2, 3), np.float32),
    )
    config = ValidationConfig(share=0.3)

    found = validation_data(part, config).true_reward

    whole = validation_data(dataset, config).true_reward
    np.testing.assert_allclose(found, -whole[np.ix_(users, items)], rtol=1e-6)


def test_programs_get_it_by_a_field():
    settings = {"name": "synthetic", "validation": ValidationConfig(share=0.2)}
    found = loading.load_dataset(DatasetConfig(**settings))

    whole = loading.load_dataset(DatasetConfig(name="synthetic"))
    assert len(found.log) + len(found.held_out) == len(whole.log)
    assert validation_data(whole, ValidationConfig()) is whole
