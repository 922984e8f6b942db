"""Each statistic against worked numbers, a slow reference, and its invariances."""

import dataclasses
import math
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.config import ThinningConfig
from darlr_jax.data import statistics
from darlr_jax.data.dataset import DataError, InteractionLog
from darlr_jax.data.thinning import thin

quick = settings(max_examples=60, deadline=None)


def make_log(rows, times=True):
    """A log of (user, item) or (user, item, label) rows; time is their order."""
    users, items, *labels = zip(*rows, strict=True) if rows else ((), ())
    stars = np.array(labels[0] if labels else np.ones(len(rows)), np.float32)
    return InteractionLog(
        users=np.array(users, np.int32),
        items=np.array(items, np.int32),
        labels=stars,
        rewards=stars,
        times=np.arange(len(rows)) if times else None,
    )


# --- entropy --------------------------------------------------------------------------


def reference_entropy(log, order):
    """The definition, with dictionaries: sorted key -> entropy of the next item."""
    following = defaultdict(Counter)
    for user in set(log.users.tolist()):
        rows = [n for n in range(len(log)) if log.users[n] == user]
        if log.times is not None:
            rows.sort(key=lambda n: log.times[n])
        items = log.items[rows].tolist()
        for end in range(order, len(items)):
            following[tuple(sorted(items[end - order : end]))][items[end]] += 1
    entropy = {}
    for key, counts in following.items():
        shares = [count / counts.total() for count in counts.values()]
        bits = -sum(p * math.log2(p) for p in shares)
        entropy[key] = bits / math.log2(len(shares)) if len(shares) > 1 else 1.0
    return entropy


def look_up(tables, first, second, num_items):
    """Order-2 entropy of two actions, as the simulation reads it."""
    code = min(first, second) * num_items + max(first, second)
    place = min(np.searchsorted(tables.pair_codes, code), len(tables.pair_codes) - 1)
    return tables.pair_entropy[place] if tables.pair_codes[place] == code else 1.0


def listed_pairs(tables):
    """Code of a pair -> entropy, without what fills the tables."""
    listed = tables.pair_codes < np.iinfo(np.int32).max
    codes, entropy = tables.pair_codes[listed], tables.pair_entropy[listed]
    return dict(zip(codes.tolist(), entropy.tolist(), strict=True))


def test_entropy_worked_example():
    walks = [(0, 1, 2), (0, 1, 2), (0, 1, 2), (1, 0, 2), (0, 1, 1)]
    log = make_log([(user, item) for user, walk in enumerate(walks) for item in walk])
    tables = statistics.entropy_tables(log, np.arange(3), 3, (1, 2))

    # After 0: 1 (users 0, 1, 2, 4) and 2 (user 3). After 1: 2, 2, 2, 0, 1.
    after_0 = -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2))
    after_1 = -(0.6 * math.log2(0.6) + 2 * 0.2 * math.log2(0.2)) / math.log2(3)
    np.testing.assert_allclose(tables.single, [after_0, after_1, 1.0], rtol=1e-6)
    # After {0, 1}: 2 (users 0, 1, 2, and 3 the other way round) and 1 (user 4).
    assert listed_pairs(tables) == {0 * 3 + 1: pytest.approx(after_0, rel=1e-6)}
    assert tables.low == pytest.approx(after_0 + after_0)
    assert tables.high == 2.0


logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60)


@given(rows=logs, times=st.booleans(), seed=st.integers(0, 9))
@quick
def test_entropy_matches_the_definition(rows, times, seed):
    log = make_log(rows, times)
    if times:  # in an arbitrary order of the file, with ties in time
        shuffle = np.random.default_rng(seed).permutation(len(rows))
        log = InteractionLog(
            log.users[shuffle],
            log.items[shuffle],
            log.labels[shuffle],
            log.rewards[shuffle],
            times=log.times[shuffle] // 2,
        )
    actions = np.array([5, 1, 2, 4], np.int32)  # no order, not all logged items
    tables = statistics.entropy_tables(log, actions, 6, (1, 2))

    order_1, order_2 = reference_entropy(log, 1), reference_entropy(log, 2)
    expected = [order_1.get((item,), 1.0) for item in actions.tolist()]
    np.testing.assert_allclose(tables.single, expected, rtol=1e-6)
    for first in range(4):
        for second in range(4):
            key = tuple(sorted((int(actions[first]), int(actions[second]))))
            found = look_up(tables, first, second, 4)
            assert found == pytest.approx(order_2.get(key, 1.0), rel=1e-6)
    low = sum(min(table.values(), default=1.0) for table in (order_1, order_2))
    assert tables.low == pytest.approx(low, rel=1e-6)
    assert tables.high == 2.0
    pairs = len(listed_pairs(tables))
    assert (np.diff(tables.pair_codes[:pairs]) > 0).all()
    assert (tables.pair_entropy[pairs:] == 1).all()


