"""Completion: against a slow reference, on planted matrices, and what it refuses."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from darlr_jax.config import CompletionConfig
from darlr_jax.data import completion
from darlr_jax.data.dataset import DataError

BOUNDS = {"low": 1.0, "high": 5.0}
SMALL = CompletionConfig(ranks=(2,), regularisation=(2.0, 5.0), sweeps=4)


def draw(seed, shape, taste, noise, share):
    """Rows of a random `share` of the cells, and the expected reward of every cell."""
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(size, 2)) for size in shape)
    biases = rng.normal(size=(shape[0], 1)) + rng.normal(size=shape[1])
    truth = 3.0 + 0.4 * biases + taste * users @ items.T
    seen = np.argwhere(rng.random(shape) < share).astype(np.int32)
    rows = seen[rng.permutation(len(seen))]
    rewards = truth[rows[:, 0], rows[:, 1]] + noise * rng.normal(size=len(rows))
    rewards = np.clip(rewards, 1.0, 5.0).astype(np.float32)
    return (*rows.T, rewards, np.ones(len(rows), np.float32), shape), truth


@pytest.fixture(scope="module")
def small():
    """Rows of 12 users x 10 items, of which user 11 and item 9 have none."""
    *rows, _ = draw(1, (11, 9), taste=0.8, noise=0.3, share=0.6)[0]
    rows[3] = np.random.default_rng(2).uniform(0.5, 3.0, len(rows[0])).astype("float32")
    return *rows, (12, 10)


@pytest.fixture(scope="module")
def completed(small):
    return completion.complete(*small, SMALL, **BOUNDS)


# --- the fit --------------------------------------------------------------------------


def ridge(features, target, weights, strength):
    """The coefficients of one weighted ridge regression."""
    matrix = (features * weights[:, None]).T @ features
    matrix += strength * np.eye(features.shape[1])
    return np.linalg.solve(matrix, (features * weights[:, None]).T @ target)


def slow_side(known, target, weights):
    """One regression after another; `target` and `weights` are [owners, partners]."""
    features = np.hstack([np.ones((len(known), 1)), known[:, 1:]])
    return lambda strength: np.array(
        [
            ridge(features, row - known[:, 0], weight, strength)
            for row, weight in zip(target, weights, strict=True)
        ]
    )


def slow_fit(cells, weights, shape, start, strength, sweeps):
    """Items [I, 1 + rank] of the plainest alternating least squares; estimates [U, I].

    All is dense and in double precision; cells of weight 0 are unknown.
    """
    mean = np.average(cells.rewards, weights=weights)
    scale = np.sqrt(np.average((cells.rewards - mean) ** 2, weights=weights))
    target, weight = np.zeros(shape), np.zeros(shape)
    target[cells.users, cells.items] = (cells.rewards - mean) / scale
    weight[cells.users, cells.items] = weights
    items = start.astype(np.float64)
    for _ in range(sweeps):
        users = slow_side(items, target, weight)(strength)
        items = slow_side(users, target.T, weight.T)(strength)
    product = users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T
    return items, mean + scale * product


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_fit_is_alternating_ridge_regression(small, rank):
    *rows, shape = small
    cells = completion.merge_rows(*rows, shape[1])
    start = completion.first_items(shape[1], rank, seed=0)

    problem = completion.prepare(cells, shape)
    model = completion.fit(problem, cells.weights, start, 1.5, sweeps=3)

    items, expected = slow_fit(cells, cells.weights, shape, start, 1.5, 3)
    users, partners = np.indices(shape)
    found = completion.predict(model, users.ravel(), partners.ravel(), -9.0, 9.0)
    np.testing.assert_allclose(model.items, items, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reshape(shape), expected, rtol=1e-4)


def test_report_and_description_are_those_of_the_reference(small, completed):
    *rows, shape = small
    cells = completion.merge_rows(*rows, shape[1])
    held_out = completion.hold_out(len(cells.users), SMALL)
    shown = np.where(held_out, 0.0, cells.weights)
    where = cells.users[held_out], cells.items[held_out]
    share = cells.weights[held_out] / cells.weights[held_out].sum()

    expected, fitted = [], {}
    for rank, strength in itertools.product((0, 2), SMALL.regularisation):
        start = fitted.get((rank, 2.0), completion.first_items(shape[1], rank, 0))
        items, matrix = slow_fit(cells, shown, shape, start, strength, 4)
        error = np.clip(matrix[where], 1.0, 5.0) - cells.rewards[held_out]
        squared, absolute = share @ error**2, share @ np.abs(error)
        expected.append([rank, strength, np.sqrt(squared), absolute])
        fitted[rank, strength] = items

    np.testing.assert_allclose(
        [list(row.values()) for row in completed.report], expected, rtol=1e-4
    )
    best = min(expected, key=lambda row: row[2])
    biases = min(row[2] for row in expected if row[0] == 0)
    error = np.average(cells.rewards, weights=shown) - cells.rewards[held_out]
    assert best[0] == 2
    assert completed.description == (
        f"our completion: biased matrix factorisation, rank 2, lambda {best[1]:g}, "
        f"held-out RMSE {best[2]:.4f} (biases {biases:.4f}, global mean "
        f"{np.sqrt(share @ error**2):.4f})"
    )
    start = fitted[2, best[1]]
    _, matrix = slow_fit(cells, cells.weights, shape, start, best[1], 4)
    np.testing.assert_allclose(completed.matrix, np.clip(matrix, 1, 5), rtol=1e-4)


@hypothesis.given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_every_cell_is_in_the_row_of_its_owner(owners):
    owners = np.array(owners)

    side = completion._lay_out(owners, 8)

    rows = [row for bucket in side.buckets for chunk in bucket for row in chunk]
    rows.append(np.array([len(owners)]))  # of owners without cells
    assert len(side.buckets) <= 4
    for owner, position in enumerate(side.position):
        cells = rows[position][rows[position] < len(owners)]
        np.testing.assert_array_equal(cells, np.flatnonzero(owners == owner))


def test_long_rows_and_many_rows_are_cut_into_chunks(monkeypatch):
    monkeypatch.setattr(completion, "_CELLS_A_CHUNK", 8)
    owners = np.repeat(np.arange(9), [1, 1, 1, 1, 1, 2, 3, 9, 20])

    side = completion._lay_out(owners, 9)

    for bucket in side.buckets:
        assert bucket.shape[1] == 1 or bucket.shape[1] * bucket.shape[2] <= 8
    rows = np.concatenate([(b < len(owners)).sum(axis=2).ravel() for b in side.buckets])
    np.testing.assert_array_equal(rows[side.position], np.bincount(owners))


# --- the estimate ---------------------------------------------------------------------


def test_a_planted_matrix_is_found_again():
    rows, truth = draw(0, (150, 80), taste=0.7, noise=0.5, share=0.3)
    config = CompletionConfig(ranks=(2,), regularisation=(3.0, 8.0))

    found = completion.complete(*rows, config, **BOUNDS)

    truth = np.clip(truth, 1.0, 5.0)
    biases = np.clip(
        truth.mean(1, keepdims=True) + truth.mean(0) - truth.mean(), 1.0, 5.0
    )

    def error(matrix):
        return np.sqrt(np.mean((matrix - truth) ** 2))

    assert "rank 2" in found.description
    # Less than half the error of the best biases that there are, and of the mean.
    assert error(found.matrix) < 0.5 * error(biases) < 0.5 * error(truth.mean())
    assert np.corrcoef(found.matrix.ravel(), truth.ravel())[0, 1] > 0.95


def test_factors_without_a_signal_lose_to_biases():
    rows, _ = draw(3, (150, 80), taste=0.0, noise=1.0, share=0.3)
    config = CompletionConfig(ranks=(2,), regularisation=(5.0, 50.0))

    found = completion.complete(*rows, config, **BOUNDS)

    errors = {(row["rank"], row["regularisation"]): row["held_out_rmse"]
              for row in found.report}  # fmt: skip
    least = min(errors[0, 5.0], errors[0, 50.0])
    assert errors[2, 5.0] > least
    # Strong regularisation makes factors vanish: a tie, but for rounding.
    assert errors[2, 50.0] == pytest.approx(errors[0, 50.0], rel=1e-6)
    assert found.description.startswith(
        f"our completion: user and item biases, lambda 5, held-out RMSE {least:.4f} "
        f"(with factors {min(errors[2, 5.0], errors[2, 50.0]):.4f}, global mean "
    )


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0: 0.5, 2: 0.4}, 2),
        ({0: 0.4, 2: 0.5}, 0),
        ({0: 0.4, 2: 0.39999}, 0),  # a gain of 2.5e-5
        ({0: 0.4, 2: 0.3999}, 2),  # a gain of 2.5e-4
        ({0: 0.0, 2: 0.0}, 0),
        ({0: 0.4}, 0),
    ],
)
def test_choice(errors, expected):
    candidates = [
        completion._Candidate(1.0, error, 0.0, np.zeros((1, 1 + rank)))
        for rank, error in errors.items()
    ]

    assert completion._choose(candidates).rank == expected


def test_users_and_items_without_rows(small, completed):
    users, items, rewards, weights, shape = small
    assert 11 not in users and 9 not in items

    mean = np.average(rewards, weights=weights)
    assert completed.matrix.shape == shape
    assert completed.matrix.dtype == np.float32
    # Nothing is known of both; of one of them, the bias of the other is.
    assert completed.matrix[11, 9] == pytest.approx(mean, rel=1e-6)
    assert np.ptp(completed.matrix[11, :9]) > 0.1
    assert np.ptp(completed.matrix[:11, 9]) > 0.1


def test_estimates_stay_within_the_bounds(small):
    users, items, rewards, weights, shape = small
    clicks = (rewards > 3.0).astype(np.float32)
    config = CompletionConfig(ranks=(2,), regularisation=(0.1,), sweeps=4)

    matrix = completion.complete(
        users, items, clicks, weights, shape, config, low=0.0, high=1.0
    ).matrix

    assert (matrix.min(), matrix.max()) == (0.0, 1.0)
    assert np.mean((matrix > 0.0) & (matrix < 1.0)) > 0.1


def test_equal_rewards_complete_to_themselves(small):
    users, items, rewards, weights, shape = small

    found = completion.complete(
        users, items, np.full_like(rewards, 4.0), weights, shape, SMALL, **BOUNDS
    )

    np.testing.assert_array_equal(found.matrix, np.full(shape, 4.0, np.float32))
    assert "biases, lambda 2, held-out RMSE 0.0000" in found.description


# --- what does not matter -------------------------------------------------------------


def assert_same(found, expected):
    assert found.description == expected.description
    assert found.report == expected.report
    np.testing.assert_array_equal(found.matrix, expected.matrix)


def test_same_input_same_output(small, completed):
    assert_same(completion.complete(*small, SMALL, **BOUNDS), completed)


def test_order_of_rows_does_not_matter(small, completed):
    *rows, shape = small
    order = np.random.default_rng(5).permutation(len(rows[0]))

    shuffled = [column[order] for column in rows]

    assert_same(completion.complete(*shuffled, shape, SMALL, **BOUNDS), completed)


def test_order_of_candidates_does_not_matter(small, completed):
    config = CompletionConfig(ranks=(2, 2), regularisation=(5.0, 2.0), sweeps=4)

    assert_same(completion.complete(*small, config, **BOUNDS), completed)


def test_weights_are_repetitions_and_have_no_unit(small):
    users, items, rewards, _, shape = small
    times = np.random.default_rng(6).integers(1, 4, len(users))
    columns = users, items, rewards, np.ones(len(users), np.float32)
    repeated = [np.repeat(column, times) for column in columns]

    once = completion.complete(
        *columns[:3], 10.0 * times.astype(np.float32), shape, SMALL, **BOUNDS
    )
    often = completion.complete(*repeated, shape, SMALL, **BOUNDS)

    assert once.description == often.description
    np.testing.assert_allclose(once.matrix, often.matrix, rtol=1e-5)


def test_rows_of_a_cell_merge_into_their_weighted_mean():
    cells = completion.merge_rows(
        np.array([1, 0, 1], np.int32),
        np.array([2, 3, 2], np.int32),
        np.array([5.0, 2.0, 1.0], np.float32),
        np.array([3.0, 2.0, 1.0], np.float32),
        4,
    )

    assert [column.tolist() for column in cells] == [
        [0, 1], [3, 2], [2.0, 4.0], [2 / 3, 4 / 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "share", "expected"), [(2, 0.01, 1), (2, 0.5, 1), (40, 0.1, 4)]
)
def test_held_out_share(cells, share, expected):
    config = CompletionConfig(held_out_share=share)

    assert completion.hold_out(cells, config).sum() == expected


def test_seed_decides_what_is_held_out():
    first, other = (completion.hold_out(40, CompletionConfig(seed=s)) for s in (0, 1))

    assert (first != other).any()


# --- what is refused ------------------------------------------------------------------


def refuses(expected, config=SMALL, low=1.0, high=5.0, **changes):
    rows = {
        "users": np.array([0, 1, 1], np.int32),
        "items": np.array([0, 0, 1], np.int32),
        "rewards": np.array([1.0, 3.0, 5.0], np.float32),
        "weights": np.ones(3, np.float32),
        "shape": (2, 2),
    } | {name: np.asarray(value) for name, value in changes.items()}
    with pytest.raises(DataError) as caught:
        completion.complete(**rows, config=config, low=low, high=high)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights": [1.0]}, "as many users, items, rewards and weights, found 3, 3, "),
        ({"users": [0, 2, 1]}, "users: expected ids in [0, 2), found 2 in row 2 of 3"),
        ({"items": [0, 1, -1]}, "items: expected ids in [0, 2), found -1 in row 3"),
        ({"rewards": [1.0, np.nan, 2.0]}, "numbers from 1 to 5, found nan in row 2"),
        ({"rewards": [np.inf, 1.0, 2.0]}, "numbers from 1 to 5, found inf in row 1"),
        ({"rewards": [1.0, 2.0, 5.5]}, "numbers from 1 to 5, found 5.5 in row 3"),
        ({"rewards": [0.0, 2.0, 5.0]}, "numbers from 1 to 5, found 0.0 in row 1"),
        ({"weights": [1.0, 0.0, 1.0]}, "positive finite numbers, found 0.0 in row 2"),
        ({"weights": [1.0, 1.0, np.nan]}, "positive finite numbers, found nan"),
        ({"weights": [np.inf, 1.0, 1.0]}, "positive finite numbers, found inf"),
        ({"low": 5.0}, "expected low < high, found low=5 and high=5"),
        ({"high": np.nan}, "expected low < high, found low=1 and high=nan"),
        ({"users": [0, 0, 0], "items": [0, 0, 0]}, "one cell is observed"),
    ],
)
def test_bad_input(changes, expected):
    refuses(expected, **changes)


def test_no_rows():
    nothing = {name: [] for name in ("users", "items", "rewards", "weights")}

    refuses("no row is observed", **nothing)


def test_candidates_that_cannot_be_solved(small):
    expected = "dataset.completion.regularisation"
    refuses(expected, config=CompletionConfig(regularisation=()))
    unsolvable = CompletionConfig(ranks=(), regularisation=(0.0,))
    refuses(f"rank 0 cannot be solved with regularisation 0; give larger values to "
            f"{expected}", config=unsolvable, shape=(4, 2))  # fmt: skip


def test_bounds_are_compared_in_single_precision(small):
    users, items, rewards, weights, shape = small
    tenths = np.where(rewards > 3.0, np.float32(0.1), np.float32(0.7))

    found = completion.complete(
        users, items, tenths, weights, shape, SMALL, low=0.1, high=0.7
    )

    assert np.isfinite(found.matrix).all()
