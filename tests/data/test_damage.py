"""Every loader against the same kinds of damage: refused where it is, or repaired.

One row a file, one column a kind of damage. A refusal names the file, and the line and
the column where there is one; a repair is one that docs/data.md promises, and changes
nothing of what is read. What only one loader can get wrong is in that loader's tests;
archives with "../" are in test_archives.py, as no loader ever sees one.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darlr_jax.config import CompletionConfig, CsvConfig, DatasetConfig
from darlr_jax.data import coat, kuairand, kuairec, loading, movielens, yahoo
from darlr_jax.data.dataset import DataError
from tests.data import test_kuairand, test_kuairec, test_movielens, test_own, test_yahoo

TINY = CompletionConfig(ranks=(1,), regularisation=(1.0,), sweeps=2)


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a data set, and cells of it to damage (line and column from 1)."""

    dataset: str
    name: str  # in the folder of the data set
    separator: str
    number: tuple[int, int, str]  # a cell with a number, and how errors call its column
    key: tuple[int, int, str] | None = None  # a cell with an id that must be known
    unknown_id: str = "99"
    time: tuple[int, int, str] | None = None
    has_header: bool = True
    table: bool = True  # not a matrix without names: it has columns to be added
    repeats: str = "stay"  # rows: "stay" or "refused"

    def __str__(self) -> str:
        """The name of the test case."""
        return f"{self.dataset}/{Path(self.name).name}"


FILES = (
    File("coat", coat.TRAIN, " ", (3, 5, "5"), has_header=False, table=False),
    File("coat", coat.TEST, " ", (3, 5, "5"), has_header=False, table=False),
    File("coat", coat.TRUTH, " ", (3, 5, "5"), has_header=False, table=False),
    File("coat", coat.USER_FEATURES, " ", (3, 5, "5"), has_header=False, table=False),
    File("coat", coat.ITEM_FEATURES, " ", (3, 5, "5"), has_header=False, table=False),
    File(
        "yahoo", yahoo.TRAIN, "\t", (3, 3, "'rating'"), (3, 2, "'song'"), "1001",
        has_header=False,
    ),
    File(
        "yahoo", yahoo.TEST, "\t", (3, 3, "'rating'"), (3, 1, "'user'"), "5401",
        has_header=False,
    ),
    File(
        "kuairec", kuairec.BIG, ",", (3, 8, "'watch_ratio'"), (3, 2, "'video_id'"),
        time=(3, 7, "'timestamp'"),
    ),
    File(
        "kuairec", kuairec.SMALL, ",", (4, 8, "'watch_ratio'"), (4, 2, "'video_id'"),
        time=(4, 7, "'timestamp'"),
    ),
    File("kuairec", kuairec.CATEGORIES, ",", (3, 1, "'video_id'"), repeats="refused"),
    File(
        "kuairand", kuairand.LOG, ",", (4, 6, "'is_click'"), (4, 1, "'user_id'"),
        time=(4, 5, "'time_ms'"),
    ),
    File(
        "kuairand", kuairand.RANDOM_LOG, ",", (4, 6, "'is_click'"),
        (4, 2, "'video_id'"), time=(4, 5, "'time_ms'"),
    ),
    File("kuairand", kuairand.USERS, ",", (3, 1, "'user_id'"), repeats="refused"),
    File("kuairand", kuairand.VIDEOS, ",", (4, 1, "'video_id'"), repeats="refused"),
    File(
        "movielens", movielens.RATINGS, "::", (3, 3, "'rating'"), (3, 2, "'movie'"),
        time=(3, 4, "'time'"), has_header=False,
    ),
    File(
        "movielens", movielens.USERS, "::", (2, 1, "'user'"), (2, 3, "'age'"),
        has_header=False, repeats="refused",
    ),
    File(
        "movielens", movielens.MOVIES, "::", (2, 1, "'movie'"), (2, 3, "'genres'"),
        has_header=False, repeats="refused",
    ),
    File("csv", "log.csv", ",", (4, 5, "'stars'"), time=(4, 1, "'when'")),
    File(
        "csv", "full_matrix.csv", ",", (4, 3, "'stars'"), (4, 2, ""), repeats="refused"
    ),
)  # fmt: skip


def write_movielens(folder: Path) -> None:
    for name, lines in test_movielens.CONTENTS.items():
        test_movielens.write(folder, name, lines)


