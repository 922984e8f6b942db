"""MovieLens-1M: 6,040 users, 3,883 movies, ratings 1..5 with times (GroupLens, 2003).

All ratings are self-selected: the world model is fitted to the first 80 % of each
user's, and nobody has ever been shown movies at random. The evaluation pays a matrix
completed here, from all ratings, which inherits that selection.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from darlr_jax.config import CompletionConfig
from darlr_jax.data import frames, logs, statistics, text
from darlr_jax.data.completion import complete
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.data.tags import tag_feature, tag_lists

RATINGS = "ratings.dat"
USERS = "users.dat"
MOVIES = "movies.dat"
FILES = (RATINGS, USERS, MOVIES)
SUBFOLDERS = ("ml-1m",)

STARS = (1, 5)
LIKED = 4  # ratings from here on count for the majority genres
HELD_OUT_SHARE = 0.2  # the last ratings of each user

GENDERS = ("F", "M")
AGES = ("1", "18", "25", "35", "45", "50", "56")  # the youngest of each group
OCCUPATIONS = tuple(str(code) for code in range(21))
GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance",
    "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

_RATING_COLUMNS = (
    frames.Column("user", "int", low=1, high=frames.MAX_ID),
    frames.Column("movie", "int", low=1, high=frames.MAX_ID),
    frames.Column("rating", "int", *STARS),
    frames.Column("time", "int", low=0, high=frames.MAX_TIME),
)
_USER_COLUMNS = (
    frames.Column("user", "int", low=1, high=frames.MAX_ID),
    frames.Column("gender", "text"),
    frames.Column("age", "text"),
    frames.Column("occupation", "text"),
    frames.Column("zip_code", "text"),
)
_MOVIE_COLUMNS = (
    frames.Column("movie", "int", low=1, high=frames.MAX_ID),
    frames.Column("title", "text"),
    frames.Column("genres", "text"),
)
_VOCABULARIES = {"gender": GENDERS, "age": AGES, "occupation": OCCUPATIONS}

# The encoding is that of the titles; the other files are ASCII.
_LAYOUT = frames.Layout("::", has_header=False, encoding="latin-1")

_ORIGIN = "https://grouplens.org/datasets/movielens/1m/ (ml-1m.zip)"


def load(data_dir: str | Path, completion: CompletionConfig) -> Dataset:
    """Reads `<data_dir>/movielens/`, or `<data_dir>/movielens/ml-1m/` as unpacked.

    The logged users and items are those of `users.dat` and `movies.dat`, by rising id;
    the environment has those that the log rates at least once, also by rising id.
    Repeated (user, movie) rows stay as they are.

    Args:
      data_dir: the folder that holds `movielens/`.
      completion: how the test matrix is made.

    Raises:
      DataError: a file is missing or malformed; names it, and the line and column.
    """
    folder = Path(data_dir) / "movielens"
    paths = {name: frames.find(folder, name, SUBFOLDERS) for name in FILES}
    user_ids, users = _read_by_id(paths[USERS], _USER_COLUMNS)
    movie_ids, movies = _read_by_id(paths[MOVIES], _MOVIE_COLUMNS)
    user_features = _user_features(paths[USERS], users)
    genres = _read_genres(paths[MOVIES], movies["genres"])
    ratings = _read_ratings(paths[RATINGS], user_ids, movie_ids)
    later = logs.hold_out(ratings.users, ratings.times, HELD_OUT_SHARE)
    log, held_out = logs.select(ratings, ~later), logs.select(ratings, later)
    environment_users, environment_items = np.unique(log.users), np.unique(log.items)
    shape = (len(user_ids), len(movie_ids))
    truth, ground_truth = _complete(ratings, shape, completion)
    liked = log.items[log.labels >= LIKED]
    return Dataset(
        name="movielens",
        log=log,
        held_out=held_out,
        num_logged_users=len(user_ids),
        num_logged_items=len(movie_ids),
        user_features=user_features,
        item_features=(tag_feature("genres", tag_lists(genres), len(GENRES)),),
        item_dense=np.zeros((len(movie_ids), 0), np.float32),
        environment_users=environment_users,
        environment_items=environment_items,
        true_reward=truth[np.ix_(environment_users, environment_items)],
        item_tags=genres[environment_items],
        dominated=statistics.dominated_items(genres, liked)[None, environment_items],
        dominated_names=("genres",),
        ground_truth=ground_truth,
        sources={name: text.digest(path) for name, path in paths.items()},
    )


def _read_by_id(
    path: Path, columns: Sequence[frames.Column]
) -> tuple[np.ndarray, pd.DataFrame]:
    """The sorted ids of a file, its first column, and its rows in that order.

    The index of the frame says which row of the file each one was.
    """
    table = frames.read_table(path, columns, origin=_ORIGIN, layout=_LAYOUT)
    key = columns[0].name
    frames.distinct(table[key], path=path, layout=_LAYOUT)
    table = table.sort_values(key)
    return table[key].to_numpy(), table


def _read_ratings(
    path: Path, user_ids: np.ndarray, movie_ids: np.ndarray
) -> InteractionLog:
    """All ratings in the order of the file; users and items as positions in the ids."""
    table = frames.read_table(path, _RATING_COLUMNS, origin=_ORIGIN, layout=_LAYOUT)
    place = functools.partial(frames.positions, path=path, layout=_LAYOUT)
    rating = table["rating"].to_numpy(np.float32)
    return InteractionLog(
        users=place(table["user"], user_ids, listed_in=USERS),
        items=place(table["movie"], movie_ids, listed_in=MOVIES),
        labels=rating,
        rewards=rating,
        times=table["time"].to_numpy(np.int64),
    )


def _user_features(path: Path, users: pd.DataFrame) -> tuple[CategoricalFeature, ...]:
    """Gender, age group and occupation of the users, in the order of the frame."""
    return tuple(
        CategoricalFeature(
            name=name,
            codes=_codes(path, users[name], vocabulary)[:, None],
            size=len(vocabulary),
        )
        for name, vocabulary in _VOCABULARIES.items()
    )


def _codes(path: Path, texts: pd.Series, vocabulary: Sequence[str]) -> np.ndarray:
    """[rows] int32: where each text stands in the vocabulary."""
    codes = pd.Index(vocabulary).get_indexer(pd.Index(texts))
    for row in np.flatnonzero(codes < 0)[:1]:
        line = frames.line_of(path, texts.index[row], _LAYOUT)
        raise DataError(
            f"{path}: line {line}, column {texts.name!r}: expected one of "
            f"{', '.join(vocabulary)}, found {texts.iloc[row][:20]!r}"
        )
    return codes.astype(np.int32)


def _read_genres(path: Path, texts: pd.Series) -> np.ndarray:
    """[Y, 18] bool: the genres of the movies, in the order of the frame."""
    split = texts.str.split("|").explode()
    genres = np.zeros((len(texts), len(GENRES)), np.bool_)
    movies = texts.index.get_indexer(split.index)
    genres[movies, _codes(path, split, GENRES)] = True
    return genres


def _complete(
    ratings: InteractionLog, shape: tuple[int, int], config: CompletionConfig
) -> tuple[np.ndarray, str]:
    """[X, Y] real ratings, and one line on how they were made."""
    low, high = STARS
    completed = complete(
        ratings.users,
        ratings.items,
        ratings.rewards,
        np.ones(len(ratings), np.float32),  # no rating was exposed at random
        shape,
        config,
        low=low,
        high=high,
    )
    description = (
        "MovieLens-1M completed from all ratings, which are self-selected (not "
        f"debiased): {completed.description}"
    )
    return completed.matrix, description
