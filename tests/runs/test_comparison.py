"""comparison.py and its neighbours: no row is lost, no score invented."""

from __future__ import annotations

import csv
import io
import math
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from darlr_jax.config import CompletionConfig
from darlr_jax.data.completion import complete
from darlr_jax.runs import formats
from darlr_jax.runs.columns import ALL_USERS
from darlr_jax.runs.comparison import (
    Outcome,
    comparison_table,
    other_data,
    other_draws,
    outcomes_of,
    paired_scores,
    refits,
    repeats_table,
    require_one_matrix,
    users_compared,
    where_it_helps,
)
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.figures import draw_plan
from darlr_jax.runs.plans import Row, make_plan, row_config
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import (
    mean_and_interval,
    read_run,
    to_markdown,
)
from darlr_jax.runs.statistics import Interval
from tests.runs.conftest import metrics_row

PUBLISHED_FOLDER = pathlib.Path(__file__).parent.parent.parent / "results" / "published"
PUBLISHED = PublishedScores(PUBLISHED_FOLDER)


def metrics(seeds=(0, 1), epochs=4, gain=0.0):
    """NX_0 R_tra is 10 * epoch + seed + gain * (1 + seed); all users 0.25 more."""
    rows = [
        metrics_row(seed, epoch) for seed in seeds for epoch in range(1, epochs + 1)
    ]
    table = pd.DataFrame(rows)
    for name in ("NX_0_R_tra", "NX_0_all_users_R_tra"):
        table[name] += gain * (1 + table["seed"])
    return table


def outcome(name, table, dataset="coat", state="", **row):
    row = Row(name, **{"method": name} | row)
    return Outcome(row, row_config(row, dataset), table, state)


def table_of(*outcomes):
    table = comparison_table(outcomes, PUBLISHED)
    return table.set_index("row")


def test_cells_worked_by_hand():
    table = table_of(
        outcome("mbpo", metrics()),
        outcome("darlr", metrics(gain=2.0), against="mbpo"),
    )
    row = table.loc["darlr"]
    assert row["seeds"] == "2"
    assert row["epochs"] == "4"
    # Seeds 0 and 1: 25 + 0 + 2 and 25 + 1 + 4; the last quarter is epoch 4.
    assert row["NX_0 R_tra"] == Interval(28.5, 27.0, 30.0, 2)
    assert row["last 25 %"].value == 43.5
    assert row["all users"].value == 28.75
    assert row["final policy"] == Interval(43.75, 42.25, 45.25, 2)
    assert row["difference"] == Interval(3.0, 2.0, 4.0, 2)
    assert row["seeds ahead"] == "2 of 2"
    assert row["P(better)"].value == 1.0
    assert row["IQM"] == "needs 4 seeds"
    assert table.loc["mbpo", "difference"] is None


def test_four_seeds_have_an_interquartile_mean():
    scores = metrics(seeds=(0, 1, 2, 9))
    assert table_of(outcome("mbpo", scores)).loc["mbpo", "IQM"].value == 26.5


def test_rows_without_enough_runs_say_so():
    table = table_of(
        outcome("mbpo", metrics(seeds=(3,))),
        outcome("dorl", None, state="2 of 4 epochs", against="mbpo"),
        outcome("mopo", None, state="not run"),
        outcome("darlr", metrics(), against="mbpo"),
        outcome("roler", metrics(), against="dorl"),
    )
    text = to_markdown(table.reset_index())
    assert len(text.splitlines()) == 7
    assert "28.00 (1 seed)" in text
    assert table.loc["dorl", "seeds"] == "2 of 4 epochs"
    assert table.loc["mopo", "seeds"] == "not run"
    assert table.loc["mopo", "published"] == 71.1804
    assert "less published" not in table  # of the others none has all its epochs
    assert table.loc["darlr", "seeds ahead"] == "no common seed"
    assert "difference" not in table  # no row has its pair


def test_pairs_use_the_epochs_that_both_have():
    first, second = paired_scores(metrics(epochs=2), metrics(epochs=8, gain=1.0))
    assert first == {0: 15.25, 1: 16.25}
    assert second == {0: 16.25, 1: 18.25}