def write_yahoo(folder: Path) -> None:
    (folder / yahoo.TRAIN).write_bytes(test_yahoo.TRAIN_ROWS)
    (folder / yahoo.TEST).write_bytes(test_yahoo.TEST_ROWS)


def write_texts(contents: dict[str, str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name).write_text(content)

    return write


WRITERS: dict[str, Callable[[Path], None]] = {
    "csv": write_texts({"log.csv": test_own.LOG, "full_matrix.csv": test_own.MATRIX}),
    "kuairand": write_texts(test_kuairand.CONTENTS),
    "kuairec": write_texts(test_kuairec.CONTENTS),
    "movielens": write_movielens,
    "yahoo": write_yahoo,
}


@pytest.fixture
def data_dir(request, tmp_path):
    """A folder with good files of the data set of the test's `file`."""
    name = request.getfixturevalue("file").dataset
    if name == "coat":
        return request.getfixturevalue("coat_twin")
    (tmp_path / name).mkdir()
    WRITERS[name](tmp_path / name)
    return tmp_path


def load(file: File, data_dir: Path):
    folder = data_dir / file.dataset
    own_files = CsvConfig(
        **test_own.COLUMNS,
        log=str(folder / "log.csv"),
        full_matrix=str(folder / "full_matrix.csv"),
    )
    config = DatasetConfig(name=file.dataset, completion=TINY, csv=own_files)
    return loading.load_dataset(config, str(data_dir))


def refusal(file: File, data_dir: Path) -> str:
    """The one line with which the file is refused, after the file's path."""
    path = data_dir / file.dataset / file.name
    with pytest.raises(DataError) as caught:
        load(file, data_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}"), message
    return message.removeprefix(f"{path}")


def read(file: File, data_dir: Path) -> list[list[str]]:
    """The fields of each line; those of the small files need no quotes to be split."""
    content = (data_dir / file.dataset / file.name).read_text("latin-1")
    separator = file.separator
    # A separator between quotes separates nothing.
    pattern = rf"{re.escape(separator)}(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)"
    return [re.split(pattern, line.strip(" ")) for line in content.splitlines()]


def write(file: File, data_dir: Path, rows: list[list[str]]) -> None:
    lines = [file.separator.join(row) + "\n" for row in rows]
    path = data_dir / file.dataset / file.name
    path.write_bytes("".join(lines).encode("latin-1"))


def put(file: File, data_dir: Path, cell: tuple[int, int, str], text: str) -> str:
    """Replaces one cell, and returns how an error about it begins."""
    line, column, name = cell
    rows = read(file, data_dir)
    rows[line - 1][column - 1] = text
    write(file, data_dir, rows)
    return f": line {line}, column {name}: expected" if name else f": line {line}: "


def assert_same(found, expected) -> None:
    """Equal data, whatever the bytes of their files."""
    for name in ("users", "items", "labels", "rewards", "times"):
        for log in ("log", "held_out"):
            np.testing.assert_array_equal(
                getattr(getattr(found, log), name),
                getattr(getattr(expected, log), name),
            )
    np.testing.assert_array_equal(found.true_reward, expected.true_reward)
    np.testing.assert_array_equal(found.item_tags, expected.item_tags)
    np.testing.assert_array_equal(found.dominated, expected.dominated)
    for side in ("user_features", "item_features"):
        pairs = zip(getattr(found, side), getattr(expected, side), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one.codes, other.codes)


every_file = pytest.mark.parametrize("file", FILES, ids=str)
tables = pytest.mark.parametrize("file", [f for f in FILES if f.table], ids=str)
official = pytest.mark.parametrize(
    "file", [f for f in FILES if f.dataset != "csv"], ids=str
)
named = pytest.mark.parametrize("file", [f for f in FILES if f.has_header], ids=str)
of_ids = pytest.mark.parametrize("file", [f for f in FILES if f.key], ids=str)
timed = pytest.mark.parametrize("file", [f for f in FILES if f.time], ids=str)


# --- refused --------------------------------------------------------------------------


@every_file
def test_missing_column(file, data_dir):
    """A name that nobody knows; a field less a row where columns have no names."""
    rows = read(file, data_dir)
    column = file.number[1] - 1
    if file.has_header:
        rows[0][column] = "no_such_name"
    else:
        rows = [row[:column] + row[column + 1 :] for row in rows]
    write(file, data_dir, rows)

    expected = f": line 1: expected a column {file.number[2]}, which is not among"
    if not file.has_header:
        expected = ": line 1: expected" if file.table else ": expected"
    assert refusal(file, data_dir).startswith(expected)


@every_file
def test_field_too_many_in_one_row(file, data_dir):
    rows = read(file, data_dir)
    line = file.number[0]
    rows[line - 1].append("1")
    write(file, data_dir, rows)

    assert refusal(file, data_dir).startswith(f": line {line}: expected")


@every_file
@pytest.mark.parametrize("text", ["much", "nan", "inf", "1e400", "0x1", "True"])
def test_wrong_type(file, data_dir, text):
    expected = put(file, data_dir, file.number, text)

    assert refusal(file, data_dir).startswith(expected)


@tables
def test_missing_value(file, data_dir):
    """Of a matrix without names it is a field less, which is another test."""
    expected = put(file, data_dir, file.number, "")

    assert refusal(file, data_dir).startswith(expected)


@every_file
@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"])
def test_empty_file(file, data_dir, content):
    (data_dir / file.dataset / file.name).write_bytes(content)

    assert refusal(file, data_dir).startswith((": is empty", ": line 1: expected"))


@named
def test_header_alone(file, data_dir):
    write(file, data_dir, read(file, data_dir)[:1])

    assert refusal(file, data_dir).startswith(": is empty; expected at least one row")


@every_file
def test_truncated_gzip(file, data_dir):
    path = data_dir / file.dataset / file.name
    packed = path if file.dataset == "csv" else path.with_name(path.name + ".gz")
    content = gzip.compress(path.read_bytes())[:-9]
    path.unlink()
    packed.write_bytes(content)

    # A user's own file is compressed if its name says so.
    expected = ": is no text" if file.dataset == "csv" else ".gz: is a damaged or trunc"
    assert refusal(file, data_dir).startswith(expected)


@of_ids
def test_id_out_of_range(file, data_dir):
    expected = put(file, data_dir, file.key, file.unknown_id)

    assert refusal(file, data_dir).startswith(expected)


@official
def test_negative_number(file, data_dir):
    """Only a reward of the user's own may be one."""
    expected = put(file, data_dir, file.number, "-1")

    assert refusal(file, data_dir).startswith(expected)


@timed
def test_negative_time(file, data_dir):
    expected = put(file, data_dir, file.time, "-5")

    assert refusal(file, data_dir).startswith(expected)


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.repeats == "refused"], ids=str
)  # fmt: skip
def test_repeated_row_of_what_is_listed_once(file, data_dir):
    rows = read(file, data_dir)
    write(file, data_dir, [*rows, rows[-1]])

    message = refusal(file, data_dir)

    assert message.startswith(f": line {len(rows) + 1}")
    assert " again" in message


