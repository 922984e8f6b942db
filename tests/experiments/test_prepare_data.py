"""experiments.prepare_data: what it tells of data; trainings on what it prepares."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax.config import ConfigError
from darlr_jax.data import fetch, loading, twins, yahoo
from darlr_jax.data.dataset import DataError
from darlr_jax.data.sources import SOURCES
from experiments import cli, prepare_data, reproduce, session, train
from tests.environments import ROOT, WARNINGS
from tests.experiments.sizes import REFERENCES, TRAINING

TINY = 1e-3  # of the official counts
SETTINGS = (*TRAINING, *REFERENCES, "world_model.batch_size=1024")
LOG = "user_id,item_id,rating\n" + "".join(
    f"{user},{item},{1 + user * item % 5}\n"
    for user in range(8)
    for item in range(12)
    if (user + item) % 3
)


class Done(NamedTuple):
    """A program that has ended."""

    code: int
    out: str
    err: str


def run(program: str, *arguments: str) -> Done:
    """`python -m PROGRAM` in a process of its own."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-m", program, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def prepare(tmp_path, capsys):
    """Calls the program in this process, which spares imports; returns what it says."""

    def call(*arguments: str) -> tuple[str, str]:
        with flagsaver.flagsaver():
            flags.FLAGS(["prepare_data", f"--cache_dir={tmp_path}/cache", *arguments])
            prepare_data.main([])
        return capsys.readouterr()

    return call


@pytest.fixture
def by_hand(tmp_path):
    """A data folder with files of the official form that are smaller than those."""
    twins.write("kuairec", tmp_path / "data", TINY)
    twins.write("coat", tmp_path / "data", TINY)
    return tmp_path / "data"


def rows(out: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]


def warnings(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("warning: ")]


# --- what it tells --------------------------------------------------------------------


def test_twin_is_prepared_once_and_counted(tmp_path):
    arguments = ["--dataset=kuairec", "--twin", f"--twin_scale={TINY}"]
    arguments.append(f"--cache_dir={tmp_path / 'cache'}")
    first = run("experiments.prepare_data", *arguments)
    second = run("experiments.prepare_data", *arguments)

    assert first.code == second.code == 0, first.err + second.err
    size = twins.sizes("kuairec", TINY)
    table = rows(first.out)
    assert table[0] == ["count", "found"]  # the official counts are none of a twin's
    repeated = table.pop(6)
    assert repeated[0] == "rows log repeated"
    assert 0.1 < int(repeated[1].replace(",", "")) / size.log_rows < 0.2  # docs/data.md
    assert table[1:8] == [
        ["users", f"{size.users:,}"],
        ["items", f"{size.items:,}"],
        ["rows log", f"{size.log_rows:,}"],
        ["rows held out", f"{size.test_rows:,}"],
        ["rows", f"{size.log_rows + size.test_rows:,}"],
        ["environment users", f"{size.environment_users:,}"],
        ["environment items", f"{size.environment_items:,}"],
    ]
    assert "evaluation pays: TWIN of scale 0.001 (generated files), not" in first.out
    assert "terms:" not in first.out
    told, read = first.err.splitlines()
    assert told.startswith("kuairec: a twin of scale 0.001, 227 users, 339 items, ")
    assert read == "kuairec: reading its files, once"
    assert second.err.splitlines() == [told]
    ready = r"ready in \d+\.\d s"
    assert re.sub(ready, "", second.out) == re.sub(ready, "", first.out)


def test_official_counts_stand_beside_those_found(by_hand, prepare):
    out, err = prepare("--dataset=kuairec", f"--data_dir={by_hand}")

    assert rows(out)[:2] == [
        ["count", "found", "published (protocol 1.2)"],
        ["users", "227", "7,176"],
    ]
    assert rows(out)[5] == ["rows", "17,233", ""]  # nobody states the sum
    assert rows(out)[9] == ["density", "0.9962", "0.9960"]
    assert f"terms: {SOURCES['kuairec'].terms} (https://kuairec.com)" in out
    assert "evaluation pays: KuaiRec small_matrix.csv, watch ratio capped" in out
    assert warnings(err) == [
        "warning: users: 7,176 published (protocol 1.2), 227 found",
        "warning: items: 10,728 published (protocol 1.2), 339 found",
        "warning: rows_log: 12,530,806 published (protocol 1.2), 12,526 found",
        "warning: rows_held_out: 4,676,570 published (protocol 1.2), 4,707 found",
        "warning: environment_users: 1,411 published (protocol 1.2), 45 found",
        "warning: environment_items: 3,327 published (protocol 1.2), 105 found",
    ]


