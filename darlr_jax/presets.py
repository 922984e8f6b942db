"""Data set x method -> configuration, each number with its source.

"logs" are the headers of the published ROLeR and DORL runs, "paper" is DARLR (SIGIR
2025), "ours" is a choice where neither says anything. The module imports neither JAX
nor NumPy.
"""

from __future__ import annotations

from typing import Any

from darlr_jax.config import ConfigError, ExperimentConfig, nearest_name, replace
from darlr_jax.methods import get_method

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
    "coat": {
        "world_model.embedding_dim": 8,  # logs
        "world_model.batch_size": 1024,  # logs
        "world_model.negatives": 5,  # logs
        "environment.exit_rule": "distance",  # logs; with threshold 0 it never fires
        "environment.exit_threshold": 0.0,  # logs
        "reward.entropy_orders": (),  # logs; so the entropy bonus is inert
        "reward.neighbours": 15,  # logs (ROLeR's k)
        "selector.k_sel": 15,  # ours: ROLeR's k; paper searches 10 to 40
    },
}

# What all runs of a method share.
_METHODS: dict[str, dict[str, Any]] = {
    "gt": {"tracker.kind": "transformer", "tracker.fresh_items": True},  # logs
    "roler": {
        "tracker.kind": "transformer",  # logs; the average on KuaiRand
        "tracker.fresh_items": True,  # logs ("scratch")
        "reward.neighbour_weights": "cosine_norm",  # logs (II-weight-norm: no penalty)
    },
    "darlr": {
        "tracker.kind": "transformer",  # paper
        "tracker.fresh_items": True,  # ours: as ROLeR
        "selector.lambda_s": 1.0,  # ours, within the range searched by the paper
        "selector.lambda_d": 0.1,  # likewise
    },
}
for _control in ("darlr_random", "darlr_nearest", "darlr_self"):
    _METHODS[_control] = _METHODS["darlr"]

# lambda_u and lambda_e of the published logs; 0 where a method has no such term.
_COEFFICIENTS: dict[tuple[str, str], tuple[float, float]] = {
    ("coat", "mopo"): (0.2, 0.0),  # logs (the README says 0.02)
    ("coat", "dorl"): (0.005, 1.0),  # logs
    ("coat", "roler"): (0.005, 1.0),  # logs
    ("coat", "darlr"): (0.01, 1.0),  # ours, within the range searched by the paper
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
    lambda_u, lambda_e = _coefficients(dataset, method)
    changes = {
        "method": method,
        "dataset.name": dataset,
        "reward.estimate": row.estimate,
        "reward.uncertainty": row.uncertainty,
        "reward.references": row.references,
        "reward.lambda_u": lambda_u,
        "reward.lambda_e": lambda_e if row.entropy else 0.0,
    }
    changes |= _DATASETS[dataset] | _METHODS.get(method, {})
    return replace(ExperimentConfig(), changes)


def _coefficients(dataset: str, method: str) -> tuple[float, float]:
    if method.startswith("darlr"):
        method = "darlr"
    return _COEFFICIENTS.get((dataset, method), (0.0, 0.0))
