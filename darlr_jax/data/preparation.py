"""From a configuration to a data set, wherever its files are: found, fetched or made.

What was parsed and checked once is kept, under all that it depends on: the files, the
fields of the configuration that prepare them, and the code that does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from darlr_jax.config import DatasetConfig, ThinningConfig, ValidationConfig
from darlr_jax.data import archives, cache, fetch, frames, loading, own, text, twins
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.data.sources import SOURCES, Download
from darlr_jax.data.splits import validation_data
from darlr_jax.data.thinning import thin
from darlr_jax.files import remove_abandoned

# Of what is prepared, 1 where none is named: raised, world models are fitted anew too.
VERSIONS = {"kuairec": 2}  # rows of a user in order of the full timestamp

_COMPLETE = ("coat", "kuairec")  # their publishers give a test matrix

_OR_TWIN = "; to try a program without any data, give --twin"

_USUAL = 1 << 30  # bytes of a download whose length is not known
_LEAST_STEP = 1 << 20  # bytes of progress worth a line

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where a user keeps data."""

    data_dir: Path | None  # the user's own, with a folder a data set
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
      DataError: files are missing or malformed, or the cache cannot be written; names
        them and what to do.
    """
    if config.twin and config.name not in loading.MODULES:
        raise DataError(f"--twin: {config.name!r} has no published form to imitate")
    if config.name not in loading.MODULES and config.name != "csv":
        return loading.load_dataset(config)
    store = cache.DatasetCache(_writable(folders.cache_dir / "datasets"))
    data_dir = _data_dir(config, folders, say, download)
    key = _key(config, data_dir, folders)
    dataset = store.load(key)
    if dataset is None:
        say(f"{config.name}: reading its files, once")
        whole = dataclasses.replace(
            config, thinning=ThinningConfig(), validation=ValidationConfig()
        )
        try:
            dataset = loading.load_dataset(whole, str(data_dir))
        except DataError:
            _require(config.name, data_dir)
            raise
        store.save(key, dataset)
        dataset = store.load(key) or dataset  # mapped files instead of memory
    dataset = thin(_signed(dataset, config), config.thinning)
    return validation_data(dataset, config.validation)


def _writable(directory: Path) -> Path:
    """Creates a folder, or refuses: before minutes of reading, not after them."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{directory}: cannot be written ({error.strerror}); name another folder "
            "with --cache_dir"
        ) from None
    return directory


def _signed(dataset: Dataset, config: DatasetConfig) -> Dataset:
    """The data set with what prepared it among its sources, and a twin named so."""
    fields = _preparation(config)
    for path in own.FIELDS:  # their files are among the sources, wherever they lie
        fields.get("csv", {}).pop(path, None)
    recipe = json.dumps(fields, sort_keys=True)
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


def _version(config: DatasetConfig) -> int:
    return VERSIONS.get(config.name, 1)


def _preparation(config: DatasetConfig) -> dict[str, Any]:
    """The version and the fields that decide what is made of the files."""
    groups: dict[str, Any] = {"version": _version(config)}
    if config.name not in _COMPLETE:
        groups["completion"] = dataclasses.asdict(config.completion)
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
        if missing := _missing(name, folder, item.files):
            _fetch(item, missing, folder, say)
    by_hand = SOURCES[name].by_hand
    missing = _missing(name, folder, _files(name))
    if missing and by_hand:
        raise DataError(f"{folder / missing[0]}: no such file; {by_hand}{_OR_TWIN}")


def _require(name: str, data_dir: Path) -> None:
    """Names the files that are missing, all at once, and how to get them."""
    folder, source = data_dir / name, SOURCES.get(name)
    missing = _missing(name, folder, _files(name)) if source else []
    if not source or not missing:
        return
    others = f", as do {', '.join(missing[1:])}" if missing[1:] else ""
    advice = source.by_hand or (
        f"it comes from {source.page} and belongs at this path{others}; "
        f"python -m experiments.prepare_data --dataset={name} --data_dir={data_dir} "
        "downloads what is missing"
    )
    raise DataError(
        f"{folder / missing[0]}: no such file; {advice}{_OR_TWIN}"
    ) from None


