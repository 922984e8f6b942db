"""The table of a plan: each row with intervals, its pair and the published score.

Every row of the plan is in the table. One that has not run says "not run" or how far it
is; one of a single seed says "1 seed"; one that failed stops the table.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.config import ExperimentConfig
from darlr_jax.runs.columns import ALL_USERS, SCORE
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.fields import own_changes
from darlr_jax.runs.plans import Row
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import (
    FinishedRun,
    epoch_mean,
    final_policy,
    last_quarter,
    mean_and_interval,
    published_score,
)
from darlr_jax.runs.statistics import (
    Interval,
    bootstrap,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
)

COLUMNS = (  # what stands where a row has not run
    *("NX_0 R_tra", "± 95 % (t)", "IQM", "last 25 %", "all users", "final policy"),
    *("length", "R_each", "difference", "seeds ahead", "P(better)"),
)


class Outcome(NamedTuple):
    """What became of a row."""

    row: Row
    config: ExperimentConfig
    metrics: pd.DataFrame | None  # None: it has not finished,
    state: str  # and how far it is
    fit: str | None = None  # of its world model, as of `results.fit_of`
    truth: str | None = None  # which matrix paid its evaluation, where it says so
    data: str | None = None  # what it has read, as of `results.data_of`

    def in_print(self, published: PublishedScores) -> float:
        """The published score that may stand beside it; NaN where none may."""
        method, epochs = self.row.published_as, None
        if self.metrics is not None:
            epochs = int(self.metrics["epoch"].max())
        return published.score(method, self.config, self.truth, epochs)


def outcomes_of(runs: Sequence[FinishedRun], against: str | None) -> list[Outcome]:
    """Runs as rows, called by their names and compared with one of them.

    What they changed of their presets, beside what all of them changed
    (`shared_changes`), is said in words.
    """
    notes = own_changes(run.config for run in runs)
    outcomes = []
    for run, note in zip(runs, notes, strict=True):
        other = against if against != run.name else None
        row = Row(run.name, run.config.method, note=note, against=other)
        outcomes.append(
            Outcome(
                *(row, run.config, run.metrics, "", run.fit, run.ground_truth),
                data=run.data,
            )
        )
    return outcomes


def comparison_table(
    outcomes: Sequence[Outcome], published: PublishedScores
) -> pd.DataFrame:
    """One row a row of a plan.

    Returns:
      Columns: row; what it is; seeds (or how far it is); epochs; "NX_0 R_tra", the
      published score, with its bootstrap interval over seeds; half of Student's
      interval; the interquartile mean; the last 25 % of the epochs; all users (common
      random numbers), over all epochs and of the final policy; length; R_each; the
      paired difference of "all users" to the row of "against", over the epochs that
      both have; how many of the common seeds are ahead; the probability of
      improvement; and the published score, and how far ours is from it.
    """
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {"row": outcome.row.name, "what": outcome.row.note}
        if outcome.metrics is None:
            row |= {"seeds": outcome.state, "epochs": None}
            row |= dict.fromkeys(COLUMNS) | {"against": outcome.row.against or ""}
        else:
            row |= _scores(outcome.metrics)
            row |= _pairing(outcome.row, outcome.metrics, by_name)
        rows.append(row | _beside(outcome, published))
    return _without_empty(pd.DataFrame(rows))


def paired_scores(
    first: pd.DataFrame, second: pd.DataFrame
) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> score of two runs, over the epochs that both have.

    Of all users where both have it: in an epoch runs of one seed meet the same users
    with the same random numbers, so nothing but the policies differs. Otherwise of the
    users drawn, who are the same as well where both draw as many
    (`evaluation.episodes`); tables of others say so (`other_draws`).
    """
    both = ALL_USERS in first.columns and ALL_USERS in second.columns
    epochs = min(first["epoch"].max(), second["epoch"].max())
    scores = (
        epoch_mean(m[m["epoch"] <= epochs], ALL_USERS if both else SCORE)
        for m in (first, second)
    )
    left, right = (_by_seed(score) for score in scores)
    return left, right


def users_compared(runs: Iterable[pd.DataFrame | None]) -> str:
    """Of whom `paired_scores` of any two of these runs are, in words for a note.

    Args:
      runs: their metrics; None of those that have not finished.
    """
    everyone = {ALL_USERS in metrics.columns for metrics in runs if metrics is not None}
    if everyone == {True, False}:
        return "all users, or the users drawn where a run has these alone"
    return "the users drawn" if everyone == {False} else "all users"


