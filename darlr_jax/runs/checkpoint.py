"""Checkpoints: the whole state of a run, with its keys, bit for bit.

The state is stored as a flat record, `{".recommender.params['kernel']": array}`. So a
checkpoint does not depend on how a library nests its optimizer states, what differs can
be named where one does not fit, and arrays without elements, which the storage refuses,
can be left out (the state has `[0, 0]` tables where nothing needs them).
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import logging
from orbax.checkpoint import v1 as ocp

from darlr_jax.runs.directory import RunError

State = TypeVar("State")
_Leaves = dict[str, Any]


class Checkpointer:
    """The newest `keep` states of a run, each complete or absent.

    A checkpoint carries the shape, the type and the SHA-256 digest of every array;
    what is restored is compared with them.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        """Opens, or creates, the checkpoints under `directory`."""
        # Orbax takes absolute paths alone.
        self._directory = pathlib.Path(directory).absolute()
        self._orbax = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,  # of a process that was killed while saving
        )

    def save(self, state: Any, epoch: int) -> None:
        """Stores `state`; when this returns, the checkpoint is complete.

        Args:
          state: a pytree of arrays, typed keys among them; None is no leaf.
          epoch: the number of epochs it has behind it; later than any stored one.

        Raises:
          RunError: `epoch` is stored already, or later ones are.
        """
        latest = self.latest_epoch()
        if latest is not None and epoch <= latest:
            raise RunError(
                f"{self._directory}: cannot save epoch {epoch} after epoch {latest}"
            )
        leaves = _leaves(state)
        record = {name: _describe(leaf) for name, leaf in leaves.items()}
        stored = _without_empty(leaves)
        if not self._orbax.save(epoch, stored, custom_metadata={"leaves": record}):
            raise RunError(f"{self._directory}: epoch {epoch} was not saved")

    def restore(self, example: State, epoch: int | None = None) -> State:
        """The stored state, with the structure and on the devices of `example`.

        A damaged checkpoint is named in a warning and set aside, as `damaged_EPOCH`,
        and the one before it is taken.

        Args:
          example: a state of the same structure, shapes and types; values are ignored.
          epoch: which one; the newest if None.

        Raises:
          RunError: nothing is stored, all of it is damaged, or `example` is a state of
            another shape (what differs).
        """
        stored = [checkpoint.step for checkpoint in self._orbax.checkpoints]
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
                path = self._directory / str(candidate)
                logging.warning("%s: damaged checkpoint (%s)", path, error)
                continue
            self._set_aside(damaged)
            return state
        raise RunError(f"{self._directory}: damaged checkpoints of epochs {damaged}")

    def latest_epoch(self) -> int | None:
        """The newest epoch that is stored, None where there is none."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        self._orbax.wait()

    def close(self) -> None:
        """Waits, and releases what the checkpointer holds."""
        self._orbax.close()

    def _load(self, example: State, epoch: int) -> State:
        leaves = _leaves(example)
        try:
            metadata = self._orbax.metadata(epoch)
            record = metadata.custom_metadata["leaves"]
        except Exception as error:  # whatever a parser makes of a damaged file
            raise _DamagedError(_first_line(error)) from error
        _require_fit(leaves, record, f"{self._directory}/{epoch}")
        targets = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf))
            for name, leaf in _without_empty(leaves).items()
        }
        try:
            restored = self._orbax.load(epoch, targets)
        except Exception as error:  # it fits, so what fails is the reading
            raise _DamagedError(_first_line(error)) from error
        for name, leaf in restored.items():
            if _digest(leaf) != record[name]["sha256"]:
                raise _DamagedError(f"{name}: its content has changed")
        values = [
            restored[name] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)
            for name, leaf in leaves.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(example), values)

    def _set_aside(self, epochs: list[int]) -> None:
        for epoch in epochs:
            source = self._directory / str(epoch)
            target = source.with_name(f"damaged_{epoch}")
            count = 1
            while target.exists():
                count += 1
                target = source.with_name(f"damaged_{epoch}_{count}")
            source.rename(target)
        if epochs:
            self._orbax.reload()


class _DamagedError(Exception):
    """A checkpoint that cannot be read back as it was written."""


def _leaves(state: Any) -> _Leaves:
    """Path -> array, for every leaf of `state`, in the order of its leaves."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _without_empty(leaves: _Leaves) -> _Leaves:
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _describe(leaf: jax.Array) -> dict[str, Any]:
    described = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    return described | {"sha256": _digest(leaf)}


def _digest(leaf: jax.Array) -> str:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    values = jax.device_get(jax.random.key_data(leaf) if is_key else leaf)
    return hashlib.sha256(values.tobytes()).hexdigest()


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    sharding = getattr(leaf, "sharding", None)
    return sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _require_fit(leaves: _Leaves, record: dict[str, Any], path: str) -> None:
    """Refuses a checkpoint of another structure. Orbax would cast types in silence."""
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
        raise RunError(f"{path}: does not fit ({'; '.join(differences[:3])}{more})")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
