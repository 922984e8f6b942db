"""logs.py: which rows are taken, which are held out, and where ids stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.data import logs
from darlr_jax.data.dataset import InteractionLog

# --- which rows are taken -------------------------------------------------------------


@pytest.mark.parametrize("timed", [False, True])
def test_rows_stay_together_and_in_order(timed):
    numbers = np.arange(4)
    log = InteractionLog(
        users=(numbers % 2).astype(np.int32),
        items=numbers.astype(np.int32),
        labels=numbers / np.float32(2),
        rewards=numbers + np.float32(1),
        times=numbers * 10 if timed else None,
    )

    found = logs.select(log, np.array([True, False, True, True]))

    assert found.users.tolist() == [0, 0, 1]
    assert found.items.tolist() == [0, 2, 3]
    assert found.labels.tolist() == [0, 1, 1.5]
    assert found.rewards.tolist() == [1, 3, 4]
    assert found.times is None if not timed else found.times.tolist() == [0, 20, 30]


@pytest.mark.parametrize(
    ("ids", "expected"), [([3, 0], [1, -1, -1, 0]), ([], [-1, -1, -1, -1])]
)
def test_positions_are_where_ids_stand(ids, expected):
    found = logs.positions(np.array(ids, np.int32), 4)

    assert found.tolist() == expected
    assert found.dtype == np.int64


# --- which are held out ---------------------------------------------------------------


def test_last_rows_in_time_are_held_out():
    users = np.array([3, 0, 3, 3, 0, 3, 0], np.int32)
    times = np.array([5, 9, 1, 7, 2, 5, 9])

    # Users 0 and 3 give 1 of 3 and 2 of 4: of rows at one time, the later in the file.
    held_out = logs.hold_out(users, times, 0.5)

    assert np.flatnonzero(held_out).tolist() == [3, 5, 6]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, []), (0.2, [4, 9]), (0.3, [3, 6, 9]), (0.5, [1, 3, 5, 7, 9]),
     (0.9, [1, 2, 3, 4, 5, 6, 7, 8, 9])],
)  # fmt: skip
def test_rows_without_times_are_held_out_at_even_distances(share, expected):
    users = np.zeros(10, np.int32)

    assert np.flatnonzero(logs.hold_out(users, None, share)).tolist() == expected


def test_share_is_not_cut_by_rounding():
    # In floating point, 0.29 * 100 is less than 29.
    users = np.zeros(100, np.int32)

    assert logs.hold_out(users, None, 0.29).sum() == 29
    assert logs.hold_out(users, np.arange(100), 0.29).sum() == 29


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40),
    st.floats(0, 0.9),
    st.booleans(),
)
def test_every_user_gives_her_share_and_keeps_a_row(rows, share, timed):
    users, times = np.array(rows, np.int32).T

    held_out = logs.hold_out(users, times if timed else None, share)

    for user in np.unique(users):
        mine = users == user
        assert held_out[mine].sum() == int(share * mine.sum() + 1e-9)
        assert not held_out[mine].all()
        if timed and held_out[mine].any():
            assert times[mine & held_out].min() >= times[mine & ~held_out].max()
