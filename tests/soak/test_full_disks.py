"""Disks that fill up or may not be written to, in each phase of a run.

A small disk of its own is filled, or closed to writers; the run says so in one line,
and the same command succeeds when there is room, as if nothing had been.
"""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.soak.processes import Run, assert_same, unreadable

SIZE = "64m"
BALLAST = "ballast"


def call(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MiB; only root may make one, and not in every container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not call("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)):
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    call("umount", "--lazy", str(folder))


def fill(folder: pathlib.Path) -> None:
    """Leaves not a byte."""
    with open(folder / BALLAST, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def test_a_disk_that_fills_up_while_policies_train(untouched, disk, tmp_path):
    run = Run(disk / "run", tmp_path / "cache")
    run.wait_for_checkpoint()
    with run.held():  # it writes something after that
        fill(disk)
    message = run.fail()
    assert message.startswith(f"error: {disk / 'run'}/")
    assert "No space left on device" in message
    assert "the last checkpoint is intact" in message
    assert unreadable(disk / "run") == []
    (disk / BALLAST).unlink()
    Run(disk / "run", tmp_path / "cache").finish()
    assert_same(disk / "run", untouched)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "cache"])
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_takes_nothing_from_the_start(
    untouched, disk, tmp_path, which, how
):
    """The world model is the first thing that goes to the cache."""
    folders = {"run": tmp_path / "run", "cache": tmp_path / "cache"}
    folders[which] = disk / which
    if how == "full":
        fill(disk)
    else:
        assert call("mount", "-o", "remount,ro", str(disk))
    message = Run(*folders.values()).fail()
    assert str(disk) in message
    if how == "full":
        (disk / BALLAST).unlink()
    else:
        assert "Read-only file system" in message
        assert call("mount", "-o", "remount,rw", str(disk))
    Run(*folders.values()).finish()
    assert_same(folders["run"], untouched)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_the_world_model_is_fitted(
    untouched, disk, tmp_path
):
    run = Run(tmp_path / "run", disk / "cache")
    run.wait_for("world model: epoch 2/")
    with run.held():
        fill(disk)
    assert "No space left on device" in run.fail()
    assert unreadable(disk / "cache") == []
    (disk / BALLAST).unlink()
    Run(tmp_path / "run", disk / "cache").finish()
    assert_same(tmp_path / "run", untouched)
