"""pieces.py: runs of other seeds as one run, and what is no piece of it."""

from __future__ import annotations

import json

import pytest

from darlr_jax.config import replace
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.pieces import (
    fits_of,
    joined_history,
    joined_rows,
    read_pieces,
    whole_identity,
)
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import CONFIG, metrics_row, open_run

EPOCHS = 3


@pytest.fixture
def write_piece(tmp_path):
    """Writes a run of some seeds, EPOCHS long, half a second an epoch."""

    def write(seeds, done=EPOCHS, changes=None, status="finished", **arguments):
        settings = {"training.epochs": EPOCHS} | (changes or {})
        path = tmp_path / "_".join(map(str, seeds))
        config = replace(CONFIG, settings)
        with open_run(path, config, seeds=seeds, **arguments) as run:
            writer = MetricsWriter(run)
            for epoch in range(1, done + 1):
                writer.write([metrics_row(seed, epoch) for seed in seeds])
            run.close(status)
        return path

    return write


def edit_record(path, **fields):
    file = path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_rows_by_seed_with_the_seconds_of_all(write_piece):
    pieces = read_pieces([write_piece([4, 0]), write_piece([2]), write_piece([1])])
    assert whole_identity(pieces).seeds == [0, 1, 2, 4]
    rows = list(joined_rows(pieces))
    assert [[row["seed"] for row in epoch] for epoch in rows] == [[0, 1, 2, 4]] * EPOCHS
    for epoch, of_epoch in enumerate(rows, start=1):
        for row in of_epoch:
            expected = metrics_row(row["seed"], epoch) | {"seconds": 1.5}
            assert str(row) == str(expected)  # nan is nan here


def test_fits_are_counted(write_piece):
    paths = [write_piece([seed]) for seed in range(3)]
    assert fits_of(read_pieces(paths)) == 1  # methods without a world model
    for path, loss in zip(paths, (0.25, 0.25, 0.2500001), strict=True):
        report = {"epochs": [{"epoch": 0, "loss": loss}]}
        (path / "world_model.json").write_text(json.dumps(report))
    assert fits_of(read_pieces(paths)) == 2


def test_sessions_and_warnings_of_all_by_time(write_piece):
    first, second = write_piece([0]), write_piece([1])
    told = [{"epoch": 2, "seed": 0, "rule": "a"}]
    also = [{"epoch": 1, "seed": 1, "rule": "b"}]
    earlier = [{"started": "2026-01-02", "run_seconds": 3.0}]
    edit_record(first, started="2026-01-03", warnings=told, earlier_sessions=earlier)
    edit_record(second, started="2026-01-01", warnings=also)
    history = joined_history(read_pieces([first, second]))
    sessions = history["earlier_sessions"]
    assert [s["started"][-1] for s in sessions] == ["1", "2", "3"]
    assert [s.get("seeds") for s in sessions] == [[1], None, [0]]
    assert all("warnings" not in s and "earlier_sessions" not in s for s in sessions)
    assert history["warnings"] == also + told


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ({"seeds": [1, 0]}, "1_0: seed 0 is in .*0_2 too"),
        ({"seeds": [1], "done": 2}, "1: is finished, 2 of 3 epochs; continue it first"),
        ({"seeds": [1], "status": "interrupted"}, "1: is interrupted, 3 of 3 epochs"),
        ({"seeds": [1], "status": "failed"}, "1: the run failed"),
        (
            {"seeds": [1], "changes": {"selector.k_sel": 7}},
            "1: another experiment than .*0_2 .selector.k_sel: 15 -> 7.; nothing but",
        ),
        (
            {"seeds": [1], "changes": {"training.epochs": 2}, "done": 2},
            "training.epochs: 3 -> 2",
        ),
        ({"seeds": [1], "data_hashes": {"log": "other"}}, "data: .*abc.* -> .*other"),
    ],
)
def test_what_is_no_piece_of_it(write_piece, piece, message):
    first = write_piece([0, 2])
    with pytest.raises(RunError, match=message):
        read_pieces([first, write_piece(**piece)])


def test_a_run_that_is_not_there(write_piece, tmp_path):
    with pytest.raises(RunError, match=r"nowhere: no run directory"):
        read_pieces([write_piece([0]), tmp_path / "nowhere"])


@pytest.mark.parametrize("missing", ["metrics.jsonl", "checkpoints"])
def test_a_copy_without_what_is_merged(write_piece, missing):
    first, second = write_piece([0]), write_piece([1])
    lost = second / missing
    lost.rmdir() if lost.is_dir() else lost.unlink()
    with pytest.raises(RunError, match=r"1: has no metrics\.jsonl or no checkpoints"):
        read_pieces([first, second])
    assert not lost.exists()


def test_a_run_that_is_under_way(write_piece):
    path = write_piece([1], status="interrupted")
    config = replace(CONFIG, {"training.epochs": EPOCHS})
    with (
        open_run(path, config, seeds=[1]),
        pytest.raises(RunError, match="1: is running, 3 of 3 epochs"),
    ):
        read_pieces([write_piece([0]), path])


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two(write_piece, count):
    with pytest.raises(RunError, match=f"{count} run given: there is nothing to merge"):
        read_pieces([write_piece([0])][:count])
