"""What a phase takes: time, compilation and first call apart, and memory."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.counts import Work, floor
from benchmarks.machine import Rates
from benchmarks.options import Limits
from benchmarks.workload import Phase


class Stopwatch:
    """Times phases, one after another, and keeps their figures.

    Attributes:
      rates: of the machine.
      figures: name of a phase -> `seconds` of a call (median), `spread` ((largest -
        smallest) / median), `calls`; the `unit`, `units` of a call, `units_per_second`
        (medians too); `compile_seconds`, with whatever compilation cache is in use;
        `first_seconds` of the first call; `memory_mib`; the counted `work`;
        `floor_seconds`, `bound_by`, and the `ratio` of seconds to the floor.
    """

    def __init__(self, rates: Rates, limits: Limits, say: Callable[[str], None]):
        """`say` hears of every phase as soon as it is timed."""
        self.rates = rates
        self.figures: dict[str, dict[str, Any]] = {}
        self._limits = limits
        self._say = say

    def time(self, phase: Phase) -> tuple[Any, Any]:
        """Times a phase; its carry and result after the last call."""
        lowered = phase.run.lower(phase.carry, *phase.inputs)
        compiled, compile_seconds = timed(lowered.compile)
        calls, carry, result = call_often(compiled, phase, self._limits)
        figures = summary(calls)
        self.figures[phase.name] = {
            **figures,
            "unit": phase.unit,
            "compile_seconds": compile_seconds,
            "memory_mib": memory_mib(compiled),
            **self._against_floor(figures["seconds"], phase.work(figures["units"])),
        }
        self._say(f"{phase.name}: {self.figures[phase.name]['seconds']:.3g} s a call")
        return carry, result

    def _against_floor(self, seconds: float, work: Work) -> dict[str, Any]:
        least = floor(work, self.rates)
        return {
            "work": dataclasses.asdict(work),
            "floor_seconds": least.seconds,
            "bound_by": least.bound_by,
            "ratio": seconds / least.seconds,
        }


class Call(NamedTuple):
    """One call of a program."""

    seconds: float
    units: float  # that it did: sessions are not equally long in every call


def summary(calls: list[Call]) -> dict[str, Any]:
    """`Stopwatch.figures` of the calls of a program, but for memory and floor.

    The first call stands apart.
    """
    first, *others = calls
    seconds = [call.seconds for call in others]
    median = statistics.median(seconds)
    speeds = [call.units / call.seconds for call in others]
    return {
        "seconds": median,
        "spread": (max(seconds) - min(seconds)) / median,
        "calls": len(others),
        "first_seconds": first.seconds,
        "units": statistics.median(call.units for call in others),
        "units_per_second": statistics.median(speeds),
    }


def call_often(
    compiled: Callable[..., Any], phase: Phase, limits: Limits
) -> tuple[list[Call], Any, Any]:
    """All calls, the first one included; carry and result of the last."""
    carry, result = phase.carry, None
    calls: list[Call] = []
    while _goes_on([call.seconds for call in calls[1:]], limits):
        del result  # or two of them would need memory
        work = functools.partial(compiled, carry, *phase.inputs)
        del carry
        (carry, result), elapsed = timed(work)
        calls.append(Call(elapsed, phase.units(result)))
    return calls, carry, result


def _goes_on(seconds: list[float], limits: Limits) -> bool:
    if len(seconds) < min(limits.at_least, limits.calls):
        return True
    return len(seconds) < limits.calls and sum(seconds) < limits.seconds


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, once its arrays are there, and the seconds it took."""
    started = time.perf_counter()
    result = work()
    if not isinstance(result, jax.stages.Compiled):
        jax.block_until_ready(result)
    return result, time.perf_counter() - started


def memory_mib(compiled: Any) -> dict[str, float]:
    """What a program takes, gives and needs beside.

    Results that take the place of donated arrays are counted among the arguments.
    """
    analysis = compiled.memory_analysis()
    return {
        "arguments": analysis.argument_size_in_bytes / 2**20,
        "results": (analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
        / 2**20,
        "temporary": analysis.temp_size_in_bytes / 2**20,
    }