def test_strict_fails_after_the_table(by_hand, tmp_path):
    done = run(
        "experiments.prepare_data",
        "--dataset=kuairec",
        f"--data_dir={by_hand}",
        f"--cache_dir={tmp_path / 'cache'}",
        "--strict",
    )

    assert done.code == 1
    assert len(rows(done.out)) == 10
    assert len(warnings(done.err)) == 6
    last = done.err.splitlines()[-1]
    assert last == "error: 6 counts differ from those published"
    assert "Traceback" not in done.err


def test_strict_has_nothing_against_official_counts(by_hand, prepare):
    """A twin of Coat is as large as Coat."""
    out, err = prepare("--dataset=coat", f"--data_dir={by_hand}", "--strict")

    assert warnings(err) == []
    assert all(found == stated for _, found, stated in rows(out)[1:8] if stated)
    assert "terms: CC BY-NC 4.0" in out


def test_a_part_of_a_log_is_not_compared_with_what_was_published(by_hand, prepare):
    half = ["--dataset=coat", f"--data_dir={by_hand}"]
    half += ["--set=dataset.thinning.share=0.5"]
    out, err = prepare(*half)
    assert "rows log" in out and warnings(err) == []

    done = run("experiments.prepare_data", *half, "--strict")
    assert done.code == 1
    assert "--strict: counts of a part of the log are none" in done.err
    assert "Traceback" not in done.err


def test_hash_tells_what_was_made_of_the_same_files(by_hand, prepare):
    arguments = ("--dataset=kuairec", f"--data_dir={by_hand}")
    hashes = [
        re.search(r"data hash: ([0-9a-f]{16})  ready", prepare(*arguments, *more)[0])[1]
        for more in ([], [], ["--set=dataset.kuairec.label=maxmin"])
    ]

    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("dataset", ["synthetic", "csv"])
def test_what_nobody_published_is_counted_too(dataset, prepare, tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    settings = [
        f"--set=dataset.csv.log={tmp_path / 'log.csv'}",
        "--set=dataset.completion.ranks=(1,)",
        "--set=dataset.completion.regularisation=(1.0,)",
        "--set=dataset.completion.sweeps=1",
    ]

    out, err = prepare(f"--dataset={dataset}", "--strict", *settings)

    users = {"synthetic": "200", "csv": "8"}[dataset]
    assert rows(out)[:2] == [["count", "found"], ["users", users]]
    assert "terms:" not in out
    assert warnings(err) == []


def test_table_of_counts():
    published = SOURCES["movielens"].statistics
    found = {"users": 6040, "rows_log": 800_167, "rows": 1_000_209, "density": 0.04471}

    table = prepare_data.count_table(found, published)

    assert table.columns.tolist() == ["count", "found", "published by GroupLens"]
    assert table.to_numpy().tolist() == [
        ["users", "6,040", "6,040"],
        ["rows log", "800,167", ""],
        ["rows", "1,000,209", "1,000,209"],
        ["density", "0.0447", ""],
    ]
    alone = prepare_data.count_table(found, None)
    assert alone.columns.tolist() == ["count", "found"]


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=kuairek"], "no such data set; did you mean 'kuairec'?"),
        (["--dataset=csv", "--twin"], "--twin: 'csv' has no published form to imitate"),
        (["--dataset=yahoo", "--twin", "--twin_scale=2"], "must be within [0.0001, 1]"),
    ],
)
def test_mistake_in_the_command_is_one_line(arguments, message, tmp_path):
    done = run("experiments.prepare_data", *arguments, f"--cache_dir={tmp_path}/cache")

    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("flag", ["method=darlr", "epochs=3"])
