"""Twins: official form and counts, whole or absent, and structure that can be found."""

import errno
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.config import CompletionConfig, KuaiRandConfig, KuaiRecConfig
from darlr_jax.data import (
    coat,
    kuairand,
    kuairec,
    loading,
    movielens,
    synthetic,
    twins,
    yahoo,
)
from darlr_jax.data.completion import Completed
from darlr_jax.data.dataset import DataError
from darlr_jax.data.twins import lines, planted

NAMES = ("kuairec", "kuairand", "yahoo", "movielens", "coat")
TINY = 2e-4  # of the official counts
SMALL = 5e-3  # enough to find structure in

LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,"
    "is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
    "comment_stay_time,is_profile_enter,is_rand,tab"
)
MATRIX_HEADER = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
)
HEADERS = {
    "kuairec/big_matrix.csv": MATRIX_HEADER,
    "kuairec/small_matrix.csv": MATRIX_HEADER,
    "kuairec/item_categories.csv": "video_id,feat",
    "kuairand/log_standard_4_08_to_4_21_pure.csv": LOG_HEADER,
    "kuairand/log_random_4_22_to_5_08_pure.csv": LOG_HEADER,
    "kuairand/user_features_pure.csv": (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,"
        "is_video_author,follow_user_num,follow_user_num_range,fans_user_num,"
        "fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
        "register_days_range," + ",".join(f"onehot_feat{n}" for n in range(18))
    ),
    "kuairand/video_features_basic_pure.csv": (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,"
        "video_duration,server_width,server_height,music_id,music_type,tag"
    ),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A data folder with all twins, as small as they load in no time."""
    return written(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data folder with all twins, large enough to find structure in."""
    return written(tmp_path_factory.mktemp("small"), SMALL)


def written(folder, scale):
    for name in NAMES:
        assert twins.write(name, folder, scale) == folder / name
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ratings(path, separator):
    frame = pd.read_csv(path, sep=separator, header=None, engine="python")
    return frame.set_axis(["user", "item", "stars", "time"][: frame.shape[1]], axis=1)


# --- sizes ----------------------------------------------------------------------------


def test_scale_one_is_official():
    assert twins.sizes("kuairec", 1.0) == (
        7176, 10728, 1411, 3327, 12_530_806, 4_676_570,
    )  # fmt: skip
    assert twins.sizes("kuairand", 1)[:4] == (27285, 7583, 27285, 7583)
    assert twins.sizes("kuairand", 1)[4:] == (1_141_112, 1_186_059)
    assert twins.sizes("yahoo", 1.0) == (15400, 1000, 5400, 1000, 311_704, 54_000)
    assert twins.sizes("movielens", 1.0) == (6040, 3883, 6040, 3706, 1_000_209, 0)


@given(name=st.sampled_from(NAMES[:-1]), exponent=st.floats(-4, 0))
@settings(max_examples=60, deadline=None)
def test_smaller_sizes_keep_proportions_and_density(name, exponent):
    scale = 10**exponent
    size, full = twins.sizes(name, scale), twins.sizes(name, 1.0)

    for side, whole in zip(size[:4], full[:4], strict=True):
        expected = max(twins.LEAST_SIDE, whole * math.sqrt(scale))
        assert side == pytest.approx(expected, abs=0.5)
    density = full.log_rows / (full.users * full.items)
    promised = {"yahoo": 10, "movielens": 20}.get(name, 0) * size.users
    expected = max(density * size.users * size.items, promised)
    assert size.log_rows == pytest.approx(expected, abs=0.5)
    assert size.log_rows <= size.users * size.items
    assert size.environment_users <= size.users
    assert size.environment_items <= size.items


def test_coat_is_written_whole_whatever_the_scale(tiny):
    assert twins.sizes("coat", TINY) == (290, 300, 290, 300, 6960, 4640)
    assert len((tiny / "coat" / coat.TRAIN).read_text().splitlines()) == 290


@pytest.mark.parametrize("scale", [0.0, 9e-5, 1.01, -1.0, math.nan, math.inf])
def test_scales_out_of_range_are_refused(scale, tmp_path):
    with pytest.raises(DataError, match=r"twin of yahoo.* \[0.0001, 1\], found"):
        twins.write("yahoo", tmp_path, scale)
    assert not list(tmp_path.iterdir())


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"'kuairek'.*did you mean 'kuairec'\?"):
        twins.write("kuairek", tmp_path, TINY)


