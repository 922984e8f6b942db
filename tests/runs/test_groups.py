"""groups.py: a plan is whole where all its rows are; no run is lost."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from darlr_jax.runs.directory import RunError
from darlr_jax.runs.groups import read_group
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plan_tables import brief_text, plan_table
from darlr_jax.runs.plans import choose_rows, make_plan, row_config
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import metrics_row, open_run

ROOT = pathlib.Path(__file__).parent.parent.parent
PUBLISHED = PublishedScores(ROOT / "results" / "published")


@pytest.fixture
def write(tmp_path):
    """Writes runs of rows of a plan, and is the folder of them."""

    def rows(plan, names, overrides=None, **record):
        for row in choose_rows(plan, names).rows:
            settings = {"training.epochs": 4} | (overrides or {})
            config = row_config(row, plan.dataset, settings)
            with open_run(tmp_path / directory_name(row), config) as run:
                run.update(**record)
                writer = MetricsWriter(run)
                for epoch in range(1, 1 + config.training.epochs):
                    writer.write([metrics_row(seed, epoch) for seed in (0, 1)])

    rows.folder = tmp_path
    return rows


def tables(folder):
    return [whole.plan.table for whole in read_group(folder).plans]


def test_a_plan_is_whole_with_its_last_row(write):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    assert tables(write.folder) == []
    write(plan, [last])
    assert tables(write.folder) == ["curves"]
    (whole,) = read_group(write.folder).plans
    assert [outcome.row for outcome in whole.outcomes] == list(plan.rows)
    assert all(len(outcome.metrics) == 8 for outcome in whole.outcomes)


def test_a_row_that_has_not_been_run_costs_no_table(write):
    """One of ten; but not the one that others are compared with."""
    plan = make_plan("ablation", "coat")
    names = [row.name for row in plan.rows]
    write(plan, [name for name in names if name not in ("overwrite", "self")])
    assert tables(write.folder) == []  # two of nineteen
    write(plan, ["self"])
    (whole,) = read_group(write.folder).plans
    assert whole.plan.missing == ("overwrite",)
    assert [o.row.name for o in whole.outcomes] == [
        n for n in names if n != "overwrite"
    ]
    text = brief_text(plan_table(whole.plan, whole.outcomes, PUBLISHED, None))
    assert "Not run yet: overwrite." in text and "Chosen by" not in text
    shutil.rmtree(write.folder / "darlr")
    write(plan, ["overwrite"])
    assert tables(write.folder) == []


def test_a_run_may_be_called_as_its_row(write):
    plan = make_plan("curves", "coat")
    write(plan, [row.name for row in plan.rows])
    row = plan.row("nearest_frozen")
    (write.folder / directory_name(row)).rename(write.folder / row.name)
    assert tables(write.folder) == ["curves"]


def test_a_run_of_that_name_may_be_another(write):
    """The ablation calls a row as the main table calls a method."""
    plan = make_plan("curves", "coat")
    write(plan, [row.name for row in plan.rows])
    row, dorl = plan.row("nearest_frozen"), plan.row("dorl")
    shutil.rmtree(write.folder / directory_name(row))
    shutil.copytree(write.folder / directory_name(dorl), write.folder / row.name)
    assert tables(write.folder) == []


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ({"training.environments": 50}, []),  # of another size
        ({"training.epochs": 3}, ["curves"]),  # the table has a column for it
    ],
)
def test_rows_of_another_size_are_another_table(write, others, found):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    write(plan, [last], others)
    assert tables(write.folder) == found


def test_a_failed_row_stops_the_table(write):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    failed = {"seed": 1, "term": "loss", "value": "nan", "epoch": 3}
    write(plan, [last], failed_seeds=[failed])
    with pytest.raises(RunError, match="1 of 2 seeds failed"):
        read_group(write.folder)


def test_runs_of_two_data_sets_are_refused(write):
    for dataset in ("coat", "synthetic"):
        write(make_plan("curves", dataset), ["roler" if dataset == "coat" else "dorl"])
    with pytest.raises(RunError, match="holds runs of coat and synthetic"):
        read_group(write.folder)


def test_runs_of_whole_plans_are_no_others(write):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    changed = {directory_name(row) for row in plan.rows if row.changes}
    assert {run.name for run in read_group(write.folder).others} == changed
    write(plan, [last])
    group = read_group(write.folder)
    assert group.others == []
    assert [run.name for run in group.methods] == ["dorl", "roler", "darlr"]
    assert [o.row.against for o in group.outcomes("roler")] == ["roler", None, "roler"]


def test_runs_stand_in_the_order_of_the_methods(write_run, tmp_path):
    for name, method in (("later", "roler"), ("darlr",) * 2, ("mbpo",) * 2):
        write_run(name, method=method)
    group = read_group(tmp_path)
    assert [run.name for run in group.runs] == ["mbpo", "darlr", "later"]
    with pytest.raises(RunError, match="no run directories"):
        read_group(tmp_path / "nothing")


def test_what_reproduce_makes_beside_its_runs_is_no_run(write_run, tmp_path):
    write_run("mbpo", method="mbpo")
    for name in ("tables", ".hidden"):
        (tmp_path / name).mkdir()
    assert [run.name for run in read_group(tmp_path).runs] == ["mbpo"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(RunError, match=r"notes: no run directory \(it has no config"):
        read_group(tmp_path)


def test_a_directory_is_not_called_as_another_method(write_run, tmp_path):
    write_run("roler", method="roler")
    write_run("roler_darlr", method="darlr")  # of no method: as one likes
    assert len(read_group(tmp_path).runs) == 2
    write_run("mbpo", method="dorl")
    with pytest.raises(RunError, match=r"mbpo: is called as a method .* run of dorl"):
        read_group(tmp_path)


def test_a_folder_of_tables_alone_holds_no_runs(tmp_path):
    (tmp_path / "tables").mkdir()
    with pytest.raises(RunError, match="holds no run directories"):
        read_group(tmp_path)


def test_a_malformed_run_stops_the_group(write_run, tmp_path):
    write_run("good")
    (write_run("bad") / "metrics.csv").write_text("seed,epoch\n")
    with pytest.raises(RunError, match="no epoch yet"):
        read_group(tmp_path)
