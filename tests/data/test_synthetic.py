"""The generator: determinism, validity, and that what is planted can be found."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.config import DatasetConfig, SyntheticConfig
from darlr_jax.data import loading, statistics, synthetic
from tests.data.test_statistics import listed_pairs


def _equal(one, other):
    """Whether two records agree in every array, however deep."""
    if dataclasses.is_dataclass(one):
        return all(
            _equal(getattr(one, f.name), getattr(other, f.name))
            for f in dataclasses.fields(one)
        )
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return np.array_equal(one, other)


def _cells(dataset, log):
    return log.users.astype(int) * dataset.num_items + log.items


def test_same_configuration_same_data(dataset):
    assert _equal(dataset, synthetic.generate(SyntheticConfig()))


def test_the_order_within_a_partition_decides_nothing(dataset, monkeypatch):
    """Which of the two parts an element is in is sure; its place there is not."""
    monkeypatch.setattr(np, "argpartition", lambda values, kth: np.argsort(values))
    assert _equal(dataset, synthetic.generate(SyntheticConfig()))


def test_another_seed_is_another_data_set(dataset):
    other = synthetic.generate(SyntheticConfig(seed=1))

    assert not _equal(dataset.true_reward, other.true_reward)
    assert loading.data_hash(dataset) != loading.data_hash(other)


def test_default_data_set_is_valid(dataset):
    loading.check(dataset)
    assert len(dataset.log) == round(0.15 * 200 * 120)
    assert len(dataset.held_out) == len(dataset.log) // 3
    assert set(np.unique(dataset.true_reward)) == {1, 2, 3, 4, 5}
    assert set(np.unique(dataset.log.labels)) == {1, 2, 3, 4, 5}


@given(
    users=st.integers(2, 12),
    items=st.integers(2, 12),
    tags=st.integers(1, 6),
    density=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_every_size_is_valid(users, items, tags, density, seed):
    config = SyntheticConfig(
        num_users=users,
        num_items=items,
        num_tags=tags,
        num_clusters=min(3, users),
        log_density=density,
        seed=seed,
    )
    logged = round(density * users * items)
    if not 1 <= logged < users * items:
        return

    data = loading.load_dataset(DatasetConfig(synthetic=config))

    assert len(data.log) == logged
    log, held_out = _cells(data, data.log), _cells(data, data.held_out)
    assert len(np.unique(log)) == len(log)
    assert len(np.unique(held_out)) == len(held_out)
    assert not np.intersect1d(log, held_out).size
    assert data.item_tags.any(axis=1).all()


def test_held_out_ratings_are_the_true_ones_drawn_uniformly(dataset):
    held_out = dataset.held_out

    truth = dataset.true_reward[held_out.users, held_out.items]
    np.testing.assert_array_equal(held_out.labels, truth)
    unlogged = np.ones(dataset.true_reward.shape, bool)
    unlogged[dataset.log.users, dataset.log.items] = False
    assert truth.mean() == pytest.approx(dataset.true_reward[unlogged].mean(), abs=0.1)


def test_log_prefers_what_is_liked_and_popular(dataset):
    log, reward = dataset.log, dataset.true_reward
    exposure = np.bincount(log.items, minlength=dataset.num_items)

    assert reward[log.users, log.items].mean() > reward.mean() + 0.3
    assert np.corrcoef(exposure, reward.mean(axis=0))[0, 1] > 0.3
    busiest = np.sort(exposure)[-dataset.num_items // 5 :]
    assert busiest.sum() > 0.4 * len(log)


def test_labels_are_noisy_but_informative(dataset):
    log = dataset.log
    truth = dataset.true_reward[log.users, log.items]

    assert 0.1 < (log.labels != truth).mean() < 0.6
    assert np.corrcoef(log.labels, truth)[0, 1] > 0.7


def test_users_of_a_cluster_agree(dataset):
    config = SyntheticConfig()
    rng = np.random.default_rng(config.seed)
    items = synthetic._draw_items(rng, config)
    clusters = rng.permutation(np.arange(config.num_users) % config.num_clusters)
    np.testing.assert_array_equal(items.has_tag, dataset.item_tags)  # the same draws
    agreement = np.corrcoef(dataset.true_reward - dataset.true_reward.mean(axis=0))
    same = clusters[:, None] == clusters
    np.fill_diagonal(same, False)

    assert agreement[same].mean() > 0.4
    assert agreement[clusters[:, None] != clusters].mean() < 0.0


def test_neighbours_know_more_than_the_item_average(dataset):
    """What ROLeR and DARLR live on: similar users predict better than all users do."""
    reward = dataset.true_reward
    centred = reward - reward.mean(axis=0)
    half = dataset.num_items // 2
    users, _ = statistics.nearest_users(centred[:, :half], k=10, include_self=False)

    unseen = centred[:, half:]
    error = np.mean((unseen[users].mean(axis=1) - unseen) ** 2)
    assert error < 0.7 * np.mean(unseen**2)


def test_group_hints_at_the_cluster_without_telling(dataset):
    groups = dataset.user_features[0].codes[:, 0]
    centred = dataset.true_reward - dataset.true_reward.mean(axis=0)
    agreement = np.corrcoef(centred)
    same = groups[:, None] == groups
    np.fill_diagonal(same, False)

    assert 0.05 < agreement[same].mean() < 0.4


def test_tags_are_few_and_unequally_popular(dataset):
    (feature,) = dataset.item_features
    popularity = dataset.item_tags.sum(axis=0)

    assert feature.padded and feature.size == 13 and feature.codes.shape == (120, 3)
    rebuilt = np.zeros((120, 13), bool)
    np.put_along_axis(rebuilt, feature.codes, True, axis=1)
    np.testing.assert_array_equal(rebuilt[:, 1:], dataset.item_tags)
    assert popularity.max() > 4 * popularity.min()
    assert 0 < dataset.dominated.mean() < 1


def test_time_rises_for_every_user(dataset):
    log = dataset.log
    same_user = np.diff(log.users) == 0

    assert (np.diff(log.times)[same_user] > 0).all()
    assert log.times.dtype == np.int64


def test_users_follow_tags(dataset):
    """Consecutive items share a tag more often than items of one user do in general."""
    log = dataset.log
    follows = np.diff(log.users) == 0
    tags = dataset.item_tags[log.items]
    shuffled = np.random.default_rng(0).permutation(len(log))
    shuffled = shuffled[np.argsort(log.users[shuffled], kind="stable")]

    def sharing(tags):
        return (tags[1:] & tags[:-1]).any(axis=1)[follows].mean()

    assert sharing(tags) > sharing(tags[shuffled]) + 0.1


def test_entropy_differs_between_items_and_pairs(dataset):
    tables = statistics.entropy_tables(
        dataset.log, dataset.environment_items, dataset.num_logged_items, (1, 2)
    )

    assert np.std(tables.single) > 0.05
    pairs = listed_pairs(tables)
    assert len(pairs) > 50
    assert np.std(list(pairs.values())) > 0.02
    assert tables.low < 1.5 and tables.high == 2


def test_standardised_duration(dataset):
    assert dataset.item_dense.shape == (120, 1)
    assert dataset.item_dense.mean() == pytest.approx(0, abs=1e-6)
    assert dataset.item_dense.std() == pytest.approx(1, abs=1e-6)
