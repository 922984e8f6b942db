"""The reward of every cell from that of a few: biased matrix factorisation (ours).

KuaiRand and Yahoo publish rewards of randomly exposed cells; the completed matrices
that the published evaluations pay are in no repository, nor is it known how they were
made (protocol 1.2, 10.4). This is our substitute:

    reward(u, i) = mean + b_u + c_i + p_u . q_i

fitted by weighted ridge regressions of all users and of all items in turn. Rank and
regularisation are those with the least error on cells held out from the fit, and
biases alone (rank 0) always compete. The error is part of the result.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from darlr_jax.config import CompletionConfig
from darlr_jax.data.dataset import DataError
from darlr_jax.types import Array

_LEAST_GAIN = 1e-4  # of factors over biases, relative: less is that of vanishing ones
_LENGTHS = 4  # of rows of cells: more of them pad less and compile longer
_LENGTHS_TRIED = 32  # of which the best `_LENGTHS` are taken
_CELLS_A_CHUNK = 1 << 14  # bounds what is gathered at a time, and fits into a cache


class Completed(NamedTuple):
    """A completed matrix, and how good it is."""

    matrix: np.ndarray  # [U, I] float32
    description: str  # one line for result tables: method, rank, lambda, error
    report: list[dict[str, float]]  # one row a candidate, in the order tried


class Cells(NamedTuple):
    """Distinct observed cells, sorted by user and item."""

    users: np.ndarray  # [M] int32
    items: np.ndarray  # [M] int32
    rewards: np.ndarray  # [M] float64, the weighted mean where a cell has several rows
    weights: np.ndarray  # [M] float64, 1 on average; 0 hides a cell from a fit


class Model(NamedTuple):
    """`mean + scale * (users[u, 0] + items[i, 0] + users[u, 1:] . items[i, 1:])`."""

    mean: float
    scale: float  # standard deviation of the rewards
    users: np.ndarray  # [U, 1 + rank] float32
    items: np.ndarray  # [I, 1 + rank] float32


def complete(
    users: np.ndarray,
    items: np.ndarray,
    rewards: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int],
    config: CompletionConfig,
    *,
    low: float,
    high: float,
) -> Completed:
    """Estimates the reward of every cell from observed ones.

    Every cell of the result is an estimate, also the observed ones: a click is one
    draw, what evaluation should pay is its expectation. The order of the rows does not
    matter, nor does the unit of the weights. A user (an item) without rows gets no bias
    and no factors, hence the mean plus what is known of the item (of the user).

    Args:
      users: [N] in [0, U).
      items: [N] in [0, I); a cell may have several rows.
      rewards: [N] within [low, high].
      weights: [N] positive, the inverse of the propensity to be observed; ones where
        exposure was random.
      shape: (U, I).
      config: the candidates, and how they are told apart.
      low: the least reward there is; estimates below it are raised to it.
      high: the greatest reward there is.

    Returns:
      The estimates of the best candidate, fitted once more to all rows.

    Raises:
      DataError: the arrays contradict each other, the shape or the bounds; there are
        not two cells; a candidate is not regular enough to be solved.
    """
    _check_rows(users, items, rewards, weights, shape)
    _check_rewards(rewards, low, high)
    if not config.regularisation:
        raise DataError("dataset.completion.regularisation: expected at least one")
    cells = merge_rows(users, items, rewards, weights, shape[1])
    held_out = hold_out(len(cells.users), config)
    problem = prepare(cells, shape)
    candidates = _try_candidates(problem, held_out, config, low, high)
    best = _choose(candidates)
    model = fit(problem, cells.weights, best.items, best.regularisation, config.sweeps)
    return Completed(
        matrix=_predict_all(model, low, high),
        description=_describe(candidates, best, _mean_error(cells, held_out)),
        report=[candidate.row() for candidate in candidates],
    )


def merge_rows(
    users: np.ndarray,
    items: np.ndarray,
    rewards: np.ndarray,
    weights: np.ndarray,
    num_items: int,
) -> Cells:
    """Merges the rows of a cell, which changes a weighted fit by nothing.

    It keeps rows of one cell from being on both sides of the split, and its order
    makes all that follows independent of the order of the rows.
    """
    code = users.astype(np.int64) * num_items + items
    code, row = np.unique(code, return_inverse=True)
    total = np.bincount(row, weights.astype(np.float64))
    reward = np.bincount(row, weights.astype(np.float64) * rewards) / total
    user, item = np.divmod(code, num_items)
    return Cells(
        user.astype(np.int32), item.astype(np.int32), reward, total / total.mean()
    )


def hold_out(num_cells: int, config: CompletionConfig) -> np.ndarray:
    """[M] bool: the cells that decide between the candidates, drawn at random."""
    if num_cells < 2:
        raise DataError(
            "completion: one cell is observed; at least two are needed, one to fit "
            "and one to hold out"
        )
    count = min(max(1, round(config.held_out_share * num_cells)), num_cells - 1)
    chosen = np.zeros(num_cells, bool)
    rng = np.random.default_rng(config.seed)
    chosen[rng.choice(num_cells, count, replace=False)] = True
    return chosen


def predict(
    model: Model, users: np.ndarray, items: np.ndarray, low: float, high: float
) -> np.ndarray:
    """[M] float32 estimates of single cells, within [low, high]."""
    user, item = model.users[users], model.items[items]
    taste = np.einsum("mr,mr->m", user[:, 1:], item[:, 1:])
    rewards = model.mean + model.scale * (user[:, 0] + item[:, 0] + taste)
    return np.clip(rewards, low, high)


def weighted_errors(
    predicted: np.ndarray, rewards: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Root of the mean squared error, and mean absolute error."""
    error = predicted - rewards
    share = weights / weights.sum()
    return float(np.sqrt(share @ error**2)), float(share @ np.abs(error))


