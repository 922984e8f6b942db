"""Chooses a world model by the training log alone, and says which flags give it.

    python -m experiments.tune_world_model --dataset=coat --data_dir=DIR \
        --splits=5 --share=0.2 --output=runs/coat_world_models

Candidates are the combinations of `--vary`, as often as it is given,

    --vary='world_model.loss=gaussian|squared' --vary='world_model.negative_weight=1|0'

or of a default grid, beside what --set says, and each at every number of epochs up to
--longest. They are fitted to a part of the *training* log and judged by the rest of it,
which is drawn at random user by user, --splits times. The data set's own held-out
log (on Coat the ratings of random items) and its test matrix belong to the evaluation;
splits have neither. On KuaiRec alone the labels of the log are, as published, in units
of both matrices; with --set=dataset.kuairec.label_statistics=log they are of the log.

The criterion, fixed before anything was fitted, is the **pair accuracy**: of two
held-out rows of one user that were rated unequally, how often is the better one
predicted to be better? A policy that is trained on a table ends in ranking it, user by
user. Errors in the level of an item, or of a user, that change no order cost it
nothing, and an error in the order is no smaller where the variance is large: MSE and
MAE can fall while the ranking gets worse. All pairs of a user count, so that it is less
noisy than what the few rows on top are worth (`top_gain`, in units of the reward) and
NDCG, which stand beside it. Averages of the log stand there as well: a world model that
ranks no better than the means of items has learned nothing of users.

What it cannot tell: logged rows are those that users chose to rate. How items would be
ranked that nobody would choose, it does not see.

Writes world_models.md (of each candidate its best number of epochs), .csv (every number
of epochs) and scores.csv (every split) to --output. A candidate that diverges is left
out, but for the one that all are compared with: that ends the search. A search is not
continued where it was stopped: it begins anew.
"""

from __future__ import annotations

import pathlib
import shlex
from typing import TYPE_CHECKING

from absl import flags

from darlr_jax.files import replacing
from experiments import cli

if TYPE_CHECKING:
    import pandas as pd

CRITERION = "pair_accuracy"
# What the ranking depends on most: negatives make the popularity of an item a part of
# its prediction, and the decay of every parameter says how much of users is learned.
GRID = (
    "world_model.negative_weight=1.0|0.3|0.1|0.0",
    "world_model.weight_decay=0.1|10.0",
)

SPLITS = flags.DEFINE_integer(
    "splits", 5, "Random splits of the training log.", lower_bound=2
)
SHARE = flags.DEFINE_float(
    "share", 0.2, "Share of every user's items that is held out.", 0.01, 0.9
)
SPLIT_SEED = flags.DEFINE_integer(
    "split_seed", 0, "Seed of the first split; the others follow.", lower_bound=0
)
LONGEST = flags.DEFINE_integer(
    "longest",
    8,
    "Epochs that every candidate is fitted for; more where world_model.epochs is, with "
    "which all are compared.",
    lower_bound=1,
)
VARY = flags.DEFINE_multi_string(
    "vary",
    [],
    "FIELD=VALUE|VALUE of the world model, all combinations of them; may repeat.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of the files; runs/DATASET_world_models if not given."
)


def main(argv: list[str]) -> None:
    """Flags -> splits of the log -> scores -> files and the flags of the best."""
    del argv
    cli.require_absent(
        [cli.EPOCHS],
        "is of training; --longest says how long candidates are fitted",
    )
    config = cli.experiment_config()
    from experiments import world_model_search as search

    candidates = search.combinations(config, search.parse_values(VARY.value or GRID))
    longest = max(LONGEST.value, config.world_model.epochs)
    cli.configure_jax()
    from darlr_jax.data.splits import hold_out
    from darlr_jax.runs import selection
    from darlr_jax.runs.directory import writing

    folder = cli.user_path(OUTPUT.value or f"runs/{config.dataset.name}_world_models")
    with writing(folder):  # before any work
        folder.mkdir(parents=True, exist_ok=True)

    seeds = range(SPLIT_SEED.value, SPLIT_SEED.value + SPLITS.value)
    dataset = cli.prepare_dataset(config.dataset)
    splits = [hold_out(dataset, SHARE.value, seed) for seed in seeds]
    scores = search.score_all(candidates, splits, longest)
    reference = (search.UNCHANGED, config.world_model.epochs)
    summary = selection.summarise(scores, CRITERION, reference)
    table = selection.best_schedules(summary, keep=reference)
    best = summary[summary["epochs"] > 0].iloc[0]
    winner = next(c for c in candidates if c.name == best["candidate"])
    given = [f"--set={setting}" for setting in cli.OVERRIDES.value]
    chosen = shlex.join([*given, *winner.flags(int(best["epochs"]))])
    fitted = set(scores["candidate"])
    diverged = [each.name for each in candidates if each.name not in fitted]
    left_out = f"left out, as they diverge: {'; '.join(diverged)}\n" * bool(diverged)
    text = (
        f"{dataset.name}: {SPLITS.value} splits, {SHARE.value:.0%} of every user's "
        f"items held out ({len(splits[0].held_out):,} of {len(dataset.log):,} rows)\n"
        f"\n{_markdown(table)}\n\n{left_out}"
        f"chosen by {CRITERION}: {chosen}\n"
    )
    print(text, end="")
    _write(folder, text, summary, scores)


def _markdown(table: pd.DataFrame) -> str:
    from darlr_jax.runs.results import to_markdown

    return to_markdown(table, digits=4)


def _write(
    folder: pathlib.Path, text: str, summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    from darlr_jax.runs.directory import writing
    from darlr_jax.runs.formats import to_csv

    files = {
        "world_models.md": text,
        "world_models.csv": to_csv(summary),
        "scores.csv": to_csv(scores),
    }
    for name, content in files.items():
        with writing(folder / name), replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    cli.say(f"files: {folder}/ ({', '.join(files)})")


if __name__ == "__main__":
    cli.run(main)
