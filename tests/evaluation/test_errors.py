"""errors.py against plain loops, SciPy, and cases worked by hand."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.evaluation import errors

RNG = np.random.default_rng(0)
VALUES = st.lists(st.integers(-4, 4), min_size=1, max_size=40).map(np.array)


@given(VALUES, st.integers(1, 6))
def test_bins_are_a_partition_into_neighbours(values, most):
    bins = errors.quantile_bins(values, most)
    count = len(bins.low)
    assert 1 <= count <= most
    assert set(bins.bin_of) == set(range(count))
    for n in range(count):
        inside = values[bins.bin_of == n]
        assert (inside.min(), inside.max()) == (bins.low[n], bins.high[n])
    assert np.all(bins.high[:-1] < bins.low[1:])


def test_bins_hold_equally_many():
    bins = errors.quantile_bins(RNG.permutation(100), 4)
    assert np.bincount(bins.bin_of).tolist() == [25] * 4
    assert bins.low.tolist() == [0, 25, 50, 75]


def test_few_values_have_a_bin_each():
    bins = errors.quantile_bins(np.array([3, 1, 3, 3, 3]), 5)
    assert bins.bin_of.tolist() == [1, 0, 1, 1, 1]
    assert bins.high.tolist() == [1, 3]


def test_a_value_that_fills_a_bin_leaves_no_empty_one():
    values = np.array([0] * 97 + [1, 2, 3])
    bins = errors.quantile_bins(values, 3)
    assert np.bincount(bins.bin_of).tolist() == [97, 3]


def test_bins_from_edges():
    bins = errors.bins_from(np.array([7, 0, 1, 2, 4, 9]), (0, 1, 2, 5))
    assert bins.bin_of.tolist() == [3, 0, 1, 2, 2, 3]
    assert bins.low.tolist() == [0, 1, 2, 7]
    assert bins.high.tolist() == [0, 1, 4, 9]
    assert errors.bins_from(np.array([6, 0]), (0, 1, 5)).bin_of.tolist() == [1, 0]
    with pytest.raises(ValueError, match="first edge"):
        errors.bins_from(np.array([0]), (1, 2))


def test_fit_by_hand():
    row = errors.fit(np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, 3.0]))
    assert row["count"] == 3
    assert row["mae"] == pytest.approx(2 / 3)
    assert row["bias"] == pytest.approx(0.0)
    assert row["rank_correlation"] == pytest.approx(math.sqrt(3) / 2)
    other = errors.fit(np.array([1.0, 2.0]), np.array([20.0, 30.0]), same_unit=False)
    assert math.isnan(other["mae"]) and math.isnan(other["bias"])
    assert other["rank_correlation"] == pytest.approx(1.0)


@given(VALUES)
def test_rank_correlation_is_spearmans(values):
    other = np.roll(values, 1) + values // 2
    ours = errors.rank_correlation(values, other)
    if np.ptp(values) == 0 or np.ptp(other) == 0:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(scipy.stats.spearmanr(values, other)[0])


def test_nothing_to_measure_is_not_a_number():
    empty = np.zeros(0)
    assert math.isnan(errors.rank_correlation(empty, empty))
    assert math.isnan(errors.pair_accuracy(empty, empty, np.zeros(0, int)))
    assert math.isnan(errors.pair_accuracy(*np.ones((2, 3)), np.arange(3)))
    assert errors.fit(empty, empty)["count"] == 0


def plain_pair_accuracy(predicted, observed, users):
    """Every ordered pair of cells of one user, each cell being drawn first alike."""
    total = right = 0.0
    for n in range(len(users)):
        mates = [m for m in range(len(users)) if users[m] == users[n]]
        for m in mates:
            if observed[n] != observed[m]:
                total += 1 / len(mates)
                agreement = np.sign(predicted[n] - predicted[m]) * np.sign(
                    observed[n] - observed[m]
                )
                right += (agreement + 1) / 2 / len(mates)
    return right / total


def test_pair_accuracy_is_that_of_all_pairs():
    users = RNG.integers(0, 7, 60)
    observed = RNG.integers(1, 6, 60).astype(float)
    predicted = (observed + RNG.normal(0, 2, 60)).round()  # with ties
    expected = plain_pair_accuracy(predicted, observed, users)
    ours = errors.pair_accuracy(predicted, observed, users)
    assert ours == pytest.approx(expected, abs=0.015)  # four standard errors
    assert 0.6 < expected < 0.9
    shuffled = RNG.permutation(60)
    again = errors.pair_accuracy(
        *(column[shuffled] for column in (predicted, observed, users))
    )
    assert again == pytest.approx(expected, abs=0.015)


def test_pair_accuracy_of_known_rankings():
    users, observed = np.arange(40) % 4, np.arange(40.0)
    assert errors.pair_accuracy(observed, observed, users) == 1.0
    assert errors.pair_accuracy(-observed, observed, users) == 0.0
    assert errors.pair_accuracy(np.zeros(40), observed, users) == 0.5
    # The users' levels are compared with nobody else's.
    assert errors.pair_accuracy(observed - 1000 * users, observed, users) == 1.0


def test_calibration_curve_is_a_loop_over_bins():
    predicted, observed = RNG.normal(size=(2, 200))
    rows = errors.calibration_curve(predicted, observed, 4)
    edges = np.sort(predicted).reshape(4, 50)
    for row, edge in zip(rows, edges, strict=True):
        inside = (predicted >= edge[0]) & (predicted <= edge[-1])
        assert row["count"] == 50
        assert (row["low"], row["high"]) == (edge[0], edge[-1])
        assert row["predicted"] == pytest.approx(predicted[inside].mean())
        assert row["observed"] == pytest.approx(observed[inside].mean())


def test_variance_curve_finds_what_was_drawn():
    variance = np.repeat([0.25, 4.0], 20_000)
    predicted = RNG.normal(3, 1, 40_000)
    observed = predicted + RNG.normal(size=40_000) * np.sqrt(variance)
    low, high = errors.variance_curve(predicted, variance, observed)
    assert low["variance"] == 0.25
    assert low["squared_error"] == pytest.approx(0.25, rel=0.05)
    assert high["squared_error"] == pytest.approx(4.0, rel=0.05)
    for row in errors.coverage(predicted, variance, observed):
        assert row["covered"] == pytest.approx(row["share"], abs=0.01)
    doubled = errors.coverage(predicted, 4 * variance, observed)
    assert [row["covered"] > row["share"] for row in doubled] == [True] * 4
    scores = errors.z_scores(predicted, variance, observed)
    assert np.std(scores) == pytest.approx(1.0, abs=0.02)


def test_intervals_are_those_of_the_normal_distribution():
    for (share, width), expected in itertools.zip_longest(
        errors.INTERVALS.items(), (0.5, 0.8, 0.9, 0.95)
    ):
        assert share == expected
        assert width == pytest.approx(scipy.stats.norm.ppf((1 + share) / 2), abs=1e-5)


def test_variance_shares_by_hand():
    additive = np.array([[0, 1], [2, 3]])  # variance 1.25: users 1, items 0.25
    assert errors.variance_shares(additive) == pytest.approx(
        {"users": 0.8, "items": 0.2, "interaction": 0.0}
    )
    crossed = np.array([[0, 1], [1, 0]])
    assert errors.variance_shares(crossed)["interaction"] == 1.0
    assert all(map(math.isnan, errors.variance_shares(np.ones((2, 3))).values()))


def plain_variance_shares(matrix):
    """By a table of what is left when both means are taken away."""
    table = np.asarray(matrix, np.float64)
    users, items = (table.mean(axis=axis) for axis in (1, 0))
    rest = table - users[:, None] - items + table.mean()
    parts = {"users": users, "items": items, "interaction": rest}
    return {name: part.var() / table.var() for name, part in parts.items()}


@pytest.mark.parametrize("block_cells", [1, 64, 1 << 18])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_variance_shares_are_those_of_a_table_of_the_rest(
    monkeypatch, block_cells, shift
):
    monkeypatch.setattr(errors, "_BLOCK_CELLS", block_cells)
    rng = np.random.default_rng(1)
    table = rng.normal(size=(41, 1)) + 0.1 * rng.normal(size=(41, 23)) + shift
    for matrix in (table, table.T, table.astype(np.float32), np.rint(5 * table)):
        found = errors.variance_shares(matrix)
        assert found == pytest.approx(plain_variance_shares(matrix), rel=1e-9)


def test_variance_shares_need_no_further_table():
    table = RNG.normal(size=(3_000, 1_000)).astype(np.float32)

    tracemalloc.start()
    shares = errors.variance_shares(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < table.nbytes / 2
    assert shares == pytest.approx(plain_variance_shares(table), rel=1e-9)


def test_an_additive_table_has_no_negative_interaction():
    for seed in range(50):
        users, items = np.random.default_rng(seed).normal(size=(2, 30))
        interaction = errors.variance_shares(users[:, None] + items)["interaction"]
        assert 0 <= interaction < 1e-12


def test_variance_shares_add_up_and_ignore_unit_and_order():
    table = RNG.normal(size=(7, 5)) + RNG.normal(size=5)
    shares = errors.variance_shares(table)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert errors.variance_shares(3 * table[::-1] - 8) == pytest.approx(shares)
    swapped = errors.variance_shares(table.T)
    assert swapped["users"] == pytest.approx(shares["items"])
