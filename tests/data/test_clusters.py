"""Balanced groups of users: what holds of any vectors, and what planted groups say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.data.clusters import balanced_clusters


def vectors_of(num_users, width, seed=0):
    return np.random.default_rng(seed).normal(size=(num_users, width)).astype("f4")


def groups_of(clusters):
    """The members of each group, as sets."""
    return [set(row[row >= 0].tolist()) for row in clusters.members]


@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 45), st.sampled_from([0, 1])
)
def test_every_user_is_in_one_group_and_only_the_last_is_short(
    users, width, size, vary
):
    clusters = balanced_clusters(vary * vectors_of(users, width), size)

    members = clusters.members
    assert members.dtype == clusters.slot.dtype == np.int32
    assert members.shape == (-(-users // size), size)
    assert sorted(members[members >= 0].tolist()) == list(range(users))
    assert (members.ravel()[:users] >= 0).all()  # what is missing is missing at the end
    np.testing.assert_array_equal(members.ravel()[clusters.slot], np.arange(users))
    for row in members:
        assert (np.diff(row[row >= 0]) > 0).all()


@pytest.mark.parametrize("size", [2, 5])
def test_planted_groups_are_found(size):
    """Well apart along one line, in a random order, in more dimensions than users."""
    num_groups, width = 7, 50
    rng = np.random.default_rng(1)
    group = rng.permutation(np.repeat(np.arange(num_groups), size))
    centres = rng.normal(size=(1, width)) * 10 * np.arange(num_groups)[:, None]
    noise = rng.normal(size=(len(group), width))

    found = groups_of(balanced_clusters((centres[group] + noise).astype("f4"), size))

    planted = [set(np.flatnonzero(group == g).tolist()) for g in range(num_groups)]
    assert {frozenset(g) for g in found} == {frozenset(g) for g in planted}


def test_groups_are_closer_than_random_ones():
    """More users than are centred at a time, and rows with a large mean."""
    vectors = vectors_of(2100, 6) @ np.diag([8, 4, 2, 1, 1, 1]).astype("f4") + 1000

    members = balanced_clusters(vectors, 21).members

    def spread(groups):
        return np.mean([vectors[row].var(axis=0).sum() for row in groups])

    shuffled = np.random.default_rng(2).permutation(2100).reshape(members.shape)
    assert spread(members) < 0.15 * spread(shuffled)


def test_neither_origin_nor_names_matter():
    vectors, order = vectors_of(37, 4), np.random.default_rng(3).permutation(37)

    expected = groups_of(balanced_clusters(vectors, 5))

    assert groups_of(balanced_clusters(vectors + 3, 5)) == expected
    renamed = groups_of(balanced_clusters(vectors[order], 5))
    assert [{int(order[user]) for user in group} for group in renamed] == expected


def test_the_same_vectors_have_the_same_groups():
    first, second = (balanced_clusters(vectors_of(50, 40), 7) for _ in range(2))

    np.testing.assert_array_equal(first.members, second.members)
