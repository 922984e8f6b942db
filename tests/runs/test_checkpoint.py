"""checkpoint.py: bit for bit, complete or absent, and the one before a damaged one."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import math
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from darlr_jax.config import ExperimentConfig, replace
from darlr_jax.runs import checkpoint
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import Identity, RunError
from darlr_jax.types import AgentState, TrainState
from tests.environments import ROOT, WARNINGS, with_devices


def make_state(seed=0, *, impl=None, seeds=3):
    """A state of `seeds` runs, without a selector and without a table of estimates."""
    key = jax.random.key(seed)
    params = {"Dense_0": {"kernel": jax.random.normal(key, (seeds, 2, 4))}}
    params["bf16/odd 'name'"] = jnp.arange(seeds, dtype=jnp.bfloat16) + seed
    fields = {
        name: jax.random.split(jax.random.key(seed, impl=impl), seeds)
        for name in TrainState.__dataclass_fields__
        if name.endswith("key")
    }
    return TrainState(
        recommender=AgentState(params, jax.vmap(optax.adam(1e-3).init)(params)),
        selector=None,
        previous_estimates=jnp.zeros((seeds, 0, 0)),
        epoch=jnp.full((seeds,), seed, jnp.int32),
        env_steps=jnp.arange(seeds, dtype=jnp.int32),
        **fields,
    )


def bits(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert bits(a) == bits(b)


@pytest.fixture
def checkpointer(tmp_path):
    opened = Checkpointer(tmp_path / "run" / "checkpoints")
    yield opened
    opened.close()


def test_a_checkpoint_of_an_earlier_version_is_called_so(tmp_path):
    """Not damaged: they had an array for each leaf, and the same record beside it."""
    state, leaves = make_state(7), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = jax.random.key_data(leaf) if is_key else leaf
        if data.size:
            leaves[jax.tree_util.keystr(path)] = data
    with Checkpointer(tmp_path / "now") as now:
        now.save(state, 3)
    with ocp.training.Checkpointer(tmp_path / "now") as now:
        record = now.metadata(3).custom_metadata
    with ocp.training.Checkpointer(tmp_path / "before") as before:
        before.save(3, leaves, custom_metadata=record)

    with (
        Checkpointer(tmp_path / "before") as before,
        pytest.raises(RunError, match=r"before/3: of an earlier version.*--overwrite"),
    ):
        before.restore(make_state())

    assert (tmp_path / "before" / "3").is_dir()  # not set aside


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_round_trip_bit_for_bit(checkpointer, impl):
    state = make_state(7, impl=impl)
    checkpointer.save(state, 1)
    restored = checkpointer.restore(make_state(0, impl=impl))
    assert_same(restored, state)
    assert restored.selector is None
    assert restored.key.dtype == state.key.dtype


def test_not_a_number_and_signed_zero_survive(checkpointer):
    state = {"x": jnp.array([jnp.nan, -0.0, -jnp.inf, 1e-45])}
    checkpointer.save(state, 1)
    assert_same(checkpointer.restore(state), state)


def test_shapes_and_types_are_all_that_is_needed(checkpointer):
    state = make_state(7)
    checkpointer.save(state, 1)
    assert_same(checkpointer.restore(jax.eval_shape(lambda: state)), state)


def test_restored_state_can_be_donated(checkpointer):
    state = make_state(7)
    checkpointer.save(state, 1)
    restored = checkpointer.restore(state)
    advance = jax.jit(lambda s: s.replace(env_steps=s.env_steps + 1), donate_argnums=0)
    assert advance(restored).env_steps.tolist() == [1, 2, 3]


def test_newest_are_kept(checkpointer):
    assert checkpointer.latest_epoch() is None
    for epoch in (1, 2, 5):
        checkpointer.save(make_state(epoch), epoch)
    checkpointer.wait()
    assert checkpointer.latest_epoch() == 5
    assert checkpointer.restore(make_state(0)).epoch[0] == 5
    assert checkpointer.restore(make_state(0), epoch=2).epoch[0] == 2
    with pytest.raises(RunError, match=r"no checkpoint of epoch 1, only of \[2, 5\]"):
        checkpointer.restore(make_state(0), epoch=1)


def test_another_process_finds_them(checkpointer, tmp_path):
    checkpointer.save(make_state(3), 3)
    checkpointer.close()
    later = Checkpointer(tmp_path / "run" / "checkpoints", keep=1)
    assert later.latest_epoch() == 3
    later.save(make_state(4), 4)
    assert_same(later.restore(make_state(0)), make_state(4))
    with pytest.raises(RunError, match="no checkpoint of epoch 3"):
        later.restore(make_state(0), epoch=3)
    later.close()


def test_the_best_is_kept_beside_the_newest(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for epoch, score in enumerate([1.0, 3.0, 2.0, math.nan, None, 3.0], start=1):
            checkpointer.save(make_state(epoch), epoch, score)
    assert folders(tmp_path) == ["2", "5", "6"]  # of equal ones the first
    with Checkpointer(tmp_path) as checkpointer:  # what was scored is stored
        checkpointer.save(make_state(7), 7, 2.0)
        checkpointer.wait()
        assert folders(tmp_path) == ["2", "6", "7"]
        checkpointer.save(make_state(8), 8, 4.0)
        checkpointer.wait()
        assert folders(tmp_path) == ["7", "8"]
        assert checkpointer.restore(make_state(0)).epoch[0] == 8


def folders(path):
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """A megabyte, and more, that the next epochs overwrite at once."""
    advance = jax.jit(lambda s: s * 1.5 + 1, donate_argnums=0)
    state, expected = jnp.arange(1_000_000, dtype=jnp.float32), []
    with Checkpointer(tmp_path, keep=5) as checkpointer:
        for epoch in range(1, 4):
            checkpointer.save({"x": state}, epoch)
            expected.append(np.array(state))
            for _ in range(3):
                state = advance(state)
    with Checkpointer(tmp_path) as checkpointer:
        for epoch, content in enumerate(expected, start=1):
            restored = checkpointer.restore({"x": state}, epoch=epoch)
            np.testing.assert_array_equal(restored["x"], content)


def test_the_newest_is_complete_when_its_folder_is_named(checkpointer):
    assert checkpointer.newest() is None
    checkpointer.save(make_state(4), 4)
    assert (checkpointer.newest() / "_CHECKPOINT_METADATA").exists()


IDENTITY = Identity(ExperimentConfig(), [0, 1], {"log.csv": "abc"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config": replace(ExperimentConfig(), {"selector.k_sel": 7})},
         "selector.k_sel: 15 -> 7"),
        ({"seeds": [0, 2]}, "seeds: [0, 1] -> [0, 2]"),
        ({"data": {"log.csv": "abd"}},
         "data: {'log.csv': 'abc'} -> {'log.csv': 'abd'}"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(tmp_path, fields, message):
    with Checkpointer(tmp_path, identity=IDENTITY) as checkpointer:
        checkpointer.save(make_state(1), 1)
    other = IDENTITY._replace(**fields)
    with Checkpointer(tmp_path, identity=other) as checkpointer:
        with pytest.raises(RunError) as error:
            checkpointer.restore(make_state(0))
        assert checkpointer.latest_epoch() == 1  # it is not taken for damaged
    assert str(error.value) == (
        f"{tmp_path}/1: is of another experiment ({message}); choose another "
        "--workdir, or --overwrite to replace it"
    )


def test_more_epochs_are_the_same_run(tmp_path):
    with Checkpointer(tmp_path, identity=IDENTITY) as checkpointer:
        checkpointer.save(make_state(1), 1)
    longer = IDENTITY._replace(config=replace(IDENTITY.config, {"training.epochs": 9}))
    with Checkpointer(tmp_path, identity=longer) as checkpointer:
        assert_same(checkpointer.restore(make_state(0)), make_state(1))


def test_a_checkpoint_that_does_not_say_of_which_run_it_is_is_refused(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(make_state(1), 1)
    with (
        Checkpointer(tmp_path, identity=IDENTITY) as checkpointer,
        pytest.raises(RunError, match="1: does not say of which run it is; start anew"),
    ):
        checkpointer.restore(make_state(0))


@pytest.mark.parametrize("epoch", [2, 1])
def test_epochs_only_go_forward(checkpointer, epoch):
    checkpointer.save(make_state(2), 2)
    with pytest.raises(RunError, match=f"cannot save epoch {epoch} after epoch 2"):
        checkpointer.save(make_state(9), epoch)
    assert checkpointer.restore(make_state(0)).epoch[0] == 2


def test_no_checkpoint(checkpointer):
    with pytest.raises(RunError, match="no checkpoint"):
        checkpointer.restore(make_state(0))


def cut_manifest(step):
    file = step / "state" / "manifest.ocdbt"
    file.write_bytes(file.read_bytes()[:20])


def cut_record(step):
    file = step / "_CHECKPOINT_METADATA"
    file.write_bytes(file.read_bytes()[:20])


def lose_data(step):
    shutil.rmtree(step / "state" / "d")


def change_data(step, monkeypatch):
    # What a flipped bit may look like: it reads well, and is something else.
    load = ocp.training.Checkpointer.load

    def flipped(self, epoch, target):
        restored = load(self, epoch, target)
        if epoch == 2:
            restored["content"][100] ^= 1
        return restored

    monkeypatch.setattr(ocp.training.Checkpointer, "load", flipped)


def change_description(step):
    # Likewise: a configuration that nobody ever had.
    file = step / "_CHECKPOINT_METADATA"
    text = file.read_text()
    assert text.count('"k_sel": 15') == 1
    file.write_text(text.replace('"k_sel": 15', '"k_sel": 14'))


def change_key(step):
    # Likewise: Orbax opens no folder in which it meets a key that it does not know.
    file = step / "_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace("item_handlers", "ipem_handlers", 1))


@pytest.mark.parametrize(
    "damage",
    [cut_manifest, cut_record, lose_data, change_data, change_description, change_key],
)
def test_damaged_newest_falls_back_and_is_named(tmp_path, damage, caplog, monkeypatch):
    first = Checkpointer(tmp_path, identity=IDENTITY)
    for epoch in (1, 2):
        first.save(make_state(epoch), epoch)
    first.close()
    damage(tmp_path / "2", *[monkeypatch] * (damage is change_data))
    checkpointer = Checkpointer(tmp_path, identity=IDENTITY)
    restored = checkpointer.restore(make_state(0))
    assert_same(restored, make_state(1))
    assert f"{tmp_path / '2'}: damaged checkpoint" in caplog.text
    assert checkpointer.latest_epoch() == 1
    assert (tmp_path / "damaged_2").is_dir()
    monkeypatch.undo()
    checkpointer.save(make_state(2), 2)  # the place is free again
    assert_same(checkpointer.restore(make_state(0)), make_state(2))
    checkpointer.close()


# No file may have more bytes than this, as if there were no room for more.
FAILING = """
import pathlib, resource, sys
import jax, numpy
from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunError

