"""Writes the tables of `results/tables` from the runs of `results/raw`.

    python -m experiments.make_tables --results=results

A run that is missing a file or malformed stops the program; none is left out. The
README holds the same tables; a test compares them.
"""

from __future__ import annotations

import pathlib

import pandas as pd
from absl import flags

from darlr_jax.config import ExperimentConfig, flatten
from darlr_jax.files import replacing
from darlr_jax.methods import METHODS
from darlr_jax.presets import preset
from darlr_jax.runs.directory import RunError, load_config, read_json
from darlr_jax.runs.results import summary_table, to_markdown
from experiments import cli

RESULTS = flags.DEFINE_string("results", "results", "Folder with raw/ and published/.")


def main(argv: list[str]) -> None:
    """Writes one Markdown table a group of runs, and names each."""
    del argv
    root = pathlib.Path(RESULTS.value)
    datasets = sorted(path.name for path in (root / "raw").glob("*") if path.is_dir())
    if not datasets:
        raise RunError(f"{root}/raw: no runs; copy run directories to DATASET/METHOD")
    for dataset in datasets:
        target = root / "tables" / f"{dataset}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(dataset_table(root, dataset) + "\n", encoding="utf-8")
        print(target)


def dataset_table(root: pathlib.Path, dataset: str) -> str:
    """One group of runs beside the published scores, as Markdown."""
    order = list(METHODS)
    runs = sorted(
        (path for path in (root / "raw" / dataset).iterdir() if path.is_dir()),
        key=lambda path: (_rank(path.name, order), path.name),
    )
    published = pd.read_csv(root / "published" / "scores.csv")
    table = summary_table(runs, published).drop(columns=["data set", "max"])
    changes = [changed_fields(load_config(run)) for run in runs]
    if any(changes):
        table.insert(1, "changed", changes)
    paid = {read_json(run / "run.json").get("ground_truth") for run in runs} - {None}
    if len(paid) > 1:
        raise RunError(f"{root}/raw/{dataset}: runs paid by {len(paid)} test matrices")
    notes = [f"\n\nEvaluation pays: {line}." for line in paid]
    return to_markdown(table) + "".join(notes)


def changed_fields(config: ExperimentConfig) -> str:
    """What a run changed of its preset, of the fields that it reads.

    The number of epochs has a column of its own.
    """
    before = flatten(preset(config.dataset.name, config.method))
    after = flatten(config)
    return ", ".join(
        f"{name}={after[name]}"
        for name in after
        if after[name] != before[name] and _is_read(name, config)
    )


def _is_read(name: str, config: ExperimentConfig) -> bool:
    """Whether a run of `config` depends on a field (not all such rules are here)."""
    group, _, rest = name.partition(".")
    if group == "selector":
        return config.reward.references != "none"
    if group == "dataset" and "." in rest:  # of one data set
        return rest.partition(".")[0] in (config.dataset.name, "completion")
    return name != "training.epochs"


def _rank(name: str, order: list[str]) -> int:
    """Position in the table of methods; other names come last."""
    return order.index(name) if name in order else len(order)


if __name__ == "__main__":
    cli.run(main)