def test_entropy_ignores_the_names_of_the_users(dataset):
    rename = np.random.default_rng(0).permutation(dataset.num_users).astype(np.int32)
    renamed = dataclasses.replace(dataset.log, users=rename[dataset.log.users])
    items, size = dataset.environment_items, dataset.num_logged_items

    before = statistics.entropy_tables(dataset.log, items, size, (1, 2))
    after = statistics.entropy_tables(renamed, items, size, (1, 2))

    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("orders", "high"), [((), 0), ((1,), 1), ((2,), 1), ((1, 2), 2)]
)
def test_entropy_of_orders_not_in_use_contributes_nothing(dataset, orders, high):
    tables = statistics.entropy_tables(
        dataset.log, dataset.environment_items, dataset.num_logged_items, orders
    )

    assert tables.high == high
    assert tables.low <= high
    assert tables.single.any() == (1 in orders)
    assert bool(listed_pairs(tables)) == (2 in orders)


def test_entropy_of_a_thinner_log_has_the_same_shapes(dataset):
    """So that a program that was compiled for the one serves the other."""
    items, size = dataset.environment_items, dataset.num_logged_items
    shapes, pairs = set(), []
    for share in (1.0, 0.5, 0.01):
        log = thin(dataset, ThinningConfig(share)).log
        tables = statistics.entropy_tables(log, items, size, (1, 2))
        shapes.add(tuple(table.shape for table in tables))
        pairs.append(len(listed_pairs(tables)))

    assert pairs[0] > pairs[1] > pairs[2]
    assert len(shapes) == 1


def test_entropy_of_a_log_without_continuations():
    log = make_log([(0, 0), (1, 1)])
    tables = statistics.entropy_tables(log, np.arange(2), 2, (1, 2))

    assert tables.single.tolist() == [1, 1]
    assert look_up(tables, 0, 1, 2) == 1
    assert tables.low == tables.high == 2
    assert [tables.pair_codes.dtype, tables.single.dtype] == [np.int32, np.float32]


# --- majority categories --------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 5, 2, 2], [1, 2]),  # shares .5 .7 .9
        ([5, 1, 3, 1], [0, 2]),  # .5 .8: the bound itself is allowed
        ([0, 9, 1], [1]),  # .9: too large, but at least one
        ([0, 0, 0], []),
        ([2, 2, 2, 2], [0, 1, 2]),  # .25 .5 .75; ties by id
    ],
)
def test_majority_worked_examples(counts, expected):
    found = statistics.dominated_categories(np.array(counts))

    assert found.tolist() == expected


@given(counts=hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 50)))
@quick
def test_majority_is_the_longest_head_within_the_rate(counts):
    found = statistics.dominated_categories(counts, top_rate=0.75)

    rest = np.setdiff1d(np.flatnonzero(counts), found)
    assert (counts[found] > 0).all()
    if rest.size:
        assert counts[found].min() >= counts[rest].max()
        assert counts[found].sum() + counts[rest].max() > 0.75 * counts.sum()
    if found.size > 1:
        assert counts[found].sum() <= 0.75 * counts.sum()


def test_an_item_counts_for_each_of_its_categories():
    categories = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    # Item 0 twice, item 1 twice, item 2 once: counts 2, 4, 1; shares 4/7, 6/7.
    dominated = statistics.dominated_items(categories, np.array([0, 0, 1, 1, 2]))

    assert dominated.tolist() == [True, True, False, False]


def test_nothing_is_dominated_where_nothing_counts():
    nothing = np.array([], np.int32)
    assert not statistics.dominated_items(np.ones((3, 2), bool), nothing).any()


# --- items ----------------------------------------------------------------------------


def test_item_distances_worked_example():
    reward = np.array([[1, 4, 1], [2, 6, 2]], np.float32)

    expected = [[0, 5, 0], [5, 0, 5], [0, 5, 0]]
    np.testing.assert_array_equal(statistics.item_distances(reward), expected)


