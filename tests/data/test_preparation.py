"""Preparation: files found, fetched or made, parsed once, and not mistaken for others.

What the loaders do with files is tested elsewhere: most tests here put one of their own
in their place, that counts how often it is asked.
"""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import math
import os
import pathlib
import shutil
import threading
import zipfile

import numpy as np
import pytest

from darlr_jax import config as config_lib
from darlr_jax.config import DatasetConfig, SyntheticConfig
from darlr_jax.data import (
    coat,
    fetch,
    kuairand,
    kuairec,
    loading,
    movielens,
    own,
    preparation,
    synthetic,
    text,
    twins,
    yahoo,
)
from darlr_jax.data.completion import Completed
from darlr_jax.data.dataset import DataError
from darlr_jax.data.preparation import Folders, prepare
from darlr_jax.data.sources import SOURCES, Download
from darlr_jax.presets import DATASETS
from tests.data.test_cache import assert_equal

TINY = 1e-3  # of the official counts
LONG_AGO = 1_600_000_000  # seconds; files that have just been written are hashed again
STANDS_IN = synthetic.generate(
    SyntheticConfig(num_users=6, num_items=5, num_tags=3, num_clusters=2)
)
# What the loaders read: (data set, file, where it may lie).
READ = [
    *(
        (name, file)
        for name, module in loading.MODULES.items()
        for file in module.FILES
    ),
    ("yahoo", yahoo.TRUTH),
    ("yahoo", f"{yahoo.TRUTH}.gz"),
    ("coat", f"{coat.TRAIN}.gz"),
    ("kuairand", kuairand.TRUTH),
    ("kuairand", f"MF_results_GT/{kuairand.TRUTH}"),
    ("kuairand", f"KuaiRand-Pure/data/{kuairand.LOG}"),
    ("kuairec", f"KuaiRec 2.0/data/{kuairec.BIG}"),
    ("kuairec", f"data/{kuairec.SMALL}.gz"),
    ("movielens", f"ml-1m/{movielens.USERS}"),
]
LOG = "user_id,item_id,rating\n" + "".join(
    f"{user},{item},{1 + (user * item) % 5}\n" for user in range(4) for item in range(5)
)


@pytest.fixture
def folders(tmp_path):
    """No folder of the user's, and a cache that does not exist yet."""
    return Folders(None, tmp_path / "cache")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def without_internet(monkeypatch):
    """Nothing here may ask a publisher."""
    download = fetch.download

    def download_nearby(urls, target, **more):
        assert all(url.startswith("http://127.0.0.1:") for url in urls), urls
        return download(urls, target, **more)

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "download", download_nearby)


@pytest.fixture
def completed_at_once(monkeypatch):
    """Test matrices are completed with anything, as a factorisation takes seconds."""

    def fill_up(users, items, rewards, weights, shape, config, *, low, high):
        cells = np.linspace(low, high, math.prod(shape), dtype=np.float32)
        return Completed(cells.reshape(shape), description="filled up", report=[])

    for module in (kuairand, yahoo, movielens, own):
        monkeypatch.setattr(module, "complete", fill_up)


@pytest.fixture
def loads(monkeypatch):
    """The folders that were read, by a loader that takes any contents for good."""
    calls = []

    def load_dataset(config, data_dir=None):
        calls.append(data_dir)
        return dataclasses.replace(STANDS_IN, name=config.name)

    monkeypatch.setattr(loading, "load_dataset", load_dataset)
    return calls


def configure(name, **changes):
    """The configuration of a data set; `kuairec__label` stands for kuairec.label."""
    changes = {path.replace("__", "."): value for path, value in changes.items()}
    return config_lib.replace(DatasetConfig(name=name), changes)


def twin_of(name, scale=TINY):
    return configure(name, twin=True, twin_scale=scale)


def quiet(_):
    """Nobody listens."""


