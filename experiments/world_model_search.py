"""Candidates for a world model, fitted to a part of the log and judged by the rest."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, ExperimentConfig, WorldModelConfig
from darlr_jax.data import averages
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.world_model.ensemble import fit_ensemble
from darlr_jax.world_model.ranking import rating_errors
from experiments.cli import say

UNCHANGED = "unchanged"  # the candidate that is what the preset and --set say
_GROUP = "world_model."
_PREFIX = "held_out_"  # of the criteria in a report
_SHRINKAGE = (2.0, 5.0, 10.0, 20.0)  # rows, of the averages

Scores = list[dict[str, Any]]  # rows with `runs.selection.KEYS` and the criteria


class Candidate(NamedTuple):
    """A world model that may be chosen."""

    changes: Mapping[str, Any]  # dotted field -> value, of what is set otherwise
    config: WorldModelConfig

    @property
    def name(self) -> str:
        """What it changes, as a table shows it."""
        texts = [f"{k.removeprefix(_GROUP)}={v}" for k, v in self.changes.items()]
        return " ".join(texts) or UNCHANGED

    def flags(self, epochs: int) -> list[str]:
        """The flags of `experiments.train` that give it, beside those given here."""
        changes = {**self.changes, f"{_GROUP}epochs": epochs}
        return [
            f"--set={field}={config_lib.as_text(value)}"
            for field, value in changes.items()
        ]


def parse_values(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Turns `["world_model.loss=gaussian|squared"]` into field -> values.

    Raises:
      ConfigError: another form, a field that is no one of the world model, is given
        twice, or is no candidate's to choose.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        field, equals, choices = text.partition("=")
        field = field.strip()
        if not equals:
            raise ConfigError(f"--vary={text:.80}: expected FIELD=VALUE|VALUE")
        if not field.startswith(_GROUP):
            raise ConfigError(f"--vary={field}: expected a field of {_GROUP[:-1]}")
        if field in (f"{_GROUP}epochs", f"{_GROUP}seed"):
            raise ConfigError(
                f"--vary={field}: every number of epochs up to --longest is judged, "
                "and every split has a seed of its own"
            )
        if field in values:
            raise ConfigError(f"--vary={field}: is given twice")
        values[field] = [
            config_lib.parse_overrides([f"{field}={choice}"])[field]
            for choice in choices.split("|")
        ]
    return values


def combinations(
    base: ExperimentConfig, values: Mapping[str, Sequence[Any]]
) -> list[Candidate]:
    """Every combination of the values, and the one that changes nothing, first.

    Raises:
      ConfigError: a value that cannot be, alone or with the others.
    """
    candidates: dict[str, Candidate] = {}
    before = config_lib.flatten(base)
    for choice in ((), *itertools.product(*values.values())):
        fields = dict(zip(values, choice, strict=False))
        changes = {k: v for k, v in fields.items() if v != before.get(k)}
        config = config_lib.replace(base, fields)
        config_lib.validate(config)
        candidate = Candidate(changes, config.world_model)
        candidates.setdefault(candidate.name, candidate)
    return list(candidates.values())


def score_candidate(
    candidate: Candidate, splits: Sequence[Dataset], longest: int
) -> Scores:
    """The held-out criteria of every number of epochs from 1 to `longest`.

    Nothing in a fit depends on how many epochs follow, so that the longest fit has all
    shorter ones in it. Every split has a world-model seed of its own, the same for all
    candidates.

    Raises:
      FloatingPointError: the loss is not finite; names the candidate.
    """
    rows = []
    for number, split in enumerate(splits):
        config = dataclasses.replace(
            candidate.config, epochs=longest, seed=candidate.config.seed + number
        )
        try:
            report = fit_ensemble(split, config).report
        except FloatingPointError as error:
            raise FloatingPointError(f"candidate {candidate.name!r}: {error}") from None
        rows += [_row(candidate.name, number, row) for row in report[1:]]
    return rows


def score_averages(splits: Sequence[Dataset]) -> Scores:
    """The same criteria of averages of the log, with 0 epochs: none may be chosen."""
    rows = []
    for number, split in enumerate(splits):
        users, items = split.held_out.users, split.held_out.items
        for name, table in _averages(split):
            errors = rating_errors(table[users, items], split.held_out)
            rows.append(_row(name, number, {"epoch": 0, **errors}))
    return rows


def _averages(split: Dataset) -> Iterator[tuple[str, Any]]:
    log, shape = split.log, (split.num_logged_users, split.num_logged_items)
    yield "mean of the log", averages.global_mean(log, shape)
    for rows in _SHRINKAGE:
        means = averages.item_means(log, shape, rows)
        yield f"item means, {rows:g} rows added", means
    for rows in _SHRINKAGE:
        means = averages.user_and_item_means(log, shape, rows)
        yield f"user and item means, {rows:g} rows added", means


def _row(name: str, split: int, report: Mapping[str, float]) -> dict[str, Any]:
    criteria = {
        key.removeprefix(_PREFIX): value
        for key, value in report.items()
        if key.startswith(_PREFIX)
    }
    key = {"candidate": name, "epochs": int(report["epoch"]), "split": split}
    return key | criteria


def score_all(
    candidates: Sequence[Candidate], splits: Sequence[Dataset], longest: int
) -> pd.DataFrame:
    """Scores of averages and candidates, see `runs.selection.summarise`; says how far.

    A candidate that diverges on a split is left out, which is said; the others go on.

    Args:
      candidates: UNCHANGED among them, with which all are compared.
      splits: of the log.
      longest: epochs that each is fitted for.

    Raises:
      DataError: the held-out rows rank nothing.
      FloatingPointError: UNCHANGED diverges.
    """
    rows = score_averages(splits)
    if any(math.isnan(row["pair_accuracy"]) for row in rows):
        raise DataError(
            "no user has two held-out rows that were rated unequally, so that no "
            "ranking can be judged; raise --share"
        )
    for number, candidate in enumerate(candidates, start=1):
        say(f"candidate {number}/{len(candidates)}: {candidate.name}")
        try:
            rows += score_candidate(candidate, splits, longest)
        except FloatingPointError as error:
            if candidate.name == UNCHANGED:
                raise
            say(f"left out: {error}")
    return pd.DataFrame(rows)
