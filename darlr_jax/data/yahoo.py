"""Yahoo! R3: 15,400 users, 1,000 songs, ratings 1..5 (Marlin and Zemel, RecSys 2009).

The training ratings are of songs that users chose, the test ratings of songs drawn at
random, 10 for each of the first 5,400 users, who make up the environment. No file holds
a time, a feature or a tag.

The published evaluation pays a completed matrix of whole ratings, the "pseudo ground
truth" of RL4Rec. Whoever has that file puts it beside the ratings; without it, a matrix
is completed here, from the training log and the random ratings both. Such a matrix
knows what the world model is tested on, and what it was fitted to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from darlr_jax.config import CompletionConfig
from darlr_jax.data import frames, text
from darlr_jax.data.completion import complete
from darlr_jax.data.dataset import Dataset, InteractionLog

NUM_USERS = 15_400
NUM_ITEMS = 1_000
NUM_SURVEYED = 5_400  # users of the test ratings, and of the environment
NUM_RATINGS = (311_704, 54_000)  # training, test
STARS = (1, 5)

TRAIN = "ydata-ymusic-rating-study-v1_0-train.txt"
TEST = "ydata-ymusic-rating-study-v1_0-test.txt"
FILES = (TRAIN, TEST)
TRUTH = "yahoo_pseudoGT_ratingM.ascii"  # read where it lies beside them

WEIGHTS = (0.1, 10.0)  # least and most weight of a logged rating

_LAYOUT = frames.Layout("\t", has_header=False)
_YAHOO = (
    "Yahoo! Webscope, data set R3 (after a signed agreement: "
    "https://webscope.sandbox.yahoo.com/catalog.php?datatype=r)"
)
_RL4REC = "https://github.com/BetsyHJ/RL4Rec"


def load(data_dir: str | Path, completion: CompletionConfig) -> Dataset:
    """Reads `<data_dir>/yahoo/`, the two files of the study.

    There are as many users and songs as the largest ids say, and as many users in the
    environment as the largest id of the test file says: 15,400, 1,000 and 5,400 for the
    official files (protocol 1.6). Repeated (user, song) rows stay as they are.

    Args:
      data_dir: the folder that holds `yahoo/`.
      completion: how the test matrix is made where its file is absent.

    Raises:
      DataError: a file is missing or malformed; names it, and the line and column.
    """
    folder = Path(data_dir) / "yahoo"
    paths = {name: frames.find(folder, name) for name in FILES}
    log = _read_ratings(paths[TRAIN], NUM_USERS)
    held_out = _read_ratings(paths[TEST], NUM_SURVEYED)
    num_users = int(max(log.users.max(), held_out.users.max())) + 1
    num_items = int(max(log.items.max(), held_out.items.max())) + 1
    surveyed = int(held_out.users.max()) + 1
    shape = (num_users, num_items)
    published = frames.find(folder, TRUTH)
    if published.exists():
        paths[TRUTH] = published
        truth = _read_truth(published, shape, surveyed)
        ground_truth = f"Yahoo! R3 pseudo ground truth, as found in {TRUTH}"
    else:
        truth, ground_truth = _complete(log, held_out, shape, completion)
    return Dataset(
        name="yahoo",
        log=log,
        held_out=held_out,
        num_logged_users=num_users,
        num_logged_items=num_items,
        user_features=(),
        item_features=(),
        item_dense=np.zeros((num_items, 0), np.float32),
        environment_users=np.arange(surveyed, dtype=np.int32),
        environment_items=np.arange(num_items, dtype=np.int32),
        true_reward=truth[:surveyed].astype(np.float32),
        item_tags=np.zeros((num_items, 0), np.bool_),
        dominated=np.zeros((0, num_items), np.bool_),
        dominated_names=(),
        ground_truth=f"{ground_truth}; {_describe_size(log, held_out)}",
        sources={name: text.digest(path) for name, path in paths.items()},
    )


def _read_ratings(path: Path, num_users: int) -> InteractionLog:
    """One file of ratings, in its order; ids count from 0 here."""
    columns = (
        frames.Column("user", "int", low=1, high=num_users),
        frames.Column("song", "int", low=1, high=NUM_ITEMS),
        frames.Column("rating", "int", *STARS),
    )
    table = frames.read_table(path, columns, origin=_YAHOO, layout=_LAYOUT)
    rating = table["rating"].to_numpy(np.float32)
    return InteractionLog(
        users=table["user"].to_numpy(np.int32) - 1,
        items=table["song"].to_numpy(np.int32) - 1,
        labels=rating,
        rewards=rating,
        times=None,
    )


def _read_truth(path: Path, shape: tuple[int, int], surveyed: int) -> np.ndarray:
    """[U or X, I] whole ratings: of the surveyed users alone, or of all `shape` [X, I].

    A file with more lines than there are surveyed users must be one of all.
    """
    with text.opened(path, _RL4REC) as file:
        lines = sum(1 for line in file if line.strip())
    rows = surveyed if lines <= surveyed else shape[0]
    low, high = STARS
    return text.read_integers(
        path, (rows, shape[1]), low=low, high=high, origin=_RL4REC
    )


def _complete(
    log: InteractionLog,
    random: InteractionLog,
    shape: tuple[int, int],
    config: CompletionConfig,
) -> tuple[np.ndarray, str]:
    """[X, I] whole ratings from all there are, and one line on how they were made."""
    low, high = STARS
    weights = inverse_propensities(log, random)
    completed = complete(
        np.concatenate([log.users, random.users]),
        np.concatenate([log.items, random.items]),
        np.concatenate([log.rewards, random.rewards]),
        np.concatenate([weights, np.ones(len(random), np.float32)]),
        shape,
        config,
        low=low,
        high=high,
    )
    # The published matrix holds whole ratings, too.
    truth = np.clip(np.rint(completed.matrix), low, high)
    description = (
        "Yahoo! R3 completed from log (inverse propensities) and random ratings, "
        f"rounded, NOT the published matrix: {completed.description}"
    )
    return truth, description


def inverse_propensities(log: InteractionLog, random: InteractionLog) -> np.ndarray:
    """How much a logged rating y stands for: P(y) / P(y | O = 1), naive Bayes.

    The propensity is P(O = 1 | y) = P(y | O = 1) P(O = 1) / P(y) (Schnabel et al., ICML
    2016), with P(y) from every second random rating. The constant P(O = 1) is left out:
    logged ratings then weigh 1 on average, as much as a random one, and what remains
    is the self-normalised estimate. A weight stays within `WEIGHTS`, so that neither a
    rating that is rare in the log nor one that the sample of P(y) lacks decides alone.

    Args:
      log: self-selected whole ratings.
      random: ratings of items drawn at random.

    Returns:
      [N] float32, one weight a row of `log`.
    """
    exposed = _shares(log.rewards)
    true = _shares(random.rewards[::2])
    weight = np.ones_like(true)
    np.divide(true, exposed, out=weight, where=exposed > 0)
    # Clipped after the division: no row has a rating whose share of the log is 0.
    stars = log.rewards.astype(np.int64)
    return np.clip(weight, *WEIGHTS)[stars - STARS[0]].astype(np.float32)


def _shares(ratings: np.ndarray) -> np.ndarray:
    """[5] how often each whole rating occurs, as shares of all."""
    low, high = STARS
    stars = ratings.astype(np.int64) - low
    return np.bincount(stars, minlength=high - low + 1) / len(ratings)


def _describe_size(log: InteractionLog, held_out: InteractionLog) -> str:
    """Says whether a file was cut short at the end of a line, or is generated."""
    rows = (len(log), len(held_out))
    verdict = (
        "as many as published" if rows == NUM_RATINGS else "NOT as many as published"
    )
    return f"{rows[0]} logged and {rows[1]} random ratings, {verdict}"
