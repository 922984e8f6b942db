"""Coat: the layout on a twin with random contents, published facts on real files."""

import gzip
import hashlib

import numpy as np
import pytest

from darlr_jax.config import DatasetConfig
from darlr_jax.data import coat, loading, statistics


def test_twin_is_read_as_it_was_written(coat_twin):
    data = loading.load_dataset(DatasetConfig(name="coat"), str(coat_twin))

    train = np.loadtxt(coat_twin / "coat" / coat.TRAIN)
    rebuilt = np.zeros_like(train)
    rebuilt[data.log.users, data.log.items] = data.log.labels
    np.testing.assert_array_equal(rebuilt, train)
    assert (len(data.log), len(data.held_out)) == (290 * 24, 290 * 16)
    np.testing.assert_array_equal(
        data.true_reward, np.loadtxt(coat_twin / "coat" / coat.TRUTH)
    )
    assert (data.num_users, data.num_items) == (290, 300)
    assert data.item_dense.shape == (300, 0)


def test_log_is_in_user_then_item_order_without_times(coat_twin):
    log = coat.load(coat_twin).log

    cells = log.users.astype(int) * coat.NUM_ITEMS + log.items
    assert (np.diff(cells) > 0).all()
    assert log.times is None


def test_features_are_the_positions_of_the_ones(coat_twin):
    data = coat.load(coat_twin)

    for features, blocks, name in (
        (data.user_features, coat.USER_BLOCKS, coat.USER_FEATURES),
        (data.item_features, coat.ITEM_BLOCKS, coat.ITEM_FEATURES),
    ):
        assert {f.name: f.size for f in features} == blocks
        one_hot = [np.eye(f.size)[f.codes[:, 0]] for f in features]
        np.testing.assert_array_equal(
            np.concatenate(one_hot, axis=1), np.loadtxt(coat_twin / "coat" / name)
        )
    assert data.item_tags.shape == (300, 33)


def test_majority_groups_are_the_item_features(coat_twin):
    data = coat.load(coat_twin)

    assert data.dominated_names == tuple(coat.ITEM_BLOCKS)
    for feature, dominated in zip(data.item_features, data.dominated, strict=True):
        codes = feature.codes[:, 0]
        counts = np.bincount(codes[data.log.items], minlength=feature.size)
        expected = np.isin(codes, statistics.dominated_categories(counts))
        np.testing.assert_array_equal(dominated, expected)


def test_windows_line_ends_byte_order_mark_and_blanks_change_nothing(coat_twin):
    before = coat.load(coat_twin)
    path = coat_twin / "coat" / coat.TRAIN
    text = path.read_text().replace("\n", " \t\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")

    after = coat.load(coat_twin)

    np.testing.assert_array_equal(after.log.labels, before.log.labels)
    np.testing.assert_array_equal(after.log.items, before.log.items)
    assert loading.data_hash(after) != loading.data_hash(before)


@pytest.mark.parametrize("compressed", [False, True])
def test_truth_of_the_publishers_is_known_however_it_is_packed(
    coat_twin, monkeypatch, compressed
):
    path = coat_twin / "coat" / coat.TRUTH
    content = path.read_bytes()
    monkeypatch.setattr(coat, "TRUTH_MD5", hashlib.md5(content).hexdigest())
    if compressed:
        path.unlink()
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))

    truth = coat.load(coat_twin).ground_truth

    assert truth.startswith("Coat pseudo ground truth, SOFA release")


def test_unknown_truth_is_said_to_be_unknown(coat_twin):
    assert "NOT the file of the SOFA release" in coat.load(coat_twin).ground_truth


@pytest.fixture(scope="module")
def real(real_data_dir):
    return loading.load_dataset(DatasetConfig(name="coat"), str(real_data_dir))


@pytest.mark.data
def test_real_counts(real):
    assert (len(real.log), len(real.held_out)) == (6960, 4640)
    assert set(np.bincount(real.log.users)) == {24}
    assert set(np.bincount(real.held_out.users)) == {16}
    ratings, counts = np.unique(real.true_reward, return_counts=True)
    assert ratings.tolist() == [1, 2, 3, 4, 5]
    assert counts.tolist() == [12006, 47238, 23287, 4353, 116]
    assert real.true_reward.mean() == pytest.approx(2.2337, abs=5e-5)
    assert real.ground_truth.endswith(
        "SOFA release (md5 dea35971e6998da548bac2a47fc5c396)"
    )


@pytest.mark.data
def test_real_truth_agrees_with_the_ratings_as_published(real):
    for log, mean_error in ((real.held_out, 0.500), (real.log, 0.897)):
        error = np.abs(real.true_reward[log.users, log.items] - log.labels)
        assert error.mean() == pytest.approx(mean_error, abs=5e-4)


@pytest.mark.data
def test_real_majority_categories(real):
    majority = {}
    for feature, dominated in zip(real.item_features, real.dominated, strict=True):
        codes = feature.codes[:, 0]
        majority[feature.name] = set(codes[dominated].tolist())
        assert not majority[feature.name] & set(codes[~dominated].tolist())

    assert majority == {
        "gender_i": {0},
        "jackettype": {6, 4, 8, 3, 0, 10, 14, 2, 15},
        "color": {1, 9, 4, 2, 3, 5},
        "onfrontpage": {1},
    }


@pytest.mark.data
def test_real_item_distances(real):
    distances = statistics.item_distances(real.true_reward)

    np.testing.assert_allclose(
        np.percentile(distances, [0, 10, 25, 50, 75, 90, 100]),
        [0, 7.483, 8.832, 10.677, 13.115, 16.125, 30.887],
        atol=5e-4,
    )


@pytest.mark.data
def test_real_returns_of_simple_policies(real):
    """What 30 turns pay at best and at random (protocol 1.5)."""
    reward = real.true_reward.astype(np.float64)
    best = -np.sort(-reward, axis=1)
    common = np.argsort(-reward.mean(axis=0))[:30]

    assert 30 * reward.mean() == pytest.approx(67.01, abs=5e-3)
    assert best[:, :30].sum(axis=1).mean() == pytest.approx(88.15, abs=5e-3)
    assert reward[:, common].sum(axis=1).mean() == pytest.approx(84.11, abs=5e-3)
    assert best[:, :10].sum(axis=1).mean() == pytest.approx(31.00, abs=5e-3)
    assert 30 * best[:, 0].mean() == pytest.approx(100.66, abs=5e-3)


@pytest.mark.data
def test_real_log_has_no_entropy_in_use(real):
    tables = statistics.entropy_tables(real.log, real.environment_items, 300, ())

    assert not tables.single.any()
    assert tables.low == tables.high == 0
