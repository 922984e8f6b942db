"""breadth.py: which rows, which epochs, and how share and score go together."""

from __future__ import annotations

import pathlib

import pandas as pd
import pytest

from darlr_jax.config import replace
from darlr_jax.presets import preset
from darlr_jax.runs.breadth import (
    breadth_note,
    breadth_rows,
    breadth_seeds,
    breadth_table,
)
from darlr_jax.runs.results import FinishedRun

MASKED = {"recommender.mask_used_items": True}


def run(name, share, score, epochs=4, method="mbpo", changes=None, drop=()):
    """A run of two seeds whose last epoch alone counts; the others are far off."""
    rows = [
        {
            "seed": seed,
            "epoch": epoch,
            "NX_0_CV": (share if epoch == epochs else 0.0) + 0.01 * seed,
            "NX_0_all_users_R_tra": (score if epoch == epochs else 0.0) + seed,
            "FB_R_each": 2.0 + seed,
        }
        for seed in (0, 1)
        for epoch in range(1, epochs + 1)
    ]
    config = replace(preset("coat", method), changes or {})
    metrics = pd.DataFrame(rows).drop(columns=list(drop))
    return FinishedRun(pathlib.Path(name), config, metrics, {}, None)


def test_rows_are_means_of_the_last_quarter_by_rising_share():
    runs = [run("wide", 0.8, 70.0), run("narrow", 0.2, 75.0)]
    found = breadth_rows(breadth_seeds(runs))
    assert found["row"].tolist() == ["narrow", "wide"]
    assert found["distinct items"].tolist() == pytest.approx([0.205, 0.805])
    assert found["all users"].tolist() == [75.5, 70.5]
    assert found["FB R_each"].tolist() == [2.5, 2.5]


@pytest.mark.parametrize(
    "other",
    [
        {"method": "gt"},
        {"method": "crr"},
        {"method": "random"},
        {"changes": MASKED},
        {"drop": ["NX_0_all_users_R_tra"]},
    ],
)
def test_what_learns_otherwise_is_left_out(other):
    assert breadth_seeds([run("other", 0.5, 70.0, **other)]).empty


def test_ranges_have_counts_means_and_ends():
    shares = (0.1, 0.15, 0.5, 0.9)
    runs = [run(str(n), share, 70.0 + n) for n, share in enumerate(shares)]
    table = breadth_table(breadth_rows(breadth_seeds(runs)))
    assert table["distinct items"].tolist() == [
        "0.0 to 0.4",
        "0.4 to 0.6",
        "0.8 to 1.0",
    ]
    assert table["rows"].tolist() == [2, 1, 1]
    assert table["all users"].tolist() == [71.0, 72.5, 73.5]
    assert table["lowest row"].tolist() == [70.5, 72.5, 73.5]
    assert table["highest row"].tolist() == [71.5, 72.5, 73.5]


def test_correlations_are_told_of_all_and_of_each_number_of_epochs():
    shares = (0.1, 0.2, 0.3, 0.4, 0.5)
    falling = [run(f"f{n}", s, 80 - 10 * s) for n, s in enumerate(shares)]
    rising = [run(f"r{n}", s, 80 + 10 * s, epochs=8) for n, s in enumerate(shares)]
    note = breadth_note(breadth_seeds(falling + rising))
    assert "all 10 rows" in note
    assert (
        "the 5 of 4 epochs -1.00 (ranks -1.00, between the seeds of a row 1.00)" in note
    )
    assert (
        "the 5 of 8 epochs 1.00 (ranks 1.00, between the seeds of a row 1.00)" in note
    )


def test_of_each_tracker_as_well_where_there_are_two():
    shares = (0.1, 0.2, 0.3, 0.4, 0.5)
    other = {"tracker.kind": "transformer"}
    runs = [run(f"a{n}", s, 80 - 10 * s) for n, s in enumerate(shares)]
    runs += [run(f"t{n}", s, 90 + s, changes=other) for n, s in enumerate(shares)]
    note = breadth_note(breadth_seeds(runs))
    assert "the 5 with the average tracker -1.00" in note
    assert "the 5 with the transformer tracker 1.00" in note


def test_of_few_rows_no_correlation_is_told():
    assert "Correlation" not in breadth_note(breadth_seeds([run("a", 0.1, 70.0)] * 4))
