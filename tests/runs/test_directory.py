"""directory.py: who may write, what must match, nothing half-written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import subprocess

import jax
import pytest

import darlr_jax
from darlr_jax import config as config_lib
from darlr_jax import files
from darlr_jax.runs import directory
from darlr_jax.runs.directory import (
    Resume,
    RunDirectory,
    RunError,
    load_config,
    read_text,
)
from tests.runs.conftest import CONFIG, open_run


def read(run, name):
    return json.loads((run.path / name).read_text())


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_new_run_holds_its_configuration_and_its_circumstances(tmp_path):
    with open_run(tmp_path / "a" / "b", command=["train", "--x"]) as run:
        assert not run.resumed
        assert read(run, "config.json") == json.loads(
            json.dumps(config_lib.to_dict(CONFIG))
        )
        record = read(run, "run.json")
        assert record["status"] == "running"
        run.update(compile_seconds=1.5, run_seconds=2.5)
    assert record["command"] == ["train", "--x"]
    assert record["seeds"] == [0, 1]
    assert record["data"] == {"log": "abc"}
    assert record["started"].endswith("+00:00")
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["darlr_jax"] == darlr_jax.__version__
    assert record["device"]["platform"] == jax.devices()[0].platform
    assert record["device"]["count"] == len(jax.devices())
    assert record["host"]["cpus"] == os.cpu_count()
    closed = read(run, "run.json")
    assert closed["status"] == "finished"
    assert closed["ended"] >= closed["started"]
    assert (closed["compile_seconds"], closed["run_seconds"]) == (1.5, 2.5)
    assert names(run.path) == [".lock", "checkpoints", "config.json", "run.json"]


def test_configuration_reads_back(tmp_path):
    config = config_lib.replace(CONFIG, {"recommender.hidden": (7, 5)})
    open_run(tmp_path, config).close()
    assert load_config(tmp_path) == config


def test_unknown_field_of_run_json_is_refused(tmp_path):
    with (
        open_run(tmp_path) as run,
        pytest.raises(RunError, match="no field compile_sec"),
    ):
        run.update(compile_sec=1.0)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_exception_is_noted_and_goes_on(tmp_path, error, status):
    with pytest.raises(error), open_run(tmp_path) as run:
        raise error
    assert read(run, "run.json")["status"] == status
    open_run(tmp_path).close()  # and the lock is free


def test_same_experiment_resumes_and_keeps_its_history(tmp_path):
    open_run(tmp_path, command=["first"]).close("interrupted")
    open_run(tmp_path, command=["second"]).close("interrupted")
    longer = config_lib.replace(CONFIG, {"training.epochs": 999})
    with open_run(tmp_path, longer, command=["third"], resume="must") as run:
        assert run.resumed
    record = read(run, "run.json")
    assert record["command"] == ["third"]
    assert [s["command"] for s in record["earlier_sessions"]] == [["first"], ["second"]]
    assert [s["status"] for s in record["earlier_sessions"]] == ["interrupted"] * 2
    assert load_config(tmp_path).training.epochs == 999


def test_who_computed_it_before_is_known(tmp_path, monkeypatch):
    commits = iter(["a" * 40, "a" * 40, "b" * 40, "b" * 40 + "+dirty"] + [None] * 2)
    monkeypatch.setattr(directory, "git_commit", lambda: next(commits))
    found = []
    for _ in range(5):
        with open_run(tmp_path) as run:
            found.append(run.computed_otherwise())
    changes = (
        [f"commit {'a' * 9} -> {'b' * 9}"],
        [f"commit {'b' * 9} -> {'b' * 9}+dirty"],
    )
    assert found == [[], [], *changes, []]
    record = read(run, "run.json")
    record["versions"]["jax"] = "0.1"
    run.run_file.write_text(json.dumps(record))
    with open_run(tmp_path) as run:
        assert run.computed_otherwise() == [f"jax 0.1 -> {jax.__version__}"]


def test_changed_files_of_a_commit_may_be_others_now(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "git_commit", lambda: "c" * 40 + "+dirty")
    open_run(tmp_path).close()
    with open_run(tmp_path) as run:
        assert run.computed_otherwise() == ["commit ccccccccc+dirty -> ccccccccc+dirty"]


def test_a_claim_that_does_not_begin_leaves_everything_as_it_is(tmp_path):
    open_run(tmp_path).close()
    before = contents(tmp_path)
    how = {"seeds": [0, 1], "command": ["train"], "data_hashes": {"log": "abc"}}
    with (
        RunDirectory.claim(tmp_path, CONFIG, **how, overwrite=True),
        pytest.raises(RunError, match="in use by process"),
    ):
        open_run(tmp_path)
    assert contents(tmp_path) == before
    open_run(tmp_path).close()  # and the lock is free


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({"selector.k_sel": 20}, {}, r"selector\.k_sel: 15 -> 20"),
        (
            {"recommender.hidden": (8,)},
            {},
            r"recommender\.hidden: \(64, 64\) -> \(8,\)",
        ),
        ({}, {"seeds": [0, 1, 2]}, r"seeds: \[0, 1\] -> \[0, 1, 2\]"),
        ({}, {"data_hashes": {"log": "abd"}}, "data: .*abc.* -> .*abd"),
    ],
)
def test_another_experiment_is_refused_and_nothing_changes(
    tmp_path, fields, arguments, message
):
    open_run(tmp_path).close()
    before = contents(tmp_path)
    with pytest.raises(RunError, match=message) as error:
        open_run(tmp_path, config_lib.replace(CONFIG, fields), **arguments)
    assert "--workdir" in str(error.value)
    assert "--overwrite" in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_overwrite_replaces_the_files_of_a_run_and_no_others(tmp_path):
    with open_run(tmp_path) as run:
        for file in (run.metrics_csv, run.metrics_jsonl, run.curves):
            file.write_text("old")
        (run.checkpoints / "1").mkdir(parents=True)
        (run.failed / "checkpoint_1").mkdir(parents=True)
        (tmp_path / "notes.txt").write_text("mine")
    other = config_lib.replace(CONFIG, {"selector.k_sel": 20})
    with open_run(tmp_path, other, overwrite=True) as run:
        assert not run.resumed
    of_the_run = [".lock", "checkpoints", "config.json", "run.json"]
    assert names(tmp_path) == sorted([*of_the_run, "notes.txt"])
    assert names(run.checkpoints) == []
    assert read(run, "run.json")["earlier_sessions"] == []
    assert load_config(tmp_path) == other


def test_what_is_of_the_run_and_not_of_a_session_goes_on(tmp_path):
    failed, warnings = [{"seed": 1, "epoch": 3}], [{"rule": "x", "epoch": 2}]
    with open_run(tmp_path) as run:
        assert (run.noted("failed_seeds"), run.noted("warnings")) == ([], [])
        run.update(failed_seeds=failed, warnings=warnings)
    for _ in range(2):
        with open_run(tmp_path) as run:
            assert run.noted("failed_seeds") == read(run, "run.json")["failed_seeds"]
            assert (run.noted("failed_seeds"), run.noted("warnings")) == (
                failed,
                warnings,
            )
    sessions = read(run, "run.json")["earlier_sessions"]
    assert not any({"failed_seeds", "warnings"} & set(session) for session in sessions)
    with open_run(tmp_path, overwrite=True) as run:
        assert (run.noted("failed_seeds"), run.noted("warnings")) == ([], [])


def test_remains_of_a_killed_write_are_removed(tmp_path):
    open_run(tmp_path).close("interrupted")
    (tmp_path / ".metrics.csv.0123456789abcdef.tmp").write_text("half a ro")
    (tmp_path / "failed" / ".checkpoint_3.0123456789abcdef.tmp").mkdir(parents=True)
    open_run(tmp_path).close()
    of_the_run = [".lock", "checkpoints", "config.json", "run.json"]
    assert names(tmp_path) == sorted([*of_the_run, "failed"])
    assert names(tmp_path / "failed") == []


def test_resume_policies(tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        open_run(tmp_path / "new", resume=Resume.MUST)
    assert names(tmp_path) == []
    open_run(tmp_path / "old").close()
    with pytest.raises(RunError, match="holds a run already"):
        open_run(tmp_path / "old", resume=Resume.NEVER)
    with pytest.raises(RunError, match="contradict"):
        open_run(tmp_path / "old", resume=Resume.MUST, overwrite=True)
    open_run(tmp_path / "old", resume=Resume.NEVER, overwrite=True).close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_directory_of_something_else_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="no run directory"):
        open_run(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_run_that_was_killed_between_its_first_two_files_has_not_begun(tmp_path):
    open_run(tmp_path).close()
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="no run to resume"):
        open_run(tmp_path, resume=Resume.MUST)
    other = config_lib.replace(CONFIG, {"selector.k_sel": 20})
    with open_run(tmp_path, other, resume=Resume.NEVER) as run:
        assert not run.resumed
    assert load_config(tmp_path) == other
    (tmp_path / "run.json").unlink()
    (tmp_path / "metrics.csv").write_text("seed,epoch\n")  # it had begun
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        open_run(tmp_path)


def test_config_json_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"precious": 1}')
    with pytest.raises(RunError, match="not a configuration of this version"):
        open_run(tmp_path)
    assert read_text(tmp_path / "config.json") == '{"precious": 1}'


def test_path_that_cannot_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be created"):
        open_run(tmp_path / "file")


def test_disk_on_which_not_even_the_lock_has_room(tmp_path):
    """A limit on the size of files stands for it: they can be made, not written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot be created or written to \("):
            open_run(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with open_run(tmp_path / "run"):
        assert "process" in (tmp_path / "run" / ".lock").read_text()


def test_configuration_of_another_version_is_named(tmp_path):
    with open_run(tmp_path) as run:
        pass
    content = read(run, "config.json")
    content["selector"]["forgotten"] = 1
    run.config_file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"config\.json.*selector\.forgotten"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("", "not JSON"), ("[1]", "expected a JSON object")]
)
def test_damaged_json_is_named(tmp_path, text, message):
    open_run(tmp_path).close()
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=rf"run\.json: {message}.*--overwrite"):
        open_run(tmp_path)


