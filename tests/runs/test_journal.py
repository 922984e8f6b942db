"""journal.py: the order of writing, and what a session that goes on makes of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from darlr_jax.runs.directory import RunError
from darlr_jax.runs.journal import Journal
from tests.runs.conftest import open_run

SEEDS = [5, 6, 7]
SPOILT = {"weights": np.arange(3.0)[:, None]}  # [S, 1]


def metrics(epoch, **changes):
    """Metrics of three seeds in which nothing is wrong but for `changes`."""
    return {
        "epoch": np.full(3, epoch),
        "env_steps": np.full(3, 100 * epoch),
        "NX_0_R_tra": np.full(3, 50.0),  # of drawn users, which choose no best epoch
        "NX_0_all_users_R_tra": np.array([1.0, 2.0, 6.0]) + epoch,
        "recommender_entropy": np.ones(3),
    } | changes


def journal_of(run, done=0):
    said = []
    return Journal(run, SEEDS, done, k_sel=None, say=said.append), said


def go(journal, epoch, checkpoint=None, **changes):
    """One epoch; returns the states with which it goes on."""
    values = metrics(epoch, **changes)
    states = journal.sort_out(SPOILT, values, epoch, lambda: checkpoint)
    journal.record(values, epoch, 0.5)
    return states


def record(run):
    return json.loads(run.run_file.read_text())


def rows(run):
    lines = run.metrics_jsonl.read_text().splitlines()
    return [(row["seed"], row["epoch"]) for row in map(json.loads, lines)]


def loss(*values):
    return {"loss": np.array(values)}


def test_a_healthy_epoch(tmp_path):
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run)
        assert go(journal, 1) is SPOILT
        assert journal.live == {0: 5, 1: 6, 2: 7}
        assert journal.score(metrics(1)) == pytest.approx(4.0)
        assert rows(run) == [(5, 1), (6, 1), (7, 1)]
        assert (said, record(run)["failed_seeds"]) == ([], [])
        assert not run.failed.exists()


def test_a_seed_fails_and_another_one_later(tmp_path):
    """At the places of both there are copies of the one that is left."""
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run)
        go(journal, 1, **loss(1, 2, 3))
        states = go(journal, 2, **loss(math.nan, 2, 3))
        np.testing.assert_array_equal(states["weights"], [[1], [1], [2]])
        # The copy at the first place shares what befalls the second: no news.
        states = go(journal, 3, **loss(math.inf, math.inf, 3))
        np.testing.assert_array_equal(states["weights"], [[2], [2], [2]])
        assert journal.live == {2: 7}
        assert journal.score(metrics(3)) == 9.0
        assert rows(run) == [*((s, 1) for s in SEEDS), (6, 2), (7, 2), (7, 3)]
        entries = record(run)["failed_seeds"]
        assert [(e["seed"], e["epoch"], e["value"]) for e in entries] == [
            *((5, 2, "nan"), (6, 3, "inf"))
        ]
        assert {e["before"] for e in entries} == {None}  # there was no checkpoint
        assert said[0].startswith("failed: loss is nan in epoch 2, seed 5; lower reco")
        assert said[0].endswith(f"Its state: {run.failed}/seed_5_epoch_2.npz")
        assert len(said) == 2


def test_no_seed_is_left(tmp_path):
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, _ = journal_of(run)
        go(journal, 1, **loss(1, math.nan, 3))
        with pytest.raises(FloatingPointError, match="epoch 2, seed 5, and no seed is"):
            go(journal, 2, **loss(math.nan, 2, math.nan))
        assert [e["seed"] for e in record(run)["failed_seeds"]] == [6, 5, 7]
        assert rows(run) == [(5, 1), (7, 1)]  # as if the epoch had not been


@pytest.mark.parametrize(("done", "marked"), [(2, [6]), (1, [])])
def test_a_session_goes_on_with_what_its_checkpoint_knows(tmp_path, done, marked):
    """Seed 6 failed in epoch 2, seed 7 in epoch 3; entropy 0 is warned of in 3."""
    zero = {"recommender_entropy": np.zeros(3)}
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run)
        go(journal, 1, **loss(1, 2, 3))
        go(journal, 2, **loss(1, math.nan, 3))
        go(journal, 3, **loss(1, 2, math.nan))
        run.close("interrupted")
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run, done)
        assert [entry["seed"] for entry in record(run)["failed_seeds"]] == marked
        assert rows(run)[-1][1] == done
        for epoch in range(done + 1, 8):
            go(journal, epoch, **loss(1, 2, 3), **zero)
        assert said == [
            f"warning: collapsed policy (recommender) in epoch {done + 5}, seed "
            f"{'5, 7' if marked else '5, 6, 7'}: policy entropy 0 nats; raise "
            "recommender.entropy_weight, or set recommender.mask_used_items=true"
        ]


def test_a_warning_is_said_once_a_run_and_noted_of_each_seed(tmp_path):
    def entropy(epoch):
        return np.array([0.0, 0.0 if epoch > 2 else 1.0, 1.0])

    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run)
        for epoch in range(1, 7):
            go(journal, epoch, recommender_entropy=entropy(epoch))
        assert len(said) == 1
        run.close("interrupted")
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, said = journal_of(run, done=6)
        go(journal, 7, recommender_entropy=entropy(7))
        assert said == []
        found = [(w["seed"], w["epoch"]) for w in record(run)["warnings"]]
        assert found == [(5, 5), (6, 7)]


def test_a_disk_that_takes_no_more_is_one_line(tmp_path):
    with open_run(tmp_path, seeds=SEEDS) as run:
        journal, _ = journal_of(run)
        run.failed.write_text("in the way")
        with pytest.raises(RunError, match=r"failed: cannot be written to \("):
            go(journal, 1, **loss(1, math.nan, 3))
        assert record(run)["failed_seeds"] == []
