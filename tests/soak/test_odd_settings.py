"""Mistyped flags, overrides and configuration files: refused in one line, or obeyed."""

from __future__ import annotations

import ast
import json
import shutil

import numpy as np
import pytest
from absl import flags

from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError, ExperimentConfig
from darlr_jax.data.dataset import DataError
from darlr_jax.methods import METHODS
from darlr_jax.presets import DATASETS, preset
from darlr_jax.runs.directory import RunError, load_config, write_json
from experiments import cli, train
from tests.soak import damage
from tests.soak.scale import count, report

CASES = count(short=200, long=1000)
FIELDS = config_lib.flatten(ExperimentConfig())
GROUPS = {name.partition(".")[0] for name in FIELDS if "." in name}
VALUES = (
    *("", " ", "0", "-1", "1", "2", "3.5", "1e3", "1e999", "nan", "inf", "true", "no"),
    *("None", "007", "0x10", "1_000", "()", "(1,)", "[1, 2]", "(1, 'x')", "{}", "'a'"),
    *('"a b"', "'", "((((", "-" * 500 + "1", "0x" + "f" * 5000, "9" * 5000, "1+2j"),
    *("'a\\0b'", "a\nb", "\u0661", "\udcff", "lambda: 0", "__import__('os')", "b'x'"),
    *("~nobody_of_this_name/x", "x" * 5000, "/dev/null", "/", "log.csv", "::", "\t"),
)
WORDS = (
    *("--epochs", "--dataset", "--method", "--seeds", "--data_dir", "--twin"),
    *("--twin_scale", "--set", "--cache_dir", "--workdir", "--resume", "--overwrite"),
    *("--checkpoint_every", "--max_seconds", "--flagfile", "--undefok", "--epoch"),
    *("-epochs", "epochs", "--", "---seeds", "--notwin", "--nooverwrite", "--=", "--é"),
)  # fmt: skip


# --- overrides ------------------------------------------------------------------------


def meaning(text, field):
    """What a user means by `text` as the value of a field, by its default's type."""
    text = text.strip()
    try:
        literal = {"true": True, "false": False}.get(text.lower())
        literal = ast.literal_eval(text) if literal is None else literal
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        literal = text
    if isinstance(FIELDS[field], str):
        return literal if isinstance(literal, str) else text
    if isinstance(FIELDS[field], tuple):
        return tuple(literal) if isinstance(literal, tuple | list) else (literal,)
    return literal


def mistype(text, rng):
    """A character more, less, or another one."""
    place = rng.integers(len(text) + 1)
    extra = "" if rng.random() < 0.5 else "_.=x0é\n"[rng.integers(7)]
    return text[:place] + extra + text[place + rng.integers(2) :]


def draw_override(rng):
    name = list(FIELDS)[rng.integers(len(FIELDS))]
    text = VALUES[rng.integers(len(VALUES))]
    if rng.random() < 0.3:
        choices = str(FIELDS[name])
        text = mistype(choices, rng) if rng.random() < 0.5 else choices
    if rng.random() < 0.2:
        return mistype(f"{name}={text}", rng)
    return f"{name}={text}"


def test_odd_overrides():
    faults = damage.Faults()
    for number in range(CASES):
        text = draw_override(np.random.default_rng(number))

        def read(text=text):
            changes = config_lib.parse_overrides([text])
            return changes, config_lib.replace(ExperimentConfig(), changes)

        name, _, value = text.partition("=")
        places = (name.strip(), repr(name)[1:40], "--set=")
        result = damage.judge(f"case {number}: {text!r:.99}", read, (ConfigError,),
                              places, faults)  # fmt: skip
        if result is not None:
            (field,) = result[0]
            found = config_lib.flatten(result[1])[field]
            if found != meaning(value, field):
                faults.append(f"{text!r}: taken as {found!r}")
    report("odd overrides", inputs=CASES, **faults.outcomes)
    faults.none()


# --- configuration files --------------------------------------------------------------


def change_value(content, rng):
    """Another value, or another name, for one field of a JSON object."""
    values = json.loads(content)
    group = values
    while isinstance(group, dict) and group:
        name = list(group)[rng.integers(len(group))]
        if not isinstance(group[name], dict) or rng.random() < 0.1:
            odd = (None, True, -1, 1.5, "x", [], {}, [None], 10**400, "1", [[1]])
            if rng.random() < 0.3:
                group[mistype(name, rng)] = group.pop(name)
            else:
                group[name] = odd[rng.integers(len(odd))]
            break
        group = group[name]
    return json.dumps(values, indent=2).encode()


