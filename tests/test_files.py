"""files.py: what killed writers have left, and whose it is."""

from __future__ import annotations

import os
import time

import pytest

from darlr_jax import files
from darlr_jax.files import ABANDONED, remove_abandoned, replacing


@pytest.fixture
def leave(tmp_path):
    """Leaves a folder with a file in it, as a killed writer does."""

    def left(name, age):
        path = tmp_path / name
        path.mkdir()
        (path / "half").write_text("half")
        os.utime(path, times=(time.time() - age,) * 2)

    return left


def watch_flushes(monkeypatch):
    """Inode -> size, of every file as it was when it was last flushed to the disk."""
    flushed = {}

    def note(descriptor):
        status = os.fstat(descriptor)
        flushed[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", note)
    return flushed


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["run", "run[1]", "a*?", "with space"])
def test_of_one_name_alone(tmp_path, leave, name):
    """Also where the name means something to a pattern."""
    leave(f".{name}.0.tmp", ABANDONED + 60)
    leave(f".{name}.1.tmp", 60)  # whose writer may be at work
    leave(".run1.2.tmp", ABANDONED + 60)
    leave(".abc.3.tmp", ABANDONED + 60)
    remove_abandoned(tmp_path, name=name)
    kept = [".abc.3.tmp", f".{name}.1.tmp", ".run1.2.tmp"]
    assert names(tmp_path) == sorted(kept)


@pytest.mark.parametrize(("age", "kept"), [(ABANDONED, [".b.1.tmp"]), (None, [])])
def test_of_all_names(tmp_path, leave, age, kept):
    leave(".a.0.tmp", ABANDONED + 60)
    leave(".b.1.tmp", 60)
    remove_abandoned(tmp_path, age)
    assert names(tmp_path) == kept
    remove_abandoned(tmp_path / "nowhere", age)


@pytest.mark.parametrize("path", ["file", "folder/a/file"])
def test_what_is_replaced_is_on_the_disk_before_it_has_its_name(
    tmp_path, monkeypatch, path
):
    flushed = watch_flushes(monkeypatch)
    file = tmp_path / path
    name = tmp_path / path.split("/")[0]

    def put(source, target):
        left = file.relative_to(name)
        assert flushed == {(source / left).stat().st_ino: 3}
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", put)
    with replacing(name) as temporary:
        written = temporary / file.relative_to(name)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text("new")
    assert file.read_text() == "new"


def test_the_name_is_that_of_what_is_replaced(tmp_path):
    with replacing(tmp_path / "run[1]") as temporary:
        temporary.mkdir()
        remove_abandoned(tmp_path, None, "run")
        assert temporary.exists()
        remove_abandoned(tmp_path, None, "run[1]")
        assert not temporary.exists()
        temporary.mkdir()
    assert names(tmp_path) == ["run[1]"]
