"""Data set x method -> configuration, each number with its source.

"logs" are the headers of the published ROLeR and DORL runs, "code" is what their code
does without saying so (docs/deviations.md), "paper" is DARLR (SIGIR 2025), "ours" is a
choice where neither says anything. The module imports neither JAX nor NumPy.
"""

from __future__ import annotations

from typing import Any

from darlr_jax.config import ConfigError, ExperimentConfig, nearest_name, replace
from darlr_jax.methods import Method, get_method

_TAGS = {  # logs of ROLeR and GT; the others' published rows have N = 4 (protocol 3.4)
    "environment.exit_rule": "tags",
    "environment.exit_window": 1,
    "environment.exit_threshold": 0.0,
    "reward.entropy_orders": (1, 2),
}
_NEVER = {  # logs: a distance below 0 there is not; no entropy bonus
    "environment.exit_rule": "distance",
    "environment.exit_threshold": 0.0,
    "reward.entropy_orders": (),
}

_DATASETS: dict[str, dict[str, Any]] = {
    "synthetic": {  # ours: small enough for a laptop, every term of the reward active
        "world_model.batch_size": 256,
        "training.epochs": 20,
        "training.steps_per_epoch": 6000,
        "environment.exit_rule": "tags",
        "environment.exit_window": 1,
        "reward.neighbours": 10,
        "selector.k_sel": 10,
    },
    "coat": _NEVER
    | {
        "world_model.embedding_dim": 8,  # logs
        "world_model.batch_size": 1024,  # logs
        "world_model.negatives": 5,  # logs
        "reward.neighbours": 15,  # logs (ROLeR's k)
        "selector.k_sel": 15,  # ours: ROLeR's k; paper searches 10 to 40
    },
    "yahoo": _NEVER
    | {
        "world_model.embedding_dim": 8,  # logs
        "world_model.batch_size": 128,  # logs
        "world_model.negatives": 5,  # logs
        "reward.neighbours": 20,  # logs
        "selector.k_sel": 20,  # ours: ROLeR's k; paper searches 25 to 100
        "selector.learning_chunk": 32,  # ours: logits over 5,400 users
    },
    "kuairec": _TAGS
    | {
        "world_model.embedding_dim": 8,  # logs
        "world_model.batch_size": 4096,  # logs
        "world_model.negatives": 3,  # logs
        "reward.neighbours": 30,  # logs
        "selector.k_sel": 30,  # ours: ROLeR's k; paper searches 10 to 40
        "selector.feedback": "logged",  # ours: ROLeR's signature of a user
        "selector.learning_chunk": 32,  # ours: fastest of 8 to 64 on two CPU cores
    },
    "kuairand": _TAGS
    | {
        "world_model.embedding_dim": 4,  # logs
        "world_model.batch_size": 4096,  # logs
        "world_model.negatives": 5,  # logs
        "world_model.output": "sigmoid",  # logs
        "reward.neighbours": 150,  # logs
        "selector.k_sel": 150,  # ours: ROLeR's k; paper searches 50 to 200
        "selector.learning_chunk": 4,  # ours: fastest of 4 and 16 on two CPU cores
    },
    "movielens": _TAGS
    | {  # ours: no published protocol; genres are broad, so a user bears some repeats
        "environment.exit_window": 4,
        "environment.exit_threshold": 2.0,
        "environment.published_window": False,
        "reward.neighbours": 20,
        "selector.k_sel": 20,
        "selector.learning_chunk": 32,
    },
    "csv": {  # ours: nothing is known of the items, so nobody leaves early
        "environment.exit_rule": "none",
        "reward.neighbours": 10,
        "selector.k_sel": 10,
    },
}

_BANDIT = {  # protocol 8: one DeepFM without a variance, 200 drawn users a mode
    "world_model.loss": "squared",  # logs
    "world_model.members": 1,  # logs
    "evaluation.episodes": 200,  # logs
}

