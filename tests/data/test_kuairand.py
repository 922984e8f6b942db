"""KuaiRand-Pure: files written by hand with results computed by hand; real features."""

import gzip

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig, KuaiRandConfig
from darlr_jax.data import kuairand, loading
from darlr_jax.data.dataset import DataError
from darlr_jax.data.tags import tag_feature

COMPLETION = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)

HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,"
    "is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
    "comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def row(user, video, time, click, like, view, duration):
    """One row of an official log; what is not read is filled with anything."""
    return (
        f"{user},{video},20220408,1400,{time},{click},{like},0,0,0,0,{view},500,"
        f"{duration},0,0,0,0,1\n"
    )


# Users 0 to 2, videos 0 to 3. Video 1 has no tags, and video 3 no rows but random ones.
LOG = HEADER + "".join(
    (
        row(0, 0, 5_000_900, 1, 0, 1, 1000),
        row(0, 2, 5_000_100, 1, 1, 0, 3000),
        row(2, 1, 7_000_000, 1, 0, 0, 2000),
        row(2, 0, 7_001_000, 1, 0, 1, 1000),
        row(2, 2, 7_002_000, 0, 1, 1, 3000),
    )
)
RANDOM_LOG = HEADER + "".join(
    (
        row(1, 3, 9_000_000, 0, 0, 0, 6000),
        row(0, 1, 9_000_000, 1, 1, 0, 2000),
        row(1, 0, 9_001_999, 1, 0, 1, 5000),
        row(2, 3, 9_002_000, 0, 0, 1, 6000),
    )
)
USERS = 'user_id,user_active_degree,fans_user_num_range\n0,full_active,"[100,1k)"\n'
USERS += "1,full_active,0\n2,UNKNOWN,0\n"
VIDEOS = (
    "video_id,author_id,video_duration,music_type,tag\n"
    '0,7,1000.0,9.0,"5,2"\n1,7,,,\n2,8,3000.0,9.0,2\n3,9,6000.0,,"1,2,3"\n'
)
CONTENTS = {
    kuairand.LOG: LOG,
    kuairand.RANDOM_LOG: RANDOM_LOG,
    kuairand.USERS: USERS,
    kuairand.VIDEOS: VIDEOS,
}
TRUTH = "user_id,item_id,value\n" + "".join(
    f"{user},{video},{user - video / 4}\n" for video in range(4) for user in range(3)
)


@pytest.fixture
def folder(tmp_path):
    """A data folder with the tiny files."""
    (tmp_path / "kuairand").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "kuairand" / name).write_text(content)
    return tmp_path


def load(folder, label="is_click"):
    data = kuairand.load(folder, KuaiRandConfig(label), COMPLETION)
    loading.check(data)
    return data


def edit(folder, name, old, new):
    path = folder / "kuairand" / name
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


def test_every_user_and_item_is_one_of_the_environment(folder):
    data = load(folder)

    assert (data.num_logged_users, data.num_logged_items) == (3, 4)
    assert data.environment_users.tolist() == [0, 1, 2]
    assert data.environment_items.tolist() == [0, 1, 2, 3]
    assert data.user_features == ()


def test_rows_are_in_order_of_their_milliseconds(folder):
    data = load(folder)

    assert data.log.users.tolist() == [0, 0, 2, 2, 2]
    assert data.log.items.tolist() == [2, 0, 1, 0, 2]
    assert data.log.times.tolist() == [5000, 5000, 7000, 7001, 7002]
    assert data.held_out.users.tolist() == [1, 0, 1, 2]
    assert data.held_out.items.tolist() == [3, 1, 0, 3]
    assert data.held_out.times.tolist() == [9000, 9000, 9001, 9002]


@pytest.mark.parametrize(
    ("label", "log", "held_out"),
    [
        ("is_click", [1, 1, 1, 1, 0], [0, 1, 1, 0]),
        ("is_like", [1, 0, 0, 0, 1], [0, 1, 0, 0]),
        ("long_view", [0, 1, 0, 1, 1], [0, 0, 1, 1]),
    ],
)
def test_labels_and_rewards_are_the_signal(folder, label, log, held_out):
    data = load(folder, label)

    for rows, expected in ((data.log, log), (data.held_out, held_out)):
        assert rows.labels.tolist() == expected
        assert rows.rewards.tolist() == expected