def _predict_all(model: Model, low: float, high: float) -> np.ndarray:
    """[U, I] float32: every cell, as one matrix product; nothing else of that size."""
    users = model.users * np.float32(model.scale)
    unit = np.full((len(users), 1), model.scale, np.float32)
    left = np.hstack([users[:, :1] + np.float32(model.mean), unit, users[:, 1:]])
    right = np.hstack([np.ones((len(model.items), 1), np.float32), model.items])
    matrix = np.matmul(left, right.T)
    return np.clip(matrix, low, high, out=matrix)


# --- what is refused ------------------------------------------------------------------


def _check_rows(
    users: np.ndarray,
    items: np.ndarray,
    rewards: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int],
) -> None:
    lengths = [len(column) for column in (users, items, rewards, weights)]
    if len(set(lengths)) > 1:
        raise DataError(
            "completion: expected as many users, items, rewards and weights, found "
            f"{lengths[0]}, {lengths[1]}, {lengths[2]} and {lengths[3]}"
        )
    if not lengths[0]:
        raise DataError("completion: no row is observed; nothing to complete from")
    for name, ids, size in (("users", users, shape[0]), ("items", items, shape[1])):
        _check_each(name, ids, (ids >= 0) & (ids < size), f"ids in [0, {size})")
    positive = np.isfinite(weights) & (weights > 0)
    _check_each("weights", weights, positive, "positive finite numbers")


def _check_rewards(rewards: np.ndarray, low: float, high: float) -> None:
    if not low < high:
        raise DataError(
            f"completion: expected low < high, found low={low:g} and high={high:g}"
        )
    # Compared in single precision, in which rewards come: 0.1 is not 0.1 otherwise.
    single = rewards.astype(np.float32)
    within = (single >= np.float32(low)) & (single <= np.float32(high))
    _check_each("rewards", rewards, within, f"numbers from {low:g} to {high:g}")