@given(
    reward=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(1, 5),
    )
)
@quick
def test_item_distances_are_exact_for_ratings(reward):
    difference = reward[:, :, None] - reward[:, None, :]
    expected = np.sqrt((difference.astype(np.float64) ** 2).sum(axis=0))

    distances = statistics.item_distances(reward)

    np.testing.assert_array_equal(distances, expected.astype(np.float32))
    assert distances.dtype == np.float32


def test_item_distances_of_real_numbers_are_symmetrical():
    reward = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    reward[:, 7] = reward[:, 3]

    distances = statistics.item_distances(reward)

    np.testing.assert_array_equal(distances, distances.T)
    np.testing.assert_array_equal(np.diag(distances), 0)
    assert distances[3, 7] < 1e-6
    expected = np.linalg.norm(reward[:, 0] - reward[:, 1])
    assert distances[0, 1] == pytest.approx(expected, rel=1e-6)


# --- users ----------------------------------------------------------------------------


def test_logged_feedback_sums_repeats_and_keeps_environment_users(dataset):
    log = make_log([(0, 1, 2.0), (2, 0, 3.0), (0, 1, 0.5), (1, 2, 4.0)])
    small = dataclasses.replace(
        dataset,
        log=log,
        num_logged_users=3,
        num_logged_items=4,
        environment_users=np.array([2, 0], np.int32),
        true_reward=np.zeros((2, 2), np.float32),
    )

    feedback = statistics.logged_feedback(small)

    assert feedback.tolist() == [[3, 0, 0, 0], [0, 2.5, 0, 0]]
    assert feedback.dtype == np.float32


def reference_nearest(signatures, k, include_self):
    """A full sort by (own first, cosine, id), from the definition of the cosine."""
    size = len(signatures)
    users, cosines = [], []
    for user in range(size):
        ranked = []
        for other in range(size):
            norms = math.hypot(*signatures[user]) * math.hypot(*signatures[other])
            product = float(np.dot(signatures[user], signatures[other]))
            cosine = round(product / norms, 9) if norms else 0.0
            if other != user:
                ranked.append((1, -cosine, other))
            elif include_self:
                ranked.append((0, -1.0, other))
        users.append([other for _, _, other in sorted(ranked)[:k]])
        cosines.append([-cosine for _, cosine, _ in sorted(ranked)[:k]])
    return users, cosines


signature_arrays = hnp.arrays(
    np.float64,
    st.tuples(st.integers(3, 9), st.integers(2, 4)),
    elements=st.integers(-2, 2),  # few values: many ties, zero rows
)


@given(
    signatures=signature_arrays,
    k=st.integers(1, 9),
    include_self=st.booleans(),
    block_rows=st.integers(1, 10),
)
@quick
def test_nearest_users_match_a_full_sort(signatures, k, include_self, block_rows):
    k = min(k, len(signatures) - (not include_self))
    users, cosines = statistics.nearest_users(signatures, k, include_self, block_rows)

    expected_users, expected_cosines = reference_nearest(signatures, k, include_self)
    assert users.tolist() == expected_users
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
    assert (users.dtype, cosines.dtype) == (np.int32, np.float32)


def test_nearest_users_worked_example():
    signatures = np.array([[1, 0], [1, 1], [0, 2], [0, 0]], np.float32)

    users, cosines = statistics.nearest_users(signatures, 2, include_self=True)
    assert users.tolist() == [[0, 1], [1, 0], [2, 1], [3, 0]]
    half = math.sqrt(0.5)
    np.testing.assert_allclose(cosines, [[1, half]] * 3 + [[1, 0]], rtol=1e-6)

    users, _ = statistics.nearest_users(signatures, 2, include_self=False)
    assert users.tolist() == [[1, 2], [0, 2], [1, 0], [0, 1]]


@pytest.mark.parametrize("include_self", [False, True])
def test_nearest_users_of_some_are_those_of_all(include_self):
    signatures, some = np.random.default_rng(0).normal(size=(30, 5)), np.array([7, 2])
    every = statistics.nearest_users(signatures, 4, include_self)
    found = statistics.nearest_users(signatures, 4, include_self, 1, of=some)
    for of_all, of_some in zip(every, found, strict=True):
        np.testing.assert_array_equal(of_some, of_all[some])


def test_nearest_users_follow_a_renaming():
    signatures = np.random.default_rng(0).normal(size=(30, 5))
    rename = np.random.default_rng(1).permutation(30)

    users, cosines = statistics.nearest_users(signatures, 4, include_self=False)
    again, same = statistics.nearest_users(signatures[rename], 4, include_self=False)

    np.testing.assert_array_equal(rename[again], users[rename])
    np.testing.assert_allclose(same, cosines[rename], rtol=1e-6)


