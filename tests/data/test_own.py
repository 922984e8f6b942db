"""A user's own files: small ones computed by hand, and what is refused."""

import dataclasses
import gzip

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig, CsvConfig, DatasetConfig
from darlr_jax.data import loading, own
from darlr_jax.data.completion import Completed
from darlr_jax.data.dataset import DataError

TINY = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)

# In order of time: lines 5, 3, 8, 7, 6, 4, 2. User 10 has five rows, user 2 has two.
LOG = """\
when,who,note,what,stars
100,10,a,pear,5
50.5,2,b,apple,1
90,10,c,apple,3
50.25,2,d,pear,4
80,10,e,fig,2
70,10,f,pear,4
60,10,g,fig,1
"""
ITEMS = """\
what,colour,tags,size
pear,green,fruit|tree,10
fig,purple,,9
apple,green,tree|red,2
stone,grey,hard,1
"""
USERS = "age,who\n30,2\n4,10\n"
TEST = "when,who,what,stars\n1,2,fig,3\n2,2,stone,5\n3,11,fig,5\n4,10,apple,1\n"
MATRIX = (
    "who,what,stars\n10,fig,5\n2,pear,2\n2,apple,.5\n10,pear,4\n2,fig,1\n10,apple,3"
)
COLUMNS = {"user": "who", "item": "what", "reward": "stars", "time": "when"}


@pytest.fixture
def given_files(tmp_path):
    """Writes files, field -> text, and returns the configuration that names them."""

    def write(changes=None, **contents):
        contents = {"log": LOG, **contents}
        for field, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / f"{field}.csv").write_bytes(data)
        paths = {field: str(tmp_path / f"{field}.csv") for field in contents}
        return CsvConfig(**{**COLUMNS, **paths, **(changes or {})})

    return write


def load(config):
    data = own.load(config, TINY)
    loading.check(data)
    return data


def refused(config):
    """The one line with which a configuration is refused."""
    with pytest.raises(DataError) as caught:
        own.load(config, TINY)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- interactions ---------------------------------------------------------------------


def test_log_is_in_order_of_time_without_the_last_fifth_of_a_user(given_files):
    data = load(given_files())

    # Users 2 and 10 (by number), items apple, fig and pear.
    assert data.log.users.tolist() == [0, 0, 1, 1, 1, 1]
    assert data.log.items.tolist() == [2, 0, 1, 2, 1, 0]
    assert data.log.labels.tolist() == data.log.rewards.tolist() == [4, 1, 1, 4, 2, 3]
    assert data.log.times.tolist() == [50, 50, 60, 70, 80, 90]
    assert data.held_out.users.tolist() == [1]
    assert data.held_out.items.tolist() == [2]
    assert data.held_out.rewards.tolist() == [5]
    assert data.held_out.times.tolist() == [100]


@pytest.mark.parametrize(
    "text", ["9" * 20, "-1e30", repr(own.MAX_REWARD), repr(-own.MAX_REWARD)]
)
def test_rewards_may_be_as_large_as_single_precision_holds(given_files, text):
    log = LOG.replace("pear,5", f"pear,{text}")
    matrix = MATRIX.replace("10,apple,3", f"10,apple,{text}")
    data = load(given_files(log=log, full_matrix=matrix))

    assert data.held_out.rewards.tolist() == [np.float32(text)]
    assert data.true_reward[1, 0] == np.float32(text)


def test_log_without_times_is_in_order_of_the_file(given_files):
    data = load(given_files({"time": "", "test_share": 0.5}))

    assert data.log.times is None
    assert data.held_out.times is None
    # Every second row of a user is held out.
    assert data.log.rewards.tolist() == [5, 1, 2, 1]
    assert data.held_out.rewards.tolist() == [3, 4, 4]


