"""Damaged run directories, checkpoints and caches: what is in them, or a refusal.

What is kept for another day is checked before it is used: a prepared data set and a
world model that are damaged are made anew, a checkpoint gives way to the one before,
and a run directory that contradicts itself is refused.
"""

from __future__ import annotations

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax import config as config_lib
from darlr_jax.config import WorldModelConfig
from darlr_jax.data.cache import DatasetCache
from darlr_jax.data.synthetic import generate
from darlr_jax.presets import preset
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunDirectory, RunError, load_config
from darlr_jax.runs.results import load_metrics
from darlr_jax.runs.world_models import WorldModelStore
from darlr_jax.runs.writers import MetricsWriter
from darlr_jax.types import WorldModelTables
from tests.soak import damage, plain
from tests.soak.scale import count, report

CASES = count(short=40, long=1000)
CHECKPOINTS = count(short=12, long=1000)  # a case of which takes a second
CONFIG = preset("synthetic", "mbpo")
EPOCHS = 4
KEY = "0" * 64


def files_in(folder):
    """All but the lock, which says who had it last."""
    paths = (path for path in folder.rglob("*") if path.name != ".lock")
    return sorted(path for path in paths if path.is_file())


def harm(folder, number):
    """Damages a file, now and then two."""
    rng = np.random.default_rng(number)
    done = []
    for _ in range(1 + (rng.random() < 0.2)):
        paths = files_in(folder)
        if not paths:
            break
        path = paths[rng.integers(len(paths))]
        if rng.random() < 0.1:
            path.unlink()
            done.append(f"remove {path.relative_to(folder)}")
        else:
            what = damage.apply(path, damage.TEXT, rng, file_share=0.0)
            done.append(f"{what} of {path.parent.relative_to(folder)}")
    return f"case {number}: {', then '.join(done)}"


# --- caches ---------------------------------------------------------------------------


def test_damaged_data_sets_in_the_cache(tmp_path):
    dataset = generate(config_lib.SyntheticConfig(num_users=30, num_items=20))
    expected, faults = plain.facts(dataset), damage.Faults()
    DatasetCache(tmp_path / "spare").save(KEY, dataset)
    shutil.copytree(tmp_path / "spare", tmp_path / "cache")
    for number in range(CASES):
        with damage.spared(tmp_path / "cache", tmp_path / "spare"):
            case = harm(tmp_path / "cache", number)
            found = damage.judge(
                case, lambda: DatasetCache(tmp_path / "cache").load(KEY), (), (), faults
            )
            check_data(case, found, dataset, expected, faults)
    report("damaged data sets in the cache", inputs=CASES, **faults.outcomes)
    faults.none()


def check_data(case, found, dataset, expected, faults):
    if found is None:
        faults.outcomes["made anew"] += 1
        return
    same = (found.name, found.num_logged_users, found.ground_truth, found.sources) == (
        dataset.name, dataset.num_logged_users, dataset.ground_truth, dataset.sources
    )  # fmt: skip
    if not same or plain.differences(found, expected):
        faults.append(f"{case}: another data set is read")


def test_damaged_world_models_in_the_cache(tmp_path):
    rng = np.random.default_rng(0)
    tables = WorldModelTables(*(rng.random((9, 7)) for _ in WorldModelTables._fields))
    report_rows = [{"epoch": 1.0, "held_out_mae": 0.25}]
    config, faults = WorldModelConfig(), damage.Faults()
    WorldModelStore(tmp_path / "spare").save(config, KEY, tables, report_rows)
    shutil.copytree(tmp_path / "spare", tmp_path / "cache")
    for number in range(CASES):
        with damage.spared(tmp_path / "cache", tmp_path / "spare"):
            case = harm(tmp_path / "cache", number)
            store = WorldModelStore(tmp_path / "cache")
            found = damage.judge(case, lambda s=store: s.load(config, KEY), (), (),
                                 faults)  # fmt: skip
            if found is None:
                faults.outcomes["made anew"] += 1
            elif found[1] != report_rows or not all(
                map(np.array_equal, found[0], tables)
            ):
                faults.append(f"{case}: another world model is read")
    report("damaged world models in the cache", inputs=CASES, **faults.outcomes)
    faults.none()


# --- checkpoints ----------------------------------------------------------------------