def test_negative_seeds_are_refused(tmp_path):
    with pytest.raises(DataError, match="must not be negative: -1"):
        twins.write("coat", tmp_path, TINY, seed=-1)


# --- complete or absent ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_same_arguments_same_bytes(name, tiny, tmp_path):
    again = twins.write(name, tmp_path, TINY)
    other = twins.write(name, tmp_path / "other", TINY, seed=1)

    assert contents(again) == contents(tiny / name)
    changed = {
        file for file, text in contents(other).items() if contents(again)[file] != text
    }
    assert changed == set(contents(again))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_within_a_partition_decides_nothing(
    name, small, tmp_path, monkeypatch
):
    """Which of the two parts an element is in is sure; its place there is not."""
    monkeypatch.setattr(np, "argpartition", lambda values, kth: np.argsort(values))
    assert contents(twins.write(name, tmp_path, SMALL)) == contents(small / name)


def test_a_written_twin_is_found(tmp_path):
    folder = twins.write("coat", tmp_path, TINY)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    assert twins.write("coat", tmp_path, TINY) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"scale": 3e-4}])
def test_a_twin_of_another_recipe_is_replaced(change, tmp_path):
    folder = twins.write("yahoo", tmp_path, TINY)
    before = contents(folder)

    assert twins.write("yahoo", tmp_path, **{"scale": TINY, **change}) == folder
    assert contents(folder).keys() == before.keys()
    assert contents(folder) != before


def test_a_twin_of_an_older_version_is_replaced(tmp_path, monkeypatch):
    folder = twins.write("yahoo", tmp_path, TINY)
    before = contents(folder)
    monkeypatch.setattr(twins, "GENERATOR_VERSION", "next")
    twins.write("yahoo", tmp_path, TINY)

    changed = {file for file in before if contents(folder)[file] != before[file]}
    assert changed == {twins.MARKER}


@pytest.mark.parametrize("damage", ["cut", "missing", "marker"])
def test_a_damaged_twin_is_written_anew(damage, tmp_path):
    folder = twins.write("yahoo", tmp_path, TINY)
    before = contents(folder)
    victim = folder / (twins.MARKER if damage == "marker" else yahoo.TEST)
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(before[victim.name][:-9])

    twins.write("yahoo", tmp_path, TINY)
    assert contents(folder) == before


def test_files_that_are_no_twin_are_spared(tmp_path):
    (tmp_path / "yahoo").mkdir()
    (tmp_path / "yahoo" / yahoo.TRAIN).write_text("the official ratings")

    with pytest.raises(DataError, match=r"yahoo: exists and holds no twin.json"):
        twins.write("yahoo", tmp_path, TINY)
    assert contents(tmp_path) == {f"yahoo/{yahoo.TRAIN}": b"the official ratings"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "yahoo").mkdir()
    assert contents(twins.write("yahoo", tmp_path, TINY))


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def fail(path, header, blocks):
        path.write_text(header)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines, "write_rows", fail)
    with pytest.raises(DataError, match=r"yahoo: cannot be written: No space left"):
        twins.write("yahoo", tmp_path, TINY)
    assert not list(tmp_path.iterdir())


# --- form -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(HEADERS))
def test_headers_are_official(file, tiny):
    assert (tiny / file).read_text().partition("\n")[0] == HEADERS[file]


def test_kuairec_has_the_official_quirks(small):
    size = twins.sizes("kuairec", SMALL)
    big = pd.read_csv(small / "kuairec/big_matrix.csv")
    rows = pd.read_csv(small / "kuairec/small_matrix.csv")

    assert (len(big), len(rows)) == (size.log_rows, size.test_rows)
    assert (big.user_id.nunique(), big.user_id.max()) == (size.users, size.users - 1)
    assert (big.video_id.nunique(), big.video_id.max()) == (size.items, size.items - 1)
    assert rows.user_id.nunique() == size.environment_users
    assert rows.video_id.nunique() == size.environment_items
    cells = size.environment_users * size.environment_items
    assert len(rows) / cells == pytest.approx(0.996, abs=1e-3)
    assert not rows.duplicated(["user_id", "video_id"]).any()
    assert big.duplicated(["user_id", "video_id"]).mean() == pytest.approx(
        0.18, abs=0.02
    )
    assert pd.merge(big, rows, on=["user_id", "video_id"]).empty
    gaps = rows[["time", "date", "timestamp"]].isna()
    assert gaps.mean().to_list() == pytest.approx([0.039] * 3, abs=0.01)
    assert (gaps.time == gaps.timestamp).all()