def test_pairs_without_all_users_take_the_users_drawn():
    drawn = metrics().drop(columns="NX_0_all_users_R_tra")
    first, second = paired_scores(metrics(), drawn)
    assert first == second == {0: 25.0, 1: 26.0}
    assert users_compared([drawn, drawn, None]) == "the users drawn"
    assert users_compared([metrics(), None]) == users_compared([]) == "all users"
    assert users_compared([metrics(), drawn]) == (
        "all users, or the users drawn where a run has these alone"
    )


def test_published_scores_stand_beside_runs_of_all_epochs():
    """They are means over all epochs: of four epochs there is nothing to compare."""
    whole = table_of(outcome("darlr", metrics(epochs=200))).loc["darlr"]
    assert whole["published"] == 78.0429
    assert whole["less published"] == pytest.approx(1005.5 - 78.0429)
    for epochs in (4, 201):
        assert "published" not in table_of(outcome("darlr", metrics(epochs=epochs)))
    short = row_config(Row("dorl", "dorl"), "coat", {"training.epochs": 4})
    assert math.isnan(PUBLISHED.score("dorl", short))
    assert PUBLISHED.curve("dorl", short) is not None  # is read epoch by epoch


def test_a_run_that_changed_its_preset_is_not_published_whatever_it_is_called(
    write_run,
):
    """Runs of a folder are rows by their names alone: they know of no changes."""
    changes = {"recommender.discount": 0.0}
    changed = row_config(Row("darlr", "darlr", changes), "coat")
    as_it_is = row_config(Row("darlr", "darlr"), "coat")
    run = read_run(write_run("tuned"))._replace(metrics=metrics(epochs=200))
    (tuned,) = outcomes_of([run._replace(config=changed)], None)
    (plain,) = outcomes_of([run._replace(config=as_it_is)], None)
    assert math.isnan(tuned.in_print(PUBLISHED))
    assert plain.in_print(PUBLISHED) == 78.0429


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({"evaluation.all_users": False}, True),  # beside the score, not in it
        ({"dataset.completion.seed": 3}, True),  # nothing was completed
        ({"environment.exit_window": 7}, True),  # on Coat nobody leaves
        ({"world_model.seed": 7}, False),
        ({"selector.k_sel": 7}, True),  # MBPO has no selector
    ],
)
def test_what_a_published_run_may_differ_in(changes, stands):
    config = row_config(Row("mbpo", "mbpo"), "coat", changes)
    assert math.isnan(PUBLISHED.score("mbpo", config)) != stands


def test_changed_rows_and_twins_have_no_published_score_or_curve():
    changed = outcome("darlr", metrics(), changes={"selector.k_sel": 7})
    assert "published" not in table_of(changed)
    row = Row("darlr", "darlr")
    twin = Outcome(row, row_config(row, "coat", {"dataset.twin": True}), metrics(), "")
    assert "published" not in table_of(twin)
    for method, config in ((None, changed.config), ("dorl", twin.config)):
        assert math.isnan(PUBLISHED.score(method, config))
        assert PUBLISHED.curve(method, config) is None


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        ("coat", {"dataset.validation.share": 0.3}),
        ("coat", {"dataset.thinning.share": 0.1}),
        ("coat", {"environment.max_turn": 10}),
        ("kuairand", {"dataset.kuairand.label": "is_like"}),
        ("kuairec", {"dataset.kuairec.reward_cap": 1.0}),
    ],
)
def test_a_run_that_is_paid_otherwise_does_not_stand_beside(dataset, changes):
    row = Row("mbpo", "mbpo")
    assert not math.isnan(PUBLISHED.score("mbpo", row_config(row, dataset)))
    assert math.isnan(PUBLISHED.score("mbpo", row_config(row, dataset, changes)))


def test_nor_does_a_run_paid_by_a_matrix_that_was_completed_here():
    config = row_config(Row("mbpo", "mbpo"), "kuairand")
    theirs = "KuaiRand-Pure kuairand_is_click.csv, the published completion"
    assert not math.isnan(PUBLISHED.score("mbpo", config, theirs))
    users, items = np.divmod(np.arange(60), 3)
    rewards = (np.arange(60) % 2.0).astype(np.float32)
    seen = (users, items, rewards, np.ones(60, np.float32), (20, 3))
    ours = complete(*seen, CompletionConfig(), low=0.0, high=1.0)
    assert math.isnan(PUBLISHED.score("mbpo", config, f"KuaiRand, {ours.description}"))