def _check_each(name: str, column: np.ndarray, good: np.ndarray, expected: str) -> None:
    """Refuses a column `[N]` unless all of it is `good`; NaN never is."""
    for row in np.flatnonzero(~good)[:1]:
        raise DataError(
            f"completion: {name}: expected {expected}, found {column[row]} in row "
            f"{row + 1} of {len(column)}"
        )


# --- choice ---------------------------------------------------------------------------


class _Candidate(NamedTuple):
    """A rank and a regularisation, and how they do on the held-out cells."""

    regularisation: float
    rmse: float
    mae: float
    items: np.ndarray  # [I, 1 + rank] as fitted to the other cells

    @property
    def rank(self) -> int:
        return self.items.shape[1] - 1

    def row(self) -> dict[str, float]:
        """What the report says of it."""
        return {
            "rank": self.rank,
            "regularisation": self.regularisation,
            "held_out_rmse": self.rmse,
            "held_out_mae": self.mae,
        }


def _try_candidates(
    problem: Problem,
    held_out: np.ndarray,
    config: CompletionConfig,
    low: float,
    high: float,
) -> list[_Candidate]:
    """Fits each candidate to what is not held out; its errors on what is.

    A fit starts from the items of the next weaker regularisation, which spares most
    sweeps: weak factors among much noise take dozens of them to emerge.
    """
    hidden = Cells(*(column[held_out] for column in problem.cells))
    shown = np.where(held_out, 0.0, problem.cells.weights)
    num_items = len(problem.sides[1].position)
    candidates = []
    for rank in sorted({0, *config.ranks}):
        items = first_items(num_items, rank, config.seed)
        for strength in sorted(set(config.regularisation)):
            model = fit(problem, shown, items, strength, config.sweeps)
            predicted = predict(model, hidden.users, hidden.items, low, high)
            errors = weighted_errors(predicted, hidden.rewards, hidden.weights)
            candidates.append(_Candidate(strength, *errors, model.items))
            items = model.items
    return candidates


def _choose(candidates: list[_Candidate]) -> _Candidate:
    """The least error; factors only if they beat biases by more than `_LEAST_GAIN`."""
    best, biases = (
        min(some, key=lambda candidate: candidate.rmse)
        for some in (candidates, [other for other in candidates if not other.rank])
    )
    return best if best.rmse < (1.0 - _LEAST_GAIN) * biases.rmse else biases


def _mean_error(cells: Cells, held_out: np.ndarray) -> float:
    """RMSE, on the held-out cells, of the mean of the others."""
    shown = ~held_out
    mean = np.average(cells.rewards[shown], weights=cells.weights[shown])
    return weighted_errors(mean, cells.rewards[held_out], cells.weights[held_out])[0]


def _describe(candidates: list[_Candidate], best: _Candidate, mean_error: float) -> str:
    """One line: what was chosen, its error, and that of what it had to beat."""
    method, rival = "user and item biases", "with factors"
    if best.rank:
        method, rival = f"biased matrix factorisation, rank {best.rank}", "biases"
    rivals = [other.rmse for other in candidates if (other.rank > 0) != (best.rank > 0)]
    beaten = f"{rival} {min(rivals):.4f}, " if rivals else ""
    return (
        f"our completion: {method}, lambda {best.regularisation:g}, held-out RMSE "
        f"{best.rmse:.4f} ({beaten}global mean {mean_error:.4f})"
    )


# --- alternating least squares --------------------------------------------------------


class _Side(NamedTuple):
    """The cells of each user, or of each item, as rows of a few fixed lengths.

    Rows of one length form a bucket, so that all shapes are static, little is padding,
    and sums need no scatter, whose order of additions a GPU leaves open.
    """

    buckets: tuple[np.ndarray, ...]  # [chunks, rows, length] int32, M where padded
    position: np.ndarray  # [owners] int32: the row over all buckets; behind all: none


