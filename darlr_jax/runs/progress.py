"""What a user sees while a run goes on: a line an epoch, on a terminal a live bar."""

from __future__ import annotations

import collections
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

# The time left follows the last epochs: a machine that others use changes its pace.
_RECENT_EPOCHS = 20


class Progress:
    """Reports each epoch with its speed, the time left and a few metrics.

    On a terminal it is a live bar, where `rich` is installed; elsewhere plain lines.
    """

    def __init__(
        self,
        total_epochs: int,
        steps_per_epoch_total: int,
        label: str,
        stream: TextIO | None = None,
    ):
        """Announces the run.

        Args:
          total_epochs: the epochs that the run will have when it ends.
          steps_per_epoch_total: transitions of an epoch, summed over the seeds; 0 of a
            method that makes none, whose speed is then not told in transitions.
          label: what is run, as "darlr on coat".
          stream: where to write to; standard error if None.
        """
        self._total = total_epochs
        self._seconds: collections.deque[float] = collections.deque(
            maxlen=_RECENT_EPOCHS
        )
        stream = sys.stderr if stream is None else stream
        self._counts_steps = steps_per_epoch_total > 0
        steps = f" of {steps_per_epoch_total:,} transitions"
        stream.write(f"{label}: {total_epochs:,} epochs{steps * self._counts_steps}\n")
        live = stream.isatty() and importlib.util.find_spec("rich") is not None
        kind = _Bar if live else _Lines
        self._view: _View = kind(label, total_epochs, stream)

    def update(
        self,
        epoch: int,
        env_steps: int,
        seconds: float,
        headline: Mapping[str, float],
    ) -> None:
        """Reports that an epoch is over.

        Args:
          epoch: the epochs done so far, those before a resumption included.
          env_steps: transitions of this epoch, summed over the seeds.
          seconds: how long this epoch took.
          headline: name -> value of a few metrics.
        """
        self._seconds.append(seconds)
        mean = sum(self._seconds) / len(self._seconds)
        parts = [
            f"{epoch:>{len(str(self._total))}}/{self._total}",
            f"{seconds:.2f} s",
            *[f"{env_steps / max(seconds, 1e-9):,.0f} steps/s"] * self._counts_steps,
            f"ETA {clock((self._total - epoch) * mean)}",
            *(f"{name} {value:.4g}" for name, value in headline.items()),
        ]
        self._view.show(epoch, "  ".join(parts))

    def close(self) -> None:
        """Leaves the last line standing."""
        self._view.close()


def clock(seconds: float) -> str:
    """A duration as "1:02:03", or "2:03" below an hour."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class _View(Protocol):
    def show(self, epoch: int, text: str) -> None: ...

    def close(self) -> None: ...


class _Lines:
    def __init__(self, label: str, total: int, stream: TextIO):
        del label, total
        self._stream = stream

    def show(self, epoch: int, text: str) -> None:
        del epoch
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _Bar:
    def __init__(self, label: str, total: int, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=Console(file=stream),
        )
        self._task: Any = self._bar.add_task(label, total=total, text="")
        self._bar.start()

    def show(self, epoch: int, text: str) -> None:
        self._bar.update(self._task, completed=epoch, text=text, refresh=True)

    def close(self) -> None:
        self._bar.stop()
