"""symptoms.py: worked histories, each just above and just below what is a symptom."""

from __future__ import annotations

import re

import numpy as np
import pytest

from darlr_jax import config as config_lib
from darlr_jax.runs import symptoms as module
from darlr_jax.runs.symptoms import Rule, Watch, find_symptoms

HEALTHY = {
    "recommender_value_loss": 50.0, "selector_value_loss": 20.0,
    "recommender_explained_variance": 0.8, "selector_explained_variance": 0.8,
    "recommender_entropy": 1.0, "selector_entropy": 3.0,
    "effective_users_picked": 90.0, "inflation": 0.1, "estimate": 2.0, "penalty": 0.2,
    "FB_len_tra": 20.0, "NX_0_R_tra": 70.0, "NX_0_all_users_R_tra": 71.0,
}  # fmt: skip
K_SEL = 15


def history(epochs=30, seed=0, **columns):
    """Rows of a healthy run but for `columns`: name -> a value an epoch."""
    rows = []
    for n in range(epochs):
        row = {"seed": seed, "epoch": n + 1, **HEALTHY}
        rows.append(row | {name: values[n] for name, values in columns.items()})
    return rows


def found(rows, k_sel=K_SEL):
    return [
        (symptom.rule, symptom.seed, symptom.epoch)
        for symptom in find_symptoms(rows, k_sel)
    ]


def then(before, after, at, epochs=30):
    """`before` up to the epoch `at`, `after` from there on."""
    return [before if n + 1 < at else after for n in range(epochs)]


def test_a_healthy_run_has_none():
    assert found(history()) == []


@pytest.mark.parametrize("agent", ["recommender", "selector"])
def test_a_critic_diverges(agent):
    name = f"{agent}_value_loss"
    rule = f"diverging critic ({agent})"
    loss = then(40.0, 4.0, 5)
    assert found(history(**{name: loss[:14] + [40.1] * 16})) == [(rule, 0, 19)]
    assert found(history(**{name: loss[:14] + [39.9] * 16})) == []
    spike = [*loss[:14], *[400.0] * 4, *loss[18:]]  # of fewer epochs than it takes
    assert found(history(**{name: spike})) == []


@pytest.mark.parametrize("agent", ["recommender", "selector"])
def test_a_critic_is_blind(agent):
    name, rule = f"{agent}_explained_variance", f"blind critic ({agent})"
    assert found(history(**{name: [0.24] * 30})) == [(rule, 0, 10)]  # time to learn
    assert found(history(**{name: [0.26] * 30})) == []
    assert found(history(**{name: then(0.0, 0.26, 10)})) == []
    assert found(history(**{name: then(0.8, -1.0, 21)})) == [(rule, 0, 25)]


def test_a_value_loss_near_zero_is_no_yardstick():
    """1e-9 to 1e-3 is nothing beside the 1 of the first epoch."""
    loss = [1.0, *[1e-9] * 9, *[1e-3] * 20]
    assert found(history(recommender_value_loss=loss)) == []


@pytest.mark.parametrize("agent", ["recommender", "selector"])
def test_a_policy_collapses(agent):
    name, rule = f"{agent}_entropy", f"collapsed policy ({agent})"
    assert found(history(**{name: then(1.0, 0.009, 10)})) == [(rule, 0, 14)]
    assert found(history(**{name: then(1.0, 0.011, 10)})) == []
    assert found(history(**{name: then(1.0, -1e-8, 10)})) == [(rule, 0, 14)]


def test_a_selection_collapses():
    users = "effective_users_picked"
    few = history(**{users: then(240.0, 22.4, 10)})
    assert found(few) == [("collapsed selection", 0, 14)]
    assert found(few, k_sel=14) == []  # 22.4 is more than 1.5 times 14
    assert found(few, k_sel=None) == []  # nothing is learned about whom to pick
    assert found(history(**{users: then(40.0, 22.0, 10)})) == []  # always so few