# What all runs of a learner, a family and a method share, by their names.
_OFFLINE = {"training.steps_per_epoch": 1000 * 1024}  # logs: 1,000 updates an epoch
_METHODS: dict[str, dict[str, Any]] = {
    "sqn": _OFFLINE | {"recommender.hidden": ()},  # logs
    "bcq": _OFFLINE,
    "cql": _OFFLINE,
    "crr": _OFFLINE | {"offline.n_step": 1},  # logs
    "ucb": _BANDIT | {"bandit.confidence": 2.0},  # logs
    "epsilon_greedy": _BANDIT | {"bandit.epsilon": 0.3},  # logs
    "ips": {
        "world_model.loss": "propensity",  # logs
        "world_model.members": 1,  # logs
        "world_model.epochs": 200,  # logs
        "world_model.seed": 0,  # logs
        "reward.entropy_orders": (),  # logs
    },
    "cirs": {  # EasyRL4Rec's A2C version; CIRS itself is PPO with its own tracker
        "reward.exposure_weight": 1.0,
        "reward.exposure_tau": 100.0,
    },
    "gt": {
        "tracker.kind": "transformer",  # logs
        "tracker.fresh_items": True,  # logs of most
        "tracker.readout": "published",  # code
    },
    "roler": {
        "tracker.kind": "transformer",  # logs; the average on KuaiRand
        "tracker.fresh_items": True,  # logs ("scratch")
        "tracker.readout": "published",  # code
        "reward.neighbour_weights": "cosine_norm",  # logs (II-weight-norm: no penalty)
    },
    "darlr": {
        "tracker.kind": "transformer",  # paper
        "tracker.fresh_items": True,  # ours: as ROLeR
        "tracker.readout": "published",  # ours: as ROLeR
        "selector.lambda_s": 1.0,  # ours, within the range searched by the paper
        "selector.lambda_d": 0.1,  # likewise
    },
}

# Where a method differs from that on one data set.
_EXCEPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    **{  # ours: 50 updates, 14 passes over the log; 1,000 would be 284
        ("synthetic", method): {"training.steps_per_epoch": 50 * 1024}
        for method in ("sqn", "bcq", "cql", "crr")
    },
    ("kuairec", "roler"): {  # logs: I-var over users outside the environment
        "reward.neighbour_source": "log",
        "reward.neighbour_weights": "mean",
        "reward.uncertainty": "neighbour_variance",
    },
    ("kuairec", "darlr"): {  # ours (method 4): asked in the unit of the true reward
        "reward.neighbour_source": "log",
        "reward.base": "neighbours",
    },
    ("kuairand", "gt"): {"tracker.kind": "average"},  # logs
    ("kuairand", "roler"): {"tracker.kind": "average"},  # logs
    ("yahoo", "cql"): {  # logs
        "offline.quantiles": 10,
        "offline.conservative_weight": 1.0,
    },
    ("yahoo", "gt"): {"tracker.kind": "average"},  # logs
    ("yahoo", "roler"): {"tracker.window": 5},  # logs
    ("yahoo", "darlr"): {"tracker.window": 5},  # ours: as ROLeR
}

