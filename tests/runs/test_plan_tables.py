"""plan_tables.py: every form of a table says what its reader must know."""

from __future__ import annotations

import math
import pathlib
import re

import pandas as pd
import pytest

from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.comparison import Outcome
from darlr_jax.runs.plan_tables import brief_table, brief_text, plan_table, plan_texts
from darlr_jax.runs.plans import choose_rows, make_plan, row_config
from darlr_jax.runs.published import PublishedScores
from tests.runs.conftest import metrics_row

PUBLISHED = PublishedScores(
    pathlib.Path(__file__).parent.parent.parent / "results" / "published"
)


def outcomes(plan, overrides=None):
    epochs = range(1, 201)  # as many as the published runs have
    table = pd.DataFrame([metrics_row(s, e) for s in (0, 1) for e in epochs])
    return [
        Outcome(row, row_config(row, plan.dataset, overrides), table, "done")
        for row in plan.rows
    ]


def compared(plan, truth=None, overrides=None):
    return plan_table(plan, outcomes(plan, overrides), PUBLISHED, truth)


def test_faults_are_said_of_published_rows_alone():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "sqn", "crr"])
    notes = plan_texts(compared(plan))[".md"].splitlines()
    (said,) = [line for line in notes if "faulty" in line]
    assert re.findall(r"(\w+) \(", said.partition(": ")[2]) == ["sqn", "crr"]

    plan = choose_rows(make_plan("main", "synthetic"), ["mbpo", "sqn", "crr"])
    text = plan_texts(compared(plan))[".md"]
    assert "faulty" not in text


def test_every_form_has_the_notes():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "sqn"])
    texts = plan_texts(compared(plan, "an invented matrix"))
    assert "\nEvaluation pays: an invented matrix.\n" in texts[".md"]
    assert texts[".csv"].count(",an invented matrix\n") == 2
    assert "Evaluation pays: an invented matrix." in texts[".tex"]
    assert texts[".md"].startswith("# Main table, coat\n")
    assert "\nChosen by --rows: 2 of 23 rows.\n" in texts[".md"]
    assert "Chosen by --rows" in texts[".tex"]
    whole = plan_texts(compared(make_plan("main", "coat")))
    assert "Chosen" not in whole[".md"] + whole[".tex"]


def test_every_form_says_what_is_cut_and_what_is_not_recorded():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "dorl", "mopo"])
    mbpo, mopo, dorl = outcomes(plan)
    short = dorl.metrics[dorl.metrics["epoch"] <= 41]
    rows = [
        mbpo._replace(truth="theirs"),
        dorl._replace(metrics=short, truth="theirs"),
        mopo._replace(metrics=None, state="not run"),  # says so, in place of seeds
    ]
    table = plan_table(plan, rows, PUBLISHED, "theirs")
    texts = [plan_texts(table)[".md"], plan_texts(table)[".tex"], brief_text(table)]
    for text in texts:
        assert "Unfinished: dorl (41 of 200 epochs)." in text
        assert "not recorded" not in text
    rows[0] = mbpo
    table = plan_table(plan, rows, PUBLISHED, "theirs")
    assert "Which matrix paid is not recorded of: mbpo." in brief_text(table)


def test_an_interval_without_width_is_explained_where_it_stands():
    plan = choose_rows(make_plan("main", "coat"), ["roler", "darlr"])
    table = compared(plan)
    assert "P(better)" in table.rows
    for form in (".md", ".tex"):
        assert "do not overlap; it is no certainty." in plan_texts(table)[form]
    assert "no certainty" not in brief_text(table)  # which has no such column


def test_every_form_names_rows_on_another_fit():
    plan = choose_rows(make_plan("main", "coat"), ["mbpo", "dorl", "mopo"])
    rows = [
        outcome._replace(fit="b" if outcome.row.name == "dorl" else "a")
        for outcome in outcomes(plan)
    ]
    table = plan_table(plan, rows, PUBLISHED, None)
    texts = [plan_texts(table)[".md"], plan_texts(table)[".tex"], brief_text(table)]
    for text in texts:
        assert "Of the same world model, but of another fit" in text
        assert "than most rows here: dorl." in text


def test_the_brief_form_has_means_and_paired_intervals():
    plan = choose_rows(make_plan("main", "coat"), ["roler", "sqn"])
    text = brief_text(compared(plan, "an invented matrix"))
    header, _, roler, sqn, *notes = text.splitlines()
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    values = dict(zip(cells, map(str.strip, sqn.strip("|").split("|")), strict=True))
    assert values["NX_0 R_tra"] == "1005.50"  # 10 * epoch + seed, without an interval
    assert values["difference"] == "0.00 [0.00, 0.00]"
    assert "IQM" not in cells and "P(better)" not in cells
    assert "Evaluation pays: an invented matrix." in notes
    assert any("faulty" in note for note in notes)
    assert "n/a" in roler  # not paired with itself


@pytest.mark.parametrize(
    ("table", "dataset"), [("ablation", "coat"), ("exit_rule", "kuairec")]
)
def test_every_form_says_whom_differences_are_of(table, dataset):
    plan = make_plan(table, dataset)
    drawn = [
        row._replace(metrics=row.metrics.drop(columns=ALL_USERS))
        for row in outcomes(plan)
    ]
    for rows, users in ((outcomes(plan), "all users"), (drawn, "the users drawn")):
        made = plan_table(plan, rows, PUBLISHED, None)
        texts = plan_texts(made)
        for text in (texts[".md"], texts[".tex"], brief_text(made)):
            assert f": of {users}, paired by seed" in text


def test_a_twin_is_called_one():
    plan = choose_rows(make_plan("main", "kuairec"), ["mbpo", "sqn"])
    text = plan_texts(compared(plan, None, {"dataset.twin": True}))[".md"]
    assert text.startswith("# Main table, kuairec (a generated twin)\n")
    assert "\nAll rows: dataset.twin=True.\n" in text
    assert "faulty" not in text


def test_over_an_axis_a_row_is_a_place_and_a_column_a_line():
    plan = make_plan("density", "coat")
    rows = [
        row
        for row in plan.rows
        if row.x in (100.0, 5.0) and row.series in ("darlr_self", "darlr")
    ]
    plan = plan._replace(rows=tuple(rows))
    finished = outcomes(plan)
    finished[-1] = finished[-1]._replace(metrics=None, state="3 of 8 epochs")
    table = brief_table(plan_table(plan, finished, PUBLISHED, None))
    assert list(table.columns) == [
        *("rows kept (%)", "darlr_self", "darlr", "darlr less darlr_self"),
        "darlr, published",
    ]
    few, whole = table.to_dict("records")
    assert [few["rows kept (%)"], whole["rows kept (%)"]] == ["5", "100"]
    assert whole["darlr"] == "1005.50 ± 6.35"  # 1005.0 and 1006.0, Student's t
    assert few["darlr"] == "3 of 8 epochs"
    assert whole["darlr, published"] == pytest.approx(78.04, abs=0.005)
    assert math.isnan(few["darlr, published"])  # of another log
    assert whole["darlr less darlr_self"].value == 0.0


def test_notes_of_an_axis_say_what_all_places_share():
    plan = make_plan("exit_rule", "kuairec")
    *_, where = notes = brief_text(compared(plan)).splitlines()
    assert "NX_0 R_tra; seeds: 2; epochs: 200." in notes
    assert where.startswith(
        "By exit window N: darlr, against its pair, by Student's interval: undecided at"
    )
