"""Tiny runs of `experiments.train` as processes of their own, and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from orbax.checkpoint import v1 as ocp

from tests.environments import ROOT, WARNINGS, with_devices
from tests.experiments.sizes import SYNTHETIC, TRAINING

EPOCHS = 60
SETTINGS = (
    *SYNTHETIC,
    *TRAINING,
    "world_model.epochs=20",
    "training.steps_per_epoch=8000",
    "evaluation.all_users=false",
)
PATIENCE = 300.0  # seconds; a run of these takes about ten


class Run:
    """A process that trains in `workdir`, on so many devices."""

    def __init__(
        self,
        workdir: pathlib.Path,
        cache: pathlib.Path,
        *arguments: str,
        devices: int = 1,
    ):
        self.workdir = workdir
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # until `close`
        self._popen = subprocess.Popen(
            [
                *(sys.executable, *WARNINGS, "-m", "experiments.train"),
                *(f"--set={setting}" for setting in SETTINGS),
                *("--method=mbpo", f"--epochs={EPOCHS}", "--checkpoint_every=1"),
                *(f"--cache_dir={cache}", f"--workdir={workdir}", *arguments),
            ],
            cwd=ROOT,
            env=with_devices(devices)
            | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid

    @property
    def said(self) -> str:
        """What it has written so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code; None if it is still at work after so many seconds."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for(self, words: str) -> None:
        """Returns when it has written `words`, which it must."""
        while words not in self.said:
            assert self.wait(0.02) is None, self.said

    def wait_for_checkpoint(self) -> None:
        """Returns when its first checkpoint is whole, which may be epochs later."""
        while not any(
            entry.name.isdecimal() for entry in self.workdir.glob("checkpoints/*")
        ):
            assert self.wait(0.02) is None, self.said

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """It stands still inside the block, and goes on where it was."""
        self._popen.send_signal(signal.SIGSTOP)
        try:
            either = os.WSTOPPED | os.WEXITED | os.WNOWAIT
            state = os.waitid(os.P_PID, self.pid, either)
            assert state and state.si_code == os.CLD_STOPPED, self.said
            yield
        finally:
            self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it, wherever it is."""
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def finish(self) -> str:
        """What it has written, once it has succeeded; otherwise it is shown."""
        code, said = self.wait(), self.said
        self.close()
        assert code == 0, said
        return said

    def fail(self) -> str:
        """Its one line of complaint, once it has failed as a program should."""
        code, said = self.wait(), self.said
        self.close()
        assert code == 1, said
        assert "Traceback" not in said, said
        last = said.splitlines()[-1]
        assert last.startswith("error: "), said
        return last

    def close(self) -> None:
        """Ends it if need be, and closes its log."""
        self._popen.kill()
        self._popen.wait()
        self._log.close()


# --- what they leave ------------------------------------------------------------------


def metrics_of(workdir: pathlib.Path) -> pd.DataFrame:
    """metrics.csv as texts, but for the time that an epoch took."""
    return pd.read_csv(workdir / "metrics.csv", dtype=str).drop(columns="seconds")


def state_of(workdir: pathlib.Path, epoch: int) -> tuple[dict[str, Any], np.ndarray]:
    """What arrays a checkpoint has, and their bytes, read by its storage alone."""
    (folder,) = [
        path for path in (workdir / "checkpoints").rglob(str(epoch)) if path.is_dir()
    ]
    content = ocp.load(folder)["content"]
    leaves: dict[str, Any] = ocp.metadata(folder).custom_metadata["leaves"]
    return leaves, content


def assert_same(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """Metrics and parameters of two finished runs, to the last bit."""
    pd.testing.assert_frame_equal(metrics_of(workdir), metrics_of(other))
    assert len(metrics_of(workdir)) == EPOCHS
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    (leaves, content), (others, other_content) = (
        state_of(path, EPOCHS) for path in (workdir, other)
    )
    assert leaves == others
    assert len(leaves) > 10
    np.testing.assert_array_equal(content, other_content, strict=True)


def unreadable(folder: pathlib.Path) -> list[str]:
    """Files that are neither whole nor plainly unfinished, by their hidden names.

    The last line of metrics may be half a line; whoever reads them knows.
    """
    bad = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any("tmp" in part for part in relative.parts):
            try:
                _read(path)
            except Exception as error:
                bad.append(f"{relative}: {error!r}")
    return bad


def _read(path: pathlib.Path) -> None:
    match path.suffix:
        case ".json":
            json.loads(path.read_text(encoding="utf-8"))
        case ".npz":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
        case ".csv":
            whole = path.read_text(encoding="utf-8").split("\n")[:-1]
            assert len({line.count(",") for line in whole}) <= 1
        case ".jsonl":
            for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                json.loads(line)