def test_log_alone_makes_a_data_set(given_files):
    data = load(given_files())

    assert data.name == "csv"
    assert (data.num_logged_users, data.num_logged_items) == (2, 3)
    assert data.environment_users.tolist() == [0, 1]
    assert data.environment_items.tolist() == [0, 1, 2]
    assert data.user_features == data.item_features == data.dominated_names == ()
    assert data.item_dense.shape == data.item_tags.shape == (3, 0)
    assert data.dominated.shape == (0, 3)
    assert list(data.sources) == ["log: log.csv"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["10", "9", "-1", "9"], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["7", "07", "+7"], ["+7", "07", "7"]),
        (["7", "07", "6"], ["6", "07", "7"]),
        (["9" * 30, "10"], ["10", "9" * 30]),
        (["NaN", "é", "a b"], ["NaN", "a b", "é"]),
    ],
)
def test_order_of_ids(given_files, texts, expected):
    rows = [f"{text},1,{reward}" for reward, text in enumerate(texts)]
    rows += [f"{text},2,{reward}" for reward, text in enumerate(texts)]
    log = "\n".join(["who,what,stars", *rows])

    data = load(given_files({"time": "", "test_share": 0.5}, log=log))

    assert [expected[user] for user in data.log.users[: len(texts)]] == texts


def test_repeated_rows_stay(given_files):
    log = "who,what,stars\n1,a,1\n1,a,1\n1,a,2\n2,b,3\n"

    data = load(given_files({"time": "", "test_share": 0.4}, log=log))

    assert data.log.rewards.tolist() == [1, 1, 3]
    assert data.held_out.rewards.tolist() == [2]


def test_rows_of_a_test_log_with_unknown_ids_are_dropped_and_counted(given_files):
    data = load(given_files(test_log=TEST))

    assert len(data.log) == 7
    assert data.held_out.users.tolist() == [0, 1]
    assert data.held_out.items.tolist() == [1, 0]
    assert data.held_out.rewards.tolist() == [3, 1]
    assert data.ground_truth.endswith("; test_log: 2 of 4 rows dropped, not in the "
                                      "log's ids")  # fmt: skip
    assert set(data.sources) == {"log: log.csv", "test_log: test_log.csv"}


def test_test_log_that_is_known_goes_without_a_note(given_files):
    data = load(given_files(test_log="when,who,what,stars\n1,2,fig,3\n"))

    assert len(data.held_out) == 1
    assert "dropped" not in data.ground_truth


@pytest.mark.parametrize(
    ("separator", "characters"), [("\t", "\t"), (r"\t", "\t"), (";", ";"), ("||", "||")]
)
def test_separators(given_files, separator, characters):
    files = {"log": LOG, "item_features": ITEMS, "full_matrix": MATRIX}
    expected = load(given_files({"item_tags": "tags"}, **files))

    files = {field: text.replace(",", characters) for field, text in files.items()}
    found = load(given_files({"item_tags": "tags", "separator": separator}, **files))

    assert found.log.items.tolist() == expected.log.items.tolist()
    assert found.true_reward.tolist() == expected.true_reward.tolist()
    assert [f.codes.tolist() for f in found.item_features] == (
        [f.codes.tolist() for f in expected.item_features]
    )


@pytest.mark.parametrize(
    "content",
    [
        LOG.replace("\n", "\r\n"),
        "\ufeff" + LOG,
        LOG.replace("\n", "\r\n", 3) + "\n\n",
        LOG.replace("pear", '"pear"'),
    ],
)
def test_line_ends_byte_order_mark_and_quotes_change_nothing(given_files, content):
    expected = load(given_files())

    found = load(given_files(log=content))

    assert found.log.items.tolist() == expected.log.items.tolist()
    assert found.log.times.tolist() == expected.log.times.tolist()
    assert loading.data_hash(found) != loading.data_hash(expected)


def test_feature_file_with_a_byte_order_mark(given_files):
    items = "\ufeff" + ITEMS.replace("\n", "\r\n")

    data = load(given_files({"item_tags": "tags"}, item_features=items))

    names = [feature.name for feature in data.item_features]
    assert names == ["item_colour", "item_tags", "item_size"]


def test_compressed_log(given_files, tmp_path):
    config = given_files()
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(LOG.encode()))

    data = load(CsvConfig(**COLUMNS, log=str(path)))

    assert data.log.items.tolist() == load(config).log.items.tolist()


# --- features -------------------------------------------------------------------------


