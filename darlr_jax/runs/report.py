"""One self-contained page: what a run, or a group of runs, amounts to.

It refers to nothing outside itself, and a policy in its head forbids it to. All that
comes from files is escaped.
"""

from __future__ import annotations

import html
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from darlr_jax.config import flatten
from darlr_jax.runs import plots
from darlr_jax.runs.comparison import (
    Outcome,
    comparison_table,
    interval,
    outcomes_of,
)
from darlr_jax.runs.diagnostics import diagnose
from darlr_jax.runs.directory import RunDirectory, read_json
from darlr_jax.runs.fields import changed_fields
from darlr_jax.runs.figures import (
    COLOURS,
    draw_band,
    draw_plan,
    finish,
    legend,
    seed_curves,
)
from darlr_jax.runs.plans import Plan
from darlr_jax.runs.progress import clock
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import (
    ALL_USERS,
    SCORE,
    cell,
    epoch_mean,
    final_policy,
    last_quarter,
    mean_and_interval,
    published_score,
)
from darlr_jax.runs.statistics import Interval


class _Panel(NamedTuple):
    """Columns against the left and the right axis, and how to read them."""

    title: str
    reading: str
    left: tuple[str, ...]
    right: tuple[str, ...] = ()
    logarithmic: bool = False


_PANELS = (
    _Panel(
        "Length and penalty",
        "Sessions that get shorter while the penalty grows end too early.",
        ("NX_0_len_tra",),
        ("penalty",),
    ),
    _Panel(
        "Inflation and evaluation",
        "Inflation is how far the references' estimate lies above the user's own. If "
        "it grows and the true score does not, the selector games its reward.",
        (ALL_USERS,),
        ("inflation",),
    ),
    _Panel(
        "What is paid",
        "The estimate of a step, and the reward after penalty, bonus and shift.",
        ("estimate", "shaped_reward"),
        ("entropy_bonus",),
    ),
    _Panel(
        "Critics",
        "Value losses, logarithmic: a critic that diverges rises here.",
        ("recommender_value_loss", "selector_value_loss"),
        logarithmic=True,
    ),
    _Panel(
        "Entropy of the policies",
        "Nats. Near zero a policy has stopped trying anything else.",
        ("recommender_entropy",),
        ("selector_entropy",),
    ),
    _Panel(
        "Whom the selector picks",
        "Effective number of users picked, and the share of the picks that are among "
        "the k nearest users.",
        ("effective_users_picked",),
        ("knn_overlap",),
    ),
    _Panel(
        "Gains of the picks",
        "Similarity to the user and diversity among the picks, before their weights.",
        ("similarity",),
        ("diversity",),
    ),
    _Panel(
        "Dynamic uncertainty",
        "P'_U on first and on repeated visits of a cell.",
        ("uncertainty_first", "uncertainty_repeat"),
    ),
)
_WORLD_MODEL = _Panel(
    "World model",
    "Error on held-out feedback by epoch of its fitting; epoch 0 is before it.",
    ("held_out_mse", "held_out_mae"),
    ("held_out_pair_accuracy",),
)