def _try_to_open(path, answers):
    try:
        open_run(path).close()
    except RunError as error:
        answers.put(str(error))
    else:
        answers.put("opened")


def test_second_writer_is_refused_until_the_first_is_done(tmp_path):
    # A new process: a lock may be taken again by the process that holds it.
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with open_run(tmp_path):
        process = context.Process(target=_try_to_open, args=(tmp_path, answers))
        process.start()
        refusal = answers.get(timeout=60)
        process.join()
    assert f"in use by process {os.getpid()} on " in refusal
    open_run(tmp_path).close()


def test_replacing_leaves_the_old_file_where_writing_fails(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), directory.replacing(file) as temporary:
        temporary.write_text("new, and then")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_before_the_old_one_goes(tmp_path, monkeypatch):
    folder, seen, remove = tmp_path / "folder", [], files._remove

    def watch(path):
        seen.append(read_text(folder / "file"))
        remove(path)

    monkeypatch.setattr(files, "_remove", watch)
    for text in ("old", "new"):
        with directory.replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text)
    assert set(seen) == {"old", "new"} and seen[1:] == ["new"] * len(seen[1:])
    assert names(tmp_path) == ["folder"]


def test_an_old_folder_comes_back_where_the_new_one_cannot_be_put(
    tmp_path, monkeypatch
):
    folder, replace, calls = tmp_path / "folder", os.replace, []
    folder.mkdir()
    (folder / "file").write_text("old")

    def fail_later(source, target):
        calls.append(target)
        if len(calls) == 3:  # 1: something is in the way, 2: it is moved aside
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail_later)
    with (
        pytest.raises(OSError, match="output error"),
        directory.replacing(folder) as temporary,
    ):
        temporary.mkdir()
        (temporary / "file").write_text("new")
    assert read_text(folder / "file") == "old"
    assert names(tmp_path) == ["folder"]


