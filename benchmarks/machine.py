"""What this machine is, and what it does in a second: the unit of every floor.

    python -m benchmarks.machine --json

    operations    of a float32 matrix product, at the precision that programs use
    exponentials  of float32 numbers that a cache holds, added up; on an accelerator
                  many of each, one of the other, or reading them would be measured
    bytes         read and written, of an array that no cache holds, in place: a copy to
                  new memory would measure how the system hands it out

Each is the fastest of several calls on all cores: a floor takes what a machine can do.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import options
from experiments import cli

if TYPE_CHECKING:
    from darlr_jax.types import Array

_CALLS = 20
_OF_A_SESSION = ("commit", "versions", "device", "started")


class Rates(NamedTuple):
    """What the machine does in a second."""

    operations: float
    exponentials: float
    bytes: float


class Extents(NamedTuple):
    """How much a call does; enough to keep a machine busy for some milliseconds."""

    matrix: int  # rows and columns
    softmax: int  # numbers that exponentials are taken of
    memory: int  # numbers that are read and written
    rounds: int = 1  # exponentials of each of the numbers


_ON_CPU = Extents(matrix=1024, softmax=1 << 20, memory=1 << 26)
_ON_ACCELERATOR = Extents(matrix=8192, softmax=1 << 22, memory=1 << 28, rounds=1024)
_UNROLLED = 256  # exponentials of a step of the loop, which a compiler fuses


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    data = (cli.DATASET, cli.DATA_DIR, cli.TWIN, cli.TWIN_SCALE)
    training = (cli.METHOD, cli.EPOCHS, cli.OVERRIDES)
    ignored = (*data, *training, *options.SIZES, *options.LIMITS)
    cli.require_absent(ignored, "a machine is measured, not an experiment")
    cli.configure_jax()
    began = session()
    options.show({"session": began, "figures": measured_rates()._asdict()})


def measured_rates(extents: Extents | None = None) -> Rates:
    """The rates of the device that programs run on."""
    import jax
    import jax.numpy as jnp

    if extents is None:
        on_cpu = jax.default_backend() == "cpu"
        extents = _ON_CPU if on_cpu else _ON_ACCELERATOR
    square = jnp.full((extents.matrix, extents.matrix), 0.5)
    numbers = jnp.full((extents.softmax,), 0.5)
    product = fastest(jax.jit(lambda _, x: (_, x @ x)), None, square)
    often = functools.partial(exponentials, rounds=extents.rounds)
    softmax = fastest(jax.jit(lambda _, x: (_, often(x))), None, numbers)
    halve = jax.jit(lambda x: (x * 0.5, None), donate_argnums=0)
    memory = fastest(halve, jnp.ones((extents.memory,)))
    return Rates(
        operations=2.0 * extents.matrix**3 / product,
        exponentials=extents.rounds * extents.softmax / softmax,
        bytes=2.0 * 4 * extents.memory / memory,
    )


def exponentials(numbers: Array, *, rounds: int) -> Array:
    """The sum `[]` of `numbers [N]` after so many exponentials of each.

    Each is of minus the one before, which stays within 0 and 1: a step can neither be
    left out nor begin early, and between steps nothing has to go to memory.
    """
    import jax
    import jax.numpy as jnp

    once = jnp.exp(numbers)
    if rounds == 1:
        return jnp.sum(once)
    last = jax.lax.fori_loop(
        1, rounds, lambda _, x: jnp.exp(-x), once, unroll=min(_UNROLLED, rounds)
    )
    return jnp.sum(last)


def fastest(
    function: Callable[..., tuple[Any, Any]], carry: Any, *inputs: Any
) -> float:
    """Seconds of the fastest call of `(carry, *inputs) -> (carry, result)`.

    The first call, which compiles, does not count.
    """
    import jax

    seconds = []
    for _ in range(_CALLS + 1):
        started = time.perf_counter()
        carry, result = jax.block_until_ready(function(carry, *inputs))
        seconds.append(time.perf_counter() - started)
        del result
    return min(seconds[1:])


def session() -> dict[str, Any]:
    """Machine, versions, commit and load, to stand beside what is measured now."""
    from darlr_jax.runs.directory import describe_session

    described = describe_session([], [], {})
    program = pathlib.Path(sys.argv[0]).stem
    return {
        **{name: described[name] for name in _OF_A_SESSION},
        "command": " ".join(["python", "-m", f"benchmarks.{program}", *sys.argv[1:]]),
        "processor": processor(),
        "cores": cores(),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        "load": os.getloadavg()[0],
    }


def cores() -> int:
    """Cores that this process may use; where the system does not tell, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """What the processor calls itself; empty where the system does not tell."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else ""


if __name__ == "__main__":
    cli.run(main)