def test_tags_are_codes_shifted_by_one_and_none_is_a_tag_to_the_exit_rule(folder):
    data = load(folder)
    (feature,) = data.item_features

    assert (feature.name, feature.size, feature.padded) == ("tags", 7, True)
    assert feature.codes.tolist() == [[6, 3, 0], [0, 0, 0], [3, 0, 0], [2, 3, 4]]
    assert [np.flatnonzero(row).tolist() for row in data.item_tags] == [
        [2, 5], [6], [2], [1, 2, 3],
    ]  # fmt: skip
    assert data.item_tags.shape == (4, 7)


def test_majority_tags_are_those_of_clicks_whatever_is_learned(folder):
    # Clicks: video 0 twice (2, 5), video 2 once (2): shares 0.6 and 1. No tag counts
    # for nothing, though video 1 is clicked as well.
    for label in ("is_click", "is_like"):
        data = load(folder, label)
        assert data.dominated.tolist() == [[True, False, True, True]]
        assert data.dominated_names == ("tags",)

    edit(folder, kuairand.VIDEOS, '"5,2"', "5")
    # Now tag 5 has two clicks of three.
    assert load(folder).dominated.tolist() == [[True, False, False, False]]


def test_durations_are_standardised_over_the_videos_of_both_logs(folder):
    # Means 7000/3, 2000, 3000 and 6000.
    means = np.array([7000 / 3, 2000, 3000, 6000])

    np.testing.assert_allclose(
        load(folder).item_dense[:, 0],
        (means - means.mean()) / means.std(ddof=1),
        rtol=1e-6,
    )


def test_video_without_rows_has_the_mean_duration(folder):
    edit(folder, kuairand.RANDOM_LOG, "\n1,3,", "\n1,0,")
    edit(folder, kuairand.RANDOM_LOG, "\n2,3,", "\n2,0,")

    assert load(folder).item_dense[3, 0] == 0


def test_ids_count_sorted_raw_ids(folder):
    for name in (kuairand.LOG, kuairand.RANDOM_LOG):
        edit(folder, name, "\n2,", "\n70,")
    edit(folder, kuairand.USERS, "\n2,", "\n70,")

    data = load(folder)

    assert data.num_users == 3
    assert data.log.users.tolist() == [0, 0, 2, 2, 2]


# --- ground truth ---------------------------------------------------------------------


def test_truth_is_completed_from_random_exposures(folder):
    data = load(folder)

    assert data.true_reward.shape == (3, 4)
    assert data.true_reward.min() >= 0
    assert data.true_reward.max() <= 1
    assert data.ground_truth.startswith(f"KuaiRand-Pure {kuairand.RANDOM_LOG}, ")
    assert sorted(data.sources) == sorted(kuairand.FILES)


@pytest.mark.parametrize("deep", ["", "MF_results_GT"])
def test_published_truth_is_used_where_it_is_found(folder, deep):
    path = folder / "kuairand" / deep / kuairand.TRUTH
    path.parent.mkdir(exist_ok=True)
    path.write_text(TRUTH)

    data = load(folder)

    assert data.true_reward.tolist() == [
        [0, -0.25, -0.5, -0.75], [1, 0.75, 0.5, 0.25], [2, 1.75, 1.5, 1.25],
    ]  # fmt: skip
    assert data.ground_truth == (
        "KuaiRand-Pure kuairand_is_click.csv, the published completion"
    )
    assert kuairand.TRUTH in data.sources
    assert "published" not in load(folder, "is_like").ground_truth


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("2,3,1.25\n", "", "1 cells without any, the first of user 2 and video 3"),
        ("2,3,1.25\n", "\n2,2,1.5\n", "line 14: expected every user with every video "
         "exactly once, found user 2 with video 2 again"),
        ("2,3,1.25\n", "2,3,1.25\n" * 2, "line 14: expected every user with every"),
        ("2,3,", "9,3,", "line 13, column 'user_id': expected an id of user_features"),
        ("2,3,", "2,9,", "line 13, column 'item_id': expected an id of video_features"),
        ("1.25", "", "line 13, column 'value': expected a number, found ''"),
        ("1.25", "1e300", "line 13, column 'value': expected a number, found '1e300'"),
        ("item_id", "video_id", "line 1: expected a column 'item_id', which is not"),
    ],
)  # fmt: skip
def test_incomplete_truth(folder, old, new, expected):
    path = folder / "kuairand" / kuairand.TRUTH
    path.write_text(TRUTH)
    edit(folder, kuairand.TRUTH, old, new)

    refused(lambda: load(folder), f"{path}: ", expected)


# --- other forms of the same files ----------------------------------------------------


