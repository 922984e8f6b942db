"""Fixtures: a twin of Coat's files, and the folder of the real ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from darlr_jax.config import SyntheticConfig
from darlr_jax.data import coat, synthetic
from darlr_jax.data.dataset import Dataset


@pytest.fixture
def coat_twin(tmp_path: Path) -> Path:
    """A data folder whose `coat/` is laid out as published, with random contents."""
    rng = np.random.default_rng(0)
    shape = (coat.NUM_USERS, coat.NUM_ITEMS)
    folder = tmp_path / "coat"
    (folder / "user_item_features").mkdir(parents=True)
    for name, logged in ((coat.TRAIN, 24), (coat.TEST, 16)):
        seen = rng.random(shape).argsort(axis=1) < logged
        np.savetxt(folder / name, rng.integers(1, 6, shape) * seen, fmt="%d")
    np.savetxt(folder / coat.TRUTH, rng.integers(1, 6, shape), fmt="%d")
    for name, rows, blocks in (
        (coat.USER_FEATURES, coat.NUM_USERS, coat.USER_BLOCKS),
        (coat.ITEM_FEATURES, coat.NUM_ITEMS, coat.ITEM_BLOCKS),
    ):
        one_hot = [
            np.eye(w, dtype=int)[rng.integers(w, size=rows)] for w in blocks.values()
        ]
        np.savetxt(folder / name, np.concatenate(one_hot, axis=1), fmt="%d")
    return tmp_path


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder named by DARLR_DATA_DIR; the test is skipped without it."""
    folder = os.environ.get("DARLR_DATA_DIR")
    if not folder:
        pytest.skip("needs the published files: set DARLR_DATA_DIR to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """A synthetic data set of the default size. Not to be modified."""
    return synthetic.generate(SyntheticConfig())
