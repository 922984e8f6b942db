"""Measures a named set of pieces and writes docs/speed.md's tables from them.

README.md's table of speeds is of the same files: whole epochs on a CPU.

    python -m benchmarks.report --quick          minutes on two cores
    python -m benchmarks.report                  everything
    python -m benchmarks.report --accelerator    many seeds, and KuaiRand as it is
    python -m benchmarks.report --only=coat_mbpo,growth_seeds_mbpo
    python -m benchmarks.report --tables_only    the page again, from what is there

A piece is a command of its own process, so that its memory is its own. What it prints
goes to benchmarks/results/DEVICE/PIECE.json, with machine, versions, commit and load.
An idle machine is yours to provide; the load that was found is on the page.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from benchmarks import tables
from darlr_jax.config import ConfigError, nearest_name
from darlr_jax.files import replacing
from experiments import cli

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
FIRST_PAGE = ROOT / "README.md"

QUICK = flags.DEFINE_bool("quick", False, "Only the pieces of a few minutes.")
ACCELERATOR = flags.DEFINE_bool(
    "accelerator", False, "The pieces that are for an accelerator."
)
ONLY = flags.DEFINE_list("only", None, "Only these pieces, by name.")
TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Measure nothing.")


class Piece(NamedTuple):
    """A command whose lines of JSON are kept."""

    name: str
    arguments: tuple[str, ...]  # of `python -m`, without --json
    quick: bool = True


def _phases(dataset: str, method: str, *options: str, quick: bool = True) -> Piece:
    arguments = (f"--dataset={dataset}", f"--method={method}", *options)
    return Piece(f"{dataset}_{method}", ("benchmarks.phases", *arguments), quick)


def _growth(over: str, method: str = "darlr", *options: str, quick: bool) -> Piece:
    arguments = (f"--over={over}", "--dataset=coat", f"--method={method}", *options)
    return Piece(f"growth_{over}_{method}", ("benchmarks.growth", *arguments), quick)


def _epochs(dataset: str, method: str) -> Piece:
    arguments = (f"--dataset={dataset}", f"--method={method}", "--repeats=3")
    return Piece(f"epochs_{dataset}_{method}", ("benchmarks.throughput", *arguments))


def _compilation(dataset: str, method: str, quick: bool) -> Piece:
    arguments = (f"--dataset={dataset}", f"--method={method}")
    return Piece(
        f"compile_{dataset}_{method}", ("benchmarks.compilation", *arguments), quick
    )


# Evaluation and world model cost the same, whatever the method: they are measured once.
_TRAINING = ("--measure=training", "--measure=evaluation")
# A whole collect of KuaiRand takes minutes on two cores: fewer sessions, fewer turns.
# A collect projects all feedback vectors, however small: that share is then too large.
_REDUCED = (
    "--measure=training",
    *("--set=training.environments=25", "--set=environment.max_turn=2"),
)
PIECES = (
    _epochs("coat", "mbpo"),
    _epochs("coat", "roler"),
    _epochs("coat", "darlr"),
    _phases("coat", "mbpo", *_TRAINING),
    _phases("coat", "roler", *_TRAINING),
    _phases("coat", "darlr"),
    _phases("kuairec", "mbpo", *_TRAINING),
    _phases("kuairec", "roler", *_TRAINING),
    _phases("kuairec", "darlr"),
    _phases("kuairand", "darlr", *_REDUCED),
    _compilation("coat", "mbpo", quick=True),
    _compilation("coat", "darlr", quick=True),
    _compilation("kuairec", "darlr", quick=False),
    _growth("seeds", "mbpo", quick=True),
    _growth("seeds", quick=False),
    _growth("users", quick=False),
    _growth("items", quick=False),
    _growth("k_sel", quick=False),
    _growth("environments", quick=False),
)

_K_SEL_10 = ("--k_sel=10",)


def _many_seeds(dataset: str, method: str, *options: str, values: str) -> Piece:
    """How a run's cost falls as runs are added."""
    arguments = (f"--dataset={dataset}", f"--method={method}", *options)
    grown = ("benchmarks.growth", "--over=seeds", f"--values={values}", *arguments)
    return Piece(f"growth_seeds_{dataset}_{method}", grown)


