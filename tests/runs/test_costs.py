"""costs.py: seconds of all sessions, the pace of an epoch, and what is not known."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from darlr_jax.config import replace
from darlr_jax.runs.costs import Costs, costs_of, costs_table
from darlr_jax.runs.results import read_run
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import CONFIG, metrics_row, open_run

ABACUS = {"count": 2, "kind": "abacus"}
RECORD = {
    "run_seconds": 100.0,
    "compile_seconds": 7.0,
    "peak_memory_mib": {"host": 512.0, "device": None},
    "side_by_side": 2,
    "earlier_sessions": [
        {"run_seconds": 50.0, "compile_seconds": 3.0, "device": ABACUS},
        {"run_seconds": None},  # ended before it had an epoch
    ],
}


def metrics(seconds, steps):
    """Two seeds, whose rows hold the seconds of both."""
    return pd.DataFrame(
        {"seed": seed, "epoch": epoch, "seconds": took, "env_steps": epoch * steps}
        for seed in (0, 1)
        for epoch, took in enumerate(seconds, start=1)
    )


def test_worked_by_hand():
    """An epoch that was suspended moves neither the median nor the pace."""
    assert costs_of(RECORD, metrics((2.0, 2.0, 500.0), 30)) == Costs(
        run_seconds=150.0,
        compile_seconds=10.0,
        epoch_seconds=2.0,
        transitions=180.0,
        transitions_per_second=30.0,
        host_mib=512.0,
        device_mib=None,
        side_by_side=2,
    )


def test_a_finished_run_that_is_opened_alone_has_shared_its_program():
    again = {"run_seconds": None, "side_by_side": 1, "earlier_sessions": [RECORD]}
    costs = costs_of(again, metrics((2.0,), 30))
    assert (costs.run_seconds, costs.side_by_side) == (100.0, 2)


def test_the_device_is_that_of_the_sessions_that_trained(write_run):
    """A finished run that is started again, elsewhere, has nothing left to train."""
    run = read_run(write_run())
    gpu, abacus = ({"count": 1, "kind": kind} for kind in ("gpu", "abacus"))
    first = {"run_seconds": 9.0, "device": gpu}
    again = {"run_seconds": None, "device": abacus}
    for sessions, device in (
        ([first, again], "1 x gpu"),
        ([first, again | {"run_seconds": 1.0}, first], "1 x gpu; 1 x abacus"),
        ([again], "1 x abacus"),  # which does not say
    ):
        *earlier, last = sessions
        record = last | {"earlier_sessions": earlier}
        (row,) = costs_table([run._replace(record=record)]).to_dict("records")
        assert row["device"] == device


def test_a_run_that_says_nothing():
    rows = metrics((2.0,), 30).drop(columns="env_steps")
    assert costs_of({}, rows) == Costs(*[None] * 7, side_by_side=1)


def test_an_epoch_without_time_has_no_pace():
    assert costs_of(RECORD, metrics((0.0,), 30)).transitions_per_second is None


@pytest.mark.parametrize(("steps", "pace"), [(1000, 0.5), (0, math.nan)])
def test_table(tmp_path, steps, pace):
    config = replace(CONFIG, {"training.epochs": 2})
    with open_run(tmp_path / "mbpo", config, seeds=[0, 1]) as run:
        run.update(**RECORD, device=ABACUS)
        writer = MetricsWriter(run)
        for epoch in (1, 2):
            rows = [metrics_row(seed, epoch) for seed in (0, 1)]
            extra = {"seconds": 4.0, "env_steps": epoch * steps}
            writer.write([row | extra for row in rows])
    (row,) = costs_table([read_run(tmp_path / "mbpo")]).to_dict("records")
    assert row.pop("1,000 transitions/s") == pytest.approx(pace, nan_ok=True)
    assert math.isnan(row.pop("device MiB"))
    assert row.pop("side by side") == 2
    run.update(side_by_side=1)
    alone = costs_table([read_run(tmp_path / "mbpo")])
    assert "side by side" not in alone  # nobody was there to share with
    assert row == {
        "row": "mbpo",
        "seeds": 2,
        "epochs": 2,
        "epoch s": 4.0,
        "all epochs h": 8 / 3600,
        "by the clock h": 150 / 3600,
        "compilation s": 10.0,
        "process MiB": 512.0,
        "device": "2 x abacus",
    }
