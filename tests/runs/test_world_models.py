"""world_models.py: found again by what they depend on, and while they are fitted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import time

import numpy as np
import pytest

from darlr_jax.config import WorldModelConfig
from darlr_jax.files import ABANDONED
from darlr_jax.runs import world_models
from darlr_jax.runs.world_models import WorldModelStore, fingerprint
from darlr_jax.types import WorldModelTables

CONFIG, DATA = WorldModelConfig(), "ab" * 32
TABLES = WorldModelTables(*(np.full((2, n + 1), n, np.float32) for n in range(4)))
REPORT = [{"epoch": 0, "loss": float("nan")}, {"epoch": 1, "loss": 0.1}]
STATE = {
    ".params['x']": np.arange(3.0, dtype=np.float32),
    ".key": np.ones(2, np.uint32),
}


@pytest.fixture
def store(tmp_path):
    return WorldModelStore(tmp_path / "models")


def files(store):
    return sorted(path.name for path in store.path(CONFIG, DATA).parent.glob("*"))


def test_a_fitted_one_comes_back(store):
    assert store.load(CONFIG, DATA) is None
    store.save(CONFIG, DATA, TABLES, REPORT)
    tables, report = store.load(CONFIG, DATA)
    assert str(report) == str(REPORT)
    for found, expected in zip(tables, TABLES, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_fit_comes_back_as_it_was_kept_last_and_goes_with_the_fitted_one(store):
    assert store.load_fit(CONFIG, DATA) is None
    for epochs in (1, 2):
        store.save_fit(CONFIG, DATA, STATE, REPORT[:epochs])
    arrays, report = store.load_fit(CONFIG, DATA)
    assert str(report) == str(REPORT)
    for name, array in STATE.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    name = fingerprint(CONFIG, DATA)
    assert files(store) == [f"{name}.fit.npz"]
    store.save(CONFIG, DATA, TABLES, REPORT)
    assert files(store) == [f"{name}.npz"]


def test_what_a_fit_depends_on_finds_it(store, monkeypatch):
    """Fields, data, sources: those of the fitted one."""
    store.save_fit(CONFIG, DATA, STATE, REPORT)
    other = dataclasses.replace(CONFIG, epochs=CONFIG.epochs + 1)
    assert store.load_fit(other, DATA) is None
    assert store.load_fit(CONFIG, "cd" * 32) is None
    monkeypatch.setattr(world_models, "_SOURCES", ("config.py",))
    assert store.load_fit(CONFIG, DATA) is None


@pytest.mark.parametrize("name", ["jax", "jaxlib", "flax", "optax", "numpy"])
def test_another_version_of_what_it_is_computed_with_is_another_model(
    monkeypatch, name
):
    before, version = fingerprint(CONFIG, DATA), importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: version(n) + "x" * (n == name)
    )
    assert fingerprint(CONFIG, DATA) != before


@pytest.mark.parametrize("kind", ["fit_path", "path"])
def test_a_damaged_file_is_named_and_counts_as_none(store, caplog, kind):
    store.save(CONFIG, DATA, TABLES, REPORT)
    store.save_fit(CONFIG, DATA, STATE, REPORT)
    file = getattr(store, kind)(CONFIG, DATA)
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    load = store.load if kind == "path" else store.load_fit
    assert load(CONFIG, DATA) is None
    assert f"{file}: damaged, the " in caplog.text


@pytest.mark.parametrize("kind", ["save_fit", "save"])
def test_what_killed_writers_left_goes_after_a_day(store, kind):
    stored = TABLES if kind == "save" else STATE
    getattr(store, kind)(CONFIG, DATA, stored, REPORT)
    (kept,) = files(store)
    for name, age in ((".a.npz.0.tmp", ABANDONED + 60), (".b.npz.1.tmp", 60)):
        left = store.path(CONFIG, DATA).with_name(name)
        left.write_bytes(b"half")
        os.utime(left, times=(time.time() - age,) * 2)
    getattr(store, kind)(CONFIG, DATA, stored, REPORT)
    assert files(store) == [".b.npz.1.tmp", kept]  # whose writer may be at work


def test_tables_of_other_names_are_none(store, caplog):
    """Of a version whose tables were others; nothing of the fingerprint shows it."""
    world_models.save_arrays(store.path(CONFIG, DATA), STATE, REPORT)
    assert store.load(CONFIG, DATA) is None
    assert "the world model is fitted anew" in caplog.text