def with_window(dataset, window):
    changes = {"environment.exit_window": window}
    return row_config(Row("mbpo", "mbpo"), dataset, changes)


@pytest.mark.parametrize(
    ("method", "window", "score"),
    [
        ("dorl", 4, 20.4942),  # the printed row, seed 2, before the sweep's seed 0
        ("dorl", 1, 20.3137),
        ("mbpo", 1, 16.93),
        ("roler", 7, math.nan),  # printed at N = 1 alone
        ("darlr", 1, 35.2203),
        ("ucb", 1, math.nan),  # printed at N = 4 alone
        ("oracle", 1, math.nan),
    ],
)
def test_published_runs_at_the_same_exit_window(method, window, score):
    found = PUBLISHED.score(method, with_window("kuairec", window))
    assert found == pytest.approx(score, abs=0.005, nan_ok=True)


def test_a_run_of_another_exit_rule_does_not_stand_beside():
    for rule in (
        {"environment.exit_rule": "none"},
        {"environment.exit_threshold": 1.0},
    ):
        config = row_config(Row("roler", "roler"), "kuairec", rule)
        assert math.isnan(PUBLISHED.score("roler", config))


def test_a_run_at_another_exit_window_does_not_stand_beside():
    changes = {"environment.exit_window": 7}
    other = outcome("roler", metrics(epochs=200), "kuairec", changes=changes)
    same = outcome("darlr", metrics(epochs=200), "kuairec")
    table = table_of(other, same)
    assert table["published"].isna().tolist() == [True, False]
    # On Coat nobody leaves, so the window of UCB's row is none.
    ucb = outcome("ucb", metrics(epochs=200))
    assert table_of(ucb).loc["ucb", "published"] == 73.6713


def test_published_curves_only_at_their_window():
    assert PUBLISHED.curve("dorl", with_window("kuairec", 1)) is None
    curve = PUBLISHED.curve("dorl", with_window("coat", 1))
    assert len(curve) == 200
    assert curve.mean() == pytest.approx(71.3992, abs=0.005)


def test_a_method_that_was_published_twice_is_named(tmp_path):
    folder = shutil.copytree(PUBLISHED_FOLDER, tmp_path / "published")
    text = (folder / "scores.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("coat,darlr"))
    (folder / "scores.csv").write_text(f"{text}{row}\n")
    with pytest.raises(RunError, match=r"scores\.csv: 2 rows of darlr on coat"):
        PublishedScores(folder).score("darlr", with_window("coat", 1))


def test_published_tables_that_are_missing_are_named(tmp_path):
    with pytest.raises(RunError, match=r"scores\.csv: cannot be read"):
        PublishedScores(tmp_path)
    (tmp_path / "scores.csv").write_text("dataset,method\ncoat,darlr\n")
    with pytest.raises(RunError, match=r"scores\.csv: has no column NX_0_R_tra"):
        PublishedScores(tmp_path)


def test_one_test_matrix_pays_all_rows():
    assert require_one_matrix({"a": None, "b": "theirs", "c": "theirs"}) == "theirs"
    assert require_one_matrix({"a": None}) is None
    with pytest.raises(RunError, match=r"2 test matrices .a: theirs; b: ours"):
        require_one_matrix({"a": "theirs", "b": "ours"})


def test_where_a_line_is_above_its_pair():
    seeds = range(4)
    control = metrics(seeds)
    outcomes = [outcome("c", control, method="mbpo")]
    gains = {1: 2.0, 10: 1.0, 50: -1.0}
    for x, gain in gains.items():
        row = {"method": "darlr", "against": "c", "series": "darlr", "x": float(x)}
        outcomes.append(outcome(f"darlr@{x}", metrics(seeds, gain=gain), **row))
    even = metrics(seeds)
    even.loc[even["seed"] == 1, "NX_0_all_users_R_tra"] += 3
    even.loc[even["seed"] == 0, "NX_0_all_users_R_tra"] -= 1
    row = {"method": "darlr", "against": "c", "series": "darlr", "x": 100.0}
    outcomes.append(outcome("darlr@100", even, **row))
    assert where_it_helps(outcomes) == [
        "darlr, against its pair, by Student's interval: better at 1, 10; "
        "worse at 50; undecided at 100."
    ]
    assert where_it_helps(outcomes[:1]) == []


TABLE = pd.DataFrame(
    {
        "row": ["a_b & 50 %", "λ_s"],
        "score": [Interval(1.25, 1.0, 1.5, 3), Interval(2.0, math.nan, math.nan, 1)],
        "difference": [None, Interval(-1.0, -2.0, 0.0, 2)],
        "published": [78.0429, math.nan],
    }
)


def test_csv_spreads_intervals_and_leaves_what_is_missing_empty():
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(TABLE))))
    assert rows[0] == {
        **{"row": "a_b & 50 %", "score": "1.25", "score low": "1.0"},
        **{"score high": "1.5", "score runs": "3", "published": "78.0429"},
        **{"difference": "", "difference low": "", "difference high": ""},
        "difference runs": "",
    }
    assert rows[1]["score low"] == ""
    assert rows[1]["difference low"] == "-2.0"


