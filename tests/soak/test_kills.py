"""Runs that are killed at random moments, and two that want the same directory.

Nothing is asked of a killed run but its files: the same command is given again and
again, until it succeeds, and what it leaves then must be what a run leaves that nobody
has touched.
"""

from __future__ import annotations

import collections
import contextlib
import json

import numpy as np
import pytest

from tests.soak.processes import Run, assert_same, unreadable
from tests.soak.scale import count, report

BATCHES = count(short=1, long=20)  # each with runs of its own: one can be done again
KILLS = count(short=2, long=200) // BATCHES


def phase(run):
    """What a run was about when it was killed."""
    said = run.said
    if any((run.workdir / "checkpoints").glob("*tmp*")):
        return "writing a checkpoint"
    for words, name in (
        ("means over epochs", "ending"),
        ("steps/s", "training and evaluating"),
        ("compiled in", "training and evaluating"),
        ("world model: epoch 20/20", "compiling"),
        ("world model: reused", "compiling"),
        ("world model: ", "fitting the world model"),
        ("items", "fitting the world model"),
    ):
        if words in said:
            return name
    return "starting"


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.timeout(7200)
def test_runs_killed_at_random_end_as_if_they_never_were(
    untouched, seconds, tmp_path, batch
):
    rng = np.random.default_rng(batch)
    kills: collections.Counter[str] = collections.Counter()
    runs = 0
    while kills.total() < KILLS:
        runs += 1
        workdir, cache = tmp_path / f"run{runs}", tmp_path / f"cache{runs}"
        while kills.total() < KILLS:
            run = Run(workdir, cache)
            with contextlib.closing(run):
                if run.wait(rng.uniform(0.0, seconds)) is not None:
                    break
                run.kill()
                kills[phase(run)] += 1
            assert unreadable(workdir) + unreadable(cache) == []
        Run(workdir, cache).finish()  # again, if it has finished already
        assert_same(workdir, untouched)
    report(f"kills, batch {batch}", survived=kills.total(), runs=runs, **kills)


@pytest.mark.slow
def test_a_second_process_is_refused_and_disturbs_nothing(untouched, tmp_path):
    with contextlib.closing(Run(tmp_path / "run", tmp_path / "cache")) as first:
        first.wait_for("steps/s")
        with first.held():  # or it has ended when the second has imported JAX
            message = Run(tmp_path / "run", tmp_path / "cache", "--overwrite").fail()
        assert f"{tmp_path / 'run'}: in use by process {first.pid} on " in message
        first.finish()
    assert_same(tmp_path / "run", untouched)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_devices(
    untouched, tmp_path, before, after
):
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    with contextlib.closing(Run(workdir, cache, devices=before)) as killed:
        killed.wait_for_checkpoint()
        killed.kill()
    said = Run(workdir, cache, devices=after).finish()
    assert "continues after epoch" in said
    device = json.loads((workdir / "run.json").read_text(encoding="utf-8"))["device"]
    assert device["count"] == after
    assert_same(workdir, untouched)
