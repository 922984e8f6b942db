"""Yahoo! R3: two small files computed by hand, and what is refused."""

import gzip

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig
from darlr_jax.data import loading, yahoo
from darlr_jax.data.completion import Completed
from darlr_jax.data.dataset import DataError, InteractionLog

TRAIN_ROWS = b"1\t1\t5\n1\t2\t5\n2\t2\t5\n3\t3\t1\n"
TEST_ROWS = b"1\t3\t1\n1\t1\t4\n2\t3\t5\n2\t2\t2\n"
TINY = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)


@pytest.fixture
def folder(tmp_path):
    """A data folder with three users, of whom two are surveyed, and three songs."""
    (tmp_path / "yahoo").mkdir()
    (tmp_path / "yahoo" / yahoo.TRAIN).write_bytes(TRAIN_ROWS)
    (tmp_path / "yahoo" / yahoo.TEST).write_bytes(TEST_ROWS)
    return tmp_path


def log_of(ratings):
    """Whole ratings of one user and item, which do not matter."""
    ratings = np.array(ratings, np.float32)
    ids = np.zeros(len(ratings), np.int32)
    return InteractionLog(ids, ids, ratings, ratings, None)


def test_ratings_are_read_with_ids_from_zero(folder):
    data = yahoo.load(folder, TINY)

    loading.check(data)
    assert data.log.users.tolist() == [0, 0, 1, 2]
    assert data.log.items.tolist() == [0, 1, 1, 2]
    assert data.log.labels.tolist() == data.log.rewards.tolist() == [5, 5, 5, 1]
    assert data.held_out.users.tolist() == [0, 0, 1, 1]
    assert data.held_out.items.tolist() == [2, 0, 2, 1]
    assert data.held_out.rewards.tolist() == [1, 4, 5, 2]
    assert data.log.times is None
    assert data.held_out.times is None


def test_surveyed_users_are_the_environment(folder):
    data = yahoo.load(folder, TINY)

    assert (data.num_logged_users, data.num_logged_items) == (3, 3)
    assert data.environment_users.tolist() == [0, 1]
    assert data.environment_items.tolist() == [0, 1, 2]
    assert data.true_reward.shape == (2, 3)
    assert data.user_features == data.item_features == data.dominated_names == ()
    assert data.item_tags.shape == data.item_dense.shape == (3, 0)
    assert set(data.sources) == set(yahoo.FILES)


def test_ids_that_only_the_test_file_has_count(folder):
    (folder / "yahoo" / yahoo.TEST).write_bytes(b"7\t9\t3\n1\t1\t2\n")

    data = yahoo.load(folder, TINY)

    assert (data.num_logged_users, data.num_logged_items) == (7, 9)
    assert data.true_reward.shape == (7, 9)


def test_matrix_is_completed_from_weighted_log_and_random_ratings(folder, monkeypatch):
    calls = []

    def record(*args, low, high):
        calls.append((args, low, high))
        matrix = np.array([[0.6, 1.4, 2.6], [4.4, 4.6, 5.0], [3, 3, 3]], np.float32)
        return Completed(matrix, "the method", [])

    monkeypatch.setattr(yahoo, "complete", record)
    data = yahoo.load(folder, TINY)

    assert data.true_reward.tolist() == [[1, 1, 3], [4, 5, 5]]
    assert data.true_reward.dtype == np.float32
    assert "NOT the published matrix: the method; 4 logged" in data.ground_truth
    (((users, items, rewards, weights, shape, config), low, high),) = calls
    assert users.tolist() == [0, 0, 1, 2, 0, 0, 1, 1]
    assert items.tolist() == [0, 1, 1, 2, 2, 0, 2, 1]
    assert rewards.tolist() == [5, 5, 5, 1, 1, 4, 5, 2]
    # The log has 3/4 fives and 1/4 ones, every second random rating is a one or a five.
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2, 1, 1, 1, 1], rtol=1e-6)
    assert (shape, config, low, high) == ((3, 3), TINY, 1, 5)


def test_matrix_of_the_real_completion_holds_whole_ratings(folder):
    truth = yahoo.load(folder, TINY).true_reward

    assert set(truth.ravel().tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}


def test_weights_stand_for_the_ratings_of_random_songs():
    rng = np.random.default_rng(0)
    log = log_of(rng.choice(5, 4000, p=[0.1, 0.1, 0.2, 0.2, 0.4]) + 1)
    random = log_of(rng.choice(5, 4000, p=[0.4, 0.3, 0.1, 0.1, 0.1]) + 1)

    weights = yahoo.inverse_propensities(log, random)

    assert weights.mean() == pytest.approx(1.0, rel=1e-5)
    mean = np.average(log.rewards, weights=weights)
    assert mean == pytest.approx(random.rewards[::2].mean(), rel=1e-5)


def test_weights_are_bounded():
    # 1 is rare in the log, and 5 is not among the random ratings that count.
    log = log_of([1] + 99 * [5])

    weights = yahoo.inverse_propensities(log, log_of([1, 5, 1, 5, 1]))

    assert weights[0] == np.float32(yahoo.WEIGHTS[1])
    np.testing.assert_array_equal(weights[1:], np.float32(yahoo.WEIGHTS[0]))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("matrix", [b"1 2 3\n4 5 1\n", b"1 2 3\n4 5 1\n2 2 2\n"])
