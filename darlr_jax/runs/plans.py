"""Which runs make which table or figure: `experiments.reproduce` as data.

A plan is a list of rows; a row is a method and what it changes of its preset. Rows of
different plans that make the same changes share one run directory, so that DARLR of the
main table is not run again for the ablation. (`roler` names all four of its switches in
every row, so that the one that is ROLeR as it is has a directory of its own.)

A row whose changes make no difference on a data set (entropy on Coat, where no order is
in use) is left out, and the plan says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from darlr_jax.config import (
    ConfigError,
    ExperimentConfig,
    nearest_name,
    replace,
    validate,
)
from darlr_jax.methods import METHODS
from darlr_jax.presets import preset
from darlr_jax.runs.fields import fields_read


class Row(NamedTuple):
    """One run of all seeds."""

    name: str  # how --rows and the table call it; without blanks and commas
    method: str
    changes: Mapping[str, Any] = {}  # dotted field -> value, beside the preset
    note: str = ""  # what the row asks, a few words
    against: str | None = None  # the row that it is compared with, seed by seed
    panel: str = ""  # of a figure of lines: which panel,
    series: str = ""  # which line,
    x: float | None = None  # and where on the axis
    switches: tuple[str, ...] = ()  # of a plan of all combinations: what each is set to

    @property
    def published_as(self) -> str | None:
        """The method whose published score may stand beside: only an unchanged one's.

        The exit window is part of a published run, not a change of it.
        """
        changed = set(self.changes) - {"environment.exit_window"}
        return None if changed else self.method


class Plan(NamedTuple):
    """One table, and how it is drawn."""

    table: str
    dataset: str
    title: str
    figure: str  # scores, curves or lines
    x_label: str  # of a figure of lines; the panel's name where it is empty
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]  # rows that make no difference here
    fixed: frozenset[str] = frozenset()  # fields of its axis, and of rows left out
    total: int = 0  # how many rows there are, where some may have been chosen
    missing: tuple[str, ...] = ()  # rows that a table of kept runs lacks

    def row(self, name: str) -> Row:
        """The row called `name`."""
        return next(row for row in self.rows if row.name == name)


class _Draft(NamedTuple):
    title: str
    rows: Callable[[str], Iterable[Row]]  # by data set
    figure: str = "scores"
    x_label: str = ""


def make_plan(table: str, dataset: str) -> Plan:
    """The plan of a table on a data set.

    Raises:
      ConfigError: no such table or data set, or one about nothing (the exit rule where
        nobody leaves early).
    """
    if table not in _DRAFTS:
        raise ConfigError(
            f"--table={table}: no such table; {nearest_name(table, _DRAFTS)}"
        )
    draft = _DRAFTS[table]
    drafted = tuple(draft.rows(dataset))
    rows, left_out = _distinct(drafted, dataset)
    fixed = (row.changes for row in drafted if row.x is not None or row not in rows)
    title = f"{draft.title}, {dataset}"
    return Plan(
        *(table, dataset, title, draft.figure, draft.x_label, rows, left_out),
        fixed=frozenset().union(*fixed),
        total=len(rows),
    )


def choose_rows(plan: Plan, names: Iterable[str]) -> Plan:
    """The plan with the named rows alone, in its own order.

    Raises:
      ConfigError: a name that it does not have.
    """
    names = list(names)
    known = {row.name for row in plan.rows}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--rows={name}: {plan.table} on {plan.dataset} has no such row; "
                f"{nearest_name(name, known)}"
            )
    return plan._replace(rows=tuple(row for row in plan.rows if row.name in names))


def row_config(
    row: Row, dataset: str, overrides: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """The configuration of a row; `overrides` of all rows come before its changes.

    Raises:
      ConfigError: a field or value that cannot be.
    """
    config = replace(preset(dataset, row.method), dict(overrides or {}))
    config = replace(config, dict(row.changes))
    validate(config)
    return config


def _distinct(
    rows: Iterable[Row], dataset: str
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows that differ from all before them, and the names of the others.

    Of a figure of lines, equal rows are drawn at different places: they all stay.
    """
    seen: dict[tuple, str] = {}
    kept, left_out = [], []
    for row in rows:
        config = row_config(row, dataset)
        identity = tuple(sorted(fields_read(config).items(), key=lambda item: item[0]))
        first = seen.setdefault(identity, row.name)
        if first != row.name and row.x is None:
            left_out.append(f"{row.name} is {first}")
        else:
            kept.append(row)
    return tuple(kept), tuple(left_out)


# --- the rows -------------------------------------------------------------------------