# lambda_u and lambda_e of the published logs; 0 where a method has no such term.
_COEFFICIENTS: dict[tuple[str, str], tuple[float, float]] = {
    ("coat", "mopo"): (0.2, 0.0),  # logs (the README says 0.02)
    ("coat", "dorl"): (0.005, 1.0),  # logs
    ("coat", "roler"): (0.005, 1.0),  # logs
    ("coat", "darlr"): (0.01, 1.0),  # ours, within the range searched by the paper
    ("yahoo", "mopo"): (0.05, 0.0),  # logs (the README says 0.01)
    ("yahoo", "dorl"): (0.01, 1.0),  # logs
    ("yahoo", "roler"): (0.005, 1.0),  # logs
    ("yahoo", "darlr"): (0.01, 1.0),  # ours, within the range searched by the paper
    ("kuairec", "mopo"): (0.05, 0.0),  # logs
    ("kuairec", "dorl"): (0.05, 5.0),  # logs
    ("kuairec", "roler"): (0.05, 5.0),  # logs
    ("kuairec", "darlr"): (0.05, 1.0),  # ours, within the range searched by the paper
    ("kuairand", "mopo"): (0.01, 0.0),  # logs
    ("kuairand", "dorl"): (0.01, 0.05),  # logs
    ("kuairand", "roler"): (0.01, 0.05),  # logs
    ("kuairand", "darlr"): (0.01, 0.05),  # ours, within the range searched by the paper
    ("movielens", "mopo"): (0.05, 0.0),  # ours
    ("movielens", "dorl"): (0.05, 0.1),  # ours
    ("movielens", "roler"): (0.05, 0.1),  # ours
    ("movielens", "darlr"): (0.05, 0.1),  # ours
    ("csv", "mopo"): (0.05, 0.0),  # ours
    ("csv", "dorl"): (0.05, 0.1),  # ours
    ("csv", "roler"): (0.05, 0.1),  # ours
    ("csv", "darlr"): (0.05, 0.1),  # ours
    ("synthetic", "mopo"): (0.05, 0.0),  # ours
    ("synthetic", "dorl"): (0.05, 0.1),  # ours
    ("synthetic", "roler"): (0.05, 0.1),  # ours
    ("synthetic", "darlr"): (0.05, 0.1),  # ours
}

DATASETS = tuple(sorted(_DATASETS))


def preset(dataset: str, method: str) -> ExperimentConfig:
    """The configuration of `method` on `dataset`.

    Raises:
      ConfigError: unknown name, with the nearest one.
    """
    row = get_method(method)
    if dataset not in _DATASETS:
        raise ConfigError(
            f"--dataset={dataset}: no such data set; {nearest_name(dataset, _DATASETS)}"
        )
    family = row.family or method
    names = tuple(dict.fromkeys((row.learner, family, method)))  # its own come last
    lambda_u, lambda_e = _coefficients(dataset, names)
    changes = {
        "method": method,
        "learner": row.learner,
        "dataset.name": dataset,
        **_rewards(row),
        "reward.lambda_u": lambda_u,
        "reward.lambda_e": lambda_e if row.entropy else 0.0,
    }
    changes |= _DATASETS[dataset]
    for name in names:
        changes |= _METHODS.get(name, {})
    for name in names:
        changes |= _EXCEPTIONS.get((dataset, name), {})
    inherited = _rewards(get_method(family))  # and no exception to what it replaces
    changes |= {n: v for n, v in _rewards(row).items() if v != inherited[n]}
    return replace(ExperimentConfig(), changes)


def _rewards(row: Method) -> dict[str, str]:
    names = ("estimate", "uncertainty", "references")
    return {f"reward.{name}": getattr(row, name) for name in names}


def _coefficients(dataset: str, names: tuple[str, ...]) -> tuple[float, float]:
    """lambda_u and lambda_e of a method, the last of `names`; 0 of what it has not.

    A penalty or bonus that is not its family's inherits no weight: of another one, that
    would be in another unit.
    """
    row = get_method(names[-1])
    family = get_method(row.family or names[-1])
    own = (dataset, names[-1]) in _COEFFICIENTS
    known = [
        _COEFFICIENTS[key]
        for name in names
        if (key := (dataset, name)) in _COEFFICIENTS
    ]
    inherits = row.uncertainty in ("none", family.uncertainty)
    inherits &= family.entropy or not row.entropy
    if known and (own or inherits):
        return known[-1]
    if row.uncertainty != "none" or row.entropy:
        raise ConfigError(
            f"--method={names[-1]}: presets.py has no lambda_u and lambda_e of it on "
            f"{dataset}; add a line to _COEFFICIENTS, or name a family with the same "
            "penalty and bonus in methods.py"
        )
    return 0.0, 0.0
