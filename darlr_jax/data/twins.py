"""Twins: files in the form and size of the published ones, with generated contents.

The loaders read a twin as they read the official files, so that every data set can be
run, tested and timed where its files cannot be had. A smaller `scale` shrinks users and
items alike and keeps the share of cells that are logged. Nothing measured on a twin
says anything of the people in the official data.

What is planted is that of `synthetic`: clusters of users, quality of items, tags of
unequal popularity, exposure that prefers what is popular and liked, and a walk through
the tags in time. No users x items table is held: affinities are evaluated at the cells
that are drawn, block by block of users.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.config import nearest_name
from darlr_jax.data import coat, files, synthetic
from darlr_jax.data.dataset import DataError

# Raised with every change of what is written; the planted strengths are `synthetic`'s.
GENERATOR_VERSION = f"1.{synthetic.GENERATOR_VERSION}"
MARKER = "twin.json"  # in the folder of every twin, and of nothing else
LEAST_SCALE = 1e-4
LEAST_SIDE = 40  # users and items, however small the scale

BLOCK_USERS = 256  # drawn and written at a time
CLUSTERS = 12
FACTORS = 4  # of the personal taste
ACTIVITY = 0.8  # standard deviation of the log of the rows a user

_DAY = 24 * 3600 * 1000  # milliseconds
_BEIJING = 8 * 3600 * 1000  # ahead of Unix time


class Sizes(NamedTuple):
    """How much the files of a twin hold."""

    users: int
    items: int
    environment_users: int  # those that can be evaluated
    environment_items: int
    log_rows: int
    test_rows: int


class _Twin(NamedTuple):
    """A data set as published, and how it is imitated."""

    official: Sizes
    least_log: int  # rows a user
    least_test: int  # rows an environment user
    write: Callable[[Path, Sizes, np.random.Generator], None]


def sizes(name: str, scale: float) -> Sizes:
    """How much `write` writes: the official counts at scale 1.

    Users and items shrink by the square root of `scale`, rows so that their density
    stays, unless a user is promised more. Coat is always written whole.

    Raises:
      DataError: there is no such twin, or `scale` is out of range.
    """
    if name not in _TWINS:
        hint = nearest_name(name, _TWINS)
        raise DataError(f"{name!r}: no data set that has a twin; {hint}")
    if not LEAST_SCALE <= scale <= 1:  # also refuses nan
        raise DataError(
            f"scale of the twin of {name}: expected a number within [{LEAST_SCALE:g}, "
            f"1], found {scale!r}"
        )
    full, least_log, least_test, _ = _TWINS[name]
    if name == "coat" or scale == 1:
        return full
    users, items, some_users, some_items = (
        max(LEAST_SIDE, round(side * math.sqrt(scale))) for side in full[:4]
    )
    log_density = full.log_rows / (full.users * full.items)
    test_density = full.test_rows / (full.environment_users * full.environment_items)
    return Sizes(
        users,
        items,
        some_users,
        some_items,
        log_rows=max(round(log_density * users * items), least_log * users),
        test_rows=max(
            round(test_density * some_users * some_items), least_test * some_users
        ),
    )


def write(name: str, data_dir: Path, scale: float, seed: int = 0) -> Path:
    """Writes `<data_dir>/<name>/`, or finds it written.

    The same arguments give the same bytes. The folder appears when it is complete; a
    twin of another scale, seed or version is replaced, other contents are not.

    Args:
      name: kuairec, kuairand, yahoo, movielens or coat.
      data_dir: the folder that holds one folder a data set.
      scale: share of the official counts, see `sizes`.
      seed: of the generator, not negative.

    Returns:
      The folder.

    Raises:
      DataError: no such twin, `scale` or `seed` out of range, the folder holds files
        that are no twin, or cannot be written.
    """
    size = sizes(name, scale)
    if seed < 0:
        raise DataError(f"seed of the twin of {name}: must not be negative: {seed}")
    folder = Path(data_dir) / name
    recipe = {
        "name": name,
        "scale": scale,
        "seed": seed,
        "version": GENERATOR_VERSION,
        "sizes": size._asdict(),
    }
    if _is_written(folder, recipe):
        return folder
    try:
        _refuse_foreign(folder)
        with files.replacing(folder) as partial:
            partial.mkdir(parents=True)
            _TWINS[name].write(partial, size, np.random.default_rng(seed))
            _mark(partial, recipe)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None
    return folder


# --- complete or absent ---------------------------------------------------------------


def _mark(folder: Path, recipe: dict[str, Any]) -> None:
    """Writes the marker: the recipe, and the length in bytes of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lengths = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    text = json.dumps({**recipe, "files": lengths}, indent=2)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def _is_written(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether `folder` is the twin of this recipe, with no file missing or cut."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        lengths = found.pop("files").items()
        whole = all((folder / name).stat().st_size == size for name, size in lengths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return found == recipe and whole


def _refuse_foreign(folder: Path) -> None:
    """Spares files that are no twin: they may be the official ones."""
    if not folder.exists() or (folder / MARKER).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise DataError(
            f"{folder}: exists and holds no {MARKER}, so it is no twin and stays as it "
            "is; give another data folder for twins"
        )


# --- numbers as text ------------------------------------------------------------------
#
# A column is a list of arrays of bytes ("pieces") that follow each other in every row.
# Pieces are looked up in tables and padded with NULs by NumPy; deleting the NULs of all
# rows at once leaves the text. That is some 10 times as fast as formatting numbers.

_Column = list[np.ndarray]

_PLAIN = np.array([b"%d" % number for number in range(10_000)])
_PADDED = np.array([b"%04d" % number for number in range(10_000)])
_LAST_GROUP = np.concatenate([_PLAIN, _PADDED])  # of four digits: alone, or following
_FIRST_GROUP = np.concatenate([[b""], _PLAIN[1:], _PADDED])  # a leading 0 is nothing
_FRACTION = np.array([(b".%03d" % n).rstrip(b"0") for n in range(1000)])
_FRACTION[0] = b".0"
_HOURS = np.array([b" %02d:" % hour for hour in range(24)])
_MINUTES = np.array([b"%02d:%02d" % divmod(second, 60) for second in range(3600)])


def _integer(values: np.ndarray) -> _Column:
    """Whole numbers that are not negative, in groups of four digits."""
    pieces: _Column = []
    values, table = values.astype(np.int64), _LAST_GROUP
    while True:
        higher = values // 10_000
        pieces.insert(0, table[values - 10_000 * higher + 10_000 * (higher > 0)])
        if not higher.any():
            return pieces
        values, table = higher, _FIRST_GROUP


def _quotient(dividend: np.ndarray, divisor: np.ndarray) -> _Column:
    """`dividend / divisor` by long division, to 16 decimals as published."""
    whole = dividend // divisor
    pieces, rest = [*_integer(whole), np.array(b".")], dividend - whole * divisor
    for _ in range(4):
        group = rest * 10_000 // divisor
        pieces.append(_PADDED[group])
        rest = rest * 10_000 - group * divisor
    return pieces


def _dates(times: np.ndarray) -> np.ndarray:
    """[N] days of Unix milliseconds in Beijing, as b"2020-07-05"."""
    days = (times + _BEIJING) // _DAY
    calendar = np.arange(days.min(), days.max() + 1).astype("datetime64[D]")
    return calendar.astype("S10")[days - days.min()]


def _date_numbers(times: np.ndarray) -> np.ndarray:
    """[N] the same days, as 20200705."""
    dates, which = np.unique(_dates(times), return_inverse=True)
    return np.array([int(date.replace(b"-", b"")) for date in dates])[which]


def _lines(columns: Iterable[_Column], separator: bytes) -> bytes:
    """The rows of a table as they stand in its file."""
    pieces = [piece for column in columns for piece in (*column, np.array(separator))]
    pieces[-1] = np.array(b"\n")
    names = [f"piece {n}" for n in range(len(pieces))]
    shape = np.broadcast_shapes(*(piece.shape for piece in pieces))
    rows = np.empty(shape, [(n, p.dtype) for n, p in zip(names, pieces, strict=True)])
    for name, piece in zip(names, pieces, strict=True):
        rows[name] = piece
    return rows.tobytes().translate(None, b"\0")


def _write_rows(path: Path, header: str, blocks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.write(header.encode())
        file.writelines(blocks)


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    """A small table with a line of names."""
    pd.DataFrame(columns).to_csv(path, index=False, lineterminator="\n")


# --- what is planted ------------------------------------------------------------------


class _World(NamedTuple):
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


def _draw_world(rng: np.random.Generator, users: int, tags: np.ndarray) -> _World:
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
    return _World(
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


def _affinity(world: _World, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[N] float64, how much users like items: about 0, standard deviation about 1."""
    personal = np.einsum("nr,nr->n", world.factors[users], world.appeal[items])
    return world.level[users] + world.liking[world.cluster[users], items] + personal


def _draw_categories(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """[rows] categories of very unequal frequency, the most frequent first."""
    popularity = np.arange(1, size + 1) ** -synthetic.TAG_SKEW
    return rng.choice(size, rows, p=popularity / popularity.sum())


def _draw_tags(
    rng: np.random.Generator, items: int, num_tags: int, shares: tuple[float, ...]
) -> np.ndarray:
    """[items, len(shares)] distinct tags; `shares` of the items have 1, 2, ... tags."""
    popularity = -synthetic.TAG_SKEW * np.log(np.arange(1, num_tags + 1))
    # The largest of perturbed log-weights are a draw without replacement.
    order = np.argsort(-popularity - rng.gumbel(size=(items, num_tags)), axis=1)
    count = 1 + rng.choice(len(shares), size=(items, 1), p=shares)
    return np.where(np.arange(len(shares)) < count, order[:, : len(shares)], -1)


def _draw_counts(
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


def _draw_cells(
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
    first = np.argpartition(arrival, count - repeats - 1)[: count - repeats]
    again = np.argsort(arrival[first])[:repeats]
    return np.concatenate([first, first[again]])


def _prefer(world: _World, users: np.ndarray) -> np.ndarray:
    """[b, I] weights of a biased log in which every item occurs."""
    weights = world.exposure[world.cluster[users]]
    owned = np.flatnonzero(np.isin(world.owner, users))
    weights[world.owner[owned] - users[0], owned] = np.inf
    return weights


def _uniform(items: int) -> Callable[[np.ndarray], np.ndarray]:
    """The `weigh` of `_draw_cells` for exposure at random."""
    return lambda users: np.ones((len(users), items), np.float32)


class _Period(NamedTuple):
    """When something was logged, in Unix milliseconds."""

    start: int
    length: int


def _walk(
    rng: np.random.Generator,
    world: _World,
    users: np.ndarray,
    items: np.ndarray,
    period: _Period,
) -> tuple[np.ndarray, np.ndarray]:
    """The items of sorted `users` in the order of the walk, and their rising times."""
    turn = (world.place[items] - world.start[users]) % 1.0
    turn += world.wander[items] * rng.normal(size=len(items))
    order = np.lexsort((turn, users))
    moment = np.sort(users + rng.random(len(users))) - users
    return items[order], period.start + (moment * period.length).astype(np.int64)


def _stars(rng: np.random.Generator, affinity: np.ndarray, mean: float) -> np.ndarray:
    """Noisy ratings of 1 to 5."""
    noise = rng.normal(scale=synthetic.LABEL_NOISE, size=affinity.shape)
    return np.clip(np.rint(mean + affinity + noise), 1, 5).astype(np.int64)


# --- KuaiRec --------------------------------------------------------------------------

_KUAIREC_HEADER = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
)
_KUAIREC_PERIOD = _Period(1_593_878_400_000, 63 * _DAY)  # 2020-07-05 to 2020-09-05
_KUAIREC_TAGS = 31
_KUAIREC_SHARES = (0.836, 0.146, 0.017, 0.001)  # of videos with 1 to 4 tags
_KUAIREC_TWICE = 0.178  # of the rows of the big matrix: 2.23 of 12.53 million
_KUAIREC_UNTIMED = 0.039  # of the rows of the small matrix
_LEAST_KUAIREC = 10

# log(watch ratio) is normal: its mean, and its slope and noise in the affinity. Of
# normals of this width, 0.9 is the mean and 0.3 % are above 5.
_LOG_RATIO = (-0.45, 0.55, 0.5)


class _Videos(NamedTuple):
    """A world of videos, and how long they are."""

    world: _World
    duration: np.ndarray  # [I] int64 milliseconds


def _write_kuairec(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    tags = _draw_tags(rng, size.items, _KUAIREC_TAGS, _KUAIREC_SHARES)
    duration = np.clip(rng.lognormal(math.log(1e4), 0.6, size.items), 3e3, 3e5)
    world = _draw_world(rng, size.users, tags)
    videos = _Videos(world, duration.astype(np.int64))
    users = _draw_subset(rng, size.users, size.environment_users)
    items = _draw_subset(rng, size.items, size.environment_items)
    _write_table(
        folder / "item_categories.csv",
        {
            "video_id": range(size.items),
            "feat": [str([int(tag) for tag in row if tag >= 0]) for row in tags],
        },
    )
    big = _draw_big(rng, world, size, users, items)
    small = _draw_small(rng, size, users, items)
    for name, cells, untimed in (
        ("big_matrix.csv", big, 0.0),
        ("small_matrix.csv", small, _KUAIREC_UNTIMED),
    ):
        rows = (_kuairec_lines(rng, videos, *cell, untimed) for cell in cells)
        _write_rows(folder / name, _KUAIREC_HEADER, rows)


def _draw_subset(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """[size] bool, `count` of them True."""
    return rng.permutation(size) < count


def _draw_big(
    rng: np.random.Generator,
    world: _World,
    size: Sizes,
    small_users: np.ndarray,
    small_items: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Biased cells, in which every video occurs.

    None is a cell of the small matrix: what is held out is not logged.
    """

    def weigh(users: np.ndarray) -> np.ndarray:
        weights = _prefer(world, users)
        weights[np.ix_(small_users[users], small_items)] = 0.0
        return weights

    most = size.items - small_users * size.environment_items
    counts = _draw_counts(rng, size.log_rows, most, _LEAST_KUAIREC)
    return _draw_cells(rng, counts, weigh, _KUAIREC_TWICE)


def _draw_small(
    rng: np.random.Generator,
    size: Sizes,
    small_users: np.ndarray,
    small_items: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All cells of the small matrix but a few."""
    users, items = np.flatnonzero(small_users), np.flatnonzero(small_items)
    full = np.full(len(users), len(items))
    counts = full - _draw_counts(rng, full.sum() - size.test_rows, full - 1)
    for rows, columns in _draw_cells(rng, counts, _uniform(len(items))):
        yield users[rows], items[columns]


def _kuairec_lines(
    rng: np.random.Generator,
    videos: _Videos,
    users: np.ndarray,
    items: np.ndarray,
    untimed: float,
) -> bytes:
    """Rows of one block, a share of them without time, as in the small matrix."""
    items, times = _walk(rng, videos.world, users, items, _KUAIREC_PERIOD)
    mean, slope, noise = _LOG_RATIO
    log_ratio = mean + slope * _affinity(videos.world, users, items)
    ratio = np.exp(log_ratio + noise * rng.normal(size=len(users)))
    duration = videos.duration[items]
    play = np.rint(ratio * duration).astype(np.int64)
    clock = _clock(times)
    if untimed:
        known = rng.random(len(users)) >= untimed
        time, date, timestamp = clock
        date = [*date, np.array(b".0")]  # as a column with gaps is one of floats
        clock = tuple(
            [np.where(known, piece, b"") for piece in column]
            for column in (time, date, timestamp)
        )
    columns = (_integer(n) for n in (users, items, play, duration))
    return _lines([*columns, *clock, _quotient(play, duration)], b",")


def _clock(times: np.ndarray) -> tuple[_Column, ...]:
    """The columns time (in Beijing), date and timestamp (Unix seconds)."""
    seconds, thousandths = np.divmod(times, 1000)
    fraction = _FRACTION[thousandths]
    hours, within = np.divmod((times + _BEIJING) % _DAY // 1000, 3600)
    return (
        [_dates(times), _HOURS[hours], _MINUTES[within], fraction],
        _integer(_date_numbers(times)),
        [*_integer(seconds), fraction],
    )


# --- KuaiRand-Pure --------------------------------------------------------------------

_KUAIRAND_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,"
    "is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
    "comment_stay_time,is_profile_enter,is_rand,tab\n"
)
_STANDARD_PERIOD = _Period(1_649_347_200_000, 14 * _DAY)  # 2022-04-08 to 04-21
_RANDOM_PERIOD = _Period(1_650_556_800_000, 17 * _DAY)  # 2022-04-22 to 05-08
_KUAIRAND_TAGS = 69
_KUAIRAND_SHARES = (0.761, 0.235, 0.004)  # of videos with 1 to 3 tags
_KUAIRAND_TWICE = 0.03  # of the rows of a user
_UNKNOWN_DURATION = 0.031  # of the videos: empty among the features, 0 in the logs
_UNTAGGED = 0.0127  # of the videos
_STANDARD_TABS = (0.20, 0.68, 0.04, 0.0, 0.08)  # of the rows, by scenario

# Log-odds of a click, and their slope in the affinity: 18 % of uniform exposure, and
# some 22 % more where the liked is shown.
_CLICK = (-2.55, 2.5)
_RATES = {  # of the clicks
    "is_like": 0.04,
    "is_follow": 0.003,
    "is_comment": 0.006,
    "is_forward": 0.002,
    "long_view": 0.6,
    "is_profile_enter": 0.04,
}
_HATE_RATE = 0.001

# Numbers of a user's life on the platform: median, spread of the log, and the classes
# of the publisher, each by its least number.
_USER_NUMBERS = {
    "follow_user_num": (155, 1.5, {
        0: "0", 1: "(0,10]", 11: "(10,50]", 51: "(50,100]", 101: "(100,150]",
        151: "(150,250]", 251: "(250,500]", 501: "500+",
    }),
    "fans_user_num": (48, 2.3, {
        0: "0", 1: "[1,10)", 10: "[10,100)", 100: "[100,1k)", 1000: "[1k,5k)",
        5000: "[5k,1w)", 10000: "[1w,10w)", 100000: "[10w,100w)",
        1000000: "[100w,1000w)",
    }),
    "friend_user_num": (16, 2.0, {
        0: "0", 1: "[1,5)", 5: "[5,30)", 30: "[30,60)", 60: "[60,120)",
        120: "[120,250)", 250: "250+",
    }),
    "register_days": (1188, 0.6, {
        0: "8-14", 15: "15-30", 31: "31-60", 61: "61-90", 91: "91-180",
        181: "181-365", 366: "366-730", 731: "730+",
    }),
}  # fmt: skip
_DEGREES = ("full_active", "high_active", "middle_active", "2_14_day_new", "low_active")
_ONEHOT_SIZES = (2, 7, 50, 1471, 15, 34, 3, 118, 454, 7, 5, 5, 2, 2, 2, 2, 2, 2)
_ONEHOT_WITH_GAPS = (4, 12, 13, 14, 15, 16, 17)
_ONEHOT_MISSING = 0.03
_UPLOADS = ("LongImport", "Web", "ShortImport", "Kmovie", "LongPicture", "PictureSet")


def _write_kuairand(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    tags = _draw_tags(rng, size.items, _KUAIRAND_TAGS, _KUAIRAND_SHARES)
    tags[rng.random(size.items) < _UNTAGGED] = -1
    duration = np.clip(rng.lognormal(math.log(8e4), 1.0, size.items), 5e3, 1.2e6)
    duration[rng.random(size.items) < _UNKNOWN_DURATION] = 0
    world = _draw_world(rng, size.users, tags)
    videos = _Videos(world, duration.astype(np.int64))
    features = {
        "user_features_pure.csv": _draw_people(rng, size.users),
        "video_features_basic_pure.csv": _draw_films(rng, tags, videos.duration),
    }
    for name, columns in features.items():
        _write_table(folder / name, columns)
    most = np.full(size.users, size.items)
    counts = _draw_counts(rng, size.log_rows, most)
    liked = _draw_cells(
        rng, counts, lambda users: world.exposure[world.cluster[users]], _KUAIRAND_TWICE
    )
    any_counts = _draw_counts(rng, size.test_rows, most)
    anything = _draw_cells(rng, any_counts, _uniform(size.items))
    for name, cells, random in (
        ("log_standard_4_08_to_4_21_pure.csv", liked, False),
        ("log_random_4_22_to_5_08_pure.csv", anything, True),
    ):
        rows = (_kuairand_lines(rng, videos, *cell, random) for cell in cells)
        _write_rows(folder / name, _KUAIRAND_HEADER, rows)


def _kuairand_lines(
    rng: np.random.Generator,
    videos: _Videos,
    users: np.ndarray,
    items: np.ndarray,
    random: bool,
) -> bytes:
    """Rows of one block, of the random log or of the standard one."""
    period = _RANDOM_PERIOD if random else _STANDARD_PERIOD
    items, times = _walk(rng, videos.world, users, items, period)
    tabs = (0.0, 1.0) if random else _STANDARD_TABS
    columns = {
        "user_id": users,
        "video_id": items,
        "date": _date_numbers(times),
        "hourmin": (times + _BEIJING) % _DAY // 3_600_000 * 100,  # whole hours
        "time_ms": times,
        "is_rand": np.full(len(users), random),
        "tab": rng.choice(len(tabs), len(users), p=tabs),
        **_draw_reaction(
            rng, _affinity(videos.world, users, items), videos.duration[items]
        ),
    }
    names = _KUAIRAND_HEADER.strip().split(",")
    return _lines([_integer(columns[name]) for name in names], b",")


def _draw_reaction(
    rng: np.random.Generator, affinity: np.ndarray, duration: np.ndarray
) -> dict[str, np.ndarray]:
    """What users do with what they see, name of the column -> [N]."""
    rows = len(affinity)
    constant, slope = _CLICK
    click = rng.random(rows) < 1 / (1 + np.exp(-constant - slope * affinity))
    does = {name: click & (rng.random(rows) < rate) for name, rate in _RATES.items()}
    # Who passes by sees a second or two; who stays, a good part of the video.
    glance = np.where(click, 4e3, 1e3)
    play = np.where(does["long_view"], np.maximum(0.4 * duration, 1e4), glance)
    return {
        "is_click": click,
        **does,
        "is_hate": rng.random(rows) < _HATE_RATE,
        "play_time_ms": play * rng.lognormal(sigma=0.5, size=rows),
        "duration_ms": duration,
        "profile_stay_time": does["is_profile_enter"] * rng.lognormal(9, 1, rows),
        "comment_stay_time": does["is_comment"] * rng.lognormal(9, 1, rows),
    }


def _draw_people(rng: np.random.Generator, users: int) -> dict[str, Any]:
    """The features of the users, which are no part of the world."""
    share = np.array([0.66, 0.23, 0.08, 0.02, 0.01])
    columns: dict[str, Any] = {
        "user_id": range(users),
        "user_active_degree": rng.choice(_DEGREES, users, p=share),
        "is_lowactive_period": 0,
        "is_live_streamer": np.where(rng.random(users) < 0.23, 1, -124),
        "is_video_author": rng.integers(0, 2, users),
    }
    for name, (median, spread, classes) in _USER_NUMBERS.items():
        numbers = rng.lognormal(math.log(median), spread, users).astype(np.int64)
        columns[name] = numbers
        among = np.searchsorted(list(classes), numbers, side="right") - 1
        columns[f"{name}_range"] = np.array(list(classes.values()))[among]
    for number, size in enumerate(_ONEHOT_SIZES):
        codes = _draw_categories(rng, users, size)
        if number in _ONEHOT_WITH_GAPS:
            codes = np.where(rng.random(users) < _ONEHOT_MISSING, np.nan, codes)
        columns[f"onehot_feat{number}"] = codes
    return columns


def _draw_films(
    rng: np.random.Generator, tags: np.ndarray, duration: np.ndarray
) -> dict[str, Any]:
    """The features of the videos; what has no number is empty, as published."""
    items = len(tags)
    wide = rng.random(items) < 0.2
    return {
        "video_id": range(items),
        "author_id": rng.integers(0, 8_740_000, items),
        "video_type": np.where(rng.random(items) < 0.01, "AD", "NORMAL"),
        "upload_dt": rng.choice(["2022-04-09", "2022-04-10", "2022-04-11"], items),
        "upload_type": rng.choice(_UPLOADS, items),
        "visible_status": 0.0,
        "video_duration": np.where(duration > 0, duration, np.nan),
        "server_width": np.where(wide, 1280.0, 720.0),
        "server_height": np.where(wide, 720.0, 1280.0),
        "music_id": rng.integers(0, 9_200_000_000, items),
        "music_type": np.where(rng.random(items) < 0.03, np.nan, 9.0),
        "tag": [",".join(str(tag) for tag in row if tag >= 0) for row in tags],
    }


# --- Yahoo! R3 ------------------------------------------------------------------------

_YAHOO_GENRES = 20  # which no file tells
_YAHOO_MEAN = 2.0
_YAHOO_LEAST = 10  # ratings a user, in the log and in the test


def _write_yahoo(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    tags = _draw_tags(rng, size.items, _YAHOO_GENRES, (0.7, 0.3))
    world = _draw_world(rng, size.users, tags)
    most = np.full(size.users, size.items)
    counts = _draw_counts(rng, size.log_rows, most, _YAHOO_LEAST)
    train = _draw_cells(rng, counts, lambda users: _prefer(world, users))
    ten = np.full(size.environment_users, size.test_rows // size.environment_users)
    test = _draw_cells(rng, ten, _uniform(size.items))
    for name, cells in (("train", train), ("test", test)):
        rows = (_yahoo_lines(rng, world, *cell) for cell in cells)
        _write_rows(folder / f"ydata-ymusic-rating-study-v1_0-{name}.txt", "", rows)


def _yahoo_lines(
    rng: np.random.Generator, world: _World, users: np.ndarray, items: np.ndarray
) -> bytes:
    """Rows of one block; ids count from 1."""
    stars = _stars(rng, _affinity(world, users, items), _YAHOO_MEAN)
    columns = (users + 1, items + 1, stars)
    return _lines([_integer(column) for column in columns], b"\t")


# --- MovieLens-1M ---------------------------------------------------------------------

_GENRES = (
    *("Drama", "Comedy", "Action", "Thriller", "Romance", "Horror", "Adventure"),
    *("Sci-Fi", "Children's", "Crime", "War", "Documentary", "Musical", "Mystery"),
    *("Animation", "Fantasy", "Western", "Film-Noir"),
)
_GENRE_SHARES = (0.52, 0.34, 0.14)  # of movies with 1 to 3 genres
_LAST_MOVIE = 3952 / 3883  # highest id, for every movie
_AGES = (1, 18, 25, 35, 45, 50, 56)
_OCCUPATIONS = 21
_MOVIELENS_MEAN = 3.1
_MOVIELENS_LEAST = 20  # ratings a user
_MOVIELENS_PERIOD = _Period(956_703_932_000, 89_750_658_000)  # 2000-04 to 2003-02


def _write_movielens(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    tags = _draw_tags(rng, size.items, len(_GENRES), _GENRE_SHARES)
    world = _draw_world(rng, size.users, tags)
    ids = 1 + np.flatnonzero(
        _draw_subset(rng, round(_LAST_MOVIE * size.items), size.items)
    )
    never = ~_draw_subset(rng, size.items, size.environment_items)

    def weigh(users: np.ndarray) -> np.ndarray:
        weights = _prefer(world, users)
        weights[:, never] = 0.0
        return weights

    most = np.full(size.users, size.environment_items)
    counts = _draw_counts(rng, size.log_rows, most, _MOVIELENS_LEAST)
    cells = _draw_cells(rng, counts, weigh)
    rows = (_movielens_lines(rng, world, ids, *cell) for cell in cells)
    _write_rows(folder / "ratings.dat", "", rows)
    _write_texts(folder / "movies.dat", _draw_movies(rng, ids, tags))
    _write_texts(folder / "users.dat", _draw_viewers(rng, size.users))


def _movielens_lines(
    rng: np.random.Generator,
    world: _World,
    ids: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
) -> bytes:
    """Rows of one block, sorted by user and movie: the file is in no order of time."""
    items, times = _walk(rng, world, users, items, _MOVIELENS_PERIOD)
    stars = _stars(rng, _affinity(world, users, items), _MOVIELENS_MEAN)
    columns = (users + 1, ids[items], stars, times // 1000)
    order = np.lexsort((items, users))
    return _lines([_integer(column[order]) for column in columns], b"::")


def _draw_movies(
    rng: np.random.Generator, ids: np.ndarray, tags: np.ndarray
) -> Iterator[str]:
    """Lines of movies.dat; every twentieth title has an accent, as some do."""
    years = rng.integers(1919, 2001, len(ids))
    for movie, row, year in zip(ids, tags, years, strict=True):
        title = "Café" if movie % 20 == 0 else "Movie"
        genres = "|".join(_GENRES[tag] for tag in row if tag >= 0)
        yield f"{movie}::{title}, The {movie} ({year})::{genres}"


def _draw_viewers(rng: np.random.Generator, users: int) -> Iterator[str]:
    """Lines of users.dat."""
    ages = rng.choice(_AGES, users)
    women = rng.random(users) < 0.28
    occupations = rng.integers(0, _OCCUPATIONS, users)
    for user, zip_code in enumerate(rng.integers(0, 100_000, users)):
        gender = "F" if women[user] else "M"
        yield (
            f"{user + 1}::{gender}::{ages[user]}::{occupations[user]}::{zip_code:05d}"
        )


def _write_texts(path: Path, lines: Iterable[str]) -> None:
    """Writes in the encoding of MovieLens, which is not UTF-8."""
    with path.open("w", encoding="latin-1", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


# --- Coat -----------------------------------------------------------------------------

_COAT_MEAN = 2.2


def _write_coat(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    blocks = {
        name: _draw_categories(rng, size.items, width)
        for name, width in coat.ITEM_BLOCKS.items()
    }
    world = _draw_world(rng, size.users, blocks["jackettype"][:, None])
    users, items = np.indices((size.users, size.items)).reshape(2, -1)
    affinity = _affinity(world, users, items).reshape(size.users, size.items)
    truth = np.clip(np.rint(_COAT_MEAN + affinity), 1, 5).astype(np.int64)
    rated = _stars(rng, affinity, _COAT_MEAN)
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
    for users, items in _draw_cells(rng, counts, lambda users: weights[users]):
        mask[users, items] = True
    return mask


def _draw_shoppers(rng: np.random.Generator, world: _World) -> dict[str, np.ndarray]:
    """Features of users; one of them tells half of the users' clusters, in part."""
    users = len(world.cluster)
    blocks = {
        name: _draw_categories(rng, users, width)
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


# --- all of them ----------------------------------------------------------------------

# Published counts (protocol 1.2). Of KuaiRand's 1,436,609 standard rows, the file of
# the first two weeks, which is the one that is read, has 1,141,112.
_TWINS = {
    "kuairec": _Twin(
        Sizes(7176, 10728, 1411, 3327, 12_530_806, 4_676_570),
        _LEAST_KUAIREC,
        0,
        _write_kuairec,
    ),
    "kuairand": _Twin(
        Sizes(27285, 7583, 27285, 7583, 1_141_112, 1_186_059), 0, 0, _write_kuairand
    ),
    "yahoo": _Twin(
        Sizes(15400, 1000, 5400, 1000, 311_704, 54_000),
        _YAHOO_LEAST,
        _YAHOO_LEAST,
        _write_yahoo,
    ),
    "movielens": _Twin(
        Sizes(6040, 3883, 6040, 3706, 1_000_209, 0),
        _MOVIELENS_LEAST,
        0,
        _write_movielens,
    ),
    "coat": _Twin(Sizes(290, 300, 290, 300, 6960, 4640), 24, 16, _write_coat),
}
