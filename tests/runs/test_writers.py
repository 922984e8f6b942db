"""writers.py: two files, the same rows, whole epochs."""

from __future__ import annotations

import csv
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.writers import MetricsWriter, metric_rows
from tests.runs.conftest import metrics_row, open_run
from tests.test_files import watch_flushes


def rows(epoch, seeds=(0, 1), **more):
    return [{"seed": seed, "epoch": epoch, "loss": 0.5} | more for seed in seeds]


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def written(run):
    """The rows of metrics.csv, which those of metrics.jsonl must equal."""
    with open(run.metrics_csv, encoding="utf-8") as stream:
        table = [
            {name: float(cell) if cell else None for name, cell in row.items()}
            for row in csv.DictReader(stream)
        ]
    lines = run.metrics_jsonl.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == table
    return table


def epochs(run):
    return [int(row["epoch"]) for row in written(run)]


def test_worked_example(run):
    writer = MetricsWriter(run)
    writer.write([{"seed": 0, "epoch": 1, "loss": 0.25, "MCD": math.nan}])
    writer.write([{"MCD": 2, "loss": -1e-9, "epoch": 2, "seed": 0}])
    assert run.metrics_csv.read_text() == (
        "seed,epoch,loss,MCD\n0,1,0.25,\n0,2,-1e-09,2\n"
    )
    assert run.metrics_jsonl.read_text() == (
        '{"seed": 0, "epoch": 1, "loss": 0.25, "MCD": null}\n'
        '{"seed": 0, "epoch": 2, "loss": -1e-09, "MCD": 2}\n'
    )


def test_each_epoch_can_be_read_at_once(run):
    writer = MetricsWriter(run)
    writer.write(rows(1))
    assert epochs(run) == [1, 1]
    writer.write(rows(2))
    assert epochs(run) == [1, 1, 2, 2]


def test_rows_are_on_the_disk_when_they_are_written(run, monkeypatch):
    flushed = watch_flushes(monkeypatch)
    writer = MetricsWriter(run)
    for epoch in (1, 2):
        writer.write(rows(epoch))
        status = [file.stat() for file in (run.metrics_csv, run.metrics_jsonl)]
        assert flushed == {found.st_ino: found.st_size for found in status}


@given(st.floats(allow_nan=False) | st.integers(-(2**53), 2**53))
def test_numbers_survive_both_files(tmp_path_factory, value):
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    MetricsWriter(run).write(rows(1, seeds=[0], value=value))
    assert written(run)[0]["value"] == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.10000000149011612"),
        (np.int64(3), "3"),
        (jnp.int32(3), "3"),
        (jnp.float32(2), "2.0"),
        (np.float64("nan"), ""),
        (math.inf, "1e999"),
        (-math.inf, "-1e999"),
    ],
)
def test_spelling_of_numbers(run, value, text):
    MetricsWriter(run).write(rows(1, seeds=[0], value=value))
    assert run.metrics_csv.read_text().splitlines()[1] == f"0,1,0.5,{text}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"seed": 0, "epoch": 2}, r"missing columns \['loss'\]"),
        ({"seed": 0, "epoch": 2, "loss": 1, "x": 1}, r"new columns \['x'\]"),
        ({"seed": 0, "epoch": 1, "loss": 1}, "one epoch after 1 expected"),
    ],
)
def test_bad_row_is_refused_and_nothing_is_written(run, row, message):
    writer = MetricsWriter(run)
    writer.write(rows(1))
    with pytest.raises(RunError, match=message):
        writer.write([row])
    assert epochs(run) == [1, 1]


def test_rows_of_two_epochs_are_refused(run):
    with pytest.raises(RunError, match=r"epochs \[1, 2\]"):
        MetricsWriter(run).write(rows(1) + rows(2))


def test_first_columns_are_seed_and_epoch(run):
    with pytest.raises(RunError, match="first columns"):
        MetricsWriter(run).write([{"epoch": 1, "seed": 0}])


def write_epochs(run, last):
    writer = MetricsWriter(run)
    for epoch in range(1, last + 1):
        writer.write(rows(epoch))


