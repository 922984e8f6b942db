"""Experiment configuration: frozen dataclasses, validation, dotted overrides.

Every number of an experiment is a documented field below. The tree is hashable, so that
it can be a static argument of a compiled program; the coefficients that may vary
without a new compilation are read out of it by `darlr_jax.types.Coefficients`.

The module imports neither JAX nor NumPy: `--help` and a mistyped flag cost no start-up.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message is one clear line."""


def one_of(*names: str, default: str) -> Any:
    """A field that takes one of `names`."""
    return dataclasses.field(default=default, metadata={"choices": names})


def between(low: float, high: float, *, default: Any) -> Any:
    """A number (or a tuple of numbers) in `[low, high]`."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


_LARGE = 1e9
_MOST_TRANSITIONS = 2_000_000_000  # of a run: they are counted in an int32
_LONGEST_SHOWN = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The generated data set `synthetic`."""

    num_users: int = between(2, _LARGE, default=200)
    num_items: int = between(2, _LARGE, default=120)
    num_tags: int = between(1, 1000, default=12)
    num_clusters: int = between(1, _LARGE, default=6)
    log_density: float = between(0.001, 1.0, default=0.15)
    seed: int = between(0, _LARGE, default=0)


@dataclasses.dataclass(frozen=True)
class KuaiRecConfig:
    """KuaiRec: how a watch ratio becomes a label and a reward (protocol 1.3)."""

    label: str = one_of("gaussian", "maxmin", default="gaussian")  # per video
    label_statistics: str = one_of("both", "log", default="both")  # published: both
    label_cap: float = between(0.0, _LARGE, default=10.0)
    reward_cap: float = between(0.0, _LARGE, default=5.0)  # watch ratio that pays most
    missing_reward: str = one_of("zero", "item_mean", default="zero")  # unseen cells
    repeated_rows: str = one_of("keep", "mean", default="keep")  # published: keep


@dataclasses.dataclass(frozen=True)
class KuaiRandConfig:
    """KuaiRand-Pure: which signal is learned and paid (protocol 1.4)."""

    label: str = one_of("is_click", "is_like", "long_view", default="is_click")


@dataclasses.dataclass(frozen=True)
class CsvConfig:
    """A user's own files and the names of their columns; empty means "has none"."""

    log: str = ""  # path of the interaction log
    user: str = "user_id"
    item: str = "item_id"
    reward: str = "rating"
    time: str = ""
    separator: str = ","
    item_features: str = ""  # path: item column, then one column a category
    item_tags: str = ""  # column of `item_features` with tags, separated by "|"
    user_features: str = ""  # path: user column, then one column a category
    test_log: str = ""  # path: held-out interactions, columns as `log`
    test_share: float = between(0.0, 0.9, default=0.2)  # of the log, without a test log
    full_matrix: str = ""  # path: the reward of every (user, item), columns as `log`


@dataclasses.dataclass(frozen=True)
class CompletionConfig:
    """The test matrix where its publisher gives none: matrix factorisation (ours)."""

    ranks: tuple[int, ...] = between(1, 1024, default=(2, 8))  # beside 0: biases alone
    regularisation: tuple[float, ...] = between(  # lambda, of standardised rewards
        0.0, _LARGE, default=(3.0, 5.0, 8.0, 12.0, 18.0)
    )
    sweeps: int = between(1, 10000, default=8)  # users and items in turn, a candidate
    held_out_share: float = between(0.01, 0.5, default=0.1)  # decides rank and lambda
    seed: int = between(0, _LARGE, default=0)


