"""storage.py: disks that are full, before a run and during it."""

from __future__ import annotations

import contextlib
import errno
import resource
import shutil

import jax
import numpy as np
import pytest

from darlr_jax.runs import storage
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.storage import require_space, writing_checkpoint

MIB = 2**20
# 1 MiB of numbers and a key of two words; 3 of them and 128 rows of 8 KiB, with slack.
STATE = {"a": np.zeros(MIB // 4, np.float32), "key": jax.random.key(0)}
NEEDED = 3 * (MIB + 8) + 128 * 8 * 1024 + 16 * MIB


def free(monkeypatch, size):
    usage = shutil._ntuple_diskusage(10**12, 10**12 - size, size)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)


def test_a_run_that_fits_to_the_byte(tmp_path, monkeypatch):
    free(monkeypatch, NEEDED)
    require_space(tmp_path, STATE, checkpoints=3, rows=128)


def test_a_run_that_does_not_fit_says_what_it_needs(tmp_path, monkeypatch):
    free(monkeypatch, NEEDED - 1)
    with pytest.raises(RunError) as error:
        require_space(tmp_path, STATE, checkpoints=3, rows=128)
    assert str(error.value) == (
        f"{tmp_path}: 20.0 MiB free, but the run needs 20.0 MiB (3 checkpoints of "
        "1.0 MiB, 128 rows of metrics); make room or choose another --workdir"
    )


def test_the_disk_of_the_directory_is_asked(tmp_path):
    rows = shutil.disk_usage(tmp_path).free // (8 * 1024)
    require_space(tmp_path, STATE, checkpoints=3, rows=0)
    with pytest.raises(RunError, match="rows of metrics"):
        require_space(tmp_path, STATE, checkpoints=3, rows=2 * rows)


@contextlib.contextmanager
def files_of_at_most(size):
    """As on a full disk, writing fails, with another error number."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_save_that_the_system_refuses(tmp_path, capfd, caplog):
    rng = np.random.default_rng(0)
    states = [{"a": jax.numpy.asarray(rng.standard_normal(30_000))} for _ in range(2)]
    checkpoints = Checkpointer(tmp_path / "checkpoints")
    checkpoints.save(states[0], 1)
    checkpoints.wait()
    with files_of_at_most(50_000):
        checkpoints.save(states[1], 2)  # it is written while the program goes on
        with pytest.raises(RunError) as error:
            checkpoints.wait()
    assert str(error.value) == (
        f"{tmp_path}/checkpoints: cannot be written to (File too large); mend that and "
        "run the same command again, the last checkpoint is intact"
    )
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    later = Checkpointer(tmp_path / "checkpoints")
    restored = later.restore(states[1])
    np.testing.assert_array_equal(restored["a"], states[0]["a"])
    later.save(states[1], 2)
    later.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_system_are_one_line(tmp_path, code):
    with (
        pytest.raises(RunError, match=r"^\S*/x: cannot be written to \([A-Z]") as error,
        writing_checkpoint(tmp_path / "x"),
    ):
        raise OSError(code, "Some words")
    assert "\n" not in str(error.value)


def test_other_errors_go_on(tmp_path):
    with pytest.raises(ValueError, match="a mistake"), writing_checkpoint(tmp_path):
        raise ValueError("a mistake")
