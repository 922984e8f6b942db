"""config.py: typed overrides, clear errors, round trips."""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, ExperimentConfig
from darlr_jax.presets import DATASETS, preset

DEFAULT = ExperimentConfig()
FIELDS = sorted(config_lib.flatten(DEFAULT))


def override(*texts: str) -> ExperimentConfig:
    return config_lib.replace(DEFAULT, config_lib.parse_overrides(texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("selector.k_sel=20", 20),
        ("selector.lambda_s=2", 2.0),
        ("selector.lambda_s=-1e-3", -1e-3),
        ("selector.center_feedback=true", True),
        ("selector.center_feedback=False", False),
        ("selector.feedback=logged", "logged"),
        ("recommender.hidden=(32, 16)", (32, 16)),
        ("recommender.hidden=[32, 16]", (32, 16)),
        ("recommender.hidden=32", (32,)),
        ("reward.entropy_orders=()", ()),
        ("method=mbpo", "mbpo"),
        ("dataset.csv.user=007", "007"),
        ("dataset.csv.user=1e3", "1e3"),
        ("dataset.csv.user=True", "True"),
        ("dataset.csv.user=true", "true"),
        ("dataset.csv.user=0x10", "0x10"),
        ("dataset.csv.user='a b'", "a b"),
        ("dataset.csv.separator=' '", " "),
        (" selector.k_sel = 20 ", 20),
    ],
)
def test_override_takes_the_type_of_its_field(text, expected):
    name = text.partition("=")[0].strip()
    value = config_lib.flatten(override(text))[name]
    assert value == expected
    assert type(value) is type(expected)


def test_overrides_leave_the_other_fields_alone():
    before = config_lib.flatten(DEFAULT)
    after = config_lib.flatten(override("selector.k_sel=20", "reward.lambda_u=0.5"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"selector.k_sel", "reward.lambda_u"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("selector.ksel=20", "did you mean 'selector.k_sel'?"),
        ("selektor.k_sel=20", "did you mean 'selector'?"),
        ("zzz=1", "no such field; one of: "),
        ("selector=3", "group of fields"),
        ("selector.k_sel.more=3", "selector.k_sel has no fields of its own"),
        ("selector.k_sel=2.5", "expected a whole number"),
        ("selector.k_sel=many", "expected a whole number"),
        ("selector.k_sel=true", "expected a whole number"),
        ("selector.lambda_s=high", "expected a number"),
        ("selector.center_feedback=1", "expected true or false"),
        ("recommender.hidden=(32, 'x')", "expected a whole number"),
        ("selector.k_sel=0", "must be within [1"),
        ("recommender.hidden=(32, 0)", "must be within [1"),
        ("recommender.discount=1.5", "must be within [0, 1]"),
        ("recommender.discount=1e999", "must be within [0, 1]"),
        ("selector.feedback=predikted", "did you mean 'predicted'?"),
        ("selector.k_sel", "expected FIELD=VALUE"),
        ("=3", "expected FIELD=VALUE"),
        ("selector.=3", "no such field"),
        ("selector..k_sel=3", "no such field"),
        ("selector.lambda_s=1" + "0" * 400, "must be within"),
        ("selector.k_sel={[]: 1}", "expected a whole number"),
        ("selector.k_sel=0x" + "f" * 5000, "=a very long int: must be within [1"),
        ("selector.k_sel=" + "x" * 5000, "xxx...: expected a whole number"),
        (r"dataset.csv.log='a\0b'", "must not hold a NUL character"),
    ],
)
def test_bad_override_is_one_clear_line(text, message):
    with pytest.raises(ConfigError) as error:
        override(text)
    assert message in str(error.value)
    assert text.partition("=")[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_not_a_number_is_out_of_range():
    with pytest.raises(ConfigError, match="must be within"):
        config_lib.replace(DEFAULT, {"recommender.discount": float("nan")})


@pytest.mark.parametrize("field", FIELDS)
def test_default_lies_within_its_own_range(field):
    value = config_lib.flatten(DEFAULT)[field]
    assert config_lib.replace(DEFAULT, {field: value}) == DEFAULT


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", ["mbpo", "roler", "darlr"])
def test_round_trip_through_json(dataset, method):
    config = preset(dataset, method)
    text = json.dumps(config_lib.to_dict(config))
    restored = config_lib.from_dict(json.loads(text))
    assert restored == config
    assert hash(restored) == hash(config)


def test_every_field_survives_the_round_trip():
    changes = {"recommender.hidden": (7,), "reward.entropy_orders": (), "method": "x"}
    config = config_lib.replace(DEFAULT, changes)
    assert config_lib.from_dict(config_lib.to_dict(config)) == config


def test_from_dict_refuses_unknown_fields():
    values = config_lib.to_dict(DEFAULT)
    values["selector"]["k_sell"] = 3
    with pytest.raises(ConfigError, match=r"did you mean 'selector\.k_sel'"):
        config_lib.from_dict(values)


@pytest.mark.parametrize("name", ["a\nb", "selector.k_sel\x1b"])
def test_names_that_would_break_the_line_are_quoted(name):
    for action in (
        lambda: override(f"{name}=1"),
        lambda: override(f"{name}"),
        lambda: config_lib.from_dict({name: 1}),
    ):
        with pytest.raises(ConfigError) as error:
            action()
        assert repr(name) in str(error.value)
        assert str(error.value).isprintable()


def test_from_dict_refuses_a_field_that_is_given_twice():
    values = config_lib.to_dict(DEFAULT) | {"selector.k_sel": 3}
    for order in (values, dict(reversed(values.items()))):
        with pytest.raises(ConfigError, match=r"'selector\.k_sel': is given twice"):
            config_lib.from_dict(order)


@pytest.mark.parametrize("value", [None, 3, True, ["a"]])
def test_from_dict_takes_nothing_else_for_a_text(value):
    with pytest.raises(ConfigError, match=r"csv\.log=.*: expected a text"):
        config_lib.from_dict({"dataset": {"csv": {"log": value}}})


def test_equal_configurations_hash_equal_and_different_ones_differ():
    assert hash(override("selector.k_sel=20")) == hash(override("selector.k_sel=20"))
    assert override("selector.k_sel=20") != DEFAULT


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.method = "mbpo"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward.references=none", "need learned, random, nearest or self"),
        ("selector.heads=3", "must divide selector.width"),
        ("reward.entropy_orders=(1, 1)", "repeated order"),
        ("training.epochs=30000", "more than 2,000,000,000 transitions"),
    ],
)
def test_contradictions_are_refused(text, message):
    config_lib.validate(DEFAULT)
    with pytest.raises(ConfigError, match=message):
        config_lib.validate(override(text))


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("mbpo", "training.warm_up_epochs=3", r"warm_up_epochs=3: nothing uses it"),
        ("sqn", "training.warm_up_epochs=3", r"warm_up_epochs=3: nothing uses it"),
        ("gt", "reward.overwrite=true", "overwrite=True: nothing uses it"),
        ("ucb", "world_model.members=5", "learner='ucb' trains one"),
        ("roler", "reward.neighbours=1", "one row of the log has no variance"),
        ("roler", "reward.uncertainty=neighbour_cosine", "not weighted by their"),
    ],
)
def test_settings_without_an_effect_are_refused(method, text, message):
    published = preset("kuairec", method)
    config_lib.validate(published)
    changed = config_lib.replace(published, config_lib.parse_overrides([text]))
    with pytest.raises(ConfigError, match=message):
        config_lib.validate(changed)


