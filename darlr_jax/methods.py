"""The comparison table in code: a method is a row of choices over one pipeline.

Adding a method is adding a row and, at most, one function, its name among the choices
of a field in `config.py`, and the line that chooses it: CONTRIBUTING.md says which.
The module imports neither JAX nor NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

from darlr_jax.config import ConfigError, nearest_name


class Method(NamedTuple):
    """One row: how a recommendation is paid, and who learns from that.

    `estimate`, `uncertainty` and `references` are the fields of `config.RewardConfig`
    of these names.
    """

    summary: str  # one line for --help and the tables
    learner: str = "a2c"  # which algorithm learns: `config.ExperimentConfig.learner`
    estimate: str = "none"  # whose reward is believed
    uncertainty: str = "none"  # what is subtracted
    entropy: bool = False  # whether the entropy bonus is added, or lambda_e is 0
    references: str = "none"  # who answers for the user
    family: str = ""  # the method whose presets it has, but for its own
    needs_tags: bool = False  # makes sense only where users leave by tags


def _darlr(references: str, summary: str) -> Method:
    """DARLR, and what differs from it in who the reference users are."""
    return Method(
        summary,
        estimate="references",
        uncertainty="dynamic",
        entropy=True,
        references=references,
        family="darlr",
    )


METHODS: dict[str, Method] = {
    # The published comparison.
    "gt": Method("A2C on the true reward (GT-Reward)", estimate="true"),
    "mbpo": Method("A2C on the world model's prediction", estimate="world_model"),
    "ips": Method(
        "MBPO on one world model whose rows count less for frequent items",
        estimate="world_model",
    ),
    "cirs": Method(
        "MBPO whose items pay less, the more like them the user has seen",
        estimate="world_model",
    ),
    "mopo": Method(
        "MBPO less the ensemble's largest predicted variance",
        estimate="world_model",
        uncertainty="ensemble_variance",
    ),
    "dorl": Method(
        "MOPO with the k-order entropy bonus",
        estimate="world_model",
        uncertainty="ensemble_variance",
        entropy=True,
    ),
    "roler": Method(
        "mean over the k nearest users, frozen", estimate="neighbours", entropy=True
    ),
    "darlr": _darlr(
        "learned", "mean over selected reference users, dynamic uncertainty"
    ),
    # Controls of DARLR: the same pipeline with one thing replaced.
    "darlr_random": _darlr("random", "DARLR with random reference users"),
    "darlr_nearest": _darlr("nearest", "DARLR with the k nearest other users"),
    "darlr_self": _darlr("self", "DARLR with the user as only reference"),
    # MBPO on another table. With DARLR's tracker: rows of the ablation (runs/plans.py).
    "population_mean": Method(
        "the mean prediction over all users", estimate="population_mean"
    ),
    "user_centred": Method(
        "the prediction without the user's level", estimate="user_centred"
    ),
    # Offline learners: from the log alone, without a simulated user.
    "sqn": Method("imitation of the log, its encoder shaped by Q", "sqn"),
    "bcq": Method("Q-learning among the actions the log supports", "bcq"),
    "cql": Method("Q-learning held down off the log, with quantiles", "cql"),
    "crr": Method("imitation of the log, weighted by the advantage", "crr"),
    # Bandits on one world model that is trained between evaluations.
    "ucb": Method("the world model's best item with an upper confidence bound", "ucb"),
    "epsilon_greedy": Method(
        "the world model's best item, 3 times in 10 a random one", "epsilon_greedy"
    ),
    # Floor and ceiling; nothing is learned.
    "random": Method("a random item", "random"),
    "random_other_tags": Method(
        "a random item without a tag of the one before",
        "random_other_tags",
        needs_tags=True,
    ),
    "popularity": Method("the item that most users have met in the log", "popularity"),
    "oracle": Method(
        "the item that truly pays the user most, whether she stays or not", "oracle"
    ),
}


def get_method(name: str) -> Method:
    """The row called `name`. Raises ConfigError with the nearest name."""
    if name not in METHODS:
        raise ConfigError(
            f"--method={name}: no such method; {nearest_name(name, METHODS)}"
        )
    return METHODS[name]
