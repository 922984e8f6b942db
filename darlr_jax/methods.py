"""The comparison table in code: a method is a row of choices over one pipeline.

Adding a method is adding a row and, at most, one function in `simulation/rewards.py`.
The module imports neither JAX nor NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

from darlr_jax.config import ConfigError, nearest_name


class Method(NamedTuple):
    """One row; the first four fields are those of `config.RewardConfig`."""

    estimate: str  # whose reward is believed
    uncertainty: str  # what is subtracted
    entropy: bool  # whether the entropy bonus is added
    references: str  # who answers for the user
    summary: str  # one line for --help and the tables
    learner: str = "a2c"  # which algorithm learns: `config.ExperimentConfig.learner`


def _without_reward(learner: str, summary: str) -> Method:
    """A learner that is not trained on estimated rewards."""
    return Method("none", "none", False, "none", summary, learner)


METHODS: dict[str, Method] = {
    # The published comparison.
    "gt": Method(
        "true", "none", False, "none", "A2C on the true reward (GT-Reward)"
    ),
    "mbpo": Method(
        "world_model", "none", False, "none", "A2C on the world model's prediction"
    ),
    "ips": Method(
        "world_model", "none", False, "none",
        "MBPO on one world model whose rows count less for frequent items",
    ),
    "cirs": Method(
        "world_model", "none", False, "none",
        "MBPO whose items pay less, the more like them the user has seen",
    ),
    "mopo": Method(
        "world_model", "ensemble_variance", False, "none",
        "MBPO less the ensemble's largest predicted variance",
    ),
    "dorl": Method(
        "world_model", "ensemble_variance", True, "none",
        "MOPO with the k-order entropy bonus",
    ),
    "roler": Method(
        "neighbours", "none", True, "none",
        "mean over the k nearest users, frozen",
    ),
    "darlr": Method(
        "references", "dynamic", True, "learned",
        "mean over selected reference users, dynamic uncertainty",
    ),
    # Controls of DARLR: the same pipeline with one thing replaced.
    "darlr_random": Method(
        "references", "dynamic", True, "random", "DARLR with random reference users"
    ),
    "darlr_nearest": Method(
        "references", "dynamic", True, "nearest", "DARLR with the k nearest other users"
    ),
    "darlr_self": Method(
        "references", "dynamic", True, "self", "DARLR with the user as only reference"
    ),
    "population_mean": Method(
        "population_mean", "none", False, "none", "the mean prediction over all users"
    ),
    "user_centred": Method(
        "user_centred", "none", False, "none", "the prediction without the user's level"
    ),
    # Offline learners: from the log alone, without a simulated user.
    "sqn": _without_reward("sqn", "imitation of the log, its encoder shaped by Q"),
    "bcq": _without_reward("bcq", "Q-learning among the actions the log supports"),
    "cql": _without_reward("cql", "Q-learning held down off the log, with quantiles"),
    "crr": _without_reward("crr", "imitation of the log, weighted by the advantage"),
    # Bandits on one world model that is trained between evaluations.
    "ucb": _without_reward(
        "ucb", "the world model's best item with an upper confidence bound"
    ),
    "epsilon_greedy": _without_reward(
        "epsilon_greedy", "the world model's best item, 3 times in 10 a random one"
    ),
    # Floor and ceiling; nothing is learned.
    "random": _without_reward("random", "a random item"),
    "popularity": _without_reward("popularity", "the item that is logged most"),
    "oracle": _without_reward(
        "oracle", "the item that truly pays the user most, whether she stays or not"
    ),
}  # fmt: skip


def get_method(name: str) -> Method:
    """The row called `name`. Raises ConfigError with the nearest name."""
    if name not in METHODS:
        raise ConfigError(
            f"--method={name}: no such method; {nearest_name(name, METHODS)}"
        )
    return METHODS[name]
