"""experiments.make_tables: every table says which matrix pays the evaluation."""

from __future__ import annotations

import pathlib
import shutil

import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax.config import ConfigError, replace
from darlr_jax.presets import preset
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plans import make_plan
from darlr_jax.runs.writers import MetricsWriter
from experiments import make_tables
from tests.runs.conftest import metrics_row, open_run

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def results(tmp_path):
    """A folder of results, and how runs get into it: method and matrix."""
    shutil.copytree(ROOT / "results" / "published", tmp_path / "published")

    def write(method, matrix, changes=None, name=None, gain=0.0, folder="coat"):
        config = replace(preset("coat", method), changes or {})
        with open_run(tmp_path / "raw" / folder / (name or method), config) as run:
            run.update(ground_truth=matrix)
            writer = MetricsWriter(run)
            for epoch in range(1, 5):
                rows = [metrics_row(seed, epoch) for seed in (0, 1)]
                for row in rows:
                    row["NX_0_all_users_R_tra"] += gain * (1 + row["seed"])
                writer.write(rows)

    write.root = tmp_path
    return write


def test_every_table_says_which_matrix_pays(results):
    results("mbpo", "an invented matrix")
    results("darlr", "an invented matrix")

    files = make_tables.files_of(results.root, "coat")

    for name in ("tables/coat.md", "tables/coat_paired.md"):
        assert files[name].endswith("\n\nEvaluation pays: an invented matrix.\n")
    header, *rows = files["tables/coat_paired.csv"].splitlines()
    assert header.endswith(",evaluation pays")
    assert [row.endswith(",an invented matrix") for row in rows] == [True] * 2
    assert (
        "<p class='sub'>Evaluation pays: an invented matrix.</p>"
        in (files["reports/coat.html"])
    )


def test_two_matrices_make_no_table(results):
    results("mbpo", "an invented matrix")
    results("darlr", "another")

    with pytest.raises(RunError, match="paid by 2 test matrices"):
        make_tables.files_of(results.root, "coat")


def test_claims_have_the_reservations_of_the_rows(results):
    for method in ("mbpo", "roler", "sqn"):
        results(method, "an invented matrix")

    lines = make_tables.files_of(results.root, "coat")["tables/coat_claims.md"]

    assert "| mbpo less sqn " in lines
    assert "\n\nEvaluation pays: an invented matrix.\n" in lines
    assert "faulty code (docs/deviations.md): sqn (" in lines


def test_repeats_are_paid_by_the_same_matrix(results):
    for folder, matrix in (("coat", "an invented matrix"), ("coat_repeat", "another")):
        results("mbpo", matrix, folder=folder)
    with pytest.raises(RunError, match="paid by 2 test matrices"):
        make_tables.files_of(results.root, "coat")


def test_runs_that_do_not_know_say_nothing(results):
    """They are of before this was kept."""
    results("mbpo", None)

    files = make_tables.files_of(results.root, "coat")

    assert "pays" not in files["tables/coat.md"] + files["tables/coat_paired.csv"]


def test_what_all_rows_changed_stands_beneath_the_table_once(results):
    seed, window = {"world_model.seed": 7}, {"tracker.window": 5}
    results("mbpo", None, seed)
    results("dorl", None, seed | window)

    files = make_tables.files_of(results.root, "coat")

    for name in ("tables/coat.md", "tables/coat_paired.md"):
        assert files[name].count("world_model.seed=7") == 1
        assert files[name].endswith("\n\nAll rows: world_model.seed=7.\n")
        assert files[name].count("tracker.window=5") == 1
    assert "All runs: world_model.seed=7.</p>" in files["reports/coat.html"]


