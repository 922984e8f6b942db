"""README and the pages of results tell what the commands made."""

from __future__ import annotations

import pathlib
import re

import pytest

from darlr_jax.runs import plots
from darlr_jax.runs.directory import RunError
from experiments.make_tables import PAGES, SECONDS, files_of, fill

ROOT = pathlib.Path(__file__).parent.parent
A_FRAME, A_RUN = 45_000, 30_000  # bytes of a page: some tell one run, some fifty
DATASETS = sorted(path.name for path in (ROOT / "results" / "raw").iterdir())


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_are_those_of_the_raw_runs(dataset, monkeypatch):
    """But for the pictures of the page, which depend on the version of matplotlib.

    They are not rendered: that would take half of the time, to be left out.
    """
    monkeypatch.setattr(plots, "to_svg", lambda drawn, name: "<svg></svg>\n")
    results = ROOT / "results"
    runs = len(list((results / "raw" / dataset).iterdir()))
    made = files_of(results, dataset)
    assert {name for name in made if name.startswith("tables/")} == {
        str(path.relative_to(results))
        for path in (results / "tables").iterdir()
        if group_of(path) == dataset
    }
    for name, text in made.items():
        committed = (results / name).read_text("utf-8")
        if name.endswith(".html"):
            assert len(committed.encode()) < A_FRAME + A_RUN * runs
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
    """Its methods, its changed rows, and each plan, whose main table is the methods.

    Of runs that were made once more, or with other seeds, it is how they differ.
    """
    pages = [(ROOT / page).read_text("utf-8") for page in PAGES]
    tables = (ROOT / "results" / "tables").glob("*.md")
    names = {path.name for path in tables if group_of(path) == dataset}
    ends = ("", "_changed", *(second.table for second in SECONDS))
    expected = {f"{dataset}{end}.md" for end in ends} & names
    for second in SECONDS:
        if dataset.endswith(second.folder):
            expected = {dataset.removesuffix(second.folder) + second.table + ".md"}
    expected |= {name for name in names if name.endswith("_brief.md")}
    for name in expected - {f"{dataset}_main_brief.md"}:
        assert any(f"<!-- tables/{name} -->" in page for page in pages), name


def test_a_page_is_filled_between_its_marks():
    page = "a\n<!-- tables/x.md -->\nold\n<!-- end -->\nb <!-- end -->\n"
    filled = "a\n<!-- tables/x.md -->\n| new \\1 |\n<!-- end -->\nb <!-- end -->\n"
    assert fill(page, {"tables/x.md": "| new \\1 |\n"}, "page") == filled
    with pytest.raises(RunError, match=r"page: names tables/x\.md, which no runs make"):
        fill(page, {}, "page")


def group_of(path):
    """The folder of results/raw whose runs a table is made of."""
    return max((d for d in DATASETS if re.match(rf"{d}[._]", path.name)), key=len)


def without_pictures(page):
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_there_are_results():
    assert "coat" in DATASETS


def test_every_column_of_a_run_is_explained_and_no_other():
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = (line for line in page.splitlines() if line.startswith("| `"))
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    columns = set()
    for path in (ROOT / "results" / "raw").glob("*/*/metrics.csv"):
        with path.open(encoding="utf-8") as file:
            columns.update(file.readline().strip().split(","))
    columns = {re.sub(r"^(FB|NX_0|NX_10)_", "", name) for name in columns}
    assert told == columns, "a row of docs/metrics.md comes with the runs that have it"
