"""switches.py: main effects of plans of all combinations."""

from __future__ import annotations

import itertools

import pytest

from darlr_jax.runs.comparison import mean_pair, paired
from darlr_jax.runs.plans import make_plan
from darlr_jax.runs.switches import main_effects
from tests.runs.test_comparison import metrics, outcome

SWITCHES = (("own", "others"), ("new", "old"))


def combinations(score, seeds=(0, 1)):
    """Rows of all combinations; to seed s each adds s + 1 times its `score`."""
    return [
        outcome(
            "+".join(options),
            metrics(seeds, gain=score(*options)),
            method="roler",
            switches=options,
        )
        for options in itertools.product(*SWITCHES)
    ]


def added(first, second):
    """2 by the first switch, 1 by the second, 4 more where both are on."""
    on = (first == "own", second == "new")
    return 2.0 * on[0] + on[1] + 4.0 * all(on)


def test_a_switch_is_worth_its_mean_over_the_others():
    """Seeds 0 and 1 gain 4 and 8 by the first switch, 3 and 6 by the second."""
    assert main_effects(combinations(added)) == [
        "own instead of others: 6.00 [4.00, 8.00], ± 25.41 (t), 2 of 2 seeds ahead; "
        "mean over 2 pairs of rows.",
        "new instead of old: 4.50 [3.00, 6.00], ± 19.06 (t), 2 of 2 seeds ahead; "
        "mean over 2 pairs of rows.",
    ]


def test_rows_that_are_missing_leave_the_pairs_that_are_there():
    rows = combinations(added)
    unfinished = [rows[0]._replace(metrics=None), *rows[1:]]
    first, second = main_effects(unfinished)
    assert first.startswith("own instead of others: 3.00 [2.00, 4.00]")
    assert second.startswith("new instead of old: 1.50 [1.00, 2.00]")
    assert first.endswith("mean over 1 pairs of rows.")
    assert main_effects(unfinished[:1]) == []


def test_other_plans_have_no_switches():
    assert main_effects([outcome("mbpo", metrics()), outcome("darlr", metrics())]) == []


def test_seeds_that_a_pair_lacks_do_not_count():
    three, two = metrics((0, 1, 2), gain=1.0), metrics((1, 2, 3), gain=3.0)
    pairs = [paired(metrics(range(4)), three), paired(metrics(range(4)), two)]
    mean = mean_pair(pairs)
    assert mean.differences == {1: -4.0, 2: -6.0}
    assert mean.difference.value == pytest.approx(-5.0)
    apart = paired(metrics((7,)), metrics((7,)))
    assert mean_pair([*pairs, apart]) is None
    assert mean_pair([]) is None


def test_roler_taken_apart_has_every_combination_once():
    rows = make_plan("roler", "coat").rows
    options = list(zip(*(row.switches for row in rows), strict=True))
    assert [len(set(each)) for each in options] == [2, 2, 2, 2]
    assert len({row.switches for row in rows}) == len(rows) == 16
