"""splits.py: what is held out of the training log, and that no test data are left."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from darlr_jax.config import DatasetConfig, SyntheticConfig, ValidationConfig
from darlr_jax.data import averages, loading, logs, synthetic
from darlr_jax.data.dataset import DataError, InteractionLog
from darlr_jax.data.splits import hold_out, validation_data


@pytest.fixture(scope="module")
def dataset():
    sizes = {"num_users": 30, "num_items": 40, "num_tags": 4, "num_clusters": 3}
    return synthetic.generate(SyntheticConfig(log_density=0.3, **sizes))


def rows_of(log):
    columns = (log.users.tolist(), log.items.tolist(), log.labels.tolist())
    return sorted(zip(*columns, strict=True))


def cells_of(log):
    return set(zip(log.users.tolist(), log.items.tolist(), strict=True))


def repeated(dataset):
    """`dataset` with rows whose cell is logged up to four times, in mixed order."""
    rng = np.random.default_rng(0)
    size = len(dataset.log)
    rows = np.concatenate([np.arange(size), rng.integers(size // 3, size=size)])
    log = logs.select(dataset.log, rng.permutation(rows))
    labels = rng.normal(size=len(log)).astype(np.float32)  # tell the rows apart
    return dataclasses.replace(
        dataset, log=dataclasses.replace(log, labels=labels, rewards=labels)
    )


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


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_rows_of_a_cell_are_in_one_part(dataset, share):
    data = repeated(dataset)
    assert len(data.log) > 1.5 * len(cells_of(data.log))

    split = hold_out(data, share, seed=3)

    assert not cells_of(split.log) & cells_of(split.held_out)
    assert sorted(rows_of(split.log) + rows_of(split.held_out)) == rows_of(data.log)
    every, held_out = (
        np.bincount([user for user, _ in cells_of(log)], minlength=30)
        for log in (data.log, split.held_out)
    )
    expected = [min(int(share * n + 0.5), max(n - 1, 0)) for n in every]
    assert held_out.tolist() == expected


def test_rows_of_one_part_stay_in_order(dataset):
    data = repeated(dataset)
    split = hold_out(data, 0.3, seed=1)

    place = {label: row for row, label in enumerate(data.log.labels.tolist())}
    for part in (split.log, split.held_out):
        rows = [place[label] for label in part.labels.tolist()]
        assert rows == sorted(rows)


def test_without_repeats_rows_are_drawn_as_ever(dataset):
    """Which rows these are must not change: results stand on such splits."""
    shuffled = np.random.default_rng(5).permutation(len(dataset.log))
    log = logs.select(dataset.log, shuffled)
    held_out = hold_out(dataclasses.replace(dataset, log=log), 0.2, seed=4).held_out

    drawn = np.random.default_rng(4).permutation(len(log))
    of_user = {user: drawn[log.users[drawn] == user] for user in set(log.users)}
    rows = [r[: int(0.2 * len(r) + 0.5)] for r in of_user.values()]
    rows = np.sort(np.concatenate(rows))
    assert rows_of(held_out) == rows_of(logs.select(log, rows))
    np.testing.assert_array_equal(held_out.items, log.items[rows])


def test_splits_by_cells_are_other_data_than_those_by_rows(dataset):
    """World models are kept by the sources: of an old split must not be taken."""
    without, having = (hold_out(d, 0.2, 0) for d in (dataset, repeated(dataset)))

    assert dataset.sources == repeated(dataset).sources
    assert without.sources["split"] != having.sources["split"]


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

    again = logs.select(log, np.repeat(users, 4))  # is no second item
    for short in (log, again):
        data = dataclasses.replace(dataset, log=short)
        with pytest.raises(DataError, match=r"share of 0\.5 holds out no row") as error:
            hold_out(data, 0.5, seed=0)
        remedy = "raise dataset.validation.share (tune_world_model: --share)"
        assert str(error.value).endswith(remedy)


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


def test_means_of_a_few_cells_need_no_table_of_all(dataset):
    users, items = np.array([4, 1], np.int32), np.array([3, 0, 9], np.int32)
    part = dataclasses.replace(
        dataset,
        num_logged_users=2_000,
        num_logged_items=1_000,
        environment_users=users,
        environment_items=items,
        true_reward=np.zeros((2, 3), np.float32),
    )
    config = ValidationConfig(share=0.3, seed=2, shrinkage=4.0)

    tracemalloc.start()
    found = validation_data(part, config).true_reward
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2_000 * 1_000
    held_out = hold_out(part, 0.3, seed=2).held_out
    means = averages.user_and_item_means(held_out, (2_000, 1_000), 4.0)
    expected = means[np.ix_(users, items)].astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_programs_get_it_by_a_field():
    settings = {"name": "synthetic", "validation": ValidationConfig(share=0.2)}
    found = loading.load_dataset(DatasetConfig(**settings))

    whole = loading.load_dataset(DatasetConfig(name="synthetic"))
    assert len(found.log) + len(found.held_out) == len(whole.log)
    assert validation_data(whole, ValidationConfig()) is whole
