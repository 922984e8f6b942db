"""The DeepFM ensemble: one member's training, lifted over members with `vmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from darlr_jax.config import WorldModelConfig
from darlr_jax.data.dataset import CategoricalFeature, Dataset, InteractionLog
from darlr_jax.networks.deepfm import (
    Features,
    Field,
    WorldModelNetwork,
    make_deepfm,
)
from darlr_jax.types import Array, Key, Params
from darlr_jax.world_model.losses import LOSSES, Loss
from darlr_jax.world_model.negatives import TrainingPairs, draw_training_pairs
from darlr_jax.world_model.ranking import rating_errors

_ROWS_A_BLOCK = 1 << 18  # bounds the memory of predicting the held-out rows
_STEPS_A_CALL = 256  # gradient steps between two reports of progress


class Sides(NamedTuple):
    """The features of both sides; arguments of every program, never closures."""

    user: Features
    item: Features


class Member(NamedTuple):
    """One ensemble member between two epochs."""

    params: Params
    opt_state: optax.OptState
    key: Key


class FitState(NamedTuple):
    """A fit between two epochs as plain arrays: what a file can hold."""

    arrays: dict[str, np.ndarray]  # every array of `Member`, by its path in there
    report: list[dict[str, float]]  # of the epochs so far, see `fit_ensemble`


class Ensemble(NamedTuple):
    """A fitted world model."""

    network: WorldModelNetwork
    params: Params  # leading axis E
    sides: Sides
    report: list[dict[str, float]]  # a row an epoch, see `fit_ensemble`


def parameter_decay(params: Params, config: WorldModelConfig) -> Array:
    """L2 of every parameter, and a little more of the embeddings, a gradient step."""
    total = optax.tree.norm(params, squared=True)
    embeddings = {k: v for k, v in params.items() if k.startswith("embedding_")}
    extra = optax.tree.norm(embeddings, squared=True)
    return config.weight_decay * total + config.embedding_decay * extra


def fit_ensemble(
    dataset: Dataset,
    config: WorldModelConfig,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    on_progress: Callable[[float], None] = lambda share: None,
    *,
    resume: FitState | None = None,
    keep: Callable[[FitState], None] = lambda state: None,
) -> Ensemble:
    """Fits all members at once on the same pairs, each in its own order.

    Args:
      dataset: its `log` is fitted, its `held_out` reported on.
      config: schedule and architecture.
      on_epoch: called with each row of the report as soon as it is known.
      on_progress: called with the share of an epoch that is done, now and then.
      resume: where an earlier fit of the same data and configuration was; what follows
        is what would have followed there, to the last bit on the same machine.
      keep: called with the state after every epoch, before `on_epoch`.

    Returns:
      The ensemble. A report row holds `epoch` (0 = before training), `loss` (training
      loss a pair, decay left out, mean over members) and `held_out_{mae, mse, ...}` of
      the members' mean prediction (see `ranking.rating_errors`).

    Raises:
      FloatingPointError: the loss is not finite; names the epoch.
      ValueError: `resume` is of another fit.
    """
    sides, network = build_network(dataset, config)
    pairs = draw_training_pairs(dataset, config.negatives, config.seed)
    optimizer = optax.adam(config.learning_rate)
    members = _init_members(network, optimizer, sides, config)
    train = _compile_epoch(network, optimizer, pairs, sides, config)
    predict = jax.jit(functools.partial(predict_labels, network=network))
    report: list[dict[str, float]] = []
    if resume is not None:
        members, report = _members_of(resume.arrays, members), list(resume.report)
    for number in range(len(report), config.epochs + 1):
        loss = float("nan")
        if number:
            members, loss = train(members, on_progress)
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"world model: the loss of epoch {number} is {loss}; lower "
                    "world_model.learning_rate, or check the labels of the log"
                )
        predicted = _predict_log(predict, members.params, dataset.held_out, sides)
        errors = rating_errors(predicted, dataset.held_out)
        report.append({"epoch": number, "loss": loss, **errors})
        if number:
            keep(FitState(_arrays_of(members), list(report)))
        on_epoch(report[-1])
    return Ensemble(network, members.params, sides, report)


def _arrays_of(members: Member) -> dict[str, np.ndarray]:
    """Copies of all arrays, by path; a typed key is stored as its words."""
    plain = members._replace(key=jax.random.key_data(members.key))
    leaves = jax.tree_util.tree_leaves_with_path(plain)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def _members_of(arrays: dict[str, np.ndarray], example: Member) -> Member:
    """The members whose arrays these are; `example` has their structure."""
    expected = _arrays_of(example)
    described = {name: (leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    if described != {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}:
        raise ValueError("world model: the state to resume is of another fit")
    # Copies: the caller's arrays must outlive the donation of these.
    leaves = [jnp.array(arrays[name]) for name in expected]
    members = jax.tree.unflatten(jax.tree.structure(example), leaves)
    return members._replace(key=jax.random.wrap_key_data(members.key))


def predict_labels(
    params: Params,
    users: Array,
    items: Array,
    sides: Sides,
    *,
    network: WorldModelNetwork,
) -> Array:
    """The members' mean prediction `[M]` for users and items `[M]`."""
    apply = jax.vmap(network.apply, in_axes=(0, None, None, None, None))
    return jnp.mean(apply(params, users, items, *sides).mean, axis=0)