def test_latex_is_escaped_and_aligned():
    lines = formats.to_latex(TABLE, "100 % of #1").splitlines()
    assert r"\caption{100 \% of \#1}" in lines
    assert r"\begin{tabular}{lrrr}" in lines
    assert r"a\_b \& 50 \% & 1.25 [1.00, 1.50] & n/a & 78.04 \\" in lines
    assert r"$\lambda$\_s & 2.00 (1 seed) & -1.00 [-2.00, 0.00] & n/a \\" in lines
    assert formats.latex_text(r"r̂\^{") == (
        r"$\hat r$\textbackslash{}\textasciicircum{}\{"
    )


def invented(plan, missing=()):
    return [
        Outcome(
            *(row, row_config(row, plan.dataset)),
            None if row.name in missing else metrics(gain=0.1 * place),
            "not run",
        )
        for place, row in enumerate(plan.rows)
    ]


@pytest.mark.parametrize(
    ("table", "panels"),
    [("main", 2), ("curves", 2), ("sensitivity", 8), ("density", 2)],
)
def test_pictures_of_finished_rows(table, panels):
    pytest.importorskip("matplotlib")
    plan = make_plan(table, "coat")
    plan = plan._replace(rows=(*plan.rows[:3], *plan.rows[-30:]))
    figure = draw_plan(plan, invented(plan, {plan.rows[-1].name}), PUBLISHED, "x")
    assert len(figure.axes) == panels
    for axis in figure.axes:
        assert axis.get_xlabel()
    names = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    if table == "main":
        assert plan.rows[0].name in names
        assert plan.rows[-1].name not in names
        assert "paired by seed" in figure.axes[1].get_title(loc="left")


def test_rows_of_other_lengths_say_their_epochs_and_stand_beside_their_pair():
    """Their means cannot be compared: of a run that rises, the longer is higher."""
    pytest.importorskip("matplotlib")
    plan = make_plan("main", "coat")
    plan = plan._replace(rows=plan.rows[:2])
    first, second = invented(plan)
    second = second._replace(
        row=second.row._replace(against=first.row.name),
        metrics=second.metrics[second.metrics["epoch"] <= 2],
    )
    figure = draw_plan(plan, [first, second], PUBLISHED, "x")
    scores, pairs = figure.axes
    assert [text.get_text() for text in scores.get_yticklabels()] == [
        f"{first.row.name}, 4 epochs",
        f"{second.row.name}, 2 epochs",
    ]
    points = pairs.lines[0]
    assert points.get_xdata() == pytest.approx([0.1, 0.2])  # by seed
    assert set(points.get_ydata()) == {1}


def test_lines_say_whom_their_differences_are_of():
    pytest.importorskip("matplotlib")
    plan = make_plan("density", "coat")
    drawn = [
        row._replace(metrics=row.metrics.drop(columns=ALL_USERS))
        for row in invented(plan)
    ]
    titles = [
        draw_plan(plan, rows, PUBLISHED, "x").axes[1].get_title(loc="left")
        for rows in (invented(plan), drawn)
    ]
    assert titles == [
        *("Paired difference, all users", "Paired difference, the users drawn")
    ]


