"""diagnosis.py: what a trained run is told about its estimates."""

from __future__ import annotations

import dataclasses

import pytest

from darlr_jax.config import RewardConfig
from experiments import diagnosis
from tests.simulation.worlds import tiny, tiny_dataset

REFERENCES = ("learned", "random", "nearest", "self", "farthest")


@pytest.mark.parametrize("references", REFERENCES)
def test_whoever_is_asked_has_a_name_and_a_unit(references):
    """Also a rule that reports do not know yet: it is found out after training."""
    config = tiny("darlr")
    reward = dataclasses.replace(config.reward, references=references)
    config = dataclasses.replace(config, reward=reward)
    name = diagnosis._chosen(config)
    assert name in diagnosis._units(tiny_dataset(config.dataset), config)
    assert (name == "farthest users") == (references == "farthest")


def test_no_two_rules_share_a_name():
    (field,) = (f for f in dataclasses.fields(RewardConfig) if f.name == "references")
    rules = set(field.metadata["choices"]) - {"none"}
    assert rules == set(diagnosis._CHOSEN)
    assert len(set(diagnosis._CHOSEN.values())) == len(rules)
