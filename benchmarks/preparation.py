"""How long data take to prepare, and how long a second start does.

    python -m benchmarks.preparation --dataset=kuairec --json
    python -m benchmarks.preparation --dataset=kuairec --twin_scale=0.1

Twins, of official size without --twin_scale, are written to a folder that is removed
afterwards, so nothing is downloaded and nothing was prepared before:

    twin_seconds      to write the generated files
    prepare_seconds   of `experiments.prepare_data`: parse, check, complete, keep
    again_seconds     of the same command once more, start of the interpreter included
    peak_rss_mib      host memory of the larger of the two
"""

from __future__ import annotations

import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import options
from experiments import cli


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    folders = (cli.DATA_DIR, cli.CACHE_DIR)
    cli.require_absent(folders, "files are generated in a folder that is removed")
    training = (cli.METHOD, cli.EPOCHS, cli.OVERRIDES)
    ignored = (*training, *options.SIZES, *options.LIMITS)
    cli.require_absent(ignored, "only --dataset and --twin_scale are read")
    from darlr_jax.data import twins

    name = cli.DATASET.value
    scale = 1.0 if cli.TWIN_SCALE.value is None else cli.TWIN_SCALE.value
    twins.sizes(name, scale)  # refuses what cannot be written
    with tempfile.TemporaryDirectory(prefix="darlr_jax_") as folder:
        figures = measure(name, scale, pathlib.Path(folder))
    options.show(figures)


def measure(name: str, scale: float, folder: pathlib.Path) -> dict[str, Any]:
    """All figures of the module's docstring."""
    from darlr_jax.data import twins

    started = time.perf_counter()
    twins.write(name, folder / "twins" / f"{scale:g}", scale)
    twin_seconds = time.perf_counter() - started
    command = [
        *(sys.executable, "-m", "experiments.prepare_data", f"--dataset={name}"),
        *("--twin", f"--twin_scale={scale}", f"--cache_dir={folder}"),
    ]
    seconds = [_time(command) for _ in range(2)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "dataset": name,
        "twin_scale": scale,
        "twin_seconds": twin_seconds,
        "prepare_seconds": seconds[0],
        "again_seconds": seconds[1],
        # In the units of the system, as `memory.host_peak_mib` has them.
        "peak_rss_mib": peak / 2**20 if sys.platform == "darwin" else peak / 1024,
    }


def _time(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"error: exit {done.returncode}"]
        sys.exit(said[-1])
    return time.perf_counter() - started


if __name__ == "__main__":
    cli.run(main)
