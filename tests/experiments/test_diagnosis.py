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


def invented_visits(users, turns=4):
    """Of items and for rewards drawn at random; some episodes are over."""
    rng, shape = np.random.default_rng(0), (turns, len(users))
    item, other = rng.integers(tiny().dataset.synthetic.num_items, size=(2, *shape))
    estimate, other_estimate = rng.normal(size=(2, *shape))
    user, weight = np.broadcast_to(users, shape), rng.random(shape) < 0.7
    return Visits(user, item, estimate, other, other_estimate, weight)


@pytest.mark.parametrize("references", REFERENCES)
def test_whoever_is_asked_has_a_name_and_a_unit(references):
    """Also a rule that reports do not know yet: it is found out after training."""
    config = tiny("darlr")
    reward = dataclasses.replace(config.reward, references=references)
    config = dataclasses.replace(config, reward=reward)
    dataset = tiny_dataset(config.dataset)
    world_model = invented_world_model(dataset)
    users = np.arange(2)
    visits, neighbours = invented_visits(users), world_model.prediction[users]
    found = diagnosis._compare(visits, users, world_model, neighbours, config)
    units = diagnosis._units(dataset, config)
    for cells in found:
        assert list(cells.values) == list(units)
    name = diagnosis._chosen(config)
    assert (name == "farthest users") == (references == "farthest")


def test_estimates_are_looked_up_cell_by_cell():
    config, users = tiny("darlr"), np.array([1, 4, 9])
    world_model = invented_world_model(tiny_dataset(config.dataset))
    prediction, visits = world_model.prediction, invented_visits(users)
    neighbours = np.random.default_rng(1).normal(size=(3, prediction.shape[1]))

    found = diagnosis._compare(visits, users, world_model, neighbours, config)

    going = np.argwhere(visits.weight).tolist()
    shown = [(users[row], visits.item[turn, row]) for turn, row in going]
    for cells, item, paid in (
        (found.recommended, visits.item, visits.estimate),
        (found.other, visits.other, visits.other_estimate),
    ):
        assert len(cells.users) == len(going) < visits.item.size
        for n, (turn, row) in enumerate(going):
            cell = users[row], item[turn, row]
            assert (cells.users[n], cells.items[n]) == cell
            assert cells.visits[n] == shown.count(cell)
            said = {name: values[n] for name, values in cells.values.items()}
            assert said == pytest.approx(
                {
                    "own estimate": prediction[cell],
                    "nearest users (ROLeR)": neighbours[row, cell[1]],
                    "mean of all users": prediction[:, cell[1]].mean(),
                    "selected users": paid[turn, row],
                }
            )


def test_no_two_rules_share_a_name():
    (field,) = (f for f in dataclasses.fields(RewardConfig) if f.name == "references")
    rules = set(field.metadata["choices"]) - {"none"}
    assert rules == set(diagnosis._CHOSEN)
    assert len(set(diagnosis._CHOSEN.values())) == len(rules)
