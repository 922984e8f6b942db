"""What is planted in a twin: who likes what, and sees it when.

No users x items table is held: affinities are evaluated at the cells that are drawn,
block by block of users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from darlr_jax.data import synthetic

BLOCK_USERS = 256  # drawn and written at a time
CLUSTERS = 12
FACTORS = 4  # of the personal taste
ACTIVITY = 0.8  # standard deviation of the log of the rows a user


class World(NamedTuple):
    """Who likes what, and sees it when; K clusters, R factors."""

    cluster: np.ndarray  # [U] int
    level: np.ndarray  # [U] generous or strict
    factors: np.ndarray  # [U, R] float32
    start: np.ndarray  # [U] in [0, 1), where on the walk a user begins
    appeal: np.ndarray  # [I, R] float32
    liking: np.ndarray  # [K, I] float32, of a cluster for an item
    exposure: np.ndarray  # [K, I] float32 > 0, how often a cluster is shown an item
    place: np.ndarray  # [I] in [0, 1), where on the walk an item is
    wander: np.ndarray  # [I] how freely users depart from that
    owner: np.ndarray  # [I] int, the user who is certain to see an item


def draw_world(rng: np.random.Generator, users: int, tags: np.ndarray) -> World:
    """The world of `users` users and items with these tags, -1 where there is none."""
    items = len(tags)
    quality = rng.normal(size=items)
    liking = _draw_liking(rng, quality, tags)
    popularity = 0.5 * quality + rng.normal(size=items)
    bias = synthetic.POPULARITY_BIAS * popularity + synthetic.LIKING_BIAS * liking
    walk = np.lexsort((rng.random(items), tags[:, 0]))  # one main tag after another
    least, most = np.log(synthetic.WANDER)
    wander = np.exp(rng.uniform(least, most, size=tags.max() + 2))  # -1 is the last
    personal = math.sqrt(synthetic.PERSONAL / math.sqrt(FACTORS))
    return World(
        cluster=rng.permutation(np.arange(users) % CLUSTERS),
        level=rng.normal(scale=synthetic.LEVEL, size=users),
        factors=rng.normal(scale=personal, size=(users, FACTORS)).astype(np.float32),
        start=rng.random(users),
        appeal=rng.normal(scale=personal, size=(items, FACTORS)).astype(np.float32),
        liking=liking,
        exposure=np.exp(bias).astype(np.float32),
        place=np.argsort(walk) / items,
        wander=wander[tags[:, 0]],
        owner=rng.permutation(items) % users,
    )


def _draw_liking(
    rng: np.random.Generator, quality: np.ndarray, tags: np.ndarray
) -> np.ndarray:
    """[K, I] float32, how much a cluster likes items for their quality and tags."""
    has_tag = (tags[:, :, None] == np.arange(tags.max() + 1)).any(axis=1)
    share = has_tag / np.sqrt(np.maximum(1, has_tag.sum(axis=1, keepdims=True)))
    taste = rng.normal(size=(CLUSTERS, share.shape[1])) @ share.T
    own = rng.normal(size=(CLUSTERS, len(tags)))
    liking = (
        synthetic.QUALITY * quality
        + synthetic.TASTE * taste
        + synthetic.CLUSTER_ITEM * own
    )
    return liking.astype(np.float32)


def affinity(world: World, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[N] float64, how much users like items: about 0, standard deviation about 1."""
    personal = np.einsum("nr,nr->n", world.factors[users], world.appeal[items])
    return world.level[users] + world.liking[world.cluster[users], items] + personal


