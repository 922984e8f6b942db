"""launch/audit.py: what it finds, and that there is nothing of it here."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata

import pytest

from darlr_jax.data.sources import SOURCES
from launch import audit


def test_the_source_of_this_package_has_no_fault():
    assert audit.source_faults() == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("import pickle", "imports pickle"),
        ("from pickle import loads", "imports pickle.loads"),
        ("import urllib.request", "imports urllib.request"),
        ("from urllib import request", "imports urllib.request"),
        ("from http.client import HTTPConnection", "imports http.client"),
        ("import yaml", "imports yaml"),
        ("import tarfile", "imports tarfile"),
        ("eval('1')", "calls eval"),
        ("exec(text)", "calls exec"),
        ("os.system('ls')", "calls os.system"),
        ("from os import popen as run", "imports os.popen"),
        ("subprocess.getoutput('ls')", "calls subprocess.getoutput"),
        ("archive.extractall(folder)", "calls archive.extractall"),
        ("pd.read_pickle(path)", "calls pd.read_pickle"),
        ("subprocess.run('ls', shell=True)", "passes shell=True"),
        ("subprocess.run('ls', shell=how)", "passes shell=how"),
        ("np.load(path, allow_pickle=True)", "passes allow_pickle=True"),
    ],
)
def test_what_is_forbidden_is_found_where_it_stands(tmp_path, line, fault):
    path = tmp_path / "experiments" / "new.py"
    path.parent.mkdir()
    path.write_text(f"import numpy as np\n\n{line}\n")
    assert audit.source_faults(tmp_path)[0].startswith(f"experiments/new.py:3: {fault}")


def source_of(tmp_path, text):
    path = tmp_path / "experiments" / "new.py"
    path.parent.mkdir()
    path.write_text(text)
    return audit.source_faults(tmp_path)


@pytest.mark.parametrize("module", [
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"),
    *("ftplib", "telnetlib", "requests", "httpx", "http", "socket", "urllib.request"),
    *("tarfile", "zipfile", "os.system", "os.popen"),
])  # fmt: skip
def test_every_module_of_the_rules_is_found_however_it_is_imported(tmp_path, module):
    parent, _, name = module.rpartition(".")
    line = f"from {parent} import {name}" if parent else f"import {module}"
    found = source_of(tmp_path, line)
    assert found == [f"experiments/new.py:1: imports {module}"]


def test_no_rule_about_modules_is_untested():
    assert len(audit.MODULES) == 18


@pytest.mark.parametrize("name", [
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("tempfile.mktemp", "shutil.unpack_archive", "archive.extractall"),
    *("request.urlopen", "request.urlretrieve", "pd.read_pickle", "frame.to_pickle"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "getoutput"),
])  # fmt: skip
def test_every_call_of_the_rules_is_found(tmp_path, name):
    found = source_of(tmp_path, f"import numpy\n{name}(x)\n")
    assert found == [f"experiments/new.py:2: calls {name}"]


def test_no_rule_about_calls_is_untested():
    assert len(audit.CALLS | audit.METHODS) == 15


@pytest.mark.parametrize(
    ("keyword", "allowed"),
    [("shell", "False"), ("allow_pickle", "False"), ("verify", "True")],
)
def test_every_flag_of_the_rules_has_one_value(tmp_path, keyword, allowed):
    lines = [f"f({keyword}={value})" for value in ("True", "False", "0", "how")]
    found = source_of(tmp_path, "\n".join(lines))
    other = [line for line in lines if line != f"f({keyword}={allowed})"]
    assert [fault.rpartition(" ")[2] for fault in found] == [o[2:-1] for o in other]
    assert set(audit.FLAGS) == {"shell", "allow_pickle", "verify"}


@pytest.mark.parametrize(
    "line",
    ["platform.system()", "np.load(path, allow_pickle=False)", "import urllib.parse",
     "re.compile(text)", "jitted.lower().compile()", "model.eval()"],
)  # fmt: skip
def test_what_is_harmless_is_not(tmp_path, line):
    path = tmp_path / "darlr_jax" / "new.py"
    path.parent.mkdir()
    path.write_text(line)
    assert audit.source_faults(tmp_path) == []


def test_allowed_modules_are_allowed_in_their_file_alone(tmp_path):
    for name in ("fetch", "other"):
        path = tmp_path / "darlr_jax" / "data" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import urllib.request\n")
    assert audit.source_faults(tmp_path) == [
        "darlr_jax/data/other.py:1: imports urllib.request"
    ]


def test_versions_are_compared_under_any_spelling():
    pins = {"ml-dtypes": "1.0", "numpy": "2.0", "toolz": "3.0"}
    installed = {audit.canonical("ML_dtypes"): "1.0", "numpy": "2.1", "extra": "0.1"}
    assert audit.compare_versions(pins, installed | {"pip": "9"}, "pins.txt") == [
        "extra 0.1: is installed, but pins.txt has no pin",
        "numpy 2.1: pins.txt pins 2.0",
    ]


@pytest.mark.parametrize("version", [(3, 11), (3, 12)])
def test_pins_name_one_version_and_its_files_each(version):
    path = audit.pin_file(version)
    pins = audit.read_pins(path)
    assert {"jax", "numpy", "pytest", "setuptools", "matplotlib"} <= set(pins)
    for file in (path, path.with_name(path.name.replace("-dev", ""))):
        text = file.read_text().replace("\\\n", "")
        entries = [line for line in text.splitlines() if line[0] not in "#-"]
        assert len(entries) > 10
        for entry in entries:
            name, *hashes = entry.split()
            assert "==" in name
            assert hashes
            assert all(len(one) == len("--hash=sha256:") + 64 for one in hashes)


def install(folder, content, *, digest=None):
    """A package of one file, as pip leaves it."""
    if digest is None:
        raw = hashlib.sha256(content).digest()
        digest = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    information = folder / "sample-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: sample\nVersion: 1.0\n")
    (information / "RECORD").write_text(
        f"sample.py,sha256={digest},{len(content)}\nsample.pyc,,\n"
    )
    (folder / "sample.py").write_bytes(content)
    return importlib.metadata.Distribution.at(information)


def test_installed_files_are_compared_with_the_record(tmp_path):
    package = install(tmp_path, b"x = 1\n")
    assert list(audit.changed_files(package)) == []
    (tmp_path / "sample.py").write_bytes(b"x = 2\n")
    assert list(audit.changed_files(package)) == [
        f"{tmp_path / 'sample.py'}: is not what sample came with"
    ]
    (tmp_path / "sample.py").unlink()
    assert list(audit.changed_files(package)) == [
        f"{tmp_path / 'sample.py'}: of sample: No such file or directory"
    ]


def test_every_fault_is_told(monkeypatch, capsys):
    monkeypatch.setattr(audit, "version_faults", lambda: ["one"])
    monkeypatch.setattr(audit, "file_faults", lambda: ["two"])
    monkeypatch.setattr(audit, "source_faults", lambda: [])
    with pytest.raises(SystemExit, match="error: the audit found 2 faults"):
        audit.main(["audit"])
    assert capsys.readouterr().err == "one\ntwo\n"


@pytest.mark.parametrize("pinned", [True, False])
def test_versions_that_were_not_compared_are_not_called_right(
    pinned, tmp_path, monkeypatch, capsys
):
    pins = tmp_path / "py00-dev.txt"
    if pinned:
        pins.touch()
    monkeypatch.setattr(audit, "pin_file", lambda: pins)
    for name in ("installed_versions", "file_faults", "source_faults"):
        monkeypatch.setattr(audit, name, dict)
    audit.main(["audit"])
    said = capsys.readouterr().out
    missing = "audit: py00-dev.txt does not exist: no versions are compared\n"
    assert said.startswith(missing) != pinned
    assert ("versions, installed files and source are as they" in said) == pinned
    assert said.endswith("installed files and source are as they should be\n")


def test_all_that_is_downloaded_has_a_checksum():
    for source in SOURCES.values():
        for download in source.downloads:
            assert download.checksum is not None, download.name
