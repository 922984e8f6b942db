"""What is computed from each data set, worked by hand on a few rows of official form.

The loaders' own tests hold what is read: ids, labels, rewards, features, tags, majority
categories and the test matrix. Here is what the programs derive from that: popularity,
activity, entropy, distances, feedback vectors, cosines and neighbours.
"""

import math

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig, CsvConfig, DatasetConfig
from darlr_jax.data import coat, loading, statistics, yahoo
from tests.data import test_kuairand, test_kuairec, test_movielens, test_own, test_yahoo
from tests.data.test_statistics import listed_pairs

TINY = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)


def load(name, folder, contents, **options):
    """The data set of text files, which are written to `folder / name` first."""
    (folder / name).mkdir()
    for file, content in contents.items():
        (folder / name / file).write_bytes(content)
    config = DatasetConfig(name=name, completion=TINY, **options)
    return loading.load_dataset(config, str(folder))


def encoded(contents):
    return {name: text.encode() for name, text in contents.items()}


def entropy_of(data):
    """Tables of order 1 and 2, as DARLR uses them on both Kuai data sets."""
    items, size = data.environment_items, data.num_logged_items
    return statistics.entropy_tables(data.log, items, size, (1, 2))


def entropy(*counts):
    """-sum p log p of these counts, over the logarithm of how many there are."""
    shares = [count / sum(counts) for count in counts]
    return -sum(p * math.log(p) for p in shares) / math.log(len(counts))


# --- KuaiRec --------------------------------------------------------------------------


@pytest.fixture
def kuairec_data(tmp_path):
    """Logged: user 0 watches items 0, 2, 0 (ratios 3, 6, 2), user 1 items 0 and 1.

    With a row more: user 1 watches item 0 again, before all else. The environment has
    the users 0 and 2 and the items 0, 2 and 3; user 2 has no logged row.
    """
    contents = encoded(test_kuairec.CONTENTS)
    first = b"7,10,1,1000,2020-07-05 05:20:00,20200705.0,1.0,2.0\n"
    contents["big_matrix.csv"] += first
    return load("kuairec", tmp_path, contents)


def test_kuairec_popularity_and_activity(kuairec_data):
    # Item 0 was met by two of three users, item 2 by one, item 3 by none.
    popularity = statistics.item_popularity(kuairec_data)
    np.testing.assert_allclose(popularity, [3 / 4, 2 / 4, 1 / 4])
    # Three logged rows of user 0 and none of user 2.
    assert statistics.activity_groups(kuairec_data, 2).tolist() == [1, 0]


def test_kuairec_entropy(kuairec_data):
    tables = entropy_of(kuairec_data)

    # In time: user 0 goes 0, 2, 0; user 1 goes 0, 0, 1. After 0 came 2, 0 and 1, after
    # 2 came 0; nothing came after 3.
    np.testing.assert_allclose(tables.single, [entropy(1, 1, 1), 1, 1], rtol=1e-6)
    # After {0, 2} came 0 alone, after {0, 0} came 1 alone: no pair is below 1.
    assert not listed_pairs(tables)
    assert (tables.low, tables.high) == (2, 2)


def test_kuairec_feedback_and_neighbours(kuairec_data):
    # Ratios 3 and 2 of a cell are summed, 6 counts as 5; nobody logged user 2.
    feedback = statistics.logged_feedback(kuairec_data)
    assert feedback.tolist() == [[5, 0, 5, 0, 0], [0, 0, 0, 0, 0]]
    similarity, nearest = statistics.user_similarity(feedback, 1)
    assert similarity.tolist() == [[1, 0], [0, 0]]
    assert nearest.tolist() == [[1], [0]]
    # ROLeR looks at users outside of the environment: user 1 alone, with 1 + 2 for 0.
    outsiders = statistics.nearest_outsiders(kuairec_data, 1)
    assert outsiders.nearest.tolist() == [[0], [0]]
    assert outsiders.feedback.tolist() == [[3, 0, 0]]


def test_kuairec_distances(kuairec_data):
    # Columns (2, 0), (5, 0.25) and (0, 1) of the small matrix.
    one, two, three = np.hypot(3, 0.25), np.hypot(2, 1), np.hypot(5, 0.75)
    np.testing.assert_allclose(
        statistics.item_distances(kuairec_data.true_reward),
        [[0, one, two], [one, 0, three], [two, three, 0]],
        rtol=1e-6,
    )


# --- KuaiRand -------------------------------------------------------------------------