def test_resumed_run_goes_on_after_the_checkpoint(run):
    write_epochs(run, last=5)
    writer = MetricsWriter(run)
    writer.truncate_after(3)
    assert epochs(run) == [1, 1, 2, 2, 3, 3]
    with pytest.raises(RunError, match="missing columns"):
        writer.write([{"seed": 0, "epoch": 4}])  # the columns are those of the file
    writer.write(rows(4))
    assert epochs(run) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_lines_cut_short_are_dropped(run):
    write_epochs(run, last=4)
    for file in (run.metrics_csv, run.metrics_jsonl):
        file.write_text(file.read_text()[:-3])
    writer = MetricsWriter(run)
    writer.truncate_after(3)
    writer.write(rows(4))
    assert epochs(run) == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("last", [0, 3])
def test_resumed_without_a_checkpoint_starts_anew(run, last):
    write_epochs(run, last)
    writer = MetricsWriter(run)
    writer.truncate_after(0)
    writer.write([{"seed": 0, "epoch": 1, "other": 1.0}])
    assert epochs(run) == [1]


def test_rows_are_not_overwritten_in_silence(run):
    write_epochs(run, last=2)
    with pytest.raises(RunError, match="truncate_after"):
        MetricsWriter(run).write(rows(3))


def test_metrics_that_end_before_the_checkpoint_are_named(run):
    write_epochs(run, last=2)
    with pytest.raises(RunError, match=r"ends at epoch 2 .* checkpoint is of epoch 3"):
        MetricsWriter(run).truncate_after(3)
    run.metrics_jsonl.unlink()
    with pytest.raises(RunError, match=r"4 rows, and 0 in metrics\.jsonl"):
        MetricsWriter(run).truncate_after(2)


@pytest.mark.parametrize("which", ["metrics_csv", "metrics_jsonl"])
def test_resumed_from_rows_that_differ_is_refused(run, which):
    write_epochs(run, last=3)
    file = getattr(run, which)
    damaged = file.read_text().replace("0.5", "0.6", 1)
    file.write_text(damaged)
    with pytest.raises(RunError, match=r"metrics\.csv, line 2: metrics\.jsonl has"):
        MetricsWriter(run).truncate_after(2)
    assert file.read_text() == damaged


def test_rows_that_are_dropped_may_differ(run):
    write_epochs(run, last=3)
    run.metrics_csv.write_text(run.metrics_csv.read_text().replace("3,0.5", "3,0.6"))
    MetricsWriter(run).truncate_after(2)
    assert epochs(run) == [1, 1, 2, 2]


@pytest.mark.parametrize("line", ["0,1", "0,one,0.5", "", "0,1,0.5,7"])
def test_malformed_line_is_named(run, line):
    write_epochs(run, last=1)
    with open(run.metrics_csv, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(RunError, match=r"metrics\.csv: malformed line"):
        MetricsWriter(run).truncate_after(1)


def test_malformed_json_line_is_named(run):
    write_epochs(run, last=1)
    run.metrics_jsonl.write_text('{"seed": 0}\n')
    for read in (MetricsWriter(run).rows, lambda: MetricsWriter(run).truncate_after(1)):
        with pytest.raises(RunError) as error:
            read()
        named = f"{run.metrics_jsonl}: malformed line "
        assert str(error.value).startswith(named)


def test_rows_are_read_back_as_they_were_written(tmp_path):
    written = [metrics_row(seed, epoch) for epoch in (1, 2) for seed in (0, 1)]
    with open_run(tmp_path) as run:
        writer = MetricsWriter(run)
        assert writer.rows() == []
        writer.write(written[:2])
        writer.write(written[2:])
    assert str(MetricsWriter(run).rows()) == str(written)  # nan and all


def test_metric_rows_are_those_of_the_seeds_that_are_asked_for():
    metrics = {
        "epoch": np.full(3, 4), "env_steps": np.array([10, 20, 30]),
        "loss": np.array([1.0, 2.0, 3.0]), "NX_0_R_tra": np.array([5.0, 6.0, 7.0]),
    }  # fmt: skip
    found = metric_rows(metrics, {0: 8, 2: 9}, 4, 1.23456)
    assert [list(row.items()) for row in found] == [
        [("seed", seed), ("epoch", 4), ("env_steps", steps), ("seconds", 1.2346),
         ("NX_0_R_tra", score), ("loss", loss)]
        for seed, steps, score, loss in ((8, 10, 5.0, 1.0), (9, 30, 7.0, 3.0))
    ]  # fmt: skip
