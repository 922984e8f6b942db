"""Writes `results/tables` and `results/reports` from the runs of `results/raw`.

    python -m experiments.make_tables --results=results

For each folder of runs: a table of means of its methods and one of its other rows, all
of them with bootstrap intervals and differences paired by seed, what the papers claim
beside what was found, the tables of `experiments.reproduce` of which every row is there
(in a brief form too, for pages), what each run took, and a page with pictures. A run
that is missing a file, malformed or failed stops the program; none is left out.

Then the tables between `<!-- tables/NAME -->` and `<!-- end -->` of the pages (README,
docs/results.md) are replaced by what was made; a test compares them.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from absl import flags

from darlr_jax.files import replacing
from darlr_jax.methods import METHODS
from darlr_jax.runs import claims
from darlr_jax.runs.comparison import (
    comparison_table,
    matrix_of,
    outcomes_of,
    paired,
    runs_of,
    with_matrix,
)
from darlr_jax.runs.costs import costs_table
from darlr_jax.runs.directory import RunError, load_config, writing
from darlr_jax.runs.fields import in_words, own_changes, shared_changes
from darlr_jax.runs.formats import to_csv
from darlr_jax.runs.plan_tables import (
    brief_text,
    plan_texts,
    runs_in_plans,
    whole_plans,
)
from darlr_jax.runs.published import PublishedScores, faults
from darlr_jax.runs.report import results_report
from darlr_jax.runs.results import load_metrics, summary_table, to_markdown
from experiments import cli

AGAINST = "mbpo"  # what the other runs are paired with: the plainest learner

PAGES = ("README.md", "docs/results.md")

RESULTS = flags.DEFINE_string("results", "results", "Folder with raw/ and published/.")
PAGES_TO_FILL = flags.DEFINE_list(
    "pages", list(PAGES), "Pages whose tables are replaced; none: leave pages alone."
)
_OF_CHANGED = (
    *("method", "seeds", "epochs", "NX_0 R_tra", "± 95 %", "last 25 %"),
    *("NX_0 all users", "FB R_tra", "NX_10 R_tra"),
)
_PAIRED = "to the method as it is, of all users, paired by seed, over common epochs"
_BLOCK = re.compile(r"(<!-- (tables/\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> None:
    """Writes the files of each group of runs, and names each."""
    del argv
    root = pathlib.Path(RESULTS.value)
    datasets = sorted(path.name for path in (root / "raw").glob("*") if path.is_dir())
    if not datasets:
        raise RunError(f"{root}/raw: no runs; copy run directories to DATASET/METHOD")
    made: dict[str, str] = {}
    for dataset in datasets:
        made |= files_of(root, dataset)
    for name, text in made.items():
        _write(root / name, text)
    for page in map(pathlib.Path, PAGES_TO_FILL.value):
        _write(page, fill(page.read_text("utf-8"), made, str(page)))


def fill(text: str, made: Mapping[str, str], page: str) -> str:
    """`text` with the tables between its marks replaced by those that were `made`.

    Raises:
      RunError: it names a table that is not made.
    """

    def replaced(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in made:
            raise RunError(f"{page}: names {name}, which no runs make")
        return f"{start}{made[name]}{end}"

    return _BLOCK.sub(replaced, text)


def _write(target: pathlib.Path, text: str) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(target)


def files_of(root: pathlib.Path, dataset: str) -> dict[str, str]:
    """Path below `root` -> content, of all that is made of a group of runs."""
    runs = runs_of(root / "raw" / dataset)
    published = PublishedScores(root / "published")
    outcomes = outcomes_of(runs, AGAINST)
    table = comparison_table(dataset, outcomes, published)
    truth = matrix_of(runs)
    made = {}
    for plan, rows in whole_plans(root / "raw" / dataset):
        name = f"tables/{dataset}_{plan.table}"
        compared = comparison_table(plan.dataset, rows, published)
        made[f"{name}_brief.md"] = brief_text(plan, rows, compared, truth)
        for suffix, text in plan_texts(plan, rows, compared, truth).items():
            made[name + suffix] = text
    if (changed := changed_table(root, dataset)) is not None:
        made[f"tables/{dataset}_changed.md"] = f"{changed}\n"
    claimed = claims.claims_table(dataset, outcomes, published)
    if claimed is not None:
        text = f"{to_markdown(claimed)}\n\n{claims.NOTE}\n"
        made[f"tables/{dataset}_claims.md"] = text
    return made | {
        f"tables/{dataset}.md": dataset_table(root, dataset) + "\n",
        f"tables/{dataset}_costs.md": to_markdown(costs_table(runs)) + "\n",
        f"tables/{dataset}_paired.md": f"{to_markdown(table)}{_notes(runs)}\n",
        f"tables/{dataset}_paired.csv": to_csv(with_matrix(table, truth)),
        f"reports/{dataset}.html": results_report(dataset, runs, published, AGAINST),
    }


def dataset_table(root: pathlib.Path, dataset: str) -> str:
    """The runs of a group that are called as methods, beside the published scores."""
    runs = runs_of(root / "raw" / dataset)
    return _table(root, [run for run in runs if run.name in METHODS] or runs)


def changed_table(root: pathlib.Path, dataset: str) -> str | None:
    """The other runs of a group, but for those that a plan's own table has.

    Beside each stands how far it is from its method as it is, where that is there: of
    all users, paired by seed, over the epochs that both have. None where there are no
    such runs, or no methods (`dataset_table` has all of them then).
    """
    folder = root / "raw" / dataset
    plans, runs = runs_in_plans(folder), runs_of(folder)
    elsewhere = set().union(
        *(names for table, names in plans.items() if table != "main")
    )
    others = [run for run in runs if run.name not in {*METHODS, *elsewhere}]
    if not others or not any(run.name in METHODS for run in runs):
        return None
    table = summary_table(others)[list(_OF_CHANGED)]
    table.insert(1, "changed", own_changes(load_config(run) for run in others))
    table.insert(0, "row", [run.name for run in others])
    from_method = pd.DataFrame([_from_method(run) for run in others])
    note = f"difference: {_PAIRED}; [ ]: 95 % bootstrap interval."
    table = pd.concat([table, from_method], axis=1)
    return f"{to_markdown(table)}\n\n{note}{_notes(others)}"


def _from_method(run: pathlib.Path) -> dict[str, Any]:
    """How far a changed run is from its method."""
    config = load_config(run)
    method = run.with_name(config.method)
    pair = None
    if method.is_dir():
        pair = paired(load_metrics(run), load_metrics(method))
    if pair is None:
        return dict.fromkeys(("difference", "± 95 % (t)", "seeds ahead"))
    return {
        "difference": pair.difference,
        "± 95 % (t)": pair.half_width,
        "seeds ahead": pair.ahead,
    }


def _table(root: pathlib.Path, runs: Sequence[pathlib.Path]) -> str:
    published = pd.read_csv(root / "published" / "scores.csv")
    table = summary_table(runs, published).drop(columns=["data set", "max"])
    changes = own_changes(load_config(run) for run in runs)
    if any(changes):
        table.insert(1, "changed", changes)
    beside = table.loc[table["published"].notna(), "method"]
    if beside.empty:
        table = table.drop(columns=["published", "difference"])
    notes = "".join(f"\n\n{sentence}" for sentence in faults(beside))
    return to_markdown(table) + _notes(runs) + notes


def _notes(runs: Sequence[pathlib.Path]) -> str:
    """What all rows changed of their presets, and which matrix pays them."""
    shared = in_words(shared_changes(load_config(run) for run in runs))
    truth = matrix_of(runs)
    return (f"\n\nAll rows: {shared}." if shared else "") + (
        f"\n\nEvaluation pays: {truth}." if truth is not None else ""
    )


if __name__ == "__main__":
    cli.run(main)
