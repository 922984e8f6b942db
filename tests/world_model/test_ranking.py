"""Errors and rankings of held-out ratings."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.world_model.ranking import rating_errors
from tests import reference
from tests.world_model.conftest import make_log

quick = settings(max_examples=20, deadline=None)
LOG_3 = math.log2(3)


def test_worked_numbers():
    rows = [
        ((2, 0, 1), 0.5),  # user 2: a tie, in this order
        ((0, 3, 3), 0.9),  # user 0: predicted best, second, last
        ((1, 0, 2), 0.2),  # user 1: equal labels, no ranking to get right
        ((0, 1, 1), 0.8),
        ((2, 4, 2), 0.5),
        ((1, 2, 2), 0.7),
        ((0, 2, 2), 0.1),
    ]
    held_out = make_log([row for row, _ in rows])
    predicted = np.array([value for _, value in rows], np.float32)

    found = rating_errors(predicted, held_out, cutoffs=(1, 2, 5))

    # off by 0.5, 2.1, 1.8, 0.2, 1.5, 1.3, 1.9
    assert found["held_out_mae"] == pytest.approx(9.3 / 7)
    squares = 0.25 + 4.41 + 3.24 + 0.04 + 2.25 + 1.69 + 3.61
    assert found["held_out_mse"] == pytest.approx(squares / 7)
    # User 0 in predicted order: 3, 1, 2. User 2: 1, 2.
    assert found["held_out_ndcg_at_1"] == pytest.approx((3 / 3 + 1 / 2) / 2)
    first, second = (3 + 1 / LOG_3) / (3 + 2 / LOG_3), (1 + 2 / LOG_3) / (2 + 1 / LOG_3)
    assert found["held_out_ndcg_at_2"] == pytest.approx((first + second) / 2)
    first = (3 + 1 / LOG_3 + 2 / 2) / (3 + 2 / LOG_3 + 1 / 2)
    assert found["held_out_ndcg_at_5"] == pytest.approx((first + second) / 2)
    # User 0: the first of 3 rows. User 2: the first of 2, one half of each.
    gain = (3 - 2) + (1.5 - 1.5)
    assert found["held_out_top_gain"] == pytest.approx(gain / 2)
    # User 0: 3 over 1 and 3 over 2 right, 2 over 1 wrong. User 2: a tie, one half.
    assert found["held_out_pair_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)


@given(
    users=hnp.arrays(np.int32, 20, elements=st.integers(0, 4)),
    labels=hnp.arrays(np.int32, 20, elements=st.integers(1, 5)),
    predicted=hnp.arrays(np.int32, 20, elements=st.integers(0, 6)),
)
@quick
def test_rankings_match_the_definition(users, labels, predicted):
    rows = list(zip(users.tolist(), [0] * 20, labels.tolist(), strict=True))

    found = rating_errors((predicted / 2).astype(np.float32), make_log(rows), (1, 3))

    per_user = [(predicted[users == u], labels[users == u]) for u in range(5)]
    ranked = [case for case in per_user if len(set(case[1].tolist())) > 1]
    for name, score in {
        "ndcg_at_1": lambda p, y: reference.ndcg(p, y, 1),
        "ndcg_at_3": lambda p, y: reference.ndcg(p, y, 3),
        "pair_accuracy": reference.pair_accuracy,
        "top_gain": reference.top_gain,
    }.items():
        expected = np.mean([score(*case) for case in ranked]) if ranked else math.nan
        assert found[f"held_out_{name}"] == pytest.approx(expected, nan_ok=True)


def test_without_unequal_labels_there_is_no_ranking():
    found = rating_errors(np.array([1.0, 2.0]), make_log([(0, 0, 3), (0, 1, 3)]))

    assert found["held_out_mae"] == 1.5
    assert math.isnan(found["held_out_ndcg_at_5"])
    assert math.isnan(found["held_out_pair_accuracy"])


def test_gains_of_negative_rewards_count_from_the_smallest():
    low = make_log([(0, 0, -2), (0, 1, -1), (0, 2, 1)])
    high = make_log([(0, 0, 0), (0, 1, 1), (0, 2, 3)])
    predicted = np.array([0.2, 0.9, 0.5])

    assert rating_errors(predicted, low)["held_out_ndcg_at_5"] == pytest.approx(
        rating_errors(predicted, high)["held_out_ndcg_at_5"]
    )


def test_users_without_any_gain_have_no_ndcg():
    """Their labels differ, as those of KuaiRec may where nothing was watched."""
    labels = make_log([(0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2)])
    predicted = np.array([0.7, 0.3, 0.4, 0.6])

    def errors(*rewards):
        held_out = dataclasses.replace(labels, rewards=np.array(rewards, np.float32))
        return rating_errors(predicted, held_out, cutoffs=(1,))

    some, none = errors(1, 2, 0, 0), errors(0, 0, 0, 0)

    # User 0 alone, whose worse row is ranked first; user 1 counts for the pairs.
    assert some["held_out_ndcg_at_1"] == pytest.approx(1 / 2)
    assert some["held_out_pair_accuracy"] == pytest.approx(1 / 2)
    assert math.isnan(none["held_out_ndcg_at_1"])
    assert none["held_out_pair_accuracy"] == pytest.approx(1 / 2)


def test_pairs_of_a_busy_user_are_those_of_some_rows():
    """The accuracy over 256 of 3,000 rows is near that over all."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=3000)
    held_out = make_log([(0, n, reward) for n, reward in enumerate(rewards)])
    predicted = rewards + rng.normal(size=3000)

    found = rating_errors(predicted, held_out)["held_out_pair_accuracy"]

    assert found == pytest.approx(3 / 4, abs=0.03)  # a correlation of sqrt(1 / 2)
