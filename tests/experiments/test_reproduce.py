"""experiments.reproduce: runs what is missing, stops in order, loses no row.

An invented process stands for each run; one slow test uses the real ones.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax.config import ConfigError
from darlr_jax.presets import preset
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.writers import MetricsWriter
from experiments import cli, reproduce
from tests.experiments.sizes import REFERENCES, SYNTHETIC, TRAINING
from tests.runs.conftest import metrics_row, open_run

ROOT = pathlib.Path(__file__).parent.parent.parent


class Runs:
    """What starts a run: each process has one of the given endings."""

    def __init__(self):
        self.endings = []  # of the processes to come; then all succeed
        self.data = {"log": "abc"}
        self.started = []

    def __call__(self, group):
        self.started.append(" + ".join(job.path.name for job in group))
        ending = self.endings.pop(0) if self.endings else 0
        if ending == 0:
            for job in group:
                self.finish(job)
        return Process(ending)

    def finish(self, job):
        data = {"data_hashes": self.data}
        with open_run(job.path, job.config, seeds=[0, 1], **data) as run:
            run.update(ground_truth="an invented matrix")
            writer = MetricsWriter(run)
            for epoch in range(1, job.config.training.epochs + 1):
                writer.write([metrics_row(seed, epoch) for seed in (0, 1)])


class Process:
    def __init__(self, status):
        self.status, self.told = status, 0

    def wait(self, seconds):
        if self.status == "until told" and not self.told:
            os.kill(os.getpid(), signal.SIGTERM)
            raise subprocess.TimeoutExpired("run", seconds)
        return 75 if self.told else self.status

    def terminate(self):
        self.told += 1


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(reproduce, "_start", runs)
    return runs


@pytest.fixture
def program(tmp_path):
    """Runs the program with flags, on top of those of three rows and epochs."""

    def start(*more):
        for name in reproduce._FLAGS:
            reproduce._FLAGS[name].unparse()
        arguments = [
            *("--rows=mbpo,darlr,gt", "--seeds=0,1", "--dataset=coat", "--epochs=3"),
            *(f"--workdir={tmp_path}", *more),
        ]
        with flagsaver.flagsaver():
            shared = reproduce._FLAGS(["reproduce", *arguments], known_only=True)
            flags.FLAGS(shared)
            reproduce.main([])

    start.tables = tmp_path / "coat" / "tables"
    return start


def test_all_rows_run_once_and_the_table_is_written(runs, program, capsys):
    program()
    assert runs.started == ["gt", "mbpo", "darlr"]
    markdown = (program.tables / "main.md").read_text()
    cells = [line.split()[1] for line in markdown.splitlines() if line[:2] == "| "]
    assert cells == ["row", "-----", "gt", "mbpo", "darlr"]
    made = {path.name for path in program.tables.iterdir()}
    assert {"main.md", "main.csv", "main.tex"} <= made
    assert "\nEvaluation pays: an invented matrix.\n" in markdown
    assert (
        "Evaluation pays: an invented matrix."
        in (program.tables / "main.tex").read_text()
    )
    header, *rows = (program.tables / "main.csv").read_text().splitlines()
    assert header.endswith(",evaluation pays")
    assert [row.endswith(",an invented matrix") for row in rows] == [True] * 3
    assert markdown in capsys.readouterr().out
    program()
    assert len(runs.started) == 3


def test_rows_that_are_the_same_run_share_it(runs, program):
    program("--rows=darlr")
    names = "darlr,selector.k_sel=15,reward.lambda_u=1"
    program("--table=sensitivity", f"--rows={names}")
    assert runs.started == ["darlr", "darlr__reward.lambda_u=1.0"]


def test_rows_that_share_a_program_are_trained_side_by_side(runs, program):
    names = ("lambda_u=0.5", "lambda_u=1", "lambda_u=5")
    rows = ",".join(["darlr", "selector.k_sel=2", *(f"reward.{n}" for n in names)])
    program("--table=sensitivity", f"--rows={rows}", "--side_by_side=3")
    directories = [f"darlr__reward.lambda_u={value}" for value in (0.5, 1.0, 5.0)]
    assert runs.started == [
        "darlr + " + " + ".join(directories[:2]),
        "darlr__selector.k_sel=2",
        directories[2],
    ]


def test_dry_run_says_what_would_run_and_runs_nothing(runs, program, capsys, tmp_path):
    runs.endings = [0, 1]
    with pytest.raises(RunError):
        program()
    capsys.readouterr()
    program("--dry_run")
    assert len(runs.started) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Main table, coat: 3 rows of 2 seeds",
        "  gt: done",
        "    python -m experiments.train --dataset=coat --method=gt "
        f"--workdir={tmp_path}/coat/gt --seeds=0,1 --set=training.epochs=3",
    ]
    assert "  mbpo: not run, time unknown" in lines
    assert lines[-1].startswith("to do: 2 rows of unknown time")


def test_a_row_that_fails_stops_the_table(runs, program):
    runs.endings = [0, 1]
    with pytest.raises(RunError, match="row 2 of 3, mbpo failed with exit code 1") as e:
        program()
    assert "--method=mbpo" in str(e.value)
    assert runs.started == ["gt", "mbpo"]
    assert not program.tables.exists()


def test_a_row_of_which_seeds_failed_stops_the_table(runs, program, monkeypatch):
    finish = runs.finish

    def half(job):
        finish(job)
        run = RunDirectory(job.path)
        failed = (
            '"failed_seeds": [{"seed": 1, "epoch": 2, "term": "x", "value": "nan"}]'
        )
        text = run.run_file.read_text().replace('"failed_seeds": []', failed)
        assert failed in text
        run.run_file.write_text(text)

    monkeypatch.setattr(runs, "finish", half)
    with pytest.raises(RunError, match="1 of 2 seeds failed"):
        program()
    assert runs.started == ["gt"]


def test_missing_rows_say_so_where_they_are_not_to_be_run(runs, program):
    runs.endings = [0, 75]
    with pytest.raises(SystemExit):
        program()
    program("--norun_missing")
    lines = (program.tables / "main.md").read_text().splitlines()
    assert [" not run " in line for line in lines if line[:2] == "| "] == [
        *(False, False, False), *(True, True)]  # fmt: skip


def test_rows_of_other_data_stop_the_table(runs, program, tmp_path):
    """Two rows are done when a file changes: the first row after it is refused."""
    program("--rows=gt,dorl")
    runs.data = {"log": "new"}
    folder = tmp_path / "coat"
    message = f"{folder}/mbpo: computed on other data than {folder}/gt \\(log\\); "
    with pytest.raises(RunError, match=message):
        program("--rows=gt,dorl,mbpo,darlr")
    assert runs.started == ["gt", "dorl", "mbpo"]
    for option in ("--dry_run", "--norun_missing"):
        with pytest.raises(RunError, match=message):
            program(option)
    shutil.rmtree(folder / "gt")
    program()
    assert runs.started[3:] == ["gt", "darlr"]


def test_a_row_that_failed_is_no_unfinished_one(runs, program, tmp_path, monkeypatch):
    def fail(job):
        with open_run(job.path, job.config, seeds=[0, 1]) as run:
            MetricsWriter(run).write([metrics_row(seed, 1) for seed in (0, 1)])
            run.close("failed")

    program("--rows=gt")
    monkeypatch.setattr(runs, "finish", fail)
    with pytest.raises(RunError):
        program()
    with pytest.raises(RunError, match=f"{tmp_path}/coat/mbpo: the run failed; mend"):
        program("--norun_missing")


@pytest.mark.parametrize("ending", [75, -signal.SIGTERM, "until told"])
def test_an_interruption_ends_with_75_and_the_same_command_continues(
    runs, program, capsys, ending
):
    runs.endings = [0, ending]
    with pytest.raises(SystemExit) as stopped:
        program()
    assert stopped.value.code == 75
    assert "row 2 of 3, mbpo; the same command continues" in capsys.readouterr().err
    assert not program.tables.exists()
    program()
    assert runs.started == ["gt", "mbpo", "mbpo", "darlr"]
    assert program.tables.exists()


def test_time_that_is_up_begins_no_row(runs, program, capsys):
    with pytest.raises(SystemExit) as stopped:
        program("--max_seconds=0")
    assert stopped.value.code == 75
    assert "--max_seconds=0: stopped before row 1 of 3" in capsys.readouterr().err
    assert runs.started == []


def test_mistakes_are_refused_before_anything_runs(runs, program):
    with pytest.raises(ConfigError, match="did you mean 'main'"):
        program("--table=mian")
    with pytest.raises(ConfigError, match="rows and --dataset decide it"):
        program("--set=method=mbpo")
    with pytest.raises(ConfigError, match="no such field"):
        program("--set=selector.k=3")
    with pytest.raises(ConfigError, match="tells rows of --table=sensitivity apart"):
        program("--table=sensitivity", "--rows=darlr", "--set=selector.k_sel=20")
    with pytest.raises(ConfigError, match="--epochs=3 says something else"):
        program("--set=training.epochs=7")
    with pytest.raises(ConfigError, match="official files have one size; add --twin"):
        program("--twin_scale=0.01")
    assert runs.started == []


def test_a_home_folder_may_be_written_as_tilde(
    runs, program, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    program("--workdir=~/elsewhere", "--dry_run")
    assert f" --workdir={tmp_path}/elsewhere/coat/gt " in capsys.readouterr().out
    with flagsaver.flagsaver((cli.CACHE_DIR, "~/cache")):
        assert cli.cache_directory("programs") == tmp_path / "cache" / "programs"
    runs = cli.runs_beside(preset("coat", "mopo"), "a", ["~/b: reward.lambda_u=1"])
    assert list(runs) == ["a", f"{tmp_path}/b"]


@pytest.mark.slow
def test_two_rows_interrupted_and_continued(tmp_path):
    """The real programs: stopped in the middle, continued, finished, then skipped."""
    settings = (*SYNTHETIC, *TRAINING, *REFERENCES)
    command = [
        *(sys.executable, "-m", "experiments.reproduce", "--table=curves"),
        *("--dataset=synthetic", "--seeds=0,1", "--epochs=2", "--rows=darlr,dorl"),
        *(f"--workdir={tmp_path / 'runs'}", f"--cache_dir={tmp_path / 'cache'}"),
        *(f"--set={setting}" for setting in settings),
    ]

    def run(*more):
        words = [*command, *more]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)

    assert run("--max_seconds=1").returncode == 75
    done = run()
    assert done.returncode == 0, done.stderr
    tables = tmp_path / "runs" / "synthetic" / "tables"
    first = (tables / "curves.csv").read_text()
    assert [line.partition(",")[0] for line in first.splitlines()] == [
        "row", "darlr", "dorl"]  # fmt: skip
    again = run()
    assert again.returncode == 0
    assert "row 1" not in again.stderr
    assert (tables / "curves.csv").read_text() == first
