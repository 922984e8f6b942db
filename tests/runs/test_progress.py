"""progress.py: what an epoch's line says."""

from __future__ import annotations

import io

import pytest

from darlr_jax.runs.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (125, "2:05"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
        (-1, "0:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_plain_lines():
    stream = io.StringIO()
    progress = Progress(100, 3000, "darlr on coat", stream)
    progress.update(1, 3000, 2.0, {"NX_0 R_tra": 71.234567})
    progress.update(2, 3000, 4.0, {"NX_0 R_tra": float("nan")})
    progress.close()
    assert stream.getvalue().splitlines() == [
        "darlr on coat: 100 epochs of 3,000 transitions",
        "  1/100  2.00 s  1,500 steps/s  ETA 3:18  NX_0 R_tra 71.23",
        "  2/100  4.00 s  750 steps/s  ETA 4:54  NX_0 R_tra nan",
    ]


def test_time_left_follows_the_last_epochs_and_a_resumption():
    stream = io.StringIO()
    progress = Progress(100, 10, "x", stream)
    for epoch in range(51, 72):  # resumed; the first epoch was slow
        progress.update(epoch, 10, 100.0 if epoch == 51 else 1.0, {})
    assert "ETA 0:29" in stream.getvalue().splitlines()[-1]


def test_epoch_that_takes_no_time_divides_by_nothing():
    stream = io.StringIO()
    Progress(1, 10, "x", stream).update(1, 10, 0.0, {})
    assert "steps/s" in stream.getvalue()


def test_live_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(2, 3000, "darlr on coat", stream)
    progress.update(1, 3000, 2.0, {"NX_0 R_tra": 71.0})
    progress.update(2, 3000, 2.0, {"NX_0 R_tra": 72.0})
    progress.close()
    assert "\x1b[" in stream.getvalue()  # it moves the cursor
    assert "1/2  2.00 s  1,500 steps/s  ETA 0:02  NX_0 R_tra 71" in stream.getvalue()
    assert "NX_0 R_tra 72" in stream.getvalue()


def test_terminal_without_rich_gets_lines(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    stream = Terminal()
    Progress(2, 3000, "x", stream).update(1, 3000, 2.0, {})
    assert stream.getvalue().endswith("1/2  2.00 s  1,500 steps/s  ETA 0:02\n")


def test_a_method_without_transitions_is_not_measured_in_them():
    stream = io.StringIO()
    progress = Progress(2, 0, "popularity", stream)
    progress.update(1, 0, 2.0, {"NX_0": 71.0})
    progress.close()
    assert stream.getvalue() == "popularity: 2 epochs\n1/2  2.00 s  ETA 0:02  NX_0 71\n"
