"""diagnosis.py: what a trained run is told about its estimates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from darlr_jax.config import RewardConfig
from darlr_jax.training.visits import Visits
from experiments import diagnosis
from tests.simulation.worlds import invented_world_model, tiny, tiny_dataset

REFERENCES = ("learned", "random", "nearest", "self", "farthest")


@pytest.mark.parametrize("references", REFERENCES)
def test_whoever_is_asked_has_a_name_and_a_unit(references):
    """Also a rule that reports do not know yet: it is found out after training."""
    config = tiny("darlr")
    reward = dataclasses.replace(config.reward, references=references)
    config = dataclasses.replace(config, reward=reward)
    dataset = tiny_dataset(config.dataset)
    world_model = invented_world_model(dataset)
    users = np.arange(2)
    turn = [users, users, np.ones(2), users, np.ones(2), np.ones(2)]
    visits = Visits(*(column[None] for column in turn))
    neighbours = world_model.prediction[users]
    found = diagnosis._compare(visits, users, world_model, neighbours, config)
    units = diagnosis._units(dataset, config)
    for cells in found:
        assert list(cells.values) == list(units)
    name = diagnosis._chosen(config)
    assert (name == "farthest users") == (references == "farthest")


def test_no_two_rules_share_a_name():
    (field,) = (f for f in dataclasses.fields(RewardConfig) if f.name == "references")
    rules = set(field.metadata["choices"]) - {"none"}
    assert rules == set(diagnosis._CHOSEN)
    assert len(set(diagnosis._CHOSEN.values())) == len(rules)