def _predict_log(
    predict: Callable[..., Array], params: Params, log: InteractionLog, sides: Sides
) -> np.ndarray:
    """Predictions `[N]` for the rows of a log, a block of them at a time."""
    size = min(len(log), _ROWS_A_BLOCK)
    predicted = np.empty(len(log), np.float32)
    for start in range(0, len(log), size):
        # A last block that overlaps the one before spares a second compilation.
        rows = slice(min(start, len(log) - size), min(start + size, len(log)))
        predicted[rows] = predict(params, log.users[rows], log.items[rows], sides)
    return predicted


def build_network(
    dataset: Dataset, config: WorldModelConfig
) -> tuple[Sides, WorldModelNetwork]:
    """The features of a data set as arrays, and the network over their fields."""
    user_id = Field("user", dataset.num_logged_users, False)
    item_id = Field("item", dataset.num_logged_items, False)
    user_fields = (user_id, *map(_field, dataset.user_features))
    item_fields = (item_id, *map(_field, dataset.item_features))
    no_dense = np.zeros((dataset.num_logged_users, 0), np.float32)
    sides = Sides(
        _features(dataset.user_features, no_dense),
        _features(dataset.item_features, dataset.item_dense),
    )
    return sides, make_deepfm(config, user_fields, item_fields)


def _field(feature: CategoricalFeature) -> Field:
    return Field(feature.name, feature.size, feature.padded)


def _features(features: tuple[CategoricalFeature, ...], dense: np.ndarray) -> Features:
    codes = tuple(jnp.asarray(feature.codes) for feature in features)
    return Features(codes, jnp.asarray(dense))


def _init_members(
    network: WorldModelNetwork,
    optimizer: optax.GradientTransformation,
    sides: Sides,
    config: WorldModelConfig,
) -> Member:
    """Members with a leading axis E; they share their initial weights if published."""
    init_key, order_key = jax.random.split(jax.random.key(config.seed))
    order_keys = jax.random.split(order_key, config.members)
    if config.identical_init:
        init_keys = jnp.broadcast_to(init_key, (config.members,))
    else:
        init_keys = jax.random.split(init_key, config.members)

    init = functools.partial(
        init_member, sides=sides, network=network, optimizer=optimizer
    )
    return jax.jit(jax.vmap(init))(init_keys, order_keys)