def test_kuairec_columns_agree_with_each_other(small):
    rows = pd.read_csv(small / "kuairec/big_matrix.csv")

    ratio = rows.play_duration / rows.video_duration
    np.testing.assert_allclose(rows.watch_ratio, ratio, rtol=1e-12)
    assert rows.watch_ratio.mean() == pytest.approx(1.0, abs=0.25)
    assert 0.001 < (rows.watch_ratio > 5).mean() < 0.03
    local = pd.to_datetime(rows.time, format="ISO8601")
    utc = pd.to_datetime((rows.timestamp * 1000).round(), unit="ms")
    assert (local - utc == pd.Timedelta(hours=8)).all()
    assert (local.dt.strftime("%Y%m%d").astype(int) == rows.date).all()
    assert {rows.date.min(), rows.date.max()} == {20200705, 20200905}
    assert (rows.groupby("user_id").timestamp.diff().dropna() >= 0).all()
    assert (rows.groupby("video_id").video_duration.nunique() == 1).all()


def test_kuairand_has_the_official_counts_and_gaps(small):
    size = twins.sizes("kuairand", SMALL)
    folder = small / "kuairand"
    log = pd.read_csv(folder / kuairand.LOG)
    random_log = pd.read_csv(folder / kuairand.RANDOM_LOG)
    users = pd.read_csv(folder / kuairand.USERS)
    videos = pd.read_csv(folder / kuairand.VIDEOS, index_col="video_id")

    assert (len(log), len(random_log)) == (size.log_rows, size.test_rows)
    assert users.user_id.to_list() == list(range(size.users))
    assert videos.index.to_list() == list(range(size.items))
    assert (log.date.min(), log.date.max()) == (20220408, 20220421)
    assert (random_log.date.min(), random_log.date.max()) == (20220422, 20220508)
    assert set(log.is_rand) == {0}
    assert set(random_log.is_rand) == {1}
    for rows in (log, random_log):
        assert rows.user_id.between(0, size.users - 1).all()
        known = videos.video_duration.fillna(0)[rows.video_id]
        np.testing.assert_array_equal(rows.duration_ms, known)
        assert (rows.long_view <= rows.is_click).all()
    assert 0 < videos.tag.isna().sum() < 0.05 * size.items
    assert 0 < videos.video_duration.isna().sum() < 0.1 * size.items
    follows, classes = users.follow_user_num, users.follow_user_num_range
    assert set(classes[follows == 10]) <= {"(0,10]"}
    assert set(classes[follows > 500]) == {"500+"}


def test_yahoo_has_random_songs_for_the_first_users(small):
    size = twins.sizes("yahoo", SMALL)
    train = ratings(small / "yahoo" / yahoo.TRAIN, "\t")
    test = ratings(small / "yahoo" / yahoo.TEST, "\t")

    assert (len(train), len(test)) == (size.log_rows, size.test_rows)
    assert set(train.user) == set(range(1, size.users + 1))
    assert set(train["item"]) == set(range(1, size.items + 1))
    assert train.groupby("user").size().min() >= 10
    assert test.groupby("user").size().to_dict() == dict.fromkeys(
        range(1, size.environment_users + 1), 10
    )
    assert set(train.stars) == set(test.stars) == {1, 2, 3, 4, 5}
    assert not train.duplicated(["user", "item"]).any()


