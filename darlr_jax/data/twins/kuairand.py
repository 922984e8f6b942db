"""The twin of KuaiRand-Pure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from darlr_jax.data.twins import lines, planted
from darlr_jax.data.twins.sizes import Sizes

_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,"
    "is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
    "comment_stay_time,is_profile_enter,is_rand,tab\n"
)
_STANDARD_PERIOD = planted.Period(
    1_649_347_200_000, 14 * lines.DAY
)  # 2022-04-08 to 04-21
_RANDOM_PERIOD = planted.Period(
    1_650_556_800_000, 17 * lines.DAY
)  # 2022-04-22 to 05-08
_TAGS = 69
_SHARES = (0.761, 0.235, 0.004)  # of videos with 1 to 3 tags
_TWICE = 0.03  # of the rows of a user
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


def write(folder: Path, size: Sizes, rng: np.random.Generator) -> None:
    """Both logs and both tables of features."""
    tags = planted.draw_tags(rng, size.items, _TAGS, _SHARES)
    tags[rng.random(size.items) < _UNTAGGED] = -1
    duration = np.clip(rng.lognormal(math.log(8e4), 1.0, size.items), 5e3, 1.2e6)
    duration[rng.random(size.items) < _UNKNOWN_DURATION] = 0
    world = planted.draw_world(rng, size.users, tags)
    videos = planted.Videos(world, duration.astype(np.int64))
    features = {
        "user_features_pure.csv": _draw_people(rng, size.users),
        "video_features_basic_pure.csv": _draw_films(rng, tags, videos.duration),
    }
    for name, columns in features.items():
        lines.write_table(folder / name, columns)
    most = np.full(size.users, size.items)
    counts = planted.draw_counts(rng, size.log_rows, most)
    liked = planted.draw_cells(
        rng, counts, lambda users: world.exposure[world.cluster[users]], _TWICE
    )
    any_counts = planted.draw_counts(rng, size.test_rows, most)
    anything = planted.draw_cells(rng, any_counts, planted.uniform(size.items))
    for name, cells, random in (
        ("log_standard_4_08_to_4_21_pure.csv", liked, False),
        ("log_random_4_22_to_5_08_pure.csv", anything, True),
    ):
        rows = (_to_lines(rng, videos, *cell, random) for cell in cells)
        lines.write_rows(folder / name, _HEADER, rows)


def _to_lines(
    rng: np.random.Generator,
    videos: planted.Videos,
    users: np.ndarray,
    items: np.ndarray,
    random: bool,
) -> bytes:
    """Rows of one block, of the random log or of the standard one."""
    period = _RANDOM_PERIOD if random else _STANDARD_PERIOD
    items, times = planted.walk(rng, videos.world, users, items, period)
    tabs = (0.0, 1.0) if random else _STANDARD_TABS
    columns = {
        "user_id": users,
        "video_id": items,
        "date": lines.date_numbers(times),
        "hourmin": (times + lines.BEIJING)
        % lines.DAY
        // 3_600_000
        * 100,  # whole hours
        "time_ms": times,
        "is_rand": np.full(len(users), random),
        "tab": rng.choice(len(tabs), len(users), p=tabs),
        **_draw_reaction(
            rng, planted.affinity(videos.world, users, items), videos.duration[items]
        ),
    }
    names = _HEADER.strip().split(",")
    return lines.to_bytes([lines.integer(columns[name]) for name in names], b",")


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
        codes = planted.draw_categories(rng, users, size)
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