def put(path, content="contents"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def put_all(name, data_dir):
    """Every file of a data set, with contents that its real loader would refuse."""
    for file in loading.MODULES[name].FILES:
        put(data_dir / name / file, f"contents of {file}")


def age(folder):
    """Makes all files of a folder old enough to be remembered."""
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def refused(config, folders, **more):
    """The one line with which a preparation ends."""
    with pytest.raises(DataError) as caught:
        prepare(config, folders, quiet, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- parsed once ----------------------------------------------------------------------


@pytest.mark.parametrize("name", loading.MODULES)
def test_second_time_no_file_is_read(
    name, folders, said, completed_at_once, monkeypatch
):
    twins.write(name, folders.cache_dir / "twins" / "0.001", TINY)
    age(folders.cache_dir)
    first = prepare(twin_of(name), folders, said.append)
    direct = loading.load_dataset(twin_of(name), folders.cache_dir / "twins" / "0.001")

    monkeypatch.setattr(loading, "load_dataset", pytest.fail)
    monkeypatch.setattr(text, "digest", pytest.fail)
    second = prepare(twin_of(name), folders, said.append)

    assert_equal(first, second)
    assert_equal(unsigned(first, direct), direct)
    assert sum("reading its files" in line for line in said) == 1
    assert isinstance(second.true_reward.base, np.memmap)


def unsigned(prepared, direct):
    """The data set without what preparation adds to its loader's."""
    added = set(prepared.sources) - set(direct.sources)
    assert added == {"preparation"}
    return dataclasses.replace(
        prepared,
        name=prepared.name.removesuffix(" twin"),
        ground_truth=prepared.ground_truth.partition(f"not {direct.name}: ")[2],
        sources={n: d for n, d in prepared.sources.items() if n not in added},
    )


def test_files_of_the_users_own_are_found_and_left_alone(coat_twin, folders):
    folders = dataclasses.replace(folders, data_dir=coat_twin)
    before = contents(coat_twin / "coat")

    dataset = prepare(configure("coat"), folders, quiet)

    assert dataset.name == "coat"
    assert "TWIN" not in dataset.ground_truth
    assert_equal(dataset, prepare(configure("coat"), folders, quiet))
    assert contents(coat_twin / "coat") == before


def test_each_is_kept_beside_the_other(folders, data_dir, loads):
    folders = dataclasses.replace(folders, data_dir=data_dir)
    for label in ("gaussian", "maxmin", "gaussian", "maxmin"):
        put_all("kuairec", data_dir)
        prepare(configure("kuairec", kuairec__label=label), folders, quiet)

    assert loads == [str(data_dir)] * 2


@pytest.mark.parametrize("damage", ["cut", "gone", "no JSON"])
def test_damaged_copy_is_prepared_anew(damage, folders, data_dir, loads, caplog):
    put_all("yahoo", data_dir)
    folders = dataclasses.replace(folders, data_dir=data_dir)
    prepare(configure("yahoo"), folders, quiet)
    (copy,) = (folders.cache_dir / "datasets").iterdir()
    array = copy / "dataset.true_reward.npy"
    if damage == "cut":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "gone":
        array.unlink()
    else:
        (copy / "dataset.json").write_text("{")

    dataset = prepare(configure("yahoo"), folders, quiet)

    np.testing.assert_array_equal(dataset.true_reward, STANDS_IN.true_reward)
    assert len(loads) == 2
    assert f"{copy}: no whole data set of this version; it is made" in caplog.text
    prepare(configure("yahoo"), folders, quiet)
    assert len(loads) == 2


def test_cache_that_cannot_be_written_is_one_line(folders, data_dir, loads):
    put_all("yahoo", data_dir)
    put(folders.cache_dir / "datasets", "a file where a folder belongs")
    folders = dataclasses.replace(folders, data_dir=data_dir)

    message = refused(configure("yahoo"), folders)

    assert message.startswith(f"{folders.cache_dir}/datasets: cannot be written (")
    assert message.endswith("name another folder with --cache_dir")
    assert loads == []  # it is told before minutes of reading


# --- what makes it another data set ---------------------------------------------------


@pytest.fixture
def is_read_anew(folders, data_dir, loads):
    """Whether a configuration (of files in `data_dir`) is prepared from its files."""
    folders = dataclasses.replace(folders, data_dir=data_dir)

    def is_read_anew(config):
        before = len(loads)
        prepare(config, folders, quiet)
        return len(loads) > before

    return is_read_anew


@pytest.mark.parametrize(("name", "file"), READ)
def test_another_byte_of_a_file_is_another_data_set(name, file, data_dir, is_read_anew):
    path = data_dir / name / file
    put(path, "one")
    assert is_read_anew(configure(name))
    assert not is_read_anew(configure(name))
    put(path, "two")
    assert is_read_anew(configure(name))
    assert not is_read_anew(configure(name))


def test_file_that_is_linked_to_counts(data_dir, tmp_path, is_read_anew):
    """Large files often lie elsewhere."""
    elsewhere = tmp_path / "disk" / "KuaiRec 2.0" / "data"
    put(elsewhere / kuairec.BIG, "one")
    (data_dir / "kuairec").mkdir(parents=True)
    (data_dir / "kuairec" / "data").symlink_to(elsewhere)
    assert is_read_anew(configure("kuairec"))
    put(elsewhere / kuairec.BIG, "two")
    assert is_read_anew(configure("kuairec"))


def test_other_files_do_not_count(data_dir, is_read_anew):
    put_all("kuairec", data_dir)
    assert is_read_anew(configure("kuairec"))
    put(data_dir / "kuairec" / "social_network.csv")
    put(data_dir / "kuairec" / "backup" / kuairec.BIG)
    put(data_dir / "kuairand" / kuairand.LOG)
    assert not is_read_anew(configure("kuairec"))


@pytest.mark.parametrize(
    ("name", "field", "value", "matters"),
    [
        ("kuairec", "kuairec.label", "maxmin", True),
        ("kuairec", "kuairec.repeated_rows", "mean", True),
        ("kuairec", "kuairec.reward_cap", 2.0, True),
        ("kuairand", "kuairand.label", "is_like", True),
        ("yahoo", "completion.ranks", (4,), True),
        ("movielens", "completion.seed", 1, True),
        ("kuairec", "kuairand.label", "is_like", False),
        ("kuairand", "kuairec.label", "maxmin", False),
        ("yahoo", "synthetic.seed", 1, False),
        ("coat", "csv.log", "log.csv", False),
        ("coat", "twin_scale", 0.5, False),
    ],
)
def test_fields_of_the_data_set_count(
    name, field, value, matters, data_dir, is_read_anew
):
    put_all(name, data_dir)
    config = configure(name)
    assert is_read_anew(config)

    changed = config_lib.replace(config, {field: value})

    assert changed != config
    assert is_read_anew(changed) == matters


def test_another_version_counts(data_dir, is_read_anew, monkeypatch):
    put_all("coat", data_dir)
    assert is_read_anew(configure("coat"))
    monkeypatch.setitem(preparation.VERSIONS, "coat", 2)
    assert is_read_anew(configure("coat"))


@pytest.mark.parametrize("module", ["kuairec.py", "frames.py", "completion.py"])
def test_other_code_counts(module, data_dir, tmp_path, is_read_anew, monkeypatch):
    code = pathlib.Path(preparation.__file__)
    copy = shutil.copytree(code.parent, tmp_path / "code")
    monkeypatch.setattr(preparation, "__file__", str(copy / code.name))
    put_all("coat", data_dir)
    assert is_read_anew(configure("coat"))
    with (copy / module).open("a") as file:
        file.write("# another line\n")
    assert is_read_anew(configure("coat"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kuairec", {"kuairec__label": "maxmin"}),  # the files are the same
        ("kuairec", {"kuairec__repeated_rows": "mean"}),
        ("kuairand", {"kuairand__label": "is_like"}),
    ],
)
def test_data_prepared_otherwise_have_another_hash(
    name, change, folders, completed_at_once
):
    """A stored world model is found by this hash."""
    config = twin_of(name)
    one, again, other = (
        prepare(which, folders, quiet)
        for which in (
            config,
            config,
            configure(name, twin=True, twin_scale=TINY, **change),
        )
    )

    assert loading.data_hash(one) == loading.data_hash(again)
    assert loading.data_hash(one) != loading.data_hash(other)
    assert one.log.labels.tolist() != other.log.labels.tolist()


# --- twins ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", loading.MODULES)
def test_twin_is_named_so(name, folders, data_dir, said, completed_at_once):
    put_all(name, data_dir)
    before = contents(data_dir)
    folders = dataclasses.replace(folders, data_dir=data_dir)

    dataset = prepare(twin_of(name), folders, said.append)

    assert dataset.name == f"{name} twin"
    made = f"TWIN of scale 0.001 (generated files), not {name}: "
    assert dataset.ground_truth.startswith(made)
    size = twins.sizes(name, TINY)
    assert (dataset.num_logged_users, dataset.num_logged_items) == size[:2]
    assert f"{name}: a twin of scale 0.001, {size.users:,} users" in said[0]
    assert contents(data_dir) == before  # the user's folder is not that of twins


@pytest.mark.parametrize("name", DATASETS)
def test_configurations_know_what_has_published_files(name):
    assert configure(name).has_published_files == (name in loading.MODULES)
    assert not configure(name, twin=True).has_published_files


@pytest.mark.parametrize("name", ["synthetic", "csv"])
def test_what_has_no_official_form_has_no_twin(name, folders):
    message = refused(configure(name, twin=True), folders)

    assert message == f"--twin: {name!r} has no published form to imitate"
    assert not folders.cache_dir.exists()


def test_twins_of_two_scales_lie_side_by_side(folders, loads):
    for scale in (TINY, 2 * TINY, TINY):
        prepare(twin_of("yahoo", scale), folders, quiet)

    assert loads == [str(folders.cache_dir / "twins" / s) for s in ("0.001", "0.002")]


# --- downloads ------------------------------------------------------------------------


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts what it is asked for."""

    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(tmp_path):
    """A server of the files in `publisher.folder`."""
    folder = tmp_path / "publisher"
    folder.mkdir()
    handler = functools.partial(Files, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.requests = folder, []
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def published(publisher, monkeypatch):
    """Publishes files of `folder` under the name of a data set."""

    def publish(name, folder, *, leave_out=(), **checksum):
        downloads = [
            packed(publisher, item, folder, leave_out, **checksum)
            for item in SOURCES[name].downloads
        ]
        source = dataclasses.replace(SOURCES[name], downloads=tuple(downloads))
        monkeypatch.setitem(preparation.SOURCES, name, source)

    return publish


def packed(publisher, item, folder, leave_out, **checksum):
    """A download as the official one, of the files in `folder`."""
    path = publisher.folder / item.name
    if item.is_archive:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(set(item.files) - set(leave_out)):
                archive.write(folder / file, f"official/{file}")
    else:
        shutil.copy(folder / item.name, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    changes = {"checksum": f"sha256:{digest}"} | checksum
    url = f"http://127.0.0.1:{publisher.server_port}/{item.name}"
    return Download(
        urls=(url,), files=item.files, size=path.stat().st_size,
        unpacked_limit=10_000_000, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
def test_missing_files_are_downloaded(
    named, folders, data_dir, tmp_path, published, publisher, said
):
    """Coat: of an archive with folders in it, and of a file that is none."""
    official = twins.write("coat", tmp_path / "official", TINY)
    published("coat", official)
    if named:
        folders = dataclasses.replace(folders, data_dir=data_dir)
    target = (data_dir if named else folders.downloads) / "coat"

    dataset = prepare(configure("coat"), folders, said.append, download=named)
    again = prepare(configure("coat"), folders, said.append, download=named)

    assert_equal(dataset, again)
    expected = {n: b for n, b in contents(official).items() if n != twins.MARKER}
    assert contents(target) == expected  # and no archive
    assert publisher.requests == ["/coat.zip", f"/{loading.MODULES['coat'].TRUTH}"]
    assert dataset.name == "coat"
    assert [line.split(" ")[0] for line in said] == [
        "downloading", "unpacking", "downloading", "coat:"
    ]  # fmt: skip


def test_folder_of_the_users_own_is_not_downloaded_to(
    folders, data_dir, tmp_path, published, publisher
):
    """Unless they say so: a mistyped path is likelier than an empty folder."""
    published("movielens", twins.write("movielens", tmp_path / "official", TINY))
    folders = dataclasses.replace(folders, data_dir=data_dir)

    message = refused(configure("movielens"), folders)

    assert message.startswith(f"{data_dir}/movielens/")
    assert "no such file; it comes from https://grouplens.org" in message
    assert "belongs at this path, as do users.dat, movies.dat; python -m" in message
    assert (
        f"prepare_data --dataset=movielens --data_dir={data_dir} downloads" in message
    )
    assert publisher.requests == []
    assert not data_dir.exists()


def test_only_missing_files_are_unpacked(
    folders, tmp_path, published, publisher, loads, said
):
    official = twins.write("movielens", tmp_path / "official", TINY)
    published("movielens", official)
    folder = folders.downloads / "movielens"
    put(folder / movielens.RATINGS, "mine")
    with gzip.open(folder / f"{movielens.USERS}.gz", "wt") as file:
        file.write("mine, too")
    before = contents(folder)

    prepare(configure("movielens"), folders, said.append)

    new = {movielens.MOVIES: (official / movielens.MOVIES).read_bytes()}
    assert contents(folder) == before | new
    assert publisher.requests == ["/ml-1m.zip"]
    assert any(line.startswith(f"unpacking {movielens.MOVIES} from") for line in said)


def test_archive_that_lies_there_is_used_and_stays(
    folders, data_dir, tmp_path, published, publisher, loads, said
):
    published("movielens", twins.write("movielens", tmp_path / "official", TINY))
    archive = data_dir / "movielens" / "ml-1m.zip"
    archive.parent.mkdir(parents=True)
    shutil.copy(publisher.folder / archive.name, archive)
    folders = dataclasses.replace(folders, data_dir=data_dir)

    prepare(configure("movielens"), folders, said.append, download=True)

    names = {path.name for path in archive.parent.iterdir()}
    assert names == {archive.name, *movielens.FILES}
    assert publisher.requests == []
    assert not any("downloading" in line for line in said)


def test_archive_that_cannot_be_unpacked_is_kept(
    folders, tmp_path, published, publisher
):
    official = twins.write("movielens", tmp_path / "official", TINY)
    published("movielens", official, leave_out=[movielens.USERS])
    archive = folders.downloads / "movielens" / "ml-1m.zip"

    message = refused(configure("movielens"), folders)
    again = refused(configure("movielens"), folders)

    assert f"{archive}: holds no {movielens.USERS}" in message
    assert message.endswith(f"; the archive is kept: {archive}")
    assert again == message
    assert publisher.requests == ["/ml-1m.zip"]  # once
    assert os.listdir(archive.parent) == [archive.name]  # all of its files, or none


def test_another_file_at_the_publisher_is_refused(folders, tmp_path, published):
    official = twins.write("movielens", tmp_path / "official", TINY)
    published("movielens", official, checksum=f"sha256:{'0' * 64}")

    message = refused(configure("movielens"), folders)

    assert "/ml-1m.zip: has another file: expected sha256:0000" in message
    assert "put it at this path, or ratings.dat, users.dat, movies.dat into" in message
    assert message.endswith("; to try a program without any data, give --twin")
    assert not contents(folders.cache_dir)


@pytest.mark.parametrize("named", [False, True])
def test_what_must_be_asked_for_says_how(named, folders, data_dir):
    folders = dataclasses.replace(folders, data_dir=data_dir if named else None)
    where = data_dir if named else folders.downloads

    message = refused(configure("yahoo"), folders, download=True)

    assert message.startswith(f"{where}/yahoo/{yahoo.TRAIN}: no such file; ask for")
    for part in ("sign its agreement", yahoo.TEST, "DIR/yahoo", "--data_dir"):
        assert part in message


@pytest.mark.parametrize(
    ("total", "steps", "lines"),
    [
        (400 << 20, range(0, (400 << 20) + 1, 1 << 18), 10),
        (3 << 20, range(0, (3 << 20) + 1, 1 << 18), 3),
        (500_000, [0, 250_000, 500_000], 0),
        (0, [0], 0),
        (None, [0, 50 << 20, 110 << 20, 300 << 20], 2),
    ],
)
def test_progress_is_told_about_ten_times(total, steps, lines, said):
    progress = preparation._Progress(said.append)

    for done in steps:
        progress(done, total)

    assert len(said) == lines
    assert not said or said[0].startswith("  ")


# --- no files of a publisher ----------------------------------------------------------


@pytest.fixture
def own_files(tmp_path):
    """A configuration that names two files in a folder, which the test may change."""

    def write(folder="mine", log=LOG, **changes):
        put(tmp_path / folder / "log.csv", log)
        put(tmp_path / folder / "users.csv", "user_id,age\n0,1\n1,2\n2,1\n3,2\n")
        return configure(
            "csv",
            csv__log=str(tmp_path / folder / "log.csv"),
            csv__user_features=str(tmp_path / folder / "users.csv"),
            **changes,
        )

    return write


def test_own_files_are_read_when_they_change(own_files, folders, loads):
    prepare(own_files(), folders, quiet)
    prepare(own_files(), folders, quiet)
    assert len(loads) == 1
    prepare(own_files(log=LOG.replace("0,0,1", "0,0,2")), folders, quiet)
    assert len(loads) == 2
    prepare(own_files(csv__test_share=0.3), folders, quiet)
    assert len(loads) == 3
    without = config_lib.replace(own_files(), {"csv.user_features": ""})
    prepare(without, folders, quiet)
    assert len(loads) == 4


def test_own_files_in_the_home_folder_are_read_when_they_change(
    folders, loads, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = configure("csv", csv__log="~/log.csv")
    for content in (LOG, LOG, LOG + "3,1,5\n"):
        put(tmp_path / "log.csv", content)
        prepare(config, folders, quiet)

    assert len(loads) == 2


def test_own_files_elsewhere_are_the_same_data(own_files, folders, completed_at_once):
    here, there = (
        prepare(own_files(folder), folders, quiet) for folder in ("here", "there")
    )
    shared = prepare(own_files("here", csv__test_share=0.4), folders, quiet)

    assert_equal(here, there)
    assert loading.data_hash(here) == loading.data_hash(there)
    assert loading.data_hash(here) != loading.data_hash(shared)


@pytest.mark.parametrize("field", own.FIELDS)
def test_own_file_that_is_gone_is_not_overlooked(
    field, own_files, folders, completed_at_once
):
    """Not even when the data set was prepared without it."""
    config = own_files()
    prepare(config, folders, quiet)

    changed = config_lib.replace(config, {f"csv.{field}": "/nowhere/at/all.csv"})

    message = refused(changed, folders)
    assert message.startswith("/nowhere/at/all.csv: no such file")


def test_synthetic_data_need_no_folder(folders):
    config = configure("synthetic", synthetic__num_users=20)

    dataset = prepare(config, folders, pytest.fail)

    assert_equal(dataset, loading.load_dataset(config))
    assert not folders.cache_dir.exists()


def test_unknown_data_set_is_refused_with_the_nearest(folders):
    message = refused(configure("kuairek"), folders)

    assert "'kuairek': no such data set; did you mean 'kuairec'?" in message