def _lay_out(owners: np.ndarray, num_owners: int) -> _Side:
    """Groups cells by owner: `owners` [M] in [0, num_owners)."""
    order = np.argsort(owners, kind="stable").astype(np.int32)
    count = np.bincount(owners, minlength=num_owners)
    first = np.cumsum(count) - count
    position = np.full(num_owners, -1, np.int32)
    buckets: list[np.ndarray] = []
    shorter = rows = 0
    for length in _row_lengths(count[count > 0]):
        members = np.flatnonzero((count > shorter) & (count <= length))
        position[members] = rows + np.arange(len(members))
        buckets.append(_to_bucket(order, first[members], count[members], length))
        rows += buckets[-1].shape[0] * buckets[-1].shape[1]
        shorter = length
    return _Side(tuple(buckets), np.where(position < 0, rows, position).astype("int32"))


def _row_lengths(count: np.ndarray) -> list[int]:
    """The few row lengths, ascending, that pad rows of `count` [rows] cells least."""
    lengths = np.unique(
        np.geomspace(1, count.max(), _LENGTHS_TRIED).round().astype(int)
    )
    last = len(lengths) - 1
    chosen = itertools.combinations(range(last), min(_LENGTHS - 1, last))
    choices = np.array([(*choice, last) for choice in chosen])
    fitting = np.searchsorted(np.sort(count), lengths, side="right")
    rows = np.diff(fitting[choices], prepend=0, axis=1)
    best = (lengths[choices] * rows).sum(axis=1).argmin()
    return [int(lengths[index]) for index in choices[best][rows[best] > 0]]


