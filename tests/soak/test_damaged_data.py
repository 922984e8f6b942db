"""Damaged data files are refused in one line, or read as anybody would read them.

A changed digit is another number, and a file that ends at the end of a line is another
file: nothing inside it tells. Only what a loader makes of its bytes is judged here;
that the bytes are those of the publisher is for checksums and counts.
"""

from __future__ import annotations

import math
import pathlib
import shutil
import tempfile
import types

import numpy as np
import pytest

from darlr_jax.config import CsvConfig, DatasetConfig
from darlr_jax.data import (
    completion,
    kuairand,
    kuairec,
    loading,
    movielens,
    own,
    preparation,
    twins,
    yahoo,
)
from darlr_jax.data.dataset import DataError
from tests.soak import damage, plain
from tests.soak.scale import count, report

CASES = count(short=40, long=1000)
SEPARATORS = {
    "coat": b" ",
    "csv": b",",
    "kuairand": b",",
    "kuairec": b",",
    "movielens": b"::",
    "yahoo": b"\t",
}


@pytest.fixture
def shared():
    """A folder that other users can enter, which those of pytest are not."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_completion(monkeypatch):
    """Completing a matrix reads no file, and takes a second a shape."""

    def complete(users, items, rewards, weights, shape, config, *, low, high):
        completion._check_rows(users, items, rewards, weights, shape)
        completion._check_rewards(rewards, low, high)
        cells = np.linspace(low, high, math.prod(shape), dtype=np.float32)
        return types.SimpleNamespace(
            matrix=cells.reshape(shape), description="not completed"
        )

    for module in (kuairand, movielens, own, yahoo):
        monkeypatch.setattr(module, "complete", complete)


def write_own(folder):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    cells = [(u, i) for u in range(8) for i in range(6)]
    rng.shuffle(cells)
    head = "user_id,item_id,rating,time\n"
    for name, chosen in (("log", cells), ("test", cells[:20]), ("matrix", cells)):
        rows = (
            f"u{u},{i},{rng.integers(1, 6)},{rng.integers(10**9)}\n" for u, i in chosen
        )
        (folder / f"{name}.csv").write_text(head + "".join(rows))
    colours = ("red", "blue", '"dark, green"')
    rows = (f"{i},{colours[i % 3]},a|{'bc'[i % 2]}\n" for i in range(6))
    (folder / "items.csv").write_text("item_id,colour,tags\n" + "".join(rows))


def write(name, folder):
    """Small files of the official form, in `folder / name`."""
    if name == "csv":
        write_own(folder / name)
    else:
        twins.write(name, folder, 1e-4)
        (folder / name / twins.MARKER).unlink()


def config_of(name, folder):
    if name != "csv":
        return DatasetConfig(name=name)
    path = {file: str(folder / name / f"{file}.csv") for file in ("log", "test")}
    return DatasetConfig(
        name="csv",
        csv=CsvConfig(
            log=path["log"],
            time="time",
            test_log=path["test"],
            full_matrix=str(folder / name / "matrix.csv"),
            item_features=str(folder / name / "items.csv"),
            item_tags="tags",
        ),
    )


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read(config, folder, cache):
    """As a program does, from the files to the cache; as nobody, without the cache."""
    if cache is None:
        with damage.unprivileged():
            return loading.load_dataset(config, str(folder))
    folders = preparation.Folders(folder, cache)
    return preparation.prepare(config, folders, lambda line: None)


def left_over(cache):
    """What no finished or failed preparation may leave."""
    return [path.name for path in cache.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("name", sorted(plain.READERS))
@pytest.mark.timeout(7200)
def test_damaged_files_of(name, shared, tmp_path):
    write(name, shared / "data")
    shutil.copytree(shared / "data", tmp_path / "spare")
    changes = damage.of_table(SEPARATORS[name])
    try_all(f"damaged files of {name}", name, shared / "data", tmp_path, changes)


def try_all(what, name, folder, tmp_path, changes):
    """Every case on fresh copies, with one cache for all."""
    config, faults = config_of(name, folder), damage.Faults()
    for number in range(CASES):
        with damage.spared(folder, tmp_path / "spare"):
            try_one(number, config, folder, tmp_path / "cache", changes, faults)
    report(what, inputs=CASES, **faults.outcomes)
    assert left_over(tmp_path / "cache") == []
    faults.none()


def try_one(number, config, folder, cache, changes, faults):
    rng = np.random.default_rng(number)
    paths = files_in(folder)
    done = [
        damage.apply(paths[rng.integers(len(paths))], changes, rng)
        for _ in range(1 + (rng.random() < 0.1))
        if (paths := files_in(folder))
    ]
    case = f"case {number}: {', then '.join(done)}"
    place = None if "make_unreadable" in case else cache
    dataset = damage.judge(
        case,
        lambda: read(config, folder, place),
        (DataError,),
        (str(folder), "dataset.", "completion: "),
        faults,
    )
    if dataset is not None:
        check(case, dataset, config, folder, faults)


def check(case, dataset, config, folder, faults):
    """What was accepted must be what the plain reader finds."""
    try:
        expected = plain.READERS[config.name](folder / config.name)
    except Exception as error:
        faults.append(f"{case}: accepted, but the plain reader says {error!r}")
        return
    if wrong := plain.differences(dataset, expected):
        faults.append(f"{case}: accepted with other {', '.join(wrong)}")


HARMLESS = {
    "byte-order mark": lambda content: b"\xef\xbb\xbf" + content,
    "Windows line ends": lambda content: content.replace(b"\n", b"\r\n"),
    "blank lines at the end": lambda content: content + b"\n\n",
    "no end of the last line": lambda content: content.removesuffix(b"\n"),
}


@pytest.mark.parametrize("name", sorted(plain.READERS))
@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_changes_change_nothing(name, change, tmp_path):
    write(name, tmp_path / "data")
    config = config_of(name, tmp_path / "data")
    before = plain.facts(loading.load_dataset(config, str(tmp_path / "data")))
    for path in files_in(tmp_path / "data"):
        if change != "byte-order mark" or name != "movielens":  # which is latin-1
            path.write_bytes(HARMLESS[change](path.read_bytes()))
    after = loading.load_dataset(config, str(tmp_path / "data"))
    assert plain.differences(after, before) == []


@pytest.mark.parametrize("name", ["kuairand", "kuairec", "csv"])
def test_the_order_of_columns_changes_nothing(name, tmp_path):
    write(name, tmp_path / "data")
    config = config_of(name, tmp_path / "data")
    before = plain.facts(loading.load_dataset(config, str(tmp_path / "data")))
    for path in files_in(tmp_path / "data"):
        if b'"' not in path.read_bytes():
            rows = (line.split(",") for line in path.read_text().splitlines())
            path.write_text("".join(",".join(row[::-1]) + "\n" for row in rows))
    after = loading.load_dataset(config, str(tmp_path / "data"))
    assert plain.differences(after, before) == []


def rename_tags(folder, name):
    """The column of tags of `items.csv` gets another name."""
    path = folder / "csv" / "items.csv"
    content = path.read_bytes()
    assert content.count(b"tags") == 1
    path.write_bytes(content.replace(b"tags", name))


@pytest.mark.parametrize("blank", [" ", "\t", "\v", "\f", "\x1c", "\x85", "\u2028"])
def test_blanks_around_a_name_change_nothing(blank, tmp_path):
    write("csv", tmp_path / "data")
    config = config_of("csv", tmp_path / "data")
    before = plain.facts(loading.load_dataset(config))
    rename_tags(tmp_path / "data", f"{blank}tags{blank}".encode())
    after = loading.load_dataset(config)
    assert plain.differences(after, before) == []
    assert plain.differences(after, plain.read_own(tmp_path / "data" / "csv")) == []


@pytest.mark.parametrize("bit", range(32))
def test_a_name_with_a_flipped_bit_is_not_the_name(bit, tmp_path):
    write("csv", tmp_path / "data")
    name = bytearray(b"tags")
    name[bit // 8] ^= 1 << bit % 8
    rename_tags(tmp_path / "data", bytes(name))
    with pytest.raises(DataError, match=r"items\.csv: .*(column 'tags'|no text file)"):
        loading.load_dataset(config_of("csv", tmp_path / "data"))


@pytest.mark.parametrize("name", ["coat", "kuairand", "kuairec", "movielens", "yahoo"])
def test_compressed_files_are_the_same(name, tmp_path):
    write(name, tmp_path / "data")
    config = config_of(name, tmp_path / "data")
    before = plain.facts(loading.load_dataset(config, str(tmp_path / "data")))
    for path in files_in(tmp_path / "data"):
        damage.compress(path)
    after = loading.load_dataset(config, str(tmp_path / "data"))
    assert plain.differences(after, before) == []


@pytest.mark.timeout(7200)
def test_damaged_compressed_files(shared, tmp_path):
    write("kuairec", shared / "data")
    for path in files_in(shared / "data"):
        damage.compress(path)
    assert kuairec.BIG + ".gz" in [path.name for path in files_in(shared / "data")]
    shutil.copytree(shared / "data", tmp_path / "spare")
    try_all("damaged gzip files", "kuairec", shared / "data", tmp_path, damage.BINARY)