class Pair(NamedTuple):
    """What two runs differ by, seed by seed."""

    first: dict[int, float]  # seed -> score, as of `paired_scores`
    second: dict[int, float]
    difference: Interval  # its bootstrap interval
    half_width: float  # of Student's
    ahead: str  # how many of the common seeds the first is ahead with
    epochs: int  # compared

    @property
    def differences(self) -> dict[int, float]:
        """Seed -> first less second, of the common seeds in order."""
        return _differences(self.first, self.second)


def paired(first: pd.DataFrame, second: pd.DataFrame) -> Pair | None:
    """The difference of two runs by `paired_scores`; None without a common seed."""
    epochs = min(int(first["epoch"].max()), int(second["epoch"].max()))
    return _pair(*paired_scores(first, second), epochs)


def mean_pair(pairs: Sequence[Pair]) -> Pair | None:
    """The mean of several pairs, seed by seed; None without a seed that all have."""
    if not pairs:
        return None
    seeds = set.intersection(*(set(pair.differences) for pair in pairs))
    first, second = (
        {seed: sum(each[seed] for each in scores) / len(pairs) for seed in seeds}
        for scores in zip(*(pair[:2] for pair in pairs), strict=True)
    )
    return _pair(first, second, min(pair.epochs for pair in pairs))


def _pair(
    first: dict[int, float], second: dict[int, float], epochs: int
) -> Pair | None:
    differences = _differences(first, second)
    if not differences:
        return None
    return Pair(
        first=first,
        second=second,
        difference=paired_difference(first, second),
        half_width=mean_and_interval([*differences.values()])[1],
        ahead=_ahead(differences.values()),
        epochs=epochs,
    )


def _pair_of(name: str, other: str, metrics: Mapping[str, pd.DataFrame]) -> Pair | None:
    """Two different runs of a set, paired; None without the second."""
    if name == other or other not in metrics:
        return None
    return paired(metrics[name], metrics[other])


