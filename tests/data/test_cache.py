"""Prepared data sets on disk: round trip, damage, versions, concurrent writers."""

import concurrent.futures
import dataclasses
import json
import os
import time

import numpy as np
import pytest

from darlr_jax.config import SyntheticConfig
from darlr_jax.data import cache, coat, loading, synthetic, text
from darlr_jax.data.dataset import DataError
from darlr_jax.files import replacing

KEY = "0" * 64
TINY = SyntheticConfig(num_users=12, num_items=10, num_tags=3, num_clusters=2)


@pytest.fixture(scope="module")
def tiny():
    return synthetic.generate(TINY)


@pytest.fixture
def store(tmp_path):
    return cache.DatasetCache(tmp_path / "cache")


def leaves(value, name=""):
    """Every (name, value) in a record, however deep."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple):
        yield name, len(value)
        for place, item in enumerate(value):
            yield from leaves(item, f"{name}.{place}")
    else:
        yield name, value


def assert_equal(one, other):
    for (name, value), (other_name, found) in zip(
        leaves(one), leaves(other), strict=True
    ):
        assert name == other_name
        assert type(found) is type(value), name
        np.testing.assert_array_equal(found, value, name)
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape) == (value.dtype, value.shape), name


def arrays(dataset):
    return {name: a for name, a in leaves(dataset) if isinstance(a, np.ndarray)}


# --- round trip -----------------------------------------------------------------------


def test_data_set_comes_back_as_it_was(store, dataset):
    store.save(KEY, dataset)

    loaded = store.load(KEY)

    assert_equal(dataset, loaded)
    loading.check(loaded)
    assert loading.data_hash(loaded) == loading.data_hash(dataset)
    assert loading.world_model_hash(loaded) == loading.world_model_hash(dataset)


def test_a_world_model_is_of_every_array_but_the_test_matrix(dataset):
    """As code that reads files otherwise makes of them; their digests are the same."""
    before = loading.world_model_hash(dataset)
    item_dense = dataset.item_dense + 1.0 if dataset.item_dense.size else None
    labels = dataclasses.replace(dataset.log, labels=dataset.log.labels[::-1].copy())
    codes = dataset.item_features[0].codes
    feature = dataclasses.replace(dataset.item_features[0], codes=codes[::-1].copy())
    others = [
        dataclasses.replace(dataset, log=labels),
        dataclasses.replace(dataset, held_out=labels),
        dataclasses.replace(
            dataset, item_features=(feature, *dataset.item_features[1:])
        ),
        dataclasses.replace(dataset, sources={"another": "file"}),
    ]
    if item_dense is not None:
        others.append(dataclasses.replace(dataset, item_dense=item_dense))
    hashes = {loading.world_model_hash(other) for other in others}
    assert len(hashes | {before}) == 1 + len(others)
    paid = dataclasses.replace(dataset, true_reward=dataset.true_reward + 1.0)
    assert loading.world_model_hash(paid) == before


def test_coat_comes_back_as_it_was(store, coat_twin):
    dataset = coat.load(coat_twin)
    store.save(KEY, dataset)

    loaded = store.load(KEY)

    assert_equal(dataset, loaded)  # no times, an item_dense of width 0
    assert list(loaded.sources) == list(dataset.sources)  # in the same order


def test_arrays_are_read_only_views_of_the_files(store, tiny):
    folder = store.save(KEY, tiny)

    for name, array in arrays(store.load(KEY)).items():
        assert isinstance(array.base, np.memmap), name
        assert array.base.filename.parent == folder
        assert not array.flags.writeable


def test_what_was_loaded_can_be_saved(store, tiny):
    store.save(KEY, tiny)
    loaded = store.load(KEY)
    folder = store.save(KEY, loaded)  # in the place of its own files

    assert_equal(tiny, loaded)
    assert_equal(tiny, store.load(KEY))
    assert os.listdir(folder.parent) == [KEY]


def test_one_array_in_two_fields_is_stored_once(store, tiny):
    assert tiny.log.labels is tiny.log.rewards
    folder = store.save(KEY, tiny)

    loaded = store.load(KEY)

    assert loaded.log.labels is loaded.log.rewards
    distinct = {id(array) for array in arrays(tiny).values()}
    assert len(list(folder.glob("*.npy"))) == len(distinct) < len(arrays(tiny))


def test_other_layouts_and_scalars(store, tiny):
    changed = dataclasses.replace(
        tiny,
        true_reward=np.asfortranarray(tiny.true_reward),
        item_dense=tiny.item_dense[::-1],
        num_logged_users=np.int64(12),
        dominated_names=(),
        user_features=(),
        ground_truth='a "line" with\nsigns: \u03bb\u00e9',
    )
    store.save(KEY, changed)

    loaded = store.load(KEY)

    np.testing.assert_array_equal(loaded.true_reward, tiny.true_reward)
    np.testing.assert_array_equal(loaded.item_dense, tiny.item_dense[::-1])
    assert loaded.num_logged_users == 12 and type(loaded.num_logged_users) is int
    assert (loaded.dominated_names, loaded.user_features) == ((), ())
    assert loaded.ground_truth == changed.ground_truth


def test_objects_are_not_saved(store, tiny):
    changed = dataclasses.replace(tiny, true_reward=np.array([[None]]))

    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.save(KEY, changed)
    assert store.load(KEY) is None


def test_nothing_saved(store):
    assert store.load(KEY) is None


def test_later_save_replaces(store, tiny):
    store.save(KEY, tiny)
    before = store.load(KEY)
    folder = store.save(KEY, dataclasses.replace(tiny, name="other"))

    assert store.load(KEY).name == "other"
    assert_equal(tiny, before)  # still open, although its files are gone
    assert os.listdir(folder.parent) == [KEY]


def test_keys_do_not_share(store, tiny):
    store.save(KEY, tiny)

    assert store.load("1" * 64) is None


# --- damage ---------------------------------------------------------------------------


def rewrite(folder, change):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    del content["crc32"]
    change(content)
    content["crc32"] = cache._text_checksum(content)  # the change, and no accident
    path.write_text(json.dumps(content))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def append(path, content):
    path.write_bytes(path.read_bytes() + content)


def add_object_array(folder):
    np.save(folder / "dataset.true_reward.npy", np.array([None]), allow_pickle=True)


DAMAGES = {
    "no description": lambda f: (f / "dataset.json").unlink(),
    "half a description": lambda f: cut(f / "dataset.json", 300),
    "empty description": lambda f: cut(f / "dataset.json", 0),
    "other description": lambda f: (f / "dataset.json").write_text("[1]"),
    "no text": lambda f: (f / "dataset.json").write_bytes(b"\xff\xfe\x00"),
    "no array": lambda f: (f / "dataset.true_reward.npy").unlink(),
    "half an array": lambda f: cut(f / "dataset.true_reward.npy", 300),
    "half a header": lambda f: cut(f / "dataset.true_reward.npy", 50),
    "empty array": lambda f: cut(f / "dataset.true_reward.npy", 0),
    "long array": lambda f: append(f / "dataset.log.users.npy", b"1"),
    "other type": lambda f: np.save(f / "dataset.log.users.npy", np.zeros(18)),
    "other shape": lambda f: np.save(f / "dataset.log.users.npy", np.zeros(1, "i4")),
    "objects": add_object_array,
    "other format": lambda f: rewrite(f, lambda c: c.update(format=0)),
    "no format": lambda f: rewrite(f, lambda c: c.pop("format")),
    "other record": lambda f: rewrite(f, lambda c: c["dataset"].update(record="Log")),
    "no data set": lambda f: rewrite(f, lambda c: c.update(dataset=3)),
    "part of one": lambda f: rewrite(
        f, lambda c: c.update(dataset=c["dataset"]["fields"]["log"])
    ),
    "lost field": lambda f: rewrite(
        f, lambda c: c["dataset"]["fields"].pop("item_tags")
    ),
    "added field": lambda f: rewrite(
        f, lambda c: c["dataset"]["fields"].update(colour="blue")
    ),
    "path elsewhere": lambda f: rewrite(
        f, lambda c: c["dataset"]["fields"]["item_tags"].update(array="/etc/passwd")
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_treated_as_absent(store, tiny, damage, caplog):
    folder = store.save(KEY, tiny)
    DAMAGES[damage](folder)

    assert store.load(KEY) is None
    assert f"{folder}: no whole data set of this version" in caplog.text

    store.save(KEY, tiny)
    assert_equal(tiny, store.load(KEY))


@pytest.mark.parametrize("file", ["dataset.log.users.npy", "dataset.json"])
def test_any_damaged_byte_is_noticed(store, tiny, file):
    """A flipped bit of an array, or of a number of users, reads as well as before."""
    path = store.save(KEY, tiny) / file
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 + len(whole) // 300):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)

        assert store.load(KEY) is None, place


def test_record_with_a_new_field_is_another_version(store, tiny, monkeypatch, caplog):
    store.save(KEY, tiny)
    later = dataclasses.make_dataclass(
        "InteractionLog", [f.name for f in dataclasses.fields(tiny.log)] + ["weights"]
    )
    monkeypatch.setitem(cache._RECORDS, "InteractionLog", later)

    assert store.load(KEY) is None
    assert "InteractionLog has other fields: weights" in caplog.text


def test_other_format_is_another_version(store, tiny, monkeypatch, caplog):
    store.save(KEY, tiny)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)

    assert store.load(KEY) is None
    assert f"format {cache.FORMAT - 1}, expected {cache.FORMAT}" in caplog.text


# --- writers --------------------------------------------------------------------------


def test_interrupted_writer_leaves_nothing(store, tiny, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_to_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(KEY, tiny)

    assert os.listdir(tmp_path / "cache") == []
    assert store.load(KEY) is None


def test_interrupted_writer_keeps_the_old_one(store, tiny, monkeypatch):
    store.save(KEY, tiny)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "_to_json", interrupt)
        store.save(KEY, dataclasses.replace(tiny, name="other"))

    assert store.load(KEY).name == "synthetic"


def test_half_written_folder_of_a_killed_writer(store, tiny, tmp_path):
    half = tmp_path / "cache" / f".{KEY}.killed.tmp"
    half.mkdir(parents=True)
    np.save(half / "dataset.log.users.npy", tiny.log.users)

    assert store.load(KEY) is None
    store.save(KEY, tiny)
    assert half.exists()  # its writer may be at work

    long_ago = time.time() - 2 * 24 * 3600
    os.utime(half, (long_ago, long_ago))
    store.save(KEY, tiny)
    assert os.listdir(tmp_path / "cache") == [KEY]
    assert_equal(tiny, store.load(KEY))


def run_together(*actions):
    """Runs the actions at the same time; an exception of one is raised."""
    with concurrent.futures.ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


def test_two_writers_and_a_reader(store, tiny, tmp_path):
    seen = []

    def write():
        for _ in range(20):
            store.save(KEY, tiny)

    def read():
        for _ in range(100):
            if loaded := store.load(KEY):
                seen.append(loaded)

    store.save(KEY, tiny)  # so that there is something to read from the start
    run_together(write, write, read)

    assert_equal(tiny, store.load(KEY))
    assert seen
    for loaded in seen[::10]:
        assert_equal(tiny, loaded)
    assert os.listdir(tmp_path / "cache") == [KEY]


def test_folder_that_cannot_be_written(tmp_path, tiny):
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(DataError, match=f"{KEY}: cannot be written"):
        cache.DatasetCache(tmp_path / "cache").save(KEY, tiny)


def test_replacing_a_file_and_a_folder(tmp_path):
    for path in (tmp_path / "file", tmp_path / "folder"):
        for content in ("old", "new"):
            with replacing(path) as temporary:
                if path.name == "file":
                    temporary.write_text(content)
                else:
                    temporary.mkdir()
                    (temporary / content).touch()
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path / "folder") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_replacing_leaves_the_old_one_where_it_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


# --- keys -----------------------------------------------------------------------------

RECIPE = {
    "name": "kuairec",
    "config_fields": {"label": "gaussian", "ranks": (4, 16), "cap": 5.0},
    "sources": {"big.csv": "ab", "small.csv": "cd"},
    "version": 1,
}


def test_key_is_a_sha256_that_stays_the_same():
    recipe = '{"config": {"b": 1.5}, "name": "a", "sources": {"f": "00"}, "version": 3}'
    expected = text.hashlib.sha256(recipe.encode()).hexdigest()

    assert cache.key("a", {"b": 1.5}, {"f": "00"}, 3) == expected


def test_key_does_not_depend_on_order():
    fields = dict(reversed(RECIPE["config_fields"].items()))
    sources = dict(reversed(RECIPE["sources"].items()))

    other = cache.key(**{**RECIPE, "config_fields": fields, "sources": sources})

    assert other == cache.key(**RECIPE)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "kuairand"},
        {"version": 2},
        {"config_fields": {**RECIPE["config_fields"], "label": "maxmin"}},
        {"config_fields": {**RECIPE["config_fields"], "ranks": (4, 8)}},
        {"config_fields": {}},
        {"sources": {"big.csv": "ab", "small.csv": "ce"}},
        {"sources": {"big.csv": "ab"}},
        {"sources": {"big.csv": "cd", "small.csv": "ab"}},
    ],
)
def test_key_depends_on_all(change):
    assert cache.key(**{**RECIPE, **change}) != cache.key(**RECIPE)


# --- digests of sources ---------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """A source file that has not changed for an hour."""
    path = tmp_path / "big.csv"
    path.write_text("1,2,3\n")
    set_age(path, 3600)
    return path


@pytest.fixture
def hashed(monkeypatch):
    """The files that have really been hashed."""
    names = []

    def digest(path, digest=text.digest):
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(cache.text, "digest", digest)
    return names


def set_age(path, seconds):
    changed = time.time_ns() - round(seconds * 1e9)
    os.utime(path, ns=(changed, changed))


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "new" / "digests.json"


def test_file_is_hashed_once(memory, source, hashed):
    first = cache.SourceDigests(memory).digest(source)
    second = cache.SourceDigests(memory).digest(source)

    assert first == second == text.hashlib.sha256(b"1,2,3\n").hexdigest()
    assert hashed == ["big.csv"]
    assert os.listdir(memory.parent) == [memory.name]


def test_same_file_under_another_path(memory, source, hashed, monkeypatch):
    digests = cache.SourceDigests(memory)
    digests.digest(source)
    monkeypatch.chdir(source.parent)
    digests.digest(cache.Path("big.csv"))

    assert hashed == ["big.csv"]


@pytest.mark.parametrize(("content", "age"), [("1,2,3,4\n", 3600), ("3,2,1\n", 1800)])
def test_changed_file_is_hashed_again(memory, source, hashed, content, age):
    digests = cache.SourceDigests(memory)
    digests.digest(source)
    source.write_text(content)
    set_age(source, age)

    assert digests.digest(source) == text.hashlib.sha256(content.encode()).hexdigest()
    assert hashed == ["big.csv"] * 2


def test_file_that_has_just_changed_is_not_remembered(memory, source, hashed):
    set_age(source, -60)  # it is not settled before this test is over
    digests = cache.SourceDigests(memory)
    digests.digest(source)
    digests.digest(source)

    assert hashed == ["big.csv"] * 2


def test_file_that_changes_while_it_is_hashed(memory, source, monkeypatch):
    def digest(path):
        path.write_text("another")
        set_age(path, 1800)
        return "half old, half new"

    with monkeypatch.context() as patch:
        patch.setattr(cache.text, "digest", digest)
        cache.SourceDigests(memory).digest(source)

    expected = text.hashlib.sha256(b"another").hexdigest()
    assert cache.SourceDigests(memory).digest(source) == expected


def test_several_files_are_remembered(memory, source, hashed):
    other = source.with_name("small.csv")
    other.write_text("4\n")
    set_age(other, 3600)
    for _ in range(2):
        cache.SourceDigests(memory).digest(source)
        cache.SourceDigests(memory).digest(other)

    assert hashed == ["big.csv", "small.csv"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff"])
def test_damaged_memory_is_named_and_forgotten(memory, source, hashed, content, caplog):
    memory.parent.mkdir()
    memory.write_bytes(content.encode(errors="surrogateescape"))

    cache.SourceDigests(memory).digest(source)
    assert f"{memory}: no digests; files are hashed again" in caplog.text
    caplog.clear()
    cache.SourceDigests(memory).digest(source)
    assert hashed == ["big.csv"]
    assert caplog.text == ""


@pytest.mark.parametrize("entry", [None, [], {}, [6], "x", [6, 0, None]])
def test_damaged_entry_is_no_digest(memory, source, hashed, entry):
    memory.parent.mkdir()
    memory.write_text(json.dumps({str(source): entry}))

    cache.SourceDigests(memory).digest(source)

    assert hashed == ["big.csv"]


def test_memory_that_cannot_be_written(tmp_path, source, caplog):
    (tmp_path / "new").write_text("a file")

    digest = cache.SourceDigests(tmp_path / "new" / "digests.json").digest(source)

    assert digest == text.digest(source)
    assert "digests.json: cannot be written" in caplog.text


def test_missing_source(memory, tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read \(No such file"):
        cache.SourceDigests(memory).digest(tmp_path / "absent.csv")


def test_memory_is_never_half(memory, tmp_path, caplog):
    files = [tmp_path / f"{number}.csv" for number in range(20)]
    for file in files:
        file.write_text(file.name)
        set_age(file, 3600)

    def remember(some):
        for file in some:
            cache.SourceDigests(memory).digest(file)

    run_together(lambda: remember(files[:10]), lambda: remember(files[10:]))

    content = json.loads(memory.read_text())
    assert content and set(content) <= {str(file) for file in files}
    for path, (*_, digest) in content.items():
        assert digest == text.digest(cache.Path(path))
    assert os.listdir(memory.parent) == [memory.name]
    assert caplog.text == ""  # nobody has read half a memory
