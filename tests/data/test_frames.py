"""Delimited files: what is harmless, what is refused, and where the message points."""

import gzip
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.data import frames
from darlr_jax.data.dataset import DataError
from darlr_jax.data.frames import Column, Layout

COLUMNS = (
    Column("user", "int", 0, frames.MAX_ID),
    Column("paid", "float", -5, 5),
    Column("when", "float", 0, missing=True),
)
GOOD = "user,x,paid,when\n3,a,0.5,1595\n4,b,-1,\n"
ORIGIN = "https://origin"


def read(path, columns=COLUMNS, **options):
    return frames.read_table(path, columns, origin=ORIGIN, **options)


def write(folder, content, name="log.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(action):
    """The one line of the DataError that `action` raises."""
    with pytest.raises(DataError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r\n", 1),
        GOOD.replace("\n", "\r"),
        GOOD.replace("\n", "\n\n") + "  \n\r\n",
        "\ufeff" + GOOD,
        GOOD.replace("3,a", '3,"a,b"'),
        GOOD.replace("3,a", '3,"say ""a"""'),
        GOOD.replace("3,", '"3",').replace("0.5", " 0.5 ").replace("1595", "1595.0"),
        GOOD.replace("4,", "4.0,").replace("-1,", "-1e0,NaN"),
        GOOD.replace("user,x", " user ,x"),
        "when,paid,user\n1595,.5,+3\n,-1.,4\n",
    ],
)
def test_harmless(tmp_path, content):
    frame = read(write(tmp_path, content))

    assert list(frame) == ["user", "paid", "when"]
    assert [str(t) for t in frame.dtypes] == ["int32", "float64", "float64"]
    assert frame.user.tolist() == [3, 4]
    assert frame.paid.tolist() == [0.5, -1.0]
    np.testing.assert_array_equal(frame.when, [1595, np.nan])


def test_compressed_file(tmp_path):
    plain = read(write(tmp_path, GOOD))
    packed = read(write(tmp_path, gzip.compress(GOOD.encode()), "log.csv.gz"))

    assert packed.equals(plain)


def test_types_follow_the_range(tmp_path):
    path = write(tmp_path, "a,b,c,d\n1,3000000000,x,7\n2,-3000000000,,\n")
    columns = (
        Column("a", "int", -(2**31), 2**31 - 1),
        Column("b", "int", -(2**32), 2**32),
        Column("c", "text", missing=True),
        Column("d", "int", 0, 9, missing=True),
    )

    frame = read(path, columns)

    assert [str(t) for t in frame.dtypes] == ["int32", "int64", "str", "float64"]
    assert frame.b.tolist() == [3_000_000_000, -3_000_000_000]
    assert frame.c.tolist() == ["x", ""]
    np.testing.assert_array_equal(frame.d, [7, np.nan])


HUGE = "9" * 20  # beyond 64 bits


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((HUGE,), [1e20]),
        (("1", HUGE, f"-{HUGE}"), [1, 1e20, -1e20]),
        ((HUGE, " 1.5", "2e30"), [1e20, 1.5, 2e30]),
        ((f"00{HUGE}", "1e5"), [1e20, 1e5]),
        ((HUGE, "", "nan", "7"), [1e20, np.nan, np.nan, 7]),
        (("1e300", "-1e300"), [1e300, -1e300]),
        ((str(2**63), "1"), [2.0**63, 1]),
        (("9" * 300, "0"), [1e300, 0]),
    ],
)
def test_floats_are_as_large_as_floats_are(tmp_path, texts, expected):
    missing = "" in texts
    content = "id,a\n" + "".join(f"0,{text}\n" for text in texts)
    path = write(tmp_path, content)

    frame = read(path, (Column("a", "float", missing=missing),))

    assert str(frame.a.dtype) == "float64"
    np.testing.assert_allclose(frame.a, expected, rtol=1e-12)


@pytest.mark.parametrize("text", ["", "inf", "-inf", "nan", "1e309", "1" * 400, "True"])
def test_beside_a_huge_float_no_other_text_is_a_number(tmp_path, text):
    path = write(tmp_path, f"id,a\n0,{HUGE}\n0,{text}\n")

    message = refused(lambda: read(path, (Column("a", "float"),)))

    expected = f"line 3, column 'a': expected a number, found {text[:20]!r}"
    assert message == f"{path}: {expected}"


