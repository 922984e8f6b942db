"""preemption.py: what asks a program to stop, and what a second SIGINT does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from darlr_jax.runs.preemption import (
    AT_ONCE,
    SIGNALS,
    Interrupted,
    StopRequest,
    wait,
)


def send(number):
    os.kill(os.getpid(), number)


def test_nobody_asked():
    with StopRequest() as stop:
        assert stop.reason is None
        stop.check("here")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_asks_and_interrupts_nothing(number):
    said, heard = [], threading.Event()

    def on_signal(name):
        said.append(name)
        heard.set()

    with StopRequest(on_signal=on_signal) as stop:
        send(number)
        assert stop.reason == number.name
        assert heard.wait(10)
        with pytest.raises(Interrupted, match=f"^{number.name}: stopped after epoch 3"):
            stop.check("after epoch 3")
    assert said == [number.name]


def test_the_first_signal_is_the_reason_and_announced_once():
    said = []
    with StopRequest(on_signal=said.append) as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            send(number)
        assert stop.reason == "SIGUSR1"
    assert len(said) == 1  # leaving the block waits for the listener


def test_the_clock_asks():
    now = [100.0]
    stop = StopRequest(7.5, clock=lambda: now[0])
    now[0] = 107.4
    assert stop.reason is None
    now[0] = 107.5
    assert stop.reason == "--max_seconds=7.5"
    with pytest.raises(Interrupted, match=r"^--max_seconds=7\.5: stopped here$"):
        stop.check("here")


def test_the_signal_is_named_where_the_time_is_up_too():
    with StopRequest(0) as stop:
        send(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


@pytest.mark.parametrize("earlier", [signal.SIG_IGN, signal.default_int_handler])
def test_signals_are_given_back(earlier):
    before = signal.signal(signal.SIGINT, earlier)
    try:
        with StopRequest() as stop:
            send(signal.SIGINT)  # ignored before, as in a background job of a shell
            assert stop.reason == "SIGINT"
        assert signal.getsignal(signal.SIGINT) is earlier
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_no_thread_and_no_descriptor_stays():
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with StopRequest():
            assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


# A hash of minutes stands for a compiled epoch: Python calls no handler until it ends.
_LONG_EPOCH = """
import hashlib, signal
from darlr_jax.runs.preemption import StopRequest
with StopRequest(on_signal=lambda name: print(name, flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("first", SIGNALS, ids=lambda number: number.name)
def test_a_second_interrupt_ends_a_compiled_epoch_at_once(first):
    process = subprocess.Popen(
        [sys.executable, "-c", _LONG_EPOCH], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(first)
            assert process.stdout.readline() == f"{first.name}\n"
            if first is not signal.SIGINT:
                process.send_signal(signal.SIGINT)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)  # the first SIGINT only
            assert interrupted(process) == AT_ONCE == 130
        finally:
            process.kill()


def interrupted(process):
    """How it ends at SIGINT, sent again and again: two that come together are one."""
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1)
    raise AssertionError("it does not end")


class Process:
    """Runs until it is told to stop, and goes on for a moment."""

    def __init__(self):
        self.told, self.waited = 0, 0

    def wait(self, seconds):
        self.waited += 1
        if self.waited == 1:
            send(signal.SIGTERM)
        if self.waited < 4:
            raise subprocess.TimeoutExpired("run", seconds)
        return 75

    def terminate(self):
        self.told += 1


def test_a_child_is_told_once():
    process = Process()
    with StopRequest() as stop:
        assert wait(process, stop) == 75
    assert process.told == 1