def test_published_matrix_is_used_where_it_lies(folder, matrix, suffix):
    content = gzip.compress(matrix) if suffix else matrix
    (folder / "yahoo" / (yahoo.TRUTH + suffix)).write_bytes(content)

    data = yahoo.load(folder, TINY)

    loading.check(data)
    assert data.true_reward.tolist() == [[1, 2, 3], [4, 5, 1]]
    assert data.ground_truth.startswith("Yahoo! R3 pseudo ground truth, as found in")
    assert set(data.sources) == {*yahoo.FILES, yahoo.TRUTH}


def test_published_matrix_that_is_a_folder_is_not_overlooked(folder):
    (folder / "yahoo" / yahoo.TRUTH).mkdir()

    with pytest.raises(DataError, match=f"{yahoo.TRUTH}: cannot be read: Is a direc"):
        yahoo.load(folder, TINY)


def test_number_of_ratings_is_compared_with_the_published(folder, monkeypatch):
    assert "4 random ratings, NOT as many" in yahoo.load(folder, TINY).ground_truth

    monkeypatch.setattr(yahoo, "NUM_RATINGS", (4, 4))

    assert yahoo.load(folder, TINY).ground_truth.endswith(
        "ratings, as many as published"
    )


@pytest.mark.parametrize(
    "content",
    [
        TRAIN_ROWS.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + TRAIN_ROWS,
        TRAIN_ROWS.replace(b"\n", b"\r\n", 2).rstrip() + b"\n\n",
    ],
)
def test_line_ends_and_byte_order_mark_change_nothing(folder, content):
    expected = yahoo.load(folder, TINY)
    (folder / "yahoo" / yahoo.TRAIN).write_bytes(content)

    found = yahoo.load(folder, TINY)

    assert found.log.users.tolist() == expected.log.users.tolist()
    assert found.log.labels.tolist() == expected.log.labels.tolist()
    assert loading.data_hash(found) != loading.data_hash(expected)


def test_repeated_rows_stay(folder):
    (folder / "yahoo" / yahoo.TRAIN).write_bytes(TRAIN_ROWS + b"3\t3\t4\n")

    assert yahoo.load(folder, TINY).log.rewards.tolist() == [5, 5, 5, 1, 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (yahoo.TRAIN, b"", "is empty"),
        (yahoo.TRAIN, b"1\t1\n", "line 1: expected 3 fields, found 2"),
        (yahoo.TRAIN, b"1\t1\t5\n1\t2\t5\t0\n", "line 2: expected 3 fields, found 4"),
        (yahoo.TRAIN, b"1 1 5\n", "line 1: expected 3 fields, found 1"),
        (yahoo.TRAIN, b"1\t1\t5\n1\tx\t5\n", "line 2, column 'song': expected a whole"),
        (yahoo.TRAIN, b"1\t1\tnan\n", "line 1, column 'rating'"),
        (yahoo.TRAIN, b"1\t1\t\n", "line 1, column 'rating'"),
        (yahoo.TRAIN, b"1\t1\t3.5\n", "line 1, column 'rating'"),
        (yahoo.TRAIN, b"1\t1\t6\n", "at least 1 and at most 5, found '6'"),
        (yahoo.TRAIN, b"1\t1\t0\n", "at least 1 and at most 5, found '0'"),
        (yahoo.TRAIN, b"0\t1\t1\n", "line 1, column 'user'"),
        (yahoo.TRAIN, b"15401\t1\t1\n", "at most 15400, found '15401'"),
        (yahoo.TEST, b"5401\t1\t1\n", "at most 5400, found '5401'"),
        (yahoo.TEST, b"1\t1001\t1\n", "at most 1000, found '1001'"),
        (yahoo.TEST, b"\x1f\x8b\x08\x00\xff\xfe", "is no text file"),
        (yahoo.TRUTH, b"1 2 3\n", "expected 2 x 3 numbers, found 1 x 3"),
        (yahoo.TRUTH, 4 * b"1 2 3\n", "expected 3 x 3 numbers, found 4 x 3"),
        (yahoo.TRUTH, b"1 2 3\n4 5 0\n", "line 2, column 3"),
        (yahoo.TRUTH, b"", "is empty"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused(folder, name, content, expected):
    path = folder / "yahoo" / name
    path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        yahoo.load(folder, TINY)

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("name", yahoo.FILES)
def test_missing_file_says_how_to_get_it(folder, name):
    path = folder / "yahoo" / name
    path.unlink()

    with pytest.raises(DataError, match="no such file") as caught:
        yahoo.load(folder, TINY)

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "signed agreement" in message
    assert "https://webscope.sandbox.yahoo.com/catalog.php?datatype=r" in message


@pytest.mark.data
def test_real_counts(real_data_dir):
    if not (real_data_dir / "yahoo").is_dir():
        pytest.skip("needs the files of Yahoo! R3, which are under agreement")
    # How the matrix is completed does not matter here.
    data = yahoo.load(real_data_dir, TINY)

    assert (len(data.log), len(data.held_out)) == yahoo.NUM_RATINGS
    assert (data.num_logged_users, data.num_logged_items) == (15_400, 1_000)
    assert data.true_reward.shape == (5_400, 1_000)
    assert set(np.bincount(data.held_out.users)) == {10}
