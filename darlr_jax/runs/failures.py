"""Seeds that fail alone: how it shows, what is kept to inspect, and how the rest go on.

A seed has failed where one of its metrics is not finite. The seeds of a run are one
array axis of one compiled program, so a failed seed cannot leave; a copy of a healthy
one takes its place, and is neither reported nor counted. That keeps shapes, speed and
the numbers of the other seeds, and leaves nothing that is not finite in a checkpoint.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from darlr_jax.files import replacing
from darlr_jax.runs.arrays import save_arrays
from darlr_jax.runs.columns import MAY_BE_UNDEFINED

States = TypeVar("States")

_UNDEFINED = tuple(f"_{metric}" for metric in MAY_BE_UNDEFINED)  # in any mode


class Failure(NamedTuple):
    """The first metric of a seed that was not finite."""

    seed: int
    epoch: int
    term: str  # name of the metric
    value: str  # "nan", "inf" or "-inf"

    def __str__(self) -> str:
        """One clause, to which advice can be added."""
        return f"{self.term} is {self.value} in epoch {self.epoch}, seed {self.seed}"


def find_failures(
    metrics: Mapping[str, np.ndarray], seeds: Sequence[int], epoch: int
) -> dict[int, Failure]:
    """Position -> failure, of the seeds that have a metric `[S]` that is not finite."""
    failures: dict[int, Failure] = {}
    for term, values in metrics.items():
        if term.endswith(_UNDEFINED):
            continue
        for position in np.flatnonzero(~np.isfinite(values)).tolist():
            value = repr(float(values[position]))
            failure = Failure(seeds[position], epoch, term, value)
            failures.setdefault(position, failure)
    return failures


def replace_seeds(states: States, healthy: Sequence[int]) -> States:
    """States `[S]` with copies of a healthy seed at all positions that are not."""
    positions = range(jax.tree.leaves(states)[0].shape[0])
    source = np.array([n if n in healthy else healthy[0] for n in positions])
    return jax.tree.map(lambda leaf: leaf[source], states)


def keep_failed_state(
    directory: pathlib.Path, states: Any, position: int, failure: Failure
) -> pathlib.Path:
    """Stores the state in which a seed failed, to be opened with `numpy.load`.

    Args:
      directory: where to.
      states: pytree of arrays `[S, ...]`.
      position: of the seed in S.
      failure: its failure; stored as well, with the names of the arrays that hold
        not-a-number (an infinite number may be meant: `types.UNVISITED`).

    Returns:
      The file. It holds an array for each leaf, by its path, without S; a typed key is
      stored as its words, bfloat16 as float32.

    Raises:
      OSError: it cannot be written.
    """
    leaves = jax.tree_util.tree_leaves_with_path(states)
    arrays = {jax.tree_util.keystr(p): _plain(leaf[position]) for p, leaf in leaves}
    broken = [name for name, array in arrays.items() if np.isnan(array).any()]
    path = directory / f"seed_{failure.seed}_epoch_{failure.epoch}.npz"
    save_arrays(path, arrays, failure._asdict() | {"nan_in": broken})
    return path


def keep_checkpoint(checkpoint: pathlib.Path, directory: pathlib.Path) -> pathlib.Path:
    """Keeps a checkpoint whatever becomes of it: its files get a second name.

    Raises:
      OSError: it cannot be written.
    """
    target = directory / f"checkpoint_{checkpoint.name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(target) as temporary:
            shutil.copytree(checkpoint, temporary, copy_function=_link)
    return target


def summary(failures: Sequence[Mapping[str, Any]], num_seeds: int) -> str:
    """What is said at the end of a run of which some seeds failed."""
    lines = [
        f"  seed {f['seed']}: {f['term']} is {f['value']} in epoch {f['epoch']}; "
        f"its state: {f['state']}"
        for f in failures
    ]
    count = f"{len(failures)} of {num_seeds} seeds failed"
    return "\n".join([f"{count}; a mean over the others is no result:", *lines])


def _plain(leaf: jax.Array) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _link(source: str, target: str) -> None:
    """A second name costs no space; where there is none, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