def draw_categories(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """[rows] categories of very unequal frequency, the most frequent first."""
    popularity = np.arange(1, size + 1) ** -synthetic.TAG_SKEW
    return rng.choice(size, rows, p=popularity / popularity.sum())


def draw_tags(
    rng: np.random.Generator, items: int, num_tags: int, shares: tuple[float, ...]
) -> np.ndarray:
    """[items, len(shares)] distinct tags; `shares` of the items have 1, 2, ... tags."""
    popularity = -synthetic.TAG_SKEW * np.log(np.arange(1, num_tags + 1))
    # The largest of perturbed log-weights are a draw without replacement.
    order = np.argsort(-popularity - rng.gumbel(size=(items, num_tags)), axis=1)
    count = 1 + rng.choice(len(shares), size=(items, 1), p=shares)
    return np.where(np.arange(len(shares)) < count, order[:, : len(shares)], -1)


def draw_counts(
    rng: np.random.Generator, total: int, most: np.ndarray, least: int = 0
) -> np.ndarray:
    """[U] rows of each user: `least` to `most` [U], `total` in all."""
    activity = rng.lognormal(sigma=ACTIVITY, size=len(most))
    counts = np.full(len(most), least)
    while missing := total - counts.sum():
        share = activity * (counts < most)
        more = rng.multinomial(missing, share / share.sum())
        counts = np.minimum(counts + more, most)
    return counts


def draw_cells(
    rng: np.random.Generator,
    counts: np.ndarray,
    weigh: Callable[[np.ndarray], np.ndarray],
    repeated: float = 0.0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws `counts` [U] items a user, without replacement.

    Args:
      rng: the generator.
      counts: rows a user.
      weigh: consecutive users [b] -> [b, I] float32 weights of their items: 0 for
        never, inf for certain.
      repeated: share of a user's rows that repeat another of hers, that of the items
        that were first to be drawn.

    Yields:
      users and items of a block, sorted by user.
    """
    for start in range(0, len(counts), BLOCK_USERS):
        users = np.arange(start, min(start + BLOCK_USERS, len(counts)))
        if not counts[users].any():
            continue
        weights = weigh(users)
        # Exponential arrival times: the first to arrive are a draw by weight.
        arrival = rng.standard_exponential(weights.shape, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            arrival /= weights
        drawn = [
            _first(times, count, int(repeated * count))
            for times, count in zip(arrival, counts[users], strict=True)
        ]
        yield np.repeat(users, counts[users]), np.concatenate(drawn)


def _first(arrival: np.ndarray, count: int, repeats: int) -> np.ndarray:
    """[count] positions of the smallest, the `repeats` smallest of them twice."""
    if not count:
        return np.zeros(0, np.intp)
    # Sorted, as the order of a part differs from processor to processor.
    first = np.argpartition(arrival, count - repeats - 1)[: count - repeats]
    first = np.sort(first)
    again = np.argsort(arrival[first], kind="stable")[:repeats]
    return np.concatenate([first, first[again]])


def prefer(world: World, users: np.ndarray) -> np.ndarray:
    """[b, I] weights of a biased log in which every item occurs."""
    weights = world.exposure[world.cluster[users]]
    owned = np.flatnonzero(np.isin(world.owner, users))
    weights[world.owner[owned] - users[0], owned] = np.inf
    return weights


def uniform(items: int) -> Callable[[np.ndarray], np.ndarray]:
    """The `weigh` of `draw_cells` for exposure at random."""
    return lambda users: np.ones((len(users), items), np.float32)


class Period(NamedTuple):
    """When something was logged, in Unix milliseconds."""

    start: int
    length: int


def walk(
    rng: np.random.Generator,
    world: World,
    users: np.ndarray,
    items: np.ndarray,
    period: Period,
) -> tuple[np.ndarray, np.ndarray]:
    """The items of sorted `users` in the order of the walk, and their rising times."""
    turn = (world.place[items] - world.start[users]) % 1.0
    turn += world.wander[items] * rng.normal(size=len(items))
    order = np.lexsort((turn, users))
    moment = np.sort(users + rng.random(len(users))) - users
    return items[order], period.start + (moment * period.length).astype(np.int64)


def stars(rng: np.random.Generator, affinity: np.ndarray, mean: float) -> np.ndarray:
    """Noisy ratings of 1 to 5."""
    noise = rng.normal(scale=synthetic.LABEL_NOISE, size=affinity.shape)
    return np.clip(np.rint(mean + affinity + noise), 1, 5).astype(np.int64)


def draw_subset(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """[size] bool, `count` of them True."""
    return rng.permutation(size) < count


class Videos(NamedTuple):
    """A world of videos, and how long they are."""

    world: World
    duration: np.ndarray  # [I] int64 milliseconds