@pytest.fixture
def kuairand_data(tmp_path):
    """Logged in time: user 0 sees videos 2, 0, 3; user 2 sees 1, 0, 2, 0.

    The published matrix pays user - video / 4.
    """
    contents = encoded(test_kuairand.CONTENTS)
    contents["kuairand_is_click.csv"] = test_kuairand.TRUTH.encode()
    contents["log_standard_4_08_to_4_21_pure.csv"] += (
        test_kuairand.row(0, 3, 5_000_999, 0, 0, 0, 6000)
        + test_kuairand.row(2, 0, 7_002_001, 0, 0, 0, 1000)
    ).encode()
    return load("kuairand", tmp_path, contents)


def test_kuairand_popularity_and_activity(kuairand_data):
    popularity = statistics.item_popularity(kuairand_data)
    np.testing.assert_allclose(popularity, [3 / 4, 2 / 4, 3 / 4, 2 / 4])
    # Three, no and four logged rows.
    assert statistics.activity_groups(kuairand_data, 3).tolist() == [1, 0, 2]


def test_kuairand_entropy(kuairand_data):
    tables = entropy_of(kuairand_data)

    # After 0 came 3 and 2, after 1 came 0, after 2 came 0 twice, after 3 nothing.
    np.testing.assert_allclose(tables.single, [entropy(1, 1), 1, 1, 1])
    # After {0, 2} came 3 (user 0: 2, 0) and 0 (user 2: 0, 2); after {0, 1} came 2.
    assert not listed_pairs(tables)

    # Once more 0, 2, 0, then 0: the shares of what follows {0, 2} are 1/4 and 3/4.
    more = [2, 0]
    log = kuairand_data.log
    log = type(log)(
        users=np.append(log.users, np.int32([2, 2])),
        items=np.append(log.items, np.int32(more)),
        labels=np.append(log.labels, np.float32([0, 0])),
        rewards=np.append(log.rewards, np.float32([0, 0])),
        times=np.append(log.times, np.int64([7100, 7101])),
    )
    tables = statistics.entropy_tables(log, np.arange(4), 4, (1, 2))
    # User 2 now goes 1, 0, 2, 0, 2, 0: after 0 came 3 once and 2 twice.
    np.testing.assert_allclose(tables.single, [entropy(1, 2), 1, 1, 1], rtol=1e-6)
    # After {0, 2} came 3 once; 0, 2 and 0 in turn for user 2.
    assert listed_pairs(tables) == {
        0 * 4 + 2: pytest.approx(entropy(1, 2, 1), rel=1e-6)
    }
    assert tables.low == pytest.approx(entropy(1, 2) + entropy(1, 2, 1))


def test_kuairand_feedback_and_neighbours(kuairand_data):
    feedback = statistics.logged_feedback(kuairand_data)

    # Clicks: user 0 on 0 and 2; user 2 on 0 and 1, of whose two rows of 0 one is one.
    assert feedback.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    similarity, nearest = statistics.user_similarity(feedback, 1)
    np.testing.assert_allclose(similarity, [[1, 0, 0.5], [0, 0, 0], [0.5, 0, 1]])
    assert nearest.tolist() == [[2], [0], [0]]
    users, cosines = statistics.nearest_users(feedback, 2, include_self=True)
    assert users.tolist() == [[0, 2], [1, 0], [2, 0]]
    np.testing.assert_allclose(cosines, [[1, 0.5], [1, 0], [1, 0.5]])


def test_kuairand_distances(kuairand_data):
    # Columns differ by a quarter a step, for each of three users.
    step = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.testing.assert_allclose(
        statistics.item_distances(kuairand_data.true_reward),
        step * math.sqrt(3) / 4,
        rtol=1e-6,
    )


# --- Yahoo! R3 ------------------------------------------------------------------------


@pytest.fixture
def yahoo_data(tmp_path):
    """Logged: user 0 rates songs 0 and 1, user 1 song 1 (5 each), user 2 song 2 (1)."""
    contents = {
        yahoo.TRAIN: test_yahoo.TRAIN_ROWS,
        yahoo.TEST: test_yahoo.TEST_ROWS,
        yahoo.TRUTH: b"1 2 3\n4 5 1\n",
    }
    return load("yahoo", tmp_path, contents)