def _differences(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    common = sorted(first.keys() & second.keys())
    return {seed: first[seed] - second[seed] for seed in common}


def _ahead(differences: Collection[float]) -> str:
    return f"{sum(value > 0 for value in differences)} of {len(differences)}"


def repeats_table(
    runs: Mapping[str, FinishedRun],
    again: Mapping[str, FinishedRun],
    against: str,
    heading: str = "run again",
) -> pd.DataFrame:
    """What runs differ by from one of them, and what they do when all are run again.

    Args:
      runs: by name.
      again: the same runs once more, as on another fit of the world model or with other
        seeds.
      against: the run that is subtracted.
      heading: of the differences of the latter.

    Returns:
      A row each run of both of which there is something to say, of all users, paired by
      seed, over the epochs that are compared, those that all have: its difference, that
      of the repeat, and that of both, with half of Student's interval; and by how much
      the repeat itself differs, where it has the same seeds. A seed that is in both
      counts once in "both" and "ahead", with the mean of its two differences.
    """
    rows = []
    for name in (name for name in runs if name in again):
        compared = [
            {n: each[n].metrics for n in (name, against) if n in each}
            for each in (runs, again)
        ]
        lengths = (rows["epoch"].max() for each in compared for rows in each.values())
        epochs = int(min(lengths))
        once, more = (_up_to(epochs, each) for each in compared)
        moved = paired(more[name], once[name])
        row: dict[str, Any] = {"row": name, "epochs": epochs}
        row |= dict.fromkeys((f"less {against}", heading, "both"))
        row |= dict.fromkeys(("± 95 % (t)", "ahead"))
        first, second = (_pair_of(name, against, each) for each in (once, more))
        if first is None and moved is None:
            continue  # it is what is subtracted, with other seeds
        if first is not None and second is not None:
            both = pd.DataFrame([first.differences, second.differences]).mean()
            row |= {f"less {against}": first.difference, heading: second.difference}
            row["both"], row["± 95 % (t)"] = mean_and_interval(both)
            row["ahead"] = _ahead(both)
        row["again less first"] = None if moved is None else moved.difference
        rows.append(row)
    return _without_empty(pd.DataFrame(rows))


def _up_to(epochs: int, metrics: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The metrics of runs, without later epochs."""
    return {name: rows[rows["epoch"] <= epochs] for name, rows in metrics.items()}


def where_it_helps(outcomes: Sequence[Outcome]) -> list[str]:
    """For each line of a figure: at which places it is above its pair, and where below.

    By Student's interval of the paired differences, the safer one of few seeds; what it
    holds zero for is neither. One sentence a line, none where nothing is paired.
    """
    metrics = {o.row.name: o.metrics for o in outcomes if o.metrics is not None}
    sentences = []
    for series in dict.fromkeys(o.row.series for o in outcomes if o.row.against):
        places: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
        for row in (o.row for o in outcomes if o.row.series == series):
            pair = against_its_pair(row, metrics)
            if pair is not None and row.x is not None:
                places[_verdict(pair)].append(f"{row.x:g}")
        said = [f"{word} at {', '.join(at)}" for word, at in places.items() if at]
        if said:
            sentences.append(
                f"{series}, against its pair, by Student's interval: {'; '.join(said)}."
            )
    return sentences


def against_its_pair(row: Row, metrics: Mapping[str, pd.DataFrame]) -> Pair | None:
    """A row and that of "against", paired; None where not both are among `metrics`."""
    if row.against is None or row.name not in metrics:
        return None
    return _pair_of(row.name, row.against, metrics)


def interval(scores: pd.Series, statistic: Any = None) -> Interval:
    """The bootstrap interval of one number a seed."""
    values = scores.to_numpy(dtype=float)
    return bootstrap([values], statistic) if statistic else bootstrap([values])


def require_one_matrix(ground_truths: Mapping[str, str | None]) -> str | None:
    """What pays the evaluation of all rows; None where no run says so.

    Raises:
      RunError: rows are paid by different test matrices.
    """
    named = {truth: row for row, truth in ground_truths.items() if truth is not None}
    if len(named) > 1:
        pairs = "; ".join(f"{row}: {truth}" for truth, row in named.items())
        raise RunError(f"rows are paid by {len(named)} test matrices ({pairs})")
    return next(iter(named), None)


def refits(fits: Iterable[tuple[str, ExperimentConfig, str | None]]) -> list[str]:
    """A sentence for each world model that rows of a table have of several fits.

    Args:
      fits: name, configuration and `results.fit_of` of each row.
    """
    return [
        "Of the same world model, but of another fit (another machine or "
        "version; fits differ by rounding) than most rows here: "
        f"{'; of a further one: '.join(names)}."
        for names in _unlike_most(
            (name, (config.world_model, config.dataset), fit)
            for name, config, fit in fits
        )
    ]


def other_data(rows: Iterable[tuple[str, ExperimentConfig, str | None]]) -> list[str]:
    """A sentence for each data set of which rows of a table have read several states.

    Args:
      rows: name, configuration and `results.data_of` of each.
    """
    return [
        "Of the same data set, but of other files, or read or generated by another "
        f"version, than most rows here: {'; otherwise still: '.join(names)}."
        for names in _unlike_most((name, c.dataset, data) for name, c, data in rows)
    ]


def standing_on(outcomes: Sequence[Outcome], truth: str | None) -> list[str]:
    """What rows of a table stand on, in sentences beneath it; none where all is alike.

    Args:
      outcomes: the rows; of those that have not finished `Outcome.metrics` is None.
      truth: which matrix pays the evaluation, None where no run says so.
    """
    notes = reservations(outcomes, truth)
    notes += refits((o.row.name, o.config, o.fit) for o in outcomes)
    return notes + other_data((o.row.name, o.config, o.data) for o in outcomes)


def reservations(outcomes: Iterable[Outcome], truth: str | None) -> list[str]:
    """`standing_on` without fits and data: which matrix paid what, and what is cut."""
    done = [outcome for outcome in outcomes if outcome.metrics is not None]
    return [*_payer(done, truth), *_unfinished(done), *other_draws(done)]


def _payer(outcomes: Sequence[Outcome], truth: str | None) -> list[str]:
    """Which matrix pays, and which rows do not say that they are paid by it."""
    if truth is None:
        return []
    silent = [outcome.row.name for outcome in outcomes if outcome.truth is None]
    unknown = f"Which matrix paid is not recorded of: {', '.join(silent)}."
    return [f"Evaluation pays: {truth}.", *[unknown] * bool(silent)]


def _unfinished(outcomes: Sequence[Outcome]) -> list[str]:
    """The rows that have not all their epochs; means of fewer are of other policies."""
    named = []
    for row, config, metrics, *_ in outcomes:
        assert metrics is not None
        done, wanted = int(metrics["epoch"].max()), config.training.epochs
        if done < wanted:
            named.append(f"{row.name} ({done} of {wanted} epochs)")
    return [f"Unfinished: {', '.join(named)}."] * bool(named)


def other_draws(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence about rows that draw another number of users, where it matters.

    It does where some row has not all users: `paired_scores` is then of those drawn.
    """
    tables = [outcome.metrics for outcome in outcomes]
    if all(metrics is None or ALL_USERS in metrics.columns for metrics in tables):
        return []
    rows = (
        (o.row.name, o.config.dataset, o.config.evaluation.episodes) for o in outcomes
    )
    return [
        "Of another number of users drawn (evaluation.episodes) than most rows here, "
        "and so paired by seed but not by user, unless both have all users: "
        f"{'; of a further one: '.join(names)}."
        for names in _unlike_most((name, data, str(n)) for name, data, n in rows)
    ]


def probability_note(table: pd.DataFrame) -> list[str]:
    """How to read an interval of "P(better)" without width, where it is a column."""
    said = (
        "P(better): [1.00, 1.00], or [0.00, 0.00], means that the scores of these few "
        "seeds do not overlap; it is no certainty."
    )
    return [said] * ("P(better)" in table.columns)


def _unlike_most(rows: Iterable[tuple[str, Any, str | None]]) -> Iterator[list[str]]:
    """For each kind of rows of several origins: the names of each but the commonest.

    Args:
      rows: name, what it is of, and where that is from; None is left out.
    """
    kinds: dict[Any, dict[str, list[str]]] = {}
    for name, kind, origin in rows:
        if origin is not None:
            kinds.setdefault(kind, {}).setdefault(origin, []).append(name)
    for origins in kinds.values():
        most = max(origins.values(), key=len)
        others = [", ".join(names) for names in origins.values() if names is not most]
        if others:
            yield others


def with_matrix(table: pd.DataFrame, truth: str | None) -> pd.DataFrame:
    """What pays the evaluation as a column, for files that can hold no note."""
    return table if truth is None else table.assign(**{"evaluation pays": truth})


def _scores(metrics: pd.DataFrame) -> dict[str, Any]:
    score = published_score(metrics)
    row: dict[str, Any] = {
        "seeds": f"{metrics['seed'].nunique()}",
        "epochs": f"{metrics['epoch'].max()}",
        "NX_0 R_tra": interval(score),
        "± 95 % (t)": mean_and_interval(score)[1],
        "IQM": _interquartile(score),
        "last 25 %": interval(last_quarter(metrics, SCORE)),
        "all users": None,
        "final policy": None,
    }
    if ALL_USERS in metrics.columns:
        row["all users"] = interval(epoch_mean(metrics, ALL_USERS))
        row["final policy"] = interval(final_policy(metrics, ALL_USERS))
    for title, name in (("length", "NX_0_len_tra"), ("R_each", "NX_0_R_each")):
        known = name in metrics.columns
        row[title] = float(epoch_mean(metrics, name).mean()) if known else math.nan
    return row


def _interquartile(score: pd.Series) -> Interval | str:
    if len(score) < 4:  # of fewer nothing is left out, and it would be the mean
        return "needs 4 seeds"
    return interval(score, interquartile_mean)


def _pairing(
    row: Row, metrics: pd.DataFrame, by_name: Mapping[str, Outcome]
) -> dict[str, Any]:
    cells: dict[str, Any] = {"against": row.against or ""}
    cells |= dict.fromkeys(("difference", "seeds ahead", "P(better)"))
    other = by_name.get(row.against or "")
    if other is None or other.metrics is None:
        return cells
    pair = paired(metrics, other.metrics)
    if pair is None:
        return cells | {"seeds ahead": "no common seed"}
    return cells | {
        "difference": pair.difference,
        "seeds ahead": pair.ahead,
        "P(better)": probability_of_improvement(
            [list(pair.first.values())], [list(pair.second.values())]
        ),
    }


def _beside(outcome: Outcome, published: PublishedScores) -> dict[str, Any]:
    """The published run, where the row may stand beside it."""
    score, metrics = outcome.in_print(published), outcome.metrics
    ours = math.nan if metrics is None else float(published_score(metrics).mean())
    return {"published": score, "less published": ours - score}


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that say nothing in any row are left out, but for the score."""
    empty = [
        name
        for name in table.columns
        if name not in ("row", "NX_0 R_tra")
        and all(value in (None, "") or value != value for value in table[name])
    ]
    return table.drop(columns=empty)


def _verdict(pair: Pair) -> str:
    """A single seed, whose half width is not-a-number, decides nothing."""
    if not abs(pair.difference.value) > pair.half_width:
        return "undecided"
    return "better" if pair.difference.value > 0 else "worse"


def _by_seed(scores: pd.Series) -> dict[int, float]:
    return {int(str(seed)): float(score) for seed, score in scores.items()}
