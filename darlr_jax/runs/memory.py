"""How much memory this process has taken at most, on the host and on the device."""

from __future__ import annotations

import resource
import sys


def host_peak_mib() -> float:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def device_peak_mib() -> float | None:
    """Largest memory of the accelerator so far; None where it keeps no count."""
    import jax  # here: a program that starts others need not load it

    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20
