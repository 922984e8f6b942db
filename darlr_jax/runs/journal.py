"""What is written down of a run, epoch by epoch: rows, failed seeds, warnings."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from darlr_jax.runs.directory import RunDirectory, writing
from darlr_jax.runs.failures import (
    Failure,
    find_failures,
    keep_checkpoint,
    keep_failed_state,
    replace_seeds,
)
from darlr_jax.runs.symptoms import Symptom, Watch, score_name
from darlr_jax.runs.writers import MetricsWriter, metric_rows

States = TypeVar("States")
Metrics = Mapping[str, np.ndarray]  # [S]

_ADVICE = "lower recommender.learning_rate, selector.learning_rate or reward.lambda_u"


class Journal:
    """The rows of the seeds that go on, and in run.json what became of the others.

    The order of writing is: run.json, rows, checkpoint. So whatever a process that is
    killed leaves behind, a checkpoint has both that belong to it, and what is of later
    epochs can be dropped.
    """

    def __init__(
        self,
        run: RunDirectory,
        seeds: Sequence[int],
        done: int,
        *,
        k_sel: int | None,
        say: Callable[[str], None],
    ):
        """Goes on after the checkpoint of epoch `done`; what is of later ones, drops.

        Args:
          run: where to.
          seeds: of the whole run.
          done: 0 where there is no checkpoint.
          k_sel: users that a learned selector picks, None without one.
          say: tells the user.

        Raises:
          RunError: the files cannot be written, or do not reach up to `done`.
        """
        self._run, self._seeds, self._say = run, list(seeds), say
        self._writer = MetricsWriter(run)
        with writing(run.metrics_csv):
            self._writer.truncate_after(done)
        self._watch = Watch(k_sel)
        self._watch.look(self._writer.rows())  # what begins there is in run.json
        self._failed, self._warnings = (
            [entry for entry in run.noted(name) if entry["epoch"] <= done]
            for name in ("failed_seeds", "warnings")
        )
        run.update(failed_seeds=self._failed, warnings=self._warnings)

    @property
    def live(self) -> dict[int, int]:
        """Position in S -> seed, of the seeds that have not failed."""
        failed = {entry["seed"] for entry in self._failed}
        return {n: seed for n, seed in enumerate(self._seeds) if seed not in failed}

    def mean(self, metrics: Metrics, name: str) -> float:
        """The mean of a metric over the seeds that have not failed."""
        return float(np.mean(metrics[name][list(self.live)]))

    def score(self, metrics: Metrics) -> float | None:
        """What the best epoch is chosen by, None where it is not measured."""
        name = score_name(metrics)
        return None if name is None else self.mean(metrics, name)

    def sort_out(
        self,
        states: States,
        metrics: Metrics,
        epoch: int,
        newest_checkpoint: Callable[[], pathlib.Path | None],
    ) -> States:
        """Marks the seeds that failed in `epoch` and keeps what there is to inspect.

        Args:
          states: `[S]` after the epoch.
          metrics: of the epoch.
          epoch: which one.
          newest_checkpoint: its folder; it holds the last states before the failure.

        Returns:
          The states, with a copy of a healthy seed for each that failed.

        Raises:
          FloatingPointError: no seed is left.
          RunError: the states cannot be written.
        """
        found = find_failures(metrics, self._seeds, epoch)
        failures = {n: found[n] for n in self.live if n in found}
        if not failures:
            return states
        checkpoint = newest_checkpoint()
        with writing(self._run.failed):
            files = {
                n: keep_failed_state(self._run.failed, states, n, failure)
                for n, failure in failures.items()
            }
            if checkpoint is not None:
                checkpoint = keep_checkpoint(checkpoint, self._run.failed)
        for n, failure in failures.items():
            self._mark(failure, files[n], checkpoint)
        if not self.live:
            raise FloatingPointError(self._describe_end(next(iter(failures.values()))))
        return replace_seeds(states, list(self.live))

    def record(self, metrics: Metrics, epoch: int, seconds: float) -> None:
        """Writes the rows of an epoch, and warns of what they show.

        Raises:
          RunError: they cannot be written.
        """
        rows = metric_rows(metrics, self.live, epoch, seconds)
        self._warn(self._watch.look(rows))
        with writing(self._run.metrics_csv):
            self._writer.write(rows)

    def _mark(
        self, failure: Failure, state: pathlib.Path, checkpoint: pathlib.Path | None
    ) -> None:
        files = {
            "state": str(state.relative_to(self._run.path)),
            "before": checkpoint and str(checkpoint.relative_to(self._run.path)),
        }
        self._failed = [*self._failed, failure._asdict() | files]
        self._run.update(failed_seeds=self._failed)
        self._say(f"failed: {failure}; {_ADVICE}. Its state: {state}")

    def _describe_end(self, failure: Failure) -> str:
        others = ", and no seed is left" if len(self._seeds) > 1 else ""
        return (
            f"{failure}{others}; the last checkpoint is intact, the states are in "
            f"{self._run.failed}. {_ADVICE.capitalize()}"
        )

    def _warn(self, new: Sequence[Symptom]) -> None:
        """A line a rule and run; run.json has an entry a rule and seed."""
        said = {entry["rule"] for entry in self._warnings}
        for rule in dict.fromkeys(symptom.rule for symptom in new):
            if rule not in said:
                self._say(_warning([s for s in new if s.rule == rule]))
        if new:
            entries: list[dict[str, Any]] = [symptom._asdict() for symptom in new]
            self._warnings = [*self._warnings, *entries]
            self._run.update(warnings=self._warnings)


def _warning(symptoms: Sequence[Symptom]) -> str:
    """One line on one rule that begins to hold for some seeds at once."""
    first = symptoms[0]
    seeds = ", ".join(str(symptom.seed) for symptom in symptoms)
    return (
        f"warning: {first.rule} in epoch {first.epoch}, seed {seeds}: {first.seen}; "
        f"{first.remedy}"
    )
