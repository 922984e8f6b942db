"""Every phase runs on invented tables, and its figures are what the report reads."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    compilation,
    counts,
    growth,
    machine,
    options,
    preparation,
    throughput,
    timing,
    workload,
)
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
    assert growth.parse_values(["2"], 2) == [2]
    with pytest.raises(ConfigError, match="'1' is no whole number from 2"):
        growth.parse_values(["2", "1"], 2)
    with pytest.raises(ConfigError, match="--values: names none"):
        growth.parse_values([])
    with pytest.raises(ConfigError, match="'x' is no whole number"):
        growth.parse_values(["1", "x"])
    with pytest.raises(ConfigError, match="'0' is no whole number"):
        growth.parse_values(["0"])


def test_a_picture_has_a_folder_before_anything_is_measured(tmp_path):
    assert growth.picture_path(str(tmp_path / "a.png")) == tmp_path / "a.png"
    with pytest.raises(ConfigError, match=r"there is no folder .*/none; create it"):
        growth.picture_path(str(tmp_path / "none" / "a.png"))
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        growth.picture_path(str(tmp_path))


class Late:
    """An array that is not there yet: it notes that it is waited for."""

    def __init__(self):
        self.waited = 0

    def block_until_ready(self):
        self.waited += 1
        return self


def test_what_is_timed_is_waited_for():
    result = Late()
    assert timing.timed(lambda: (None, result))[0] == (None, result)
    assert result.waited == 1


def test_every_call_whose_speed_is_measured_is_waited_for():
    results = []

    def function(carry):
        results.append(Late())
        return carry, results[-1]

    machine.fastest(function, None)
    assert [result.waited for result in results] == [1] * (machine._CALLS + 1)


def test_summary_by_hand():
    """Of 2, 4, 8 and 10 s; 9 s, 1 s and the first one's units are left out."""
    calls = [
        timing.Call(seconds, units)
        for seconds, units in ((90, 7), (8, 16), (2, 8), (10, 12), (4, 12))
    ]
    assert timing.summary(calls) == {
        "seconds": 6,
        "spread": (10 - 2) / 6,
        "calls": 4,
        "first_seconds": 90,
        "units": 12,
        "units_per_second": (2 + 3) / 2,  # of 2, 4, 1.2 and 3
    }


def test_results_that_take_the_place_of_arguments_are_counted_once():
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=5 * 2**20,
        output_size_in_bytes=4 * 2**20,
        alias_size_in_bytes=3 * 2**20,
        temp_size_in_bytes=2**19,
    )
    program = types.SimpleNamespace(memory_analysis=lambda: analysis)
    assert timing.memory_mib(program) == {
        "arguments": 5.0,
        "results": 1.0,
        "temporary": 0.5,
    }


@pytest.mark.parametrize(
    ("stamps", "speed"),
    [
        ([0.0, 9.0], None),  # the only epoch compiles
        ([0.0, 9.0, 11.0, 15.0, 25.0], 10 * 5 * 3 / 4.0),  # 2, 4 and 10 s
    ],
)
def test_pairs_of_the_world_model_a_second(monkeypatch, stamps, speed):
    """JSON has no NaN: null, where no epoch is left to be timed."""

    def fit(dataset, config, on_epoch):
        for _ in stamps:
            on_epoch({})

    clock = iter(stamps)
    time = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(throughput, "time", time)
    monkeypatch.setattr("darlr_jax.world_model.ensemble.fit_ensemble", fit)
    monkeypatch.setattr(
        "darlr_jax.world_model.tables.predict_tables", lambda *of: "tables"
    )
    changes = {"world_model.negatives": 5, "world_model.members": 3}
    config = config_lib.replace(CONFIG, changes)
    dataset = types.SimpleNamespace(log=range(10))
    assert throughput.time_world_model(dataset, config) == ("tables", speed)
    json.loads(json.dumps(speed))


def test_transitions_of_an_epoch_are_those_of_all_seeds(monkeypatch):
    """Two seeds make 3 and 4 an epoch; the first epoch is not counted."""

    def run_epoch(states, *inputs):
        return types.SimpleNamespace(env_steps=states.env_steps + np.array([3, 4])), {}

    compiled = types.SimpleNamespace(run_epoch=run_epoch, seconds=1.5)
    monkeypatch.setattr("experiments.training.compile_epoch", lambda *of: compiled)
    states = types.SimpleNamespace(env_steps=np.array([0, 0]))
    epochs, seconds, after = throughput.time_epochs(("learner",), states, repeats=2)
    assert (epochs["units"], epochs["calls"], seconds) == (7, 2, 1.5)
    assert list(after.env_steps) == [9, 12]