def _to_bucket(
    order: np.ndarray, first: np.ndarray, count: np.ndarray, length: int
) -> np.ndarray:
    """[chunks, rows, length]: the `count` cells from `first` on, in `order`."""
    chunks = -(-len(first) * length // _CELLS_A_CHUNK)
    rows = -(-len(first) // chunks)
    bucket = np.full((chunks * rows, length), len(order), np.int32)
    slot = np.arange(length)
    used = slot < count[:, None]
    bucket[: len(first)][used] = order[(first[:, None] + slot)[used]]
    return bucket.reshape(chunks, rows, length)


class Problem(NamedTuple):
    """One set of cells, on the device: what all candidates share."""

    cells: Cells  # on the host
    sides: tuple[_Side, _Side]  # of the users, of the items
    partners: tuple[Array, Array]  # [M + 1] the item, and the user, of a cell


def prepare(cells: Cells, shape: tuple[int, int]) -> Problem:
    """Lays out the cells of a matrix of `shape` (U, I) for `fit`."""
    sides = _lay_out(cells.users, shape[0]), _lay_out(cells.items, shape[1])
    # Padding points behind the last cell, to one of weight 0.
    partners = np.append(cells.items, np.int32(0)), np.append(cells.users, np.int32(0))
    return Problem(cells, *jax.device_put((sides, partners)))


def fit(
    problem: Problem,
    weights: np.ndarray,
    start: np.ndarray,
    regularisation: float,
    sweeps: int,
) -> Model:
    """A model of the cells whose weight is not 0.

    Minimises the weighted squared error plus `regularisation` times the squares of all
    biases and factors. Rewards are standardised for it, which frees the regularisation
    from their unit.

    Args:
      problem: the cells.
      weights: [M].
      start: [I, 1 + rank] items to start from; rank 0 means biases alone.
      regularisation: lambda.
      sweeps: how many times users and items are solved for.

    Raises:
      DataError: the regularisation is too weak to solve for some user or item.
    """
    rewards = problem.cells.rewards
    mean = float(np.average(rewards, weights=weights))
    scale = float(np.sqrt(np.average((rewards - mean) ** 2, weights=weights)))
    scale = scale or 1.0  # where all rewards are equal, there is nothing to scale
    users, items = _alternate(
        problem.sides,
        problem.partners,
        np.append((rewards - mean) / scale, 0.0).astype(np.float32),
        np.append(weights, 0.0).astype(np.float32),
        start,
        np.float32(regularisation),
        sweeps=sweeps,
    )
    model = Model(mean, scale, np.asarray(users), np.asarray(items))
    if not (np.isfinite(model.users).all() and np.isfinite(model.items).all()):
        raise DataError(
            f"completion: rank {start.shape[1] - 1} cannot be solved with "
            f"regularisation {regularisation:g}; give larger values to "
            "dataset.completion.regularisation"
        )
    return model


def first_items(num_items: int, rank: int, seed: int) -> np.ndarray:
    """[I, 1 + rank] float32 to start from: no bias, and factors of length about 1."""
    factors = np.random.default_rng(seed).normal(size=(num_items, rank))
    factors /= np.sqrt(max(rank, 1))
    return np.hstack([np.zeros((num_items, 1)), factors]).astype(np.float32)


@functools.partial(jax.jit, static_argnames="sweeps")
def _alternate(
    sides: tuple[_Side, _Side],
    partners: tuple[Array, Array],
    target: Array,
    weights: Array,
    items: Array,
    regularisation: Array,
    *,
    sweeps: int,
) -> tuple[Array, Array]:
    """Users `[U, 1 + rank]` and items `[I, 1 + rank]` after alternating regressions.

    Args:
      sides: the cells of each user, and of each item.
      partners: the item, and the user, of each cell.
      target: `[M + 1]` standardised rewards.
      weights: `[M + 1]`, 0 for the last.
      items: `[I, 1 + rank]` to start from.
      regularisation: lambda, `[]`.
      sweeps: how many times both are solved for.
    """
    cells = target, weights

    def sweep(_: Array, solved: tuple[Array, Array]) -> tuple[Array, Array]:
        _, items = solved
        users = _solve(sides[0], partners[0], items, cells, regularisation)
        return users, _solve(sides[1], partners[1], users, cells, regularisation)

    users = jnp.zeros((len(sides[0].position), items.shape[1]), items.dtype)
    return jax.lax.fori_loop(0, sweeps, sweep, (users, items))


def _solve(
    side: _Side,
    partners: Array,
    known: Array,
    cells: tuple[Array, Array],
    regularisation: Array,
) -> Array:
    """`[owners, 1 + rank]`: a ridge regression for each owner.

    Owner x explains `target - bias of the partner` by x . (1, factors of the partner).

    Args:
      side: the cells of each owner.
      partners: `[M + 1]` the other end of each cell.
      known: `[partners, 1 + rank]` what is held fixed.
      cells: target and weights, `[M + 1]`.
      regularisation: `[]`.
    """
    gram = functools.partial(_gram, partners=partners, known=known, cells=cells)
    size = known.shape[1] + 1
    grams = [
        jax.lax.map(gram, bucket).reshape(-1, size, size) for bucket in side.buckets
    ]
    none = jnp.zeros((1, size, size), known.dtype)  # of an owner without cells
    moments = jnp.concatenate([*grams, none])[side.position]
    ridge = regularisation * jnp.eye(size - 1, dtype=known.dtype)
    factor = jax.scipy.linalg.cho_factor(moments[:, :-1, :-1] + ridge[None])
    return jax.scipy.linalg.cho_solve(factor, moments[:, :-1, -1:])[..., 0]


def _gram(
    index: Array, *, partners: Array, known: Array, cells: tuple[Array, Array]
) -> Array:
    """`[rows, 2 + rank, 2 + rank]` weighted moments of (1, factors, target).

    One product holds both sides of the normal equations: all but its last row and
    column is the matrix, its last column is the right-hand side.
    """
    target, weights = cells[0][index], cells[1][index]  # [rows, length]
    partner = known[partners[index]]
    ones = jnp.ones_like(partner[..., :1])
    rest = target - partner[..., 0]
    variables = jnp.concatenate([ones, partner[..., 1:], rest[..., None]], axis=-1)
    weighted = variables * weights[..., None]
    # In full precision: an accelerator would otherwise round to 10 bits.
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("nlr,nls->nrs", weighted, variables, precision=exact)
