"""The twin of Yahoo! R3."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darlr_jax.data.twins import lines, planted
from darlr_jax.data.twins.sizes import Sizes

_GENRES = 20  # which no file tells
_MEAN = 2.0
LEAST_ROWS = 10  # ratings a user, in the log and in the test


def write(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    """The log of self-selected ratings and the random ones."""
    tags = planted.draw_tags(rng, size.items, _GENRES, (0.7, 0.3))
    world = planted.draw_world(rng, size.users, tags)
    most = np.full(size.users, size.items)
    counts = planted.draw_counts(rng, size.log_rows, most, LEAST_ROWS)
    train = planted.draw_cells(rng, counts, lambda users: planted.prefer(world, users))
    ten = np.full(size.environment_users, size.test_rows // size.environment_users)
    test = planted.draw_cells(rng, ten, planted.uniform(size.items))
    for name, cells in (("train", train), ("test", test)):
        rows = (_to_lines(rng, world, *cell) for cell in cells)
        lines.write_rows(
            folder / f"ydata-ymusic-rating-study-v1_0-{name}.txt", "", rows
        )


def _to_lines(
    rng: np.random.Generator,
    world: planted.World,
    users: np.ndarray,
    items: np.ndarray,
) -> bytes:
    """Rows of one block; ids count from 1."""
    stars = planted.stars(rng, planted.affinity(world, users, items), _MEAN)
    columns = (users + 1, items + 1, stars)
    return lines.to_bytes([lines.integer(column) for column in columns], b"\t")
