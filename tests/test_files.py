"""files.py: what killed writers have left, and whose it is."""

from __future__ import annotations

import os
import time

import pytest

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


def test_the_name_is_that_of_what_is_replaced(tmp_path):
    with replacing(tmp_path / "run[1]") as temporary:
        temporary.mkdir()
        remove_abandoned(tmp_path, None, "run")
        assert temporary.exists()
        remove_abandoned(tmp_path, None, "run[1]")
        assert not temporary.exists()
        temporary.mkdir()
    assert names(tmp_path) == ["run[1]"]
