"""Everything that can be wrong with data ends in one line that says where."""

import dataclasses
import os
import re

import numpy as np
import pytest

from darlr_jax.config import DatasetConfig, SyntheticConfig
from darlr_jax.data import coat, loading, statistics, synthetic, text
from darlr_jax.data.dataset import DataError

WHOLE = "expected a whole number from 0 to 5"


def read(path):
    return text.read_integers(path, (2, 3), low=0, high=5, origin="https://origin")


def refuses(action, *parts):
    """Asserts that `action` raises a one-line DataError that holds all `parts`."""
    with pytest.raises(DataError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"1 2 3\n", "expected 2 x 3 numbers, found 1 x 3; the file ends at line 1"),
        (b"1 2 3\n4 5", "line 2: expected 3 numbers, found 2; the file ends here"),
        (b"1 2\n3 4 5\n", "line 1: expected 3 numbers, found 2"),
        (b"1 2 3\n\n3 4 5\n", "line 2: expected 3 numbers, found 0"),
        (b"1 2 3\n4 5 0 1\n1 2 3\n", "line 2: expected 3 numbers, found 4"),
        (b"1 2\n3 4\n", "expected 2 x 3 numbers, found 2 x 2"),
        (b"1 2 3\n1 2 3\n1 2 3\n", "expected 2 x 3 numbers, found 3 x 3"),
        (b"1,2,3\n1,2,3\n", "expected 2 x 3 numbers, found 2 x 1"),
        (b"1 2 3\n4 x 5\n", f"line 2, column 2: {WHOLE}, found 'x'"),
        (b"1 2 3.5\n4 4 5\n", "line 1, column 3"),
        (b"1 2 3\n4 4 nan\n", "line 2, column 3"),
        (b"1 2 3\n4 4 6\n", f"line 2, column 3: {WHOLE}, found '6'"),
        (b"-1 2 3\n4 4 5\n", "line 1, column 1"),
        (b"1 2 99999999999999999999\n4 4 5\n", "line 1, column 3"),
        (b"1 1_0 3\n4 4 5\n", "line 1, column 2"),
        (b"1 2 3\r\n4 \x00 5\r\n", "line 2, column 2"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "is no text file"),
        ("1 2 3\n4 5 0\n".encode("utf-16"), "is no text file"),
    ],
)  # fmt: skip
def test_malformed_matrix(tmp_path, content, expected):
    path = tmp_path / "ratings.ascii"
    path.write_bytes(content)

    refuses(lambda: read(path), f"{path}: ", expected)


@pytest.mark.parametrize(
    "content",
    [
        b"1 2 3\n4 5 0\n",
        b"1 2 3\n4 5 0",
        b"1 2 3\r\n4 5 0\r\n",
        b"\xef\xbb\xbf1\t2  3 \n  4 5 0 \n\n \n",
    ],
)
def test_harmless_matrix(tmp_path, content):
    path = tmp_path / "ratings.ascii"
    path.write_bytes(content)

    assert read(path).tolist() == [[1, 2, 3], [4, 5, 0]]


def test_missing_file_says_where_from_and_where_to(tmp_path):
    path = tmp_path / "ratings.ascii"

    refuses(lambda: read(path), f"{path}: no such file", "https://origin")


def test_folder_in_place_of_a_file(tmp_path):
    refuses(lambda: read(tmp_path), f"{tmp_path}: cannot be read")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    refuses(lambda: read(pipe), f"{pipe}: is no ordinary file")
    refuses(lambda: text.digest(pipe), f"{pipe}: is no ordinary file")


def test_the_home_folder_of_nobody():
    refuses(lambda: text.user_path("~nobody_of_this_name/x"), "no such home folder")


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        (coat.TRAIN, "www.cs.cornell.edu/~schnabts/mnar/"),
        (coat.TEST, "www.cs.cornell.edu/~schnabts/mnar/"),
        (coat.USER_FEATURES, "www.cs.cornell.edu/~schnabts/mnar/"),
        (coat.ITEM_FEATURES, "www.cs.cornell.edu/~schnabts/mnar/"),
        (coat.TRUTH, "BetsyHJ/SOFA"),
    ],
)
def test_coat_without_a_file(coat_twin, name, origin):
    path = coat_twin / "coat" / name
    path.unlink()

    refuses(lambda: coat.load(coat_twin), f"{path}: no such file", origin)


def edit(path, line, column, value):
    """Replaces one field of a matrix file; line and column count from 1."""
    rows = [row.split() for row in path.read_text().splitlines()]
    rows[line - 1][column - 1] = value
    path.write_text("\n".join(" ".join(row) for row in rows))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (coat.TRAIN, "6", "expected a whole number from 0 to 5, found '6'"),
        (coat.TEST, "-1", "expected a whole number from 0 to 5, found '-1'"),
        (coat.TRUTH, "0", "expected a whole number from 1 to 5, found '0'"),
        (coat.USER_FEATURES, "2", "expected a whole number from 0 to 1, found '2'"),
    ],
)
def test_coat_with_an_impossible_value(coat_twin, name, value, expected):
    path = coat_twin / "coat" / name
    edit(path, 7, 11, value)

    refuses(lambda: coat.load(coat_twin), f"{path}: line 7, column 11: {expected}")


@pytest.mark.parametrize(("value", "found"), [("0", 0), ("1", 2)])
def test_coat_with_a_block_that_is_not_one_hot(coat_twin, value, found):
    path = coat_twin / "coat" / coat.USER_FEATURES
    columns = np.loadtxt(path, dtype=int)[4, 8:11]  # "location" of the fifth user
    position = np.flatnonzero(columns == 1 - int(value))[0]
    edit(path, 5, 9 + position, value)

    expected = f"{path}: line 5, columns 9 to 11: expected exactly one 1 (location)"
    refuses(lambda: coat.load(coat_twin), expected, f"found {found}")


