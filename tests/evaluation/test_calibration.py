"""calibration.py: which cells are measured, against loops over the rows."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest

from darlr_jax.data import logs
from darlr_jax.evaluation import calibration, errors
from tests.simulation.worlds import (
    half_of_the_world,
    invented_world_model,
    tiny,
    tiny_dataset,
)

DATASET = tiny_dataset(tiny().dataset)
WORLD = invented_world_model(DATASET)


def test_the_errors_are_those_of_every_held_out_row():
    report = calibration.calibration_report(DATASET, WORLD)["held_out"]
    log = DATASET.held_out
    differences = [
        float(WORLD.prediction[user, item]) - label
        for user, item, label in zip(log.users, log.items, log.labels, strict=True)
    ]
    assert report["cells"] == report["available"] == len(log)
    assert report["outside"] == 0
    assert report["fit"]["mae"] == pytest.approx(np.mean(np.abs(differences)))
    assert report["fit"]["bias"] == pytest.approx(np.mean(differences))
    scores = [
        -difference / math.sqrt(WORLD.variance[user, item])
        for difference, user, item in zip(
            differences, log.users, log.items, strict=True
        )
    ]
    assert report["z_score"]["root_mean_square"] == pytest.approx(
        np.sqrt(np.mean(np.square(scores)))
    )
    assert sum(row["count"] for row in report["mean"]) == len(log)


def test_no_variance_is_measured_that_nothing_was_taught():
    full = calibration.calibration_report(DATASET, WORLD)
    report = calibration.calibration_report(DATASET, WORLD, predicts_variance=False)
    for part in ("held_out", "true_matrix"):
        assert set(full[part]) - set(report[part]) == {
            *("variance", "coverage", "z_score")
        }


@pytest.mark.parametrize("part", ["held_out", "true_matrix"])
def test_bins_are_those_of_logged_rows(part):
    """Of the 30 rows of a user, one or two are left out for some."""
    log = DATASET.log
    log = logs.select(log, log.times % 30 >= log.users % 3)
    dataset = dataclasses.replace(DATASET, log=log)
    report = calibration.calibration_report(dataset, WORLD)[part]
    users, items = np.meshgrid(
        np.arange(DATASET.num_users), np.arange(DATASET.num_items), indexing="ij"
    )
    observed = DATASET.true_reward
    if part == "held_out":
        users, items = DATASET.held_out.users, DATASET.held_out.items
        observed = DATASET.held_out.labels
    error = np.abs(WORLD.prediction[users, items] - observed).ravel()
    for name, logged, ids, bins in (
        ("by_user_activity", log.users, users, 3),
        ("by_item_popularity", log.items, items, 5),
    ):
        count = np.array([np.sum(logged == one) for one in ids.ravel()])
        assert len(report[name]) == bins
        for row in report[name]:
            inside = (count >= row["low"]) & (count <= row["high"])
            assert row["count"] == np.sum(inside)
            assert row["mae"] == pytest.approx(np.mean(error[inside]), rel=1e-5)


def test_users_who_logged_equally_much_share_a_bin():
    report = calibration.calibration_report(DATASET, WORLD)["held_out"]
    (row,) = report["by_user_activity"]
    assert row["low"] == row["high"] == 30


def test_both_tables_are_split_into_levels_and_the_rest():
    shares = calibration.calibration_report(DATASET, WORLD)["variance_shares"]
    assert shares["prediction"] == errors.variance_shares(WORLD.prediction)
    assert shares["true_matrix"] == errors.variance_shares(DATASET.true_reward)


def test_rows_outside_the_environment_are_counted():
    log = DATASET.log  # has more rows than are held out
    dataset, world = half_of_the_world(
        dataclasses.replace(DATASET, held_out=log), WORLD
    )
    report = calibration.calibration_report(dataset, world)["held_out"]
    inside = np.isin(log.users, range(5)) & np.isin(log.items, range(2, 6))
    assert report["outside"] == np.sum(~inside) > 0 and np.any(inside)
    predicted = WORLD.prediction[log.users[inside], log.items[inside]]
    bias = np.mean(predicted - log.labels[inside])
    assert report["fit"]["bias"] == pytest.approx(bias, rel=1e-5)


def test_without_cells_nothing_is_measured():
    nothing = {
        field.name: None if (column := getattr(DATASET.held_out, field.name)) is None
        else column[:0]
        for field in dataclasses.fields(DATASET.held_out)
    }  # fmt: skip
    held_out = dataclasses.replace(DATASET.held_out, **nothing)
    dataset = dataclasses.replace(DATASET, held_out=held_out)
    report = calibration.calibration_report(dataset, WORLD)["held_out"]
    assert report == {"available": 0, "outside": 0, "cells": 0, "same_unit": True}


def test_in_another_unit_only_the_ranking_is_measured():
    log = dataclasses.replace(DATASET.log, rewards=2 * DATASET.log.rewards)
    dataset = dataclasses.replace(DATASET, log=log)
    report = calibration.calibration_report(dataset, WORLD)
    truth = report["true_matrix"]
    assert not truth["same_unit"]
    assert math.isnan(truth["fit"]["mae"])
    assert -1 < truth["fit"]["rank_correlation"] < 1
    assert "coverage" not in truth
    assert "coverage" in report["held_out"]  # its labels are in the model's unit


def test_of_many_cells_a_sample_is_measured(monkeypatch):
    everything = calibration.calibration_report(DATASET, WORLD)
    monkeypatch.setattr(calibration, "_MOST_CELLS", 10)
    report = calibration.calibration_report(DATASET, WORLD)
    for part in ("held_out", "true_matrix"):
        assert report[part]["cells"] == 10
        assert report[part]["available"] == everything[part]["available"] > 10
    again = calibration.calibration_report(DATASET, WORLD)
    assert again["true_matrix"]["mean"] == report["true_matrix"]["mean"]


@pytest.mark.parametrize("most", [11, 12])
def test_sampled_cells_are_all_or_drawn_by_the_seed(monkeypatch, most):
    monkeypatch.setattr(calibration, "_MOST_CELLS", most)
    matrix = np.arange(12.0).reshape(3, 4)

    found = calibration.sampled_cells(matrix)

    drawn = np.random.default_rng(2022).integers(12, size=11)
    expected = drawn if most < 12 else np.arange(12)
    np.testing.assert_array_equal(found.users * 4 + found.items, expected)
    np.testing.assert_array_equal(found.observed, expected)


def test_a_sample_does_not_number_all_cells(monkeypatch):
    monkeypatch.setattr(calibration, "_MOST_CELLS", 10)
    matrix = np.broadcast_to(np.float32(1), (1_000, 1_000))

    tracemalloc.start()
    found = calibration.sampled_cells(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(found.users) == 10
    assert peak < matrix.size