def test_yahoo_statistics(yahoo_data):
    popularity = statistics.item_popularity(yahoo_data)
    np.testing.assert_allclose(popularity, [2 / 4, 3 / 4, 2 / 4])
    assert statistics.activity_groups(yahoo_data, 2).tolist() == [1, 0]
    feedback = statistics.logged_feedback(yahoo_data)
    assert feedback.tolist() == [[5, 5, 0], [0, 5, 0]]  # of the surveyed users
    similarity, nearest = statistics.user_similarity(feedback, 1)
    np.testing.assert_allclose(similarity, [[1, 0.5**0.5], [0.5**0.5, 1]], rtol=1e-6)
    assert nearest.tolist() == [[1], [0]]
    # Columns (1, 4), (2, 5) and (3, 1).
    one, two, three = 2**0.5, 13**0.5, 17**0.5
    np.testing.assert_allclose(
        statistics.item_distances(yahoo_data.true_reward),
        [[0, one, two], [one, 0, three], [two, three, 0]],
        rtol=1e-6,
    )
    # Without times, rows count in the order of the file: 0 then 1 of user 0.
    tables = entropy_of(yahoo_data)
    assert tables.single.tolist() == [1, 1, 1]
    assert (listed_pairs(tables), tables.low) == ({}, 2)


# --- MovieLens-1M ---------------------------------------------------------------------


@pytest.fixture
def movielens_data(tmp_path):
    """Logged: user 0 rates 0, 2, 3 and 4 (4, 1, 5, 4), user 1 rates 3 and 2 (5, 3).

    Items 0 to 5 are the movies 1, 4, 7, 10, 12, 20; 1 and 5 are no actions.
    """
    contents = {
        name: "".join(f"{line}\n" for line in lines).encode("latin-1")
        for name, lines in test_movielens.CONTENTS.items()
    }
    return load("movielens", tmp_path, contents)


def test_movielens_statistics(movielens_data):
    popularity = statistics.item_popularity(movielens_data)
    np.testing.assert_allclose(popularity, [2 / 3, 1, 1, 2 / 3])
    assert statistics.activity_groups(movielens_data, 2).tolist() == [1, 0]
    feedback = statistics.logged_feedback(movielens_data)
    assert feedback.tolist() == [[4, 0, 1, 5, 4, 0], [0, 0, 3, 5, 0, 0]]
    similarity, nearest = statistics.user_similarity(feedback, 1)
    cosine = (3 + 25) / math.sqrt((16 + 1 + 25 + 16) * (9 + 25))
    np.testing.assert_allclose(similarity, [[1, cosine], [cosine, 1]], rtol=1e-6)
    assert nearest.tolist() == [[1], [0]]
    # In time: user 0 goes 0, 2, then 3 before 4 (a tie in the file's order); user 1
    # goes 3, 2. After action 2 (movie 10) came 4 and 2, of all others one movie.
    tables = entropy_of(movielens_data)
    assert tables.single.tolist() == [1, 1, 1, 1]
    assert (listed_pairs(tables), tables.low) == ({}, 2)


def test_movielens_entropy_of_unequal_shares(tmp_path):
    """After movie 10 comes movie 12 twice, and movie 7 once."""
    contents = dict(test_movielens.CONTENTS)
    contents["ratings.dat"] = (*contents["ratings.dat"], "1::10::5::350", "1::12::1::3")
    contents["ratings.dat"] += ("1::4::1::400", "1::4::1::401")  # are held out, with 20
    data = load(
        "movielens",
        tmp_path,
        {
            name: "".join(f"{line}\n" for line in lines).encode("latin-1")
            for name, lines in contents.items()
        },
    )

    # User 0 goes 12, 1, 7, 10, 12, 10, then 4, 4 or 20 at the end; user 1 goes 10, 7.
    assert data.held_out.items.tolist() == [5]
    action = data.environment_items.tolist().index(3)
    assert entropy_of(data).single[action] == pytest.approx(entropy(1, 1, 1))


# --- a user's own log -----------------------------------------------------------------


@pytest.fixture
def own_data(tmp_path):
    """Logged in time: user 1 (10) meets items 2, 1, 2, 0 (1, 4, 2, 3), user 0 item 2.

    Items are apple, fig and pear; the full matrix says what each pays.
    """
    paths = {}
    for field, content in (("log", test_own.LOG), ("full_matrix", test_own.MATRIX)):
        paths[field] = str(tmp_path / f"{field}.csv")
        (tmp_path / f"{field}.csv").write_text(content)
    csv = CsvConfig(**test_own.COLUMNS, **paths)
    return loading.load_dataset(DatasetConfig(name="csv", csv=csv, completion=TINY))