def test_features_are_sorted_categories(given_files):
    data = load(given_files({"item_tags": "tags"}, item_features=ITEMS,
                            user_features=USERS))  # fmt: skip

    (age,) = data.user_features
    assert (age.name, age.codes.tolist(), age.size) == ("user_age", [[1], [0]], 2)
    colour, tags, size = data.item_features
    # Apple, fig, pear; the colour and the size of the stone are none of theirs.
    assert (colour.name, colour.size) == ("item_colour", 2)
    assert colour.codes.tolist() == [[0], [1], [0]]
    assert (size.name, size.size) == ("item_size", 3)
    assert size.codes.tolist() == [[0], [1], [2]]
    assert (tags.name, tags.size, tags.padded) == ("item_tags", 4, True)
    assert tags.codes.tolist() == [[2, 3], [0, 0], [1, 3]]
    assert colour.codes.dtype == tags.codes.dtype == np.int32


def test_tags(given_files):
    data = load(given_files({"item_tags": "tags"}, item_features=ITEMS))

    # Columns fruit, red, tree.
    assert data.item_tags.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 1]]
    # Of the log, pear twice and apple once pay at least 2.5: tree 3, fruit 2, red 1.
    assert data.dominated.tolist() == [[True, False, True]]
    assert data.dominated_names == ("tags",)


def test_tags_are_categories_where_none_are_named(given_files):
    items = ITEMS.replace("purple,,", "purple,none,")

    data = load(given_files(item_features=items))

    assert data.item_features[1].codes.tolist() == [[2], [1], [0]]
    assert data.item_tags.shape == (3, 0)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_column_without_a_name_is_no_column_of_tags(given_files, side, place):
    """As pandas writes its index, or a comma too many at the end of each line."""
    ids = {"user": (2, 10), "item": ("pear", "fig", "apple")}[side]
    key = COLUMNS[side]
    rows = [(key, "kind"), *((name, "a") for name in ids)]
    cells = [["", *row] if place == 1 else [*row, ""] for row in rows]
    content = "".join(f"{','.join(map(str, row))}\n" for row in cells)
    message = refused(given_files(**{f"{side}_features": content}))
    assert f"{side}_features.csv: line 1: column {place} has no name" in message


def test_a_suffix_says_nothing_but_gz(given_files, tmp_path):
    config = given_files({"item_tags": "tags"}, item_features=ITEMS)
    path = tmp_path / "item_features.csv"
    path.rename(named := path.with_suffix(".zip"))
    found = load(dataclasses.replace(config, item_features=str(named)))
    path.write_text(ITEMS)
    for one, two in zip(found.item_features, load(config).item_features, strict=True):
        np.testing.assert_array_equal(one.codes, two.codes)


def test_items_without_any_tag(given_files):
    items = "what,tags\npear,\nfig,\napple,\n"

    data = load(given_files({"item_tags": "tags"}, item_features=items))

    assert data.item_tags.shape == (3, 0)
    assert data.item_features[0].codes.tolist() == [[0], [0], [0]]
    assert data.dominated.tolist() == [[False, False, False]]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((0, 1, 0, 0), [False, True]),
        ((2, 5, 3, 4), [False, True]),
        # All of equal rewards count; of two tags that are half each, one is a majority.
        ((0.1, 0.1, 0.1, 0.1), [True, False]),
    ],
)
def test_rows_that_pay_at_least_the_mean_count(given_files, rewards, expected):
    cells = ("1,a", "1,b", "2,a", "2,b")
    rows = [f"{cell},{reward}" for cell, reward in zip(cells, rewards, strict=True)]
    log = "\n".join(["who,what,stars", *rows])
    config = given_files(
        {"time": "", "item_tags": "tags"},
        log=log,
        test_log=log,
        full_matrix="who,what,stars\n1,a,1\n1,b,2\n2,a,3\n2,b,4\n",
        item_features="what,tags\na,x\nb,y\n",
    )

    assert load(config).dominated.tolist() == [expected]


# --- the test matrix ------------------------------------------------------------------


def test_full_matrix_pays_the_evaluation(given_files):
    data = load(given_files(full_matrix=MATRIX))

    assert data.true_reward.tolist() == [[0.5, 1, 2], [3, 5, 4]]
    assert data.ground_truth == "csv: every reward as in full_matrix.csv"


