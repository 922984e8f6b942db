"""launch/: a grid that is asked to stop, and the Slurm job that queues again."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from darlr_jax.runs.preemption import SIGNALS, Interrupted, StopRequest
from launch import grid

ROOT = pathlib.Path(grid.__file__).parent.parent


def job(path, code):
    return grid.Job(path, [sys.executable, "-c", code])


@pytest.mark.parametrize(
    "ending",
    ["sys.exit(75)", *(f"os.kill(os.getpid(), {int(n)})" for n in SIGNALS)],
)
def test_an_interrupted_run_ends_the_grid_and_is_no_failure(tmp_path, capfd, ending):
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    jobs = [
        job(tmp_path / "a", "print('one')"),
        job(tmp_path / "b", code + ending),
        job(tmp_path / "c", "print('three')"),
    ]
    with pytest.raises(Interrupted, match=r"^2 of 3 runs are not finished$"):
        grid.run(jobs)
    assert capfd.readouterr().out.count("one") == 1


def test_a_failure_outweighs_an_interruption(tmp_path):
    # The second has begun before the end of the first is noticed, and ends after it.
    codes = ["time.sleep(0.5); sys.exit(75)", "time.sleep(1); sys.exit(1)"]
    jobs = [job(tmp_path / name, f"import sys, time; {code}")
            for name, code in zip("ab", codes, strict=True)]  # fmt: skip
    assert grid.run(jobs, parallel=2) == [jobs[1]]


def test_a_grid_that_is_asked_before_it_begins(tmp_path, capfd):
    with pytest.raises(Interrupted, match="1 of 1"):
        grid.run([job(tmp_path / "a", "print('one')")], stop=StopRequest(0))
    assert "one" not in capfd.readouterr().out


_RUN = """
import signal, sys, time
asked = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: asked.append(number))
print("under way", flush=True)
while signal.SIGTERM not in asked:
    time.sleep(0.01)
time.sleep(0.3)  # the rest of the epoch
sys.exit(75 if asked.count(signal.SIGINT) < 2 else 130)
"""


@pytest.fixture
def under_way(tmp_path):
    """A grid of two runs whose first is under way, in a process group of its own."""
    program = tmp_path / "experiments" / "train.py"
    program.parent.mkdir()
    (program.parent / "__init__.py").write_text("")
    program.write_text(_RUN)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "launch.grid", "--methods=mbpo,dorl"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            while process.stdout.readline() != "under way\n":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("whole_group", [False, True], ids=["grid", "group"])
def test_a_grid_lets_the_run_under_way_finish(under_way, number, whole_group):
    """The terminal and Slurm signal the runs too, `kill` the grid alone."""
    if whole_group:
        os.killpg(under_way.pid, number)
    else:
        under_way.send_signal(number)
    out, err = under_way.communicate(timeout=60)
    assert under_way.returncode == 75
    assert err == "2 of 2 runs are not finished; the same command continues\n"
    assert "dorl" not in out


@pytest.fixture
def submit(tmp_path):
    """Runs the template where programs of Slurm are the given lines of shell."""

    def run(programs, *arguments, **variables):
        for name, code in programs.items():
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\necho {name}\n{code}\n")
            program.chmod(0o755)
        set_by_users = ("PYTHON", "JAX_PLATFORMS", "SLURM_CPUS_PER_TASK")
        clean = {k: v for k, v in os.environ.items() if k not in set_by_users}
        return subprocess.run(
            ["bash", str(ROOT / "launch" / "slurm.sbatch"), *arguments],
            env=clean
            | {
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "SLURM_SUBMIT_DIR": str(tmp_path),
                "SLURM_JOB_ID": "17",
            }
            | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(("status", "requeued"), [(75, True), (0, False), (1, False)])
def test_the_slurm_job_queues_again_where_it_was_interrupted(submit, status, requeued):
    programs = {"srun": f'echo "$@"; exit {status}', "scontrol": 'echo "$@"'}
    done = submit(programs, "--grid=a.b=1,2", "--set=c=d e")
    assert done.returncode == status, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "srun",
        ".venv/bin/python -m launch.grid --grid=a.b=1,2 --set=c=d e",
    ]
    assert lines[2:] == (["scontrol", "requeue 17"] if requeued else [])


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({}, "none cuda"),
        ({"SLURM_CPUS_PER_TASK": "8"}, "8 cuda"),
        ({"JAX_PLATFORMS": "cpu"}, "none cpu"),
    ],
)
def test_what_the_slurm_job_hands_on(submit, variables, seen):
    """The cores, which srun does not inherit, and that a CPU will not do."""
    code = 'echo "${SRUN_CPUS_PER_TASK-none} $JAX_PLATFORMS"'
    done = submit({"srun": code}, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"srun\n{seen}\n"


def test_the_slurm_job_works_where_it_was_submitted(submit, tmp_path):
    done = submit({"srun": "pwd"})
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.splitlines()[1]) == tmp_path.resolve()
    outside = submit({"srun": "pwd"}, SLURM_SUBMIT_DIR="")
    assert outside.returncode != 0
    assert "submit this file with sbatch" in outside.stderr


def test_slurm_may_begin_the_job_again_and_keeps_its_log():
    """Else the job cannot queue again, or loses what the first part of it said."""
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --open-mode=append" in lines
    assert any(line.startswith('cd "${SLURM_SUBMIT_DIR:?') for line in lines)


def test_slurm_signals_what_the_grid_listens_to():
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    assert "#SBATCH --signal=USR1@900\n" in text
    assert signal.SIGUSR1 in SIGNALS
