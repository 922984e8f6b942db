"""checkpoint.py: states that go from one device to two and back, bit for bit.

The number of devices of a CPU is that of a process, so each count has its own.
"""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from darlr_jax.runs.checkpoint import Checkpointer
from tests.environments import ROOT, WARNINGS, with_devices
from tests.runs.test_checkpoint import assert_same, make_state

SEEDS = 4


def placed(layout, state):
    """`state`, with its seeds on all devices: a part of them each, or all of them."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("seeds",))
    axes = ("seeds",) if layout == "sharded" else ()
    spec = jax.sharding.PartitionSpec(*axes)
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, spec))


def save(folder, epoch, layout):
    with Checkpointer(folder, keep=3) as checkpointer:
        checkpointer.save(placed(layout, make_state(epoch, seeds=SEEDS)), epoch)


def restore(folder, epoch, layout):
    """What lies where it should, and is what was saved; otherwise it is said."""
    example = placed(layout, make_state(0, seeds=SEEDS))
    with Checkpointer(folder, keep=3) as checkpointer:
        restored = checkpointer.restore(example, epoch)
    assert_same(restored, make_state(epoch, seeds=SEEDS))
    for leaf, wanted in zip(*map(jax.tree.leaves, (restored, example)), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), leaf


def process(devices, folder, *calls):
    """Makes the calls, as "save 1 sharded", in a process with so many devices."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-m", __name__, str(folder), *calls],
        cwd=ROOT,
        env=with_devices(devices),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{devices} devices\n"


@pytest.mark.slow
def test_from_one_device_to_two_and_back(tmp_path):
    process(1, tmp_path, "save 1 sharded")
    process(
        *(2, tmp_path, "restore 1 sharded", "restore 1 replicated"),
        *("save 2 sharded", "save 3 replicated", "restore 2 replicated"),
    )
    process(1, tmp_path, "restore 2 sharded", "restore 3 sharded")


if __name__ == "__main__":
    for call in sys.argv[2:]:
        what, epoch, layout = call.split()
        {"save": save, "restore": restore}[what](sys.argv[1], int(epoch), layout)
    print(f"{jax.device_count()} devices")