def test_movielens_is_unsorted_in_time_and_not_utf8(small):
    size = twins.sizes("movielens", SMALL)
    folder = small / "movielens"
    rated = ratings(folder / movielens.RATINGS, "::")
    movies = (folder / movielens.MOVIES).read_text("latin-1").splitlines()

    assert len(rated) == size.log_rows
    assert len(movies) == size.items
    assert rated["item"].nunique() == size.environment_items
    assert set(rated.user) == set(range(1, size.users + 1))
    assert rated.groupby("user").size().min() >= 20
    assert not rated.groupby("user").time.is_monotonic_increasing.all()
    assert "é" in "".join(movies)
    with pytest.raises(UnicodeDecodeError):
        (folder / movielens.MOVIES).read_text("utf-8")


def test_marker_tells_recipe_and_counts(tiny):
    marker = pd.read_json(tiny / "yahoo" / twins.MARKER, typ="series")
    files = {path.name: path.stat().st_size for path in (tiny / "yahoo").iterdir()}

    assert (marker["name"], marker["scale"], marker["seed"]) == ("yahoo", TINY, 0)
    assert marker["version"].endswith(f".{synthetic.GENERATOR_VERSION}")
    assert marker["sizes"] == twins.sizes("yahoo", TINY)._asdict()
    assert marker["files"] == {n: s for n, s in files.items() if n != twins.MARKER}


# --- numbers as text ------------------------------------------------------------------


def test_numbers_around_the_groups_of_four_digits():
    numbers = np.array([0, 7, 9999, 10_000, 100_000_001, 1_593_878_903_438])
    text = b"0\n7\n9999\n10000\n100000001\n1593878903438\n"

    assert lines.to_bytes([lines.integer(numbers)], b",") == text
    assert lines.to_bytes([lines.integer(numbers[:1] > 0)], b",") == b"0\n"


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
@settings(deadline=None)
def test_numbers_are_written_as_python_does(numbers):
    column = lines.integer(np.array(numbers))
    expected = "".join(f"{number}::{number}\n" for number in numbers)

    assert lines.to_bytes([column, column], b"::").decode() == expected


def test_quotients_by_long_division():
    column = lines.quotient(np.array([1, 7, 13838, 0]), np.array([3, 2, 10867, 5]))

    assert lines.to_bytes([column], b",").split() == [
        b"0.3333333333333333",
        b"3.5000000000000000",
        b"1.2733965215790926",  # as a row of the official file has it
        b"0.0000000000000000",
    ]


# --- draws ----------------------------------------------------------------------------


