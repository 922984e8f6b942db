"""plans.py: every row can be run, is what it says, and is named once."""

from __future__ import annotations

import pytest

from darlr_jax.config import ConfigError, flatten, replace
from darlr_jax.methods import METHODS
from darlr_jax.presets import DATASETS, preset
from darlr_jax.runs.fields import differing_fields, fields_read
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plans import TABLES, choose_rows, make_plan, row_config

NOBODY_LEAVES = ("coat", "csv", "yahoo")
PLANS = [
    make_plan(table, dataset)
    for table in TABLES
    for dataset in DATASETS
    if table != "exit_rule" or dataset not in NOBODY_LEAVES
]


def identity(config):
    return tuple(sorted(fields_read(config).items()))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.table}-{plan.dataset}")
def test_rows_can_be_named_paired_and_run(plan):
    names = [row.name for row in plan.rows]
    assert len(set(names)) == len(names)
    assert not any(set(" ,") & set(name) for name in names)  # --rows=A,B
    identities = []
    for row in plan.rows:
        identities.append(identity(row_config(row, plan.dataset)))
        assert row.against is None or row.against in names
        assert row.against != row.name
    assert {row.panel for row in plan.rows} <= {"", *plan.fixed}
    # Of a figure of lines the preset stands at several places; nothing else repeats.
    if plan.figure != "lines":
        assert len(set(identities)) == len(identities)


def test_tables_of_the_issue_exist():
    wanted = {"main", "ablation", "readings", "sensitivity", "curves"}
    wanted |= {"density", "sparsity", "exit_rule", "roler", "extensions"}
    assert set(TABLES) == wanted


def test_main_table_has_every_method_as_it_is():
    assert [row.name for row in make_plan("main", "kuairec").rows] == list(METHODS)
    *rows, extension = make_plan("main", "coat").rows
    assert [row.name for row in rows] == [
        m for m in METHODS if m != "random_other_tags"
    ]
    assert all(row.published_as == row.name for row in rows)
    assert extension.name == "darlr_tuned"
    assert extension.note.startswith("extension: ")
    assert extension.published_as is None  # another protocol has no published score


@pytest.mark.parametrize(("dataset", "extensions"), [("coat", 8), ("kuairec", 4)])
def test_extensions_have_controls_without_a_selector(dataset, extensions):
    plan = make_plan("extensions", dataset)
    methods = {row.method for row in plan.rows}
    assert {"darlr", "roler", "population_mean", "mbpo"} < methods
    assert len(plan.rows) == len(methods) * (1 + extensions)
    of_darlr = {
        row.name.partition("+")[2]: row.changes
        for row in plan.rows
        if row.method == "darlr"
    }
    for row in plan.rows:
        read = fields_read(preset(dataset, row.method))
        extension = of_darlr[row.name.partition("+")[2]]
        assert row.changes == {n: v for n, v in extension.items() if n in read}
        assert row.against == (row.method if row.changes else None)


def test_extension_of_the_main_table_is_that_of_its_own():
    main, extensions = make_plan("main", "coat"), make_plan("extensions", "coat")
    pair = main.row("darlr_tuned"), extensions.row("darlr+all")
    first, second = (row_config(row, "coat") for row in pair)
    assert identity(first) == identity(second)  # one run directory


def test_a_changed_row_has_no_published_score():
    plan = make_plan("ablation", "kuairec")
    assert plan.row("darlr").published_as == "darlr"
    assert plan.row("no_similarity").published_as is None
    assert make_plan("exit_rule", "kuairec").row("mopo@N=4").published_as == "mopo"


def test_the_exit_window_of_a_preset_is_a_run_of_the_main_table():
    main, exits = make_plan("main", "kuairec"), make_plan("exit_rule", "kuairec")
    window = preset("kuairec", "mopo").environment.exit_window
    names = [directory_name(exits.row(f"mopo@N={n}")) for n in (window, 4)]
    assert names[0] == directory_name(main.row("mopo"))
    assert names[1] != names[0]


def test_a_weight_of_zero_is_a_run_of_the_ablation():
    sensitivity, ablation = (
        make_plan(table, "kuairec") for table in ("sensitivity", "ablation")
    )
    for weight, name in (
        ("reward.lambda_u", "no_uncertainty"),
        ("reward.lambda_e", "no_entropy"),
        ("selector.lambda_s", "no_similarity"),
        ("selector.lambda_d", "no_diversity"),
    ):
        rows = sensitivity.row(f"{weight}=0"), ablation.row(name)
        first, second = map(directory_name, rows)
        assert first == second


def test_without_a_penalty_the_shift_is_that_of_none():
    """lambda_u is of the shift, also where nothing is subtracted: a run reads it."""
    base = preset("kuairec", "mbpo")
    other = replace(base, {"reward.lambda_u": 1.0})
    assert differing_fields(other, base) == {"reward.lambda_u": 1.0}
    for table in ("ablation", "curves"):
        for row in make_plan(table, "kuairec").rows:
            reward = row_config(row, "kuairec").reward
            if row.method == "darlr" and reward.uncertainty == "none":
                assert reward.lambda_u == 0, row.name


