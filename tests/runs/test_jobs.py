"""jobs.py: where rows lie, how far they are, how long they take."""

from __future__ import annotations

import json
import shlex

import pytest

from darlr_jax.config import ConfigError, to_dict
from darlr_jax.runs.directory import RunDirectory, RunError, write_json
from darlr_jax.runs.jobs import (
    Progress,
    describe,
    directory_name,
    estimate_seconds,
    metrics_of,
    plan_jobs,
    progress,
    require_same_data,
    side_by_side,
    total_seconds,
)
from darlr_jax.runs.plans import Row, choose_rows, make_plan
from darlr_jax.runs.writers import MetricsWriter
from experiments import cli
from tests.runs.conftest import metrics_row, open_run

SEEDS = [0, 1]


def jobs_of(tmp_path, table="ablation", rows=("darlr", "no_similarity"), epochs=4):
    plan = choose_rows(make_plan(table, "coat"), rows)
    overrides = {"training.epochs": epochs}
    return plan_jobs(plan, tmp_path, overrides=overrides, options=["--seeds=0,1"])


def write(job, epochs, seconds=0.5, close=True, **changes):
    """A run of a job that has so many epochs; changes are of run.json."""
    run = open_run(job.path, job.config, seeds=SEEDS)
    writer = MetricsWriter(run)
    for epoch in range(1, epochs + 1):
        rows = [metrics_row(seed, epoch) | {"seconds": seconds} for seed in SEEDS]
        writer.write(rows)
    run.close("finished" if close else "interrupted")
    record = json.loads(run.run_file.read_text()) | changes
    run.run_file.write_text(json.dumps(record))


def test_command_of_a_row(tmp_path):
    job = jobs_of(tmp_path)[1]
    directory = tmp_path / "coat" / "darlr__selector.lambda_s=0.0"
    assert job.path == directory
    assert describe(job) == (
        "python -m experiments.train --dataset=coat --method=darlr "
        f"--workdir={directory} --seeds=0,1 --set=training.epochs=4 "
        "--set=selector.lambda_s=0.0"
    )


def test_jobs_share_a_program_where_coefficients_alone_differ(tmp_path):
    rows = ("darlr", "no_similarity", "no_diversity", "item_in_state", "nearest")
    jobs = jobs_of(tmp_path, rows=rows)
    names = [[job.row.name for job in group] for group in side_by_side(jobs, 9)]
    assert sorted(names, key=len) == [
        *(["nearest"], ["item_in_state"]),
        ["darlr", "no_similarity", "no_diversity"],
    ]
    assert [len(group) for group in side_by_side(jobs, 1)] == [1] * 5
    assert [len(group) for group in side_by_side([jobs[0], jobs[0]], 9)] == [1]


def test_command_of_jobs_side_by_side(tmp_path):
    first, second = jobs_of(tmp_path)
    text = describe(first, second)
    assert text.startswith(describe(first))
    *_, last = shlex.split(text)
    assert last == f"--beside={second.path}: selector.lambda_s=0.0"
    runs = cli.runs_beside(first.config, str(first.path), [last.partition("=")[2]])
    assert list(runs.values()) == [first.config, second.config]


def test_one_experiment_is_one_directory_in_all_tables(tmp_path):
    main = jobs_of(tmp_path, "main", ["darlr"])[0]
    sensitivity = jobs_of(tmp_path, "sensitivity", ["darlr", "selector.k_sel=15"])
    assert {job.path for job in sensitivity} == {main.path}
    names = {directory_name(Row("a", "darlr", changes))
             for changes in ({"a": 1, "b": 2}, {"b": 2, "a": 1})}  # fmt: skip
    assert names == {"darlr__a=1__b=2"}


@pytest.mark.parametrize(
    ("table", "row", "field", "value"),
    [
        ("sensitivity", "selector.k_sel=10", "selector.k_sel", 20),
        ("sensitivity", "selector.k_sel=15", "selector.k_sel", 20),  # as it is
        ("density", "darlr@100%", "dataset.thinning.share", 0.5),
        ("ablation", "no_similarity", "selector.lambda_s", 5.0),
        ("ablation", "darlr", "reward.entropy_orders", (1,)),  # of a row left out
        ("extensions", "mbpo+masked", "recommender.mask_used_items", True),
    ],
)
def test_what_tells_rows_apart_is_not_set_for_all(tmp_path, table, row, field, value):
    plan = choose_rows(make_plan(table, "coat"), [row])
    with pytest.raises(ConfigError, match=f"--set={field}=.*--table={table} apart"):
        plan_jobs(plan, tmp_path, overrides={field: value}, options=[])


def test_exit_windows_are_not_set_for_all_and_other_fields_are(tmp_path):
    window = {"environment.exit_window": 7}
    with pytest.raises(ConfigError, match="tells rows of --table=exit_rule apart"):
        plan = choose_rows(make_plan("exit_rule", "kuairec"), ["mbpo@N=4"])
        plan_jobs(plan, tmp_path, overrides=window, options=[])
    fewer = {"selector.k_sel": 10, "reward.neighbours": 10, **window}
    for table in ("main", "extensions"):
        plan = make_plan(table, "kuairec")
        jobs = plan_jobs(plan, tmp_path, overrides=fewer, options=[])
        assert {job.config.selector.k_sel for job in jobs} == {10}


