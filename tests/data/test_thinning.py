"""thinning.py: what a share of the log keeps, and what it leaves as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.config import DatasetConfig, ThinningConfig, replace
from darlr_jax.data.loading import data_hash, load_dataset
from darlr_jax.data.thinning import thin

CONFIG = replace(
    DatasetConfig(),
    {
        "synthetic.num_users": 40,
        "synthetic.num_items": 30,
        "synthetic.num_tags": 4,
        "synthetic.num_clusters": 3,
    },
)
DATASET = load_dataset(CONFIG)
shares = st.floats(0.01, 0.99)


def rows(dataset):
    """The rows of the log, as the records that they are."""
    log = dataset.log
    return list(zip(log.users, log.items, log.labels, log.rewards, strict=True))


def test_the_whole_is_the_data_set_itself():
    assert thin(DATASET, ThinningConfig()) is DATASET


@given(shares, st.integers(0, 9))
def test_density_keeps_a_share_of_the_rows_in_their_order(share, seed):
    thinned = rows(thin(DATASET, ThinningConfig(share, "rows", seed)))
    assert len(thinned) == max(1, round(share * len(DATASET.log)))
    remaining = iter(rows(DATASET))
    assert all(row in remaining for row in thinned)


@given(shares, st.integers(0, 9))
def test_sparsity_keeps_all_or_nothing_of_a_user(share, seed):
    thinned = thin(DATASET, ThinningConfig(share, "users", seed)).log
    logged = np.unique(DATASET.log.users)
    kept = np.unique(thinned.users)
    assert len(kept) == max(1, round(share * len(logged)))
    whole = np.isin(DATASET.log.users, kept)
    assert np.array_equal(thinned.users, DATASET.log.users[whole])
    assert np.array_equal(thinned.items, DATASET.log.items[whole])


@pytest.mark.parametrize("unit", ["rows", "users"])
def test_a_smaller_share_is_part_of_a_larger_one(unit):
    kept = [set(rows(thin(DATASET, ThinningConfig(s, unit)))) for s in (0.1, 0.3, 0.8)]
    assert kept[0] < kept[1] < kept[2]


def test_another_seed_is_another_draw():
    draws = [rows(thin(DATASET, ThinningConfig(0.3, "rows", seed))) for seed in (0, 1)]
    assert draws[0] != draws[1]


def test_times_follow_their_rows():
    log = dataclasses.replace(DATASET.log, times=np.arange(len(DATASET.log)))
    dataset = dataclasses.replace(DATASET, log=log)
    thinned = thin(dataset, ThinningConfig(0.3)).log
    assert np.array_equal(thinned.users, log.users[thinned.times])


@pytest.mark.parametrize("unit", ["rows", "users"])
def test_nothing_but_the_log_changes(unit):
    thinned = thin(DATASET, ThinningConfig(0.1, unit))
    for field in dataclasses.fields(DATASET):
        if field.name not in ("log", "sources"):
            assert getattr(thinned, field.name) is getattr(DATASET, field.name)


def test_other_shares_are_other_data():
    configs = [
        ThinningConfig(),
        ThinningConfig(0.5),
        ThinningConfig(0.5, "users"),
        ThinningConfig(0.5, seed=1),
        ThinningConfig(0.25),
    ]
    hashes = {data_hash(thin(DATASET, config)) for config in configs}
    assert len(hashes) == len(configs)
    assert data_hash(thin(DATASET, configs[1])) in hashes  # and the same ones the same


def test_a_configuration_thins():
    config = replace(CONFIG, {"thinning.share": 0.5})
    assert rows(load_dataset(config)) == rows(thin(DATASET, config.thinning))
