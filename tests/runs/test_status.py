"""How a run stands: what run.json says, judged by who holds the lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from darlr_jax.runs import directory
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.preemption import Interrupted
from tests.runs.conftest import open_run


def status_of(path):
    return RunDirectory(path).status()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (Interrupted, "interrupted"), (OSError, "failed")],
)
def test_of_a_run_that_ended(tmp_path, error, status):
    try:
        with open_run(tmp_path):
            assert status_of(tmp_path) == "running"
            if error is not None:
                raise error
    except (Interrupted, OSError):
        pass
    assert status_of(tmp_path) == status


_OWNER = """
import json, pathlib, sys, time
from darlr_jax.runs.directory import RunDirectory
run = RunDirectory(sys.argv[1])
run._acquire_lock()
record = json.loads(run.run_file.read_text()) | {"status": "running"}
run.run_file.write_text(json.dumps(record))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_run_that_is_read_is_not_written_to(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(RunError, match="is being trained"), run.reading():
        pass
    run.close()
    with run.reading(), run.reading():
        assert status_of(tmp_path) == "finished"
        with pytest.raises(RunError, match="in use by another process"):
            open_run(tmp_path)
    open_run(tmp_path).close()


def test_of_a_run_whose_process_is_killed(tmp_path):
    open_run(tmp_path).close()
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "ready\n"
            assert status_of(tmp_path) == "running"
        finally:
            owner.kill()
    assert owner.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    assert status_of(tmp_path) == "killed"
    with open_run(tmp_path):
        assert status_of(tmp_path) == "running"
    (earlier,) = json.loads((tmp_path / "run.json").read_text())["earlier_sessions"]
    assert earlier["status"] == "killed"
    assert status_of(tmp_path) == "finished"


def test_of_a_copy(tmp_path):
    with open_run(tmp_path / "run"):
        shutil.copytree(
            tmp_path / "run", tmp_path / "copy", ignore=lambda *_: [".lock"]
        )
        assert status_of(tmp_path / "run") == "running"
        assert status_of(tmp_path / "copy") == "killed"


def test_of_no_run(tmp_path):
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        status_of(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json: has no status"):
        status_of(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "running"}')
    (tmp_path / ".lock").symlink_to(".lock")
    with pytest.raises(RunError, match=r"\.lock: cannot be read"):
        status_of(tmp_path)


def test_a_full_disk_hides_no_error_and_keeps_no_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        with pytest.raises(ZeroDivisionError), open_run(tmp_path):
            patch.setattr(os, "replace", full)
            raise ZeroDivisionError
        with pytest.raises(
            RunError, match=r"config\.json: cannot be written to \(No s"
        ):
            open_run(tmp_path)
    assert status_of(tmp_path) == "killed"
    run = open_run(tmp_path)
    monkeypatch.setattr(directory, "write_json", full)
    with pytest.raises(OSError):
        run.close()
    monkeypatch.undo()
    open_run(tmp_path).close()