def test_paired_curves_are_differences_by_seed():
    pytest.importorskip("matplotlib")
    plan = make_plan("curves", "coat")
    plan = plan._replace(rows=plan.rows[:2])
    figure = draw_plan(plan, invented(plan), PUBLISHED, "x")
    difference = figure.axes[1].lines[0]
    assert difference.get_ydata() == pytest.approx([0.15] * 4)  # of 0.1 and 0.2


def test_curves_without_their_pair_have_no_panel_of_differences():
    pytest.importorskip("matplotlib")
    plan = make_plan("curves", "coat")
    plan = plan._replace(rows=plan.rows[1:3])
    (axis,) = draw_plan(plan, invented(plan), PUBLISHED, "x").axes
    assert len(axis.lines) >= 2


def test_many_curves_have_a_panel_each():
    pytest.importorskip("matplotlib")
    plan = make_plan("main", "coat")
    plan = plan._replace(rows=plan.rows[:11], figure="curves")
    pair = plan.rows.index(plan.row("roler"))
    figure = draw_plan(plan, invented(plan), PUBLISHED, "x")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [row.name for row in plan.rows]
    for place, axis in enumerate(figure.axes):
        shown = [line.get_label() for line in axis.lines]
        others = ["roler"] * (place != pair)
        assert shown[: len(others) + 1] == [*others, plan.rows[place].name]


def test_curves_of_panels_are_means_of_as_many_epochs_in_every_row():
    """Of 90 epochs at most 40 points are left: of 3 epochs each."""
    pytest.importorskip("matplotlib")
    plan = make_plan("main", "coat")
    plan = plan._replace(rows=plan.rows[:9], figure="curves")
    lengths = [90, *[10] * 8]
    outcomes = [
        Outcome(row, row_config(row, "coat"), metrics(epochs=epochs), "done")
        for row, epochs in zip(plan.rows, lengths, strict=True)
    ]
    long, short, *_ = draw_plan(plan, outcomes, PUBLISHED, "x").axes
    names = [row.name for row in plan.rows[:2]]
    lines = {line.get_label(): line for axis in (long, short) for line in axis.lines}
    x, y = lines[names[0]].get_data()
    assert list(x) == list(range(3, 91, 3))
    assert y[0] == pytest.approx(10 * 2 + 0.5 + 0.25)  # all users, epochs 1 to 3
    x, y = lines[names[1]].get_data()
    assert list(x) == [3, 6, 9, 12]
    assert y[-1] == pytest.approx(10 * 10 + 0.5 + 0.25)  # epoch 10 alone


def test_no_picture_of_nothing():
    plan = make_plan("main", "coat")
    outcomes = invented(plan, {row.name for row in plan.rows})
    assert draw_plan(plan, outcomes, PUBLISHED, "x") is None


# --- fits of a world model ------------------------------------------------------------


def test_rows_on_another_fit_of_the_same_world_model_are_named():
    config, tuned = (
        row_config(Row("mbpo", "mbpo"), "coat", changes)
        for changes in ({}, {"world_model.epochs": 8})
    )
    fits = [
        *(("mbpo", config, "a"), ("dorl", config, "b"), ("mopo", config, "b")),
        *(("roler", config, "b"), ("tuned", tuned, "c"), ("gt", config, "d")),
        ("random", config, None),
    ]

    (said,) = refits(fits)

    assert said.startswith("Of the same world model, but of another fit")
    assert said.endswith(": mbpo; of a further one: gt.")
    assert not refits(fits[1:5]) and not refits([])


def test_rows_that_have_read_other_data_are_named():
    whole, part = (
        row_config(Row("mbpo", "mbpo"), "coat", changes)
        for changes in ({}, {"dataset.thinning.share": 0.5})
    )
    rows = [
        *(("mbpo", whole, "a"), ("dorl", whole, "b"), ("mopo", whole, "a")),
        *(("half", part, "c"), ("old", whole, None), ("ips", whole, "d")),
    ]

    (said,) = other_data(rows)

    assert said.startswith("Of the same data set, but of other files, or")
    assert said.endswith(": dorl; otherwise still: ips.")
    assert not other_data([rows[0], *rows[2:5]])