ON_ACCELERATOR = (
    _epochs("coat", "mbpo"),
    _epochs("coat", "roler"),
    _epochs("coat", "darlr"),
    _phases("coat", "mbpo", *_TRAINING),
    _phases("coat", "roler", *_TRAINING),
    _phases("coat", "darlr", *_TRAINING),
    _phases("kuairec", "mbpo", *_TRAINING),
    _phases("kuairec", "darlr", *_TRAINING, *_K_SEL_10),
    _phases("kuairand", "darlr", "--measure=training"),
    _many_seeds("coat", "mbpo", values="1,8,64,512"),
    _many_seeds("coat", "darlr", values="1,8,64"),
    _many_seeds("kuairec", "mbpo", values="1,8,64"),
    _many_seeds("kuairec", "darlr", *_K_SEL_10, values="1,8,32"),
)


def main(argv: list[str]) -> None:
    """Measures what was asked for, then writes the pages."""
    del argv
    data = (cli.DATASET, cli.DATA_DIR, cli.TWIN, cli.TWIN_SCALE, cli.CACHE_DIR)
    training = (cli.METHOD, cli.EPOCHS, cli.OVERRIDES)
    cli.require_absent((*data, *training), "each piece has its own")
    pieces: list[Piece] = []
    if not TABLES_ONLY.value:
        kind = ON_ACCELERATOR if ACCELERATOR.value else PIECES
        pieces = chosen(QUICK.value, ONLY.value, kind)
    failed = measure_all(pieces)
    write_pages()
    if failed:
        sys.exit(f"error: failed and kept as they were: {', '.join(failed)}")


def write_pages() -> None:
    """Writes the tables of all results that there are between the pages' markers."""
    for page, text in generated().items():
        new = tables.replace_between(page.read_text("utf-8"), text)
        with replacing(page) as temporary:
            temporary.write_text(new, "utf-8")
        cli.say(f"written: {page}")


def generated() -> dict[pathlib.Path, str]:
    """Page -> what belongs between its markers."""
    results = tables.load(RESULTS)
    return {PAGE: tables.section(results), FIRST_PAGE: tables.speeds(results)}


def chosen(
    quick: bool, only: Sequence[str] | None, pieces: Sequence[Piece] = PIECES
) -> list[Piece]:
    """Those of `pieces` that flags ask for.

    Raises:
      ConfigError: --only names nothing, a piece that does not exist, or none of the
        quick ones.
    """
    if only is not None and not only:
        raise ConfigError("--only: names no piece; leave it out to measure all")
    by_name = {piece.name: piece for piece in pieces}
    for name in only or ():
        if name not in by_name:
            raise ConfigError(f"--only={name}: {nearest_name(name, by_name)}")
        if quick and not by_name[name].quick:
            raise ConfigError(f"--only={name}: takes longer; leave --quick out")
    wanted = by_name if only is None else only
    return [p for p in pieces if p.name in wanted and (p.quick or not quick)]


def measure_all(pieces: Sequence[Piece]) -> list[str]:
    """Runs the pieces and keeps what they print; the names of those that failed.

    Files are written at the end: until then the commit that a piece notes is that of
    an unchanged tree.
    """
    found: dict[str, list[tables.Record]] = {}
    failed = []
    try:
        for piece in pieces:
            started = time.perf_counter()
            records = run(piece)
            if records is None:
                failed.append(piece.name)
            else:
                found[piece.name] = records
            cli.say(f"{piece.name}: {time.perf_counter() - started:.0f} s")
    finally:
        for name, records in found.items():
            folder = RESULTS / place(records[0])
            tables.write(folder / f"{name}.json", records)
    return failed


def run(piece: Piece) -> list[tables.Record] | None:
    """The lines of JSON that a piece prints; None where it fails, having said why."""
    done = subprocess.run(
        _command(piece), stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def _command(piece: Piece) -> list[str]:
    return [sys.executable, "-m", *piece.arguments, "--json"]


def place(record: tables.Record) -> str:
    """The name of the folder of a machine's results: that of its device."""
    kind = record["session"]["device"]["kind"].lower()
    return re.sub(r"[^a-z0-9]+", "-", kind).strip("-")


if __name__ == "__main__":
    cli.run(main)