@pytest.mark.parametrize(("method", "read"), [("mbpo", False), ("darlr", True)])
def test_what_only_a_transformer_reads_is_a_change_of_one_alone(method, read):
    base = preset("coat", method)
    changed = {"tracker.heads": 3, "tracker.dropout": 0.5}
    changed["recommender.value_passes"] = "separate"
    assert differing_fields(replace(base, changed), base) == (changed if read else {})


def test_ablations_change_what_they_say():
    plan = make_plan("ablation", "kuairec")
    base = preset("kuairec", "darlr")

    def changed(name):
        return differing_fields(row_config(plan.row(name), "kuairec"), base)

    assert changed("no_similarity") == {"selector.lambda_s": 0.0}
    assert changed("no_dynamic_reward") == {"reward.estimate": "world_model"}
    assert changed("overwrite") == {"reward.overwrite": True}
    assert changed("masked_training") == {"recommender.mask_used_items": True}


@pytest.mark.parametrize(("dataset", "inert"), [("coat", True), ("kuairec", False)])
def test_a_row_that_changes_nothing_is_left_out_and_said(dataset, inert):
    plan = make_plan("ablation", dataset)
    assert ("no_entropy is darlr" in plan.left_out) == inert
    assert ("no_entropy" in [row.name for row in plan.rows]) != inert


def test_readings_are_all_choices_but_the_preset():
    for dataset, default in (("coat", "predicted"), ("kuairec", "logged")):
        names = [row.name for row in make_plan("readings", dataset).rows]
        others = {"logged", "predicted", "embedding"} - {default}
        assert {f"selector.feedback={other}" for other in others} <= set(names)
        assert f"selector.feedback={default}" not in names


def test_constant_denominator_is_the_same_weight():
    config = row_config(
        make_plan("readings", "coat").row("constant_denominator"), "coat"
    )
    weight = preset("coat", "darlr").reward.lambda_u
    assert config.reward.lambda_u / config.reward.denominator_floor == weight


@pytest.mark.parametrize(("dataset", "parameters"), [("coat", 4), ("kuairec", 5)])
def test_sensitivity_crosses_the_preset_once_a_parameter(dataset, parameters):
    """lambda_e does nothing on Coat, where no order of entropy is in use."""
    rows = [row for row in make_plan("sensitivity", dataset).rows if row.panel]
    assert len({row.panel for row in rows}) == parameters
    base = flatten(preset(dataset, "darlr"))
    for panel in {row.panel for row in rows}:
        values = [row.x for row in rows if row.panel == panel]
        assert values == sorted(set(values))
        assert base[panel] in values
        assert [r.x for r in rows if r.panel == panel and not r.changes] == [
            base[panel]
        ]


@pytest.mark.parametrize(
    ("table", "unit"), [("density", "rows"), ("sparsity", "users")]
)
def test_thinned_rows_are_compared_at_the_same_share(table, unit):
    plan = make_plan(table, "coat")
    for row in plan.rows:
        thinning = row_config(row, "coat").dataset.thinning
        assert row.x == pytest.approx(100 * thinning.share)
        assert thinning.unit == unit or thinning.share == 1
        if row.against is not None:
            control = plan.row(row.against)
            assert control.method == "darlr_self"
            assert control.x == row.x
    assert {row.x for row in plan.rows} == {100, 50, 25, 10, 5, 2, 1}


def test_roler_apart_is_every_combination_and_begins_with_roler():
    plan = make_plan("roler", "coat")
    assert len(plan.rows) == 2**4
    first = row_config(plan.rows[0], "coat")
    assert identity(first) == identity(preset("coat", "roler"))


@pytest.mark.parametrize("dataset", NOBODY_LEAVES)
def test_no_table_of_exit_windows_where_nobody_leaves(dataset):
    with pytest.raises(ConfigError, match=f"on {dataset} nobody leaves early"):
        make_plan("exit_rule", dataset)


@pytest.mark.parametrize("dataset", DATASETS)
def test_one_experiment_is_one_directory_but_for_roler_taken_apart(dataset):
    directories = {}
    for plan in (plan for plan in PLANS if plan.dataset == dataset):
        for row in plan.rows:
            names = directories.setdefault(identity(row_config(row, dataset)), {})
            names.setdefault(directory_name(row), plan.table)
    twice = [names for names in directories.values() if len(names) > 1]
    assert [set(names.values()) - {"roler"} for names in twice] in ([], [{"main"}])


def test_rows_are_chosen_by_name_in_the_order_of_the_plan():
    plan = choose_rows(make_plan("main", "coat"), ["darlr", "mbpo"])
    assert [row.name for row in plan.rows] == ["mbpo", "darlr"]
    with pytest.raises(ConfigError, match=r"--rows=darlrr: .* did you mean 'darlr'"):
        choose_rows(plan, ["darlrr"])


def test_an_unknown_table_is_named_with_its_neighbour():
    with pytest.raises(ConfigError, match=r"--table=ablations: .* 'ablation'"):
        make_plan("ablations", "coat")


def test_overrides_come_before_the_changes_of_a_row():
    row = make_plan("ablation", "coat").row("no_similarity")
    overrides = {"selector.lambda_s": 7.0, "training.epochs": 3}
    config = row_config(row, "coat", overrides)
    assert config.selector.lambda_s == 0.0
    assert config.training.epochs == 3