# Extensions: they depart from the published protocol, and no score is chosen by. World
# models are those of `experiments.tune_world_model`, which sees the training log alone.
_MASKED: Mapping[str, Any] = {"recommender.mask_used_items": True}
# Where nobody leaves early and nothing repeats, later items pay whatever is shown now.
_MYOPIC: Mapping[str, Any] = {**_MASKED, "recommender.discount": 0.0}
_CRITICS: Mapping[str, Any] = {
    "recommender.critic_target": "mean_reward",
    "selector.critic_target": "mean_reward",
}
_WORLD_MODELS: dict[str, Mapping[str, Any]] = {
    "coat": {
        "world_model.negative_weight": 0.0,
        "world_model.weight_decay": 10.0,
        "world_model.epochs": 8,
    },
}
# The recommender's state is a constant: nothing of a user's session can enter it.
_BLIND: Mapping[str, Any] = {"tracker.kind": "none"}
# It holds more of the session than the last three recommendations.
_WINDOW: Mapping[str, Any] = {"tracker.window": 10}
# Where nobody leaves early a constant is worth as much whatever is recommended. This is
# how far DARLR's selected users answer above the others in the first epochs.
_LEVELS: dict[str, Mapping[str, Any]] = {"coat": {"recommender.reward_offset": 0.6}}


def _main(dataset: str) -> Iterable[Row]:
    """Every method, against ROLeR, the strongest published one; then the extension."""
    by_tags = preset(dataset, "random").environment.exit_rule == "tags"
    for name, method in METHODS.items():
        if method.needs_tags and not by_tags:
            continue
        against = None if name == "roler" else "roler"
        yield Row(name, name, note=method.summary, against=against)
    if dataset in _WORLD_MODELS:
        changes = {**_WORLD_MODELS[dataset], **_MYOPIC}
        note = "extension: world model chosen on the log; no repeats, discount 0"
        yield Row("darlr_tuned", "darlr", changes, note, against="roler")


def _extensions(dataset: str) -> Iterable[Row]:
    """What extensions do to DARLR, and to methods without a selector: who gains?"""
    extensions = {
        "masked": ("no repeats in training", _MASKED),
        "critics": ("critics that need not know how many steps are left", _CRITICS),
        "blind": ("a policy that sees nothing of the session", _BLIND),
        "window": ("a policy that sees the last ten recommendations", _WINDOW),
    }
    if dataset in _WORLD_MODELS:
        model = _WORLD_MODELS[dataset]
        extensions["myopic"] = ("no repeats in training, discount 0", _MYOPIC)
        extensions["world_model"] = ("world model chosen on the log", model)
        extensions["all"] = (
            "world model chosen on the log, no repeats, discount 0",
            {**model, **_MYOPIC},
        )
    if dataset in _LEVELS:
        level = _LEVELS[dataset]
        offset = f"{level['recommender.reward_offset']} added to all that is learned"
        extensions["level"] = (offset, level)
    for method in ("darlr", "darlr_nearest", "roler", "population_mean", "mbpo"):
        yield Row(method, method, note=METHODS[method].summary)
        read = fields_read(preset(dataset, method))
        for name, (note, extension) in extensions.items():
            changes = {n: v for n, v in extension.items() if n in read}
            yield Row(f"{method}+{name}", method, changes, note, against=method)


# A frozen estimate without references. λ_U is of the shift as well, so it is 0 here.
_NO_PENALTY: Mapping[str, Any] = {
    "reward.uncertainty": "none",
    "reward.references": "none",
    "reward.lambda_u": 0.0,
}
# DARLR with one thing changed: name, changes or the method's name, note.
_ABLATION: tuple[tuple[str, Mapping[str, Any] | str, str], ...] = (
    ("nearest", "darlr_nearest", "the k nearest users instead of the selector"),
    ("random_references", "darlr_random", "random users instead of the selector"),
    ("self", "darlr_self", "the user herself as only reference"),
    (
        "no_selector",
        {
            "reward.estimate": "world_model",
            "reward.uncertainty": "ensemble_variance",
            "reward.references": "none",
        },
        "own r̂ and the ensemble's variance, same tracker",
    ),
    (
        "population_mean",
        {
            "reward.estimate": "population_mean",
            **_NO_PENALTY,
        },
        "the mean prediction over users, same tracker",
    ),
    (
        "user_centred",
        {
            "reward.estimate": "user_centred",
            **_NO_PENALTY,
        },
        "the prediction without the user's level, same tracker",
    ),
    (
        "no_dynamic_reward",
        {"reward.estimate": "world_model"},
        "own r̂ is paid, of which P'_U is 0",
    ),
    ("no_uncertainty", {"reward.lambda_u": 0.0}, "λ_U P'_U left out"),
    (
        "static_uncertainty",
        {"reward.uncertainty": "ensemble_variance"},
        "P_U instead of P'_U",
    ),
    (
        "no_entropy",
        {"reward.lambda_e": 0.0, "reward.entropy_orders": ()},
        "λ_E P_E left out",
    ),
    ("no_similarity", {"selector.lambda_s": 0.0}, "λ_s = 0"),
    ("no_diversity", {"selector.lambda_d": 0.0}, "λ_d = 0"),
    (
        "centred_intrinsic",
        {"selector.reward_estimate": "item_centred"},
        "r̂ in r_sel less the item's mean",
    ),
    ("no_intrinsic_reward", {"selector.reward_estimate": "absent"}, "r̂ not in r_sel"),
    ("item_in_state", {"selector.item_in_state": True}, "the selector sees the item"),
    (
        "masked_training",
        {"recommender.mask_used_items": True},
        "no repeats in training: departs from the protocol",
    ),
    ("warm_start", {"training.warm_up_epochs": 10}, "10 epochs on ROLeR's reward"),
    ("overwrite", {"reward.overwrite": True}, "references read latest estimates"),
)


