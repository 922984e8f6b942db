"""launch/grid.py: which commands a grid becomes, and how it ends."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from darlr_jax.config import ConfigError
from launch import grid

ROOT = pathlib.Path(grid.__file__).parent.parent


def test_every_combination_is_one_command():
    jobs = grid.expand(
        ["mbpo", "dorl"],
        ["coat"],
        "runs",
        options=["--seeds=0,1"],
        overrides=["training.epochs=3"],
        sweep={"reward.lambda_u": ["0.1", "0.2"]},
    )
    assert [str(job.workdir) for job in jobs] == [
        "runs/coat_mbpo__reward.lambda_u=0.1",
        "runs/coat_mbpo__reward.lambda_u=0.2",
        "runs/coat_dorl__reward.lambda_u=0.1",
        "runs/coat_dorl__reward.lambda_u=0.2",
    ]
    assert jobs[3].command == [
        sys.executable,
        "-m",
        "experiments.train",
        "--dataset=coat",
        "--method=dorl",
        "--workdir=runs/coat_dorl__reward.lambda_u=0.2",
        "--seeds=0,1",
        "--set=training.epochs=3",
        "--set=reward.lambda_u=0.2",
    ]


def test_without_a_sweep_the_directory_is_that_of_make_train():
    (job,) = grid.expand(["darlr"], ["synthetic"], "runs")
    assert str(job.workdir) == "runs/synthetic_darlr"


def test_official_files_are_for_the_data_sets_that_have_some():
    jobs = grid.expand(["mbpo"], ["coat", "synthetic"], "runs", data_dir="files")
    jobs += grid.expand(
        ["mbpo"], ["coat"], "runs", data_dir="files", overrides=["dataset.twin=true"]
    )
    given = ["--data_dir=files" in job.command for job in jobs]
    assert given == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["darl"]}, "did you mean 'darlr'"),
        ({"datasets": ["coatt"]}, "did you mean 'coat'"),
        ({"overrides": ["selector.ksel=3"]}, r"did you mean 'selector\.k_sel'"),
        ({"sweep": {"selector.k_sel": ["5", "0"]}}, "must be within"),
        ({"overrides": ["selector.heads=3"]}, "must divide"),
        (
            {"epochs": 5, "sweep": {"training.epochs": ["5", "10"]}},
            "--epochs=5: training.epochs=10 says something else",
        ),
        ({"epochs": 5, "overrides": ["training.epochs=7"]}, "give one of them"),
        ({"methods": []}, r"^--methods: names none; name one at least$"),
        ({"datasets": []}, r"^--datasets: names none"),
        ({"methods": ["mbpo", "darlr", "mbpo"]}, "^--methods=.*: mbpo is named twice"),
        ({"datasets": ["coat", "coat"]}, "^--datasets=coat,coat: coat is named twice"),
        ({"sweep": {"method": ["mbpo", "dorl"]}}, "--grid=method=.*: use --methods"),
        ({"sweep": {"dataset.name": ["coat"]}}, "dataset.name=.*: use --datasets"),
        ({"overrides": ["method=mbpo"]}, "^--set=method=...: use --methods"),
        (
            {
                "overrides": ["training.epochs=1", "selector.k_sel=3"],
                "sweep": {"selector.k_sel": ["5"]},
            },
            "^--set=selector.k_sel=...: --grid sweeps selector.k_sel; give one",
        ),
        ({"epochs": 30_000}, "training.epochs=30000: with training.steps_per_epoch"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(arguments, message):
    defaults = {"methods": ["darlr"], "datasets": ["coat"], "workdir": "runs"}
    with pytest.raises(ConfigError, match=message):
        grid.expand(**defaults | arguments)


def test_sweeps_are_read():
    assert grid.parse_sweep(["a.b=1,2", "c=x"]) == {"a.b": ["1", "2"], "c": ["x"]}


@pytest.mark.parametrize("text", ["a.b", "a.b=", "a.b=1,,2", "=1"])
def test_malformed_sweep(text):
    with pytest.raises(ConfigError, match=f"--grid={text}: expected"):
        grid.parse_sweep([text])


def test_sweeping_a_field_twice():
    with pytest.raises(ConfigError, match="named twice"):
        grid.parse_sweep(["a=1", "a=2"])


@pytest.mark.parametrize("text", ["a=1,2,1", "a=1, 1"])
def test_sweeping_a_value_twice_would_be_two_runs_in_one_directory(text):
    with pytest.raises(ConfigError, match="1 is named twice, for one run directory"):
        grid.parse_sweep([text])


def test_a_tuple_is_not_cut_into_values():
    with pytest.raises(ConfigError, match="a tuple cannot be swept; give each a grid"):
        grid.parse_sweep(["recommender.hidden=(64,64),(32,32)"])


def job(path, code):
    return grid.Job(path, [sys.executable, "-c", code])


def test_first_failure_ends_the_grid(tmp_path, capfd):
    jobs = [
        job(tmp_path / "a", "print('one')"),
        job(tmp_path / "b", "raise SystemExit(3)"),
        job(tmp_path / "c", "print('three')"),
    ]
    assert grid.run(jobs) == [jobs[1]]
    output = capfd.readouterr().out
    assert "one" in output
    assert "three" not in output


_SHARE = """
import os, pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
own.touch()
for _ in range(6000):
    if other.exists():
        break
    time.sleep(0.01)
