"""tags.py: three forms of the same tags."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darlr_jax.data.tags import one_hot, tag_feature, tag_lists

HAS_TAG = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.bool_)


def test_lists_name_what_a_matrix_marks():
    lists = tag_lists(HAS_TAG)

    assert lists.tolist() == [[1, 2], [-1, -1], [0, -1]]
    assert lists.dtype == np.int32


def test_lists_are_never_without_a_column():
    assert tag_lists(np.zeros((2, 3), np.bool_)).tolist() == [[-1], [-1]]
    assert tag_lists(np.zeros((2, 0), np.bool_)).tolist() == [[-1], [-1]]


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(0, 5))))
def test_a_matrix_is_what_its_lists_mark(has_tag):
    np.testing.assert_array_equal(one_hot(tag_lists(has_tag), len(has_tag.T)), has_tag)


def test_codes_of_a_feature_keep_the_order_and_leave_0_for_none():
    feature = tag_feature("genres", np.array([[2, 0], [1, -1]]), 3)

    assert feature.codes.tolist() == [[3, 1], [2, 0]]
    assert feature.codes.dtype == np.int32
    assert (feature.name, feature.size, feature.padded) == ("genres", 4, True)
