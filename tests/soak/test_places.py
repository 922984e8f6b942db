"""Where a program writes: to the folders that it was given, and nowhere else."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.environments import ROOT
from tests.soak.processes import SETTINGS

SHARED = os.environ.get("JAX_COMPILATION_CACHE_DIR")  # what tests have compiled

# Every file that Python opens to write, makes or moves, from the first import on.
WATCHED = """
import os, runpy, sys

log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        paths = [arguments[0]] if arguments[2] & WRITING else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir"):
        paths = [arguments[0]]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = list(arguments[:2])
    else:
        return
    for path in paths:
        if not isinstance(path, int):
            os.write(log, os.path.abspath(os.fsencode(path)) + b"\\n")

sys.addaudithook(watch)
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


def environment(folder):
    """That of a process whose user has an empty home folder and names no caches."""
    others = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    return others | {
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The folder of everything, and every path that a run has written to."""
    folder = tmp_path_factory.mktemp("watched")
    for name in ("home", "here", "temporary"):
        (folder / name).mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-B", "-c", WATCHED, "--method=mbpo", "--epochs=1"),
            *(f"--set={setting}" for setting in SETTINGS),
            *(
                f"--workdir={folder / 'run'}",
                f"--cache_dir={folder / 'deep' / 'cache'}",
            ),
        ],
        cwd=folder / "here",
        env=environment(folder)
        | ({"JAX_COMPILATION_CACHE_DIR": SHARED} if SHARED else {})
        | {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "TMPDIR": str(folder / "temporary"),
            "WATCH_LOG": str(folder / "log"),
            "MPLCONFIGDIR": str(folder / "deep"),  # Matplotlib keeps a list of fonts
        },
        umask=0,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, set((folder / "log").read_text().splitlines())


def test_only_the_folders_that_were_given_are_written_to(watched):
    folder, paths = watched
    given = [
        folder / "run",
        folder / "deep",
        folder / "temporary",
        pathlib.Path("/dev"),
        pathlib.Path("/proc"),
        *([pathlib.Path(SHARED).absolute()] if SHARED else []),
    ]
    elsewhere = [
        path for path in paths if not any(map(pathlib.Path(path).is_relative_to, given))
    ]
    assert elsewhere == []
    assert str(folder / "run" / "metrics.csv") in paths  # it was watched


def test_nothing_is_left_in_other_folders(watched):
    folder, _ = watched
    left = [path for name in ("home", "here", "temporary")
            for path in (folder / name).rglob("*") if path.is_file()]  # fmt: skip
    assert left == []


def test_the_cache_is_private_to_the_user(watched):
    """All permissions are asked for here (umask 0), and are not given."""
    folder, _ = watched
    cache = folder / "deep" / "cache"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in cache.iterdir()} >= {"programs", "world_models"}


COMPILING = """
import sys
from absl import flags
from experiments import cli

flags.FLAGS(["program", f"--cache_dir={sys.argv[1]}"])
cli.configure_jax()
import jax

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
"""


def test_programs_go_to_the_cache_where_no_variable_names_a_folder(tmp_path):
    """A run is watched with one, which spares it compiling what others have."""
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", COMPILING, str(tmp_path / "cache")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache" / "programs").iterdir())
    assert not list((tmp_path / "home").iterdir())
