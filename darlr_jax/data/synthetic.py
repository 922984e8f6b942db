"""A generated data set with planted structure, for everything that must run anywhere.

What is planted, and what each part makes learnable:

* Users come in clusters. A cluster likes some tags and, beyond that, some items: what
  other users of the cluster say of an item tells more than its features do.
* Items have a quality and 1 to 3 tags of very unequal popularity, as videos do.
* The log is biased: popular items and items that a user likes are seen more often.
* Users walk through the tags in order, some tags strictly like a series and others at
  random, so that the entropy of what comes next differs between items.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import NamedTuple

import numpy as np

from darlr_jax.config import SyntheticConfig
from darlr_jax.data import statistics
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.data.tags import one_hot, tag_feature

GENERATOR_VERSION = 2  # to be raised with every change of what is generated

TAG_COUNTS = (0.6, 0.3, 0.1)  # share of the items with 1, 2, 3 tags
MAX_TAGS = len(TAG_COUNTS)
MAX_CELLS = 2**28  # users x items; several arrays of 2 GiB are held at a time
TAG_SKEW = 0.8  # popularity of the n-th tag is n ** -TAG_SKEW

# The parts of the affinity of a user to an item, as standard deviations in stars.
QUALITY = 0.4  # of the item
LEVEL = 0.3  # of the user: generous or strict
TASTE = 0.6  # of the cluster, for the item's tags
CLUSTER_ITEM = 0.5  # of the cluster, for the item itself
PERSONAL = 0.3  # of the user, for the item
MEAN_STARS = 2.8

# What makes a cell more likely to be logged, as weights in the log-odds.
POPULARITY_BIAS = 1.0
LIKING_BIAS = 0.8
ACTIVITY = 0.5  # standard deviation over users

LABEL_NOISE = 0.5  # stars, before rounding
GROUP_NOISE = 0.5  # share of users whose group says nothing of their cluster
LIKED = 4  # labels from here on count for the majority tags
WANDER = (0.002, 0.5)  # least and most disorder of a tag, in turns of the whole walk
MEAN_PAUSE = 600.0  # seconds between two interactions of a user
FIRST_DAY = 1_600_000_000  # Unix time


class _Items(NamedTuple):
    """What an item is, whoever looks at it."""

    tags: np.ndarray  # [I, MAX_TAGS] int, -1 where there is none
    has_tag: np.ndarray  # [I, C] bool
    duration: np.ndarray  # [I] standardised
    quality: np.ndarray  # [I] standard deviation 1
    popularity: np.ndarray  # [I]
    place: np.ndarray  # [I] in [0, 1), where on the walk through the tags
    wander: np.ndarray  # [I] how freely users depart from that


def generate(config: SyntheticConfig) -> Dataset:
    """Generates the data set `synthetic`; the same `config` gives the same arrays.

    Args:
      config: sizes, `log_density` (the share of cells that are logged) and seed.

    Returns:
      Ratings 1..5; all users and items belong to the environment.

    Raises:
      DataError: the sizes leave nothing to log or to hold out, or clusters empty.
    """
    num_logged, num_held_out = _num_rows(config)
    rng = np.random.default_rng(config.seed)
    items = _draw_items(rng, config)
    clusters = rng.permutation(np.arange(config.num_users) % config.num_clusters)
    affinity = _draw_affinity(rng, items, clusters, config)
    true_reward = _to_stars(affinity + MEAN_STARS)
    exposed, unseen = _draw_cells(rng, items, affinity, num_logged, num_held_out)
    log = _draw_log(rng, items, exposed, true_reward)
    liked = log.items[log.labels >= LIKED]
    return Dataset(
        name="synthetic",
        log=log,
        held_out=_rate(unseen, true_reward),
        num_logged_users=config.num_users,
        num_logged_items=config.num_items,
        user_features=(_draw_group(rng, clusters, config.num_clusters),),
        item_features=(tag_feature("tags", items.tags, config.num_tags),),
        item_dense=items.duration[:, None].astype(np.float32),
        environment_users=np.arange(config.num_users, dtype=np.int32),
        environment_items=np.arange(config.num_items, dtype=np.int32),
        true_reward=true_reward,
        item_tags=items.has_tag,
        dominated=statistics.dominated_items(items.has_tag, liked)[None],
        dominated_names=("tags",),
        ground_truth="synthetic: every rating as generated, without noise",
        sources={"synthetic": _fingerprint(config)},
    )


def _num_rows(config: SyntheticConfig) -> tuple[int, int]:
    """The rows of the log and, about a third as many, of the held-out part."""
    if config.num_clusters > config.num_users:
        raise DataError(
            f"dataset.synthetic.num_clusters={config.num_clusters}: must not exceed "
            f"dataset.synthetic.num_users={config.num_users}"
        )
    cells = config.num_users * config.num_items
    if cells > MAX_CELLS:
        raise DataError(
            f"dataset.synthetic.num_users={config.num_users}: with num_items="
            f"{config.num_items} they are {cells} cells, at most {MAX_CELLS} are "
            "generated"
        )
    logged = round(config.log_density * cells)
    if not 1 <= logged < cells:
        raise DataError(
            f"dataset.synthetic.log_density={config.log_density:g}: logs {logged} of "
            f"the {cells} cells; at least one must be logged and one left to hold out"
        )
    return logged, min(max(1, logged // 3), cells - logged)


def _fingerprint(config: SyntheticConfig) -> str:
    """The sha256 of all that decides what is generated."""
    recipe = {"version": GENERATOR_VERSION, **dataclasses.asdict(config)}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _draw_items(rng: np.random.Generator, config: SyntheticConfig) -> _Items:
    tags = _draw_tags(rng, config.num_items, config.num_tags)
    has_tag = one_hot(tags, config.num_tags)
    duration = rng.lognormal(size=config.num_items)
    quality = _standardise(rng.normal(size=config.num_items))
    # Items of one main tag follow each other; their order within it is arbitrary.
    walk = np.lexsort((rng.random(config.num_items), tags[:, 0]))
    least, most = np.log(WANDER)
    wander = np.exp(rng.uniform(least, most, size=config.num_tags))
    return _Items(
        tags=tags,
        has_tag=has_tag,
        duration=_standardise(duration),
        quality=quality,
        popularity=0.5 * quality + rng.normal(size=config.num_items),
        place=np.argsort(walk) / config.num_items,
        wander=wander[tags[:, 0]],
    )


def _draw_tags(rng: np.random.Generator, num_items: int, num_tags: int) -> np.ndarray:
    """[I, MAX_TAGS] distinct tags of each item, the main one first; -1 for none."""
    popularity = -TAG_SKEW * np.log(np.arange(1, num_tags + 1))
    # The largest of perturbed log-weights are a draw without replacement.
    order = np.argsort(-popularity - rng.gumbel(size=(num_items, num_tags)), axis=1)
    tags = np.full((num_items, MAX_TAGS), -1)
    tags[:, :num_tags] = order[:, :MAX_TAGS]
    count = 1 + rng.choice(MAX_TAGS, size=(num_items, 1), p=TAG_COUNTS)
    return np.where(np.arange(MAX_TAGS) < count, tags, -1)


def _draw_affinity(
    rng: np.random.Generator,
    items: _Items,
    clusters: np.ndarray,
    config: SyntheticConfig,
) -> np.ndarray:
    """[U, I] how much a user likes an item, in stars around the average."""
    share = items.has_tag / np.sqrt(items.has_tag.sum(axis=1, keepdims=True))
    taste = rng.normal(size=(config.num_clusters, config.num_tags)) @ share.T
    cluster_item = rng.normal(size=(config.num_clusters, config.num_items))
    level = rng.normal(size=(config.num_users, 1))
    personal = rng.normal(size=(config.num_users, config.num_items))
    return (
        QUALITY * items.quality
        + LEVEL * level
        + (TASTE * taste + CLUSTER_ITEM * cluster_item)[clusters]
        + PERSONAL * personal
    )


def _draw_cells(
    rng: np.random.Generator,
    items: _Items,
    affinity: np.ndarray,
    num_logged: int,
    num_held_out: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cells (user * I + item, sorted) of the biased log, and uniform ones beside it."""
    activity = rng.normal(scale=ACTIVITY, size=(len(affinity), 1))
    odds = activity + POPULARITY_BIAS * items.popularity + LIKING_BIAS * affinity
    # As in `_draw_tags`: draws without replacement, here over all cells at once.
    odds += rng.gumbel(size=odds.shape)
    # Both parts are sorted: their order differs from processor to processor.
    order = np.argpartition(-odds.ravel(), num_logged)
    logged, others = np.sort(order[:num_logged]), np.sort(order[num_logged:])
    return logged, np.sort(rng.choice(others, num_held_out, replace=False))


