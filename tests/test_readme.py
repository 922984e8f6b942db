"""README and docs/results.md tell what the commands made."""

from __future__ import annotations

import pathlib
import re

import pytest

from experiments.make_tables import dataset_table, files_of

ROOT = pathlib.Path(__file__).parent.parent
DATASETS = sorted(path.name for path in (ROOT / "results" / "raw").iterdir())


@pytest.mark.parametrize("dataset", DATASETS)
def test_tables_are_those_of_the_raw_runs(dataset):
    table = dataset_table(ROOT / "results", dataset)
    committed = (ROOT / "results" / "tables" / f"{dataset}.md").read_text("utf-8")
    assert committed == table + "\n"
    pages = [ROOT / "README.md", ROOT / "docs" / "results.md"]
    assert any(table in page.read_text("utf-8") for page in pages)


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


def without_pictures(page):
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_there_are_results():
    assert "coat" in DATASETS
