"""The twin of MovieLens-1M."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from darlr_jax.data.twins import lines, planted
from darlr_jax.data.twins.sizes import Sizes

_GENRES = (
    *("Drama", "Comedy", "Action", "Thriller", "Romance", "Horror", "Adventure"),
    *("Sci-Fi", "Children's", "Crime", "War", "Documentary", "Musical", "Mystery"),
    *("Animation", "Fantasy", "Western", "Film-Noir"),
)
_GENRE_SHARES = (0.52, 0.34, 0.14)  # of movies with 1 to 3 genres
_LAST_MOVIE = 3952 / 3883  # highest id, for every movie
_AGES = (1, 18, 25, 35, 45, 50, 56)
_OCCUPATIONS = 21
_MEAN = 3.1
LEAST_ROWS = 20  # ratings a user
_PERIOD = planted.Period(956_703_932_000, 89_750_658_000)  # 2000-04 to 2003-02


def write(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    """Ratings, movies and users."""
    tags = planted.draw_tags(rng, size.items, len(_GENRES), _GENRE_SHARES)
    world = planted.draw_world(rng, size.users, tags)
    ids = 1 + np.flatnonzero(
        planted.draw_subset(rng, round(_LAST_MOVIE * size.items), size.items)
    )
    never = ~planted.draw_subset(rng, size.items, size.environment_items)

    def weigh(users: np.ndarray) -> np.ndarray:
        weights = planted.prefer(world, users)
        weights[:, never] = 0.0
        return weights

    most = np.full(size.users, size.environment_items)
    counts = planted.draw_counts(rng, size.log_rows, most, LEAST_ROWS)
    cells = planted.draw_cells(rng, counts, weigh)
    rows = (_to_lines(rng, world, ids, *cell) for cell in cells)
    lines.write_rows(folder / "ratings.dat", "", rows)
    _write_texts(folder / "movies.dat", _draw_movies(rng, ids, tags))
    _write_texts(folder / "users.dat", _draw_viewers(rng, size.users))


def _to_lines(
    rng: np.random.Generator,
    world: planted.World,
    ids: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
) -> bytes:
    """Rows of one block, sorted by user and movie: the file is in no order of time."""
    items, times = planted.walk(rng, world, users, items, _PERIOD)
    stars = planted.stars(rng, planted.affinity(world, users, items), _MEAN)
    columns = (users + 1, ids[items], stars, times // 1000)
    order = np.lexsort((items, users))
    return lines.to_bytes([lines.integer(column[order]) for column in columns], b"::")


def _draw_movies(
    rng: np.random.Generator, ids: np.ndarray, tags: np.ndarray
) -> Iterator[str]:
    """Lines of movies.dat; every twentieth title has an accent, as some do."""
    years = rng.integers(1919, 2001, len(ids))
    for movie, row, year in zip(ids, tags, years, strict=True):
        title = "Café" if movie % 20 == 0 else "Movie"
        genres = "|".join(_GENRES[tag] for tag in row if tag >= 0)
        yield f"{movie}::{title}, The {movie} ({year})::{genres}"


def _draw_viewers(rng: np.random.Generator, users: int) -> Iterator[str]:
    """Lines of users.dat."""
    ages = rng.choice(_AGES, users)
    women = rng.random(users) < 0.28
    occupations = rng.integers(0, _OCCUPATIONS, users)
    for user, zip_code in enumerate(rng.integers(0, 100_000, users)):
        gender = "F" if women[user] else "M"
        yield (
            f"{user + 1}::{gender}::{ages[user]}::{occupations[user]}::{zip_code:05d}"
        )


def _write_texts(path: Path, texts: Iterable[str]) -> None:
    """Writes in the encoding of MovieLens, which is not UTF-8."""
    with path.open("w", encoding="latin-1", newline="\n") as file:
        file.writelines(f"{text}\n" for text in texts)
