"""Checkpoints: the whole state of a run, with its keys, bit for bit.

The state is stored as one array, the bytes of all its arrays one after another. So a
checkpoint depends neither on how a library nests its optimizer states nor on the
devices, arrays without elements need no care (the state has `[0, 0]` tables where
nothing needs them), and a save takes the same few files and calls of the storage
however many arrays there are: of each such call it keeps some memory for good.

Beside the bytes lies what they are and what they are compared with when they are read:
the path, shape, type and SHA-256 digest of each array, in their order, and of which
configuration, seeds and data they are.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import logging as python_logging
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from darlr_jax.config import ConfigError, from_dict, to_dict
from darlr_jax.runs.directory import Identity, RunError
from darlr_jax.runs.storage import writing_checkpoint

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

State = TypeVar("State")
Result = TypeVar("Result")
_Leaves = dict[str, Any]
_Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

_ORBAX = f"{os.sep}orbax{os.sep}"  # in the path of every file of it
_CONTENT = "content"  # the name of the stored array


class Checkpointer:
    """The newest `keep` states of a run and the best one, each complete or absent.

    States are written while the program goes on. Use it as a context manager: what is
    being written when the block ends is waited for.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int = 2,
        identity: Identity | None = None,
    ):
        """Opens, or creates, the checkpoints under `directory`.

        Args:
          directory: where they are; no other process may write there.
          keep: how many of the newest stay.
          identity: of which run they are; stored, and compared with what is restored.
            None: neither.

        Raises:
          RunError: Orbax cannot read what any of them is.
        """
        # Orbax takes absolute paths alone.
        self._directory = pathlib.Path(directory).absolute()
        self._identity = identity
        self._scores: dict[int, float] = {}
        self._under_way: Any = None
        _silence_orbax()
        self._orbax = self._open(keep)
        for epoch in self._stored():
            with contextlib.suppress(_DamagedError):
                self._note_score(epoch, self._record(epoch).get("score"))

    def save(self, state: Any, epoch: int, score: float | None = None) -> None:
        """Begins to store `state`, whose buffers may be donated when this returns.

        The checkpoint is complete after the next `save`, `wait`, `restore` or `close`,
        which also raise what went wrong in the meantime.

        Args:
          state: a pytree of arrays, typed keys among them; None is no leaf.
          epoch: the number of epochs it has behind it; later than any stored one.
          score: the higher, the better; the checkpoint with the highest one stays.

        Raises:
          RunError: `epoch` is stored already, or later ones are, or the system refused
            to write this checkpoint or the one before.
        """
        self.wait()
        latest = self.latest_epoch()
        if latest is not None and epoch <= latest:
            raise RunError(
                f"{self._directory}: cannot save epoch {epoch} after epoch {latest}"
            )
        leaves = _leaves(state)
        parts = _bytes_of(leaves)
        record = self._describe(leaves, parts, score)
        self._note_score(epoch, score)
        content = np.concatenate(list(parts.values()))
        with writing_checkpoint(self._directory):
            self._under_way = self._orbax.save_async(
                epoch, {_CONTENT: content}, custom_metadata=record
            )
        if self._under_way is None:
            raise RunError(f"{self._directory}: epoch {epoch} was not saved")

    def restore(self, example: State, epoch: int | None = None) -> State:
        """The stored state, with the structure and on the devices of `example`.

        A damaged checkpoint is named in a warning and set aside, as `damaged_EPOCH`,
        and the one before it is taken.

        Args:
          example: a state of the same structure, shapes and types; values are ignored.
          epoch: which one; the newest if None.

        Raises:
          RunError: nothing is stored, all of it is damaged, it is of another run or of
            an earlier version, or `example` is a state of another shape (what differs).
        """
        self.wait()
        stored = self._stored()
        wanted = [e for e in reversed(stored) if epoch is None or e == epoch]
        if not wanted:
            raise RunError(
                f"{self._directory}: no checkpoint"
                + (f" of epoch {epoch}, only of {stored}" if epoch is not None else "")
            )
        damaged = []
        for candidate in wanted:
            try:
                state = self._load(example, candidate)
            except _DamagedError as error:
                damaged.append(candidate)
                self._name_damaged(candidate, error)
                continue
            if damaged:
                self._set_aside(damaged)
                self._orbax.reload()
            return state
        raise self._all_damaged(damaged)

    def set_aside_after(self, epoch: int) -> None:
        """Takes later checkpoints for damaged, where one remains to go on from.

        Args:
          epoch: the last one whose rows are there.
        """
        stored = self._stored()
        later = [candidate for candidate in stored if candidate > epoch]
        if not later or later == stored:
            return
        for candidate in later:
            rows = _DamagedError(f"metrics.csv ends at epoch {epoch}")
            self._name_damaged(candidate, rows)
        self._set_aside(later)
        self._orbax.reload()

    def latest_epoch(self) -> int | None:
        """The newest epoch that is stored or being stored, None without any."""
        return max(self._stored(), default=None)

    def newest(self) -> pathlib.Path | None:
        """The folder of the newest checkpoint, once it is complete; None without any.

        Raises:
          RunError: the system refused to write it.
        """
        self.wait()
        epoch = self.latest_epoch()
        return None if epoch is None else self._directory / str(epoch)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          RunError: the system refused to write.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            with writing_checkpoint(self._directory):
                under_way.result()

    def close(self) -> None:
        """Waits, and releases what the checkpointer holds. Raises as `wait`."""
        try:
            self.wait()
        finally:
            with writing_checkpoint(self._directory):
                self._orbax.close()

    def __enter__(self) -> Checkpointer:
        """The checkpointer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; what ends the block by itself is not hidden by a failed write."""
        with contextlib.suppress(*([RunError] if kind is not None else [])):
            self.close()

    def _stored(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def _note_score(self, epoch: int, score: float | None) -> None:
        if score is None or not math.isfinite(score):
            self._scores.pop(epoch, None)
        else:
            self._scores[epoch] = score

    def _describe(
        self, leaves: _Leaves, parts: dict[str, _Bytes], score: float | None
    ) -> dict[str, Any]:
        """What is stored beside the bytes, with a digest of itself."""
        record: dict[str, Any] = {
            "leaves": {
                name: {
                    "shape": list(leaf.shape),
                    "dtype": str(leaf.dtype),
                    "sha256": _digest(parts[name]),
                }
                for name, leaf in leaves.items()
            },
            "score": None if score is None or not math.isfinite(score) else score,
        }
        if self._identity is not None:
            config, seeds, data = self._identity
            record["identity"] = {
                "config": to_dict(config), "seeds": seeds, "data": data
            }  # fmt: skip
        return record | {"sha256": _text_digest(record)}

    def _record(self, epoch: int) -> dict[str, Any]:
        """What `_describe` made. Raises _DamagedError."""

        def read() -> tuple[dict[str, Any], str]:
            record: dict[str, Any] = self._orbax.metadata(epoch).custom_metadata
            return record, record.pop("sha256")

        record, digest = _attempt(read)
        if digest != _text_digest(record):
            raise _DamagedError("its description has changed")
        return record

    def _load(self, example: State, epoch: int) -> State:
        leaves, path = _leaves(example), f"{self._directory}/{epoch}"
        record = self._record(epoch)
        self._require_same_run(record, path)
        _require_fit(leaves, record["leaves"], path)
        self._require_one_array(record, path, epoch)
        # It fits, so what fails is the reading.
        content = _attempt(lambda: self._orbax.load(epoch, {_CONTENT: np.ndarray}))
        values = _unpacked(content[_CONTENT], leaves, record["leaves"])
        return jax.tree.unflatten(jax.tree.structure(example), values)

    def _require_same_run(self, record: dict[str, Any], path: str) -> None:
        if self._identity is None:
            return
        if "identity" not in record:
            raise RunError(
                f"{path}: does not say of which run it is; start anew with --overwrite"
            )
        stored = record["identity"]
        try:
            stored = Identity(**stored | {"config": from_dict(stored["config"])})
        except ConfigError as error:
            raise RunError(f"{path}: of another version ({error})") from error
        differences = self._identity.differences(stored)
        if differences:
            raise RunError(
                f"{path}: is of another experiment ({'; '.join(differences)}); choose "
                "another --workdir, or --overwrite to replace it"
            )

    def _require_one_array(self, record: dict[str, Any], path: str, epoch: int) -> None:
        """Refuses what an earlier version stored: an array of its own for each leaf."""
        stored = _attempt(lambda: set(self._orbax.metadata(epoch).metadata))
        if stored & record["leaves"].keys():
            raise RunError(
                f"{path}: of an earlier version, which this one does not read; go on "
                "with the one that made it, or start anew with --overwrite"
            )

    def _open(self, keep: int) -> Any:
        """Orbax's own. It opens no folder in which it cannot read what one of them is.

        That one is named and set aside here, as the damaged ones of `restore` are.
        """

        def open_folder() -> Any:
            return ocp.training.Checkpointer(
                self._directory,
                preservation_policy=_NewestAndBest(keep, self._scores),
                cleanup_tmp_directories=True,  # of a process killed while saving
            )

        try:
            return open_folder()
        except ValueError:
            damaged, others = self._illegible()
            if not damaged:
                raise
        if not others:
            raise self._all_damaged(damaged)
        self._set_aside(damaged)
        return open_folder()

    def _illegible(self) -> tuple[list[int], list[int]]:
        """Epochs whose description Orbax cannot read, which are named, and the others.

        Whether those are whole is for `restore` to tell.
        """
        names = (path.name for path in self._directory.iterdir())
        damaged, others = [], []
        for epoch in sorted(int(name) for name in names if name.isdecimal()):
            folder = self._directory / str(epoch)
            try:
                _attempt(functools.partial(ocp.metadata, folder))
                others.append(epoch)
            except _DamagedError as error:
                damaged.append(epoch)
                self._name_damaged(epoch, error)
        return damaged, others

    def _name_damaged(self, epoch: int, error: _DamagedError) -> None:
        path = self._directory / str(epoch)
        logging.warning("%s: damaged checkpoint (%s)", path, error)

    def _all_damaged(self, epochs: list[int]) -> RunError:
        return RunError(
            f"{self._directory}: damaged checkpoints of epochs {epochs}; start anew "
            "with --overwrite"
        )

    def _set_aside(self, epochs: list[int]) -> None:
        for epoch in epochs:
            source = self._directory / str(epoch)
            target = source.with_name(f"damaged_{epoch}")
            count = 1
            while target.exists():
                count += 1
                target = source.with_name(f"damaged_{epoch}_{count}")
            source.rename(target)


class _NewestAndBest:
    """Orbax's preservation policy: the newest ones and the one with the best score."""

    def __init__(self, newest: int, scores: dict[int, float]):
        self._newest = newest
        self._scores = scores

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        del context
        epochs = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(epochs)[-self._newest :], _best(epochs, self._scores)}
        return [epoch in kept for epoch in epochs]