def differing(config, path):
    """The fields of config.json that `config` does not hold as they stand there."""
    stated = config_lib._flatten_mapping(json.loads(path.read_text(encoding="utf-8")))
    held = config_lib.flatten(config)
    return [
        name
        for name, value in stated.items()
        if name not in held
        or held[name] != (tuple(value) if isinstance(value, list) else value)
    ]


def test_damaged_configuration_files(tmp_path):
    spare, faults = tmp_path / "spare", damage.Faults()
    config = preset("coat", "darlr")
    spare.mkdir()
    write_json(spare / "config.json", config_lib.to_dict(config))
    shutil.copytree(spare, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    changes = (*damage.TEXT, *(change_value,) * 6)
    for number in range(CASES):
        with damage.spared(tmp_path / "run", spare):
            rng = np.random.default_rng(number)
            case = f"case {number}: {damage.apply(file, changes, rng)}"
            if "make_unreadable" in case or "make_pipe" in case:
                continue  # see test_damaged_runs.py
            found = damage.judge(case, lambda: load_config(tmp_path / "run"),
                                 (RunError,), (str(file),), faults)  # fmt: skip
            if found is not None and (wrong := differing(found, file)):
                faults.append(f"{case}: accepted with other {', '.join(wrong)}")
    report("damaged configuration files", inputs=CASES, **faults.outcomes)
    faults.none()


# --- flags ----------------------------------------------------------------------------


@pytest.fixture
def programs_flags():
    """The flags of `experiments.train`, as they were, afterwards."""
    yield flags.FLAGS
    forget(flags.FLAGS)


def forget(parser):
    """What was parsed before."""
    parser.unparse_flags()
    for module in (cli.__name__, train.__name__):
        for flag in parser.flags_by_module_dict()[module]:
            flag.unparse()


def draw_flags(rng):
    """One to four flags, most of them right."""
    good = [
        f"--dataset={DATASETS[rng.integers(len(DATASETS))]}",
        f"--method={list(METHODS)[rng.integers(len(METHODS))]}",
        f"--seeds={rng.integers(9)},{9 + rng.integers(9)}",
        f"--epochs={rng.integers(1, 99)}",
        f"--set={draw_override(rng)}",
    ]
    odd = WORDS[rng.integers(len(WORDS))]
    if rng.random() < 0.8:
        odd += f"={VALUES[rng.integers(len(VALUES))]}"
    chosen = [good[n] for n in rng.permutation(len(good))[: rng.integers(4)]]
    if rng.random() < 0.3 and chosen:
        chosen[0] = mistype(chosen[0], rng)
    return [*chosen, odd]


def start(arguments, parser):
    """What `experiments.train` does before it imports JAX: its flags, all checked.

    Files that flags name are looked for; nothing is generated, which takes its time.
    """
    forget(parser)
    rest = cli._parse_flags(["train.py", *arguments])
    if len(rest) > 1:
        return None
    config = cli.experiment_config()
    seeds = config_lib.parse_seeds(train.SEEDS.value)
    if config.dataset.name != "synthetic" and not config.dataset.twin:
        cli.prepare_dataset(config.dataset)
    return config, seeds


def test_odd_flags(programs_flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("darlr_jax.data.fetch.download", refuse_download)
    faults = damage.Faults()
    for number in range(CASES):
        arguments = draw_flags(np.random.default_rng(number))
        damage.judge(
            f"case {number}: {arguments!r:.200}",
            lambda arguments=arguments: in_one_line(arguments, programs_flags),
            (ConfigError, DataError),
            ("--", ": no such field", *(f"{g}." for g in GROUPS), "/", "error: "),
            faults,
        )
    report("odd flags", inputs=CASES, **faults.outcomes)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"digests.json"}
    faults.none()


def in_one_line(arguments, parser):
    """As `cli.run` ends a program: what absl says is a mistake of the user, too."""
    try:
        return start(arguments, parser)
    except SystemExit as stop:
        raise ConfigError(str(stop.code)) from None


def refuse_download(urls, target, **_):
    raise DataError(f"{target}: cannot be downloaded (no network in tests)")


def test_what_absl_refuses_is_one_line(tmp_path):
    (tmp_path / "flags").write_bytes(b"\xff\xfe")
    for argument in ("--epoch=3", "--epochs=x", "--flagfile=/none",
                     f"--flagfile={tmp_path / 'flags'}"):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            cli._parse_flags(["train.py", argument])
        assert str(stop.value.code).startswith("error: ")
        assert "\n" not in str(stop.value.code)