def test_matrix_is_completed_from_all_interactions(given_files, monkeypatch):
    calls = []

    def record(*args, low, high):
        calls.append((args, low, high))
        return Completed(np.arange(6, dtype=np.float32).reshape(2, 3), "method", [])

    monkeypatch.setattr(own, "complete", record)
    data = load(given_files())

    assert data.true_reward.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert data.ground_truth.endswith("not debiased: method")
    (((users, items, rewards, weights, shape, config), low, high),) = calls
    assert users.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert items.tolist() == [2, 0, 1, 2, 1, 0, 2]
    assert rewards.tolist() == [4, 1, 1, 4, 2, 3, 5]
    assert weights.tolist() == 7 * [1]
    assert (shape, config, low, high) == ((2, 3), TINY, 1, 5)


def test_matrix_of_the_real_completion_is_within_the_rewards(given_files):
    truth = load(given_files()).true_reward

    assert truth.min() >= 1
    assert truth.max() <= 5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (MATRIX + "\n2,fig,1\n",
         "line 8: expected every user with every item exactly once, found user '2' "
         "with item 'fig' again"),
        (MATRIX.replace("2,fig,1\n", ""), "found no row of user '2' with item 'fig'"),
        (MATRIX.replace("10,pear,4\n", ""), "no row of user '10' with item 'pear'"),
        (MATRIX.replace("2,fig", "2,stone"), "line 6: expected a user and an item of"),
        (MATRIX.replace("2,fig", "3,fig"), "found '3' and 'fig'"),
        (MATRIX.replace("stars", "star"), "expected a column 'stars'"),
        (MATRIX.replace(".5", "inf"), "line 4, column 'stars'"),
    ],
)  # fmt: skip
def test_incomplete_matrix_is_refused(given_files, tmp_path, content, expected):
    message = refused(given_files(full_matrix=content))

    assert message.startswith(f"{tmp_path / 'full_matrix.csv'}: ")
    assert expected in message


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("when,who,what,stars\n", "is empty"),
        (LOG.replace("who", "user"), "expected a column 'who', which is not among"),
        (LOG.replace("note", "who"), "expected a column 'who', which is twice"),
        (LOG.replace("70,10,f", "70,10"), "line 7: expected 5 fields, found 4"),
        (LOG.replace("70,10,f", "70,10,f,g"), "line 7: expected 5 fields, found 6"),
        (LOG.replace("pear,5", "pear,x"), "line 2, column 'stars': expected a number"),
        (LOG.replace("pear,5", "pear,nan"), "line 2, column 'stars'"),
        (LOG.replace("pear,5", "pear,-inf"), "line 2, column 'stars'"),
        (LOG.replace("pear,5", "pear,1e39"), "line 2, column 'stars'"),
        (LOG.replace("pear,5", "pear,-3.5e38"), "line 2, column 'stars'"),
        (LOG.replace("pear,5", "pear," + "9" * 39), "line 2, column 'stars'"),
        (LOG.replace("pear,5", "pear,"), "line 2, column 'stars'"),
        (LOG.replace("100,10", "100,"), "line 2, column 'who': expected a text"),
        (LOG.replace("e,fig", "e,"), "line 6, column 'what': expected a text"),
        (LOG.replace("70,", "-70,"), "line 7, column 'when'"),
        (LOG.replace("70,", "noon,"), "line 7, column 'when'"),
        (LOG.replace("70,", "1e17,"), "line 7, column 'when'"),
        (LOG[:-4], "line 8: expected 5 fields, found 4; the file ends here"),
        (b"\xff\xfe" + LOG.encode("utf-16-le"), "not utf-8; save it as text in that"),
        ("when,who,what,stars\n1,2,pear,3\n2,2,fig,4\n", "found 1 and 2; is the file"),
        ("when,who,what,stars\n1,2,pear,3\n2,7,pear,4\n", "found 2 and 1; is the file"),
    ],
)  # fmt: skip
def test_malformed_log_is_refused(given_files, tmp_path, content, expected):
    message = refused(given_files(log=content))

    assert message.startswith(f"{tmp_path / 'log.csv'}: ")
    assert expected in message