def _ablation(dataset: str) -> Iterable[Row]:
    del dataset
    yield Row("darlr", "darlr", note=METHODS["darlr"].summary)
    for name, what, note in _ABLATION:
        if isinstance(what, str):
            yield Row(name, what, note=note, against="darlr")
        else:
            yield Row(name, "darlr", what, note, against="darlr")


# Every [R] of docs/method.md that is a field: all the other answers. Those without a
# field (without replacement, order inside a step, the store of estimates, the shift)
# have no alternative in the code.
_READINGS: dict[str, tuple[Any, ...]] = {
    "selector.reward_estimate": ("item_centred", "user_centred", "absent"),
    "selector.item_in_state": (True,),
    "selector.feedback": ("logged", "predicted", "embedding"),
    "selector.center_feedback": (True,),
    "selector.critic_target": ("mean_reward",),
    "selector.normalize_advantage": (True,),
    "selector.probability_floor": (0.0,),
    "selector.discount": (0.5, 1.0),
    "selector.window": (5, 10),
    "recommender.critic_target": ("mean_reward",),
    "recommender.normalize_advantage": (True,),
    "recommender.value_passes": ("separate",),
    "recommender.mask_used_items": (True,),
    "recommender.probability_floor": (0.0,),
    "tracker.readout": ("newest",),
    "tracker.kind": ("average",),
    "tracker.fresh_items": (False,),
    "tracker.window": (5, 10),
    "reward.base": ("world_model", "neighbours"),
    "reward.overwrite": (True,),
    "reward.denominator_floor": (0.1,),
    "training.warm_up_epochs": (10,),
}


def _readings(dataset: str) -> Iterable[Row]:
    yield Row("darlr", "darlr", note="the readings of docs/method.md")
    for field, values in _READINGS.items():
        for value in values:
            yield Row(f"{field}={value}", "darlr", {field: value}, against="darlr")
    # r_s + r_d is at most 3: with this floor the denominator is constant, in effect 1.
    weight = preset(dataset, "darlr").reward.lambda_u
    changes = {"reward.denominator_floor": 3.0, "reward.lambda_u": 3.0 * weight}
    note = "P'_U without its denominator"
    yield Row("constant_denominator", "darlr", changes, note, against="darlr")


