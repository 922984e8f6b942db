"""claims.py: what a published difference of two runs is worth, by worked numbers."""

from __future__ import annotations

import math

import pytest

from darlr_jax.methods import METHODS
from darlr_jax.presets import preset
from darlr_jax.runs.claims import CLAIMS, claims_table, note, verdict
from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.results import mean_and_interval
from darlr_jax.runs.statistics import Interval
from tests.runs.test_comparison import PUBLISHED, metrics, outcome

WHOLE = metrics(epochs=200)  # as many as the published runs have


@pytest.mark.parametrize(
    ("published", "difference", "half_width", "expected"),
    [
        (2.0, 2.5, 1.0, "reproduced"),
        (-2.0, -2.5, 1.0, "reproduced"),
        (0.5, 0.2, 1.0, "open"),
        (6.85, 1.56, 1.34, "direction only"),
        (-2.48, -1.08, 0.48, "direction only"),
        (1.88, -1.39, 2.01, "not found"),
        (1.88, -3.0, 2.0, "reversed"),
        (-1.0, 3.0, 2.0, "reversed"),
        (5.0, 5.0, math.nan, "open"),  # a single seed
    ],
)
def test_verdicts(published, difference, half_width, expected):
    assert verdict(published, difference, half_width) == expected


def test_a_claim_worked_by_hand():
    rows = [outcome("mbpo", WHOLE), outcome("darlr", metrics(epochs=200, gain=2.0))]
    table = claims_table(rows, PUBLISHED)
    (row,) = table.to_dict("records")
    assert row["difference"] == "darlr less mbpo"
    assert row["published"] == pytest.approx(78.0429 - 71.193)
    assert row["epochs"] == 200
    assert row["here"] == pytest.approx(Interval(3.0, 2.0, 4.0, 2))
    assert row["± 95 % (t)"] == pytest.approx(mean_and_interval([2.0, 4.0])[1])
    assert row["seeds ahead"] == "2 of 2"
    assert row["verdict"] == "open"  # t of one degree of freedom: 3 ± 12.7


def test_the_note_says_whom_differences_are_of():
    drawn = WHOLE.drop(columns=ALL_USERS)
    for table, users in ((WHOLE, "all users"), (drawn, "the users drawn")):
        said = note([outcome("mbpo", table), outcome("darlr", table)])
        assert f"Here: of {users}, paired by seed," in said


def test_claims_that_cannot_be_compared_are_left_out():
    rows = [
        outcome("mbpo", WHOLE),
        outcome("roler", metrics(epochs=200, gain=1.0)),
    ]
    assert claims_table(rows, PUBLISHED) is not None
    shorter = outcome("roler", metrics(epochs=50, gain=1.0))
    assert claims_table([rows[0], shorter], PUBLISHED) is None
    generated = [outcome(o.row.name, o.metrics, "synthetic") for o in rows]
    assert claims_table(generated, PUBLISHED) is None  # never published
    unfinished = [rows[0], outcome("roler", None, state="not run")]
    assert claims_table(unfinished, PUBLISHED) is None
    changed = outcome("roler_newest_token", WHOLE, method="roler")
    assert claims_table([rows[0], changed], PUBLISHED) is None
    # On KuaiRec both were published at N = 4, and at no N above 10.
    for window, compared in ((4, True), (20, False)):
        changes = {"environment.exit_window": window}
        kuairec = [
            outcome(name, WHOLE, "kuairec", changes=changes) for name in ("mbpo", "ips")
        ]
        table = claims_table(kuairec, PUBLISHED)
        assert (table is not None) == compared


def test_claims_are_of_methods_that_were_published():
    for claim in CLAIMS:
        for name in (claim.first, claim.second):
            assert name in METHODS
            assert not math.isnan(PUBLISHED.score(name, preset("coat", name)))