def test_separate_passes_take_a_critic_of_returns():
    apart = "recommender.value_passes=separate"
    config_lib.validate(override(apart))
    with pytest.raises(ConfigError, match=r"takes recommender\.critic_target=return"):
        config_lib.validate(override(apart, "recommender.critic_target=mean_reward"))


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("pool_size=15", "pool_size=14", "14: must be at least selector.k_sel=15"),
        ("k_sel=200", "k_sel=201", "200: must be at least selector.k_sel=201"),
    ],
)
def test_a_pool_of_the_nearest_holds_all_that_are_picked(good, bad, message):
    config_lib.validate(override("selector.pool=nearest", f"selector.{good}"))
    with pytest.raises(ConfigError, match=f"selector.pool_size={message}"):
        config_lib.validate(override("selector.pool=nearest", f"selector.{bad}"))
    config_lib.validate(override(f"selector.{bad}"))  # of no interest to other pools


@pytest.mark.parametrize("references", ["random", "nearest", "self"])
def test_only_a_learned_selector_has_a_pool(references):
    override_references = f"reward.references={references}"
    config_lib.validate(override(override_references))
    with pytest.raises(ConfigError, match="pool='clusters': only reward"):
        config_lib.validate(override(override_references, "selector.pool=clusters"))


def test_every_number_is_checked():
    # A new field without range or choices would let any value through.
    groups = [DEFAULT, *(getattr(DEFAULT, f.name) for f in dataclasses.fields(DEFAULT))]
    unchecked = [
        f"{type(group).__name__}.{field.name}"
        for group in filter(dataclasses.is_dataclass, groups)
        for field in dataclasses.fields(group)
        if isinstance(getattr(group, field.name), int | float | tuple)
        and not isinstance(getattr(group, field.name), bool)
        and "range" not in field.metadata
    ]
    assert unchecked == []


def test_source_evaluates_nothing():
    tree = ast.parse(pathlib.Path(config_lib.__file__).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names.isdisjoint({"eval", "exec", "compile", "__import__"})


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=5,
)
TEXTS = st.one_of(
    st.text(),
    st.builds("{}={}".format, st.sampled_from(FIELDS), st.text() | LITERALS),
    st.builds("selector.{}={}".format, st.text(), st.text()),
    st.builds("method={}".format, st.text(alphabet="()[]{}:,'\"1+-*.ej \\")),
)


@given(st.lists(TEXTS, max_size=3))
def test_any_text_parses_or_raises_a_config_error(texts):
    try:
        config = override(*texts)
    except ConfigError as error:
        assert str(error)
    else:
        assert isinstance(hash(config), int)


@given(st.sampled_from(FIELDS) | st.text(), LITERALS)
def test_any_value_fits_or_raises_a_config_error(name, value):
    try:
        config = config_lib.replace(DEFAULT, {name: value})
    except ConfigError as error:
        assert str(error)
    else:
        kind = type(config_lib.flatten(DEFAULT)[name])
        assert isinstance(config_lib.flatten(config)[name], kind)
