"""From a configuration to a data set, wherever its files are: found, fetched or made.

What was parsed and checked once is kept, under all that it depends on: the files, the
fields of the configuration that prepare them, and the code that does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from darlr_jax.config import DatasetConfig
from darlr_jax.data import archives, cache, fetch, frames, loading, twins
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.data.sources import SOURCES, Download

VERSION = 1  # to be raised when data are prepared differently by unchanged modules

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where a user keeps data."""

    data_dir: Path | None  # the user's own, with a folder a data set; never written to
    cache_dir: Path  # ours: downloads, twins and prepared data sets

    @property
    def downloads(self) -> Path:
        """What we download if the user names no folder."""
        return self.cache_dir / "data"


def prepare(
    config: DatasetConfig, folders: Folders, say: Say, *, download: bool = False
) -> Dataset:
    """The data set of a configuration; its files are parsed if they are new.

    Without a `data_dir` missing files are downloaded; with one, only if `download` says
    so, as a mistyped path is likelier than an empty one.

    Raises:
      DataError: files are missing or malformed; names them and what to do.
    """
    if config.twin and config.name not in loading.MODULES:
        raise DataError(f"--twin: {config.name!r} has no published form to imitate")
    if config.name not in loading.MODULES and config.name != "csv":
        return loading.load_dataset(config)
    data_dir = _data_dir(config, folders, say, download)
    key = _key(config, data_dir, folders)
    store = cache.DatasetCache(folders.cache_dir / "datasets")
    dataset = store.load(key)
    if dataset is None:
        say(f"{config.name}: reading its files, once")
        dataset = loading.load_dataset(config, str(data_dir))
        store.save(key, dataset)
        dataset = store.load(key) or dataset  # mapped files instead of memory
    return _signed(dataset, config)


def _signed(dataset: Dataset, config: DatasetConfig) -> Dataset:
    """The data set with what prepared it among its sources, and a twin named so."""
    recipe = json.dumps(_preparation(config), sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    dataset = dataclasses.replace(
        dataset, sources={**dataset.sources, "preparation": digest}
    )
    if not config.twin:
        return dataset
    made = f"TWIN of scale {config.twin_scale:g} (generated files), not {config.name}"
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name} twin",
        ground_truth=f"{made}: {dataset.ground_truth}",
    )


def _preparation(config: DatasetConfig) -> dict[str, Any]:
    """The fields that decide what is made of the files."""
    groups = {"completion": dataclasses.asdict(config.completion)}
    if hasattr(config, config.name):
        groups[config.name] = dataclasses.asdict(getattr(config, config.name))
    return groups


# --- files ----------------------------------------------------------------------------


def _data_dir(
    config: DatasetConfig, folders: Folders, say: Say, download: bool
) -> Path:
    """The folder that holds a folder of this data set's files."""
    if config.name == "csv":
        return Path()  # the configuration names the files
    if config.twin:
        return _write_twin(config, folders, say)
    if folders.data_dir is not None and not download:
        return folders.data_dir
    data_dir = folders.data_dir or folders.downloads
    fetch_missing(config.name, data_dir, say)
    return data_dir


def _write_twin(config: DatasetConfig, folders: Folders, say: Say) -> Path:
    data_dir = folders.cache_dir / "twins" / f"{config.twin_scale:g}"
    size = twins.sizes(config.name, config.twin_scale)
    say(
        f"{config.name}: a twin of scale {config.twin_scale:g}, {size.users:,} users, "
        f"{size.items:,} items, {size.log_rows:,} + {size.test_rows:,} rows"
    )
    twins.write(config.name, data_dir, config.twin_scale)
    return data_dir


def fetch_missing(name: str, data_dir: Path, say: Say) -> None:
    """Downloads and unpacks what `data_dir / name` lacks.

    Raises:
      DataError: a download fails (every mirror, and what to do by hand), or the data
        set can only be had by hand.
    """
    folder = data_dir / name
    for item in SOURCES[name].downloads:
        if all(_find(name, folder, file).exists() for file in item.files):
            continue
        _fetch(item, folder, say)
    by_hand = SOURCES[name].by_hand
    missing = [f for f in _files(name) if not _find(name, folder, f).exists()]
    if missing and by_hand:
        raise DataError(f"{folder / missing[0]}: no such file; {by_hand}")


def _fetch(item: Download, folder: Path, say: Say) -> None:
    say(f"downloading {item.urls[0]} ({item.size / 1e6:,.0f} MB) to {folder}")
    target = fetch.download(
        item.urls,
        folder / item.name,
        size_limit=item.size_limit,
        checksum=item.checksum,
        progress=_Progress(say),
    )
    if item.is_archive:
        limit = max(item.unpacked_limit, item.size_limit)
        archives.unpack(target, folder, members=item.files, size_limit=limit)
        target.unlink()


class _Progress:
    """Tells a download's progress about every tenth of it."""

    def __init__(self, say: Say):
        self._say = say
        self._told = 0

    def __call__(self, done: int, total: int | None) -> None:
        step = (total or 1 << 30) // 10
        if done // max(step, 1) > self._told:
            self._told = done // max(step, 1)
            whole = f" of {total / 1e6:,.0f}" if total else ""
            self._say(f"  {done / 1e6:,.0f}{whole} MB")


def _files(name: str) -> tuple[str, ...]:
    return loading.MODULES[name].FILES


def _find(name: str, folder: Path, file: str) -> Path:
    return frames.find(folder, file, getattr(loading.MODULES[name], "SUBFOLDERS", ()))


# --- the key of what is kept ----------------------------------------------------------


def _key(config: DatasetConfig, data_dir: Path, folders: Folders) -> str:
    digests = cache.SourceDigests(folders.cache_dir / "digests.json")
    paths = [*_source_files(config, data_dir), *_code()]
    sources = {f"{n} {path.name}": digests.digest(path) for n, path in enumerate(paths)}
    return cache.key(config.name, _preparation(config), sources, VERSION)


def _source_files(config: DatasetConfig, data_dir: Path) -> Iterator[Path]:
    """Every file that the loader may read, in a fixed order."""
    if config.name == "csv":
        fields = ("log", "item_features", "user_features", "test_log", "full_matrix")
        named = [Path(getattr(config.csv, field)) for field in fields]
        yield from (path for path in named if path.is_file())
        return
    module = loading.MODULES[config.name]
    optional = getattr(module, "TRUTH", "")  # read where it lies beside the others
    wanted = {os.path.basename(file) for file in (*module.FILES, optional)}
    wanted |= {f"{name}.gz" for name in wanted}
    folder = data_dir / config.name
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and p.name in wanted)


def _code() -> list[Path]:
    """The modules that prepare data; another version of any prepares them anew."""
    return sorted(Path(__file__).parent.glob("*.py"))