def test_coat_truncated(coat_twin):
    path = coat_twin / "coat" / coat.TRUTH
    path.write_bytes(path.read_bytes()[:100_000])

    refuses(lambda: coat.load(coat_twin), f"{path}: line 167: ", "truncated?")


def test_unknown_data_set_gets_the_nearest_name():
    config = DatasetConfig(name="cot")

    refuses(lambda: loading.load_dataset(config), "'cot'", "did you mean 'coat'?")


@pytest.mark.parametrize("data_dir", [None, ""])
def test_coat_without_a_folder(data_dir):
    config = DatasetConfig(name="coat")

    refuses(
        lambda: loading.load_dataset(config, data_dir),
        "--data_dir=DIR where DIR/coat holds them",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"log_density": 1.0}, "log_density=1: logs 24000 of the 24000 cells"),
        ({"num_users": 2, "num_items": 2, "num_clusters": 1, "log_density": 0.001},
         "dataset.synthetic.log_density=0.001: logs 0 of the 4 cells"),
        ({"num_users": 10**9, "num_items": 10**9, "log_density": 0.001},
         "with num_items=1000000000 they are 1000000000000000000 cells, at most"),
        ({"num_clusters": 201}, "dataset.synthetic.num_clusters=201: must not exceed"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_generated(changes, expected):
    config = SyntheticConfig(**changes)

    refuses(lambda: synthetic.generate(config), expected)


@pytest.mark.parametrize(
    ("k", "include_self", "limit"), [(0, True, 5), (6, True, 5), (5, False, 4)]
)
def test_more_neighbours_than_users(k, include_self, limit):
    refuses(
        lambda: statistics.nearest_users(np.ones((5, 2)), k, include_self),
        f"{k} nearest users: must be within [1, {limit}], as there are 5 users",
    )


def test_too_many_actions_for_pair_codes(dataset):
    actions = np.arange(46_341, dtype=np.int32)

    refuses(
        lambda: statistics.entropy_tables(dataset.log, actions, len(actions), (1, 2)),
        "46341 actions: with more than 46340,",
    )
    statistics.entropy_tables(dataset.log, actions, len(actions), (1,))


def _first(array, value):
    """A copy of `array` with another first element."""
    array = array.copy()
    array.flat[0] = value
    return array


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("true_reward", lambda a: a[:1], r"at least 2 users x 2 items.*\(1, 120\)"),
        ("true_reward", lambda a: _first(a, np.nan), r"found nan at \(0, 0\)"),
        ("true_reward", lambda a: 0 * a + 3, "rewards that differ, found 3 in every"),
        ("true_reward", lambda a: a.astype(float), "expected float32, found float64"),
        ("true_reward", lambda a: a[:50], r"environment_users: expected shape \(50,\)"),
        ("environment_users", lambda a: _first(a, 200), r"ids in \[0, 200\), found 20"),
        ("environment_items", lambda a: _first(a, 1), "distinct ids, found 1 twice"),
        ("item_dense", lambda a: _first(a, np.inf), "item_dense: .* found inf"),
        ("item_dense", lambda a: a[:, 0], r"item_dense: expected shape \(120, None\)"),
        ("item_tags", lambda a: a[1:], r"item_tags: .* found \(119, 12\)"),
        ("item_tags", lambda a: a.astype(int), "item_tags: expected bool"),
        ("dominated", lambda a: a[:0], r"dominated: expected shape \(1, 120\)"),
        ("num_logged_users", lambda n: n - 1, r"ids in \[0, 199\), found 199"),
        ("num_logged_items", lambda n: n - 1, r"environment_items: .*found 119"),
    ],
)  # fmt: skip
def test_contradictory_record(dataset, field, change, expected):
    broken = dataclasses.replace(dataset, **{field: change(getattr(dataset, field))})

    with pytest.raises(DataError, match=expected):
        loading.check(broken)


@pytest.mark.parametrize(
    ("field", "change", "expected"),
    [
        ("users", lambda a: _first(a, -1), r"log.users: .* in \[0, 200\), found -1"),
        ("items", lambda a: _first(a, 120), r"log.items: .* found 120"),
        ("items", lambda a: a[1:], r"log.items: expected shape \(3600,\), found"),
        ("labels", lambda a: _first(a, np.nan), r"log.labels: .* found nan at \(0,\)"),
        ("times", lambda a: a.astype(float), "log.times: expected int64"),
        ("users", lambda a: a[:0], "log: holds no interaction"),
    ],
)  # fmt: skip
def test_contradictory_log(dataset, field, change, expected):
    log = dataclasses.replace(
        dataset.log, **{field: change(getattr(dataset.log, field))}
    )

    with pytest.raises(DataError, match=expected):
        loading.check(dataclasses.replace(dataset, log=log))
    with pytest.raises(DataError, match=re.sub("log", "held_out", expected, count=1)):
        loading.check(dataclasses.replace(dataset, held_out=log))


@pytest.mark.parametrize("field", ["user_features", "item_features"])
def test_contradictory_feature(dataset, field):
    (feature,) = getattr(dataset, field)
    unknown = dataclasses.replace(feature, codes=_first(feature.codes, feature.size))
    short = dataclasses.replace(feature, codes=feature.codes[1:])

    for broken in (unknown, short):
        record = dataclasses.replace(dataset, **{field: (broken,)})
        refuses(lambda record=record: loading.check(record), f"feature {feature.name}")
