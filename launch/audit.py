"""Checks, without a network, what runs here against what was pinned and written.

    python -m launch.audit

Three questions, a line a fault: are the installed versions those of `constraints/`; are
the installed files those that their packages came with, by their SHA-256; and does the
source keep away from what turns data or text into a program: pickles, `eval`, shells,
archives that unpack themselves, downloads past `data/fetch.py`.

It finds accidents and carelessness. It proves nothing against somebody who can write to
the environment, as they could change this file as well.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

from absl import app

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("darlr_jax", "experiments", "launch", "benchmarks")
PACKAGE = "darlr-jax"  # installed from here, and pinned by nobody
TOOLS = {"pip", PACKAGE}  # that come with the environment

# Modules that are imported nowhere, or in the files named; functions called nowhere.
_NOWHERE = (
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"),
    *("yaml", "ftplib", "telnetlib", "requests", "httpx"),
)
MODULES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_NOWHERE, ()),
    **dict.fromkeys(("os.system", "os.popen"), ()),  # by `from os import`
    "http": ("darlr_jax/data/fetch.py",),
    "socket": ("darlr_jax/runs/directory.py",),  # the name of the host
    "urllib.request": ("darlr_jax/data/fetch.py",),
    "tarfile": ("darlr_jax/data/archives.py",),
    "zipfile": ("darlr_jax/data/archives.py", "darlr_jax/runs/arrays.py"),
}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    *("extractall", "unpack_archive", "mktemp", "urlopen", "urlretrieve"),
    *("read_pickle", "to_pickle", "os.system", "os.popen"),
    *("getoutput", "getstatusoutput"),  # of subprocess: they are shells
}
FLAGS = {"shell": False, "allow_pickle": False, "verify": True}  # the only values


def main(argv: list[str]) -> None:
    """Prints every fault; exits with 1 where there are any."""
    del argv
    faults = [*version_faults(), *file_faults(), *source_faults()]
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(f"error: the audit found {len(faults)} faults")
    compared = "versions, installed" if pin_file().exists() else "installed"
    print(f"audit: {compared} files and source are as they should be")


# --- versions -------------------------------------------------------------------------


def pin_file(version: tuple[int, ...] = sys.version_info[:2]) -> pathlib.Path:
    """The pins of everything that `make` installs with this version of Python."""
    return ROOT / "constraints" / f"py{version[0]}{version[1]}-dev.txt"


def read_pins(path: pathlib.Path) -> dict[str, str]:
    """Name -> version of all pins of a file, and of those that it refers to."""
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            pins |= read_pins(path.with_name(line.removeprefix("-r ").strip()))
        elif match := re.match(r"([A-Za-z0-9._-]+)==([^\s\\;]+)", line):
            pins[canonical(match[1])] = match[2]
    return pins


def canonical(name: str) -> str:
    """A name of a package as all its spellings have it in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> dict[str, str]:
    """Name -> version of what is installed here."""
    found = importlib.metadata.distributions()
    return {canonical(one.metadata["Name"]): one.version for one in found}


def version_faults() -> list[str]:
    """What is installed in another version than the pinned one, or is not pinned."""
    path = pin_file()
    if not path.exists():
        print(f"audit: {path.name} does not exist: no versions are compared")
        return []
    pins = read_pins(path)
    return compare_versions(pins, installed_versions(), path.name)


def compare_versions(
    pins: dict[str, str], installed: dict[str, str], name: str
) -> list[str]:
    """One line a package; what is pinned and not installed may belong to an extra."""
    faults = []
    for package, version in sorted(installed.items()):
        if package in TOOLS:
            continue
        if package not in pins:
            faults.append(f"{package} {version}: is installed, but {name} has no pin")
        elif pins[package] != version:
            faults.append(f"{package} {version}: {name} pins {pins[package]}")
    return faults


# --- installed files ------------------------------------------------------------------


def file_faults() -> list[str]:
    """Files that have changed since they were installed, or are gone."""
    found = importlib.metadata.distributions()
    return [fault for one in found for fault in changed_files(one)]


def changed_files(package: importlib.metadata.Distribution) -> Iterator[str]:
    """One line a file whose SHA-256 is not that of the package's RECORD."""
    for path, recorded in _recorded_files(package):
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            yield f"{path}: of {package.metadata['Name']}: {error.strerror}"
            continue
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != recorded:
            yield f"{path}: is not what {package.metadata['Name']} came with"


def _recorded_files(
    package: importlib.metadata.Distribution,
) -> Iterator[tuple[pathlib.Path, str]]:
    """Path and SHA-256 of what RECORD has one of.

    `package.files` leaves out what is gone, from Python 3.12 on.
    """
    record = package.read_text("RECORD") or ""
    for name, digest, *_ in csv.reader(record.splitlines()):
        if digest.startswith("sha256="):
            path = pathlib.Path(str(package.locate_file(name)))
            yield path, digest.removeprefix("sha256=")


# --- source ---------------------------------------------------------------------------


def source_faults(root: pathlib.Path = ROOT) -> list[str]:
    """Forbidden imports and calls, as "file:line: what"."""
    paths = sorted(path for name in SOURCES for path in (root / name).rglob("*.py"))
    return [fault for path in paths for fault in _faults_of(path, root)]


def _faults_of(path: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    name = path.relative_to(root).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for what in _forbidden(node, name):
            yield f"{name}:{getattr(node, 'lineno', 0)}: {what}"


def _forbidden(node: ast.AST, name: str) -> Iterable[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for module in _imported(node):
            if not all(name in files for files in _allowed(module)):
                yield f"imports {module}"
    elif isinstance(node, ast.Call):
        yield from _forbidden_call(node)


def _allowed(module: str) -> list[tuple[str, ...]]:
    """The files that may import a module, for each rule about it."""
    return [
        files
        for known, files in MODULES.items()
        if f"{module}.".startswith(f"{known}.")
    ]


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def _forbidden_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in CALLS | METHODS or name.rpartition(".")[2] in METHODS:
        yield f"calls {name}"
    for keyword in call.keywords:
        if keyword.arg in FLAGS:
            value = getattr(keyword.value, "value", None)
            if value is not FLAGS[keyword.arg]:
                yield f"passes {keyword.arg}={ast.unparse(keyword.value)}"


if __name__ == "__main__":
    app.run(main)