def test_rows_that_draw_other_users_are_named_where_it_matters():
    drawn = metrics().drop(columns=ALL_USERS)
    more = {"evaluation.episodes": 200}
    rows = [outcome("mbpo", drawn), outcome("dorl", drawn)]
    rows.append(outcome("roler", drawn, changes=more))

    (said,) = other_draws(rows)

    assert said.endswith(
        "paired by seed but not by user, unless both have all users: roler."
    )
    assert not other_draws(rows[:2])
    assert not other_draws([each._replace(metrics=metrics()) for each in rows])


def test_repeats_worked_by_hand(write_run):
    """A gain is 1 and 2 times its factor on seeds 0 and 1."""
    gains = {"mbpo": 0.0, "darlr": 2.0, "once": 1.0}
    first = {n: finished(write_run(n), gain) for n, gain in gains.items()}
    moved = first["darlr"]._replace(metrics=metrics(gain=1.0))
    again = {"mbpo": first["mbpo"], "darlr": moved}

    table = repeats_table(first, again, "mbpo").set_index("row")

    assert list(table.index) == ["mbpo", "darlr"]
    assert table.loc["mbpo", "again less first"].value == 0
    row = table.loc["darlr"]
    assert row["less mbpo"].value == pytest.approx(3.0)  # 2 and 4
    assert row["run again"].value == pytest.approx(1.5)  # 1 and 2
    # Two seeds, not four: (2 + 1) / 2 and (4 + 2) / 2.
    assert row["both"] == pytest.approx(2.25)
    assert row["± 95 % (t)"] == pytest.approx(mean_and_interval([1.5, 3.0])[1])
    assert row["ahead"] == "2 of 2"
    assert row["again less first"].value == pytest.approx(-1.5)


def test_other_seeds_are_more_pairs_over_the_epochs_that_all_have(write_run):
    """The gain is 2 and 4, and of other seeds 6 and 8; a later epoch has none of it."""
    gains = {"mbpo": 0.0, "darlr": 2.0}
    first = {n: finished(write_run(n), gain) for n, gain in gains.items()}
    longer = first["darlr"].metrics.copy()
    longer.loc[longer["epoch"] == 4, ALL_USERS] = 0.0
    first["darlr"] = first["darlr"]._replace(metrics=longer)
    more = {
        name: first[name]._replace(metrics=metrics((2, 3), epochs=3, gain=gain))
        for name, gain in gains.items()
    }

    table = repeats_table(first, more, "mbpo", "other seeds").set_index("row")

    row = table.loc["darlr"]
    assert row["epochs"] == 3
    assert row["less mbpo"] == Interval(3.0, 2.0, 4.0, 2)
    assert row["other seeds"] == Interval(7.0, 6.0, 8.0, 2)
    assert row["both"] == pytest.approx(5.0)
    assert row["ahead"] == "4 of 4"
    assert "again less first" not in table.columns
    assert list(table.index) == ["darlr"]


def test_a_seed_of_one_of_the_two_stands_alone(write_run):
    """The gain is 2 and 4 on seeds 0 and 1, and then -10 and 3 on seeds 1 and 2."""
    gains = {"mbpo": 0.0, "darlr": 2.0}
    first = {n: finished(write_run(n), gain) for n, gain in gains.items()}
    more = {n: run._replace(metrics=metrics((1, 2))) for n, run in first.items()}
    for seed, gain in ((1, -10.0), (2, 3.0)):
        rows = more["darlr"].metrics
        rows.loc[rows["seed"] == seed, ALL_USERS] += gain

    row = repeats_table(first, more, "mbpo").set_index("row").loc["darlr"]

    assert row["both"] == pytest.approx((2 - 3 + 3) / 3)
    assert row["± 95 % (t)"] == pytest.approx(mean_and_interval([2.0, -3.0, 3.0])[1])
    assert row["ahead"] == "2 of 3"


def finished(path, gain):
    return read_run(path)._replace(metrics=metrics(gain=gain))
