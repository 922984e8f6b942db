"""Every phase runs on invented tables, and its figures are what the report reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import counts, growth, machine, options, timing, workload
from benchmarks.invented import invent_experiment, invent_fit, sizes_of
from benchmarks.machine import Extents, Rates
from benchmarks.options import Limits
from benchmarks.timing import Stopwatch
from darlr_jax import config as config_lib
from darlr_jax.config import ConfigError
from darlr_jax.experiment import init_seeds
from darlr_jax.presets import preset
from darlr_jax.training.program import build_program
from darlr_jax.training.rollout import collect
from tests.experiments.sizes import REFERENCES, SYNTHETIC, TRAINING

CONFIG = config_lib.replace(
    preset("synthetic", "darlr"),
    config_lib.parse_overrides((*SYNTHETIC, *TRAINING, *REFERENCES)),
)
RATES = Rates(1e9, 1e9, 1e9)
FIGURES = {
    *("seconds", "spread", "calls", "first_seconds", "unit", "units"),
    *("units_per_second", "compile_seconds", "memory_mib", "work"),
    *("floor_seconds", "bound_by", "ratio"),
}


@pytest.fixture(scope="module")
def run() -> workload.Run:
    sizes = sizes_of(CONFIG)
    experiment = invent_experiment(CONFIG, sizes)
    states = init_seeds(experiment, range(2))
    return workload.Run(experiment, states, counts.shapes_of(CONFIG, sizes))


@pytest.fixture(scope="module")
def transitions(run):
    """Of the shapes that a collect gives, all of them real."""
    phase = workload.collecting(run)
    shapes = jax.eval_shape(phase.run, phase.carry, *phase.inputs)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros._replace(weight=jnp.ones(shapes.weight.shape))


@pytest.fixture(scope="module")
def phases(run, transitions) -> dict[str, workload.Phase]:
    fit = invent_fit(CONFIG, sizes_of(CONFIG), steps=2)
    phases = (
        workload.training(run),
        workload.collecting(run),
        workload.selecting(run, transitions),
        workload.updating(run, transitions, both=True),
        workload.updating(run, transitions, both=False),
        workload.evaluating(run, all_users=False),
        workload.evaluating(run, all_users=True),
        workload.fitting(fit, CONFIG, sizes_of(CONFIG)),
    )
    return {phase.name: phase for phase in phases}


def test_carry_comes_back_as_it_was(phases):
    """So that a program can be called with what its last call gave."""
    assert len(phases) == 8
    for phase in phases.values():
        carry, _ = jax.eval_shape(phase.run, phase.carry, *phase.inputs)
        before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), phase.carry)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), carry) == before


def test_parts_do_the_work_of_the_whole(phases):
    both = phases["collect"].work(80) + phases["update"].work(80)
    assert phases["training"].work(80) == both


def test_parts_are_less_than_what_they_are_of(phases):
    for part in ("collect: selector", "update: recommender"):
        whole = phases[part.partition(":")[0]].work(80)
        assert 0 < phases[part].work(80).operations < whole.operations
        assert 0 < phases[part].work(80).bytes < whole.bytes


def test_units_are_what_was_made(phases, transitions):
    real = transitions.weight.size
    assert phases["collect"].units(transitions) == real
    assert phases["update"].units({}) == phases["collect: selector"].units(()) == real
    assert phases["training"].units({"transitions": jnp.array([3, 4])}) == 7
    scores = {f"{mode}_len_tra": jnp.array([2.0, 4.0]) for mode in ("FB", "NX_0")}
    scores["NX_10_len_tra"] = jnp.array([10.0, 10.0])
    drawn = CONFIG.evaluation.episodes
    assert phases["evaluation"].units(scores) == 32 * drawn
    assert phases["evaluation, all users"].units(scores) == 32 * (drawn + 12)
    members, batch = CONFIG.world_model.members, CONFIG.world_model.batch_size
    assert phases["world model"].units(None) == members * 2 * batch


def test_figures_of_a_phase(phases):
    stopwatch = Stopwatch(RATES, Limits(calls=2, seconds=0.0), lambda text: None)
    stopwatch.time(phases["collect: selector"])
    stopwatch.time(phases["world model"])
    assert list(stopwatch.figures) == ["collect: selector", "world model"]
    for figures in stopwatch.figures.values():
        assert set(figures) == FIGURES
        assert figures["calls"] == 2
        floor = figures["work"][figures["bound_by"]] / 1e9
        assert figures["floor_seconds"] == pytest.approx(floor)
        assert figures["ratio"] == pytest.approx(figures["seconds"] / floor)
    json.dumps(stopwatch.figures)


@pytest.mark.parametrize(
    ("limits", "seconds", "goes_on"),
    [
        (Limits(calls=5, seconds=1.0), [9.0, 9.0], True),  # three at least
        (Limits(calls=5, seconds=1.0), [9.0, 9.0, 9.0], False),
        (Limits(calls=5, seconds=1.0), [0.1] * 4, True),
        (Limits(calls=5, seconds=1.0), [0.1] * 5, False),
        (Limits(calls=1, seconds=1.0), [0.1], False),
    ],
)
def test_calls_end_with_time_or_number(limits, seconds, goes_on):
    assert timing._goes_on(seconds, limits) == goes_on


def test_groups_are_those_that_a_collect_serves(run):
    program = run.experiment.program._replace(sessions_at_once=3)
    weight = np.zeros((2, 3, 8))
    weight[:, 0] = 1  # all 8 sessions of both seeds: 3 groups
    weight[0, 1, :4] = 1  # 4 of one seed, 1 of the other: 2 groups
    weight[1, 1, :1] = 1
    assert workload._groups_served(program, weight) == (3 + 2 + 0, 3)


def test_without_early_exits_a_turn_is_one_group(run):
    changes = {"environment.exit_rule": "none"}
    config = config_lib.replace(CONFIG, changes)
    program = run.experiment.program._replace(config=config)
    assert workload._groups_served(program, np.ones((2, 5, 8))) == (5, 8)


@pytest.mark.parametrize("pool", ["nearest", "clusters"])
def test_pools_are_of_other_users(pool):
    changes = {"selector.pool": pool, "selector.pool_size": 5}
    config = config_lib.replace(CONFIG, changes)
    tables = invent_experiment(config, sizes_of(config)).tables
    users = tables.rewards.base.shape[0]
    if pool == "nearest":
        rows = np.asarray(tables.users.pool)
        assert rows.shape == (users, 5)
        assert all(len(set(row)) == 5 and u not in row for u, row in enumerate(rows))
        return
    members = np.asarray(tables.users.pool.members).ravel()
    slot = np.asarray(tables.users.pool.slot)
    np.testing.assert_array_equal(members[slot], np.arange(users))


@pytest.mark.parametrize("method", ["gt", "dorl", "roler", "cirs", "darlr_nearest"])
def test_tables_fit_every_method(method):
    """Traced, not compiled: a table of a wrong shape fails."""
    small = config_lib.parse_overrides((*SYNTHETIC, *TRAINING, *REFERENCES))
    config = config_lib.replace(preset("synthetic", method), small)
    experiment = invent_experiment(config, sizes_of(config))
    state = experiment.learner.init(jax.random.key(0), experiment.tables)
    program = build_program(config, experiment.tables)
    transitions, _ = jax.eval_shape(
        lambda: collect(
            *(state, jax.random.key(1), experiment.tables, experiment.coefficients),
            program=program,
        )
    )
    assert transitions.reward.shape == (5, 8)


def test_only_a2c_learns_on_invented_tables():
    config = preset("coat", "popularity")
    with pytest.raises(ConfigError, match="--method=popularity"):
        invent_experiment(config, sizes_of(config))


def test_more_references_than_users_are_refused():
    config = options.with_references(CONFIG, 12)
    with pytest.raises(ConfigError, match="12 reference users"):
        invent_experiment(config, sizes_of(config))


def test_sizes_that_are_not_known_are_refused():
    with pytest.raises(ConfigError, match="--dataset=csv: no sizes"):
        sizes_of(preset("csv", "darlr"))


def test_sizes_grow_with_what_was_logged():
    sizes = options.resized(sizes_of(preset("kuairec", "mbpo")), users=9_000, items=5)
    assert (sizes.users, sizes.logged_users) == (9_000, 9_000)
    assert (sizes.items, sizes.logged_items) == (5, 10_728)


@pytest.mark.parametrize(
    ("over", "read"),
    [
        ("users", lambda s: s.sizes.users),
        ("items", lambda s: s.sizes.items),
        ("seeds", lambda s: s.num_seeds),
        ("k_sel", lambda s: s.config.selector.k_sel),
        ("environments", lambda s: s.config.training.environments),
    ],
)
def test_one_size_grows(over, read):
    start = growth.Setting(CONFIG, sizes_of(CONFIG), 1)
    grown = start.grown(over, 77)
    assert read(grown) == 77
    assert read(start) != 77


def test_values_are_whole_numbers():
    assert growth.parse_values(["1", " 20"]) == [1, 20]
    with pytest.raises(ConfigError, match="'x' is no whole number"):
        growth.parse_values(["1", "x"])
    with pytest.raises(ConfigError, match="'0' is no whole number"):
        growth.parse_values(["0"])


def test_rates_are_positive():
    rates = machine.measured_rates(Extents(matrix=8, softmax=16, memory=16))
    assert all(np.isfinite(rate) and rate > 0 for rate in rates)


def test_fastest_call_leaves_out_the_first():
    """The carry goes from call to call."""
    seen = []

    def function(carry, x):
        seen.append(carry)
        return carry + 1, x

    assert machine.fastest(function, 0, jnp.ones(())) > 0
    assert seen == list(range(len(seen)))


def test_cores_are_counted_where_the_system_does_not_tell(monkeypatch):
    assert machine.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("module", "flag", "why"),
    [
        ("throughput", "--k_sel=30", "here it is --set=selector.k_sel"),
        ("throughput", "--users=9", "the data set has its own"),
        ("throughput", "--calls=2", "--repeats says how many epochs are timed"),
        ("preparation", "--set=seed=1", "only --dataset and --twin_scale are read"),
        ("preparation", "--data_dir=x", "generated in a folder that is removed"),
        ("phases", "--data_dir=x", "tables are invented, and no files are read"),
        ("compilation", "--calls=2", "a process compiles each program once"),
        ("compilation", "--cache_dir=x", "a new folder is taken; it is for --once"),
        ("growth", "--users=9", "it grows (--over=users); --values are its values"),
        ("machine", "--num_seeds=2", "a machine is measured, not an experiment"),
        ("report", "--dataset=coat", "each piece has its own"),
    ],
)
def test_flags_that_a_program_does_not_read_are_refused(module, flag, why):
    command = [sys.executable, "-m", f"benchmarks.{module}", flag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    name = flag.partition("=")[0]
    assert done.stderr.startswith(f"error: {name}: ")
    assert done.stderr.endswith(f"{why}\n")


_SMALL = [f"--set={text}" for text in (*SYNTHETIC, *TRAINING, *REFERENCES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "flags", "fields"),
    [
        (
            "phases",
            ["--measure=training", "--calls=1", *_SMALL],
            {"phases", "rates", "setting"},
        ),
        (
            "growth",
            ["--over=k_sel", "--values=2", "--calls=1", *_SMALL],
            {"over", "value", "figures"},
        ),
        ("compilation", _SMALL, {"cold", "warm", "setting"}),
        ("machine", [], {"figures"}),
    ],
)
def test_programs_print_lines_of_json(module, flags, fields):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 1
    assert fields | {"session"} <= set(records[0])
    assert records[0]["session"]["command"].startswith(f"python -m benchmarks.{module}")