def test_nearly_parallel_rows_are_told_apart():
    """Single precision would see one cosine of 1 everywhere."""
    angle = 1e-4 * np.array([0.0, 1.0, 3.0, 6.0])
    signatures = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    users, _ = statistics.nearest_users(signatures, 3, include_self=False)

    assert users.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]


def test_neighbours_of_a_few_cost_one_table_of_their_signatures():
    tracemalloc.start()
    signatures = np.random.default_rng(0).normal(size=(500, 2_000)).astype(np.float32)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    statistics.nearest_users(signatures, 3, True, block_rows=10, of=np.arange(2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert before >= signatures.nbytes  # arrays are counted
    table = 2 * signatures.nbytes  # in double precision
    assert peak - before < 1.2 * table


@given(signatures=signature_arrays, block_rows=st.integers(1, 10))
@quick
def test_similarity_agrees_with_the_neighbours(signatures, block_rows):
    k = len(signatures) - 1
    similarity, neighbours = statistics.user_similarity(signatures, k, block_rows)

    np.testing.assert_array_equal(similarity, similarity.T)
    assert similarity.dtype == np.float32
    nonzero = signatures.any(axis=1)
    np.testing.assert_array_equal(np.diag(similarity), nonzero.astype(np.float32))
    users, cosines = statistics.nearest_users(signatures, k, include_self=False)
    np.testing.assert_array_equal(neighbours, users)
    found = np.take_along_axis(similarity, users, axis=1)
    np.testing.assert_allclose(found, cosines, atol=1e-7)


def test_outsiders_are_compared_where_nobody_acts(dataset):
    """Worked by hand: users 1 and 3 and items 0 and 2 make the environment."""
    log = make_log(
        [
            (1, 1, 2), (1, 3, 0), (1, 0, 9),  # 1 acts: (2, 0) of the other items 1, 3
            (3, 1, 1), (3, 3, 1),  # 3 acts: (1, 1)
            (0, 1, 3), (0, 0, 5),  # (3, 0), so nearest to 1; says 5 of item 0
            (2, 1, 2), (2, 3, 2), (2, 2, 4), (2, 2, 4),  # (2, 2), nearest to 3; 8 of 2
            (4, 3, 1),  # (0, 1)
        ]
    )  # fmt: skip
    small = dataclasses.replace(
        dataset,
        log=log,
        num_logged_users=5,
        num_logged_items=4,
        environment_users=np.array([1, 3], np.int32),
        environment_items=np.array([0, 2], np.int32),
        true_reward=np.zeros((2, 2), np.float32),
    )

    nearest, feedback = statistics.nearest_outsiders(small, 2)

    # The outsiders 0, 2 and 4 have rows 0, 1 and 2.
    assert nearest.tolist() == [[0, 1], [1, 0]]
    assert feedback.tolist() == [[5, 0], [0, 8], [0, 0]]
    assert nearest.tolist() == statistics.nearest_outsiders(small, 2, 1)[0].tolist()
    with pytest.raises(DataError, match="4 neighbours in the log: synthetic has 3"):
        statistics.nearest_outsiders(small, 4)


def test_popularity_counts_users_once(dataset):
    log = make_log([(0, 1), (0, 1), (1, 1), (1, 2), (2, 0)])
    small = dataclasses.replace(
        dataset,
        log=log,
        num_logged_users=4,
        num_logged_items=4,
        environment_items=np.array([3, 1], np.int32),
    )

    popularity = statistics.item_popularity(small)

    assert popularity.dtype == np.float32
    np.testing.assert_allclose(popularity, [1 / 5, 3 / 5])


def test_activity_groups_are_thirds_of_the_environment(dataset):
    log = make_log([(0, 0)] * 5 + [(1, 0)] + [(2, 0)] * 9 + [(3, 0)] * 2)
    small = dataclasses.replace(
        dataset,
        log=log,
        num_logged_users=5,
        environment_users=np.array([3, 0, 4, 1], np.int32),
        true_reward=np.zeros((4, 2), np.float32),
    )

    groups = statistics.activity_groups(small, 3)

    # Rows 2, 5, 0 and 1; of four users the lightest third are two.
    assert groups.tolist() == [1, 2, 0, 0]
    assert groups.dtype == np.int32


@given(values=hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(-3, 3)))
@quick
def test_distinct_values_are_those_of_unique(values):
    np.testing.assert_array_equal(statistics.distinct(values), np.unique(values))
