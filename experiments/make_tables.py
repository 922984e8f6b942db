"""Writes `results/tables` and `results/reports` from the runs of `results/raw`.

    python -m experiments.make_tables --results=results

For each folder of runs: a table of means of its methods and one of its other rows, all
of them with bootstrap intervals and differences paired by seed, what the papers claim
beside what was found, the tables of `experiments.reproduce` of which every row is there
(in a brief form too, for pages), what each run took, how scores go with the share of
items that come up, and a page with pictures; where
DATASET_repeat holds runs of DATASET once more, DATASET_more_seeds with other seeds, or
DATASET_other_world_model on another world model, what became of their differences. A
run that is missing a file, malformed or failed stops the program; none is left out.

Then the tables between `<!-- tables/NAME -->` and `<!-- end -->` of the pages (README,
docs/results.md, docs/synthetic.md) are replaced by what was made; a test compares them.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from absl import flags

from darlr_jax.config import ConfigError
from darlr_jax.files import replacing
from darlr_jax.runs import claims
from darlr_jax.runs.breadth import (
    breadth_note,
    breadth_rows,
    breadth_seeds,
    breadth_table,
)
from darlr_jax.runs.comparison import (
    Outcome,
    comparison_table,
    outcomes_of,
    paired,
    probability_note,
    repeats_table,
    require_one_matrix,
    reservations,
    standing_on,
    users_compared,
    with_matrix,
)
from darlr_jax.runs.costs import costs_table
from darlr_jax.runs.directory import RunError, writing
from darlr_jax.runs.fields import in_words, own_changes, shared_changes
from darlr_jax.runs.formats import to_csv
from darlr_jax.runs.groups import Group, read_group
from darlr_jax.runs.plan_tables import brief_text, plan_texts, whole_tables
from darlr_jax.runs.published import PublishedScores, faults
from darlr_jax.runs.report import results_report
from darlr_jax.runs.results import FinishedRun, summary_table, to_markdown
from experiments import cli

AGAINST = "mbpo"  # what the other runs are paired with: the plainest learner

PAGES = ("README.md", "docs/results.md", "docs/synthetic.md")

RESULTS = flags.DEFINE_string("results", "results", "Folder with raw/ and published/.")
PAGES_TO_FILL = flags.DEFINE_list(
    "pages", list(PAGES), "Pages whose tables are replaced; none: leave pages alone."
)
_OF_CHANGED = (
    *("method", "seeds", "epochs", "NX_0 R_tra", "± 95 %", "last 25 %"),
    *("NX_0 all users", "FB R_tra", "NX_10 R_tra"),
)


class Second(NamedTuple):
    """A second folder of runs of a data set, and the table of both."""

    folder: str  # after the data set's name
    table: str  # likewise
    against: str  # the run that is subtracted
    heading: str  # of the second runs' differences


SECONDS = (
    Second("_repeat", "_repeats", AGAINST, "run again"),
    Second("_more_seeds", "_pooled", "darlr", "other seeds"),
    Second("_other_world_model", "_world_models", "darlr", "other world model"),
)
_BLOCK = re.compile(r"(<!-- (tables/\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> None:
    """Writes the files of each group of runs, and names each."""
    del argv
    cli.require_runs_alone()
    root = cli.user_path(RESULTS.value)
    _read_pages()  # refused before any work
    datasets = sorted(path.name for path in (root / "raw").glob("*") if path.is_dir())
    if not datasets:
        raise RunError(f"{root}/raw: no runs; copy run directories to DATASET/METHOD")
    made: dict[str, str] = {}
    for dataset in datasets:
        made |= files_of(root, dataset)
    # Read again: tables take a minute, in which someone may have written to a page.
    pages = _read_pages()
    filled = {page: fill(text, made, str(page)) for page, text in pages.items()}
    for name, text in made.items():
        _write(root / name, text)
    for page, text in filled.items():
        _write(page, text)


def _read_pages() -> dict[pathlib.Path, str]:
    """The pages to fill, and what they hold.

    Raises:
      ConfigError: one cannot be read; or they are not said, and the runs are others
        than those of the pages of this folder.
    """
    elsewhere = pathlib.Path(RESULTS.value) != pathlib.Path(RESULTS.default)
    if elsewhere and not PAGES_TO_FILL.present:
        raise ConfigError(
            f"--results={RESULTS.value}: say which pages are to have its tables, with "
            "--pages=PAGE,PAGE, or --pages= for none"
        )
    pages = {}
    for page in map(cli.user_path, PAGES_TO_FILL.value):
        try:
            pages[page] = page.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no UTF-8 text"
            raise ConfigError(f"--pages={page}: cannot be read ({why})") from error
    return pages


def fill(text: str, made: Mapping[str, str], page: str) -> str:
    """`text` with the tables between its marks replaced by those that were `made`.

    Raises:
      RunError: it names a table that is not made.
    """

    def replaced(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in made:
            raise RunError(
                f"{page}: names {name}, which no runs make; of a plan all rows are "
                "needed but one of ten, and those that others are compared with"
            )
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
    group = read_group(root / "raw" / dataset)
    published = PublishedScores(root / "published")
    tables = {f"{dataset}.md": _methods_table(group, published)}
    tables |= _paired_tables(group, published)
    tables[f"{dataset}_costs.md"] = f"{to_markdown(costs_table(group.runs))}\n"
    for second in SECONDS:
        folder = root / "raw" / f"{dataset}{second.folder}"
        if folder.is_dir():
            name = f"{dataset}{second.table}.md"
            tables[name] = _repeats_table(group, read_group(folder), second)
    if group.methods and group.others:
        tables[f"{dataset}_changed.md"] = _changed_table(group)
    tables |= _breadth_tables(group)
    plans = whole_tables(group, published)
    for table in plans:
        texts = plan_texts(table) | {"_brief.md": brief_text(table)}
        name = f"{dataset}_{table.plan.table}"
        tables |= {name + end: text for end, text in texts.items()}
    page = results_report(group, plans, published, AGAINST)
    return {f"tables/{name}": text for name, text in tables.items()} | {
        f"reports/{dataset}.html": page
    }


def _methods_table(group: Group, published: PublishedScores) -> str:
    """Runs called as methods, or all, beside the published scores."""
    runs = group.methods or group.runs
    table = summary_table(runs, published).drop(columns=["data set", "max"])
    changes = own_changes(run.config for run in runs)
    if any(changes):
        table.insert(1, "changed", changes)
    beside = table.loc[table["published"].notna(), "method"]
    if beside.empty:
        table = table.drop(columns=["published", "difference"])
    return _text(table, [*_notes(group, runs), *faults(beside)])


def _paired_tables(group: Group, published: PublishedScores) -> dict[str, str]:
    """Methods and runs of no plan with intervals and pairs, and what is claimed.

    Nothing where every run is a row of a plan.
    """
    outcomes, name = group.outcomes(AGAINST), group.name
    if not outcomes:
        return {}
    table = comparison_table(outcomes, published)
    notes = _notes(group, [*group.methods, *group.others])
    made = {
        f"{name}_paired.md": _text(table, [*probability_note(table), *notes]),
        f"{name}_paired.csv": to_csv(with_matrix(table, group.truth)),
    }
    claimed = claims.claims_table(outcomes, published)
    if claimed is not None:
        beside = [o.row.name for o in outcomes if not math.isnan(o.in_print(published))]
        notes = [claims.note(outcomes), *_notes(group, group.methods), *faults(beside)]
        made[f"{name}_claims.md"] = _text(claimed, notes)
    return made


def _breadth_tables(group: Group) -> dict[str, str]:
    """Score by how many items come up, of rows that may repeat items in training."""
    seeds = breadth_seeds(group.runs)
    if seeds.empty:
        return {}
    rows = breadth_rows(seeds)
    shown = _outcomes_called(set(rows["row"]), group)
    notes = [breadth_note(seeds), *reservations(shown, group.truth)]
    return {
        f"{group.name}_breadth.md": _text(breadth_table(rows), notes),
        f"{group.name}_breadth_rows.md": _text(rows, notes),
    }


def _changed_table(group: Group) -> str:
    """The other runs, each beside its method as it is, where that is there.

    Differences are paired by seed, over the epochs that both have.
    """
    runs, methods = group.others, {run.name: run for run in group.methods}
    table = summary_table(runs)[list(_OF_CHANGED)]
    table.insert(1, "changed", own_changes(run.config for run in runs))
    table.insert(0, "row", [run.name for run in runs])
    pairs = [_from_method(run, methods.get(run.config.method)) for run in runs]
    users = users_compared(run.metrics for run in (*group.methods, *runs))
    note = (
        f"difference: to the method as it is, of {users}, paired by seed, over common "
        "epochs; [ ]: 95 % bootstrap interval."
    )
    table = pd.concat([table, pd.DataFrame(pairs)], axis=1)
    return _text(table, [note, *_notes(group, runs)])


def _repeats_table(group: Group, again: Group, second: Second) -> str:
    """Runs that are in both, each time beside the same other.

    Raises:
      RunError: the two are paid by different test matrices.
    """
    truth = require_one_matrix({each.name: each.truth for each in (group, again)})
    first, more = ({run.name: run for run in each.runs} for each in (group, again))
    table = repeats_table(first, more, second.against, second.heading)
    users = users_compared(run.metrics for run in (*group.runs, *again.runs))
    notes = [
        f"Of {users}, paired by seed, over the first epochs, as many as all have; "
        "[ ]: 95 % bootstrap interval."
    ]
    if "both" in table.columns:
        notes.append(
            "both: of each seed, or the mean of its two where it has two; ± 95 % (t): "
            "half of Student's."
        )
    shown = {*table.get("row", ()), second.against}
    outcomes = [
        outcome._replace(row=outcome.row._replace(name=f"{folder}{outcome.row.name}"))
        for folder, each in (("", group), (f"{again.name}/", again))
        for outcome in _outcomes_called(shown, each)
    ]
    return _text(table, notes + reservations(outcomes, truth))


def _outcomes_called(names: Collection[str], group: Group) -> list[Outcome]:
    """The runs of these names, as rows beside no other."""
    return outcomes_of([run for run in group.runs if run.name in names], None)


def _from_method(run: FinishedRun, method: FinishedRun | None) -> dict[str, Any]:
    pair = None if method is None else paired(run.metrics, method.metrics)
    if pair is None:
        return dict.fromkeys(("difference", "± 95 % (t)", "seeds ahead"))
    return {
        "difference": pair.difference,
        "± 95 % (t)": pair.half_width,
        "seeds ahead": pair.ahead,
    }


def _notes(group: Group, runs: Sequence[FinishedRun]) -> list[str]:
    """What all rows changed of their presets, and what they stand on."""
    shared = in_words(shared_changes(run.config for run in runs))
    notes = [f"All rows: {shared}."] * bool(shared)
    return notes + standing_on(outcomes_of(runs, None), group.truth)


def _text(table: pd.DataFrame, notes: Sequence[str]) -> str:
    return "\n\n".join([to_markdown(table), *notes]) + "\n"


if __name__ == "__main__":
    cli.run(main)
