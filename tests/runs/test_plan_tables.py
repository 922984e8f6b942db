"""plan_tables.py: a table is made where all its rows are, and says what to know."""

from __future__ import annotations

import pathlib
import shutil

import pandas as pd
import pytest

from darlr_jax.runs.comparison import Outcome, comparison_table
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plan_tables import (
    brief_text,
    plan_texts,
    runs_in_plans,
    whole_plans,
)
from darlr_jax.runs.plans import choose_rows, make_plan, row_config
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import metrics_row, open_run

PUBLISHED = PublishedScores(
    pathlib.Path(__file__).parent.parent.parent / "results" / "published"
)


@pytest.fixture
def write(tmp_path):
    """Writes runs of rows of a plan, and is the folder of them."""

    def rows(plan, names, overrides=None, **record):
        for row in choose_rows(plan, names).rows:
            config = row_config(row, plan.dataset, overrides)
            with open_run(tmp_path / directory_name(row), config) as run:
                run.update(**record)
                writer = MetricsWriter(run)
                for epoch in range(1, 5):
                    writer.write([metrics_row(seed, epoch) for seed in (0, 1)])
                writer.close()

    rows.folder = tmp_path
    return rows


def tables(folder):
    return [plan.table for plan, _ in whole_plans(folder)]


def test_a_plan_is_whole_with_its_last_row(write):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    assert tables(write.folder) == []
    write(plan, [last])
    assert tables(write.folder) == ["curves"]
    ((_, outcomes),) = whole_plans(write.folder)
    assert [outcome.row for outcome in outcomes] == list(plan.rows)
    assert all(len(outcome.metrics) == 8 for outcome in outcomes)


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
        ({"training.epochs": 7}, ["curves"]),  # the table has a column for it
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
        whole_plans(write.folder)


def test_runs_of_two_data_sets_are_refused(write):
    for dataset in ("coat", "synthetic"):
        write(make_plan("curves", dataset), ["roler" if dataset == "coat" else "dorl"])
    with pytest.raises(RunError, match="holds runs of coat and synthetic"):
        whole_plans(write.folder)


def test_names_of_the_runs_of_whole_plans(write):
    plan = make_plan("curves", "coat")
    *first, last = (row.name for row in plan.rows)
    write(plan, first)
    assert runs_in_plans(write.folder) == {}
    write(plan, [last])
    names = {directory_name(row) for row in plan.rows}
    assert runs_in_plans(write.folder) == {"curves": names}


def outcomes(plan, overrides=None):
    table = pd.DataFrame([metrics_row(s, e) for s in (0, 1) for e in range(1, 5)])
    return [
        Outcome(row, row_config(row, plan.dataset, overrides), table, "done")
        for row in plan.rows
    ]


def compared(plan, overrides=None):
    """What a text is made of, but for the matrix."""
    rows = outcomes(plan, overrides)
    return plan, rows, comparison_table(plan.dataset, rows, PUBLISHED)


def test_faults_are_said_of_published_rows_alone():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "sqn", "crr"])
    notes = plan_texts(*compared(plan), None)[".md"].splitlines()
    said = [line for line in notes if "faulty" in line]
    assert [line.split()[4] for line in said] == ["sqn", "crr"]

    plan = choose_rows(make_plan("main", "synthetic"), ["mbpo", "sqn", "crr"])
    text = plan_texts(*compared(plan), None)[".md"]
    assert "faulty" not in text


def test_every_form_has_the_notes():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "sqn"])
    texts = plan_texts(*compared(plan), "an invented matrix")
    assert "\nEvaluation pays: an invented matrix.\n" in texts[".md"]
    assert texts[".csv"].count(",an invented matrix\n") == 2
    assert "Evaluation pays: an invented matrix." in texts[".tex"]
    assert texts[".md"].startswith("# Main table, coat\n")


def test_the_brief_form_has_means_and_paired_intervals():
    plan = choose_rows(make_plan("main", "coat"), ["roler", "sqn"])
    text = brief_text(*compared(plan), "an invented matrix")
    header, _, roler, sqn, *notes = text.splitlines()
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    values = dict(zip(cells, map(str.strip, sqn.strip("|").split("|")), strict=True))
    assert values["NX_0 R_tra"] == "25.50"  # 10 * epoch + seed, without an interval
    assert values["difference"] == "0.00 [0.00, 0.00]"
    assert "IQM" not in cells and "P(better)" not in cells
    assert "Evaluation pays: an invented matrix." in notes
    assert any("faulty" in note for note in notes)
    assert "n/a" in roler  # not paired with itself


def test_a_twin_is_called_one():
    plan = choose_rows(make_plan("main", "kuairec"), ["mbpo", "sqn"])
    text = plan_texts(*compared(plan, {"dataset.twin": True}), None)[".md"]
    assert text.startswith("# Main table, kuairec (a generated twin)\n")
    assert "\nAll rows: dataset.twin=True.\n" in text
    assert "faulty" not in text