@dataclasses.dataclass(frozen=True)
class ThinningConfig:
    """How much of the training log is used; less, to see what sparse feedback does."""

    share: float = between(1e-6, 1.0, default=1.0)
    unit: str = one_of("rows", "users", default="rows")  # what a share is kept of
    seed: int = between(0, _LARGE, default=0)


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Part of the training log in place of the test data, to choose by (ours)."""

    share: float = between(0.0, 0.9, default=0.0)  # of every user's items; 0: none
    seed: int = between(0, _LARGE, default=0)
    shrinkage: float = between(1e-6, _LARGE, default=5.0)  # rows, of the means paid


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Which feedback is loaded, and how it is prepared."""

    name: str = "synthetic"
    twin: bool = False  # generated files of the official form instead of the official
    twin_scale: float = between(1e-4, 1.0, default=0.02)  # share of the official counts
    synthetic: SyntheticConfig = SyntheticConfig()
    kuairec: KuaiRecConfig = KuaiRecConfig()
    kuairand: KuaiRandConfig = KuaiRandConfig()
    csv: CsvConfig = CsvConfig()
    completion: CompletionConfig = CompletionConfig()
    thinning: ThinningConfig = ThinningConfig()
    validation: ValidationConfig = ValidationConfig()

    @property
    def has_published_files(self) -> bool:
        """Whether it is read from its publisher's files, in a folder of the user's."""
        return self.name not in ("csv", "synthetic") and not self.twin


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """DeepFM ensemble (protocol 2)."""

    embedding_dim: int = between(1, 4096, default=8)
    hidden: tuple[int, ...] = between(1, 65536, default=(128, 128))
    output: str = one_of("identity", "sigmoid", default="identity")
    loss: str = one_of(  # propensity: rows of frequent items count less (IPS)
        "gaussian", "squared", "propensity", default="gaussian"
    )
    members: int = between(1, 1000, default=5)
    identical_init: bool = True  # the published members share their initial weights
    epochs: int = between(1, 100000, default=5)
    batch_size: int = between(1, _LARGE, default=1024)  # logged rows a gradient step
    negatives: int = between(1, 1000, default=5)  # drawn pairs a logged row
    negative_weight: float = between(0.0, _LARGE, default=1.0)  # of one; published: 1
    learning_rate: float = between(0.0, 10.0, default=1e-3)
    weight_decay: float = between(  # on every parameter, a batch
        0.0, _LARGE, default=0.1
    )
    embedding_decay: float = between(0.0, _LARGE, default=1e-5)
    seed: int = between(0, _LARGE, default=2022)

    @property
    def predicts_variance(self) -> bool:
        """Whether the loss teaches the head of the variance anything."""
        return self.loss == "gaussian"


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """Episode length and exit rule (protocol 3.4)."""

    max_turn: int = between(1, 100000, default=30)
    exit_rule: str = one_of("tags", "distance", "none", default="tags")
    exit_window: int = between(1, 100000, default=1)  # N: past items looked at
    exit_threshold: float = between(0.0, _LARGE, default=0.0)  # M: repeats, or distance
    published_window: bool = True  # the slice of the published code, shorter for t < N


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """State tracker: the last (item, reward) pairs -> state (protocol 4)."""

    kind: str = one_of(  # none: all states are one, a control (ours)
        "average", "transformer", "none", default="average"
    )
    window: int = between(1, 1000, default=3)  # W, w_rec
    layers: int = between(1, 64, default=2)
    heads: int = between(1, 64, default=1)
    dropout: float = between(0.0, 0.99, default=0.1)  # transformer only, in training
    readout: str = one_of("newest", "published", default="newest")  # transformer only
    start_reward: str = one_of(  # of the start token, 1: divided as others are, or not
        "scaled", "one", default="scaled"
    )
    fresh_items: bool = False  # redraw item embeddings ("scratch") or keep the model's

    @property
    def learns_elsewhere(self) -> bool:
        """Whether an action is learned in another state than it was chosen in."""
        return self.kind == "transformer" and self.readout == "published"


@dataclasses.dataclass(frozen=True)
class A2CConfig:
    """What the two agents share: one loss, used twice (protocol 5)."""

    learning_rate: float = between(0.0, 10.0, default=1e-3)
    discount: float = between(0.0, 1.0, default=0.9)
    critic_target: str = one_of(  # the rest of an episode, or what a step of it brings
        "return", "mean_reward", default="return"
    )
    value_weight: float = between(0.0, _LARGE, default=0.5)
    entropy_weight: float = between(0.0, _LARGE, default=0.0)
    normalize_advantage: bool = False
    probability_floor: float = between(0.0, 0.5, default=1.19e-7)  # see a2c; published
    learning_chunk: int = between(1, _LARGE, default=128)  # recommendations at a time


@dataclasses.dataclass(frozen=True)
class RecommenderConfig(A2CConfig):
    """The recommender: state -> item (method 4)."""

    hidden: tuple[int, ...] = between(1, 65536, default=(64, 64))
    mask_used_items: bool = False  # in training; the NX evaluation modes always mask
    reward_offset: float = between(  # a control: added to each reward that is learned
        -_LARGE, _LARGE, default=0.0
    )
    value_passes: str = one_of(  # separate: V(s), V(s') by passes that drop out apart
        "shared", "separate", default="shared"
    )


