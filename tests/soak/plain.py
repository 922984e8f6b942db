"""The files of every data set, read line by line and cell by cell, by the book.

What a loader makes of a damaged file, if it takes it, must be what these make of it.
They refuse little and are slow; the test matrices that are completed are not theirs.
"""

from __future__ import annotations

import csv
import gzip
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from darlr_jax.data import coat, kuairand, kuairec, movielens, yahoo
from darlr_jax.data.dataset import Dataset

Columns = dict[str, list[str]]
Facts = dict[str, Any]  # name -> array, as `facts` has them


def facts(dataset: Dataset) -> Facts:
    """What the plain readers can say of a data set."""
    found: Facts = {}
    for name, log in (("log", dataset.log), ("held_out", dataset.held_out)):
        for field in ("users", "items", "rewards", "labels", "times"):
            value = getattr(log, field)
            found[f"{name}.{field}"] = [] if value is None else value
    for feature in (*dataset.user_features, *dataset.item_features):
        found[f"feature {feature.name}"] = feature.codes
    found["true_reward"] = dataset.true_reward
    found["item_tags"] = dataset.item_tags
    return found


def differences(dataset: Dataset, expected: Facts) -> list[str]:
    """The facts that `dataset` does not share."""
    found = facts(dataset)
    return [
        name
        for name, value in expected.items()
        if np.shape(found[name]) != np.shape(value)
        or not np.allclose(found[name], value, rtol=1e-5, atol=1e-6)
    ]


def text_of(path: pathlib.Path, encoding: str = "utf-8-sig") -> str:
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding=encoding, newline="") as file:
        return file.read()


def table(text: str, separator: str, header: Sequence[str] = ()) -> Columns:
    """The columns of a delimited text; its first row names them, or `header` does."""
    if len(separator) > 1:
        rows = [line.rstrip("\r").split(separator) for line in text.split("\n")]
    else:
        # Not `splitlines`, for which a form feed and others end a line, too.
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    rows = [row for row in rows if len(row) > 1 or "".join(row).strip()]
    names = list(header) or [name.strip() for name in rows.pop(0)]
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}


def numbers(cells: Sequence[str]) -> np.ndarray:
    return np.array([float(cell) for cell in cells])


def positions(cells: Sequence[str], ids: Sequence[float]) -> np.ndarray:
    place = {value: n for n, value in enumerate(ids)}
    return np.array([place[float(cell)] for cell in cells])


def log_of(name: str, users: Any, items: Any, rewards: Any, times: Any = ()) -> Facts:
    single = np.asarray(rewards, np.float32)
    return {
        f"{name}.users": users,
        f"{name}.items": items,
        f"{name}.rewards": single,
        f"{name}.times": times,
    }


# --- the data sets --------------------------------------------------------------------


def read_coat(folder: pathlib.Path) -> Facts:
    def matrix(name: str) -> np.ndarray:
        lines = text_of(folder / name).strip().split("\n")
        return np.array([[int(cell) for cell in line.split()] for line in lines])

    found: Facts = {"true_reward": matrix(coat.TRUTH)}
    for name, file in (("log", coat.TRAIN), ("held_out", coat.TEST)):
        ratings = matrix(file)
        found |= log_of(name, *np.nonzero(ratings), ratings[ratings > 0])
    users, items = matrix(coat.USER_FEATURES), matrix(coat.ITEM_FEATURES)
    found["item_tags"] = items
    for blocks, rows in ((coat.USER_BLOCKS, users), (coat.ITEM_BLOCKS, items)):
        start = 0
        for name, width in blocks.items():
            block = rows[:, start : start + width]
            found[f"feature {name}"] = [[list(row).index(1)] for row in block]
            start += width
    return found


def _tags(cells: Sequence[str], width: int) -> np.ndarray:
    lists = [[int(tag) for tag in cell.strip("[]").split(",") if tag] for cell in cells]
    return np.array([[*tags, *[-1] * (width - len(tags))] for tags in lists])


def read_kuairec(folder: pathlib.Path) -> Facts:
    videos = table(text_of(folder / kuairec.CATEGORIES), ",")
    ids = sorted(numbers(videos["video_id"]))
    order = np.argsort(numbers(videos["video_id"]))
    matrices = {
        name: table(text_of(folder / file), ",")
        for name, file in (("log", kuairec.BIG), ("held_out", kuairec.SMALL))
    }
    users = sorted({float(u) for rows in matrices.values() for u in rows["user_id"]})
    tags = _tags(videos["feat"], kuairec.MAX_TAGS)[order]
    found: Facts = {"feature tags": tags + 1}
    for name, rows in matrices.items():
        blank = ("", "NaN", "nan", "NULL", "null")
        times = numbers([t if t not in blank else "0" for t in rows["timestamp"]])
        of_user = positions(rows["user_id"], users)
        order = np.arange(len(times))
        for user in set(of_user) if name == "log" else ():  # in order, on her places
            places = np.flatnonzero(of_user == user)
            order[places] = places[np.argsort(times[places], kind="stable")]
        found |= log_of(
            name,
            of_user[order],
            positions(rows["video_id"], ids)[order],
            np.minimum(numbers(rows["watch_ratio"]), 5.0)[order],
            np.floor(times[order]),
        )
    return found


