"""One page that stands alone: what a run, or a group of runs, amounts to."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from darlr_jax.config import ExperimentConfig, flatten
from darlr_jax.runs import claims, pages, plots
from darlr_jax.runs.columns import ALL_USERS, SCORE
from darlr_jax.runs.comparison import (
    Outcome,
    comparison_table,
    interval,
    probability_note,
    standing_on,
    users_compared,
)
from darlr_jax.runs.costs import costs_of, each_once, sessions_that_trained
from darlr_jax.runs.directory import RunDirectory, RunError, load_config, read_json
from darlr_jax.runs.error_figures import (
    Picture,
    alike,
    calibration_pictures,
    estimate_pictures,
    estimate_table,
)
from darlr_jax.runs.fields import changed_fields, in_words, shared_changes
from darlr_jax.runs.figures import (
    COLOURS,
    can_share_axes,
    draw_plan,
    draw_published_curve,
    legend,
    legend_beneath,
)
from darlr_jax.runs.groups import Group
from darlr_jax.runs.panels import FIT, PANELS, Panel, draw_panel, draw_score
from darlr_jax.runs.plan_tables import PlanTable, brief_notes, brief_table
from darlr_jax.runs.plans import Plan, Row
from darlr_jax.runs.progress import clock
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import (
    FinishedRun,
    cell,
    epoch_mean,
    failures_of,
    final_policy,
    last_quarter,
    load_metrics,
    mean_and_interval,
    published_score,
)
from darlr_jax.runs.statistics import Interval
from darlr_jax.runs.symptoms import PATIENCE, find_symptoms, rules_for


def run_report(run_dir: str | os.PathLike[str], published: PublishedScores) -> str:
    """The page of one run. That of a run of which seeds failed says so first.

    Raises:
      RunError: the run is malformed, or has no epoch.
    """
    path = pathlib.Path(run_dir)
    run = RunDirectory(path)
    record = read_json(run.run_file)
    failed = failures_of(record, run.run_file)
    outcome = Outcome(
        Row(path.name, (config := load_config(path)).method),
        config,
        load_metrics(path, without=[failure["seed"] for failure in failed]),
        "",
        truth=record.get("ground_truth"),
    )
    body = [
        f"<h1>{pages.esc(_name(outcome))}</h1>",
        pages.note(_subtitle(outcome, record)),
        *(
            f"<p class='warning'>{pages.esc(text)}</p>"
            for text in _reservations(outcome, record)
        ),
        _cards(outcome, published),
        "<h2>Learning</h2>",
        pages.figure(_score_figure(outcome, published), "score", _LEARNING),
        "<h2>Symptoms</h2>",
        _symptoms(outcome, record),
        "<h2>Training</h2>",
        _training_panels(_metrics(outcome)),
        "<h2>World model</h2>",
        _world_model(run, config),
        "<h2>Reward estimates</h2>",
        _estimates(run),
        "<h2>Time and memory</h2>",
        _costs(_metrics(outcome), record),
        "<h2>Configuration</h2>",
        _configuration(outcome),
        "<h2>Provenance</h2>",
        _provenance(record),
    ]
    return pages.page(_name(outcome), body)


def results_report(
    group: Group,
    tables: Sequence[PlanTable],
    published: PublishedScores,
    against: str | None,
) -> str:
    """The page of a group of runs.

    Methods and runs of no plan, if any, stand in one table; each plan of which every
    row is there has its picture and its table beneath, but for the main table.

    Args:
      group: the runs.
      tables: of its plans, as of `whole_tables`.
      published: what stands beside them.
      against: the name of the run that those of the first table are paired with.
    """
    outcomes = group.outcomes(against)
    tables = [table for table in tables if table.plan.table != "main"]
    body = [
        f"<h1>{pages.esc(group.name)}</h1>",
        pages.note(_contents(group, tables)),
        *_overview(group, outcomes, published),
        *_claims(outcomes, published),
        *(_plan_section(table, published) for table in tables),
        "<h2>Runs</h2>",
        *map(_run_details, group.runs),
    ]
    return pages.page(group.name, body)


_LEARNING = (
    "Band: range of the seeds. Users drawn: 100 an epoch, as published; all users: "
    "each user once with common random numbers, so that only policies move the curve."
)
_ABSENT = "not recorded"
_CALIBRATION = (
    "Held-out rows are logged feedback that was not fitted. The true "
    "matrix pays the evaluation: what is measured on it is analysis, and no "
    "configuration may be chosen by it."
)
_ESTIMATES = (
    "Compared with the true reward (analysis) are the user's own row of the world "
    "model, the mean over her nearest users, the mean over all users and, where the "
    "method asks reference users, what these answered: for the items that were "
    "recommended, and for items drawn at random in the same states."
)
_OF_CALIBRATION = ("held_out", "true_matrix")
_OF_ESTIMATES = ("epoch", "users", "seeds", "recommended", "other", "by_seed")
_SCORES = (
    "Left: mean over all epochs of NX_0 R_tra, as published; rows with other numbers "
    "of epochs cannot be compared by it. Right, where rows have a pair: differences "
    "between runs of one seed, over the epochs that both have."
)
_COMPARED = (
    "Left: means over seeds. Right: differences between runs of one seed, which "
    "met the same users with the same random numbers."
)
_EACH = (
    "A panel a run. Blue: mean and range of its seeds; black: the run it is compared "
    "with; dotted: published. Points are means of neighbouring epochs."
)
_OVER_A_PARAMETER = (
    "Above: means and intervals over seeds. Beneath: differences to the row of "
    '"against", paired by seed.'
)
_LEGEND = (
    "[ ]: 95 % bootstrap interval over seeds; it is too narrow for few seeds, so half "
    "of Student's interval, ± (t), stands beside it. difference: of {users}, paired by "
    "seed, to the run named under against."
)


# --- a group --------------------------------------------------------------------------


def _contents(group: Group, tables: Sequence[PlanTable]) -> str:
    said = f"{len(group.runs)} runs"
    if tables:
        titles = "; ".join(table.plan.title for table in tables)
        said += f"; with tables of their own, beneath: {titles}"
    return f"{said}."


def _overview(
    group: Group, outcomes: Sequence[Outcome], published: PublishedScores
) -> list[str]:
    """Methods and runs of no plan: scores, curves and their table; nothing of none."""
    if not outcomes:
        return []
    rows = tuple(outcome.row for outcome in outcomes)
    plan = Plan("runs", group.dataset, group.name, "scores", "", rows, ())
    curves = plan._replace(figure="curves")
    table = comparison_table(outcomes, published)
    shared = in_words(shared_changes(outcome.config for outcome in outcomes))
    notes = [_LEGEND.format(users=users_compared(o.metrics for o in outcomes))]
    notes += [f"All runs: {shared}."] * bool(shared)
    notes += [*probability_note(table), *standing_on(outcomes, group.truth)]
    return [
        _plan_figure(plan, outcomes, published),
        _plan_figure(curves, outcomes, published),
        "<h2>Table</h2>",
        pages.table(table),
        *map(pages.note, notes),
    ]


def _plan_section(table: PlanTable, published: PublishedScores) -> str:
    """Picture and table of a plan, with what its reader must know."""
    notes = "".join(map(pages.note, brief_notes(table)))
    return (
        f"<h2>{pages.esc(table.plan.title)}</h2>"
        f"{_plan_figure(table.plan, table.outcomes, published)}"
        f"{pages.table(brief_table(table))}{notes}"
    )


def _plan_figure(
    plan: Plan, outcomes: Sequence[Outcome], published: PublishedScores
) -> str:
    name = f"{plan.table}-{plan.figure}"
    alone = plan.figure == "curves" and not can_share_axes(len(outcomes))
    captions = {"scores": _SCORES, "curves": _COMPARED, "lines": _OVER_A_PARAMETER}
    caption = _EACH if alone else captions[plan.figure]
    return pages.figure(draw_plan(plan, outcomes, published, name), name, caption)


# --- parts ----------------------------------------------------------------------------


def _claims(outcomes: Sequence[Outcome], published: PublishedScores) -> list[str]:
    table = claims.claims_table(outcomes, published)
    if table is None:
        return []
    note = pages.note(claims.note(outcomes).replace("*", ""))
    heading = "<h2>What the papers claim, and what is found</h2>"
    return [heading, pages.table(table), note]


def _cards(outcome: Outcome, published: PublishedScores) -> str:
    metrics = _metrics(outcome)
    score = published_score(metrics)
    spread = mean_and_interval(score)[1]
    student = "" if math.isnan(spread) else f"; ± {spread:.2f} by Student's t"
    first = f"NX_0 R_tra, mean over epochs{student}"
    cards = [_card(interval(score), first, "card main")]
    theirs = outcome.in_print(published)
    if not math.isnan(theirs):
        difference = float(score.mean()) - theirs
        cards.append(
            _card(theirs, f"published (one seed); ours is {difference:+.2f} from it")
        )
    cards.append(
        _card(interval(last_quarter(metrics, SCORE)), "last 25 % of the epochs")
    )
    if ALL_USERS in metrics.columns:
        everyone = interval(epoch_mean(metrics, ALL_USERS))
        cards.append(_card(everyone, "all users, mean over epochs"))
        final = interval(final_policy(metrics, ALL_USERS))
        cards.append(_card(final, "final policy, all users"))
    return f"<div class='cards'>{''.join(cards)}</div>"


def _card(number: Interval | float, label: str, kind: str = "card") -> str:
    value = number.value if isinstance(number, Interval) else number
    text = cell(number, 2)
    ends = text[text.find(" ") :] if isinstance(number, Interval) else ""
    return (
        f"<div class='{kind}'><b>{value:.2f}</b>"
        f"<span>{pages.esc(ends)}</span><span>{pages.esc(label)}</span></div>"
    )


def _subtitle(outcome: Outcome, record: Mapping[str, Any]) -> str:
    metrics = _metrics(outcome)
    sessions = sessions_that_trained(record)
    devices = ((s.get("device") or {}).get("kind") for s in sessions)
    commits = each_once(str(s.get("commit") or "")[:10] for s in sessions)
    parts = [
        _seeds(metrics["seed"].unique().tolist()),
        f"{int(metrics['epoch'].max())} epochs",
        each_once(str(kind or "") for kind in devices) or f"device {_ABSENT}",
        f"commit {commits or _ABSENT}",
        f"started {sessions[0].get('started', _ABSENT)}",
    ]
    truth = record.get("ground_truth") or _ABSENT
    return f"{', '.join(parts)}. Evaluation pays: {truth}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def _reservations(outcome: Outcome, record: Mapping[str, Any]) -> list[str]:
    """Why the numbers are not (yet) a result, one line each."""
    said = []
    failed = record.get("failed_seeds", [])
    if failed:
        count = f"{len(failed)} of {len(record['seeds'])} seeds failed"
        said.append(f"{count}; numbers of the others are no result.")
        said += [_failure(failure) for failure in failed]
    elif record.get("status") == "failed":
        said.append("The run failed; its numbers are no result.")
    epochs = int(_metrics(outcome)["epoch"].max())
    if epochs < (wanted := outcome.config.training.epochs):
        said.append(f"The run has {epochs} of {wanted} epochs.")
    if outcome.config.dataset.twin:
        said.append("The data are a generated twin: for speed, never for results.")
    return said


def _failure(failure: Mapping[str, Any]) -> str:
    return (
        f"Seed {failure['seed']}: {failure['term']} is {failure['value']} in epoch "
        f"{failure['epoch']}; its state: {failure.get('state') or _ABSENT}."
    )


def _symptoms(outcome: Outcome, record: Mapping[str, Any]) -> str:
    """What the run warned of; what an older one would warn of today."""
    warnings, note = record.get("warnings"), ""
    if warnings is None:
        warnings = _found_today(outcome)
        note = " The run recorded no warnings; these rules are today's."
    rules: dict[str, list[str]] = {}
    for warning in warnings:
        entry = warning if isinstance(warning, Mapping) else {"rule": str(warning)}
        seen = f"seed {entry.get('seed', '?')} from epoch {entry.get('epoch', '?')}"
        remedy = f"to change: {entry.get('remedy', _ABSENT)}"
        text = f"{seen}: {entry.get('seen', _ABSENT)}; {remedy}"
        rules.setdefault(str(entry.get("rule", pages.plain(entry))), []).append(text)
    items = "".join(
        f"<li><b class='alarm'>{pages.esc(rule)}</b>"
        f"{'<br>'.join(map(pages.esc, texts))}</li>"
        for rule, texts in rules.items()
    )
    epochs = int(_metrics(outcome)["epoch"].max())
    judged, others = rules_for(_metrics(outcome).columns, _k_sel(outcome))
    none = "" if items else f"No rule holds in {epochs} epochs. "
    note = f"Judged: {', '.join(judged) or 'nothing'}.{note}"
    if others:
        note += (
            f" Not judged (not of this method, or not recorded): {', '.join(others)}."
        )
    if epochs < 2 * PATIENCE:
        note += f" Rules need {PATIENCE} to {2 * PATIENCE} epochs; here are {epochs}."
    return f"<ul class='findings'>{items}</ul>{pages.note(none + note)}"


def _found_today(outcome: Outcome) -> list[dict[str, Any]]:
    rows: list[Any] = _metrics(outcome).to_dict("records")
    return [symptom._asdict() for symptom in find_symptoms(rows, _k_sel(outcome))]


def _k_sel(outcome: Outcome) -> int | None:
    """Users that a learned selector picks; None where nothing is picked."""
    config = outcome.config
    return config.selector.k_sel if config.reward.has_selector else None


def _training_panels(metrics: pd.DataFrame) -> str:
    pictures, absent = [], []
    for place, panel in enumerate(PANELS):
        picture = _draw_panel(panel, metrics, f"panel{place}")
        pictures.append(picture)
        if not picture:
            absent.append(f"{panel.title} ({', '.join(panel.left)})")
    note = f"Not recorded, or not of this method: {'; '.join(absent)}."
    return f"<div class='panels'>{''.join(pictures)}</div>" + (
        pages.note(note) if absent else ""
    )


def _world_model(run: RunDirectory, config: ExperimentConfig) -> str:
    """Its fit, its calibration and where it errs."""
    fit, body = _fit_epochs(run), []
    if fit is None:
        body.append(_not_recorded(run.world_model, "its method may need no such model"))
    pictures = [] if fit is None else [_draw_panel(FIT, fit, "fit")]
    if run.calibration.exists():
        calibration = _calibration(run, config)
        note = " ".join([_CALIBRATION, *alike(calibration)])
        body += [_measured(calibration), pages.note(note)]
        body += _additivity(calibration)
        pictures += _drawn(calibration_pictures(calibration), "calibration")
    else:
        body.append(_not_recorded(run.calibration, "the run is older, or had none"))
    return "".join(body) + f"<div class='panels'>{''.join(pictures)}</div>"


def _calibration(run: RunDirectory, config: ExperimentConfig) -> dict[str, Any]:
    """calibration.json, without what older runs have of variances nobody predicted."""
    calibration = _read_whole(run.calibration, _OF_CALIBRATION)
    if config.world_model.predicts_variance:
        return calibration
    of_variance = ("variance", "coverage", "z_score")
    for part in ("held_out", "true_matrix"):
        for name in of_variance:
            calibration[part].pop(name, None)
    return calibration


def _read_whole(file: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    """The object in a file of measurements.

    Raises:
      RunError: it cannot be read, or has not all of the names.
    """
    content = read_json(file)
    absent = [name for name in names if name not in content]
    if absent:
        raise RunError(
            f"{file}: has no {', '.join(absent)}; bring back a copy, or take it away"
        )
    return content


def _measured(calibration: Mapping[str, Any]) -> str:
    """The overall errors of both parts as a table."""
    rows = []
    for name, title in (
        ("held_out", "held-out rows"),
        ("true_matrix", "true matrix (analysis)"),
    ):
        part = calibration[name]
        fit, score = part.get("fit", {}), part.get("z_score", {})
        numbers = {
            "mean abs. error": fit.get("mae"),
            "bias": fit.get("bias"),
            "rank correlation": fit.get("rank_correlation"),
            "pairs ranked rightly": fit.get("pair_accuracy"),
            "z-score": score.get("mean"),
            "z-score, RMS": score.get("root_mean_square"),
        }
        counts = {"cells": f"{part['cells']:,} of {part['available']:,}"}
        rows.append({"measured on": title} | counts | {
            key: math.nan if value is None else value for key, value in numbers.items()
        })  # fmt: skip
    return pages.table(pd.DataFrame(rows))


def _additivity(calibration: Mapping[str, Any]) -> list[str]:
    """A sentence a table on how much of it is levels; none of an older run."""
    sentences = []
    for name, title in (
        ("prediction", "the world model's table"),
        ("true_matrix", "the true matrix (analysis)"),
    ):
        shares = calibration.get("variance_shares", {}).get(name, {})
        known = [(of, shares.get(of)) for of in ("users", "items", "interaction")]
        if all(share is not None for _, share in known):
            parts = ", ".join(f"{100 * share:.1f} % {of}" for of, share in known)
            sentences.append(pages.note(f"Variance of {title}: {parts}."))
    return sentences


def _estimates(run: RunDirectory) -> str:
    """What trained agents are paid, against the truth."""
    if not run.estimates.exists():
        return _not_recorded(
            run.estimates, "it is written behind the last epoch of agents that learn "
            "from estimates; the run is older, unfinished, or of another kind"
        )  # fmt: skip
    estimates = _read_whole(run.estimates, _OF_ESTIMATES)
    pictures = _drawn(estimate_pictures(estimates), "estimates")
    about = (
        f"After epoch {estimates['epoch']}, {estimates['users']:,} users played one "
        f"training episode each, with the agents of {_seeds(estimates['seeds'])}."
    )
    return (
        f"<p>{pages.esc(about)} {_ESTIMATES}</p>"
        f"{pages.table(estimate_table(estimates))}"
        f"<div class='panels'>{''.join(pictures)}</div>"
    )


def _drawn(pictures: Sequence[Picture], name: str) -> list[str]:
    return [
        pages.figure(picture.figure, f"{name}{place}", picture.caption)
        for place, picture in enumerate(pictures)
    ]


def _not_recorded(file: pathlib.Path, why: str) -> str:
    return (
        f"<p class='absent'>{pages.esc(file.name)}: {_ABSENT} ({pages.esc(why)}).</p>"
    )


def _costs(metrics: pd.DataFrame, record: Mapping[str, Any]) -> str:
    costs = costs_of(record, metrics)
    per_second = costs.transitions_per_second
    pace = "" if per_second is None else f", {per_second:,.0f} a second"
    facts = {
        "epochs, all sessions": _seconds(costs.run_seconds),
        "compilation, all sessions": _seconds(costs.compile_seconds),
    }
    if costs.transitions is not None:
        facts |= {
            "an epoch, median": _seconds(costs.epoch_seconds),
            "transitions": f"{costs.transitions:,.0f}{pace}",
        }
    if (shared := costs.side_by_side) > 1:
        facts["shared by"] = (
            f"up to {shared} runs in one program; an epoch is the share of this one, "
            "other seconds are of all"
        )
    for place, peak in (("host", costs.host_mib), ("device", costs.device_mib)):
        facts[f"peak memory, {place}"] = _ABSENT if peak is None else f"{peak:,.0f} MiB"
    return pages.pairs(facts)


def _seconds(value: float | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:.1f} s" if value < 120 else clock(float(value))


def _draw_panel(panel: Panel, metrics: pd.DataFrame, prefix: str) -> str:
    """A panel as SVG; empty where the run has none of its columns."""
    if not panel.columns(metrics):
        return ""
    figure = plots.new_figure(4.6, 3.0, panel.title)
    if figure is None:
        return ""
    axis = figure.subplots()
    draw_panel(axis, panel, metrics)
    if len(panel.columns(metrics)) > 1:
        legend_beneath(figure, axis)
    return pages.figure(figure, prefix, panel.reading)


def _score_figure(outcome: Outcome, published: PublishedScores) -> Any | None:
    figure = plots.new_figure(9.5, 4.0, "score")
    if figure is None:
        return None
    axis, config = figure.subplots(), outcome.config
    draw_score(axis, _metrics(outcome))
    curve = published.curve(config.method, config, outcome.truth)
    score = outcome.in_print(published)
    if curve is not None:
        label = "published (moving mean of 11)"
        draw_published_curve(axis, curve, label, COLOURS[1])
    elif not math.isnan(score):
        axis.axhline(score, color=COLOURS[1], ls=":", label="published mean")
    legend(axis)
    return figure


def _configuration(outcome: Outcome) -> str:
    changed = changed_fields(outcome.config)
    said = (
        pages.pairs(changed)
        if changed
        else "<p>Nothing is changed of the preset of this method and data set.</p>"
    )
    everything = pages.pairs(flatten(outcome.config))
    return (
        f"<p>Changed of the preset:</p>{said}" if changed else said
    ) + f"<details><summary>every field</summary>{everything}</details>"


def _provenance(record: Mapping[str, Any]) -> str:
    """The command is of the last session; what computed it, of those that trained."""
    sessions = sessions_that_trained(record)
    facts = {
        "seeds": ", ".join(map(str, record.get("seeds", []))),
        "status": record.get("status"),
        "device": each_once(map(_device, sessions)),
        "host": each_once(_listed(s.get("host")) for s in sessions),
        "earlier sessions": len(record.get("earlier_sessions", [])),
        "commit": each_once(str(s.get("commit") or "") for s in sessions),
        "started": sessions[0].get("started"),
        "ended": sessions[-1].get("ended"),
        "versions": each_once(_listed(s.get("versions")) for s in sessions),
    }
    known = {n: _ABSENT if v in (None, "") else v for n, v in facts.items()}
    command = " ".join(map(str, record.get("command", [])))
    return (
        f"<pre>{pages.esc(command)}</pre>"
        f"{pages.pairs(known)}"
        f"<details><summary>data, by SHA-256</summary>"
        f"{pages.pairs(record.get('data', {}))}</details>"
    )


def _device(session: Mapping[str, Any]) -> str:
    device = session.get("device") or {}
    known = (str(device.get(k, "")) for k in ("count", "platform", "kind"))
    return " ".join(known).strip()


def _listed(named: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (named or {}).items())


def _run_details(finished: FinishedRun) -> str:
    run, record = RunDirectory(finished.path), finished.record
    row = Row(finished.name, finished.config.method)
    outcome = Outcome(
        row, finished.config, finished.metrics, "", truth=finished.ground_truth
    )
    tables = [
        _measured(_calibration(run, finished.config))
        if run.calibration.exists()
        else _not_recorded(run.calibration, "the run is older, or had no world model"),
        pages.table(estimate_table(_read_whole(run.estimates, _OF_ESTIMATES)))
        if run.estimates.exists()
        else _not_recorded(run.estimates, "the run is older, or of another kind"),
    ]
    return (
        f"<details><summary>{pages.esc(outcome.row.name)}: symptoms, errors, costs, "
        f"configuration, provenance</summary>{_symptoms(outcome, record)}"
        f"{''.join(tables)}{_costs(_metrics(outcome), record)}"
        f"{_configuration(outcome)}{_provenance(record)}</details>"
    )


def _name(outcome: Outcome) -> str:
    dataset = outcome.config.dataset
    return f"{outcome.config.method} on {dataset.name}{' (TWIN)' * dataset.twin}"


def _metrics(outcome: Outcome) -> pd.DataFrame:
    assert outcome.metrics is not None
    return outcome.metrics


def _fit_epochs(run: RunDirectory) -> pd.DataFrame | None:
    """world_model.json as metrics of a single seed; None where a run has none."""
    if not run.world_model.exists():
        return None
    epochs = pd.DataFrame(read_json(run.world_model).get("epochs", [])).astype(float)
    return None if epochs.empty else epochs.assign(seed=0)
