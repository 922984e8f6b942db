"""KuaiRec: files written by hand with results computed by hand; the real tags."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.config import EnvironmentConfig, KuaiRecConfig
from darlr_jax.data import frames, kuairec, loading
from darlr_jax.data.dataset import DataError
from darlr_jax.data.tags import one_hot, tag_feature
from darlr_jax.simulation import environment
from darlr_jax.types import EnvParams

HEADER = (
    "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
)
# Users 3, 7, 9 and videos 10 to 50 are numbered from 0. Video 10 is watched with ratios
# 1, 3, 2 and 2, video 30 with 6, 6 and 0.25; 20 and 40 once; 50 never.
BIG = HEADER + (
    "7,10,1000,1000,2020-07-05 05:27:48.9,20200705.0,100.9,1.0\n"
    "7,20,1000,2000,2020-07-05 05:27:49.2,20200705.0,101.2,0.5\n"
    "3,10,3000,1000,2020-07-05 05:26:58,20200705.0,50.0,3.0\n"
    "3,30,24000,4000,2020-07-05 05:27:08,20200705.0,60.0,6.0\n"
    "3,10,2000,1000,2020-07-05 05:27:18,20200705.0,70.0,2.0\n"
)
SMALL = HEADER + (
    "3,10,6000,3000,2020-07-05 05:26:18,20200705.0,10.0,2.0\n"
    "3,30,24000,4000,,,,6.0\n"
    "9,30,1000,4000,2020-07-05 05:26:19,20200705.0,11.5,0.25\n"
    "9,40,500,500,2020-07-05 05:26:20,20200705.0,12.0,1.0\n"
)
CATEGORIES = """video_id,feat
20,"[9, 27]"
10,[8]
40,[26]
30,"[0, 8, 9, 30]"
50,[5]
"""
CONTENTS = {
    kuairec.BIG: BIG,
    kuairec.SMALL: SMALL,
    kuairec.CATEGORIES: CATEGORIES,
}
ROOT_15 = np.sqrt(1.5)
THIRD = 1 / np.sqrt(3)


@pytest.fixture
def folder(tmp_path):
    """A data folder with the tiny files."""
    (tmp_path / "kuairec").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "kuairec" / name).write_text(content)
    return tmp_path


def load(folder, **options):
    data = kuairec.load(folder, KuaiRecConfig(**options))
    loading.check(data)
    return data


def edit(folder, name, old, new):
    path = folder / "kuairec" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def refused(action, *parts):
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- golden values --------------------------------------------------------------------


def test_ids_count_sorted_raw_ids(folder):
    data = load(folder)

    assert (data.num_logged_users, data.num_logged_items) == (3, 5)
    assert data.log.users.tolist() == [1, 1, 0, 0, 0]
    assert data.log.items.tolist() == [0, 1, 0, 2, 0]
    assert data.held_out.users.tolist() == [0, 0, 2, 2]
    assert data.held_out.items.tolist() == [0, 2, 2, 3]
    assert data.environment_users.tolist() == [0, 2]
    assert data.environment_items.tolist() == [0, 2, 3]
    assert data.user_features == ()


@pytest.mark.parametrize(
    ("options", "log", "held_out"),
    [
        ({}, [-ROOT_15, 0, ROOT_15, THIRD, 0], [0, THIRD, -2 * THIRD, 0]),
        ({"label_cap": 1.0}, [-ROOT_15, 0, 1, THIRD, 0], [0, THIRD, -2 * THIRD, 0]),
        ({"label_statistics": "log"}, [-1, 0, 1, 0, 0], [0, 0, 0, 0]),
        ({"label": "maxmin"}, [0, 0, 1, 1, 0.5], [0.5, 1, 0, 0]),
        ({"label": "maxmin", "label_statistics": "log"}, [0, 0, 1, 0, 0.5],
         [0.5, 0, 0, 0]),
    ],
)  # fmt: skip
def test_labels(folder, options, log, held_out):
    data = load(folder, **options)

    np.testing.assert_allclose(data.log.labels, log, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(data.held_out.labels, held_out, rtol=1e-6, atol=1e-7)


def test_equal_ratios_have_label_zero_whatever_their_rounding(folder):
    rows = "".join(f"3,20,1,2000,,,{n},0.1\n" for n in range(50))
    edit(folder, kuairec.BIG, BIG, BIG.replace(",101.2,0.5", ",101.2,0.1") + rows)

    log = load(folder).log
    assert not log.labels[log.items == 1].any()


def test_rewards_are_capped_ratios(folder):
    assert load(folder).log.rewards.tolist() == [1, 0.5, 3, 5, 2]
    assert load(folder).held_out.rewards.tolist() == [2, 5, 0.25, 1]
    assert load(folder, reward_cap=2.5).log.rewards.tolist() == [1, 0.5, 2.5, 2.5, 2]


def test_truth_pays_nothing_or_the_item_mean_where_nobody_looked(folder):
    zero = load(folder)
    assert zero.true_reward.tolist() == [[2, 5, 0], [0, 0.25, 1]]
    assert zero.ground_truth == (
        "KuaiRec small_matrix.csv, watch ratio capped at 5; 2 cells without a row pay "
        "0; 1 rows of small_matrix.csv without a timestamp count as time 0"
    )

    mean = load(folder, missing_reward="item_mean", reward_cap=3.0)
    assert mean.true_reward.tolist() == [[2, 3, 1], [2, 0.25, 1]]
    assert "capped at 3; 2 cells without a row pay the mean of" in mean.ground_truth


def test_repeated_cells_of_the_truth_pay_their_mean_and_are_told(folder):
    edit(folder, kuairec.SMALL, SMALL, SMALL + "9,40,1,500,,,13.0,7.0\n")

    data = load(folder)

    assert data.true_reward.tolist() == [[2, 5, 0], [0, 0.25, 3]]
    assert "1 rows repeat a cell, which pays their mean" in data.ground_truth
    assert "2 cells without a row" in data.ground_truth


def test_times_are_whole_seconds_and_zero_where_unknown(folder):
    data = load(folder)

    assert data.log.times.tolist() == [100, 101, 50, 60, 70]
    assert data.held_out.times.tolist() == [10, 0, 11, 12]


def test_rows_of_a_user_are_in_order_of_the_finer_clock(folder):
    """Of one second, on the places of their user; without a timestamp, it is time 0."""
    rows = (
        "7,30,1,4000,,,60.9,0.1\n"
        "3,20,1,2000,,,60.5,0.2\n"
        "7,40,1,500,,,60.1,0.3\n"
        "3,40,1,500,,,60.5,0.4\n"
        "7,50,1,500,,,60.5,0.5\n"
        "3,10,1,1000,,,,0.6\n"
    )
    (folder / "kuairec" / kuairec.BIG).write_text(HEADER + rows)

    log = load(folder).log

    assert log.users.tolist() == [1, 0, 1, 0, 1, 0]
    assert log.items.tolist() == [3, 0, 4, 1, 2, 3]
    assert log.times.tolist() == [60, 0, 60, 60, 60, 60]
    np.testing.assert_allclose(log.rewards, [0.3, 0.6, 0.5, 0.2, 0.1, 0.4])


@pytest.mark.parametrize("repeated_rows", ["keep", "mean"])
def test_rows_in_order_stay_where_they_are(folder, repeated_rows):
    """Random batches, which are drawn by row, are then as ever."""
    log = load(folder, repeated_rows=repeated_rows).log

    kept = slice(5 if repeated_rows == "keep" else 4)  # the last row repeats a cell
    assert log.users.tolist() == [1, 1, 0, 0, 0][kept]
    assert log.items.tolist() == [0, 1, 0, 2, 0][kept]


def test_averaged_rows_are_in_order_of_the_earliest(folder):
    rows = "3,10,1,1000,,,60.2,1.0\n3,30,1,4000,,,60.5,1.0\n3,30,1,4000,,,60.1,3.0\n"
    (folder / "kuairec" / kuairec.BIG).write_text(HEADER + rows)

    log = load(folder, repeated_rows="mean").log

    assert log.items.tolist() == [2, 0]
    assert log.rewards.tolist() == [2, 1]


def test_repeated_rows_can_be_averaged(folder):
    edit(folder, kuairec.BIG, ",50.0,3.0", ",,3.0")

    data = load(folder, repeated_rows="mean", label_statistics="log")

    # The mean of video 10 has the time of its second row, behind video 30.
    assert data.log.users.tolist() == [1, 1, 0, 0]
    assert data.log.items.tolist() == [0, 1, 2, 0]
    assert data.log.rewards.tolist() == [1, 0.5, 5, 2.5]
    assert data.log.times.tolist() == [100, 101, 60, 70]
    np.testing.assert_allclose(
        data.log.labels, [-np.sqrt(0.5), 0, 0, np.sqrt(0.5)], rtol=1e-6
    )


def test_durations_are_standardised_over_the_videos(folder):
    # Means of the videos: 1500 (not 1400: each row counts), 2000, 4000, 500, none.
    spread = np.sqrt((500**2 + 0 + 2000**2 + 1500**2) / 3)

    np.testing.assert_allclose(
        load(folder).item_dense,
        np.array([[-500], [0], [2000], [-1500], [0]]) / spread,
        rtol=1e-6,
    )


def test_tags_are_codes_shifted_by_one(folder):
    data = load(folder)
    (feature,) = data.item_features

    assert (feature.name, feature.size, feature.padded) == ("tags", 32, True)
    assert feature.codes.tolist() == [
        [9, 0, 0, 0], [10, 28, 0, 0], [1, 9, 10, 31], [27, 0, 0, 0], [6, 0, 0, 0],
    ]  # fmt: skip
    assert [np.flatnonzero(row).tolist() for row in data.item_tags] == [
        [8], [0, 8, 9, 30], [26],
    ]  # fmt: skip
    assert data.item_tags.shape == (3, 31)


def test_majority_tags_are_those_of_rows_with_a_high_label(folder):
    # One row of video 10 (tag 8) has a label of at least 0.6.
    data = load(folder)
    assert data.dominated_names == ("tags",)
    assert data.dominated.tolist() == [[True, True, False]]

    # Video 40 (26) twenty times, 10 (8) and 30 (0, 8, 9, 30) once: 26 alone has 0.8.
    edit(folder, kuairec.BIG, BIG, BIG + "7,40,1,500,,,1.0,9.0\n" * 20)
    assert load(folder, label="maxmin").dominated.tolist() == [[False, False, True]]


def test_sources_are_the_three_files(folder):
    data = load(folder)

    assert sorted(data.sources) == sorted(kuairec.FILES)
    assert {len(digest) for digest in data.sources.values()} == {64}


# --- other forms of the same files ----------------------------------------------------


def test_harmless_differences(folder):
    before = load(folder)
    edit(folder, kuairec.BIG, "\n", "\r\n")
    edit(folder, kuairec.SMALL, HEADER, "\ufeff" + HEADER)
    edit(folder, kuairec.CATEGORIES, ",[5]\n", ",[5]\n\n")
    edit(folder, kuairec.CATEGORIES, "[0, 8, 9, 30]", "[0,8, 9,30]")

    after = load(folder)

    np.testing.assert_array_equal(after.log.labels, before.log.labels)
    np.testing.assert_array_equal(after.true_reward, before.true_reward)
    np.testing.assert_array_equal(after.item_tags, before.item_tags)


@pytest.mark.parametrize("deep", ["data", "KuaiRec 2.0/data", "KuaiRec/data"])
def test_files_where_the_archive_has_them_and_compressed(folder, deep):
    before = load(folder)
    target = folder / "kuairec" / deep
    target.mkdir(parents=True)
    for name in kuairec.FILES:
        (folder / "kuairec" / name).rename(target / name)
    packed = target / f"{kuairec.BIG}.gz"
    packed.write_bytes(gzip.compress((target / kuairec.BIG).read_bytes()))
    (target / kuairec.BIG).unlink()

    after = load(folder)

    np.testing.assert_array_equal(after.log.labels, before.log.labels)
    assert packed.name in after.sources


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("name", kuairec.FILES)
def test_missing_file(folder, name):
    path = folder / "kuairec" / name
    path.unlink()

    refused(lambda: load(folder), f"{path}: no such file", "https://kuairec.com")


@pytest.mark.parametrize("name", kuairec.FILES)
def test_empty_file(folder, name):
    path = folder / "kuairec" / name
    path.write_text("")

    refused(lambda: load(folder), f"{path}: is empty")


WHOLE = "expected a whole number of at least 0 and at most 2147483647"
NUMBER = "expected a number of at least 0"
TIME = f"{NUMBER} and at most 9.00719925474e+15 or nothing"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("watch_ratio", "ratio", "line 1: expected a column 'watch_ratio', which"),
        ("timestamp", "time", "line 1: expected a column 'timestamp', which is not"),
        ("date", "user_id", "line 1: expected a column 'user_id', which is twice"),
        ("7,20,", "-7,20,", f"line 3, column 'user_id': {WHOLE}, found '-7'"),
        ("7,20,", "7,-1,", f"line 3, column 'video_id': {WHOLE}, found '-1'"),
        ("7,20,", "7.5,20,", f"line 3, column 'user_id': {WHOLE}, found '7.5'"),
        ("7,20,", ",20,", f"line 3, column 'user_id': {WHOLE}, found ''"),
        ("7,20,", "7,", "line 3: expected 8 fields, found 7"),
        (",2000,", ",,", f"line 3, column 'video_duration': {NUMBER}, found ''"),
        (",2000,", ",-2,", f"line 3, column 'video_duration': {NUMBER}, found '-2'"),
        ("101.2", "-101.2", f"line 3, column 'timestamp': {TIME}, found '-101.2'"),
        ("101.2", "late", f"line 3, column 'timestamp': {TIME}, found 'late'"),
        ("101.2", "1e19", f"line 3, column 'timestamp': {TIME}, found '1e19'"),
        (",2000,", ",1e99,", f"line 3, column 'video_duration': {NUMBER}, found '1e99"),
        ("0.5\n", "\n", f"line 3, column 'watch_ratio': {NUMBER}, found ''"),
        ("0.5\n", "nan\n", f"line 3, column 'watch_ratio': {NUMBER}, found 'nan'"),
        ("0.5\n", "inf\n", f"line 3, column 'watch_ratio': {NUMBER}, found 'inf'"),
        ("0.5\n", "1e99\n", f"line 3, column 'watch_ratio': {NUMBER}, found '1e99'"),
        ("0.5\n", "-0.5\n", f"line 3, column 'watch_ratio': {NUMBER}, found '-0.5'"),
        ("7,20,", "7,21,", "line 3, column 'video_id': expected an id of item_cat"),
        ("7,20,", "\n\n7,21,", "line 5, column 'video_id': expected an id of item_cat"),
    ],
)  # fmt: skip
def test_malformed_matrix(folder, old, new, expected):
    path = edit(folder, kuairec.BIG, old, new)

    refused(lambda: load(folder), f"{path}: ", expected)


def test_unknown_video_of_the_small_matrix(folder):
    path = edit(folder, kuairec.SMALL, "9,40,", "9,99,")

    refused(lambda: load(folder), f"{path}: line 5, column 'video_id'", "found 99")


def test_small_matrix_that_is_cut_after_its_first_user_or_video(folder):
    path = folder / "kuairec" / kuairec.SMALL
    header, first, *rows = path.read_text().splitlines(keepends=True)
    user, video = first.split(",")[:2]
    for cells, found in (
        ([r for r in rows if r.startswith(f"{user},")], "found 1 and "),
        ([r for r in rows if r.split(",")[1] == video], " and 1; "),
    ):
        path.write_text("".join([header, first, *cells]))
        refused(lambda: load(folder), f"{path}: expected at least 2 users", found)


def test_truncated_compressed_matrix(folder):
    path = folder / "kuairec" / kuairec.BIG
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()

    refused(lambda: load(folder), f"{packed}: is a damaged or truncated gzip file")


LIST = "column 'feat': expected a text like '[3, 12]', found "


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[8]", "[31]", f"line 3, {LIST}'[31]'"),
        ("[8]", "[-1]", f"line 3, {LIST}'[-1]'"),
        ("[8]", "[]", f"line 3, {LIST}'[]'"),
        ("[8]", "", f"line 3, {LIST}''"),
        ("[8]", "8", f"line 3, {LIST}'8'"),
        ("[8]", "[8.0]", f"line 3, {LIST}'[8.0]'"),
        ("[8]", "[__import__('os')]", f"line 3, {LIST}"),
        ('"[9, 27]"', '"[1, 2, 3, 4, 5]"', f"line 2, {LIST}'[1, 2, 3, 4, 5]'"),
        ('"[9, 27]"', '"[9, 9]"', "line 2: expected distinct tags of video 20"),
        ("10,[8]", "20,[8]", "line 3, column 'video_id': expected every id once"),
        ("10,[8]", "-1,[8]", "line 3, column 'video_id'"),
        ("feat", "tags", "line 1: expected a column 'feat', which is"),
    ],
)  # fmt: skip
def test_malformed_categories(folder, old, new, expected):
    path = edit(folder, kuairec.CATEGORIES, old, new)

    refused(lambda: load(folder), f"{path}: {expected}")


# --- the real tags --------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_tags(real_data_dir):
    """[3327, 31] tags of the actions: of the small matrix, or a list of its videos."""
    folder = real_data_dir / "kuairec"
    videos, tags = kuairec.read_tags(folder / kuairec.CATEGORIES)
    listed = folder / "small_matrix_video_ids.csv"
    actions = frames.read_table(
        listed if listed.exists() else folder / kuairec.SMALL,
        (frames.Column("video_id", "int", 0),),
        origin="the small matrix",
    )
    has_tag = one_hot(tags, kuairec.NUM_TAGS)
    return has_tag[np.searchsorted(videos, np.unique(actions.video_id))]


@pytest.mark.data
def test_real_categories(real_data_dir, real_tags):
    videos, tags = kuairec.read_tags(real_data_dir / "kuairec" / kuairec.CATEGORIES)

    np.testing.assert_array_equal(videos, np.arange(10_728))
    assert set(np.unique(tags)) == set(range(-1, 31))
    assert set((tags >= 0).sum(axis=1)) == {1, 2, 3, 4}
    assert tag_feature("tags", tags, kuairec.NUM_TAGS).size == 32
    assert real_tags.shape == (3_327, 31)
    assert real_tags.any(axis=1).all()


EPISODES = 30_000
MAX_TURN = 30


def uniform_items(num_items):
    """[EPISODES, MAX_TURN] recommendations of a uniform policy without repeats."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, num_items, (EPISODES, MAX_TURN))
    while (repeated := (np.diff(np.sort(items), axis=1) == 0).any(axis=1)).any():
        items[repeated] = rng.integers(0, num_items, (repeated.sum(), MAX_TURN))
    return items.astype(np.int32)


