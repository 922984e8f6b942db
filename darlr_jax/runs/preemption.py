"""Stopping early and in order: a signal or a time limit asks, the program answers.

A scheduler that takes a machine back sends SIGTERM or SIGUSR1, a person at the keyboard
SIGINT. Each sets a flag and nothing more; training reads it where stopping loses
nothing, between two compiled epochs, and ends with exit code `REQUEUE`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same again
AT_ONCE = 130  # as shells report a process that SIGINT ended
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# How a run ends that was asked to stop; by the signal itself while it starts up.
INTERRUPTED = (REQUEUE, *(-number for number in SIGNALS))

_POLL_SECONDS = 0.2
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(Exception):
    """The program stopped because it was asked to; says by what, and how far it is."""


class StopRequest:
    """Whether this process has been asked to stop, by a signal or by the clock.

    Use it as a context manager in the main thread: signals count inside the block,
    also where the process was started with SIGINT ignored, as shells start background
    jobs; the handlers that were there before return after it. Without the block only
    the clock counts.

    A second SIGINT ends the process at once, with exit code `AT_ONCE`. Python calls
    handlers between its own instructions alone, which may be a whole compiled epoch
    later, so a thread waits for it.
    """

    def __init__(
        self,
        max_seconds: float | None = None,
        *,
        on_signal: Callable[[str], None] = lambda name: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
          max_seconds: when the time is up, counted from now; never if None.
          on_signal: called once, in a thread, with the name of the first signal.
          clock: the time in seconds.
        """
        self._max_seconds = math.inf if max_seconds is None else max_seconds
        self._deadline = clock() + self._max_seconds
        self._clock = clock
        self._on_signal = on_signal
        self._signal: signal.Signals | None = None
        self._undo = contextlib.ExitStack()

    @property
    def reason(self) -> str | None:
        """What asked, as "SIGTERM" or "--max_seconds=60"; None: go on."""
        if self._signal is not None:
            return self._signal.name
        if self._clock() >= self._deadline:
            return f"--max_seconds={self._max_seconds:g}"
        return None

    def check(self, where: str) -> None:
        """Raises Interrupted, which says that the program stopped `where`, if asked."""
        reason = self.reason
        if reason is not None:
            raise Interrupted(f"{reason}: stopped {where}")

    def __enter__(self) -> StopRequest:
        """Takes over the signals."""
        receiving, sending = os.pipe()
        os.set_blocking(sending, False)
        listener = threading.Thread(target=self._listen, args=(receiving,), daemon=True)
        self._undo.callback(os.close, receiving)
        self._undo.callback(listener.join)
        self._undo.callback(os.close, sending)  # which ends the listener
        # The interpreter writes each signal's number there, whatever Python is doing.
        earlier_pipe = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, earlier_pipe)
        for number in SIGNALS:
            earlier = signal.signal(number, self._note)
            self._undo.callback(signal.signal, number, earlier or signal.SIG_DFL)
        listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back."""
        self._undo.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal is None:
            self._signal = signal.Signals(number)

    def _listen(self, receiving: int) -> None:
        """Announces the first signal; ends the process at the second SIGINT."""
        announced, interrupts = False, 0
        while numbers := os.read(receiving, 64):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                if os.isatty(2):
                    os.write(2, _SHOW_CURSOR)  # a live bar has hidden it
                os._exit(AT_ONCE)
            ours = [number for number in numbers if number in SIGNALS]
            if ours and not announced:
                announced = True
                self._on_signal(signal.Signals(ours[0]).name)


def wait(process: subprocess.Popen[bytes], stop: StopRequest) -> int:
    """The exit status of `process`, which is told when `stop` asks.

    By SIGTERM: a second SIGINT, after that of a terminal, would end it at once.
    """
    told = False
    while True:
        try:
            return process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stop.reason is not None and not told:
                process.terminate()
                told = True
