"""What distinguishes a run: the fields in which it differs, of those that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from darlr_jax.config import ExperimentConfig, flatten
from darlr_jax.presets import preset

# Groups whose fields are those of one data set.
_ALL_DATASETS = ("completion", "thinning", "validation")
_WITHOUT_A_SELECTOR = ("random", "nearest", "self")  # references that none picks
# What these are by: how many, and how they compare.
_OF_ANY_REFERENCES = ("k_sel", "feedback", "center_feedback")
_OF_A_TRACKER = ("tracker.window", "tracker.start_reward")
_OTHER_TRACKERS = ("average", "none")  # of a new kind, too: in doubt it reads a field
_OF_A_TRANSFORMER = tuple(
    f"tracker.{name}" for name in ("layers", "heads", "dropout", "readout")
)


def changed_fields(config: ExperimentConfig) -> dict[str, Any]:
    """Field -> value of what a run changed of its preset and depends on.

    The number of epochs is left out: tables have a column for it.
    """
    return differing_fields(config, preset(config.dataset.name, config.method))


def shared_changes(configs: Iterable[ExperimentConfig]) -> dict[str, Any]:
    """Field -> value of what all of several runs changed alike of their presets."""
    changes = [changed_fields(config) for config in configs]
    if len(changes) < 2:
        return {}
    first, *others = changes
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def own_changes(configs: Iterable[ExperimentConfig]) -> list[str]:
    """What each of several runs changed beside what all of them did, in words."""
    configs = list(configs)
    shared = shared_changes(configs)
    return [
        in_words({n: v for n, v in changed_fields(c).items() if n not in shared})
        for c in configs
    ]


def in_words(changes: Mapping[str, Any]) -> str:
    """Changes as a line of "field=value"."""
    return ", ".join(f"{name}={value}" for name, value in changes.items())


def differing_fields(config: ExperimentConfig, other: ExperimentConfig) -> dict:
    """Field -> value in `config` of all that differs and that `config` depends on."""
    after, before = flatten(config), flatten(other)
    return {
        name: value
        for name, value in after.items()
        if value != before[name] and is_read(name, config)
    }


def fields_read(config: ExperimentConfig) -> dict[str, Any]:
    """Field -> value of all that a run of `config` depends on, but for its epochs.

    Two configurations that agree in these give the same results.
    """
    return {n: value for n, value in flatten(config).items() if is_read(n, config)}


def is_read(name: str, config: ExperimentConfig) -> bool:
    """Whether a run of `config` depends on the field `name`.

    Not all such rules are here: where in doubt, it does.
    """
    group, _, rest = name.partition(".")
    reward = config.reward
    if group == "selector" and reward.references == "none":
        return False
    if group == "selector" and reward.references in _WITHOUT_A_SELECTOR:
        return rest in _OF_ANY_REFERENCES
    if name in _OF_A_TRANSFORMER:
        return config.tracker.kind not in _OTHER_TRACKERS
    if name == "recommender.value_passes":  # they differ by dropout alone
        return config.learner == "a2c" and config.tracker.kind not in _OTHER_TRACKERS
    if name in _OF_A_TRACKER:
        return config.tracker.kind != "none"
    if group == "dataset" and "." in rest:
        return rest.partition(".")[0] in (config.dataset.name, *_ALL_DATASETS)
    if name == "reward.lambda_e":
        return bool(reward.entropy_orders)
    if name == "reward.lambda_u":  # also without an uncertainty: of the shift
        return config.learner == "a2c"
    return name != "training.epochs"
