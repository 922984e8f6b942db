"""Environment variables of processes that tests start."""

from __future__ import annotations

import os
import pathlib

ROOT = pathlib.Path(__file__).parent.parent

# As pytest has them (pyproject.toml): these processes share the compilation cache too.
WARNINGS = (
    *("-W", "error"),
    *("-W", "ignore:Error reading persistent compilation cache entry:UserWarning"),
)


def with_devices(count: int) -> dict[str, str]:
    """Those of this process, for one that computes on so many devices of the CPU.

    Other XLA flags stay: programs compiled differently round differently.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}",
    }