def test_harmless_differences(folder):
    before = load(folder)
    edit(folder, kuairand.LOG, "\n", "\r\n")
    edit(folder, kuairand.VIDEOS, "video_id", "\ufeffvideo_id")
    path = folder / "kuairand" / kuairand.RANDOM_LOG
    target = folder / "kuairand" / "KuaiRand-Pure" / "data" / f"{path.name}.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()

    after = load(folder)

    np.testing.assert_array_equal(after.log.items, before.log.items)
    np.testing.assert_array_equal(after.held_out.labels, before.held_out.labels)
    np.testing.assert_array_equal(after.item_tags, before.item_tags)


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("name", kuairand.FILES)
@pytest.mark.parametrize("content", [None, ""])
def test_missing_or_empty_file(folder, name, content):
    path = folder / "kuairand" / name
    path.unlink()
    if content is not None:
        path.write_text(content)

    expected = "is empty" if content == "" else "no such file; it comes from https://k"
    refused(lambda: load(folder), f"{path}: {expected}")


WHOLE = "expected a whole number of at least 0"
IDS = "expected an id of"
TAGS = "line 5, column 'tag': expected a text like '12,3' or nothing"
ONCE = "expected every id once"
FOUND = "line 1: expected a column"
TIME = ",7000000,1"  # of line 4, and whether it was clicked


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (kuairand.LOG, "is_click", "click", f"{FOUND} 'is_click', which is not among"),
        (kuairand.LOG, "\n2,1,", "\n-2,1,", f"line 4, column 'user_id': {WHOLE}"),
        (kuairand.LOG, "\n2,1,", "\n2,x,", f"line 4, column 'video_id': {WHOLE}"),
        (kuairand.LOG, "\n2,1,", "\n9,1,", f"line 4, column 'user_id': {IDS} user_f"),
        (kuairand.LOG, "\n2,1,", "\n2,9,", f"line 4, column 'video_id': {IDS} video"),
        (kuairand.LOG, TIME, ",-7000000,1", f"line 4, column 'time_ms': {WHOLE}"),
        (kuairand.LOG, TIME, ",,1", f"line 4, column 'time_ms': {WHOLE}, found ''"),
        (kuairand.LOG, TIME, ",7000000,2", f"line 4, column 'is_click': {WHOLE} and"),
        (kuairand.LOG, TIME, ",7000000,0.5", f"line 4, column 'is_click': {WHOLE} and"),
        (kuairand.LOG, TIME, ",7000000,nan", f"line 4, column 'is_click': {WHOLE} and"),
        (kuairand.LOG, ",500,2000,", ",500,,", "line 4, column 'duration_ms'"),
        (kuairand.RANDOM_LOG, "0,0,0,1\n", "0\n", "line 2: expected 19 fields, found"),
        (kuairand.USERS, "\n1,", "\n0,", f"line 3, column 'user_id': {ONCE}"),
        (kuairand.USERS, "user_id", "user", f"{FOUND} 'user_id', which is not among"),
        (kuairand.VIDEOS, "\n1,7", "\n0,7", f"line 3, column 'video_id': {ONCE}"),
        (kuairand.VIDEOS, "1,2,3", "1,2,3,4", f"{TAGS}, found '1,2"),
        (kuairand.VIDEOS, "1,2,3", "1,,3", f"{TAGS}, found '1,,3'"),
        (kuairand.VIDEOS, "1,2,3", "1,-2", f"{TAGS}, found '1,-2'"),
        (kuairand.VIDEOS, "1,2,3", "1,1,3", "line 5: expected distinct tags of video"),
    ],
)  # fmt: skip
def test_malformed(folder, name, old, new, expected):
    path = edit(folder, name, old, new)

    refused(lambda: load(folder), f"{path}: {expected}")


# --- real features --------------------------------------------------------------------


@pytest.mark.data
def test_real_users(real_data_dir):
    users = kuairand.read_users(real_data_dir / "kuairand" / kuairand.USERS)

    np.testing.assert_array_equal(users, np.arange(27_285))


@pytest.mark.data
def test_real_videos(real_data_dir):
    videos, tags = kuairand.read_videos(real_data_dir / "kuairand" / kuairand.VIDEOS)

    np.testing.assert_array_equal(videos, np.arange(7_583))
    per_video = (tags >= 0).sum(axis=1)
    assert np.bincount(per_video).tolist()[0] == 96
    assert set(per_video) == {0, 1, 2, 3}
    assert tags.max() == 68
    assert len(np.unique(tags)) - 1 == 46
    assert tag_feature("tags", tags, 69).codes.max() == 69
