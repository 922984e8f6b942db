"""The twin of KuaiRec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from darlr_jax.data.twins import lines, planted
from darlr_jax.data.twins.sizes import Sizes

_HEADER = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
)
_PERIOD = planted.Period(1_593_878_400_000, 63 * lines.DAY)  # 2020-07-05 to 2020-09-05
_TAGS = 31
_SHARES = (0.836, 0.146, 0.017, 0.001)  # of videos with 1 to 4 tags
_TWICE = 0.178  # of the rows of the big matrix: 2.23 of 12.53 million
_UNTIMED = 0.039  # of the rows of the small matrix
LEAST_ROWS = 10

# log(watch ratio) is normal: its mean, and its slope and noise in the affinity. Of
# normals of this width, 0.9 is the mean and 0.3 % are above 5.
_LOG_RATIO = (-0.45, 0.55, 0.5)


def write(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    """Both matrices and the table of categories."""
    tags = planted.draw_tags(rng, size.items, _TAGS, _SHARES)
    duration = np.clip(rng.lognormal(math.log(1e4), 0.6, size.items), 3e3, 3e5)
    world = planted.draw_world(rng, size.users, tags)
    videos = planted.Videos(world, duration.astype(np.int64))
    users = planted.draw_subset(rng, size.users, size.environment_users)
    items = planted.draw_subset(rng, size.items, size.environment_items)
    lines.write_table(
        folder / "item_categories.csv",
        {
            "video_id": range(size.items),
            "feat": [str([int(tag) for tag in row if tag >= 0]) for row in tags],
        },
    )
    big = _draw_big(rng, world, size, users, items)
    small = _draw_small(rng, size, users, items)
    for name, cells, untimed in (
        ("big_matrix.csv", big, 0.0),
        ("small_matrix.csv", small, _UNTIMED),
    ):
        rows = (_to_lines(rng, videos, *cell, untimed) for cell in cells)
        lines.write_rows(folder / name, _HEADER, rows)


def _draw_big(
    rng: np.random.Generator,
    world: planted.World,
    size: Sizes,
    small_users: np.ndarray,
    small_items: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Biased cells, in which every video occurs.

    None is a cell of the small matrix: what is held out is not logged.
    """

    def weigh(users: np.ndarray) -> np.ndarray:
        weights = planted.prefer(world, users)
        weights[np.ix_(small_users[users], small_items)] = 0.0
        return weights

    most = size.items - small_users * size.environment_items
    counts = planted.draw_counts(rng, size.log_rows, most, LEAST_ROWS)
    return planted.draw_cells(rng, counts, weigh, _TWICE)


def _draw_small(
    rng: np.random.Generator,
    size: Sizes,
    small_users: np.ndarray,
    small_items: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All cells of the small matrix but a few."""
    users, items = np.flatnonzero(small_users), np.flatnonzero(small_items)
    full = np.full(len(users), len(items))
    counts = full - planted.draw_counts(rng, full.sum() - size.test_rows, full - 1)
    for rows, columns in planted.draw_cells(rng, counts, planted.uniform(len(items))):
        yield users[rows], items[columns]


def _to_lines(
    rng: np.random.Generator,
    videos: planted.Videos,
    users: np.ndarray,
    items: np.ndarray,
    untimed: float,
) -> bytes:
    """Rows of one block, a share of them without time, as in the small matrix."""
    items, times = planted.walk(rng, videos.world, users, items, _PERIOD)
    mean, slope, noise = _LOG_RATIO
    log_ratio = mean + slope * planted.affinity(videos.world, users, items)
    ratio = np.exp(log_ratio + noise * rng.normal(size=len(users)))
    duration = videos.duration[items]
    play = np.rint(ratio * duration).astype(np.int64)
    clock = _clock(times)
    if untimed:
        known = rng.random(len(users)) >= untimed
        time, date, timestamp = clock
        date = [*date, np.array(b".0")]  # as a column with gaps is one of floats
        clock = tuple(
            [np.where(known, piece, b"") for piece in column]
            for column in (time, date, timestamp)
        )
    columns = (lines.integer(n) for n in (users, items, play, duration))
    return lines.to_bytes([*columns, *clock, lines.quotient(play, duration)], b",")


def _clock(times: np.ndarray) -> tuple[lines.Column, ...]:
    """The columns time (in Beijing), date and timestamp (Unix seconds)."""
    seconds, thousandths = np.divmod(times, 1000)
    fraction = lines.FRACTION[thousandths]
    hours, within = np.divmod((times + lines.BEIJING) % lines.DAY // 1000, 3600)
    return (
        [lines.days(times), lines.HOURS[hours], lines.MINUTES[within], fraction],
        lines.integer(lines.date_numbers(times)),
        [*lines.integer(seconds), fraction],
    )
