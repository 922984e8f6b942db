"""selection.py: means, standard errors and paired differences over splits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from darlr_jax.runs.selection import best_schedules, summarise

REFERENCE = ("unchanged", 1)
ACCURACY = {  # a value a split
    ("unchanged", 1): (0.5, 0.7, 0.6),
    ("unchanged", 2): (0.4, 0.5, 0.6),
    ("another", 1): (0.6, 0.8, 0.75),
    ("another", 2): (0.9, 0.9, 0.9),
    ("averages", 0): (0.65, 0.7, 0.6),
}


@pytest.fixture
def scores():
    return pd.DataFrame(
        [
            {"candidate": name, "epochs": epochs, "split": split, "mse": 10 * split}
            | {"accuracy": value}
            for (name, epochs), values in ACCURACY.items()
            for split, value in enumerate(values)
        ]
    )


def test_worked_numbers(scores):
    summary = summarise(scores, "accuracy", REFERENCE)

    assert list(summary["accuracy"].round(6)) == [0.9, 0.716667, 0.65, 0.6, 0.5]
    row = summary.iloc[1]
    assert (row["candidate"], row["epochs"], row["mse"]) == ("another", 1, 10)
    # The differences are 0.1, 0.1, 0.15: far steadier than the values.
    assert row["difference"] == pytest.approx(0.35 / 3)
    assert row["± "] == pytest.approx(np.std([0.1, 0.1, 0.15], ddof=1) / np.sqrt(3))
    assert row["±"] == pytest.approx(np.std([0.6, 0.8, 0.75], ddof=1) / np.sqrt(3))
    unchanged = summary[summary["candidate"] == "unchanged"].iloc[0]
    assert (unchanged["difference"], unchanged["± "]) == (0, 0)


def test_order_of_the_rows_decides_nothing(scores):
    shuffled = scores.sample(frac=1, random_state=0)

    pd.testing.assert_frame_equal(
        summarise(scores, "accuracy", REFERENCE),
        summarise(shuffled, "accuracy", REFERENCE),
    )


def test_best_schedules_keep_the_reference_even_if_it_is_not_the_best(scores):
    scores.loc[scores["epochs"] == 2, "accuracy"] = 0.9
    summary = summarise(scores, "accuracy", REFERENCE)

    rows = best_schedules(summary, REFERENCE)[["candidate", "epochs"]]

    expected = {("another", 2), ("unchanged", 2), REFERENCE, ("averages", 0)}
    assert {tuple(row) for row in rows.itertuples(index=False)} == expected


@pytest.mark.parametrize("missing", ["a split", "the reference"])
def test_what_was_not_scored_is_no_result(missing, scores):
    reference = ("unchanged", 3) if missing == "the reference" else REFERENCE
    kept = scores.iloc[1:] if missing == "a split" else scores

    with pytest.raises(ValueError, match="scored on every split"):
        summarise(kept, "accuracy", reference)