@every_file
def test_utf_16(file, data_dir):
    path = data_dir / file.dataset / file.name
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16"))

    refusal(file, data_dir)


# --- repaired, or harmless ------------------------------------------------------------


@named
def test_extra_column_is_passed_over(file, data_dir):
    expected = load(file, data_dir)
    names, *rows = read(file, data_dir)
    write(file, data_dir, [["more", *names], *(["x", *row] for row in rows)])

    assert_same(load(file, data_dir), expected)


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.repeats == "stay" and f.table], ids=str
)  # fmt: skip
def test_repeated_interaction_is_a_row_more(file, data_dir):
    before = load(file, data_dir)
    rows = read(file, data_dir)
    write(file, data_dir, [*rows, rows[-1]])

    after = load(file, data_dir)

    counts = [len(data.log) + len(data.held_out) for data in (before, after)]
    assert counts[1] == counts[0] + 1


@every_file
def test_mixed_line_ends_and_byte_order_mark(file, data_dir):
    expected = load(file, data_dir)
    path = data_dir / file.dataset / file.name
    lines = path.read_bytes().splitlines()
    ends = [b"\r\n" if number % 2 else b"\n" for number in range(len(lines))]
    mark = b"" if file.dataset == "movielens" else b"\xef\xbb\xbf"  # latin-1 has none
    path.write_bytes(mark + b"".join(map(bytes.__add__, lines, ends)) + b"\n\r\n")

    assert_same(load(file, data_dir), expected)


@official
def test_compressed_file_is_read(file, data_dir):
    """Of the user's own, names may end as they like: the configuration has them."""
    expected = load(file, data_dir)
    path = data_dir / file.dataset / file.name
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()

    assert_same(load(file, data_dir), expected)