@given(
    users=st.integers(1, 300),
    items=st.integers(2, 9),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_counts_stay_within_their_bounds(users, items, share, seed):
    rng = np.random.default_rng(seed)
    most = rng.integers(1, items, users)
    total = users + int(share * (most.sum() - users))

    counts = planted.draw_counts(rng, total, most, least=1)

    assert counts.sum() == total
    assert (counts >= 1).all()
    assert (counts <= most).all()


def test_cells_are_drawn_by_weight_without_replacement():
    rng = np.random.default_rng(0)
    counts = np.full(3000, 2)
    weights = np.array([0, 1, 1, 4, np.inf], np.float32)
    blocks = planted.draw_cells(
        rng, counts, lambda users: np.tile(weights, (len(users), 1))
    )
    users, items = map(np.concatenate, zip(*blocks, strict=True))

    np.testing.assert_array_equal(users, np.repeat(np.arange(3000), 2))
    drawn = np.bincount(items, minlength=5) / 3000
    np.testing.assert_allclose(drawn, [0, 1 / 6, 1 / 6, 4 / 6, 1], atol=0.03)


def test_a_share_of_the_rows_repeats_others_of_the_user():
    rng = np.random.default_rng(0)
    blocks = planted.draw_cells(rng, np.array([10, 0, 5]), planted.uniform(20), 0.2)
    ((users, items),) = blocks

    cells = users * 20 + items
    assert np.bincount(users).tolist() == [10, 0, 5]
    assert np.bincount(np.unique(cells) // 20).tolist() == [8, 0, 4]


# --- structure ------------------------------------------------------------------------


def test_big_matrix_prefers_what_is_liked(small):
    big = pd.read_csv(small / "kuairec/big_matrix.csv")
    rows = pd.read_csv(small / "kuairec/small_matrix.csv")

    liked = np.log(rows.watch_ratio).groupby(rows.video_id).mean()
    shown = np.log(big.groupby("video_id").size())[liked.index]
    assert np.corrcoef(liked, shown)[0, 1] > 0.3
    assert np.log(big.watch_ratio).mean() > np.log(rows.watch_ratio).mean() + 0.15


def test_random_log_is_clicked_less(small):
    folder = small / "kuairand"
    log, random_log = (
        pd.read_csv(folder / name) for name in (kuairand.LOG, kuairand.RANDOM_LOG)
    )

    assert log.is_click.mean() - random_log.is_click.mean() == pytest.approx(
        0.22, abs=0.06
    )
    # Coefficients of variation of the videos' counts.
    counts = [rows.groupby("video_id").size() for rows in (log, random_log)]
    assert counts[0].std() / counts[0].mean() > 3 * counts[1].std() / counts[1].mean()


@pytest.mark.parametrize("name", ["kuairec", "coat"])
def test_users_come_in_clusters(name, small):
    if name == "coat":
        matrix = np.loadtxt(small / "coat" / coat.TRUTH)
    else:
        rows = pd.read_csv(small / "kuairec/small_matrix.csv")
        matrix = rows.pivot_table("watch_ratio", "user_id", "video_id", fill_value=0)
        matrix = np.log1p(matrix.to_numpy())
    agreement = np.corrcoef(matrix - matrix.mean(axis=0))
    np.fill_diagonal(agreement, np.nan)

    # A user has twelve clusters' worth of others, of whom one agrees.
    closest = np.sort(agreement, axis=1)[:, -6:-1].mean()
    assert closest > 0.3
    assert abs(np.nanmean(agreement)) < 0.05


def test_tags_are_unequally_popular_and_walked_one_after_another(small):
    tags = pd.read_csv(small / "kuairec/item_categories.csv").feat
    main = tags.str.extract(r"(\d+)")[0].astype(int).to_numpy()
    counts = np.sort(np.bincount(main))
    big = pd.read_csv(small / "kuairec/big_matrix.csv", usecols=["user_id", "video_id"])
    watched = main[big.video_id]
    same_user = big.user_id.diff().to_numpy() == 0
    follows = (watched[1:] == watched[:-1])[same_user[1:]].mean()
    chance = (np.bincount(watched) / len(watched)) @ (
        np.bincount(watched) / len(watched)
    )

    assert counts[-1] > 4 * np.median(counts)
    assert follows > 1.5 * chance


# --- loaders --------------------------------------------------------------------------

LOADERS = {
    "kuairec": lambda folder: kuairec.load(folder, KuaiRecConfig()),
    "kuairand": lambda folder: kuairand.load(
        folder, KuaiRandConfig(), CompletionConfig()
    ),
    "yahoo": lambda folder: yahoo.load(folder, CompletionConfig()),
    "movielens": lambda folder: movielens.load(folder, CompletionConfig()),
    "coat": coat.load,
}


def fill_up(users, items, rewards, weights, shape, config, *, low, high):
    """Completes with any rewards: what is tested here is that files are read."""
    assert low <= rewards.min()
    assert rewards.max() <= high
    assert len(users) == len(items) == len(rewards) == len(weights)
    matrix = np.linspace(low, high, math.prod(shape), dtype=np.float32).reshape(shape)
    return Completed(matrix=matrix, description="filled up", report=[])


@pytest.mark.parametrize("name", NAMES)
def test_loader_reads_its_twin(name, tiny, monkeypatch):
    for module in (kuairand, yahoo, movielens):
        monkeypatch.setattr(module, "complete", fill_up)
    data, size = LOADERS[name](tiny), twins.sizes(name, TINY)

    loading.check(data)
    assert (data.num_logged_users, data.num_logged_items) == size[:2]
    assert data.num_users == size.environment_users
    if name == "movielens":  # splits its one file by time, and acts on what it logs
        assert len(data.log) + len(data.held_out) == size.log_rows
        assert data.num_items <= size.environment_items
    else:
        assert (len(data.log), len(data.held_out)) == (size.log_rows, size.test_rows)
        assert data.num_items == size.environment_items


@pytest.mark.parametrize("module", [kuairec, kuairand, yahoo, movielens])
def test_all_files_of_the_loader_are_written(module, tiny):
    name = module.__name__.rpartition(".")[2]
    assert set(module.FILES) | {twins.MARKER} == set(contents(tiny / name))
