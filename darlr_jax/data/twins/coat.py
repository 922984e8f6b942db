"""The twin of Coat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darlr_jax.data import coat, synthetic
from darlr_jax.data.twins import planted
from darlr_jax.data.twins.sizes import Sizes

_MEAN = 2.2


def write(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    """Text files of 290 x 300 ratings, true ratings and one-hot features."""
    blocks = {
        name: planted.draw_categories(rng, size.items, width)
        for name, width in coat.ITEM_BLOCKS.items()
    }
    world = planted.draw_world(rng, size.users, blocks["jackettype"][:, None])
    users, items = np.indices((size.users, size.items)).reshape(2, -1)
    affinity = planted.affinity(world, users, items).reshape(size.users, size.items)
    truth = np.clip(np.rint(_MEAN + affinity), 1, 5).astype(np.int64)
    rated = planted.stars(rng, affinity, _MEAN)
    liked = world.exposure[world.cluster]
    train = _draw_mask(rng, liked, size.log_rows // size.users)
    test = _draw_mask(rng, 1.0 - train, size.test_rows // size.users)
    (folder / coat.USER_FEATURES).parent.mkdir()
    for name, matrix in (
        (coat.TRAIN, rated * train),
        (coat.TEST, rated * test),
        (coat.TRUTH, truth),
        (coat.USER_FEATURES, _one_hot(_draw_shoppers(rng, world), coat.USER_BLOCKS)),
        (coat.ITEM_FEATURES, _one_hot(blocks, coat.ITEM_BLOCKS)),
    ):
        np.savetxt(folder / name, matrix, fmt="%d")


def _draw_mask(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """[U, I] bool, `count` True a user, drawn by weight."""
    mask = np.zeros(weights.shape, bool)
    counts = np.full(len(weights), count)
    for users, items in planted.draw_cells(rng, counts, lambda users: weights[users]):
        mask[users, items] = True
    return mask


def _draw_shoppers(
    rng: np.random.Generator, world: planted.World
) -> dict[str, np.ndarray]:
    """Features of users; one of them tells half of the users' clusters, in part."""
    users = len(world.cluster)
    blocks = {
        name: planted.draw_categories(rng, users, width)
        for name, width in coat.USER_BLOCKS.items()
    }
    hint = world.cluster % coat.USER_BLOCKS["fashioninterest"]
    told = rng.random(users) >= synthetic.GROUP_NOISE
    blocks["fashioninterest"] = np.where(told, hint, blocks["fashioninterest"])
    return blocks


def _one_hot(blocks: dict[str, np.ndarray], widths: dict[str, int]) -> np.ndarray:
    return np.concatenate(
        [np.eye(width)[blocks[name]] for name, width in widths.items()], axis=1
    )
