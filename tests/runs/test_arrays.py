"""arrays.py: what was written comes back, or the file is named as damaged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darlr_jax.runs.arrays import DamagedFileError, load_arrays, save_arrays

ARRAYS = {
    ".params['a/b']": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(3, np.int32),
    "none": np.zeros((0, 4)),
}
NOTE = [{"epoch": 0, "loss": math.nan}, {"epoch": 1, "loss": 0.1 + 0.2}]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "deep" / "file.npz"
    save_arrays(path, ARRAYS, NOTE)
    return path


def assert_as_written(path):
    arrays, note = load_arrays(path)
    assert str(note) == str(NOTE)  # nan and all
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_round_trip(file):
    assert_as_written(file)
    assert [path.name for path in file.parent.iterdir()] == ["file.npz"]
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_later_one_takes_its_place(file):
    save_arrays(file, {"x": np.ones(2)}, "later")
    arrays, note = load_arrays(file)
    assert (list(arrays), note) == (["x"], "later")


def test_nothing_is_pickled(tmp_path):
    with pytest.raises(ValueError, match="note"):
        save_arrays(tmp_path / "file.npz", {"note": np.ones(1)}, None)
    np.savez(tmp_path / "file.npz", x=np.array([{}], object), note=np.asarray("{}"))
    with pytest.raises(DamagedFileError, match="allow_pickle=False"):
        load_arrays(tmp_path / "file.npz")


def test_a_file_that_is_cut_short_is_damaged(file):
    content = file.read_bytes()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFileError):
            load_arrays(file)


def test_no_flipped_bit_passes_for_something_else(file):
    """In the numbers, in NumPy's header, in the archive's own tables."""
    content, damaged = file.read_bytes(), 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            assert_as_written(file)  # a bit that means nothing, as of a date
        except DamagedFileError as error:
            assert "\n" not in str(error)
            damaged += 1
    assert damaged > len(content) // 2