def test_what_cannot_be_written_speaks_of_checkpoints_where_there_are_some(tmp_path):
    def refusal(path):
        with pytest.raises(RunError) as error, directory.writing(path):
            raise OSError(28, "No space left on device")
        return str(error.value)

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "run" / "metrics.csv"
    expected = (
        f"{file}: cannot be written to (No space left on device); mend that and run "
        "the same command again"
    )
    assert refusal(file) == expected
    (tmp_path / "run" / "checkpoints" / "3").mkdir()
    assert refusal(file) == f"{expected}, the last checkpoint is intact"
    assert "checkpoint" not in refusal(tmp_path / "page.html")


def test_json_has_no_word_for_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        directory.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout in which a copy of the package seems to lie."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    package = tmp_path / "darlr_jax" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(darlr_jax, "__file__", str(package))

    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    return git


def test_commit_says_whether_the_source_was_changed(checkout, tmp_path):
    assert directory.git_commit() is None  # nothing committed yet
    checkout("add", "darlr_jax")
    checkout("commit", "--quiet", "-m", "first")
    commit = checkout("rev-parse", "HEAD").strip()
    assert directory.git_commit() == commit
    (tmp_path / "darlr_jax" / "__init__.py").write_text("changed = True")
    assert directory.git_commit() == commit + "+dirty"


def test_checkout_of_something_else_is_not_the_source(checkout, tmp_path, monkeypatch):
    checkout("add", ".")
    checkout("commit", "--quiet", "-m", "first")
    installed = tmp_path / "site-packages" / "darlr_jax" / "__init__.py"
    monkeypatch.setattr(darlr_jax, "__file__", str(installed))
    assert directory.git_commit() is None


def test_naming_the_files_touches_nothing(tmp_path):
    RunDirectory(tmp_path / "absent")
    assert names(tmp_path) == []
