"""Runs side by side in one compiled program: epochs, files, checkpoints, stops.

A run is a directory, its seeds and its coefficients. Runs whose configurations differ
in coefficients alone (`config.COEFFICIENTS`) share a program: their seeds are one array
axis of R * S states. What is written of each run is what it would write alone.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from darlr_jax.experiment import (
    Experiment,
    RunEpoch,
    init_seeds,
    make_run_epoch,
    stack_coefficients,
    steps_of_an_epoch,
)
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.columns import ALL_USERS, SCORE
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.journal import Journal
from darlr_jax.runs.memory import memory_of_device
from darlr_jax.runs.preemption import StopRequest
from darlr_jax.runs.progress import Progress, clock
from darlr_jax.runs.storage import require_space
from darlr_jax.training.program import coefficients_of
from darlr_jax.types import Coefficients
from experiments.cli import say

_CHECKPOINTS_KEPT = 2  # the newest ones; the best is kept beside them
_GIB = 2**30

Metrics = Mapping[str, np.ndarray]  # [S] of one run, [R * S] of all


class Trained(NamedTuple):
    """A run behind its last epoch."""

    states: Any  # [S]
    live: Mapping[int, int]  # position in S -> seed, of those that have not failed
    coefficients: Coefficients
    failure: FloatingPointError | None  # of the last seed, before that epoch


def train_runs(
    runs: Sequence[RunDirectory],
    experiment: Experiment,
    seeds: Sequence[int],
    every: int,
    stop: StopRequest,
) -> list[Trained]:
    """Trains each run from its last checkpoint on to the last epoch.

    Runs that lag, as a process that was killed between two checkpoints leaves them,
    first catch up with the others.

    Args:
      runs: directories of runs that share `experiment`'s program.
      experiment: the program and its arrays; coefficients are those of the runs.
      seeds: of every run.
      every: epochs between checkpoints.
      stop: asked after each epoch.

    Raises:
      Interrupted: `stop` asked; whole epochs are kept.
      OutOfMemory: as `within_memory`.
      FloatingPointError: no seed of the only run is left. One of several ends by
        itself, and says so in what is returned.
    """
    total = experiment.learner.config.training.epochs
    with within_memory(), contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(Part(run, experiment, seeds, len(runs))) for run in runs
        ]
        while going := [part for part in parts if part.goes_on(total)]:
            behind = min(part.done for part in going)
            goal = min((p.done for p in going if p.done > behind), default=total)
            side_by_side = [part for part in going if part.done == behind]
            stop.check(f"before epoch {behind + 1} of {total}, nothing is lost")
            _train_to(goal, side_by_side, experiment, len(seeds), every, stop)
            if any(part.done < goal for part in side_by_side if part.goes_on(total)):
                done = min(part.done for part in side_by_side)
                stop.check(f"after epoch {done} of {total}, nothing is lost")
        return [part.trained() for part in parts]


def _train_to(
    goal: int,
    parts: Sequence[Part],
    experiment: Experiment,
    num_seeds: int,
    every: int,
    stop: StopRequest,
) -> None:
    """Trains parts that are equally far to epoch `goal`, or until `stop` asks."""
    training = _Training(parts, experiment, num_seeds)
    training.compile()
    with contextlib.closing(training):
        while training.done < goal and stop.reason is None and training.goes_on():
            training.run_epoch()
            if training.done % every == 0:
                training.save()
            training.note_time()
        training.save()
        training.give_back()


class Part:
    """One run among those of a program: its rows of the states, and its files.

    Attributes:
      done: epochs behind it.
      states: `[S]`; None while a program has them.
    """

    def __init__(
        self,
        run: RunDirectory,
        experiment: Experiment,
        seeds: Sequence[int],
        num_runs: int,
    ):
        """Restores the last checkpoint, else initial states; the rest fits to it."""
        config = run.identity.config
        learned = config.reward.has_selector
        self._run, self._num_runs = run, num_runs
        self._failure: FloatingPointError | None = None
        self._checkpoints = Checkpointer(
            run.checkpoints, _CHECKPOINTS_KEPT, run.identity
        )
        try:
            self.states, self.done = _last_states(
                run, experiment, seeds, self._checkpoints
            )
            self._journal = Journal(
                run,
                seeds,
                self.done,
                k_sel=config.selector.k_sel if learned else None,
                say=say,
            )
            rows = (config.training.epochs - self.done) * len(seeds)
            _require_space(run, self.states, rows, num_runs)
        except BaseException:
            self._checkpoints.close()
            raise
        self.coefficients = coefficients_of(config)
        self._score: float | None = None

    def __enter__(self) -> Part:
        """The part itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Waits for the checkpoint that is being written."""
        self._checkpoints.__exit__(*exception)

    def goes_on(self, total: int) -> bool:
        """Whether there is an epoch to do and a seed to do it."""
        return self._failure is None and self.done < total

    @property
    def live(self) -> dict[int, int]:
        """Position in S -> seed, of the seeds that have not failed."""
        return {} if self._failure is not None else self._journal.live

    def note(self, **fields: Any) -> None:
        """Sets fields of run.json."""
        if self._failure is None:
            self._run.update(**fields)

    def add(self, name: str, seconds: float) -> None:
        """Adds to a field of run.json: a session may have several programs."""
        if self._failure is None:
            self._run.update(**{name: (self._run.noted(name) or 0.0) + seconds})

    def record(self, states: Any, metrics: Metrics, epoch: int, seconds: float) -> Any:
        """Writes down an epoch; the states `[S]`, mended where a seed has failed.

        Where the last seed fails the run ends as failed; it ends the program too if it
        is the only run of it.
        """
        if self._failure is not None:
            return states
        try:
            states = self._journal.sort_out(
                states, metrics, epoch, self._checkpoints.newest
            )
        except FloatingPointError as error:
            if self._num_runs == 1:
                raise
            self._failure = error
            say(f"error: {self._run.path}: {error}; the other runs go on")
            self._run.close("failed")
            return states
        self._journal.record(metrics, epoch, seconds)
        self.done, self._score = epoch, self._journal.score(metrics)
        return states

    def headline(self, metrics: Metrics, name: str) -> list[float]:
        """A metric of the seeds that have not failed."""
        return [float(metrics[name][position]) for position in self.live]

    def save(self, states: Any) -> None:
        """Begins to store the states `[S]`, where they are not stored yet."""
        stored = self._checkpoints.latest_epoch() or 0
        if self._failure is None and self.done > stored:
            self._checkpoints.save(states, self.done, self._score)

    def trained(self) -> Trained:
        """What has become of the run."""
        return Trained(self.states, self.live, self.coefficients, self._failure)


class _Training:
    """The states of parts that are equally far, one compiled epoch after another.

    Attributes:
      done: epochs behind the states.
    """

    def __init__(self, parts: Sequence[Part], experiment: Experiment, num_seeds: int):
        """Takes the states of the parts, until `give_back`."""
        self._parts, self._num_seeds = parts, num_seeds
        self.done = parts[0].done
        self._states = _joined([part.states for part in parts])
        for part in parts:
            part.states = None  # or they would be there twice
        if len(parts) == 1:
            coefficients = parts[0].coefficients
        else:
            every = [part.coefficients for part in parts]
            coefficients = stack_coefficients(every, num_seeds)
        self._experiment = experiment._replace(coefficients=coefficients)
        self._progress: Progress | None = None

    def compile(self) -> None:
        """Compiles the epoch; from here on time counts as training."""
        compiled = compile_epoch(self._experiment, self._states)
        self._compiled, seconds = compiled.run_epoch, compiled.seconds
        for part in self._parts:
            part.add("compile_seconds", seconds)
            part.note(side_by_side=len(self._parts))
        say(f"compiled in {seconds:.1f} s; {compiled.memory}")
        config = self._experiment.learner.config
        live = sum(len(part.live) for part in self._parts)
        left = config.training.epochs - self.done
        expected = None
        if left > 1:
            expected = _forecast(compiled, self._experiment, self._states)
        if expected is not None:
            say(
                f"an epoch is expected to take {clock(expected)}, "
                f"all {left} of them {clock(left * expected)}"
            )
        runs = f"{len(self._parts)} runs, " * (len(self._parts) > 1)
        label = f"{config.method}, {runs}{live} seed(s)"
        steps = steps_of_an_epoch(config) * live
        self._progress = Progress(config.training.epochs, steps, label)
        self._noted = time.perf_counter()

    def goes_on(self) -> bool:
        """Whether a seed is left."""
        return any(part.live for part in self._parts)

    def run_epoch(self) -> None:
        """Trains, evaluates, writes down."""
        assert self._progress is not None
        began, epoch = time.perf_counter(), self.done + 1
        before = np.array(self._states.env_steps)  # the states are donated
        states, values = self._compiled(self._states, *self._experiment[1:])
        metrics = {name: np.asarray(value) for name, value in values.items()}
        elapsed = time.perf_counter() - began
        self._states = self._record(states, metrics, epoch, elapsed)
        self.done = epoch
        steps = metrics["env_steps"] - before
        self._progress.update(
            epoch, int(np.sum(steps)), elapsed, self._headline(metrics)
        )

    def _record(self, states: Any, metrics: Metrics, epoch: int, elapsed: float) -> Any:
        """Lets each part write down its rows; a run's seconds are its share of all."""
        share, kept, changed = elapsed / len(self._parts), [], False
        for number, part in enumerate(self._parts):
            rows, own = self._rows(number), self._own(states, number)
            cells = {name: value[rows] for name, value in metrics.items()}
            kept.append(part.record(own, cells, epoch, share))
            changed |= kept[-1] is not own
        return _joined(kept) if changed else states

    def _rows(self, number: int) -> slice:
        return slice(number * self._num_seeds, (number + 1) * self._num_seeds)

    def _own(self, states: Any, number: int) -> Any:
        """Those of one part; where it is alone, without a copy."""
        alone = len(self._parts) == 1
        return states if alone else _rows_of(states, self._rows(number))

    def _headline(self, metrics: Metrics) -> dict[str, float]:
        """Means over all seeds of all runs that have not failed."""
        names = {SCORE: "NX_0", ALL_USERS: "all users"}
        return {
            title: float(np.mean(values))
            for name, title in names.items()
            if name in metrics and (values := self._values(metrics, name))
        }

    def _values(self, metrics: Metrics, name: str) -> list[float]:
        cells = metrics[name]
        return [
            value
            for number, part in enumerate(self._parts)
            for value in part.headline({name: cells[self._rows(number)]}, name)
        ]

    def note_time(self) -> None:
        """Says in run.json how long the epochs have taken, all runs together."""
        before, self._noted = self._noted, time.perf_counter()
        for part in self._parts:
            part.add("run_seconds", self._noted - before)

    def save(self) -> None:
        """Begins to store the states, where they are not stored yet."""
        for number, part in enumerate(self._parts):
            part.save(self._own(self._states, number))

    def give_back(self) -> None:
        """Lets each part have its states; after an error they may be donated ones."""
        for number, part in enumerate(self._parts):
            part.states = self._own(self._states, number)

    def close(self) -> None:
        """Leaves the last line of the progress standing."""
        if self._progress is not None:
            self._progress.close()