def test_what_data_do_not_depend_on_is_refused(prepare, flag):
    name, _, _ = flag.partition("=")
    with pytest.raises(ConfigError, match=f"^--{name}: is of training, and data are"):
        prepare(f"--{flag}")


def test_without_a_home_folder_there_is_no_cache_in_it(monkeypatch, tmp_path):
    """As in a container, of a user whom the system has no line about."""

    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.users_cache() == tmp_path / "darlr_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(DataError, match=r"^~: there is no such home folder"):
        cli.users_cache()


def test_what_must_be_asked_for_says_how(prepare, tmp_path):
    with pytest.raises(DataError) as caught:
        prepare("--dataset=yahoo", f"--data_dir={tmp_path}")

    assert str(caught.value).startswith(f"{tmp_path}/yahoo/{yahoo.TRAIN}: no such file")
    assert "sign its agreement" in str(caught.value)


@pytest.mark.parametrize("cause", ["a file in its place", "read-only"])
def test_cache_that_cannot_be_written_is_one_line(cause, by_hand, tmp_path):
    cache = tmp_path / "cache"
    if cause == "read-only":
        cache.mkdir(mode=0o500)
        if os.access(cache, os.W_OK):
            pytest.skip("the superuser may write anywhere")
    else:
        cache.mkdir()
        (cache / "datasets").write_text(cause)

    done = run(
        "experiments.prepare_data",
        "--dataset=coat",
        f"--data_dir={by_hand}",
        f"--cache_dir={cache}",
    )

    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {cache}/datasets: cannot be written (")


# --- trainings ------------------------------------------------------------------------


@pytest.mark.parametrize("twin", [False, True])
def test_training_gets_what_was_prepared(twin, by_hand, tmp_path, monkeypatch):
    """Files in the folder that is named, or a twin; nothing is downloaded there."""
    trainings = []
    monkeypatch.setattr(fetch, "download", pytest.fail)
    monkeypatch.setattr(cli, "configure_jax", lambda: None)
    monkeypatch.setattr(
        session, "train", lambda config, dataset, *_, **__: trainings.append(dataset)
    )
    arguments = ["train", "--dataset=kuairec", f"--cache_dir={tmp_path}/cache"]
    files = ["--twin", "--twin_scale=0.002"] if twin else [f"--data_dir={by_hand}"]
    with flagsaver.flagsaver():
        flags.FLAGS([*arguments, *files])
        train.main([])
    elsewhere = ["train", "--dataset=kuairec", f"--data_dir={tmp_path}/elsewhere"]
    with flagsaver.flagsaver():
        flags.FLAGS(elsewhere)
        with pytest.raises(
            DataError, match=r"elsewhere/kuairec/\S+\.csv: no such file"
        ):
            train.main([])

    (dataset,) = trainings
    assert dataset.name == ("kuairec twin" if twin else "kuairec")
    assert (
        dataset.num_logged_users == twins.sizes("kuairec", 0.002 if twin else TINY)[0]
    )
    loading.check(dataset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset=csv", "--method=gt"], "gt on csv"),
        (["--dataset=kuairec", "--twin", f"--twin_scale={TINY}"], "on kuairec twin"),
    ],
    ids=["csv", "twin"],
)
def test_one_epoch_from_end_to_end(arguments, told, tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    settings = [f"--set={setting}" for setting in SETTINGS]
    workdir = tmp_path / "run"

    done = run(
        "experiments.train",
        *arguments,
        *settings,
        f"--set=dataset.csv.log={tmp_path / 'log.csv'}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--workdir={workdir}",
        "--epochs=1",
    )

    assert done.code == 0, done.err
    assert told in done.out
    assert {"FB", "NX_0", "NX_10"} <= {row[0] for row in rows(done.out)}
    assert "reading its files, once" in done.err
    assert len((workdir / "metrics.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("program", [prepare_data, reproduce, train])
def test_help_lists_the_shared_flags(program):
    listed = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(program)}

    shared = {"dataset", "data_dir", "twin", "twin_scale", "method", "epochs", "set"}
    assert shared | {"cache_dir"} <= listed