def state_after(epoch):
    """What a run might have learned: two arrays, of which one is large."""
    key = jax.random.key(epoch)
    return {"weights": jax.random.normal(key, (40, 50)), "epoch": jnp.int32(epoch)}


@pytest.fixture(scope="module")
def spare_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spare") / "checkpoints"
    checkpoints = Checkpointer(folder)
    for epoch in (1, 2):
        checkpoints.save(state_after(epoch), epoch)
    checkpoints.close()
    return folder


@pytest.mark.timeout(7200)
def test_damaged_checkpoints(spare_checkpoints, tmp_path, caplog):
    folder, faults = tmp_path / "checkpoints", damage.Faults()
    shutil.copytree(spare_checkpoints, folder)
    expected = {epoch: np.asarray(state_after(epoch)["weights"]) for epoch in (1, 2)}
    for number in range(CHECKPOINTS):
        with damage.spared(folder, spare_checkpoints):
            case = harm(folder, number)
            found = damage.judge(
                case, lambda: restore(folder), (RunError,), (str(folder),), faults
            )
            if found is not None:
                weights, epoch = found
                faults.outcomes[f"epoch {epoch}"] += 1
                if not np.array_equal(weights, expected[epoch]):
                    faults.append(f"{case}: another state is restored")
    report("damaged checkpoints", inputs=CHECKPOINTS, **faults.outcomes)
    said = [r.getMessage() for r in caplog.records if "checkpoint (" not in r.msg]
    assert said == []
    faults.none()


def restore(folder):
    checkpoints = Checkpointer(folder)
    with contextlib.closing(checkpoints):
        state = checkpoints.restore(state_after(0))
    return np.asarray(state["weights"]), int(state["epoch"])


# --- run directories ------------------------------------------------------------------


def open_run(folder):
    return RunDirectory.open(
        folder, CONFIG, seeds=[0, 1], command=["train"], data_hashes={"log": "abc"}
    )


def rows_of(epoch):
    names = ("FB_R_tra", "NX_0_R_tra", "NX_10_R_tra")
    return [
        {"seed": seed, "epoch": epoch, "env_steps": 100 * epoch, "seconds": 0.5}
        | {name: epoch + seed / 7 + n for n, name in enumerate(names)}
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def spare_run(tmp_path_factory):
    """A run of two seeds and four epochs that was interrupted."""
    folder = tmp_path_factory.mktemp("spare") / "run"
    with open_run(folder) as run:
        writer = MetricsWriter(run)
        for epoch in range(1, EPOCHS + 1):
            writer.write(rows_of(epoch))
        run.close("interrupted")
    return folder


def resume(folder):
    """As a session does after a checkpoint of the last epoch, and one before it."""
    with open_run(folder) as run:
        MetricsWriter(run).truncate_after(EPOCHS - 1)


@pytest.mark.timeout(7200)
def test_damaged_run_directories(spare_run, tmp_path):
    folder, faults = tmp_path / "run", damage.Faults()
    shutil.copytree(spare_run, folder)
    whole = load_metrics(folder)
    for number in range(CASES):
        with damage.spared(folder, spare_run):
            case = harm(folder, number)
            places = (str(folder), "metrics.jsonl")
            metrics = damage.judge(f"{case}; tables", lambda: read(folder), (RunError,),
                                   places, faults)  # fmt: skip
            if metrics is not None and not whole.equals(metrics):
                faults.append(f"{case}: the tables read other metrics")
            before = len(faults)
            damage.judge(f"{case}; resume", lambda: resume(folder) or True, (RunError,),
                         places, faults)  # fmt: skip
            if len(faults) == before:
                check_resumed(case, folder, whole, faults)
    report("damaged run directories", inputs=CASES, **faults.outcomes)
    faults.none()


def read(folder):
    load_config(folder)
    return load_metrics(folder)


def check_resumed(case, folder, whole, faults):
    """What a resumed run goes on from is the beginning of what was there."""
    try:
        metrics = load_metrics(folder)
    except RunError:
        return  # it was refused, and is as it was
    kept = whole[whole["epoch"] <= metrics["epoch"].max()].reset_index(drop=True)
    if not kept.equals(metrics):
        faults.append(f"{case}: a resumed run goes on from other metrics")
