"""Named arrays and a note in one file that nothing is unpickled from."""

from __future__ import annotations

import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from darlr_jax.files import replacing

_NOTE = "note"


class DamagedFileError(ValueError):
    """A file that does not hold what was written to it; says how that shows."""


def save_arrays(path: pathlib.Path, arrays: Mapping[str, Any], note: Any) -> None:
    """Writes `arrays` and `note` (whatever JSON can say) as an `.npz` file.

    The file is complete or absent; its folder is made, private to the user.

    Raises:
      OSError: it cannot be written.
    """
    if _NOTE in arrays:
        raise ValueError(f"an array must not be called {_NOTE!r}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    entries = {name: np.asarray(array) for name, array in arrays.items()}
    entries[_NOTE] = np.asarray(json.dumps(note))
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **entries)  # type: ignore[arg-type]  # no name is allow_pickle


def load_arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and the note that `save_arrays` wrote.

    Raises:
      DamagedFileError: the file is unreadable, cut short, or a bit of it has changed.
    """
    try:
        # NumPy stops reading where its header says; the checksum covers the header too.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise DamagedFileError(f"{broken} has changed")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return arrays, json.loads(str(arrays.pop(_NOTE)))
    except Exception as error:  # whatever a parser makes of a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DamagedFileError(reason[:200]) from error