@pytest.mark.parametrize("text", [HUGE, f"-{HUGE}", str(2**62 + 1024), "1e19"])
def test_whole_numbers_are_not_as_large(tmp_path, text):
    for missing in (False, True):
        column = Column("a", "int", missing=missing)
        message = refused(
            lambda column=column: read(write(tmp_path, f"a\n1\n{text}\n"), (column,))
        )
        assert "line 3, column 'a': expected a whole number" in message


def test_words_for_missing_are_texts_like_any_other(tmp_path):
    path = write(tmp_path, "tag\nNA\nnull\nNone\n007\n")

    assert read(path, (Column("tag", "text"),)).tag.tolist() == [
        "NA", "null", "None", "007",
    ]  # fmt: skip


def test_separator_of_several_characters_and_no_header(tmp_path):
    path = write(tmp_path, '1::5::"a, b\n2::4::é:c\n')
    columns = (Column("user", "int"), Column("rating", "int"), Column("title", "text"))
    layout = Layout("::", has_header=False)

    frame = read(path, columns, layout=layout)
    assert frame.user.tolist() == [1, 2]
    assert frame.rating.tolist() == [5, 4]
    assert frame.title.tolist() == ['"a, b', "é:c"]

    latin = write(tmp_path, "1::5::é\n".encode("latin-1"), "latin.dat")
    assert "no text file" in refused(lambda: read(latin, columns, layout=layout))
    layout = layout._replace(encoding="latin-1")
    assert read(latin, columns, layout=layout).title[0] == "é"


def test_tabs_without_a_header(tmp_path):
    path = write(tmp_path, "7\t1\r\n8\t2\r\n")
    columns = (Column("user", "int"), Column("item", "int"))

    frame = read(path, columns, layout=Layout("\t", has_header=False))

    assert frame.user.tolist() == [7, 8]
    assert frame.item.tolist() == [1, 2]


def test_blocks_make_up_the_table(tmp_path):
    content = "a\n" + "".join(f"{n}\n" for n in range(10))
    path = write(tmp_path, content)
    columns = (Column("a", "int"),)

    blocks = list(frames.read_blocks(path, columns, origin=ORIGIN, block_rows=4))

    assert [block.a.tolist() for block in blocks] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty; expected a line of column names"),
        ("\n\n  \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("user,x,paid,when\n", "is empty; expected at least one row"),
        ("when,user,paid\n1,2,3\n,2,1,4\n,2\n", "line 3: expected 3 fields, found 4"),
        ("user,x,paid\n1,2,3\n", "a column 'when', which is not among user, x, paid"),
        (GOOD.replace("x", "user"), "a column 'user', which is twice among user, user"),
        (GOOD + "5,c\n", "line 4: expected 4 fields, found 2; the file ends here"),
        (GOOD + "5,c\n1,2,3,4\n", "line 4: expected 4 fields, found 2"),
        (GOOD + "5,c,1,2,3\n5,c,1\n", "line 4: expected 4 fields, found 5"),
        (GOOD.replace("-1,", "-1,,"), "line 3: expected 4 fields, found 5"),
        (GOOD.replace("\n4", "\n\n\n4").replace("-1", "x"), "line 5, column 'paid'"),
        (GOOD.replace("3,a", '3,"\n"').replace("-1", "x"), "line 4, column 'paid'"),
        (GOOD.replace("3,a", '3,"a'), "line 3: cannot be split into fields"),
        (GOOD.replace("4", "4\0"), "line 3: cannot be split into fields: found a NUL"),
        (GOOD.replace("b", "b\0b"), "line 3: cannot be split into fields: found a NUL"),
        (GOOD.encode("utf-16"), "is no text file"),
        (GOOD.replace("b", "é").encode("latin-1"), "is no text file"),
        (gzip.compress(GOOD.encode(), mtime=0), "is no text file"),
    ],
)  # fmt: skip
def test_malformed_file(tmp_path, content, expected):
    path = write(tmp_path, content)

    message = refused(lambda: read(path))

    assert message.startswith(f"{path}: ")
    assert expected in message