def test_changed_rows_of_a_whole_plan_have_a_table_of_their_own(results):
    plan = make_plan("curves", "coat")
    for row in plan.rows:
        results(row.method, None, row.changes, directory_name(row))
    results("mbpo", None, {"tracker.window": 5}, "mbpo_short")

    files = make_tables.files_of(results.root, "coat")

    methods = files["tables/coat.md"]
    assert [f"| {name} " in methods for name in ("darlr", "roler", "mbpo")] == [1, 1, 0]
    assert "changed" not in methods
    others = files["tables/coat_changed.md"]
    assert "| mbpo_short " in others and "tracker.window=5" in others
    assert "reward.uncertainty" not in methods + others
    brief = files["tables/coat_curves_brief.md"]
    assert all(f"| {row.name} " in brief for row in plan.rows)
    paired = files["tables/coat_paired.md"]
    assert "| mbpo_short " in paired and "reward.uncertainty" not in paired
    page = files["reports/coat.html"]
    assert "<h2>Dynamic and frozen reward, coat</h2>" in page
    assert f"<td>{plan.rows[1].name}</td>" in page


def test_runs_of_other_names_alone_are_one_table(results):
    results("mbpo", None, {"tracker.window": 5}, "mbpo_short")
    files = make_tables.files_of(results.root, "coat")
    assert "tracker.window=5" in files["tables/coat.md"]
    assert "tables/coat_changed.md" not in files


def test_a_changed_row_stands_beside_its_method(results):
    results("mbpo", None)
    results("mbpo", None, {"tracker.window": 5}, "mbpo_long", gain=2.0)
    results("roler", None, {"tracker.window": 5}, "roler_long")  # whose method is not

    table = make_tables.files_of(results.root, "coat")["tables/coat_changed.md"]

    lines = [line.split("|")[1:-1] for line in table.splitlines()[2:4]]
    cells = {line[0].strip(): [cell.strip() for cell in line[-3:]] for line in lines}
    assert cells["mbpo_long"][::2] == ["3.00 [2.00, 4.00]", "2 of 2"]
    assert cells["roler_long"] == ["n/a"] * 3


# --- the program ----------------------------------------------------------------------


@pytest.fixture
def program(results, monkeypatch):
    """Runs the program with flags, in a folder of its own."""
    results("mbpo", None)
    monkeypatch.chdir(results.root)

    def start(*arguments):
        with flagsaver.flagsaver():
            flags.FLAGS(["make_tables", *arguments])
            make_tables.main([])

    start.tables = results.root / "tables"
    return start


def test_a_page_that_cannot_be_filled_is_found_before_anything_is_written(
    program, tmp_path
):
    (tmp_path / "typo.md").write_text("<!-- tables/koat.md -->\n<!-- end -->\n")
    (tmp_path / "latin.md").write_bytes(b"\xff")
    for page, message in (
        ("missing.md", r"--pages=missing.md: cannot be read \(No such file"),
        ("latin.md", r"--pages=latin.md: cannot be read \(no UTF-8 text\)"),
        ("typo.md", r"typo.md: names tables/koat.md, which no runs make"),
    ):
        with pytest.raises((ConfigError, RunError), match=message):
            program("--results=.", f"--pages={page}")
    assert not program.tables.exists()


def test_pages_of_this_folder_are_not_filled_from_another(program, tmp_path):
    (tmp_path / "README.md").write_text("<!-- tables/coat.md -->\n<!-- end -->\n")
    with pytest.raises(ConfigError, match=r"--results=.: say which pages"):
        program("--results=.")
    assert not program.tables.exists()
    program("--results=.", "--pages=")
    assert (tmp_path / "README.md").read_text().count("\n") == 2
    program("--results=.", "--pages=README.md")
    made = (program.tables / "coat.md").read_text()
    assert made in (tmp_path / "README.md").read_text()


def test_what_is_written_to_a_page_meanwhile_is_kept(program, tmp_path, monkeypatch):
    page, make = tmp_path / "README.md", make_tables.files_of
    page.write_text("<!-- tables/coat.md -->\n<!-- end -->\n")

    def edit_and_make(*arguments):
        page.write_text("A sentence.\n" + page.read_text())
        return make(*arguments)

    monkeypatch.setattr(make_tables, "files_of", edit_and_make)
    program("--results=.", "--pages=README.md")
    assert page.read_text().startswith("A sentence.\n<!-- tables/coat.md -->\n| ")


def test_flags_of_an_experiment_are_refused(program):
    with pytest.raises(ConfigError, match="--epochs: the runs say it themselves"):
        program("--results=.", "--pages=", "--epochs=3")
