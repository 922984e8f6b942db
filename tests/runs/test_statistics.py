"""statistics.py: worked numbers, the exact bootstrap, invariances, refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # JAX depends on it; the library does not

from darlr_jax.runs import statistics
from darlr_jax.runs.statistics import (
    bootstrap,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
)

SCORES = [1.0, 2.0, 4.0, 8.0, 16.0]
scores = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=6)


def exact_quantiles(values, statistic):
    """Of all `n ** n` resamples, each of which is equally likely."""
    resamples = np.array(list(itertools.product(values, repeat=len(values))))
    return np.quantile(statistic(resamples), (0.025, 0.975))


def test_interquartile_mean_worked_by_hand():
    assert interquartile_mean(np.array([9.0, 1.0, 2.0])) == 4.0  # nothing to leave out
    assert interquartile_mean(np.array(SCORES)) == pytest.approx(14 / 3)
    assert interquartile_mean(np.arange(8.0)) == 3.5


@pytest.mark.parametrize("runs", range(1, 13))
def test_interquartile_mean_is_the_trimmed_mean(runs):
    values = np.random.default_rng(runs).normal(size=(3, runs))
    expected = stats.trim_mean(values, 0.25, axis=1)
    assert interquartile_mean(values) == pytest.approx(expected)


@pytest.mark.parametrize("statistic", [statistics.mean, interquartile_mean])
def test_interval_against_all_resamples(statistic):
    interval = bootstrap([SCORES], statistic, samples=200_000)
    low, high = exact_quantiles(SCORES, statistic)
    assert interval.value == pytest.approx(statistic(np.array(SCORES)))
    assert interval.low == pytest.approx(low, abs=0.1)
    assert interval.high == pytest.approx(high, abs=0.1)
    assert interval.runs == 5


@pytest.mark.parametrize("place", range(8))
def test_as_many_resamples_as_tables_take_are_near_all_of_them(place):
    """What is said of `SAMPLES`: within 4.1 % of the width, of five runs."""
    values = np.random.default_rng(place).normal(size=5)
    low, high = exact_quantiles(values, statistics.mean)
    ends = bootstrap([values])
    assert ends.low == pytest.approx(low, abs=0.05 * (high - low))
    assert ends.high == pytest.approx(high, abs=0.05 * (high - low))


def test_strata_keep_their_share():
    # Were the runs of both strata mixed, a resample could hold one stratum alone.
    interval = bootstrap([[0.0, 0.0], [100.0, 100.0]])
    assert interval == (50.0, 50.0, 50.0, 4)


def test_one_run_has_no_interval():
    interval = bootstrap([[5.0]])
    assert interval.value == 5.0
    assert interval.runs == 1
    assert math.isnan(interval.low) and math.isnan(interval.high)
    assert not interval.low > 0 and not interval.high < 0
    assert math.isnan(bootstrap([SCORES, [5.0]]).low)


@given(scores, st.randoms(use_true_random=False), st.integers(-100, 100))
def test_order_of_seeds_and_level_of_scores_do_not_matter(values, random, shift):
    interval = bootstrap([values], samples=50)
    shuffled = random.sample(values, len(values))
    assert bootstrap([shuffled], samples=50) == interval
    moved = bootstrap([[value + shift for value in values]], samples=50)
    assert moved[:3] == pytest.approx([end + shift for end in interval[:3]])
    assert min(values) <= interval.low <= interval.high <= max(values)


def test_more_runs_are_a_narrower_interval():
    few, many = bootstrap([SCORES]), bootstrap([SCORES * 8])
    assert many.high - many.low < (few.high - few.low) / 2


def test_paired_difference_uses_common_seeds_alone():
    first = {0: 11.0, 1: 22.0, 2: 33.0, 7: 1000.0}
    second = {2: 30.0, 1: 20.0, 0: 10.0, 9: -1000.0}
    interval = paired_difference(first, second)
    assert interval.value == 2.0  # of 1, 2 and 3
    assert interval.runs == 3
    # One resample in 27 holds the smallest difference alone: more than 2.5 %.
    assert (interval.low, interval.high) == (1.0, 3.0)


def test_pairing_removes_what_seeds_share():
    """Seeds differ by 10, methods by 1: paired that is seen, unpaired it is not."""
    base = dict(enumerate([0.0, 10.0, 20.0, 30.0, 40.0]))
    better = {seed: value + 1 for seed, value in base.items()}
    assert paired_difference(better, base).low > 0
    assert paired_difference(base, better).high < 0
    unpaired = probability_of_improvement(
        [list(better.values())], [list(base.values())]
    )
    assert unpaired.low < 0.5 < unpaired.value


def test_no_common_seed_is_an_error():
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_probability_of_improvement_worked_by_hand():
    # 6 pairs: (3 > 1), (3 > 2), (3 = 3), (2 > 1), (2 = 2), (2 < 3) -> (3 + 2 / 2) / 6
    interval = probability_of_improvement([[3.0, 2.0]], [[1.0, 2.0, 3.0]])
    assert interval.value == pytest.approx(4 / 6)
    assert interval.runs == 2


@given(scores, scores)
def test_probability_of_improvement_is_the_test_statistic(first, second):
    value = probability_of_improvement([first], [second], samples=1).value
    pairs = len(first) * len(second)
    assert value == pytest.approx(stats.mannwhitneyu(first, second).statistic / pairs)
    reverse = probability_of_improvement([second], [first], samples=1).value
    assert value + reverse == pytest.approx(1.0)


def test_probability_of_improvement_is_the_mean_over_strata():
    both = probability_of_improvement(
        [[2.0, 3.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]
    )
    assert both == (0.5, 0.5, 0.5, 4)
    one = probability_of_improvement([[2.0]], [[1.0, 0.0]])
    assert one.value == 1.0 and math.isnan(one.low)


@pytest.mark.parametrize(
    ("strata", "message"),
    [([], "without runs"), ([[1.0], []], "without runs"), ([[math.nan]], "finite")],
)
def test_what_cannot_be_estimated_is_refused(strata, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(strata)


def test_strata_must_correspond():
    with pytest.raises(ValueError, match="1 and 2 strata"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])