INT = "expected a whole number of at least 0 and at most 2147483647"
FLOAT = "expected a number of at least -5 and at most 5"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("4,", ",", f"line 3, column 'user': {INT}, found ''"),
        ("4,", "-4,", f"line 3, column 'user': {INT}, found '-4'"),
        ("4,", "4.5,", f"line 3, column 'user': {INT}, found '4.5'"),
        ("4,", "four,", f"line 3, column 'user': {INT}, found 'four'"),
        ("4,", "nan,", f"line 3, column 'user': {INT}, found 'nan'"),
        ("4,", "4_0,", f"line 3, column 'user': {INT}, found '4_0'"),
        ("4,", "\u0664,", f"line 3, column 'user': {INT}, found"),
        ("4,", "2147483648,", f"line 3, column 'user': {INT}, found '2147483648'"),
        ("4,", f"{10**25},", f"line 3, column 'user': {INT}, found '{10**19}'"),
        ("-1", "", f"line 3, column 'paid': {FLOAT}, found ''"),
        ("-1", "nan", f"line 3, column 'paid': {FLOAT}, found 'nan'"),
        ("-1", "inf", f"line 3, column 'paid': {FLOAT}, found 'inf'"),
        ("-1", "1e999", f"line 3, column 'paid': {FLOAT}, found '1e999'"),
        ("-1", "5.1", f"line 3, column 'paid': {FLOAT}, found '5.1'"),
        ("-1", "1,", "line 3: expected 4 fields, found 5"),
        ("1595", "-1", "line 2, column 'when': expected a number of at least 0 or not"),
        ("1595", "soon", "line 2, column 'when'"),
        ("1595", "-inf", "line 2, column 'when'"),
    ],
)  # fmt: skip
def test_malformed_cell(tmp_path, old, new, expected):
    path = write(tmp_path, GOOD.replace(old, new))

    message = refused(lambda: read(path))

    assert message.startswith(f"{path}: {expected}")


def test_quotes_do_not_hide_a_row_that_is_too_short(tmp_path):
    """Three separators, as in each whole row; but one stands in quotes."""
    path = write(tmp_path, GOOD + '5,"a,b",1\n')
    assert "line 4: expected 4 fields, found 3" in refused(lambda: read(path))


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    assert f"{path}: is no ordinary file" in refused(lambda: read(path))


def test_truth_values_are_no_numbers_even_all_of_them(tmp_path):
    path = write(tmp_path, "click\nTrue\nFalse\n")

    message = refused(lambda: read(path, (Column("click", "int"),)))

    assert "line 2, column 'click': expected a whole number, found 'True'" in message


def test_empty_text(tmp_path):
    path = write(tmp_path, "a,b\nx,\n")

    message = refused(lambda: read(path, (Column("b", "text"),)))

    assert "line 2, column 'b': expected a text, found ''" in message


def test_text_that_does_not_match(tmp_path):
    path = write(tmp_path, 'a,b\nx,[7]\ny,\n"z\n",[x]\n')
    lists = Column("b", "text", missing=True, pattern=r"\[\d\]", example="[3]")

    message = refused(lambda: read(path, (lists,)))

    expected = "line 5, column 'b': expected a text like '[3]' or nothing, found '[x]'"
    assert expected in message


def test_fault_in_a_later_block(tmp_path):
    path = write(tmp_path, "a\n" + "1\n" * 9 + "x\n")
    columns = (Column("a", "int"),)

    message = refused(
        lambda: list(frames.read_blocks(path, columns, origin=ORIGIN, block_rows=4))
    )

    assert "line 11, column 'a'" in message


@pytest.mark.parametrize("kept", [20, 25, -8, -1])
def test_truncated_gzip(tmp_path, kept):
    packed = gzip.compress(GOOD.encode() * 50)
    path = write(tmp_path, packed[:kept], "log.csv.gz")

    message = refused(lambda: read(path))

    assert message.startswith(f"{path}: is a damaged or truncated gzip file")
    assert ORIGIN in message


