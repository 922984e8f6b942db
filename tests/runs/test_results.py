"""results.py: the published score, intervals, tables, nothing dropped in silence."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats  # JAX depends on it; the library does not

from darlr_jax.config import replace
from darlr_jax.presets import preset
from darlr_jax.runs import results
from darlr_jax.runs.directory import RunDirectory, RunError, write_json
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import metrics_row, open_run
from tests.runs.test_comparison import PUBLISHED


def test_metrics_read_back_exactly(write_run):
    metrics = results.load_metrics(write_run(seeds=(3, 1), epochs=2))
    assert list(metrics["seed"]) == [1, 1, 3, 3]
    assert list(metrics["epoch"]) == [1, 2, 1, 2]
    assert list(metrics["NX_0_R_tra"]) == [11.0, 21.0, 13.0, 23.0]
    assert metrics["NX_0_MCD"].isna().all()


def test_published_score_is_the_mean_over_all_epochs_of_each_seed(write_run):
    metrics = results.load_metrics(write_run(epochs=8))  # 10 * epoch + seed
    assert results.published_score(metrics).to_dict() == {0: 45.0, 1: 46.0}


@pytest.mark.parametrize(("epochs", "score"), [(8, 75.0), (3, 30.0), (1, 10.0)])
def test_last_quarter(write_run, epochs, score):
    metrics = results.load_metrics(write_run(epochs=epochs))
    assert results.last_quarter(metrics, "NX_0_R_tra")[0] == score


def test_interval_worked_by_hand():
    # mean 2, standard deviation 1, standard error 1 / sqrt(3), t(2) = 4.30265
    mean, half_width = results.mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half_width == pytest.approx(4.30265 / math.sqrt(3))


def test_one_seed_has_no_interval():
    mean, half_width = results.mean_and_interval([5.0])
    assert mean == 5.0
    assert math.isnan(half_width)


@pytest.mark.parametrize("degrees", [1, 2, 5, 10, 11, 12, 20, 63, 1000])
def test_quantiles_of_student(degrees):
    # The second seed count that the expansion serves is the hardest one.
    values = np.arange(degrees + 1.0)
    mean, half_width = results.mean_and_interval(values)
    low, high = stats.t.interval(0.95, degrees, values.mean(), stats.sem(values))
    assert mean - half_width == pytest.approx(low, abs=1e-3 * (high - low))
    assert mean + half_width == pytest.approx(high, abs=1e-3 * (high - low))


def test_summary_table(write_run):
    paths = [write_run("a"), write_run("b", seeds=(0,), epochs=4, method="random")]
    runs = list(map(results.read_run, paths))
    table = results.summary_table(runs, PUBLISHED)
    assert list(table["method"]) == ["darlr", "random"]
    assert list(table["seeds"]) == [2, 1]
    assert list(table["epochs"]) == [8, 4]
    assert list(table["NX_0 R_tra"]) == [45.5, 25.0]
    assert list(table["last 25 %"]) == [75.5, 40.0]
    assert list(table["max"]) == [80.5, 40.0]
    assert list(table["NX_0 all users"]) == [45.75, 25.25]
    assert table["± 95 %"].isna().tolist() == [False, True]
    assert table["R_each"].isna().all()  # not among the invented metrics
    assert table["published"].isna().all()  # neither has all its epochs
    without = results.summary_table(runs)
    pd.testing.assert_frame_equal(
        without, table.drop(columns=["published", "difference"])
    )


def test_summary_beside_a_published_score(write_run):
    run = results.read_run(write_run(epochs=200))
    run = run._replace(config=preset("coat", "darlr"))
    (row,) = results.summary_table([run], PUBLISHED).to_dict("records")
    assert row["published"] == 78.0429
    assert row["difference"] == pytest.approx(1005.5 - 78.0429)


@pytest.mark.parametrize(
    ("method", "changes", "score"),
    [
        ("mbpo", {}, 16.93),  # of the sweep: the main table's is at N = 4
        ("mbpo", {"environment.exit_window": 4}, 12.0426),
        ("darlr", {"environment.exit_window": 4}, None),  # published at N = 1 alone
        ("mbpo", {"dataset.twin": True}, None),
    ],
)
def test_published_scores_are_of_the_same_exit_window(
    write_run, method, changes, score
):
    config = replace(preset("kuairec", method), changes)
    run = results.read_run(write_run(epochs=200))._replace(config=config)
    (found,) = results.summary_table([run], PUBLISHED)["published"]
    expected = math.nan if score is None else score
    assert found == pytest.approx(expected, abs=0.005, nan_ok=True)


def test_run_table(write_run):
    table = results.run_table(results.load_metrics(write_run())).set_index("mode")
    assert list(table.index) == ["FB", "NX_0", "NX_10"]
    assert table.loc["NX_0", "R_tra"] == 45.5
    assert table.loc["NX_0", "last 25 %"] == 75.5
    assert table.loc["FB", "all users"] == 1.25
    assert table["len_tra"].tolist() == [4.0, 4.0, 4.0]
    assert table["MCD"].isna().all()


def test_markdown():
    table = pd.DataFrame(
        {"method": ["darlr", "gt"], "seeds": [3, 1], "score": [78.04321, math.nan]}
    )
    assert results.to_markdown(table) == (
        "| method | seeds | score |\n"
        "| ------ | ----: | ----: |\n"
        "| darlr  |     3 | 78.04 |\n"
        "| gt     |     1 |   n/a |"
    )


def test_missing_metrics_are_named(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.csv: cannot be read"):
        results.load_metrics(tmp_path)


def replace_line(number, line):
    def damage(lines):
        lines[number] = line(lines[number]) if callable(line) else line

    return damage


def replace_cell(old, new):
    """In the row of seed 1 in epoch 1, the third line."""
    return replace_line(2, lambda line: line.replace(f",{old},", f",{new},", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines.clear(), "no epoch yet"),
        (lambda lines: lines.__delitem__(slice(1, None)), "no epoch yet"),
        (replace_line(-1, lambda line: line[:-4]), "cut short"),
        (replace_line(2, "1,1\n"), r"line 3: 2 cells, expected \d+"),
        (replace_line(2, lambda line: line[:-1] + ",7\n"), "line 3: .* cells"),
        (
            replace_line(2, lambda line: line.replace("11.0", "high")),
            "line 3: NX_0_R_tra is 'high'",
        ),
        (
            replace_line(2, lambda line: line.replace("11.0", "")),
            "line 3: NX_0_R_tra is empty, expected a finite",
        ),
        *(
            (replace_cell("11.0", cell), f"line 3: NX_0_R_tra is {told}")
            for cell, told in (
                *(("7_3", "'7_3', no number"), ("٧٣", "'٧٣', no number")),
                *(("nan", "'nan', no"), ("inf", "'inf', no"), ("1e", "'1e', no")),
                *(("1e400", "inf, exp"), ("-1e999", "-inf, exp")),
            )
        ),
        (replace_cell("0.5", ""), "line 3: seconds is empty"),
        (replace_cell("100", ""), "line 3: env_steps is empty"),
        (replace_cell("4.0", "1e400"), "line 3: FB_len_tra is inf"),
        (replace_cell("11.25", "1e400"), "line 3: NX_0_all_users_R_tra is inf"),
        (replace_line(2, lambda line: line.replace("1,1,", "1.5,1,")), "seed is 1.5"),
        (replace_line(2, lambda line: line.replace("1,1,", "1,1.5,")), "epoch is 1.5"),
        (replace_line(2, lambda line: line.replace("1,1,", "1e300,1,")), "seed is 1e+"),
        (
            replace_line(0, lambda line: line.replace("FB_R_tra", "x")),
            "column FB_R_tra",
        ),
        (
            replace_line(0, lambda line: line.replace("FB_MCD", "NX_0_R_tra")),
            "line 1: names column 'NX_0_R_tra' twice",
        ),
        (lambda lines: lines.__delitem__(slice(3, 5)), "missing or repeated epochs"),
        (lambda lines: lines.append(lines[-1]), "missing or repeated epochs"),
        (lambda lines: lines.pop(), "different numbers of epochs"),
    ],
)
def test_malformed_metrics_are_named(write_run, damage, message):
    path = write_run(epochs=3)
    file = RunDirectory(path).metrics_csv
    lines = file.read_text().splitlines(keepends=True)
    damage(lines)
    file.write_text("".join(lines))
    with pytest.raises(RunError, match=message) as error:
        results.read_run(path)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_failed_seeds_that_are_left_out_may_be_empty(write_run):
    path = write_run(epochs=3)
    change_line(RunDirectory(path).metrics_csv, 2, lambda line: line.replace("11.", ""))
    RunDirectory(path).metrics_jsonl.unlink()
    assert list(results.load_metrics(path, without=[1])["seed"]) == [0] * 3


# --- parts of one directory -----------------------------------------------------------


def change_json(file, **fields):
    """Sets fields of a JSON file; None takes one away."""
    content = json.loads(file.read_text()) | fields
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(kept))


def test_a_seed_that_was_lost_is_named(write_run):
    path = write_run(seeds=(3, 1, 4))
    run = RunDirectory(path)
    lines = run.metrics_csv.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("1,", "4,"))]
    run.metrics_csv.write_text("".join(kept))
    run.metrics_jsonl.unlink()
    for read in (results.read_run, results.load_metrics):  # jobs read by the second
        with pytest.raises(RunError, match=r"metrics\.csv: has no seed 1, 4, of which"):
            read(path)
    assert set(results.load_metrics(path, without=[1, 4])["seed"]) == {3}


def test_a_seed_that_nobody_asked_for_is_named(write_run):
    path = write_run(seeds=(0, 1))
    change_json(RunDirectory(path).run_file, seeds=[0])
    with pytest.raises(RunError, match=r"run\.json: has no seed 1, of which metrics"):
        results.load_metrics(path)


@pytest.mark.parametrize("seeds", [None, [], 2, "01", [0, 1.0], [0, True], [[0], 1]])
def test_seeds_are_whole_numbers(write_run, seeds):
    path = write_run()
    change_json(RunDirectory(path).run_file, seeds=seeds)
    with pytest.raises(RunError, match=r"run\.json: seeds is .*list of whole numbers"):
        results.read_run(path)


def test_a_run_has_a_status(write_run):
    path = write_run()
    change_json(RunDirectory(path).run_file, status=None)
    with pytest.raises(RunError, match=r"run\.json: has no status"):
        results.read_run(path)


@pytest.mark.parametrize(
    ("status", "wanted", "message"),
    [
        ("finished", 8, None),
        ("finished", 9, "is finished, and metrics.csv has 8 epochs of the 9"),
        ("interrupted", 9, None),
        ("running", 9, None),
        ("interrupted", 7, "is interrupted, and metrics.csv has 8 epochs of the 7"),
    ],
)
def test_a_finished_run_has_all_its_epochs(write_run, status, wanted, message):
    path = write_run(epochs=8)
    run = RunDirectory(path)
    change_json(run.run_file, status=status)
    change_json(run.config_file, training={"epochs": wanted})
    if message is None:
        assert len(results.read_run(path).metrics) == 16
    else:
        with pytest.raises(RunError, match=message):
            results.read_run(path)


@pytest.mark.parametrize("each", [2.5, 2.5001, 2.6])
@pytest.mark.parametrize("mode", ["FB", "NX_0", "NX_10"])
def test_rewards_and_lengths_are_of_the_same_episodes(tmp_path, mode, each):
    """R_tra is 10 in 4 steps, and so 2.5 each, but for rounding."""
    config = replace(preset("coat", "mbpo"), {"training.epochs": 1})
    with open_run(tmp_path, config) as run:
        rows = [metrics_row(seed, 1) for seed in (0, 1)]
        for row in rows:
            row |= {f"{mode}_R_tra": 10.0, f"{mode}_R_each": 2.5}
        rows[1][f"{mode}_R_each"] = each
        MetricsWriter(run).write(rows)
    if each < 2.6:
        assert len(results.read_run(tmp_path).metrics) == 2
    else:
        told = (
            rf"seed 1, epoch 1: {mode}_R_tra 10, {mode}_R_each 2.6, {mode}_len_tra 4:"
        )
        with pytest.raises(RunError, match=told):
            results.read_run(tmp_path)


@pytest.mark.parametrize("failed", [[1], {"seed": 1}, [{"seed": 1}], "1"])
def test_failures_that_are_malformed_are_named(write_run, failed):
    path = write_run()
    change_json(RunDirectory(path).run_file, failed_seeds=failed)
    with pytest.raises(RunError, match=r"run\.json: failed_seeds is .*a list of obj"):
        results.read_run(path)


@pytest.mark.parametrize("epochs", [3, [1], {"loss": 1}])
def test_a_report_of_a_fit_that_is_malformed_is_named(write_run, epochs):
    path = write_run()
    write_json(RunDirectory(path).world_model, {"epochs": epochs})
    with pytest.raises(RunError, match=r"world_model\.json: epochs is no list of JSON"):
        results.read_run(path)


# --- the two files of metrics ---------------------------------------------------------


def change_line(file, number, change):
    lines = file.read_text().splitlines(keepends=True)
    lines[number] = change(lines[number])
    file.write_text("".join(lines))


@pytest.mark.parametrize("name", ["metrics_csv", "metrics_jsonl"])
def test_changed_digit_is_told_by_the_other_file(write_run, name):
    path = write_run(epochs=3)
    run = RunDirectory(path)
    row = 4 if name == "metrics_csv" else 3  # the one has a header
    change_line(getattr(run, name), row, lambda line: line.replace("21.0", "21.5"))
    with pytest.raises(RunError, match=r"metrics\.csv, line 5: metrics\.jsonl has"):
        results.load_metrics(path)


def test_committed_results_have_one_of_the_files_alone(write_run):
    path = write_run(epochs=3)
    whole = results.load_metrics(path)
    RunDirectory(path).metrics_jsonl.unlink()
    assert whole.equals(results.load_metrics(path))


@pytest.mark.parametrize(("missing", "accepted"), [(1, True), (2, True), (3, False)])
def test_second_file_of_a_killed_run_may_lack_the_last_epoch(
    write_run, missing, accepted
):
    path = write_run(epochs=3)  # of two seeds
    file = RunDirectory(path).metrics_jsonl
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-missing]))
    if accepted:
        assert len(results.load_metrics(path)) == 6
    else:
        with pytest.raises(RunError, match=r"metrics\.jsonl: 3 rows, 6 in metrics"):
            results.load_metrics(path)


def test_fits_of_a_world_model_are_told_apart_by_their_losses(write_run):
    fits = []
    for name, loss, error in (("a", 3.5, 1.0), ("b", 3.5, 2.0), ("c", 3.5000001, 1.0)):
        run = RunDirectory(write_run(name))
        epochs = [{"epoch": 1, "loss": loss, "held_out_mae": error}]
        write_json(run.world_model, {"epochs": epochs})
        fits.append(results.read_run(run.path).fit)

    assert fits[0] == fits[1] != fits[2]  # other held-out rows are no other fit
    assert results.read_run(write_run("none")).fit is None
