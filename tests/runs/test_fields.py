"""fields.py: which fields a run depends on."""

from __future__ import annotations

import dataclasses

import pytest

from darlr_jax import config as config_lib
from darlr_jax.presets import preset
from darlr_jax.runs.fields import changed_fields, fields_read

OF_A_TRANSFORMER = {
    "tracker.layers": 3,
    "tracker.heads": 3,
    "tracker.dropout": 0.3,
    "tracker.readout": "published",
}


@pytest.mark.parametrize("kind", ["average", "none"])
def test_fields_of_a_transformer_are_of_no_other_tracker_of_ours(kind):
    config = config_lib.replace(preset("synthetic", "darlr"), OF_A_TRANSFORMER)
    config = config_lib.replace(config, {"tracker.kind": kind})
    assert not OF_A_TRANSFORMER.keys() & fields_read(config).keys()


def test_a_tracker_that_is_not_known_here_reads_them_all():
    """Or rows that differ in them would be taken for one, and all but one left out."""
    config = config_lib.replace(preset("coat", "darlr"), OF_A_TRANSFORMER)
    tracker = dataclasses.replace(config.tracker, kind="gru")
    config = dataclasses.replace(config, tracker=tracker)
    before = config_lib.flatten(preset("coat", "darlr"))
    moved = {k: v for k, v in OF_A_TRANSFORMER.items() if before[k] != v}
    assert len(moved) > 2
    assert changed_fields(config) == moved | {"tracker.kind": "gru"}