def _missing(name: str, folder: Path, files: Collection[str]) -> list[str]:
    return [file for file in files if not _find(name, folder, file).exists()]


def _fetch(item: Download, missing: Collection[str], folder: Path, say: Say) -> None:
    """Downloads `item`, and takes what is missing out of it if it is an archive.

    An archive that was there before, whoever put it there, is used and stays.
    """
    target = folder / item.name
    was_there = target.exists()
    if not was_there:
        say(f"downloading {item.urls[0]} ({item.size / 1e6:,.0f} MB) to {folder}")
    unpacked = f", or {', '.join(missing)} into its folder" * item.is_archive
    fetch.download(
        item.urls,
        target,
        size_limit=item.size_limit,
        checksum=item.checksum,
        progress=_Progress(say),
        advice=unpacked + _OR_TWIN,
    )
    if item.is_archive:
        for file in missing:  # of an unpacking that was killed
            remove_abandoned((folder / file).parent, name=Path(file).name)
        say(f"unpacking {', '.join(missing)} from {target}")
        _unpack(item, target, missing)
        if not was_there:
            target.unlink(missing_ok=True)  # another process may have been faster


def _unpack(item: Download, archive: Path, missing: Collection[str]) -> None:
    """Takes the missing files out, and no other: the user may have changed those."""
    limit = max(item.unpacked_limit, item.size_limit)
    try:
        archives.unpack(archive, archive.parent, members=missing, size_limit=limit)
    except DataError as error:
        raise DataError(f"{error}; the archive is kept: {archive}") from None


class _Progress:
    """Tells a download's progress about every tenth of it, of large ones alone."""

    def __init__(self, say: Say):
        self._say = say
        self._told = 0

    def __call__(self, done: int, total: int | None) -> None:
        step = max((total or _USUAL) // 10, _LEAST_STEP)
        if done // step > self._told:
            self._told = done // step
            whole = f" of {total / 1e6:,.0f}" if total else ""
            self._say(f"  {done / 1e6:,.0f}{whole} MB")


def _files(name: str) -> tuple[str, ...]:
    return loading.MODULES[name].FILES


def _find(name: str, folder: Path, file: str) -> Path:
    return frames.find(folder, file, getattr(loading.MODULES[name], "SUBFOLDERS", ()))


# --- the key of what is kept ----------------------------------------------------------


def _key(config: DatasetConfig, data_dir: Path, folders: Folders) -> str:
    digests = cache.SourceDigests(folders.cache_dir / "digests.json")
    files = _source_files(config, data_dir) | _code()
    sources = {name: digests.digest(path) for name, path in files.items()}
    fields, version = _preparation(config), _version(config)
    return cache.key(config.name, fields, sources, version)


def _source_files(config: DatasetConfig, data_dir: Path) -> dict[str, Path]:
    """Every file that the loader finds, and no other: name -> path."""
    if config.name == "csv":
        named = {field: getattr(config.csv, field) for field in own.FIELDS}
        paths = {field: text.user_path(path) for field, path in named.items()}
    else:
        name, folder = config.name, data_dir / config.name
        paths = {file: _find(name, folder, file) for file in _files(name)}
        paths |= _find_truth(name, folder)
    return {name: path for name, path in paths.items() if os.path.isfile(path)}


def _find_truth(name: str, folder: Path) -> dict[str, Path]:
    """The published test matrix, which is read where it lies beside the others."""
    module = loading.MODULES[name]
    if not hasattr(module, "TRUTH"):
        return {}
    subfolders = getattr(module, "TRUTH_SUBFOLDERS", ())
    return {module.TRUTH: frames.find(folder, module.TRUTH, subfolders)}


def _code() -> dict[str, Path]:
    """The modules that prepare data; another version of any prepares them anew."""
    return {f"code {path.name}": path for path in Path(__file__).parent.glob("*.py")}