def init_member(
    init_key: Key,
    order_key: Key,
    sides: Sides,
    *,
    network: WorldModelNetwork,
    optimizer: optax.GradientTransformation,
) -> Member:
    """One member before training; the keys are of its weights and of its batches."""
    params = network.init(init_key, *sides)
    return Member(params, optimizer.init(params), order_key)


def _compile_epoch(
    network: WorldModelNetwork,
    optimizer: optax.GradientTransformation,
    pairs: TrainingPairs,
    sides: Sides,
    config: WorldModelConfig,
) -> Callable[[Member, Callable[[float], None]], tuple[Member, float]]:
    """One pass over all pairs, of all members; returns them and the loss a pair.

    The pairs stay on the device. A long epoch is cut into calls, so that whoever waits
    hears of it; what is computed does not change.
    """
    size = pairs.negative_users.shape[0]
    bound = functools.partial(
        train_steps, network=network, optimizer=optimizer, config=config
    )
    take_steps = jax.jit(jax.vmap(bound, (0, 0, None, None)), donate_argnums=0)
    draw = functools.partial(draw_order, size=size, batch_size=config.batch_size)
    draw_orders = jax.jit(jax.vmap(draw), donate_argnums=0)
    device_pairs = jax.tree.map(jnp.asarray, pairs)

    def epoch(
        members: Member, on_progress: Callable[[float], None]
    ) -> tuple[Member, float]:
        members, order = draw_orders(members)
        steps, total = order.shape[1], 0.0
        for start in range(0, steps, _STEPS_A_CALL):
            part = order[:, start : start + _STEPS_A_CALL]
            members, losses = take_steps(members, part, device_pairs, sides)
            total += float(jnp.mean(losses))
            on_progress(min(1.0, (start + _STEPS_A_CALL) / steps))
        return members, total / size

    return epoch


def draw_order(member: Member, *, size: int, batch_size: int) -> tuple[Member, Array]:
    """A random order of the pairs, `[steps, batch]`; -1 pads the last batch."""
    key, order_key = jax.random.split(member.key)
    steps = -(-size // batch_size)
    order = jax.random.permutation(order_key, size)
    order = jnp.pad(order, (0, steps * batch_size - size), constant_values=-1)
    return member._replace(key=key), order.reshape(steps, batch_size)


def train_steps(
    member: Member,
    order: Array,
    pairs: TrainingPairs,
    sides: Sides,
    *,
    network: WorldModelNetwork,
    optimizer: optax.GradientTransformation,
    config: WorldModelConfig,
) -> tuple[Member, Array]:
    """A gradient step on each row of `order [n, batch]`; returns the sum of losses."""
    pair_loss = LOSSES[config.loss]

    def loss_fn(params: Params, rows: Array) -> tuple[Array, Array]:
        loss = _batch_loss(
            params, rows, pairs, sides, network, pair_loss, config.negative_weight
        )
        return loss + parameter_decay(params, config), loss

    def step(carry: tuple[Params, optax.OptState], rows: Array) -> tuple[tuple, Array]:
        params, opt_state = carry
        (_, loss), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, rows)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    carry, losses = jax.lax.scan(step, (member.params, member.opt_state), order)
    return Member(*carry, member.key), jnp.sum(losses)


def _batch_loss(
    params: Params,
    rows: Array,
    pairs: TrainingPairs,
    sides: Sides,
    network: WorldModelNetwork,
    loss: Loss,
    negative_weight: float,
) -> Array:
    weight = (rows >= 0).astype(jnp.float32)  # -1 pads the last batch
    rows = jnp.maximum(rows, 0)
    logged = rows % pairs.users.shape[0]
    positive = network.apply(params, pairs.users[logged], pairs.items[logged], *sides)
    negative = network.apply(
        params, pairs.negative_users[rows], pairs.negative_items[rows], *sides
    )
    labels, importance = pairs.labels[logged], pairs.importance[logged]
    return loss(positive, negative, labels, importance, weight, negative_weight)