class OutOfMemory(RunError):
    """The device has not the memory."""


# Of what there can be less where the memory is too small.
_OF_TRAINING = (
    "fewer --seeds, --set=evaluation.all_users=False, a smaller selector.k_sel or "
    "training.environments"
)


@contextlib.contextmanager
def within_memory(need_less: str = _OF_TRAINING) -> Iterator[None]:
    """Says what to do where the device has not the memory.

    Args:
      need_less: what the user can have less of.

    Raises:
      OutOfMemory: in place of the runtime's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(
            f"{jax.devices()[0].device_kind}: not enough memory "
            f"({str(error).splitlines()[0]}); need less: {need_less}"
        ) from error


def _joined(states: Sequence[Any]) -> Any:
    """States `[S]` of several runs as `[R * S]`."""
    if len(states) == 1:
        return states[0]
    return jax.jit(lambda *trees: jax.tree.map(_concatenated, *trees))(*states)


def _concatenated(*leaves: jax.Array) -> jax.Array:
    return jax.numpy.concatenate(leaves)


def _rows_of(states: Any, rows: slice) -> Any:
    """The states of one run; the same program for each of them."""
    return _take_rows(states, rows.start, size=rows.stop - rows.start)


@functools.partial(jax.jit, static_argnames="size")
def _take_rows(states: Any, start: int, *, size: int) -> Any:
    def take(leaf: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(leaf, start, size)

    return jax.tree.map(take, states)


def _last_states(
    run: RunDirectory,
    experiment: Experiment,
    seeds: Sequence[int],
    checkpoints: Checkpointer,
) -> tuple[Any, int]:
    """The states that training goes on from, and the epochs behind them."""
    states = init_seeds(experiment, seeds)
    if checkpoints.latest_epoch() is None:
        if lost := run.epochs_done():
            say(f"{run.path}: has no checkpoint; its {lost} epochs are made again")
        return states, 0
    checkpoints.set_aside_after(run.epochs_done())
    states = checkpoints.restore(states)
    done = int(np.asarray(states.epoch)[0])
    say(f"{run.path}: continues after epoch {done}")
    if changes := run.computed_otherwise():
        say(
            f"{run.path}: so far it was computed by others ({', '.join(changes)}); to "
            "begin anew, --overwrite or another --workdir"
        )
    return states, done


def _require_space(run: RunDirectory, states: Any, rows: int, num_runs: int) -> None:
    """Refuses to train where the checkpoints and metrics to come do not fit.

    Those of the runs beside it as well, which are taken to be as large and to lie on
    the same disk.
    """
    stored = sum(path.name.isdecimal() for path in run.checkpoints.iterdir())
    # Beside the newest there is the best, and the oldest goes when a new one is there.
    missing = max(1, _CHECKPOINTS_KEPT + 2 - stored)
    require_space(
        run.path, states, checkpoints=missing * num_runs, rows=rows * num_runs
    )


# --- the compiled epoch ---------------------------------------------------------------


class Memory(NamedTuple):
    """What a program needs of the device, in bytes."""

    tables: int
    states: int
    working: int  # as the compiler says
    there_is: int | None  # None where the device does not tell

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.there_is is None or self.total <= self.there_is

    @property
    def total(self) -> int:
        """All of it."""
        return self.tables + self.states + self.working

    def __str__(self) -> str:
        """One clause."""
        parts = (
            f"{part / _GIB:.2f} GiB of {name}"
            for part, name in (
                (self.tables, "tables"),
                (self.states, "states"),
                (self.working, "working memory"),
            )
        )
        there_is = "" if self.there_is is None else f" of {self.there_is / _GIB:.1f}"
        return f"memory: {self.total / _GIB:.2f}{there_is} GiB ({', '.join(parts)})"


class Compiled(NamedTuple):
    """An epoch that can be called."""

    run_epoch: RunEpoch
    seconds: float
    memory: Memory


def compile_epoch(experiment: Experiment, states: Any) -> Compiled:
    """The epoch of all states, as many side by side as the device is suited to."""
    say(f"compiling for {jax.devices()[0].device_kind}")
    started = time.perf_counter()
    at_once = seeds_at_once(states)
    while True:
        run_epoch = make_run_epoch(experiment.learner, at_once)
        compiled = run_epoch.lower(states, *experiment[1:]).compile()  # type: ignore[attr-defined]
        memory = _memory(compiled, experiment, states)
        if memory.fits or at_once == 1:
            break
        at_once = math.ceil(at_once / 2)
        say(f"{memory}: too much; {at_once} seeds at a time")
    if not memory.fits:
        say(f"warning: {memory}: may not fit; lower training.environments")
    return Compiled(compiled, time.perf_counter() - started, memory)


def seeds_at_once(states: Any) -> int:
    """How many of the states to try first: all, but on a CPU one after another.

    A CPU is as busy with one, and what one reads stays in its cache. An accelerator
    would wait for every branch that is not taken: there even one is under `vmap`.
    """
    count = jax.tree.leaves(states)[0].shape[0]
    return 1 if jax.default_backend() == "cpu" else max(count, 2)


def _memory(compiled: Any, experiment: Experiment, states: Any) -> Memory:
    analysis = compiled.memory_analysis()
    return Memory(
        tables=_bytes((experiment.tables, experiment.evaluation)),
        states=_bytes(states),
        working=0 if analysis is None else analysis.temp_size_in_bytes,
        there_is=memory_of_device(),
    )


def _bytes(tree: Any) -> int:
    """Of all arrays in a tree, of which those that stand twice count once."""
    return sum({id(leaf): leaf.nbytes for leaf in jax.tree.leaves(tree)}.values())


def _forecast(compiled: Compiled, experiment: Experiment, states: Any) -> float | None:
    """Seconds that an epoch will take, from an evaluation and one collect.

    None where an epoch is not measured in transitions, or the states are too large to
    be copied for a trial. Policies that have learned may hold sessions for longer or
    shorter than the first ones do.
    """
    config, memory = experiment.learner.config, compiled.memory
    copies_fit = memory._replace(states=3 * memory.states).fits
    if not steps_of_an_epoch(config) or not copies_fit:
        return None
    idle, _ = _trial(compiled, experiment, states, steps=0)
    seconds, made = _trial(
        compiled, experiment, states, steps=config.training.batch_size
    )
    if not made:
        return None
    collects = math.ceil(config.training.steps_per_epoch / made)
    return idle + collects * max(0.0, seconds - idle)


def _trial(
    compiled: Compiled, experiment: Experiment, states: Any, *, steps: int
) -> tuple[float, int]:
    """Seconds of an epoch of about so many transitions, and those of its first seed."""
    limit = jax.numpy.full_like(experiment.coefficients.steps_per_epoch, steps)
    coefficients = experiment.coefficients._replace(steps_per_epoch=limit)
    copies = jax.block_until_ready(jax.tree.map(jax.numpy.copy, states))
    before = int(states.env_steps[0])
    started = time.perf_counter()
    after, _ = compiled.run_epoch(
        copies, experiment.tables, experiment.evaluation, coefficients
    )
    made = int(after.env_steps[0]) - before
    return time.perf_counter() - started, made
