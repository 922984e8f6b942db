"""How much memory there is, and how much of it this process has taken at most."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import sys
from collections.abc import Iterator


def memory_of_device() -> int | None:
    """Bytes that programs may use of the first device; of a CPU, those of the host.

    None where the device does not tell.
    """
    import jax  # here: a program that starts others need not load it

    device = jax.devices()[0]
    if device.platform == "cpu":
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min([physical, *limits_of_job()])
    limit: int | None = (device.memory_stats() or {}).get("bytes_limit")
    return limit


def limits_of_job(
    groups: pathlib.Path = pathlib.Path("/proc/self/cgroup"),
    root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
) -> Iterator[int]:
    """Bytes that a batch system or container allows, by each group above the process.

    Linux tells them in files, of which a container sees some; elsewhere there are none.

    Args:
      groups: of this process, a line `number:controllers:path` each.
      root: where groups lie; those of memory in "memory" where each controller has
        its own tree (version 1).
    """
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = groups.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            tree, name = root / "memory", "memory.limit_in_bytes"
        elif not controllers:
            tree, name = root, "memory.max"
        else:
            continue
        group = tree / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(tree):
                with contextlib.suppress(OSError, ValueError):  # "max": no limit
                    yield int((folder / name).read_text(encoding="utf-8"))


def host_peak_mib() -> float:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def device_peak_mib() -> float | None:
    """Largest memory of the accelerator so far; None where it keeps no count."""
    import jax

    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20
