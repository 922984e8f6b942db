"""Users in groups of equal size whose feedback is alike (ours).

For picks in two steps (`selector.pool=clusters`). Keys are linear in the feedback, so
users whose rows are close have keys that are close, and their mean says what they are.
"""

from __future__ import annotations

import numpy as np

from darlr_jax.types import EMPTY, Clusters

_RANK = 32  # principal directions that the groups are told apart by
_PASSES = 4  # over the data, to find them
_BLOCK_ROWS = 1024  # of the data that are centred at a time; bounds the memory


def balanced_clusters(vectors: np.ndarray, size: int) -> Clusters:
    """Groups of `size` rows: halved along the direction of the largest variance.

    Halves are of whole groups and are halved in turn. No chance is involved beyond a
    fixed seed: the same vectors have the same groups.

    Args:
      vectors: `[U, F]`.
      size: rows a group, S; the last has what is left over.

    Returns:
      The partition in G = U / S groups, rounded up; in each, rows rise.
    """
    num_users = len(vectors)
    order = _alike_side_by_side(
        _principal_coordinates(vectors), np.arange(num_users), size
    )
    members = np.full(-(-num_users // size) * size, EMPTY, np.int32)
    members[:num_users] = order
    slot = np.empty(num_users, np.int32)
    slot[order] = np.arange(num_users)
    return Clusters(members.reshape(-1, size), slot)


def _alike_side_by_side(points: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """`rows`, rising, ordered so that each `size` of them are a group."""
    if len(rows) <= size:
        return rows
    half = -(-len(rows) // size) // 2 * size
    centred = points[rows] - points[rows].mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    # Either sign is an eigenvector, and which is found depends on the library.
    direction *= np.sign(direction[np.argmax(np.abs(direction))])
    order = np.argsort(centred @ direction, kind="stable")
    halves = np.sort(rows[order[:half]]), np.sort(rows[order[half:]])
    return np.concatenate([_alike_side_by_side(points, h, size) for h in halves])


def _principal_coordinates(vectors: np.ndarray) -> np.ndarray:
    """Rows `[U, F]`, centred, in their leading principal directions `[U, at most 32]`.

    By subspace iteration from random directions, a block of rows at a time; the
    directions are those of `vectors` alone where it has no more than there are.
    """
    num_users, width = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    shape = (width, min(_RANK, num_users, width))
    basis = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for _ in range(_PASSES):
        directions = np.linalg.qr(basis)[0]
        basis = np.zeros_like(basis)
        for start in range(0, num_users, _BLOCK_ROWS):
            block = vectors[start : start + _BLOCK_ROWS] - mean
            basis += block.T @ (block @ directions)
    directions = np.linalg.qr(basis)[0]
    return (vectors @ directions - mean @ directions).astype(np.float64)
