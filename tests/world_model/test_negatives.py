"""Sampled negatives: the rule, by the frequencies that it implies."""

import numpy as np
import pytest

from darlr_jax.world_model import negatives
from darlr_jax.world_model.negatives import draw_training_pairs

MANY = 5000  # negatives a row: a share is known to about 0.007


def shares(pairs, row):
    """How often each of 2 x 2 cells is a negative of one logged row."""
    cells = 2 * pairs.negative_users + pairs.negative_items
    return np.bincount(cells[row :: len(pairs.users)], minlength=4) / MANY


def test_three_tries_to_find_a_lower_value(with_log):
    # Only (1, 1) has less than 5: it is not logged and counts as 0.
    dataset = with_log([(0, 0, 5), (0, 1, 5), (1, 0, 5)], users=2, items=2)

    pairs = draw_training_pairs(dataset, MANY, seed=0)

    # It is missed three times in (3/4)^3 = 27/64 cases, and then the miss stands.
    for row in range(3):
        found = shares(pairs, row)
        np.testing.assert_allclose(found, np.array([9, 9, 9, 37]) / 64, atol=0.03)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (0, [0.25, 5.25, 5.25, 5.25]),  # below 1 + 1 is all else: missed in (1/4)^3
        (1, [0.25, 5.25, 5.25, 5.25]),
        (2, [1, 1, 7, 7]),  # 1 + 1 is not below 1.5: both others missed in (1/2)^3
        (3, [4, 4, 4, 4]),  # nothing is below -1, itself included
        (4, [2.25, 2.25, 9.25, 2.25]),  # below 0 is -1 alone, as above
    ],
)
def test_negative_p_is_drawn_for_row_p_mod_n(with_log, row, expected):
    rows = [(0, 0, 1), (0, 0, 1), (0, 1, 1.5), (1, 0, -1), (1, 1, 0)]
    dataset = with_log(rows, users=2, items=2)  # the cells hold 2, 1.5, -1, 0

    pairs = draw_training_pairs(dataset, MANY, seed=0)

    np.testing.assert_allclose(shares(pairs, row), np.array(expected) / 16, atol=0.03)
    np.testing.assert_array_equal(pairs.users, dataset.log.users)
    np.testing.assert_array_equal(pairs.items, dataset.log.items)
    np.testing.assert_array_equal(pairs.labels, dataset.log.labels)


def test_negatives_are_frozen_by_the_seed(dataset):
    first, again, other = (draw_training_pairs(dataset, 3, seed) for seed in (0, 0, 1))

    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first.negative_users != other.negative_users).any()
    assert (first.negative_items != other.negative_items).any()
    for ids in (first.negative_users, first.negative_items):
        assert ids.dtype == np.int32
        assert ids.shape == (3 * len(dataset.log),)


def test_a_search_answers_as_the_table_does(dataset, monkeypatch):
    by_table = draw_training_pairs(dataset, 3, seed=0)
    monkeypatch.setattr(negatives, "_LARGEST_TABLE", 0)

    by_search = draw_training_pairs(dataset, 3, seed=0)

    for one, two in zip(by_table, by_search, strict=True):
        np.testing.assert_array_equal(one, two)


def test_importance_is_one_over_the_rows_of_the_item(with_log):
    dataset = with_log([(0, 3, 5), (1, 3, 2), (2, 3, 1), (2, 3, 4), (0, 1, 5)])

    pairs = draw_training_pairs(dataset, 2, seed=0)

    np.testing.assert_array_equal(pairs.importance, [0.25, 0.25, 0.25, 0.25, 1])
    assert pairs.importance.dtype == np.float32