def test_episodes_end_early():
    """Means of five epochs: length 20 -> 15.8 where the penalty is 0.2 -> 0.25."""
    length, penalty = then(20.0, 15.8, 10), then(0.2, 0.25, 10)
    rows = history(FB_len_tra=length, penalty=penalty)
    assert found(rows) == [("early termination", 0, 14)]
    assert found(history(FB_len_tra=length)) == []  # the penalty is what it was
    assert found(history(penalty=penalty)) == []
    longer = then(20.0, 16.2, 10)
    assert found(history(FB_len_tra=longer, penalty=penalty)) == []
    free = [0.0] * 30
    assert found(history(FB_len_tra=length, penalty=free)) == []


SCORE = "NX_0_all_users_R_tra"


def test_a_selector_hacks_its_reward():
    """Inflation 0.1 -> 0.25 with an estimate of 2, the score stays at 71."""
    inflation = [0.1, *[0.25] * 29]
    rule = "reward hacking (selector)"
    assert found(history(inflation=inflation)) == [(rule, 0, 10)]
    assert found(history(inflation=[0.1, *[0.19] * 29])) == []  # not twice as much
    assert found(history(inflation=[0.01, *[0.1] * 29])) == []  # less than 5 % of 2
    better = then(70.0, 72.0, 6)
    assert found(history(inflation=inflation, **{SCORE: better})) == []
    later = then(70.0, 70.5, 6)  # less than 1 % better
    assert found(history(inflation=inflation, **{SCORE: later})) == [(rule, 0, 10)]
    assert found(history(9, inflation=inflation)) == []  # too early to tell


def test_without_an_evaluation_of_all_users_that_of_the_drawn_ones_decides():
    rows = history(inflation=[0.1, *[0.25] * 29], NX_0_R_tra=then(70.0, 72.0, 6))
    assert len(found(rows)) == 1
    for row in rows:
        del row[SCORE]
    assert found(rows) == []


def test_what_a_method_does_not_measure_is_not_judged():
    rows = [
        {"seed": 0, "epoch": n + 1, "recommender_entropy": 0.0, "NX_0_R_tra": 70.0}
        for n in range(10)
    ]
    assert found(rows) == [("collapsed policy (recommender)", 0, 5)]


def test_what_is_not_a_number_is_no_symptom():
    nan = [np.nan] * 30
    for name in HEALTHY:
        assert found(history(**{name: nan})) == []


def test_each_seed_is_judged_for_itself_and_once():
    rows = [
        *history(seed=3, selector_entropy=then(1.0, 0.0, 20)),
        *history(seed=1, selector_entropy=then(1.0, 0.0, 10)),
    ]
    rule = "collapsed policy (selector)"
    assert found(rows) == [(rule, 1, 14), (rule, 3, 24)]


def test_later_epochs_change_nothing_of_what_was_found():
    """What a run says when it goes on is what it would have said."""
    rng = np.random.default_rng(0)
    walks = {
        name: np.abs(value * np.exp(np.cumsum(rng.normal(0, 0.6, 60))))
        for name, value in HEALTHY.items()
    }
    rows = history(60, **walks)
    whole = find_symptoms(rows, K_SEL)
    assert len(whole) >= 4
    watch, so_far = Watch(K_SEL), []
    for epoch, row in enumerate(rows, start=1):
        so_far += watch.look([row])
        assert so_far == [s for s in whole if s.epoch <= epoch]


def test_what_is_said():
    (symptom,) = find_symptoms(history(inflation=[0.1, *[0.25] * 29]), K_SEL)
    assert symptom.seen == "inflation 0.1 -> 0.25, NX_0_all_users_R_tra 71 -> 71"
    (symptom,) = find_symptoms(
        history(effective_users_picked=then(240.0, 22.4, 10)), K_SEL
    )
    assert symptom.seen == "22.4 users picked for all (first epoch 240, k_sel 15)"


def all_rules() -> list[Rule]:
    return module._rules(HEALTHY, K_SEL)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)
def test_what_to_change_can_be_changed(rule):
    fields = config_lib.flatten(config_lib.ExperimentConfig())
    named = re.findall(r"\b(\w+\.\w+)(?:=(\w+))?", rule.remedy)
    assert named
    for field, value in named:
        assert field in fields
        if value:
            change = config_lib.parse_overrides([f"{field}={value}"])
            config_lib.replace(config_lib.ExperimentConfig(), change)
    assert set(rule.needs) <= set(HEALTHY)