def _best(epochs: Sequence[int], scores: dict[int, float]) -> int | None:
    """The epoch with the highest score, of equal ones the first."""
    scored = sorted(epoch for epoch in epochs if epoch in scores)
    return max(scored, key=scores.__getitem__, default=None)


class _DamagedError(Exception):
    """A checkpoint that cannot be read back as it was written."""


def _attempt(read: Callable[[], Result]) -> Result:
    """What `read` returns. Raises _DamagedError for whatever goes wrong in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        try:
            return read()
        except Exception as error:
            reason = _first_line(error)
        gc.collect()  # those coroutines, while their warning is ignored
    raise _DamagedError(reason)


# --- what Orbax says beside its exceptions --------------------------------------------


@functools.cache  # for as long as the process lives: answers may come late
def _silence_orbax() -> None:
    """Keeps from the terminal what Orbax leaves behind; the rest goes where it went.

    What it has to say that matters comes as an exception, and its logs repeat it. When
    a save or a load has failed, it closes its event loop all the same, to which the
    storage (TensorStore) has yet to answer from threads of its own, and drops results
    and coroutines that nobody has waited for. Python prints a traceback of each.
    """
    for logger in (logging.get_absl_logger(), python_logging.getLogger()):
        logger.addFilter(_not_from_orbax)
    python_logging.getLogger("asyncio").addFilter(_not_of_orbax)
    earlier = sys.unraisablehook

    def hook(unraisable: UnraisableHookArgs) -> None:
        if not _is_left_behind(unraisable):
            earlier(unraisable)

    sys.unraisablehook = hook


def _not_from_orbax(record: python_logging.LogRecord) -> bool:
    return _ORBAX not in record.pathname


def _not_of_orbax(record: python_logging.LogRecord) -> bool:
    """Not a task of it, nor one that waited for the storage."""
    return not any(name in record.getMessage() for name in (_ORBAX, "tensorstore"))


def _is_left_behind(unraisable: UnraisableHookArgs) -> bool:
    """A coroutine of it, or a thread without any Python that finds the loop closed."""
    code = getattr(unraisable.object, "cr_code", None)
    if code is not None:
        return _ORBAX in code.co_filename
    first = unraisable.exc_traceback
    return (
        str(unraisable.exc_value) == "Event loop is closed"
        and first is not None
        and first.tb_frame.f_code.co_name.endswith("call_soon_threadsafe")
    )


# --- records --------------------------------------------------------------------------


def _leaves(state: Any) -> _Leaves:
    """Path -> array, for every leaf of `state`, in the order of its leaves."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _numbers(leaf: jax.Array) -> jax.Array:
    """The array itself; of keys, their data."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _bytes_of(leaves: _Leaves) -> dict[str, _Bytes]:
    """Path -> the bytes of that array, on the host."""
    numbers = jax.device_get([_numbers(leaf) for leaf in leaves.values()])
    return {
        name: np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for name, array in zip(leaves, numbers, strict=True)
    }


def _unpacked(content: _Bytes, leaves: _Leaves, record: dict[str, Any]) -> list[Any]:
    """The arrays whose bytes these are, on the devices of `leaves`.

    Raises:
      _DamagedError: the bytes of one are not those of the record.
    """
    values, start = [], 0
    for name, leaf in leaves.items():
        numbers = jax.eval_shape(_numbers, leaf)
        part = content[start : start + numbers.size * numbers.dtype.itemsize]
        if _digest(part) != record[name]["sha256"]:
            raise _DamagedError(f"{name}: its content has changed")
        array = part.view(numbers.dtype).reshape(numbers.shape)
        values.append(_placed(array, leaf))
        start += part.size
    return values


def _placed(numbers: np.ndarray, leaf: Any) -> jax.Array:
    """What `_numbers` gave, as an array like `leaf`, on its devices."""
    array: Any = numbers
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(jnp.empty((), leaf.dtype))
        array = jax.random.wrap_key_data(jnp.asarray(numbers), impl=impl)
    sharding = getattr(leaf, "sharding", None)
    return jax.device_put(array, sharding or jax.devices()[0])


def _digest(content: _Bytes) -> str:
    return hashlib.sha256(content.data).hexdigest()


def _text_digest(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _require_fit(leaves: _Leaves, record: dict[str, Any], path: str) -> None:
    """Refuses a checkpoint of another structure."""
    here = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}
    there = {name: f"{item['dtype']}{item['shape']}" for name, item in record.items()}
    differences = [
        f"{name}: {there.get(name, 'nothing')} stored, "
        f"{here.get(name, 'nothing')} expected"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise RunError(
            f"{path}: does not fit ({'; '.join(differences[:3])}{more}); go on "
            "with the version that made it, or start anew with --overwrite"
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