def run_episodes(tags, items, config):
    """[EPISODES] lengths of the episodes that recommend `items` [EPISODES, turns]."""
    params = EnvParams(
        item_tags=jnp.asarray(tags, jnp.float32),
        item_distance=jnp.zeros((0, 0)),
        exit_threshold=jnp.float32(config.exit_threshold),
        num_users=jnp.int32(1),
    )

    def episode(recommended):
        def turn(state, item):
            zero = jnp.zeros(())
            return environment.step(state, item, zero, params, config=config), None

        start = environment.reset(jnp.int32(0), len(tags), config.exit_window)
        return jax.lax.scan(turn, start, recommended)[0].turn

    # In groups: every session remembers which of the items it has used.
    lengths = jax.jit(lambda x: jax.lax.map(episode, x, batch_size=1_000))(items)
    return np.asarray(lengths)


@pytest.mark.data
@pytest.mark.parametrize(
    ("window", "slice_", "published", "precise"),
    [
        (1, True, 7.75, 7.627),
        (2, True, 5.11, 5.132),
        (3, True, 4.77, 4.784),
        (4, True, 4.61, 4.591),
        (3, False, 4.44, 4.480),
        (4, False, 4.23, 4.262),
    ],
)
def test_real_lengths_under_a_uniform_policy(
    real_tags, window, slice_, published, precise
):
    """Mean lengths of the published rule, and without its slice (protocol 3.4).

    The published means do not tell of how many sessions they are. The precise ones are
    of 2,000,000, simulated with bit masks; at N = 1 sums over the Markov chain of the
    last item give 7.624 with repeats and 7.635 without immediate ones.
    """
    config = EnvironmentConfig(
        max_turn=MAX_TURN,
        exit_rule="tags",
        exit_window=window,
        exit_threshold=0.0,
        published_window=slice_,
    )

    lengths = run_episodes(real_tags, uniform_items(len(real_tags)), config)

    error = lengths.std() / np.sqrt(EPISODES)
    assert lengths.mean() == pytest.approx(precise, abs=3 * error)
    assert lengths.mean() == pytest.approx(published, rel=0.02)


@pytest.mark.data
def test_real_share_of_majority_tags_under_a_uniform_policy(real_tags):
    """With the published majority tags, whose ids are shifted by one (protocol 1.7)."""
    majority = np.array([29, 9, 12, 7, 10, 27, 8, 6, 18, 2]) - 1
    dominated = real_tags[:, majority].any(axis=1)
    config = EnvironmentConfig(max_turn=MAX_TURN, exit_rule="tags", exit_window=1)
    items = uniform_items(len(real_tags))

    lengths = run_episodes(real_tags, items, config)

    recommended = items[np.arange(MAX_TURN) < lengths[:, None]]
    assert dominated[recommended].mean() == pytest.approx(0.827, abs=3e-3)
