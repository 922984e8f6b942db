"""What is computed from the data before anything is learned.

Entropy of what users did next, majority categories, distances of items, feedback
vectors and similarity of users. All of it is NumPy on the host, and runs once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from darlr_jax.data import logs
from darlr_jax.data.dataset import DataError, Dataset, InteractionLog
from darlr_jax.types import EntropyTables

_NO_PAIR = np.iinfo(np.int32).max  # no pair of actions has this code
_NO_PAIRS = (np.empty(0, np.int32), np.empty(0, np.float32))
_LEAST_PAIRS = 1024  # places of the shortest table


# --- k-order entropy ------------------------------------------------------------------


def entropy_tables(
    log: InteractionLog,
    environment_items: np.ndarray,
    num_logged_items: int,
    orders: Collection[int],
) -> EntropyTables:
    """Normalised entropy of the next item, given the last one or two (protocol 3.3).

    Keys are counted over all logged items; the tables list those whose items are all
    actions. A key that the log never continues has entropy 1, and so has a pair that is
    not listed, which is why pairs of entropy 1 are left out.

    Args:
      log: what the world model is fitted to.
      environment_items: [I] logged ids of the actions.
      num_logged_items: Y.
      orders: those in use, of 1 and 2; the table of any other is all zeros (`single`)
        or empty (pairs) and counts nothing towards the bounds.

    Returns:
      The tables as NumPy arrays. `pair_codes` and `pair_entropy` are filled up to a
      size that depends little on the log, with codes that no pair has: a program that
      is compiled for a log serves others, as a thinner one.

    Raises:
      DataError: there are so many actions that the code of a pair overflows.
    """
    users, items = _in_time_order(log)
    actions = logs.positions(environment_items, num_logged_items)
    single = np.zeros(len(environment_items), np.float32)
    pair_codes, pair_entropy = _NO_PAIRS
    low = 0.0
    for order in orders:
        keys, entropy = _next_item_entropy(users, items, num_logged_items, order)
        low += entropy.min(initial=1.0)
        if order == 1:
            single = _single_table(actions[keys[0]], entropy, len(single))
        else:
            pair_codes, pair_entropy = _pair_table(actions[keys], entropy, len(single))
    # Unseen keys have entropy 1 and no key has more.
    bounds = np.array([low, len(orders)], np.float32)
    pairs = _padded(pair_codes, _NO_PAIR), _padded(pair_entropy, 1)
    # The record is typed for the device, which is where its arrays go next.
    tables: tuple[Any, ...] = (single, *pairs, bounds[0], bounds[1])
    return EntropyTables(*tables)


def _single_table(
    actions: np.ndarray, entropy: np.ndarray, num_items: int
) -> np.ndarray:
    """[I] float32 from actions [P], -1 for an item that is none, and entropy [P]."""
    table = np.ones(num_items, np.float32)
    known = actions >= 0
    table[actions[known]] = entropy[known]
    return table


def _pair_table(
    actions: np.ndarray, entropy: np.ndarray, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted pair codes and their entropy; arguments as of `_single_table`, [2, P]."""
    if num_items**2 > _NO_PAIR:
        raise DataError(
            f"{num_items} actions: with more than {int(_NO_PAIR**0.5)}, pairs have no "
            "32-bit code; leave order 2 out of reward.entropy_orders"
        )
    listed = (actions >= 0).all(axis=0) & (entropy < 1.0)
    # Sorted again, as the order of the actions need not be that of the logged ids.
    first, second = np.sort(actions[:, listed], axis=0)
    codes = first * num_items + second
    rank = np.argsort(codes)
    return codes[rank].astype(np.int32), entropy[listed][rank]


def _padded(table: np.ndarray, fill: float) -> np.ndarray:
    """The table with `fill` behind it: `_LEAST_PAIRS`, or the next power of two."""
    size = max(_LEAST_PAIRS, 1 << max(len(table) - 1, 0).bit_length())
    return np.pad(table, (0, size - len(table)), constant_values=fill)


