"""README and docs/results.md tell what the commands made."""

from __future__ import annotations

import pathlib
import re

import pytest

from darlr_jax.runs.directory import RunError
from darlr_jax.runs.plan_tables import runs_in_plans
from experiments.make_tables import PAGES, changed_table, dataset_table, files_of, fill

ROOT = pathlib.Path(__file__).parent.parent
DATASETS = sorted(path.name for path in (ROOT / "results" / "raw").iterdir())


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_are_those_of_the_raw_runs(dataset):
    """But for the pictures of the page, which depend on the version of matplotlib."""
    runs = len(list((ROOT / "results" / "raw" / dataset).iterdir()))
    for name, text in files_of(ROOT / "results", dataset).items():
        committed = (ROOT / "results" / name).read_text("utf-8")
        if name.endswith(".html"):
            assert len(committed.encode()) < 30_000 * runs
            committed, text = without_pictures(committed), without_pictures(text)
        assert committed == text, "run python -m experiments.make_tables"


@pytest.mark.parametrize("page", PAGES)
def test_pages_hold_the_tables_as_they_were_made(page):
    """Those of results/tables, which the test above compares with the raw runs."""
    text = (ROOT / page).read_text("utf-8")
    folder = ROOT / "results"
    made = {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in (folder / "tables").iterdir()
    }
    assert "<!-- tables/" in text
    assert fill(text, made, page) == text, "run python -m experiments.make_tables"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_group_of_runs_is_on_a_page(dataset):
    pages = [(ROOT / page).read_text("utf-8") for page in PAGES]
    results = ROOT / "results"
    for table in (dataset_table(results, dataset), changed_table(results, dataset)):
        assert table is None or any(table in page for page in pages)
    for plan in set(runs_in_plans(results / "raw" / dataset)) - {"main"}:
        mark = f"<!-- tables/{dataset}_{plan}_brief.md -->"
        assert any(mark in page for page in pages)


def test_a_page_is_filled_between_its_marks():
    page = "a\n<!-- tables/x.md -->\nold\n<!-- end -->\nb <!-- end -->\n"
    filled = "a\n<!-- tables/x.md -->\n| new \\1 |\n<!-- end -->\nb <!-- end -->\n"
    assert fill(page, {"tables/x.md": "| new \\1 |\n"}, "page") == filled
    with pytest.raises(RunError, match=r"page: names tables/x\.md, which no runs make"):
        fill(page, {}, "page")


def without_pictures(page):
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_there_are_results():
    assert "coat" in DATASETS
