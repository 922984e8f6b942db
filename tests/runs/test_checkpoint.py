"""checkpoint.py: bit for bit, complete or absent, and the one before a damaged one."""

from __future__ import annotations

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from darlr_jax.runs.checkpoint import Checkpointer
from darlr_jax.runs.directory import RunError
from darlr_jax.types import AgentState, TrainState


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
    later = Checkpointer(tmp_path / "run" / "checkpoints", keep=1)
    assert later.latest_epoch() == 3
    later.save(make_state(4), 4)
    assert_same(later.restore(make_state(0)), make_state(4))
    with pytest.raises(RunError, match="no checkpoint of epoch 3"):
        later.restore(make_state(0), epoch=3)
    later.close()


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


def change_digest(step):
    # What a flipped bit in the data looks like: it reads well, and is something else.
    file = step / "_CHECKPOINT_METADATA"
    text = file.read_text()
    position = text.index('"sha256": "') + len('"sha256": "')
    flipped = "0" if text[position] != "0" else "1"
    file.write_text(text[:position] + flipped + text[position + 1 :])


# A load that fails leaves coroutines of the storage behind, which nobody awaits.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("damage", [cut_manifest, cut_record, lose_data, change_digest])
def test_damaged_newest_falls_back_and_is_named(tmp_path, damage, caplog):
    first = Checkpointer(tmp_path)
    for epoch in (1, 2):
        first.save(make_state(epoch), epoch)
    first.close()
    damage(tmp_path / "2")
    checkpointer = Checkpointer(tmp_path)
    restored = checkpointer.restore(make_state(0))
    assert_same(restored, make_state(1))
    assert f"{tmp_path / '2'}: damaged checkpoint" in caplog.text
    assert checkpointer.latest_epoch() == 1
    assert (tmp_path / "damaged_2").is_dir()
    checkpointer.save(make_state(2), 2)  # the place is free again
    assert_same(checkpointer.restore(make_state(0)), make_state(2))
    checkpointer.close()
    gc.collect()  # those coroutines, while the filter stands


def test_all_damaged_is_an_error_and_nothing_is_moved(checkpointer, tmp_path):
    for epoch in (1, 2):
        checkpointer.save(make_state(epoch), epoch)
        cut_record(tmp_path / "run" / "checkpoints" / str(epoch))
    with pytest.raises(RunError, match=r"damaged checkpoints of epochs \[2, 1\]"):
        checkpointer.restore(make_state(0))
    assert checkpointer.latest_epoch() == 2


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
        (lambda s: s.replace(selector=s.recommender), "selector.*nothing stored"),
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