def _draw_log(
    rng: np.random.Generator,
    items: _Items,
    cells: np.ndarray,
    true_reward: np.ndarray,
) -> InteractionLog:
    """The ratings of `cells`, with noise, sorted by user and time."""
    num_users, num_items = true_reward.shape
    users, seen = np.divmod(cells, num_items)
    start = rng.random((num_users,))[users]
    order = (items.place[seen] - start) % 1.0
    order += items.wander[seen] * rng.normal(size=len(cells))
    rated = _rate(cells[np.lexsort((order, users))], true_reward)
    noise = rng.normal(scale=LABEL_NOISE, size=len(cells))
    stars = _to_stars(rated.labels + noise)
    return dataclasses.replace(
        rated,
        labels=stars,
        rewards=stars,
        times=_draw_times(rng, rated.users),
    )


def _draw_times(rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
    """[N] int64 seconds, rising with every row of a user; `users` is sorted."""
    clock = np.cumsum(1 + rng.exponential(MEAN_PAUSE, len(users)).astype(np.int64))
    distinct, first = np.unique(users, return_index=True)
    arrival = rng.integers(0, 7 * 24 * 3600, size=len(distinct))
    start = arrival - clock[first]
    return FIRST_DAY + clock + np.repeat(start, np.diff(first, append=len(users)))


def _rate(cells: np.ndarray, true_reward: np.ndarray) -> InteractionLog:
    """The true ratings of `cells`, in their order."""
    users, items = np.divmod(cells, true_reward.shape[1])
    return InteractionLog(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        labels=true_reward[users, items],
        rewards=true_reward[users, items],
        times=None,
    )


def _draw_group(
    rng: np.random.Generator, clusters: np.ndarray, num_clusters: int
) -> CategoricalFeature:
    """A hint at the cluster: right for some users, drawn at random for the others."""
    group = rng.integers(0, num_clusters, size=len(clusters))
    group = np.where(rng.random(len(clusters)) < GROUP_NOISE, group, clusters)
    codes = group[:, None].astype(np.int32)
    return CategoricalFeature(name="group", codes=codes, size=num_clusters)


def _to_stars(values: np.ndarray) -> np.ndarray:
    """The nearest ratings of 1 to 5."""
    return np.clip(np.rint(values), 1.0, 5.0).astype(np.float32)


def _standardise(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