numbers = numpy.random.default_rng(0).random((40, 4096), numpy.float32)
state = {str(n): jax.device_put(row) for n, row in enumerate(numbers)}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for attempt in range(8):
    try:
        with Checkpointer(pathlib.Path(sys.argv[1]) / str(attempt)) as checkpointer:
            checkpointer.save(state, 1)
    except RunError as error:
        assert "File too large" in str(error)
    else:
        raise AssertionError("it was saved")
"""


def test_saves_that_fail_leave_nothing_on_the_terminal(tmp_path):
    """Each of them is one error; the storage has 39 more to report to nobody."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", FAILING, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def unraisable(monkeypatch):
    """Calls something as storage does, from outside Python; what Python says of it."""

    def call(target):
        said = []
        monkeypatch.setattr(sys, "unraisablehook", said.append)
        ctypes.CFUNCTYPE(None)(target)()
        (one,) = said
        return one

    return call


def test_answers_that_find_the_loop_closed_are_left_behind(unraisable):
    loop = asyncio.new_event_loop()
    loop.close()
    answer = functools.partial(loop.call_soon_threadsafe, print)
    assert checkpoint._is_left_behind(unraisable(answer))
    called_by_python = unraisable(lambda: loop.call_soon_threadsafe(print))
    assert str(called_by_python.exc_value) == "Event loop is closed"
    assert not checkpoint._is_left_behind(called_by_python)
    assert not checkpoint._is_left_behind(unraisable(lambda: [][0]))