# The ranges that the paper searched, and wider.
_K_SEL = {
    "coat": (2, 5, 10, 20, 30, 40, 80, 160),
    "kuairec": (2, 5, 10, 20, 30, 40, 80, 160),
    "yahoo": (5, 10, 25, 50, 75, 100, 200),
    "kuairand": (10, 50, 100, 150, 200, 400),
}
_K_SEL_ELSEWHERE = (2, 5, 10, 20, 40)  # ours
_LAMBDAS: dict[str, tuple[float, ...]] = {
    "selector.lambda_s": (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0),
    "selector.lambda_d": (0.0, 0.01, 0.05, 0.1, 0.5, 2.0, 10.0),
    "reward.lambda_u": (0.0, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
    "reward.lambda_e": (0.0, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
}


# Of a weight of 0 the ablation's run leaves out what it weighs, too.
_LEFT_OUT: dict[str, Mapping[str, Any]] = {
    "reward.lambda_e": {"reward.lambda_e": 0.0, "reward.entropy_orders": ()},
}


def _sensitivity(dataset: str) -> Iterable[Row]:
    base = preset(dataset, "darlr")
    values: dict[str, tuple[float, ...]] = {
        "selector.k_sel": _K_SEL.get(dataset, _K_SEL_ELSEWHERE)
    }
    values |= _LAMBDAS
    defaults = fields_read(base)
    yield Row("darlr", "darlr", note="the preset")
    for field, candidates in values.items():
        if field not in defaults:
            continue  # inert here; test_plans.py says where
        for value in sorted({*candidates, defaults[field]}):
            changes: Mapping[str, Any] = {field: value}
            if value == defaults[field]:
                changes = {}
            elif value == 0.0:
                changes = _LEFT_OUT.get(field, changes)
            row = Row(f"{field}={value:g}", "darlr", changes, against="darlr")
            yield row._replace(panel=field, series="darlr", x=value)


def _curves(dataset: str) -> Iterable[Row]:
    """The paper's Figure 1: does a reward that moves teach more than a frozen one?"""
    del dataset
    frozen = {"reward.estimate": "world_model", **_NO_PENALTY}
    unpenalised = {"reward.lambda_u": 0.0}
    yield Row("darlr", "darlr", note="dynamic reward, dynamic uncertainty")
    rows = (
        Row("dynamic_reward_only", "darlr", unpenalised),
        Row("nearest_frozen", "darlr_nearest", unpenalised),
        Row("own_frozen", "darlr", frozen),
        Row("roler", "roler"),
        Row("dorl", "dorl"),
    )
    notes = (
        "selected references, no penalty",
        "the k nearest users, no penalty",
        "the world model's reward, no penalty",
        "",
        "",
    )
    for row, note in zip(rows, notes, strict=True):
        summary = note or METHODS[row.method].summary
        yield row._replace(note=summary, against="darlr")


_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
# The first is the control.
_REFERENCES = ("darlr_self", "darlr", "darlr_nearest", "darlr_random")


def _thinned(unit: str) -> Iterable[Row]:
    """References against the user herself as only one, on less and less of the log."""
    for share in _SHARES:
        thin = {"dataset.thinning.share": share, "dataset.thinning.unit": unit}
        control = f"{_REFERENCES[0]}@{share:.0%}"
        for method in _REFERENCES:
            name, changes = f"{method}@{share:.0%}", thin if share < 1 else {}
            against = None if method == _REFERENCES[0] else control
            row = Row(
                name, method, changes, f"{share:.0%} of the log's {unit}", against
            )
            yield row._replace(series=method, x=100 * share)


_EXIT_METHODS = ("mbpo", "mopo", "dorl", "roler", "darlr")


def _exit_rule(dataset: str) -> Iterable[Row]:
    environment = preset(dataset, "darlr").environment
    if environment.exit_rule == "none" or (
        environment.exit_rule == "distance" and not environment.exit_threshold
    ):
        raise ConfigError(
            f"--table=exit_rule: on {dataset} nobody leaves early (protocol 3.4); use "
            "kuairec, kuairand, movielens or synthetic"
        )
    for window in range(1, 11):
        for method in _EXIT_METHODS:
            same = window == environment.exit_window  # as in the main table
            changes = {} if same else {"environment.exit_window": window}
            against = None if method == "mbpo" else f"mbpo@N={window}"
            row = Row(f"{method}@N={window}", method, changes, against=against)
            yield row._replace(series=method, x=float(window))


def _roler(dataset: str) -> Iterable[Row]:
    """ROLeR's printed gain taken apart: four switches, all combinations.

    Which table is paid, which tracker reads the state, whether its item vectors are
    drawn anew, and whether the ensemble's variance is a penalty, weighted as DORL's.
    """
    penalty = {
        "reward.uncertainty": "ensemble_variance",
        "reward.lambda_u": preset(dataset, "dorl").reward.lambda_u,
    }
    switches: tuple[dict[str, dict[str, Any]], ...] = (
        {"neighbours": {}, "own": {"reward.estimate": "world_model"}},
        {kind: {"tracker.kind": kind} for kind in ("transformer", "average")},
        {
            "drawn": {"tracker.fresh_items": True},
            "kept": {"tracker.fresh_items": False},
        },
        {"plain": {"reward.uncertainty": "none"}, "penalised": penalty},
    )
    first = None
    for choice in itertools.product(*(switch.items() for switch in switches)):
        options = tuple(option for option, _ in choice)
        name = "+".join(options)
        changes = {k: value for _, part in choice for k, value in part.items()}
        yield Row(name, "roler", changes, against=first, switches=options)
        first = first or name


_DRAFTS: dict[str, _Draft] = {
    "main": _Draft("Main table", _main),
    "ablation": _Draft("Ablation of DARLR", _ablation),
    "readings": _Draft("Readings of the paper", _readings),
    "sensitivity": _Draft("Sensitivity of DARLR", _sensitivity, "lines"),
    "curves": _Draft("Dynamic and frozen reward", _curves, "curves"),
    "density": _Draft(
        "Rows of the log left out at random",
        lambda dataset: _thinned("rows"),
        *("lines", "rows kept (%)"),
    ),
    "sparsity": _Draft(
        "Users of the log left out at random",
        lambda dataset: _thinned("users"),
        *("lines", "users kept (%)"),
    ),
    "exit_rule": _Draft("Exit windows", _exit_rule, "lines", "exit window N"),
    "roler": _Draft("ROLeR taken apart", _roler),
    "extensions": _Draft("Extensions of the protocol", _extensions),
}
TABLES = tuple(_DRAFTS)