def test_damaged_gzip(tmp_path):
    packed = bytearray(gzip.compress(GOOD.encode()))
    packed[len(packed) // 2] ^= 0xFF
    for content in (bytes(packed), GOOD):
        path = write(tmp_path, content, "log.csv.gz")
        assert "damaged or truncated gzip" in refused(lambda path=path: read(path))


def test_missing_file_says_where_from_and_where_to(tmp_path):
    message = refused(lambda: read(tmp_path / "log.csv"))

    assert message.startswith(f"{tmp_path / 'log.csv'}: no such file; it comes from ")
    assert ORIGIN in message


def test_folder_in_place_of_a_file(tmp_path):
    assert "cannot be read" in refused(lambda: read(tmp_path))


@pytest.mark.parametrize("separator", ["", "\n", '"'])
def test_impossible_separator(tmp_path, separator):
    path = write(tmp_path, GOOD)

    assert "cannot separate" in refused(lambda: read(path, layout=Layout(separator)))


# --- raw ids -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", [Layout(), Layout(has_header=False), Layout("::"), Layout(";;", False)]
)
def test_ids_at_fault_are_named_with_their_line(tmp_path, layout):
    rows = ["9,x", "", "7,y", "9,z"]
    lines = ["user,name"] * layout.has_header + rows
    content = "\n".join(lines).replace(",", layout.separator)
    path = write(tmp_path, content)
    columns = (Column("user", "int"), Column("name", "text"))
    users = read(path, columns, layout=layout).user
    where = f"{path}: line {layout.has_header + 4}, column 'user': expected"

    message = refused(lambda: frames.distinct(users, path=path, layout=layout))
    assert message == f"{where} every id once, found 9 again"

    def place(ids):
        return frames.positions(
            users, np.array(ids), path=path, listed_in="users.csv", layout=layout
        )

    assert place([7, 8, 9]).tolist() == [2, 0, 2]
    where = where.replace(
        f"line {layout.has_header + 4}", f"line {layout.has_header + 3}"
    )
    assert refused(lambda: place([9])) == f"{where} an id of users.csv, found 7"


# --- both readings agree --------------------------------------------------------------

MISSING = ("", "nan", "NaN", "NULL")
CELLS = st.one_of(
    st.text("0123456789.+-eE _", max_size=6),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from([*MISSING, "inf", "-Infinity", "True", "0x1", "1e400", "1_0"]),
)
KINDS = st.builds(
    Column,
    st.just("a"),
    st.sampled_from(["int", "float"]),
    st.sampled_from([-math.inf, 0, -(2**31)]),
    st.sampled_from([math.inf, 5, 2**31 - 1]),
    st.booleans(),
)


@given(cells=st.lists(CELLS, min_size=1, max_size=4), column=KINDS)
def test_the_fast_reading_accepts_what_the_slow_one_does(
    tmp_path_factory, cells, column
):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    write(path.parent, "b,a\n" + "".join(f"0,{cell}\n" for cell in cells), path.name)
    bad = [line for line, cell in enumerate(cells, 2) if not column.accepts(cell)]

    if bad:
        message = refused(lambda: read(path, (column,)))
        assert f"line {bad[0]}, column 'a': expected {column.describe()}" in message
    else:
        frame = read(path, (column,))
        assert str(frame.a.dtype) == column.dtype
        numbers = [np.nan if cell in MISSING else float(cell) for cell in cells]
        np.testing.assert_allclose(frame.a, numbers, rtol=1e-9)


# --- where files lie ------------------------------------------------------------------


def test_find_looks_as_deep_as_publishers_pack(tmp_path):
    patterns = ("Kuai*/data",)
    expected = tmp_path / "log.csv"
    assert frames.find(tmp_path, "log.csv", patterns) == expected

    deep = tmp_path / "Kuai 2.0" / "data"
    deep.mkdir(parents=True)
    for path in (deep / "log.csv.gz", deep / "log.csv", expected):
        path.touch()
        assert frames.find(tmp_path, "log.csv", patterns) == path


def test_find_where_the_system_does_not_look(tmp_path):
    folder = tmp_path / ("-" * 5000)
    with pytest.raises(DataError, match=r"/coat: cannot be read \(File name too"):
        frames.find(folder / "coat", "train.ascii")
