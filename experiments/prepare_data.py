"""Finds or downloads the files of a data set, checks them and prepares them.

    python -m experiments.prepare_data --dataset=kuairand --data_dir=DIR

Files that lie in DIR/DATASET are used, those that do not are downloaded into it from
their publishers; without --data_dir all of it happens in the folder of --cache_dir.
What the data hold is printed beside what their publishers count in them. With --twin
the files are generated. Preparing again takes seconds: parsed data are kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from absl import flags, logging

from darlr_jax.config import ConfigError
from experiments import cli

if TYPE_CHECKING:
    from pandas import DataFrame

    from darlr_jax.data.sources import Published

flags.adopt_module_key_flags(cli)  # so that --help lists them

STRICT = flags.DEFINE_bool(
    "strict", False, "Fail where the counts are not those published."
)


def main(argv: list[str]) -> None:
    """Prepares one data set and prints its table."""
    del argv
    cli.require_absent(
        [cli.METHOD, cli.EPOCHS],
        "is of training, and data are the same for all; leave it out",
    )
    config = cli.experiment_config()
    is_part = config.dataset.thinning.share < 1 or config.dataset.validation.share > 0
    if is_part and STRICT.value:
        raise ConfigError(
            "--strict: counts of a part of the log are none that were published; leave "
            "out dataset.thinning and dataset.validation"
        )
    logging.set_verbosity(logging.WARNING)  # JAX tells which accelerators are absent
    started = time.perf_counter()
    dataset = cli.prepare_dataset(config.dataset, download=True)
    seconds = time.perf_counter() - started
    from darlr_jax.data.loading import data_hash
    from darlr_jax.data.sources import SOURCES, count
    from darlr_jax.runs.results import to_markdown

    source = None if config.dataset.twin else SOURCES.get(config.dataset.name)
    counts, published = count(dataset), source.statistics if source else None
    table = count_table(counts, published)
    print(f"{to_markdown(table)}\n")
    print(f"evaluation pays: {dataset.ground_truth}")
    if source:
        print(f"terms: {source.terms} ({source.page})")
    print(f"data hash: {data_hash(dataset)[:16]}  ready in {seconds:.1f} s")
    differences = [] if published is None or is_part else published.differences(counts)
    for line in differences:
        cli.say(f"warning: {line}")
    if differences and STRICT.value:
        sys.exit(f"error: {len(differences)} counts differ from those published")


def count_table(found: Mapping[str, float], published: Published | None) -> DataFrame:
    """One row a count: what the data hold, and what their publishers say."""
    import pandas as pd

    rows = {name.replace("_", " "): _shown(value) for name, value in found.items()}
    table = pd.DataFrame({"count": list(rows), "found": list(rows.values())})
    if published is not None:
        stated = [_shown(getattr(published, name)) for name in found]
        table[f"published {published.reference}"] = stated
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    cli.run(main)