def test_truncated_compressed_log_is_refused(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(LOG.encode())[:-12])

    message = refused(CsvConfig(**COLUMNS, log=str(path)))

    assert message.startswith(f"{path}: is a damaged or truncated gzip file")


@pytest.mark.parametrize(
    ("field", "content", "expected"),
    [
        ("item_features", ITEMS.replace("what", "item"), "expected a column 'what'"),
        ("item_features", ITEMS.replace("tags", "tag"), "expected a column 'tags'"),
        ("item_features", ITEMS.replace("size", "colour"), "column 'colour', which is"),
        ("item_features", ITEMS.replace("stone", "fig"),
         "line 5, column 'what': expected every id once, found 'fig' again"),
        ("item_features", ITEMS.replace("fig", "figs"),
         "expected a row for every 'what' of the log, found none for 'fig'"),
        ("item_features", ITEMS.replace("purple", ""), "line 3, column 'colour'"),
        ("item_features", ITEMS.replace(",9", ""), "line 3: expected 4 fields"),
        ("item_features", ITEMS.replace("tree|", "|"),
         "line 4, column 'tags': expected tags separated by '|', found an empty one"),
        ("item_features", "", "is empty"),
        ("user_features", USERS.replace("4,10", "4,1"), "found none for '10'"),
        ("user_features", USERS.replace("4,10", "4,2"), "line 3, column 'who'"),
        ("test_log", TEST.replace("fig", "nut").replace("apple", "nut"),
         "found no row with both"),
        ("test_log", TEST.replace("when", "then"), "expected a column 'when'"),
    ],
)  # fmt: skip
def test_malformed_companion_is_refused(
    given_files, tmp_path, field, content, expected
):
    files = {"item_features": ITEMS, field: content}
    message = refused(given_files({"item_tags": "tags"}, **files))

    assert message.startswith(f"{tmp_path / field}.csv: ")
    assert expected in message


@pytest.mark.parametrize("field", own.FIELDS)
def test_missing_file_is_refused(given_files, tmp_path, field):
    message = refused(given_files({field: str(tmp_path / "none.csv")}))

    assert message.startswith(f"{tmp_path / 'none.csv'}: no such file")
    assert f"dataset.csv.{field}" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"log": ""}, "--set=dataset.csv.log=PATH"),
        ({"item": "who"}, "'who' for 2 of them"),
        ({"time": "stars"}, "'stars' for 2 of them"),
        ({"item_tags": "tags"}, "--set=dataset.csv.item_features=PATH"),
        ({"test_share": 0.0}, "dataset.csv.test_share=0: holds out no row"),
        ({"test_share": 0.1}, "dataset.csv.test_share=0.1: holds out no row"),
        ({"separator": ""}, "cannot separate"),
        ({"user": ""}, "expected a column ''"),
    ],
)
def test_contradictory_configuration_is_refused(given_files, changes, expected):
    assert expected in refused(given_files(changes))


def test_constant_rewards_cannot_be_completed(given_files):
    log = "who,what,stars\n1,a,1\n1,b,1\n2,a,1\n2,b,1\n"
    config = given_files({"time": "", "test_share": 0.5}, log=log)

    assert "expected rewards that differ, found 1 in every row" in refused(config)


def test_constant_full_matrix_is_refused(given_files):
    cells = (
        f"{who},{what},3\n" for who in (2, 10) for what in ("apple", "fig", "pear")
    )
    own_files = given_files(full_matrix="who,what,stars\n" + "".join(cells))
    config = DatasetConfig(name="csv", csv=own_files, completion=TINY)

    with pytest.raises(DataError) as caught:
        loading.load_dataset(config)

    assert str(caught.value) == (
        "dataset.name='csv': true_reward: expected rewards that differ, found 3 in "
        "every cell: nothing tells one item from another"
    )


def test_too_many_cells_are_refused(given_files, monkeypatch):
    monkeypatch.setattr(own, "MAX_CELLS", 5)

    assert "2 users x 3 items are 6 cells" in refused(given_files())
