"""A whole epoch with the selector's other pools."""

import jax
import numpy as np
import pytest

from darlr_jax.experiment import init_seeds, run_epoch
from tests.simulation.worlds import (
    assemble,
    compiled_epoch,
    first_state,
    roll_out,
    tiny,
)

NEAREST = tiny("darlr", selector__pool="nearest", selector__pool_size=5)
CLUSTERS = tiny("darlr", selector__pool="clusters", selector__entropy_weight=0.1)


@pytest.mark.parametrize("config", [NEAREST, CLUSTERS], ids=["nearest", "clusters"])
def test_an_epoch_trains_the_selector(config):
    experiment = assemble(config)
    before = init_seeds(experiment, [0])
    old = jax.tree.map(np.asarray, before.selector.params)  # what follows is donated

    after, metrics = run_epoch(experiment, compiled_epoch(config), before)

    for name in ("selector_total_loss", "selector_entropy", "similarity", "NX_0_R_tra"):
        assert np.isfinite(metrics[name]).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), old, after.selector.params)
    assert all(jax.tree.leaves(moved))


def test_sessions_are_answered_for_by_users_of_the_pool():
    transitions, _ = roll_out(NEAREST, first_state(NEAREST))

    pool = np.asarray(assemble(NEAREST).tables.users.pool)[transitions.user]
    inside = (transitions.selector.users[..., None] == pool[..., None, :]).any(axis=-1)
    assert inside.all()
    assert len(np.unique(transitions.selector.users)) > 5