def read_kuairand(folder: pathlib.Path) -> Facts:
    users = sorted(numbers(table(text_of(folder / kuairand.USERS), ",")["user_id"]))
    videos = table(text_of(folder / kuairand.VIDEOS), ",")
    ids = numbers(videos["video_id"])
    tags = _tags(videos["tag"], kuairand.MAX_TAGS)[np.argsort(ids)]
    found: Facts = {"feature tags": tags + 1}
    for name, file in (("log", kuairand.LOG), ("held_out", kuairand.RANDOM_LOG)):
        rows = table(text_of(folder / file), ",")
        times = numbers(rows["time_ms"])
        order = np.argsort(times, kind="stable")
        found |= log_of(
            name,
            positions(rows["user_id"], users)[order],
            positions(rows["video_id"], sorted(ids))[order],
            numbers(rows["is_click"])[order],
            times[order] // 1000,
        )
    return found


def read_yahoo(folder: pathlib.Path) -> Facts:
    found: Facts = {}
    for name, file in (("log", yahoo.TRAIN), ("held_out", yahoo.TEST)):
        rows = table(text_of(folder / file), "\t", ("user", "song", "rating"))
        users, songs = numbers(rows["user"]) - 1, numbers(rows["song"]) - 1
        found |= log_of(name, users, songs, numbers(rows["rating"]))
    return found


def read_movielens(folder: pathlib.Path) -> Facts:
    names = ("user", "movie", "rating", "time")
    rows = table(text_of(folder / movielens.RATINGS, "latin-1"), "::", names)
    users = table(text_of(folder / movielens.USERS, "latin-1"), "::",
                  ("user", "gender", "age", "occupation", "zip"))  # fmt: skip
    movies = table(text_of(folder / movielens.MOVIES, "latin-1"), "::",
                   ("movie", "title", "genres"))  # fmt: skip
    user = positions(rows["user"], sorted(numbers(users["user"])))
    item = positions(rows["movie"], sorted(numbers(movies["movie"])))
    times = numbers(rows["time"])
    later = np.zeros(len(user), bool)
    for owner in np.unique(user):
        mine = np.flatnonzero(user == owner)
        mine = mine[np.argsort(times[mine], kind="stable")]
        later[mine[len(mine) - len(mine) // 5 :]] = len(mine) >= 5
    order = np.argsort(numbers(users["user"]))
    gender = [[movielens.GENDERS.index(users["gender"][n])] for n in order]
    found: Facts = {"feature gender": gender}
    for name, part in (("log", ~later), ("held_out", later)):
        rating = numbers(rows["rating"])[part]
        found |= log_of(name, user[part], item[part], rating, times[part])
    return found


def read_own(folder: pathlib.Path) -> Facts:
    rows = table(text_of(folder / "log.csv"), ",")
    users, items = _sorted_ids(rows["user_id"]), _sorted_ids(rows["item_id"])
    order = np.argsort(numbers(rows["time"]), kind="stable")
    matrix = table(text_of(folder / "matrix.csv"), ",")
    truth = np.full((len(users), len(items)), np.nan)
    for user, item, value in zip(
        matrix["user_id"], matrix["item_id"], matrix["rating"], strict=True
    ):
        truth[users.index(user), items.index(item)] = float(value)
    test = table(text_of(folder / "test.csv"), ",")
    known = [
        n
        for n, (user, item) in enumerate(
            zip(test["user_id"], test["item_id"], strict=True)
        )
        if user in users and item in items
    ]
    times = numbers(test["time"])
    known.sort(key=lambda n: times[n])
    return (
        log_of(
            "log",
            [users.index(rows["user_id"][n]) for n in order],
            [items.index(rows["item_id"][n]) for n in order],
            numbers(rows["rating"])[order],
            np.floor(numbers(rows["time"])[order]),
        )
        | log_of(
            "held_out",
            [users.index(test["user_id"][n]) for n in known],
            [items.index(test["item_id"][n]) for n in known],
            numbers(test["rating"])[known],
            np.floor(times[known]),
        )
        | {"true_reward": truth}
        | _categories(table(text_of(folder / "items.csv"), ","), items)
    )


def _categories(columns: Columns, items: Sequence[str]) -> Facts:
    """Every column is a feature, and its distinct texts are the categories."""
    rows = [columns["item_id"].index(item) for item in items]
    found: Facts = {}
    for name, cells in columns.items():
        if name not in ("item_id", "tags"):
            known = [cells[row] for row in rows]
            vocabulary = _sorted_ids(known)
            codes = [[vocabulary.index(cell)] for cell in known]
            found[f"feature item_{name}"] = codes
    return found


def _sorted_ids(cells: Sequence[str]) -> list[str]:
    """Distinct texts, by number where all are whole ones."""
    distinct = sorted(set(cells))
    try:
        return sorted(distinct, key=lambda text: (int(text), text))
    except ValueError:
        return distinct


READERS: dict[str, Callable[[pathlib.Path], Facts]] = {
    "coat": read_coat,
    "csv": read_own,
    "kuairand": read_kuairand,
    "kuairec": read_kuairec,
    "movielens": read_movielens,
    "yahoo": read_yahoo,
}
