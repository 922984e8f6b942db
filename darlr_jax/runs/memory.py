"""How much memory there is, and how much of it this process has taken at most."""

from __future__ import annotations

import os
import resource
import sys


def memory_of_device() -> int | None:
    """Bytes that programs may use of the first device; of a CPU, those of the host.

    None where the device does not tell.
    """
    import jax  # here: a program that starts others need not load it

    device = jax.devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit: int | None = (device.memory_stats() or {}).get("bytes_limit")
    return limit


def host_peak_mib() -> float:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def device_peak_mib() -> float | None:
    """Largest memory of the accelerator so far; None where it keeps no count."""
    import jax

    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20