@dataclasses.dataclass(frozen=True)
class SelectorConfig(A2CConfig):
    """The selector: K_sel reference users, one after another (method 3)."""

    k_sel: int = between(1, _LARGE, default=15)
    lambda_s: float = between(-_LARGE, _LARGE, default=1.0)  # similarity gain
    lambda_d: float = between(-_LARGE, _LARGE, default=0.1)  # diversity gain
    feedback: str = one_of("logged", "predicted", "embedding", default="predicted")
    center_feedback: bool = False  # subtract the item mean from the feedback rows
    reward_estimate: str = one_of(  # how r_hat enters the intrinsic reward
        "raw", "item_centred", "user_centred", "absent", default="raw"
    )
    item_in_state: bool = False  # append the embedding of i_t to the selector's state
    pool: str = one_of(  # who may be picked, and how: `agents.pools`
        "all", "nearest", "clusters", default="all"
    )
    pool_size: int = between(1, _LARGE, default=200)  # nearest: users in a pool
    cluster_size: int = between(0, _LARGE, default=0)  # 0: square root of their number
    picks: str = one_of(  # the same picks by one GPU kernel: `agents.fused_picks`
        "auto", "plain", "fused", default="auto"
    )
    window: int = between(1, 1000, default=3)  # w_sel
    user_block: int = between(1, _LARGE, default=2048)  # users at a time when learning
    width: int = between(1, 4096, default=32)
    layers: int = between(1, 64, default=1)
    heads: int = between(1, 64, default=1)


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """How a simulated recommendation is paid: a row of `methods.METHODS`, and more."""

    estimate: str = one_of(
        "true", "world_model", "neighbours", "population_mean", "user_centred",
        "references", "none", default="references",
    )  # fmt: skip
    uncertainty: str = one_of(
        "none", "ensemble_variance", "neighbour_variance", "neighbour_cosine",
        "dynamic", default="dynamic",
    )  # fmt: skip
    references: str = one_of(
        "none", "learned", "random", "nearest", "self", default="learned"
    )
    lambda_u: float = between(-_LARGE, _LARGE, default=0.01)  # uncertainty penalty
    lambda_e: float = between(-_LARGE, _LARGE, default=0.05)  # entropy bonus
    entropy_orders: tuple[int, ...] = between(1, 2, default=(1, 2))
    neighbours: int = between(1, _LARGE, default=15)  # k of ROLeR
    neighbour_weights: str = one_of(  # mean form, II-weight, II-weight-div, -norm
        "mean", "cosine", "cosine_div", "cosine_norm", default="cosine_norm"
    )
    neighbour_cosine: str = one_of("min", "avg", "max", default="avg")  # I-cos_*
    neighbour_signature: str = one_of("predicted", "logged", default="predicted")
    neighbour_source: str = one_of(  # whose rows are mixed: KuaiRec's are logged ones
        "prediction", "log", default="prediction"
    )
    base: str = one_of(  # r_hat: of references, the user, all users; and of the shift
        "world_model", "neighbours", default="world_model"
    )
    denominator_floor: float = between(1e-12, _LARGE, default=1e-3)  # of r_s + r_d
    overwrite: bool = False  # r_hat_dyn reads the latest estimates; r_sel does not
    exposure_weight: float = between(0.0, _LARGE, default=0.0)  # gamma_e (CIRS)
    exposure_tau: float = between(1e-9, _LARGE, default=100.0)  # its decay, in turns

    @property
    def asks_references(self) -> bool:
        """Whether reference users say what a recommendation pays, and so no table."""
        return self.estimate == "references"

    @property
    def has_selector(self) -> bool:
        """Whether an agent that learns picks the reference users."""
        return self.references == "learned"

    @property
    def uncertainty_is_dynamic(self) -> bool:
        """Whether it is made at each recommendation, and so has no table and bounds."""
        return self.uncertainty == "dynamic"


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """SQN, BCQ, CQL and CRR: learning from the log alone (protocol 8).

    They share `recommender.hidden`, `.learning_rate` and `.discount` with A2C, and
    `training`: an epoch is `steps_per_epoch // batch_size` updates.
    """

    feedback: str = one_of(  # what returns are of: that which evaluation pays, or the
        "reward", "label", default="reward"
    )  # world model's label (published); KuaiRec: a ratio, or its z-score
    order: str = one_of("random", "logged", default="random")  # of rows without times
    n_step: int = between(1, 1000, default=3)  # rows in a return
    target_interval: int = between(1, _LARGE, default=320)  # updates between copies
    train_tracker: bool = True  # published: frozen
    imitation_threshold: float = between(1e-6, 1.0, default=0.6)  # BCQ: tau
    logit_penalty: float = between(0.0, _LARGE, default=0.01)  # BCQ
    quantiles: int = between(1, 10_000, default=20)  # CQL
    conservative_weight: float = between(0.0, _LARGE, default=10.0)  # CQL, CRR
    temperature: float = between(1e-6, _LARGE, default=1.0)  # CRR: beta
    weight_cap: float = between(1e-6, _LARGE, default=20.0)  # CRR


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Schedule of the policy training (protocol 5)."""

    epochs: int = between(1, _LARGE, default=200)
    environments: int = between(1, _LARGE, default=100)  # episodes a collect
    steps_per_epoch: int = between(1, _LARGE, default=100_000)
    batch_size: int = between(1, _LARGE, default=1024)  # transitions a gradient step
    warm_up_epochs: int = between(  # of reference users: on ROLeR's static reward
        0, _LARGE, default=0
    )


@dataclasses.dataclass(frozen=True)
class BanditConfig:
    """UCB and epsilon-greedy on one world model (protocol 8)."""

    confidence: float = between(0.0, _LARGE, default=2.0)  # c of sqrt(c ln n / n_i)
    epsilon: float = between(0.0, 1.0, default=0.3)  # probability of a random item


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation after every epoch (protocol 6)."""

    episodes: int = between(1, _LARGE, default=100)  # users drawn, a mode and epoch
    all_users: bool = True  # beside it: every user once, with common random numbers


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: a method on a data set."""

    method: str = "darlr"
    learner: str = one_of(  # which algorithm learns, from what: `experiment.py`
        "a2c", "sqn", "bcq", "cql", "crr", "ucb", "epsilon_greedy",
        "random", "random_other_tags", "popularity", "oracle", default="a2c",
    )  # fmt: skip
    dataset: DatasetConfig = DatasetConfig()
    world_model: WorldModelConfig = WorldModelConfig()
    environment: EnvironmentConfig = EnvironmentConfig()
    tracker: TrackerConfig = TrackerConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    selector: SelectorConfig = SelectorConfig()
    reward: RewardConfig = RewardConfig()
    offline: OfflineConfig = OfflineConfig()
    training: TrainingConfig = TrainingConfig()
    bandit: BanditConfig = BanditConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


# What may differ between runs that are trained in one program, side by side: of
# `types.Coefficients` all but `steps_per_epoch`, at which they stop together.
COEFFICIENTS = (
    "reward.lambda_u",
    "reward.lambda_e",
    "reward.denominator_floor",
    "selector.lambda_s",
    "selector.lambda_d",
)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """The clause "did you mean ...?" for a misspelt `name`, or the list of names."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(names)}"


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"selector.k_sel": 15, ...}` for every leaf field."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{field.name}."))
        else:
            flat[prefix + field.name] = value
    return flat


def from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """The inverse of `to_dict`. Raises ConfigError on unknown or ill-typed fields."""
    flat = _flatten_mapping(values)
    return replace(ExperimentConfig(), flat)


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with dotted `changes` applied, each checked for type, choice and range.

    Raises:
      ConfigError: unknown field (with the nearest name), wrong type, out of range.
    """
    for path, value in changes.items():
        if not path.isprintable():  # it could not be named in one line
            raise ConfigError(f"{_shown(path)}: no such field")
        config = _replace_one(config, path.split("."), value, path)
    return config


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Turns `["selector.k_sel=20", ...]` into `{"selector.k_sel": 20, ...}`.

    Values are read as Python literals; what is none is taken as text, and so is all
    that a field of texts gets, without the quotes around it. Nothing is evaluated.

    Raises:
      ConfigError: a text is not of this form.
    """
    defaults = flatten(ExperimentConfig())
    changes = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(
                f"--set={_shown(text)}: expected FIELD=VALUE, as selector.k_sel=20"
            )
        path, literal = path.strip(), _literal(value.strip())
        # 007 and 1e3 are numbers of their own, but two ids or names of columns.
        is_text = isinstance(defaults.get(path), str) and not isinstance(literal, str)
        changes[path] = value.strip() if is_text else literal
    return changes


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Distinct whole numbers from 0 to 2**32 - 1. Raises ConfigError otherwise."""
    seeds = []
    for text in texts:
        digits = text.strip()
        if not digits.isdecimal() or len(digits) > 10 or int(digits) >= 2**32:
            raise ConfigError(f"--seeds: {text!r:.60} is no whole number below 2**32")
        seeds.append(int(text))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds={','.join(texts)}: expected distinct numbers")
    return seeds


def as_text(value: Any) -> str:
    """A value of a field as `parse_overrides` reads it, without spaces."""
    return str(value).replace(" ", "")


def _literal(text: str) -> Any:
    aliases = {"true": True, "false": False}
    if text.lower() in aliases:
        return aliases[text.lower()]
    try:
        with warnings.catch_warnings():  # of the compiler, about odd literals
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _flatten_mapping(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        is_group = isinstance(value, Mapping)
        inner = _flatten_mapping(value, f"{path}.") if is_group else {path: value}
        for repeated in flat.keys() & inner.keys():  # a name may hold the dot
            raise ConfigError(f"{_shown(repeated)}: is given twice")
        flat |= inner
    return flat


def _replace_one(config: Any, path: list[str], value: Any, full: str) -> Any:
    if not dataclasses.is_dataclass(config):
        raise ConfigError(f"{full}: {full.rpartition('.')[0]} has no fields of its own")
    fields = {field.name: field for field in dataclasses.fields(config)}
    name, rest = path[0], path[1:]
    if name not in fields:
        parent = full.removesuffix(".".join(path))
        hint = nearest_name(name, fields).replace("mean '", f"mean '{parent}")
        raise ConfigError(f"{full}: no such field; {hint}")
    current, kind = getattr(config, name), typing.cast(Any, type(config))
    if rest:
        value = _replace_one(current, rest, value, full)
    elif dataclasses.is_dataclass(current):
        raise ConfigError(
            f"{full}: is a group of fields; set one, as {full}.NAME=VALUE"
        )
    else:
        value = _coerce(value, _types_of(kind)[name], full)
        _check(value, fields[name].metadata, full)
    return dataclasses.replace(typing.cast(Any, config), **{name: value})


@functools.cache  # annotations are texts here: reading them is most of `replace`
def _types_of(group: type) -> dict[str, Any]:
    return typing.get_type_hints(group)


def _coerce(value: Any, expected: Any, full: str) -> Any:
    """`value` as the field's type; ints pass for floats, lists for tuples."""
    kind = typing.get_origin(expected) or expected
    if kind is tuple:
        element = typing.get_args(expected)[0]
        values = value if isinstance(value, tuple | list) else (value,)
        return tuple(_coerce(v, element, full) for v in values)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{full}: must be within the range of a float") from error
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise ConfigError(f"{full}={_shown(value)}: expected {_TYPE_NAMES[kind]}")
    if kind is str and "\0" in value:  # no path and no column may hold one
        raise ConfigError(f"{full}={_shown(value)}: must not hold a NUL character")
    return value


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
}


def _shown(value: Any) -> str:
    """A value as one short line, whatever a user has given."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python likes to print
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _check(value: Any, metadata: Mapping[str, Any], full: str) -> None:
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{full}={_shown(value)}: {nearest_name(value, choices)}")
    if "range" in metadata:
        low, high = metadata["range"]
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:  # also refuses nan
                raise ConfigError(
                    f"{full}={_shown(value)}: must be within [{low:g}, {high:g}]"
                )


def validate(config: ExperimentConfig) -> None:
    """Refuses settings that contradict each other, before any work is done.

    Raises:
      ConfigError: names the two fields and what to change.
    """
    reward = config.reward
    if (config.learner == "a2c") == (reward.estimate == "none"):
        raise ConfigError(
            f"reward.estimate={reward.estimate!r}: A2C learns from estimated rewards, "
            f"the other learners from none; learner={config.learner!r} needs "
            + ("an estimate" if reward.estimate == "none" else "reward.estimate=none")
        )
    needs_references = reward.asks_references or reward.uncertainty_is_dynamic
    if needs_references and reward.references == "none":
        raise ConfigError(
            "reward.references='none': reward.estimate='references' and "
            "reward.uncertainty='dynamic' need learned, random, nearest or self"
        )
    if not needs_references and reward.references != "none":
        raise ConfigError(
            f"reward.references={reward.references!r}: nothing uses the references; "
            "set reward.estimate=references or reward.references=none"
        )
    if (
        reward.uncertainty == "ensemble_variance"
        and not config.world_model.predicts_variance
    ):
        raise ConfigError(
            "reward.uncertainty='ensemble_variance': a world model with "
            f"world_model.loss={config.world_model.loss!r} predicts no variance; set "
            "world_model.loss=gaussian"
        )
    _validate_estimate(config)
    _validate_neighbours(reward)
    _validate_length(config)
    _validate_passes(config.recommender)
    if config.learner == "random_other_tags" and config.environment.exit_rule != "tags":
        raise ConfigError(
            f"environment.exit_rule={config.environment.exit_rule!r}: learner="
            "'random_other_tags' avoids what makes users leave by tags; use random"
        )
    _validate_members(config)
    _validate_pool(config.selector, reward.references)
    if config.selector.width % config.selector.heads:
        raise ConfigError(
            f"selector.heads={config.selector.heads}: must divide "
            f"selector.width={config.selector.width}"
        )
    if len(set(reward.entropy_orders)) != len(reward.entropy_orders):
        raise ConfigError(
            f"reward.entropy_orders={reward.entropy_orders}: repeated order"
        )


def _validate_estimate(config: ExperimentConfig) -> None:
    """Refuses what only learned-from estimates of reference users would read."""
    if config.reward.asks_references:
        return
    unread = {
        "training.warm_up_epochs": config.training.warm_up_epochs,
        "reward.overwrite": config.reward.overwrite,
    }
    for name, value in unread.items():
        if value:
            raise ConfigError(
                f"{name}={value}: nothing uses it with reward.estimate="
                f"{config.reward.estimate!r}; it takes reward.estimate=references"
            )


def _validate_passes(recommender: RecommenderConfig) -> None:
    """Refuses V(s') of a critic whose values are of single steps."""
    if recommender.value_passes == "separate" and recommender.critic_target != "return":
        raise ConfigError(
            "recommender.value_passes='separate': adds V(s') to the reward before s', "
            "so it takes recommender.critic_target=return, not "
            f"{recommender.critic_target!r}"
        )


def _validate_neighbours(reward: RewardConfig) -> None:
    if reward.neighbour_source != "log":
        return
    if reward.uncertainty == "neighbour_cosine":
        raise ConfigError(
            "reward.uncertainty='neighbour_cosine': neighbours in the log are not "
            "weighted by their cosines; set reward.neighbour_source=prediction"
        )
    if reward.uncertainty == "neighbour_variance" and reward.neighbours < 2:
        raise ConfigError(
            "reward.neighbours=1: one row of the log has no variance, which "
            "reward.uncertainty='neighbour_variance' asks for; set 2 or more"
        )


def _validate_members(config: ExperimentConfig) -> None:
    if config.learner in ("ucb", "epsilon_greedy") and config.world_model.members != 1:
        raise ConfigError(
            f"world_model.members={config.world_model.members}: learner="
            f"{config.learner!r} trains one; set world_model.members=1"
        )


def _validate_length(config: ExperimentConfig) -> None:
    """Refuses runs whose transitions a counter of 32 bits cannot hold."""
    training = config.training
    if training.epochs * training.steps_per_epoch > _MOST_TRANSITIONS:
        raise ConfigError(
            f"training.epochs={training.epochs}: with training.steps_per_epoch="
            f"{training.steps_per_epoch} more than {_MOST_TRANSITIONS:,} transitions, "
            "which a run does not count"
        )


def _validate_pool(selector: SelectorConfig, references: str) -> None:
    if selector.pool == "nearest" and selector.pool_size < selector.k_sel:
        raise ConfigError(
            f"selector.pool_size={selector.pool_size}: must be at least "
            f"selector.k_sel={selector.k_sel}, as nobody is picked twice"
        )
    if selector.pool != "all" and references not in ("learned", "none"):
        raise ConfigError(
            f"selector.pool={selector.pool!r}: only reward.references=learned picks "
            f"from a pool, {references!r} does not; set selector.pool=all"
        )
