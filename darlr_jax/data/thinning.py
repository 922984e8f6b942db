"""Less of the training log, everything else as it was: how sparse feedback may be.

What is fitted and asked before policies are trained comes from the thinned log: the
world model, logged feedback vectors, entropy, popularity and activity. The held-out
log, the test matrix and the categories of majority stay those of the whole data set, so
that scores at different densities are paid by the same matrix.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from darlr_jax.config import ThinningConfig
from darlr_jax.data import logs
from darlr_jax.data.dataset import Dataset, InteractionLog


def thin(dataset: Dataset, config: ThinningConfig) -> Dataset:
    """`dataset` with a share of its training log, drawn by `config.seed`.

    "rows" keeps a share of the interactions, whoever they are of (density). "users"
    keeps all interactions of a share of the logged users and none of the others', who
    stay in the environment as users of whom nothing is known (sparsity; our reading of
    a world without similar users). Of two shares of one seed the smaller is a part of
    the larger. At least one row, or user, stays.
    """
    if config.share == 1.0:
        return dataset
    kept = _KEPT[config.unit](dataset.log, config)
    # Data of another share are other data: world models are kept by these digests.
    recipe = repr(sorted(dataclasses.asdict(config).items())).encode()
    sources = dataset.sources | {"thinning": hashlib.sha256(recipe).hexdigest()}
    log = logs.select(dataset.log, kept)
    return dataclasses.replace(dataset, log=log, sources=sources)


def _rows_kept(log: InteractionLog, config: ThinningConfig) -> np.ndarray:
    return _draw(len(log), config)


def _users_kept(log: InteractionLog, config: ThinningConfig) -> np.ndarray:
    users, user_of_row = np.unique(log.users, return_inverse=True)
    return _draw(len(users), config)[user_of_row]


def _draw(size: int, config: ThinningConfig) -> np.ndarray:
    """Which of `size` things stay, `[size]` bool."""
    rank = np.random.default_rng(config.seed).permutation(size)
    return rank < max(1, round(config.share * size))


_KEPT = {"rows": _rows_kept, "users": _users_kept}