def test_all_damaged_is_an_error_and_nothing_is_moved(checkpointer, tmp_path):
    for epoch in (1, 2):
        checkpointer.save(make_state(epoch), epoch)
        checkpointer.wait()
        cut_record(tmp_path / "run" / "checkpoints" / str(epoch))
    with pytest.raises(RunError, match=r"damaged checkpoints of epochs \[2, 1\]"):
        checkpointer.restore(make_state(0))
    assert checkpointer.latest_epoch() == 2


def test_damaged_older_one_does_not_hide_the_newest(tmp_path, caplog):
    with Checkpointer(tmp_path) as first:
        for epoch in (1, 2):
            first.save(make_state(epoch), epoch)
    change_key(tmp_path / "1")
    with Checkpointer(tmp_path) as checkpointer:
        assert_same(checkpointer.restore(make_state(0)), make_state(2))
    assert f"{tmp_path / '1'}: damaged checkpoint" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "damaged_1"]


def test_all_illegible_is_an_error_and_nothing_is_moved(tmp_path):
    with Checkpointer(tmp_path) as first:
        for epoch in (1, 2):
            first.save(make_state(epoch), epoch)
    for epoch in ("1", "2"):
        change_key(tmp_path / epoch)
    with pytest.raises(RunError, match=r"damaged checkpoints of epochs \[1, 2\]"):
        Checkpointer(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_remains_of_a_killed_save_are_ignored(tmp_path):
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest_epoch() is None
    checkpointer.save(make_state(7), 7)
    assert_same(checkpointer.restore(make_state(0)), make_state(7))
    checkpointer.close()


def other_key(state):
    return state.replace(key=jax.random.split(jax.random.key(0, impl="rbg"), 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: make_state(0, seeds=2), r"\[3, 2, 4\] stored, float32\[2, 2, 4\]"),
        (lambda s: s.replace(env_steps=s.env_steps * 1.0), r"env_steps: int32\[3\] st"),
        (
            lambda s: s.replace(selector=s.recommender),
            "selector.*nothing stored.*anew with --overwrite",
        ),
        (lambda s: s.replace(recommender=None), "nothing expected.* and .* more"),
        (lambda s: s.replace(previous_estimates=jnp.zeros((3, 2, 2))), r"\[3, 0, 0\]"),
        (other_key, r"key: key<fry>\[3\] stored, key<rbg>\[3\] expected"),
    ],
)
def test_state_of_another_shape_is_refused(checkpointer, change, message):
    checkpointer.save(make_state(1), 1)
    with pytest.raises(RunError, match=message):
        checkpointer.restore(change(make_state(0)))
    assert checkpointer.latest_epoch() == 1  # it is not taken for damaged


# --- devices --------------------------------------------------------------------------

_OTHER_DEVICES = """
import sys
import jax
from jax.sharding import NamedSharding, PartitionSpec
from darlr_jax.runs.checkpoint import Checkpointer
from tests.runs.test_checkpoint import assert_same, make_state

assert len(jax.devices()) == 4
by_seed = NamedSharding(jax.make_mesh((4,), ("seeds",)), PartitionSpec("seeds"))
spread = lambda state: jax.device_put(state, by_seed)
with Checkpointer(sys.argv[1]) as checkpoints:
    restored = checkpoints.restore(spread(make_state(0, seeds=4)))
    assert_same(restored, make_state(1, seeds=4))
    assert len(restored.env_steps.sharding.device_set) == 4
    checkpoints.save(spread(make_state(2, seeds=4)), 2)
"""


def test_another_number_of_devices(tmp_path):
    """One device writes, four read and write, one reads: bit for bit."""
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(make_state(1, seeds=4), 1)
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", _OTHER_DEVICES, str(tmp_path)],
        env=with_devices(4),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Checkpointer(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(0, seeds=4))
    assert_same(restored, make_state(2, seeds=4))
    assert len(restored.env_steps.sharding.device_set) == 1