def _in_time_order(log: InteractionLog) -> tuple[np.ndarray, np.ndarray]:
    """Users and items sorted by user, then time, else (stably) source order."""
    if log.times is None:
        order = np.argsort(log.users, kind="stable")
    else:
        order = np.lexsort((log.times, log.users))
    return log.users[order], log.items[order].astype(np.int64)


def _next_item_entropy(
    users: np.ndarray, items: np.ndarray, num_items: int, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Entropy of the next item for every key of `order` items that the log continues.

    H(key) = -sum p log2 p / log2(number of distinct next items), and 1 where there is
    only one of them; a key is a window of a user's items with their order forgotten.

    Args:
      users: [N] sorted.
      items: [N] int64, each user's in order of time.
      num_items: the items are in [0, num_items).
      order: the length of the window.

    Returns:
      keys [order, P], each column sorted, and their entropy [P] float32 in (0, 1].
    """
    same_user = users[order:] == users[:-order]
    windows = np.stack([items[k : len(items) - order + k] for k in range(order)])
    windows = np.sort(windows[:, same_user], axis=0)
    shape = (num_items,) * (order + 1)
    # One integer a transition: those of one key become neighbours when sorted.
    codes = np.ravel_multi_index((*windows, items[order:][same_user]), shape)
    codes, counts = np.unique(codes, return_counts=True)
    keys = codes // num_items
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    distinct = np.diff(starts, append=len(codes))
    probability = counts / np.repeat(np.add.reduceat(counts, starts), distinct)
    bits = -np.add.reduceat(probability * np.log2(probability), starts)
    entropy = np.ones(len(starts))
    np.divide(bits, np.log2(distinct), out=entropy, where=distinct > 1)
    keys = np.stack(np.unravel_index(keys[starts], shape[:-1]))
    return keys, entropy.astype(np.float32)


# --- majority categories --------------------------------------------------------------


def dominated_categories(counts: np.ndarray, top_rate: float = 0.8) -> np.ndarray:
    """The categories that make up the majority of what was counted (protocol 1.7).

    Args:
      counts: [C] occurrences of each category.
      top_rate: the share that the set may reach.

    Returns:
      Ids by falling count (ties: lower id first) as long as their cumulative share is
      at most `top_rate`, but at least one; none where nothing was counted.
    """
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    share = np.cumsum(counts[order]) / max(counts.sum(), 1)
    return order[: max(1, np.count_nonzero(share <= top_rate))]


def dominated_items(categories: np.ndarray, logged_items: np.ndarray) -> np.ndarray:
    """The items with at least one majority category (protocol 1.7).

    Args:
      categories: [Y, C] bool, the categories of each item.
      logged_items: [n] the item of every training row that counts; a row counts once
        for each category of its item.

    Returns:
      [Y] bool.
    """
    rows = np.bincount(logged_items, minlength=len(categories))
    majority = dominated_categories(rows @ categories)
    return np.any(categories[:, majority], axis=1)


def distinct(values: np.ndarray) -> np.ndarray:
    """The sorted distinct values; many times as fast as `np.unique` for millions."""
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]


# --- items ----------------------------------------------------------------------------


def item_distances(true_reward: np.ndarray) -> np.ndarray:
    """Euclidean distances between the columns of the true matrix (protocol 3.4).

    Exact up to the final rounding for whole-numbered rewards.

    Args:
      true_reward: [U, I].

    Returns:
      [I, I] float32, symmetrical, 0 on the diagonal.
    """
    columns = true_reward.astype(np.float64)
    gram = columns.T @ columns
    norms = np.diag(gram)
    squares = norms[:, None] + norms[None, :] - (gram + gram.T)
    np.fill_diagonal(squares, 0.0)
    # The expansion of |a - b|^2 cancels, so nearly equal columns can fall below 0.
    return np.sqrt(np.maximum(squares, 0.0)).astype(np.float32)


def item_popularity(dataset: Dataset) -> np.ndarray:
    """The share of logged users who met each action: (n + 1) / (X + 1) (ours).

    Repeats of one user count once; the ones keep items that nobody met above 0.

    Returns:
      [I] float32.
    """
    log, width = dataset.log, dataset.num_logged_items
    cells = distinct(log.users.astype(np.int64) * width + log.items)
    met = np.bincount(cells % width, minlength=width)[dataset.environment_items]
    return ((met + 1) / (dataset.num_logged_users + 1)).astype(np.float32)


# --- users ----------------------------------------------------------------------------


def activity_groups(dataset: Dataset, count: int) -> np.ndarray:
    """Environment users in `count` groups of equal size, by their logged rows.

    Returns:
      [U] int32, 0 for those with the fewest; ties by lower id.
    """
    rows = np.bincount(dataset.log.users, minlength=dataset.num_logged_users)
    order = np.argsort(rows[dataset.environment_users], kind="stable")
    groups = np.empty(dataset.num_users, np.int32)
    groups[order] = np.arange(dataset.num_users) * count // dataset.num_users
    return groups


def logged_feedback(dataset: Dataset) -> np.ndarray:
    """The environment users' rows of the logged matrix.

    Repeated (user, item) rows are summed and missing ones are 0, as in the published
    sparse matrices (protocol 1.3).

    Returns:
      [U, Y] float32.
    """
    items = np.arange(dataset.num_logged_items)
    return _logged_rewards(dataset, dataset.environment_users, items)


def _logged_rewards(
    dataset: Dataset, users: np.ndarray, items: np.ndarray
) -> np.ndarray:
    """[users, items] float32: summed logged rewards of these users and items."""
    log = dataset.log
    rows = logs.positions(users, dataset.num_logged_users)[log.users]
    columns = logs.positions(items, dataset.num_logged_items)[log.items]
    known = (rows >= 0) & (columns >= 0)
    matrix = np.zeros(len(users) * len(items), np.float32)
    cells = rows[known] * len(items) + columns[known]
    np.add.at(matrix, cells, log.rewards[known])
    return matrix.reshape(len(users), len(items))


def user_similarity(
    signatures: np.ndarray, k: int, block_rows: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all pairs of users, and the k most similar others of each.

    Args:
      signatures: [U, F]; a row of zeros has cosine 0 with everybody.
      k: neighbours a user.
      block_rows: users compared at a time; bounds the memory and changes nothing else.

    Returns:
      similarity [U, U] float32, symmetrical, and neighbours [U, k] int32 as those of
      `nearest_users` without the user herself; in one pass.
    """
    num_users = len(signatures)
    similarity = np.empty((num_users, num_users), np.float32)
    neighbours = np.empty((num_users, k), np.int32)
    for rows, block in _cosine_blocks(signatures, signatures, block_rows):
        similarity[rows] = block
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = -np.inf
        neighbours[rows] = _top(block, k)
    # A sum of products can depend on its place in a block, by a last digit.
    for start in range(0, num_users, block_rows):
        rows, rest = slice(start, start + block_rows), slice(start, None)
        larger = np.maximum(similarity[rows, rest], similarity[rest, rows].T)
        similarity[rows, rest], similarity[rest, rows] = larger, larger.T
    return similarity, neighbours


def nearest_users(
    signatures: np.ndarray,
    k: int,
    include_self: bool,
    block_rows: int = 1024,
    of: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar users of every user, by cosine (protocol 7).

    Args:
      signatures: [U, F].
      k: neighbours a user.
      include_self: whether a user is her own first neighbour, with cosine 1 (also where
        her row is zero), or none of her neighbours.
      block_rows: users compared at a time; bounds the memory and changes nothing else.
      of: the users `[Q]` whose neighbours are asked for; all where None, Q = U.

    Returns:
      users [Q, k] int32 and cosines [Q, k] float32, most similar first, ties by lower
      id.

    Raises:
      DataError: there are fewer than k neighbours to be had.
    """
    num_users = len(signatures)
    queries = signatures if of is None else signatures[of]
    own = np.arange(num_users) if of is None else of
    available = num_users if include_self else num_users - 1
    if not 1 <= k <= available:
        raise DataError(
            f"{k} nearest users: must be within [1, {available}], as there are "
            f"{num_users} users" + ("" if include_self else " and none is her own")
        )
    users = np.empty((len(queries), k), np.int32)
    cosines = np.empty((len(queries), k), np.float32)
    for rows, block in _cosine_blocks(queries, signatures, block_rows):
        block[np.arange(len(block)), own[rows]] = np.inf if include_self else -np.inf
        users[rows] = _top(block, k)
        cosines[rows] = np.take_along_axis(block, users[rows], axis=1)
    if include_self:
        cosines[:, 0] = 1.0
    return users, cosines


class Outsiders(NamedTuple):
    """Logged users who are not in the environment, as ROLeR uses them on KuaiRec."""

    nearest: np.ndarray  # [U, k] int32 rows of `feedback`, most similar first
    feedback: np.ndarray  # [V, I] float32, their logged rewards of the actions


def nearest_outsiders(dataset: Dataset, k: int, block_rows: int = 1024) -> Outsiders:
    """The k outsiders most similar to each environment user (protocol 7, KuaiRec).

    Compared are the logged rewards of the items that are no actions; what the outsiders
    say of the actions is then known of them alone.

    Raises:
      DataError: there are fewer than k outsiders, or every logged item is an action.
    """
    outside = np.ones(dataset.num_logged_users, bool)
    outside[dataset.environment_users] = False
    others = np.ones(dataset.num_logged_items, bool)
    others[dataset.environment_items] = False
    users, items = np.flatnonzero(outside), np.flatnonzero(others)
    if len(users) < k or not len(items):
        raise DataError(
            f"{k} neighbours in the log: {dataset.name} has {len(users)} logged users "
            f"and {len(items)} logged items beyond those of the environment; set "
            "reward.neighbour_source=prediction"
        )
    queries = _logged_rewards(dataset, dataset.environment_users, items)
    candidates = _logged_rewards(dataset, users, items)
    nearest = np.empty((dataset.num_users, k), np.int32)
    for rows, block in _cosine_blocks(queries, candidates, block_rows):
        nearest[rows] = _top(block, k)
    feedback = _logged_rewards(dataset, users, dataset.environment_items)
    return Outsiders(nearest, feedback)


def _cosine_blocks(
    queries: np.ndarray, candidates: np.ndarray, block_rows: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the cosine matrix, block by block: (which, [b, candidates] float64)."""
    unit = _unit_rows(candidates)
    rows_of = unit if queries is candidates else _unit_rows(queries)
    for start in range(0, len(rows_of), block_rows):
        rows = slice(start, min(start + block_rows, len(rows_of)))
        # Without the last digits, equal users tie however their products are summed.
        yield rows, np.clip(rows_of[rows] @ unit.T, -1.0, 1.0).round(12)


def _unit_rows(signatures: np.ndarray) -> np.ndarray:
    # Double precision: rows of predictions are so close to parallel that single
    # precision would order them by its rounding errors.
    unit = signatures.astype(np.float64)
    # Unlike `np.linalg.norm`, without a table of the squares.
    norms = np.sqrt(np.einsum("uf,uf->u", unit, unit))[:, None]
    return np.divide(unit, norms, out=unit, where=norms > 0)


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """[b, k] columns of the k largest of each row, largest first, ties by position."""
    smallest = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, equal = scores > smallest, scores == smallest
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    falling = -np.take_along_axis(scores, columns, axis=1)
    return np.take_along_axis(columns, np.argsort(falling, kind="stable"), axis=1)