def test_progress(tmp_path):
    job = jobs_of(tmp_path)[0]
    assert progress(job, SEEDS) == Progress(0, False)
    assert progress(job, SEEDS).describe(4) == "not run"
    assert metrics_of(job, SEEDS) is None
    write(job, 2, close=False)
    assert progress(job, SEEDS) == Progress(2, False)
    assert progress(job, SEEDS).describe(4) == "2 of 4 epochs"
    assert metrics_of(job, SEEDS) is None


def test_a_finished_run_is_done(tmp_path):
    job = jobs_of(tmp_path)[0]
    write(job, 4)
    assert progress(job, SEEDS) == Progress(4, True)
    assert len(metrics_of(job, SEEDS)) == 8
    longer = jobs_of(tmp_path, epochs=9)[0]
    assert progress(longer, SEEDS).describe(9) == "4 of 9 epochs"


def test_a_run_with_all_epochs_that_was_interrupted_is_not_done(tmp_path):
    job = jobs_of(tmp_path)[0]
    write(job, 4, close=False)
    assert not progress(job, SEEDS).finished


def test_a_line_that_is_being_written_does_not_count(tmp_path):
    job = jobs_of(tmp_path)[0]
    write(job, 2, close=False)
    with RunDirectory(job.path).metrics_csv.open("a") as stream:
        stream.write("0,3,300")
    assert progress(job, SEEDS).epochs == 2
    assert estimate_seconds([job], SEEDS) == [(1.0, True)]


def test_a_run_that_was_killed_before_it_began_is_not_run(tmp_path):
    job = jobs_of(tmp_path)[0]
    job.path.mkdir(parents=True)
    write_json(RunDirectory(job.path).config_file, to_dict(job.config))
    assert progress(job, SEEDS) == Progress(0, False)


@pytest.mark.parametrize(
    ("old", "new"), [(b"0,2,", b"\xff,2,"), (b",0.5,", b",0.x,"), (b"seed,", b"sead,")]
)
def test_damaged_metrics_are_one_line(tmp_path, old, new):
    job = jobs_of(tmp_path)[0]
    write(job, 4, close=False)
    file = RunDirectory(job.path).metrics_csv
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(RunError, match=r"metrics\.csv: is damaged"):
        estimate_seconds([job], SEEDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1, 2]}, r"seeds: \[0, 1, 2\] -> \[0, 1\]"),
        (
            {"failed_seeds": [{"seed": 1, "epoch": 3, "term": "loss", "value": "nan"}]},
            "1 of 2 seeds failed .seed 1: loss is nan in epoch 3",
        ),
    ],
)
def test_runs_that_must_not_be_used(tmp_path, changes, message):
    job = jobs_of(tmp_path)[0]
    write(job, 4, **changes)
    with pytest.raises(RunError, match=message) as error:
        progress(job, SEEDS)
    assert "\n" not in str(error.value)


def test_rows_of_one_data_set_have_read_the_same(tmp_path):
    names = ["darlr@100%", "darlr_self@100%", "darlr@5%", "darlr_self@5%"]
    jobs = jobs_of(tmp_path, "density", names)
    whole, other, part, further = jobs
    write(whole, 4, data={"log": "a", "features": "b"})
    write(part, 4, data={"log": "a", "features": "b", "thinning": "c"})
    require_same_data(jobs)  # the latter of another data set; two have not run
    write(other, 2, close=False, data={"log": "x", "features": "b"})
    write(further, 4, data={})  # of before this was kept
    with pytest.raises(RunError, match=r"other data than .* \(log\); choose another"):
        require_same_data([*jobs, whole])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "failed"}, "the run failed; mend the cause"),
        (
            {"failed_seeds": [{"seed": 1, "epoch": 3, "term": "loss", "value": "nan"}]},
            "1 of 2 seeds failed",
        ),
    ],
)
def test_a_row_that_failed_goes_on_and_is_never_tabulated(tmp_path, changes, message):
    job = jobs_of(tmp_path)[0]
    write(job, 2, close=False, **changes)
    assert progress(job, SEEDS) == Progress(2, False)
    with pytest.raises(RunError, match=message):
        metrics_of(job, SEEDS)


def test_another_experiment_in_the_directory(tmp_path):
    first, second = jobs_of(tmp_path)
    write(first, 4)
    with pytest.raises(RunError, match=r"selector\.lambda_s: 1\.0 -> 0\.0"):
        progress(second._replace(path=first.path), SEEDS)
    with pytest.raises(RunError, match="has 4 epochs, 3 are asked for"):
        progress(jobs_of(tmp_path, epochs=3)[0], SEEDS)


def test_estimates_come_from_the_row_or_from_one_like_it(tmp_path):
    rows = ["darlr", "selector.k_sel=30", "selector.lambda_s=5"]
    jobs = jobs_of(tmp_path, "sensitivity", rows, epochs=10)
    assert estimate_seconds(jobs, SEEDS) == [None] * 3
    assert total_seconds([None, (3.0, True)]) == (3.0, 1)
    write(jobs[0], 4, seconds=2.0, close=False)
    by_name = dict(zip([job.row.name for job in jobs], estimate_seconds(jobs, SEEDS),
                       strict=True))  # fmt: skip
    assert by_name == {
        "darlr": (12.0, True),  # six epochs of two seconds
        "selector.k_sel=30": (40.0, False),  # twice the picks of the preset
        "selector.lambda_s=5": (20.0, False),
    }


def test_other_methods_tell_nothing(tmp_path):
    jobs = jobs_of(tmp_path, "main", ["mbpo", "darlr"])
    write(jobs[0], 2, close=False)
    assert estimate_seconds(jobs, SEEDS) == [(1.0, True), None]