def test_own_statistics(own_data):
    data = own_data
    walks = {user: data.log.items[data.log.users == user].tolist() for user in (0, 1)}
    assert walks == {0: [2, 0], 1: [1, 2, 1, 0]}  # the last of five is held out
    np.testing.assert_allclose(statistics.item_popularity(data), [1, 2 / 3, 1])
    assert statistics.activity_groups(data, 2).tolist() == [0, 1]
    feedback = statistics.logged_feedback(data)
    assert feedback.tolist() == [[1, 0, 4], [3, 3, 4]]  # fig 1 + 2 for user 10
    similarity, _ = statistics.user_similarity(feedback, 1)
    cosine = (3 + 16) / math.sqrt(17 * 34)
    np.testing.assert_allclose(similarity, [[1, cosine], [cosine, 1]], rtol=1e-6)
    # Columns (0.5, 3), (1, 5) and (2, 4).
    one, two, three = math.hypot(0.5, 2), math.hypot(1.5, 1), math.hypot(1, 1)
    np.testing.assert_allclose(
        statistics.item_distances(data.true_reward),
        [[0, one, two], [one, 0, three], [two, three, 0]],
        rtol=1e-6,
    )
    # After fig came pear and apple, after pear came apple and fig.
    tables = entropy_of(data)
    np.testing.assert_allclose(tables.single, [1, entropy(1, 1), entropy(1, 1)])
    # After {fig, pear} came fig and apple, equally often.
    assert not listed_pairs(tables)


# --- Coat -----------------------------------------------------------------------------


@pytest.fixture
def coat_data(coat_twin):
    """Only four ratings are logged, and all that is not worked by hand is equal.

    User 0 rates item 0 with 3 and item 1 with 4, user 1 item 1 with 2, user 289 item
    299 with 5. The test matrix pays 1, but 4 and 5 for two cells.
    """
    folder = coat_twin / "coat"
    shape = (coat.NUM_USERS, coat.NUM_ITEMS)
    ratings, truth = np.zeros(shape, int), np.ones(shape, int)
    ratings[[0, 0, 1, 289], [0, 1, 1, 299]] = 3, 4, 2, 5
    truth[[0, 1], [0, 2]] = 4, 5
    np.savetxt(folder / coat.TRAIN, ratings, fmt="%d")
    np.savetxt(folder / coat.TRUTH, truth, fmt="%d")
    items = np.zeros((coat.NUM_ITEMS, 33), int)
    items[:, [0, 2, 18, 31]] = 1  # every coat is of the first category of each feature
    items[1] = np.roll(items[1], 1)  # but item 1 of the second
    np.savetxt(folder / coat.ITEM_FEATURES, items, fmt="%d")
    return loading.load_dataset(DatasetConfig(name="coat"), str(coat_twin))


def test_coat_statistics(coat_data):
    data = coat_data
    assert data.log.users.tolist() == [0, 0, 1, 289]
    assert data.log.items.tolist() == [0, 1, 1, 299]
    assert data.log.labels.tolist() == data.log.rewards.tolist() == [3, 4, 2, 5]
    assert [f.codes[:3, 0].tolist() for f in data.item_features] == [[0, 1, 0]] * 4
    assert np.flatnonzero(data.item_tags[1]).tolist() == [1, 3, 19, 32]
    # Half of the rows are of item 1, half of others: neither is more than 0.8, both are
    # 1.0, so that the first category (by id) alone makes the majority.
    assert data.dominated[:, 1].tolist() == [False] * 4
    assert data.dominated[:, [0, 2, 299]].all()

    popularity = statistics.item_popularity(data)[[0, 1, 2, 299]]
    np.testing.assert_allclose(popularity, np.array([2, 3, 1, 2]) / 291)
    groups = statistics.activity_groups(data, 290)
    assert groups[[0, 1, 289]].tolist() == [289, 287, 288]  # 2, 1 and 1 rows
    feedback = statistics.logged_feedback(data)
    assert feedback[0, :3].tolist() == [3, 4, 0]
    assert feedback.sum() == 14
    similarity, nearest = statistics.user_similarity(feedback, 1)
    assert similarity[0, 1] == pytest.approx(4 / 5)
    assert similarity[0, [2, 289]].tolist() == [0, 0]
    assert nearest[[0, 1]].tolist() == [[1], [0]]
    # Columns differ in the two cells that do not pay 1.
    distances = statistics.item_distances(data.true_reward)
    assert distances[0, [0, 1, 2, 3]].tolist() == [0, 3, 5, 3]
    assert distances[2, [1, 3]].tolist() == [4, 4]
    # After item 0 came item 1, and no item was followed by two.
    tables = entropy_of(data)
    assert (tables.single == 1).all()
    assert not listed_pairs(tables)
