"""The data set `csv`: a user's own log, as delimited text with named columns.

One file of interactions is enough. Others may tell what items and users are like, which
interactions to hold out, and the reward of every user for every item. Every user and
item of the log is one of the environment.

Ids and categories are texts, the same where they are written the same. They are sorted
as numbers where all are whole numbers, otherwise as texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.config import CompletionConfig, CsvConfig
from darlr_jax.data import frames, logs, statistics, text
from darlr_jax.data.completion import complete
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.data.tags import tag_feature, tag_lists

MAX_CELLS = 2**31 - 1  # of the test matrix: 8 GiB
MAX_REWARD = float(np.finfo(np.float32).max)

FIELDS = ("log", "test_log", "full_matrix", "item_features", "user_features")
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


class _Ids(NamedTuple):
    """The distinct ids of the log, sorted; a position is the id from here on."""

    users: pd.Index
    items: pd.Index


class _Features(NamedTuple):
    """What a feature file says, one row an id of the log."""

    features: tuple[CategoricalFeature, ...]
    tags: np.ndarray  # [rows, C] bool, C may be 0


def load(config: CsvConfig, completion: CompletionConfig) -> Dataset:
    """Reads the files that a configuration names.

    * Rewards are paid and predicted as they are. Repeated (user, item) rows stay.
    * With times, rows are put in their order; fractions of a second count for that
      alone. Without, there is no order.
    * Without a test log, `test_share` of each user's rows are held out, as
      `logs.hold_out` does; rows of a test log whose user or item the log lacks are
      dropped, and counted in `ground_truth`.
    * Every column of a feature file is a category a distinct text, that of tags
      excepted; every id of the log must have exactly one row, others are ignored.
    * The majority tags are those of the rows that pay at least the mean reward of the
      log, which works for clicks (0 or 1), stars and constants alike.
    * The test matrix is `full_matrix`, or else completed from all interactions.

    Args:
      config: paths, and the names of columns.
      completion: how the test matrix is made where none is given.

    Raises:
      DataError: a file is missing or malformed; names it, and the line and column.
    """
    _check_names(config)
    table = _read_log(config, "log")
    ids = _Ids(_sorted_distinct(table["user"]), _sorted_distinct(table["item"]))
    _check_size(config, ids)
    log, held_out, note = _split(config, _to_log(table, ids), ids)
    users = _read_features(config, "user", ids.users)
    items = _read_features(config, "item", ids.items)
    truth, ground_truth = _find_truth(config, log, held_out, ids, completion)
    has_tags = bool(config.item_tags)
    liked = log.items[log.rewards >= log.rewards.mean(dtype=np.float64)]
    dominated = statistics.dominated_items(items.tags, liked)[None]
    return Dataset(
        name="csv",
        log=log,
        held_out=held_out,
        num_logged_users=len(ids.users),
        num_logged_items=len(ids.items),
        user_features=users.features,
        item_features=items.features,
        item_dense=np.zeros((len(ids.items), 0), np.float32),
        environment_users=np.arange(len(ids.users), dtype=np.int32),
        environment_items=np.arange(len(ids.items), dtype=np.int32),
        true_reward=truth,
        item_tags=items.tags,
        dominated=dominated if has_tags else dominated[:0],
        dominated_names=(config.item_tags,) if has_tags else (),
        ground_truth=ground_truth + note,
        sources=_digests(config),
    )


# --- what may be wrong with a configuration -------------------------------------------


def _check_names(config: CsvConfig) -> None:
    if not config.log:
        raise DataError(
            "dataset.csv.log: expected the path of an interaction log; give "
            "--set=dataset.csv.log=PATH"
        )
    fields = ("user", "item", "reward", "time")
    named = [name for field in fields if (name := getattr(config, field))]
    for name in named:
        if named.count(name) > 1:
            raise DataError(
                f"dataset.csv: expected different columns as {', '.join(fields)}, "
                f"found {name!r} for {named.count(name)} of them"
            )
    if config.item_tags and not config.item_features:
        raise DataError(
            f"dataset.csv.item_tags={config.item_tags!r}: names a column of "
            "dataset.csv.item_features, which is empty; give "
            "--set=dataset.csv.item_features=PATH"
        )


def _check_size(config: CsvConfig, ids: _Ids) -> None:
    if min(len(ids.users), len(ids.items)) < 2:
        raise DataError(
            f"{config.log}: expected at least 2 users and 2 items, found "
            f"{len(ids.users)} and {len(ids.items)}; is the file whole?"
        )
    cells = len(ids.users) * len(ids.items)
    if cells > MAX_CELLS:
        raise DataError(
            f"{config.log}: {len(ids.users)} users x {len(ids.items)} items are {cells}"
            f" cells, and the test matrix holds {MAX_CELLS}; leave rare ones out of it"
        )


def _path(config: CsvConfig, field: str) -> Path:
    return text.user_path(getattr(config, field))


def _layout(config: CsvConfig) -> frames.Layout:
    # A shell makes it hard to type a tab.
    return frames.Layout("\t" if config.separator == r"\t" else config.separator)


def _digests(config: CsvConfig) -> dict[str, str]:
    """Field and name of each file -> sha256; the folder it lies in says nothing."""
    paths = {field: _path(config, field) for field in FIELDS if getattr(config, field)}
    return {f"{field}: {path.name}": text.digest(path) for field, path in paths.items()}


# --- interactions ---------------------------------------------------------------------


def _read_log(config: CsvConfig, field: str) -> pd.DataFrame:
    """Columns user, item, reward and, where there are times, time; rows in its order.

    The index says which row of the file each one was.
    """
    columns = {
        "user": frames.Column(config.user, "text"),
        "item": frames.Column(config.item, "text"),
        "reward": frames.Column(config.reward, "float", -MAX_REWARD, MAX_REWARD),
    }
    if config.time and field != "full_matrix":
        columns["time"] = frames.Column(config.time, "float", 0.0, frames.MAX_TIME)
    table = _read(config, field, list(columns.values()))
    table.columns = pd.Index(columns)
    return table.sort_values("time", kind="stable") if "time" in columns else table


def _read(config: CsvConfig, field: str, columns: list[frames.Column]) -> pd.DataFrame:
    return frames.read_table(
        _path(config, field),
        columns,
        origin=f"your own data (dataset.csv.{field})",
        layout=_layout(config),
    )


def _line_of(config: CsvConfig, field: str, row: int) -> int:
    """The line of a row of `_read`."""
    return frames.line_of(_path(config, field), row, _layout(config))


def _sorted_distinct(texts: pd.Series) -> pd.Index:
    """The different texts, in the order of their numbers where all are whole ones."""
    distinct = texts.unique().tolist()
    whole = all(map(_WHOLE.fullmatch, distinct))
    # "07" and "7" are different ids of one number.
    distinct.sort(key=(lambda value: (int(value), value)) if whole else None)
    return pd.Index(distinct, dtype="str")


def _positions(ids: pd.Index, texts: pd.Series) -> np.ndarray:
    """[N] int32: where each text stands in `ids`, -1 where it does not."""
    return ids.get_indexer(pd.Index(texts)).astype(np.int32)


def _to_log(table: pd.DataFrame, ids: _Ids) -> InteractionLog:
    """Rows with positions in place of ids, -1 for one that `ids` lacks."""
    rewards = table["reward"].to_numpy(np.float32)
    times = table["time"].to_numpy().astype(np.int64) if "time" in table else None
    return InteractionLog(
        users=_positions(ids.users, table["user"]),
        items=_positions(ids.items, table["item"]),
        labels=rewards,
        rewards=rewards,
        times=times,
    )


def _split(
    config: CsvConfig, logged: InteractionLog, ids: _Ids
) -> tuple[InteractionLog, InteractionLog, str]:
    """The log, the held-out part, and a note on rows that are in neither."""
    if config.test_log:
        return logged, *_read_test_log(config, ids)
    later = logs.hold_out(logged.users, logged.times, config.test_share)
    if not later.any():
        raise DataError(
            f"dataset.csv.test_share={config.test_share:g}: holds out no row, as no "
            "user has so many; give a larger share, or --set=dataset.csv.test_log=PATH"
        )
    return logs.select(logged, ~later), logs.select(logged, later), ""


def _read_test_log(config: CsvConfig, ids: _Ids) -> tuple[InteractionLog, str]:
    test = _to_log(_read_log(config, "test_log"), ids)
    known = (test.users >= 0) & (test.items >= 0)
    if not known.any():
        raise DataError(
            f"{_path(config, 'test_log')}: expected users and items of {config.log}, "
            "found no row with both"
        )
    dropped = len(test) - np.count_nonzero(known)
    note = f"; test_log: {dropped} of {len(test)} rows dropped, not in the log's ids"
    return logs.select(test, known), note if dropped else ""


# --- the test matrix ------------------------------------------------------------------


def _find_truth(
    config: CsvConfig,
    log: InteractionLog,
    held_out: InteractionLog,
    ids: _Ids,
    completion: CompletionConfig,
) -> tuple[np.ndarray, str]:
    """[U, I] float32, and one line that says what it is."""
    if config.full_matrix:
        path = _path(config, "full_matrix")
        return _read_matrix(config, ids), f"csv: every reward as in {path.name}"
    rewards = np.concatenate([log.rewards, held_out.rewards])
    low, high = float(rewards.min()), float(rewards.max())
    if low == high:
        raise DataError(
            f"{config.log}: expected rewards that differ, found {low:g} in every row: "
            "nothing tells one item from another; log what was not liked, too, or give "
            "--set=dataset.csv.full_matrix=PATH"
        )
    completed = complete(
        np.concatenate([log.users, held_out.users]),
        np.concatenate([log.items, held_out.items]),
        rewards,
        np.ones(len(rewards), np.float32),  # nothing is known of the exposure
        (len(ids.users), len(ids.items)),
        completion,
        low=low,
        high=high,
    )
    description = (
        "csv completed from all interactions, not debiased: " + completed.description
    )
    return completed.matrix, description


def _read_matrix(config: CsvConfig, ids: _Ids) -> np.ndarray:
    """[U, I] float32 from one row a cell."""
    path = _path(config, "full_matrix")
    table = _read_log(config, "full_matrix")
    matrix = _to_log(table, ids)
    unknown = (matrix.users < 0) | (matrix.items < 0)
    for row in np.flatnonzero(unknown)[:1]:
        raise DataError(
            f"{path}: line {_line_of(config, 'full_matrix', row)}: expected a user and "
            f"an item of {config.log}, found {table['user'][row]!r} and "
            f"{table['item'][row]!r}"
        )
    cells = matrix.users.astype(np.int64) * len(ids.items) + matrix.items
    _check_cells(config, cells, ids)
    truth = np.empty((len(ids.users), len(ids.items)), np.float32)
    truth.flat[cells] = matrix.rewards
    return truth


def _check_cells(config: CsvConfig, cells: np.ndarray, ids: _Ids) -> None:
    """Refuses cells (user * I + item) that are not each of the matrix exactly once."""
    path = _path(config, "full_matrix")
    for row in np.flatnonzero(pd.Series(cells).duplicated())[:1]:
        raise DataError(
            f"{path}: line {_line_of(config, 'full_matrix', row)}: expected every user "
            f"with every item exactly once, found {_describe_cell(ids, cells[row])} "
            "again"
        )
    if len(cells) < len(ids.users) * len(ids.items):
        gaps = np.flatnonzero(np.sort(cells) != np.arange(len(cells)))
        missing = gaps[0] if len(gaps) else len(cells)
        raise DataError(
            f"{path}: expected every user with every item exactly once, found no row "
            f"of {_describe_cell(ids, missing)}"
        )


def _describe_cell(ids: _Ids, cell: int) -> str:
    user, item = divmod(int(cell), len(ids.items))
    return f"user {ids.users[user]!r} with item {ids.items[item]!r}"


# --- features -------------------------------------------------------------------------


def _read_features(
    config: CsvConfig, side: Literal["user", "item"], ids: pd.Index
) -> _Features:
    """The features of all users or of all items, named after side and column."""
    field = f"{side}_features"
    if not getattr(config, field):
        return _Features((), np.zeros((len(ids), 0), np.bool_))
    key = getattr(config, side)
    tags = config.item_tags if side == "item" else ""
    # Asked for in any case: a column of tags that is not there is refused.
    names = dict.fromkeys([*_column_names(config, field), tags or key])
    _require_names(_path(config, field), [*names])
    columns = [frames.Column(name, "text", missing=name == tags) for name in names]
    table = _read(config, field, columns)
    table = table.iloc[_rows_of(config, field, table[key], ids)]
    features, matrix = [], np.zeros((len(ids), 0), np.bool_)
    for name in names:
        if name == tags:
            matrix = _read_tags(config, field, table[name])
            lists, num_tags = tag_lists(matrix), matrix.shape[1]
            features.append(tag_feature(f"{side}_{name}", lists, num_tags))
        elif name != key:
            features.append(_category(f"{side}_{name}", table[name]))
    return _Features(tuple(features), matrix)


def _require_names(path: Path, names: Sequence[str]) -> None:
    """Refuses a column without a name: a feature is called by that of its column."""
    if "" in names:
        raise DataError(
            f"{path}: line 1: column {names.index('') + 1} has no name; name it, or "
            "leave it out (of pandas: to_csv(..., index=False))"
        )


def _column_names(config: CsvConfig, field: str) -> list[str]:
    """All columns of a file, which may have any but must have its key."""
    key = getattr(config, field.removesuffix("_features"))
    _read(config, field, [frames.Column(key, "text")])  # refuses what is no table
    layout = _layout(config)
    separator = layout.separator  # several characters are a regular expression
    header = pd.read_csv(
        (path := _path(config, field)),
        compression="gzip" if path.suffix == ".gz" else None,  # as all others are read
        sep=separator if len(separator) == 1 else re.escape(separator),
        engine="python",
        encoding=layout.encoding,
        header=None,
        nrows=1,
        dtype="str",
        keep_default_na=False,
    )
    return [name.strip() for name in header.iloc[0]]


def _rows_of(
    config: CsvConfig, field: str, keys: pd.Series, ids: pd.Index
) -> np.ndarray:
    """[len(ids)] where in `keys`, the ids of a feature file, each id stands."""
    path = _path(config, field)
    for row in np.flatnonzero(keys.duplicated())[:1]:
        raise DataError(
            f"{path}: line {_line_of(config, field, row)}, column {keys.name!r}: "
            f"expected every id once, found {keys[row]!r} again"
        )
    rows = pd.Index(keys).get_indexer(ids)
    for position in np.flatnonzero(rows < 0)[:1]:
        raise DataError(
            f"{path}: expected a row for every {keys.name!r} of the log, found none "
            f"for {ids[position]!r}"
        )
    return rows


def _category(name: str, texts: pd.Series) -> CategoricalFeature:
    vocabulary = _sorted_distinct(texts)
    codes = _positions(vocabulary, texts)[:, None]
    return CategoricalFeature(name=name, codes=codes, size=len(vocabulary))


def _read_tags(config: CsvConfig, field: str, texts: pd.Series) -> np.ndarray:
    """[rows, C] bool from texts like "a|b", C the distinct tags, sorted."""
    tagged = texts[texts != ""].str.split("|").explode()
    for row in np.sort(tagged.index[tagged == ""])[:1]:
        raise DataError(
            f"{_path(config, field)}: line {_line_of(config, field, row)}, column "
            f"{texts.name!r}: expected tags separated by '|', found an empty one"
        )
    vocabulary = _sorted_distinct(tagged)
    matrix = np.zeros((len(texts), len(vocabulary)), np.bool_)
    rows = texts.index.get_indexer(tagged.index)
    matrix[rows, _positions(vocabulary, tagged)] = True
    return matrix