print(sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"])
"""


def test_side_by_side_each_has_its_log_and_its_share_of_the_cores(tmp_path):
    """The first two wait for each other, and so have a share each."""
    jobs = [
        grid.Job(
            tmp_path / "new" / name,
            [sys.executable, "-c", _SHARE, str(tmp_path / name), str(tmp_path / other)],
        )
        for name, other in zip("abc", "baa", strict=True)
    ]
    before = os.sched_getaffinity(0)
    assert grid.run(jobs, parallel=2) == []
    assert os.sched_getaffinity(0) == before
    logs = [(tmp_path / "new" / f"{name}.log").read_text() for name in "abc"]
    expected = list(grid._shares_of_cores(2))
    shares = {f"{sorted(share)} {len(share)}\n" for share in expected}
    assert set(logs[:2]) == shares
    assert logs[2] in shares


def test_the_log_of_an_earlier_session_stays(tmp_path):
    for said in ("interrupted", "continued"):
        grid.run([job(tmp_path / "a", f"print('{said}')")], parallel=2)
    assert (tmp_path / "a.log").read_text() == "interrupted\ncontinued\n"


def test_errors_of_a_job_are_in_its_log_too(tmp_path, capfd):
    code = "import sys; print('out', flush=True); print('wrong', file=sys.stderr)"
    assert grid.run([job(tmp_path / "a", code)], parallel=2) == []
    assert (tmp_path / "a.log").read_text() == "out\nwrong\n"
    assert capfd.readouterr().err == ""


def test_a_job_that_cannot_start_costs_no_other(tmp_path):
    """Those under way are waited for; no further one begins."""
    jobs = [
        job(tmp_path / "a", "import time; time.sleep(1); print('one'); exit(3)"),
        job(tmp_path / "b", "print('two')"),
        job(tmp_path / "c", "print('three')"),
    ]
    (tmp_path / "b.log").mkdir()
    with pytest.raises(grid.CannotStart) as error:
        grid.run(jobs, parallel=2)
    assert str(error.value) == (
        f"{tmp_path}/b.log: cannot start a run (Is a directory); mend that, or choose "
        "another --workdir"
    )
    assert error.value.failed == [jobs[0]]
    assert (tmp_path / "a.log").read_text() == "one\n"
    assert not (tmp_path / "c.log").exists()


def test_shares_cover_the_cores_and_are_never_empty():
    cores = os.sched_getaffinity(0)
    assert set().union(*grid._shares_of_cores(2)) == cores
    assert all(len(share) >= 1 for share in grid._shares_of_cores(len(cores) + 3))
    assert list(grid._shares_of_cores(1)) == [set()]


@pytest.fixture
def launch(tmp_path):
    """Runs the program where `experiments.train` is a stand-in that fails for dorl."""
    program = tmp_path / "experiments" / "train.py"
    program.parent.mkdir()
    (program.parent / "__init__.py").write_text("")
    program.write_text("import sys; sys.exit('--method=dorl' in sys.argv)")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "launch.grid", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_dry_run_prints_and_runs_nothing(launch, tmp_path):
    done = launch("--methods=mbpo,dorl", "--datasets=coat", "--data_dir=my data",
                  "--epochs=2", "--set=selector.k_sel=20", "--dry_run")  # fmt: skip
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for part in ("--seeds=0,1,2", "'--data_dir=my data'", "--epochs=2",
                 "--set=selector.k_sel=20", "-m experiments.train"):  # fmt: skip
        assert part in lines[0]
    assert not (tmp_path / "runs").exists()


def test_flags_of_each_run_are_handed_on_where_they_are_given(launch):
    given = ("--checkpoint_every=10", "--cache_dir=my cache")
    done = launch("--methods=mbpo,dorl", *given, "--dry_run")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("--checkpoint_every=10 '--cache_dir=my cache'" in line for line in lines)
    plain = launch("--methods=mbpo", "--dry_run").stdout
    assert "--checkpoint_every" not in plain
    assert "--cache_dir" not in plain
    assert launch("--checkpoint_every=0").returncode == 1


def test_exit_status_and_the_command_that_failed(launch):
    assert launch("--methods=mbpo").returncode == 0
    done = launch("--methods=mbpo,dorl,darlr")
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ")
    assert "--method=dorl" in done.stderr
    assert "starting runs/synthetic_darlr" not in done.stdout


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [
        ("--methods=darl", 1, "did you mean 'darlr'"),
        ("--workdir=~nobody_at_all/x", 1, "there is no such home folder"),
        ("stray", 1, "unexpected argument: stray"),
        ("--methods=", 1, "--methods: names none"),
        ("--grid=reward.lambda_u=1,1", 1, "1 is named twice"),
        ("--workdir=experiments/train.py/runs", 2, "runs: cannot start a run (Not a"),
    ],
)
def test_bad_input_is_one_line(launch, argument, status, message):
    done = launch(argument, "--jobs=2")
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_dry_run_refuses_seeds_too(launch):
    done = launch("--seeds=1,1", "--dry_run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "--seeds=1,1: expected distinct numbers\n"


def test_help_costs_no_start_up(launch):
    done = launch("--help")
    assert "--methods" in done.stdout
    assert "cannot be swept" in " ".join(done.stdout.split())
    code = "import sys, launch.grid; sys.exit('jax' in sys.modules)"
    check = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert check.returncode == 0
