"""What is kept of a phase's work is what its configuration is counted to need now.

Seconds and rates are measured and stay; work, floor and ratio follow from them. Where a
count or a preset has changed since, these are to be written anew from the record's own
rates (or the record measured again).
"""

from __future__ import annotations

import dataclasses
import shlex
import types

import pytest

from benchmarks import counts, options, phases, report, tables, workload
from benchmarks.counts import Work
from benchmarks.invented import sizes_of
from benchmarks.machine import Rates
from darlr_jax import config as config_lib
from darlr_jax.presets import preset

KEPT = [
    pytest.param(record, id=f"{file.parent.name}-{file.stem}-{record.get('value', '')}")
    for file in sorted(report.RESULTS.glob("*/*.json"))
    for record in tables.read(file)
    if "phases" in record or "over" in record
]


def configuration(record):
    """The configuration and sizes that a record's command and setting speak of."""
    setting = record["setting"]
    words = shlex.split(record["session"]["command"])
    overrides = [w.removeprefix("--set=") for w in words if w.startswith("--set=")]
    changes = config_lib.parse_overrides(overrides)
    changes |= {"training.environments": setting["environments"]}
    config = config_lib.replace(preset(setting["dataset"], setting["method"]), changes)
    if setting["k_sel"] is not None:
        config = options.with_references(config, setting["k_sel"])
    sizes = options.resized(sizes_of(config), setting["users"], setting["items"])
    described = options.describe(config, sizes.users, sizes.items, setting["num_seeds"])
    assert described == setting
    return config, sizes


def counted(name, units, record) -> Work:
    """What `units` of the phase `name` cannot do without."""
    config, sizes = configuration(record)
    seeds, shapes = record["setting"]["num_seeds"], counts.shapes_of(config, sizes)
    run = types.SimpleNamespace(config=config, seeds=seeds, shapes=shapes)
    work = {
        "training": lambda: (
            counts.collecting(shapes, units, seeds)
            + workload.learning(run, units, both=True)
        ),
        "collect": lambda: counts.collecting(shapes, units, seeds),
        "collect: selector": lambda: (
            counts.picking(shapes).times(units) + counts.encoding(shapes).times(seeds)
        ),
        "update": lambda: workload.learning(run, units, both=True),
        "update: recommender": lambda: workload.learning(run, units, both=False),
        "evaluation": lambda: counts.recommending(shapes).times(units),
        "evaluation, all users": lambda: counts.recommending(shapes).times(units),
        "world model": lambda: counts.fitting(
            config, sizes, units, phases._GRADIENT_STEPS
        ),
    }
    return work[name]()


def phases_of(record):
    """Name -> figures; growth is of the phase `training` alone."""
    return record.get("phases") or {"training": record["figures"]}


def close(value):
    return pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("record", KEPT)
def test_kept_work_is_what_is_counted_now(record):
    for name, figures in phases_of(record).items():
        work = dataclasses.asdict(counted(name, figures["units"], record))
        assert figures["work"] == close(work), name


@pytest.mark.parametrize("record", KEPT)
def test_kept_floors_and_ratios_follow_from_the_kept_work(record):
    for name, figures in phases_of(record).items():
        floor_seconds = figures["floor_seconds"]
        assert figures["ratio"] == close(figures["seconds"] / floor_seconds), name
        if "rates" in record:
            rates = Rates(**record["rates"])
            floor = counts.floor(Work(**figures["work"]), rates)
            assert (floor_seconds, figures["bound_by"]) == (close(floor[0]), floor[1])


@pytest.mark.parametrize("file", sorted(report.RESULTS.glob("*/growth_*.json")))
def test_rows_of_growth_have_the_rates_of_one_machine(file):
    """Those of older rows are not kept: work over the floor is the one that bounds."""
    rates = {}
    for record in tables.read(file):
        figures = record["figures"]
        rate = figures["work"][figures["bound_by"]] / figures["floor_seconds"]
        assert rates.setdefault(figures["bound_by"], rate) == close(rate)