def test_rates_are_positive():
    rates = machine.measured_rates(Extents(matrix=8, softmax=16, memory=16))
    assert all(np.isfinite(rate) and rate > 0 for rate in rates)


def test_rates_are_what_a_call_does_over_its_seconds(monkeypatch):
    """A clock by which every call takes a quarter of a second, the first one longer."""
    stamps = itertools.chain([0.0, 9.0], itertools.count(10.0, 0.25))
    monkeypatch.setattr(machine, "_CALLS", 2)
    clock = types.SimpleNamespace(perf_counter=lambda: next(stamps))
    monkeypatch.setattr(machine, "time", clock)
    extents = Extents(matrix=8, softmax=16, memory=32, rounds=3)
    rates = machine.measured_rates(extents)
    assert rates == Rates(2 * 8**3 / 0.25, 3 * 16 / 0.25, 2 * 4 * 32 / 0.25)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_exponentials_are_taken_one_of_the_other(rounds):
    numbers = np.linspace(0.0, 1.0, 4, dtype=np.float32)
    expected = np.exp(numbers)
    for _ in range(rounds - 1):
        expected = np.exp(-expected)
    total = machine.exponentials(jnp.asarray(numbers), rounds=rounds)
    assert float(total) == pytest.approx(float(expected.sum()), rel=1e-6)


def test_exponentials_of_an_accelerator_are_not_bound_by_memory():
    """Of a number that is read, it takes far more than it could for 4 bytes.

    256 MiB of them, each once, were measured at the speed of the memory.
    """
    extents = machine._ON_ACCELERATOR
    assert 4 * extents.softmax <= 32 * 2**20  # caches of such devices hold more
    assert extents.rounds >= machine._UNROLLED >= 64
    assert machine._ON_CPU.rounds == 1


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
        ("report", "--only=", "names no piece; leave it out to measure all"),
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


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("growth", "--values=1", "--values: '1' is no whole number from 2"),
        (
            "growth",
            "--over=k_sel --method=mbpo",
            "--over=k_sel: --method=mbpo asks no reference users; take one that does, "
            "as darlr",
        ),
        (
            "phases",
            "--k_sel=5 --method=mbpo",
            "--k_sel=5: --method=mbpo asks no reference users; take one that does, as "
            "darlr",
        ),
        ("growth", "--plot=no/a.png", "--plot=no/a.png: there is no folder no; cre"),
        ("preparation", "--twin_scale=0.1", "'synthetic': no data set that has a twin"),
        (
            "preparation",
            "--dataset=coat --twin_scale=0",
            "scale of the twin of coat: expected a number within [0.0001, 1], found 0",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(module, flags, message):
    command = [sys.executable, "-m", f"benchmarks.{module}", *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "error"), [("import sys; sys.exit('error: one')", 1), ("exit(2)", 2)]
)
def test_a_compiling_process_that_fails_has_said_why(monkeypatch, capfd, code, error):
    """Its line is the last one: no traceback of this process follows."""
    run = subprocess.run
    monkeypatch.setattr(
        compilation.subprocess,
        "run",
        lambda command, **options: run([sys.executable, "-c", code], **options),
    )
    with pytest.raises(SystemExit) as ending:
        compilation._in_a_process("folder")
    assert ending.value.code == error
    assert capfd.readouterr().err == ("error: one\n" if error == 1 else "")


def test_a_compiling_process_that_is_ended_is_told_of(monkeypatch):
    ended = types.SimpleNamespace(returncode=-9, stdout="")
    monkeypatch.setattr(compilation.subprocess, "run", lambda *of, **how: ended)
    with pytest.raises(SystemExit, match=r"^error: .* was ended by signal 9$"):
        compilation._in_a_process("folder")


def test_data_that_cannot_be_prepared_end_with_the_line_of_the_program():
    code = "import sys; print('reading', file=sys.stderr); sys.exit('error: two')"
    with pytest.raises(SystemExit, match=r"^error: two$"):
        preparation._time([sys.executable, "-c", code])


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