_STYLE = """
:root { color: #1c2430; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; margin: 0; } h2 { margin-top: 2.6rem; font-size: 1.25rem;
  border-bottom: 1px solid #d8dee6; padding-bottom: .25rem; }
.sub { color: #5a6675; margin: .2rem 0 1.6rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #d8dee6; border-radius: .5rem; padding: .7rem 1rem; }
.card.main { background: #f2f6fb; border-color: #9db8d8; }
.card b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }
.card span { color: #5a6675; font-size: .85rem; display: block; }
.panels { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
figure { margin: 0; } figcaption { color: #5a6675; font-size: .85rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .82rem; }
.wide { overflow-x: auto; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #e6ebf1; text-align: left;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
td.note { white-space: normal; min-width: 14rem; }
td.value { white-space: normal; word-break: break-all; }
.alarm { color: #a63a00; } .fine { color: #1d6b44; }
ul.findings { list-style: none; padding: 0; } .findings b { margin-right: .4rem; }
.warning { background: #fff5ec; border-left: 4px solid #d55e00; padding: .5rem .9rem; }
pre { background: #f5f7fa; padding: .7rem; font-size: .82rem;
  white-space: pre-wrap; word-break: break-word; }
summary { cursor: pointer; color: #2a5b92; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def run_report(run_dir: str | os.PathLike[str], published: PublishedScores) -> str:
    """The page of one run.

    Raises:
      RunError: the run failed or is malformed.
    """
    path = pathlib.Path(run_dir)
    outcome = outcomes_of([path], None)[0]
    record = read_json(RunDirectory(path).run_file)
    config = outcome.config
    metrics = _metrics(outcome)
    epochs, wanted = int(metrics["epoch"].max()), config.training.epochs
    seeds = metrics["seed"].nunique()
    subtitle = f"{seeds} seed{'s' * (seeds > 1)}, {epochs} epochs. "
    if record.get("ground_truth"):
        subtitle += f"Evaluation pays: {record['ground_truth']}."
    warnings = [_plain(warning) for warning in record.get("warnings", [])]
    if epochs < wanted:
        warnings.insert(0, f"The run has {epochs} of {wanted} epochs.")
    body = [
        f"<h1>{_esc(_name(outcome))}</h1><p class='sub'>{_esc(subtitle)}</p>",
        *(f"<p class='warning'>{_esc(warning)}</p>" for warning in warnings),
        _cards(outcome, published),
        "<h2>Learning</h2>",
        _figure(_score_figure(outcome, published), "score", _LEARNING),
        "<h2>Diagnostics</h2>",
        _findings(metrics),
        _panels(metrics, _world_model(path)),
        "<h2>Configuration</h2>",
        _configuration(outcome),
        "<h2>Provenance</h2>",
        _provenance(record),
    ]
    return _page(_name(outcome), body)


def results_report(
    title: str,
    run_dirs: Sequence[str | os.PathLike[str]],
    published: PublishedScores,
    against: str | None,
) -> str:
    """The page of a group of runs on one data set.

    Args:
      title: of the page.
      run_dirs: the runs; their names are the rows.
      published: what stands beside them.
      against: the name of the run that the others are paired with.

    Raises:
      RunError: a run failed or is malformed.
    """
    outcomes = outcomes_of(run_dirs, against)
    dataset = outcomes[0].config.dataset.name
    rows = tuple(outcome.row for outcome in outcomes)
    plan = Plan(title, dataset, title, "scores", "", rows, ())
    scores = draw_plan(plan, outcomes, published, "scores")
    curves = draw_plan(plan._replace(figure="curves"), outcomes, published, "curves")
    table = comparison_table(dataset, outcomes, published)
    body = [
        f"<h1>{_esc(title)}</h1>",
        f"<p class='sub'>{len(outcomes)} runs, beside the published ones.</p>",
        _figure(scores, "scores", "Mean over all epochs of NX_0 R_tra, as published."),
        _figure(curves, "curves", _COMPARED),
        "<h2>Table</h2>",
        _table(table),
        f"<p class='sub'>{_esc(_LEGEND)}</p>",
        "<h2>Runs</h2>",
        *(
            _run_details(outcome, run)
            for outcome, run in zip(outcomes, run_dirs, strict=True)
        ),
    ]
    return _page(title, body)


_LEARNING = (
    "Band: range of the seeds. Users drawn: 100 an epoch, as published; all users: "
    "each user once with common random numbers, so that only policies move the curve."
)
_COMPARED = (
    "Left: means over seeds. Right: differences between runs of one seed, which "
    "met the same users with the same random numbers."
)
_LEGEND = (
    "[ ]: 95 % bootstrap interval over seeds; it is too narrow for few seeds, so half "
    "of Student's interval, ± (t), stands beside it. difference: all users, paired by "
    "seed, to the run named under against."
)


# --- parts ----------------------------------------------------------------------------


def _cards(outcome: Outcome, published: PublishedScores) -> str:
    metrics = _metrics(outcome)
    score = published_score(metrics)
    spread = mean_and_interval(score)[1]
    student = "" if math.isnan(spread) else f"; ± {spread:.2f} by Student's t"
    first = f"NX_0 R_tra, mean over epochs{student}"
    cards = [_card(interval(score), first, "card main")]
    config = outcome.config
    window = config.environment.exit_window
    found = published.find(config.dataset.name, config.method, window)
    if found is not None and not config.dataset.twin:
        difference = float(score.mean()) - found.score
        cards.append(
            _card(
                found.score, f"published (one seed); ours is {difference:+.2f} from it"
            )
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
        f"<span>{_esc(ends)}</span><span>{_esc(label)}</span></div>"
    )


def _findings(metrics: pd.DataFrame) -> str:
    items = []
    for finding in diagnose(metrics):
        kind, mark = ("alarm", "look: ") if finding.alarm else ("fine", "no sign of ")
        items.append(
            f"<li><b class='{kind}'>{mark}{_esc(finding.name)}</b>"
            f"{_esc(finding.text)}</li>"
        )
    return f"<ul class='findings'>{''.join(items)}</ul>"


def _panels(metrics: pd.DataFrame, world_model: pd.DataFrame | None) -> str:
    pictures = [
        _draw_panel(panel, metrics, place) for place, panel in enumerate(_PANELS)
    ]
    if world_model is not None:
        pictures.append(_draw_panel(_WORLD_MODEL, world_model, len(_PANELS)))
    return f"<div class='panels'>{''.join(pictures)}</div>"


def _draw_panel(panel: _Panel, metrics: pd.DataFrame, place: int) -> str:
    """A panel as SVG; empty where the run has none of its columns."""
    left = [name for name in panel.left if name in metrics.columns]
    right = [name for name in panel.right if name in metrics.columns]
    if not left:
        return ""
    figure = plots.new_figure(4.6, 3.0, panel.title)
    if figure is None:
        return ""
    axis = figure.subplots()
    for number, name in enumerate(left):
        draw_band(axis, seed_curves(metrics, name), _words(name), COLOURS[number])
    finish(axis, panel.title, "epoch", _words(left[0]) if len(left) == 1 else "")
    if panel.logarithmic:
        axis.set_yscale("log")
    if right:
        other = axis.twinx()
        for number, name in enumerate(right, start=len(left)):
            draw_band(other, seed_curves(metrics, name), _words(name), COLOURS[number])
        other.set_ylabel(_words(right[0]), color=COLOURS[len(left)])
        other.spines["top"].set_visible(False)
    if len(left) > 1:
        legend(axis)
    return _figure(figure, f"panel{place}", panel.reading)


def _words(column: str) -> str:
    """The name of a column as a label of a picture."""
    return {"NX_0_len_tra": "length, NX_0", ALL_USERS: "R_tra, all users"}.get(
        column, column.removeprefix("held_out_").replace("_", " ")
    )


def _score_figure(outcome: Outcome, published: PublishedScores) -> Any | None:
    figure = plots.new_figure(9.5, 4.0, "score")
    if figure is None:
        return None
    axis, metrics = figure.subplots(), _metrics(outcome)
    draw_band(axis, seed_curves(metrics, SCORE), "users drawn", COLOURS[5])
    if ALL_USERS in metrics.columns:
        draw_band(axis, seed_curves(metrics, ALL_USERS), "all users", COLOURS[0])
    config = outcome.config
    where = (config.dataset.name, config.method, config.environment.exit_window)
    if not config.dataset.twin:
        curve, found = published.curve(*where), published.find(*where)
        if curve is not None:
            smooth = curve.rolling(11, center=True, min_periods=1).mean()
            label = "published (moving mean of 11)"
            axis.plot(smooth.index, smooth, color=COLOURS[1], ls=":", label=label)
        elif found is not None:
            axis.axhline(found.score, color=COLOURS[1], ls=":", label="published mean")
    finish(axis, "True reward of an episode", "epoch", "R_tra, NX_0")
    legend(axis)
    return figure


def _configuration(outcome: Outcome) -> str:
    changed = changed_fields(outcome.config)
    said = (
        _pairs(changed)
        if changed
        else "<p>Nothing is changed of the preset of this method and data set.</p>"
    )
    everything = _pairs(flatten(outcome.config))
    return (
        f"<p>Changed of the preset:</p>{said}" if changed else said
    ) + f"<details><summary>every field</summary>{everything}</details>"


def _provenance(record: Mapping[str, Any]) -> str:
    device = record.get("device") or {}
    seconds = record.get("run_seconds")
    facts = {
        "seeds": ", ".join(map(str, record.get("seeds", []))),
        "status": record.get("status"),
        "device": " ".join(
            str(device.get(k, "")) for k in ("count", "platform", "kind")
        ),
        "training": None if seconds is None else clock(float(seconds)),
        "compilation": None
        if (c := record.get("compile_seconds")) is None
        else f"{c:.1f} s",
        "commit": record.get("commit"),
        "started": record.get("started"),
        "ended": record.get("ended"),
        "versions": ", ".join(
            f"{k} {v}" for k, v in record.get("versions", {}).items()
        ),
    }
    command = " ".join(map(str, record.get("command", [])))
    return (
        f"<pre>{_esc(command)}</pre>"
        f"{_pairs({name: value for name, value in facts.items() if value})}"
        f"<details><summary>data, by SHA-256</summary>"
        f"{_pairs(record.get('data', {}))}</details>"
    )


def _run_details(outcome: Outcome, run_dir: str | os.PathLike[str]) -> str:
    record = read_json(RunDirectory(run_dir).run_file)
    return (
        f"<details><summary>{_esc(outcome.row.name)}: diagnostics, configuration, "
        f"provenance</summary>{_findings(_metrics(outcome))}{_configuration(outcome)}"
        f"{_provenance(record)}</details>"
    )


# --- HTML -----------------------------------------------------------------------------


def _page(title: str, body: Iterable[str]) -> str:
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_esc(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _figure(figure: Any | None, name: str, caption: str) -> str:
    if figure is None:
        return "<p class='warning'>No picture: matplotlib is not installed.</p>"
    svg = plots.to_svg(figure, name)
    return f"<figure>{svg}<figcaption>{_esc(caption)}</figcaption></figure>"


def _table(table: pd.DataFrame) -> str:
    header = "".join(f"<th>{_esc(str(name))}</th>" for name in table.columns)
    rows = (
        "".join(
            f"<td{' class=note' * (name == 'what')}>{_esc(cell(value, 2))}</td>"
            for name, value in zip(table.columns, row, strict=True)
        )
        for row in table.itertuples(index=False)
    )
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{header}</tr>{lines}</table></div>"


def _pairs(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_esc(str(name))}</td>"
        f"<td class='value'>{_esc(_plain(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _plain(value: Any) -> str:
    """A value of JSON in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {part}" for name, part in value.items())
    return str(value)


def _esc(text: str) -> str:
    return html.escape(text, quote=True)


def _name(outcome: Outcome) -> str:
    dataset = outcome.config.dataset
    return f"{outcome.config.method} on {dataset.name}{' (TWIN)' * dataset.twin}"


def _metrics(outcome: Outcome) -> pd.DataFrame:
    assert outcome.metrics is not None
    return outcome.metrics


def _world_model(path: pathlib.Path) -> pd.DataFrame | None:
    """world_model.json as metrics of a single seed; None where a run has none."""
    file = path / "world_model.json"
    if not file.exists():
        return None
    epochs = pd.DataFrame(read_json(file).get("epochs", [])).astype(float)
    return None if epochs.empty else epochs.assign(seed=0)
