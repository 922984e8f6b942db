"""What a run took: seconds of all its sessions, its pace, its memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.runs.results import FinishedRun


class Costs(NamedTuple):
    """Of all seeds together; None where a run does not say."""

    run_seconds: float | None  # epochs of all sessions, with what stopped them
    compile_seconds: float | None  # of all sessions
    epoch_seconds: float | None  # median
    transitions: float | None  # of all seeds and epochs
    transitions_per_second: float | None  # at that pace
    host_mib: float | None  # most at a time, of any session
    device_mib: float | None
    side_by_side: int  # most runs in one program; all seconds but an epoch's are of all


def costs_of(record: Mapping[str, Any], metrics: pd.DataFrame) -> Costs:
    """Reads them from run.json and the metrics.

    Args:
      record: run.json.
      metrics: of the run; columns `seconds` and `env_steps`, where it has them.
    """
    sessions = _sessions(record)
    epoch = transitions = pace = None
    if {"seconds", "env_steps"} <= set(metrics.columns):
        # Every seed's row holds the seconds of all seeds together.
        by_epoch = metrics.groupby("epoch")["seconds"].max()
        epoch = float(by_epoch.median())
        transitions = float(metrics.groupby("seed")["env_steps"].max().sum())
        pace = transitions / len(by_epoch) / epoch if epoch else None
    return Costs(
        run_seconds=_total(sessions, "run_seconds"),
        compile_seconds=_total(sessions, "compile_seconds"),
        epoch_seconds=epoch,
        transitions=transitions,
        transitions_per_second=pace,
        host_mib=_peak(sessions, "host"),
        device_mib=_peak(sessions, "device"),
        side_by_side=max(int(session.get("side_by_side", 1)) for session in sessions),
    )


def sessions_that_trained(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of run.json that have computed the epochs, by their start.

    A finished run that is started again, or merged of others, has a last session that
    computed nothing: on which machine, by which commit, says nothing of the numbers.
    The last one alone where none says how long its epochs took.
    """
    sessions = _sessions(record)
    trained = [s for s in sessions if s.get("run_seconds") is not None]
    return trained or [record]


def each_once(texts: Iterable[str]) -> str:
    """What sessions say, without what is said again, or not at all."""
    return "; ".join(dict.fromkeys(filter(None, texts)))


def costs_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row a run.

    Returns:
      Columns: row; seeds; epochs; seconds of an epoch of all seeds (median); hours of
      that many epochs at this pace, which leaves out what suspended a run, and hours by
      the clock; seconds of compilation; thousand transitions a second; most memory of
      the process and of the device, in MiB; the devices; and, where any run shared its
      program, how many runs did at most: hours by the clock and compilation are of all
      of these, an epoch is a run's share.
      Not-a-number where a run does not say, and for the pace of what makes no
      transitions.
    """
    table = pd.DataFrame([_row(run) for run in runs])
    shared = (table["side by side"] > 1).any()
    return table if shared else table.drop(columns="side by side")


def _row(run: FinishedRun) -> dict[str, Any]:
    costs = costs_of(run.record, run.metrics)
    epochs = int(run.metrics["epoch"].max())
    return {
        "row": run.name,
        "seeds": run.metrics["seed"].nunique(),
        "epochs": epochs,
        "epoch s": _number(costs.epoch_seconds),
        "all epochs h": _number(costs.epoch_seconds, epochs / 3600),
        "by the clock h": _number(costs.run_seconds, 1 / 3600),
        "compilation s": _number(costs.compile_seconds),
        "1,000 transitions/s": _number(costs.transitions_per_second or None, 1e-3),
        "process MiB": _number(costs.host_mib),
        "device MiB": _number(costs.device_mib),
        "device": each_once(map(_device, sessions_that_trained(run.record))),
        "side by side": costs.side_by_side,
    }


def _sessions(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*record.get("earlier_sessions", []), record]


def _device(session: Mapping[str, Any]) -> str:
    device = session.get("device") or {}
    return f"{device.get('count', 1)} x {device.get('kind', 'unknown')}"


def _total(sessions: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [session[name] for session in sessions if session.get(name) is not None]
    return float(sum(values)) if values else None


def _peak(sessions: Sequence[Mapping[str, Any]], where: str) -> float | None:
    """A session of which seeds alone were merged has needed next to nothing."""
    peaks = [(session.get("peak_memory_mib") or {}).get(where) for session in sessions]
    return max((peak for peak in peaks if peak is not None), default=None)


def _number(value: float | None, factor: float = 1.0) -> float:
    return math.nan if value is None else value * factor
