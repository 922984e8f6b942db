"""Twins: files in the form and size of the published ones, with generated contents.

The loaders read a twin as they read the official files, so that every data set can be
run, tested and timed where its files cannot be had. A smaller `scale` shrinks users and
items alike and keeps the share of cells that are logged. Nothing measured on a twin
says anything of the people in the official data.

What is planted is that of `synthetic`: clusters of users, quality of items, tags of
unequal popularity, exposure that prefers what is popular and liked, and a walk through
the tags in time. No users x items table is held: affinities are evaluated at the cells
that are drawn, block by block of users.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darlr_jax import files
from darlr_jax.config import nearest_name
from darlr_jax.data import synthetic
from darlr_jax.data.dataset import DataError
from darlr_jax.data.twins import coat, kuairand, kuairec, movielens, yahoo
from darlr_jax.data.twins.sizes import Sizes

# Raised with every change of what is written; the planted strengths are `synthetic`'s.
GENERATOR_VERSION = f"1.{synthetic.GENERATOR_VERSION}"
MARKER = "twin.json"  # in the folder of every twin, and of nothing else
LEAST_SCALE = 1e-4
LEAST_SIDE = 40  # users and items, however small the scale


class _Twin(NamedTuple):
    """A data set as published, and how it is imitated."""

    official: Sizes
    least_log: int  # rows a user
    least_test: int  # rows an environment user
    write: Callable[[Path, Sizes, np.random.Generator], None]


def sizes(name: str, scale: float) -> Sizes:
    """How much `write` writes: the official counts at scale 1.

    Users and items shrink by the square root of `scale`, rows so that their density
    stays, unless a user is promised more. Coat is always written whole.

    Raises:
      DataError: there is no such twin, or `scale` is out of range.
    """
    if name not in _TWINS:
        hint = nearest_name(name, _TWINS)
        raise DataError(f"{name!r}: no data set that has a twin; {hint}")
    if not LEAST_SCALE <= scale <= 1:  # also refuses nan
        raise DataError(
            f"scale of the twin of {name}: expected a number within [{LEAST_SCALE:g}, "
            f"1], found {scale!r}"
        )
    full, least_log, least_test, _ = _TWINS[name]
    if name == "coat" or scale == 1:
        return full
    users, items, some_users, some_items = (
        max(LEAST_SIDE, round(side * math.sqrt(scale))) for side in full[:4]
    )
    log_density = full.log_rows / (full.users * full.items)
    test_density = full.test_rows / (full.environment_users * full.environment_items)
    return Sizes(
        users,
        items,
        some_users,
        some_items,
        log_rows=max(round(log_density * users * items), least_log * users),
        test_rows=max(
            round(test_density * some_users * some_items), least_test * some_users
        ),
    )


def write(name: str, data_dir: Path, scale: float, seed: int = 0) -> Path:
    """Writes `<data_dir>/<name>/`, or finds it written.

    The same arguments give the same bytes. The folder appears when it is complete; a
    twin of another scale, seed or version is replaced, other contents are not.

    Args:
      name: kuairec, kuairand, yahoo, movielens or coat.
      data_dir: the folder that holds one folder a data set.
      scale: share of the official counts, see `sizes`.
      seed: of the generator, not negative.

    Returns:
      The folder.

    Raises:
      DataError: no such twin, `scale` or `seed` out of range, the folder holds files
        that are no twin, or cannot be written.
    """
    size = sizes(name, scale)
    if seed < 0:
        raise DataError(f"seed of the twin of {name}: must not be negative: {seed}")
    folder = Path(data_dir) / name
    recipe = {
        "name": name,
        "scale": scale,
        "seed": seed,
        "version": GENERATOR_VERSION,
        "sizes": size._asdict(),
    }
    if _is_written(folder, recipe):
        return folder
    try:
        _refuse_foreign(folder)
        files.remove_abandoned(folder.parent, name=folder.name)  # gigabytes
        with files.replacing(folder) as partial:
            partial.mkdir(parents=True)
            _TWINS[name].write(partial, size, np.random.default_rng(seed))
            _mark(partial, recipe)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None
    return folder


# --- complete or absent ---------------------------------------------------------------


def _mark(folder: Path, recipe: dict[str, Any]) -> None:
    """Writes the marker: the recipe, and the length in bytes of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lengths = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    text = json.dumps({**recipe, "files": lengths}, indent=2)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def _is_written(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether `folder` is the twin of this recipe, with no file missing or cut."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        lengths = found.pop("files").items()
        whole = all((folder / name).stat().st_size == size for name, size in lengths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return found == recipe and whole


def _refuse_foreign(folder: Path) -> None:
    """Spares files that are no twin: they may be the official ones."""
    if not folder.exists() or (folder / MARKER).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise DataError(
            f"{folder}: exists and holds no {MARKER}, so it is no twin and stays as it "
            "is; give another data folder for twins"
        )


# --- all of them ----------------------------------------------------------------------

# Published counts (protocol 1.2). Of KuaiRand's 1,436,609 standard rows, the file of
# the first two weeks, which is the one that is read, has 1,141,112.
_TWINS = {
    "kuairec": _Twin(
        Sizes(7176, 10728, 1411, 3327, 12_530_806, 4_676_570),
        kuairec.LEAST_ROWS,
        0,
        kuairec.write,
    ),
    "kuairand": _Twin(
        Sizes(27285, 7583, 27285, 7583, 1_141_112, 1_186_059), 0, 0, kuairand.write
    ),
    "yahoo": _Twin(
        Sizes(15400, 1000, 5400, 1000, 311_704, 54_000),
        yahoo.LEAST_ROWS,
        yahoo.LEAST_ROWS,
        yahoo.write,
    ),
    "movielens": _Twin(
        Sizes(6040, 3883, 6040, 3706, 1_000_209, 0),
        movielens.LEAST_ROWS,
        0,
        movielens.write,
    ),
    "coat": _Twin(Sizes(290, 300, 290, 300, 6960, 4640), 24, 16, coat.write),
}
