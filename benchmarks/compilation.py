"""How long a run waits for its programs: nothing compiled before, and then again.

    python -m benchmarks.compilation --dataset=coat --method=darlr --json

A process compiles what a run does, fresh states and the epoch with its evaluation, with
an empty folder for compiled programs, and another one with the folder that it left.
Seeds are as a run first tries them: one after another on a CPU, else all side by side.
Tables are invented. Figures, `cold` and `warm`, of the process:

    import_seconds     from its start until JAX and the package are there
    trace_seconds      from Python to what the compiler reads
    compile_seconds    of the compiler, or of reading what it once made
    host_peak_mib
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import machine, options
from darlr_jax.runs import memory
from experiments import cli

ONCE = flags.DEFINE_bool(
    "once", False, "Compile in this process, with the folder of --cache_dir, once."
)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    cli.require_absent(options.LIMITS, "a process compiles each program once")
    if not ONCE.value:
        cli.require_absent([cli.CACHE_DIR], "a new folder is taken; it is for --once")
    cli.configure_jax()
    config, sizes = options.setting()
    if ONCE.value:
        options.show(compile_once(config, sizes))
        return
    began = machine.session()
    with tempfile.TemporaryDirectory(prefix="darlr_jax_") as folder:
        cold, warm = (_in_a_process(folder) for _ in range(2))
    setting = options.describe(config, sizes.users, sizes.items, options.SEEDS.value)
    options.show({"session": began, "setting": setting, "cold": cold, "warm": warm})


def _in_a_process(cache_dir: str) -> dict[str, Any]:
    """`compile_once` with the flags of this process, in another one.

    Raises:
      SystemExit: it failed; what it said is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.compilation", *sys.argv[1:]]
    command += ["--once", "--json", f"--cache_dir={cache_dir}"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "JAX_COMPILATION_CACHE_DIR"  # it would take the folder's place
    }
    started = time.time()
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode < 0:
        sys.exit(f"error: the compiling process was ended by signal {-done.returncode}")
    if done.returncode:
        sys.exit(done.returncode)
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"import_seconds": figures.pop("imported_at") - started} | figures


def compile_once(config: Any, sizes: Any) -> dict[str, float]:
    """The figures of the module's docstring, of this process.

    In place of `import_seconds` there is `imported_at`, the time of day: when a process
    began is for the one to say that started it.
    """
    import jax

    from benchmarks.invented import invent_experiment
    from darlr_jax.experiment import make_run_epoch
    from experiments import training

    imported_at = time.time()
    experiment = invent_experiment(config, sizes)
    keys = jax.vmap(jax.random.key)(jax.numpy.arange(options.SEEDS.value))
    init = jax.jit(jax.vmap(experiment.learner.init, (0, None)))
    started = time.perf_counter()
    fresh = init.lower(keys, experiment.tables)
    states = jax.eval_shape(init, keys, experiment.tables)
    at_once = training.seeds_at_once(states)
    epoch: Any = make_run_epoch(experiment.learner, at_once)  # jitted
    lowered = epoch.lower(states, *experiment[1:])
    traced = time.perf_counter()
    for program in (fresh, lowered):
        program.compile()
    return {
        "imported_at": imported_at,
        "trace_seconds": traced - started,
        "compile_seconds": time.perf_counter() - traced,
        "host_peak_mib": memory.host_peak_mib(),
    }


if __name__ == "__main__":
    cli.run(main)
