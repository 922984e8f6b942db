"""The selector's K_sel picks as one kernel, for GPUs.

`selector.select_references` launches some thirty small kernels a pick, which take far
longer than what they compute. Here one program of the GPU makes all picks of a
recommendation; `vmap` over sessions and seeds adds programs. The function is the same:
same tokens, same uniform numbers, float32 throughout, so that picks differ only where
rounding moves a uniform number across a boundary.

Written in Pallas, for its Triton backend: arrays in the kernel have sizes that are
powers of two, are never indexed, and `x @ y` is a sum of products.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from darlr_jax.agents import categorical
from darlr_jax.config import ConfigError, SelectorConfig
from darlr_jax.networks import transformer
from darlr_jax.networks.selector import Affine, PickLayers, pick_layers, unstacked
from darlr_jax.types import (
    EMPTY,
    Array,
    Images,
    Key,
    Params,
    SelectorNetwork,
    UserCodes,
    UserTables,
)

_BACKEND = "jax.experimental.pallas.triton"  # deprecated from JAX 0.11 on

# Each user is compared with all that are taken, in registers.
_MOST_PICKS = 31
_WIDEST = 64  # the matrices of all layers stay in registers, too


class Tuning(NamedTuple):
    """What changes the speed and not the picks."""

    users: int = 512  # keys that are read at a time, a power of two
    warps: int = 4  # threads of a recommendation, in 32s


_TUNING = Tuning()


class _Inputs(NamedTuple):
    """What the picks of one recommendation read; in the kernel, references to it."""

    user: Any  # [1] int32
    uniforms: Any  # [K]
    users: Images  # [U, D]
    offsets: Images  # [W, D] of context and position, to be added, newest first
    keys: Any  # [D, U padded to whole blocks]
    layers: PickLayers


def unsupported(config: SelectorConfig) -> str:
    """Why the kernel cannot make the picks of `config`; empty if it can."""
    if config.pool != "all":
        return f"selector.pool must be 'all', not {config.pool!r}"
    if config.layers != 1:
        return f"selector.layers must be 1, not {config.layers}"
    if config.width > _WIDEST or config.width & (config.width - 1):
        return f"selector.width must be a power of two up to {_WIDEST}"
    if config.k_sel > _MOST_PICKS:
        return f"selector.k_sel must be at most {_MOST_PICKS}, not {config.k_sel}"
    if importlib.util.find_spec(_BACKEND) is None:
        return f"this version of JAX has no {_BACKEND}"
    return ""


def is_chosen(config: SelectorConfig) -> bool:
    """Whether `selector.picks` means the kernel, on the device that JAX uses.

    Raises:
      ConfigError: it does, and cannot be used.
    """
    on_gpu = jax.default_backend() == "gpu"
    if config.picks == "auto":
        return on_gpu and not unsupported(config)
    if config.picks == "plain":
        return False
    reason = unsupported(config)
    if not on_gpu:
        reason = f"it needs a GPU, and the device is {jax.default_backend()}"
    if reason:
        raise ConfigError(f"selector.picks='fused': {reason}; set selector.picks=auto")
    return True


def select_references(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
    tuning: Tuning = _TUNING,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """As `selector.select_references`, of which it is the other implementation.

    _Unbatched_; the key is consumed. `config` must be one that is not `unsupported`.

    Args:
      params: the selector's parameters.
      key: random key.
      user: `[]` the current user, never picked.
      context: `[D]` the recommender's state, detached; `[2D-1]` with the item.
      codes: from `selector.encode_users`, under `params`.
      users: not read; the pool is everybody else.
      network: the pure functions.
      config: `k_sel`, `window`, `width` and `heads`.
      tuning: block size and threads.
      interpret: runs the kernel as ordinary operations, on any device and slowly.

    Returns:
      Picked users `[K]` int32 and the critic's value before each pick `[K]`.
    """
    del users
    uniforms = jax.random.uniform(key, (config.k_sel,))
    return picks_at(
        uniforms,
        params,
        user,
        context,
        codes,
        network=network,
        config=config,
        tuning=tuning,
        interpret=interpret,
    )


def picks_at(
    uniforms: Array,
    params: Params,
    user: Array,
    context: Array,
    codes: UserCodes,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
    tuning: Tuning,
    interpret: bool,
) -> tuple[Array, Array]:
    """`select_references` at given numbers `[K]` in [0, 1). _Unbatched_."""
    num_users = codes.keys.shape[0]
    block = min(tuning.users, pl.next_power_of_2(num_users))
    window = min(config.window, config.k_sel)  # there are no more tokens
    of_context = network.encode_context(params, context)
    inputs = _Inputs(
        user=jnp.reshape(user, (1,)).astype(jnp.int32),
        uniforms=uniforms,
        users=unstacked(codes.images),
        offsets=unstacked(of_context[:window]),
        keys=_transposed(codes.keys, block),
        layers=pick_layers(params),
    )
    kernel = functools.partial(
        _pick_all, config=config, num_users=num_users, block=block
    )
    return pl.pallas_call(
        kernel,
        out_shape=(
            jax.ShapeDtypeStruct(uniforms.shape, jnp.int32),
            jax.ShapeDtypeStruct(uniforms.shape, jnp.float32),
        ),
        compiler_params=None if interpret else _compiler_params(tuning),
        interpret=interpret,
        name="selector_picks",
    )(inputs)


def _compiler_params(tuning: Tuning) -> Any:
    # Imported where it is used, so that a JAX without this backend runs all the rest.
    from jax.experimental.pallas import triton

    # Nothing is worth prefetching: blocks are large and their products short.
    return triton.CompilerParams(num_warps=tuning.warps, num_stages=1)


def _transposed(keys: Array, block: int) -> Array:
    """Keys `[D, U]`, padded: threads read one feature of successive users at once."""
    return jnp.pad(keys, ((0, -keys.shape[0] % block), (0, 0))).T


# --- the kernel -----------------------------------------------------------------------


def _pick_all(
    inputs: _Inputs,
    picked_ref: Any,
    value_ref: Any,
    *,
    config: SelectorConfig,
    num_users: int,
    block: int,
) -> None:
    """All picks of one recommendation: writes users `[K]` and values `[K]`."""
    layers = jax.tree.map(lambda ref: ref[...], inputs.layers)
    slots = _slots(pl.next_power_of_2(config.k_sel + 1))
    draw = functools.partial(_draw, keys=inputs.keys, num_users=num_users, block=block)

    def pick(turn: Array, taken: Array) -> Array:
        """Pick `turn`; `taken` are the current user, the picks so far, and EMPTY."""
        hidden = _read_window(turn, taken, inputs, layers, config)
        query = _affine(hidden, layers.actor) / math.sqrt(config.width)
        inner = jnp.maximum(_affine(hidden, layers.critic_hidden), 0.0)
        picked = draw(inputs.uniforms[turn], query, taken)
        picked_ref[turn] = picked
        value_ref[pl.ds(turn, 1)] = _affine(inner, layers.critic)
        return jnp.where(slots == turn + 1, picked, taken)

    start = jnp.where(slots == 0, inputs.user[0], EMPTY)
    lax.fori_loop(0, config.k_sel, pick, start)


def _read_window(
    turn: Array,
    taken: Array,
    inputs: _Inputs,
    layers: PickLayers,
    config: SelectorConfig,
) -> Array:
    """The transformer's output `[D]` at the newest token; that of `taken[turn]`."""
    window = inputs.offsets.key.shape[0]
    ages, slots = _slots(pl.next_power_of_2(window)), _slots(taken.shape[0])
    valid = (ages <= turn) & (ages < window)
    is_of_age = slots[None, :] == turn - ages[:, None]
    recent = jnp.sum(jnp.where(is_of_age, taken[None, :], 0), axis=1)
    ages = jnp.minimum(ages, window - 1)  # what is not there is masked, but read
    newest = jnp.sum(jnp.where(slots == turn, taken, 0))

    token = inputs.users.token[newest, :] + inputs.offsets.token[0, :]
    query = inputs.users.query[newest, :] + inputs.offsets.query[0, :]
    keys = inputs.users.key[recent, :] + inputs.offsets.key[ages, :]
    values = inputs.users.value[recent, :] + inputs.offsets.value[ages, :]
    mixed = _attend(query, keys, values, valid, config.heads)
    hidden = _normalise(token + _affine(mixed, layers.out), layers.attention_norm)
    inner = jnp.maximum(_affine(hidden, layers.inner), 0.0)
    return _normalise(hidden + _affine(inner, layers.outer), layers.norm)


def _attend(
    query: Array, keys: Array, values: Array, valid: Array, heads: int
) -> Array:
    """Attention of one query `[D]` to keys and values `[W, D]`, head by head: `[D]`."""
    window, width = keys.shape
    split = (window, heads, width // heads)
    scores = jnp.sum((query[None, :] * keys).reshape(split), axis=2)
    scores = jnp.where(valid[:, None], scores / math.sqrt(split[2]), transformer.MASKED)
    weights = jnp.exp(scores - jnp.max(scores, axis=0)[None, :])
    weights = weights / jnp.sum(weights, axis=0)[None, :]
    mixed = jnp.sum(weights[:, :, None] * values.reshape(split), axis=0)
    return mixed.reshape(width)


def _draw(
    uniform: Array, query: Array, taken: Array, *, keys: Any, num_users: int, block: int
) -> Array:
    """The user `[]` at quantile `uniform` of those who are not taken.

    As `categorical.sample`, in two levels: over blocks of users, then within one.
    """
    num_blocks = keys.shape[1] // block
    slots = _slots(pl.next_power_of_2(num_blocks))

    def logits_of(index: Array) -> Array:
        users = index * block + _slots(block)
        logits = jnp.sum(query[:, None] * keys[:, pl.ds(index * block, block)], axis=0)
        same = (taken[:, None] == users[None, :]).astype(jnp.int32)
        free = (jnp.max(same, axis=0) == 0) & (users < num_users)
        return jnp.where(free, logits, categorical.MASKED)

    def add(index: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        peaks, totals = sums
        logits = logits_of(index)
        peak = jnp.max(logits)
        total = jnp.sum(jnp.exp(logits - peak))
        here = slots == index
        return jnp.where(here, peak, peaks), jnp.where(here, total, totals)

    nothing = jnp.zeros(slots.shape, jnp.float32)
    sums = (nothing + categorical.MASKED, nothing)
    peaks, totals = lax.fori_loop(0, num_blocks, add, sums)
    peak = jnp.max(peaks)
    totals = totals * jnp.exp(peaks - peak)  # 0 where nobody of a block is free
    before = slots[:, None] <= slots[None, :]
    ends = jnp.sum(jnp.where(before, totals[:, None], 0.0), axis=0)
    target = uniform * jnp.sum(totals)
    chosen = _first_beyond(target, ends, totals)
    target = target - jnp.sum(jnp.where(slots < chosen, totals, 0.0))
    weights = jnp.exp(logits_of(chosen) - peak)
    return chosen * block + _first_beyond(target, jnp.cumsum(weights), weights)


def _first_beyond(target: Array, ends: Array, weights: Array) -> Array:
    """As in `categorical`: the first that ends beyond, else the last of weight."""
    slots = _slots(weights.shape[0])
    positive = weights > 0
    absent = weights.shape[0]
    first = jnp.min(jnp.where(positive & (ends > target), slots, absent))
    last = jnp.max(jnp.where(positive, slots, 0))
    return jnp.where(first < absent, first, last)


def _affine(inputs: Array, layer: Affine) -> Array:
    """Maps `[n]` to `[m]`."""
    return jnp.sum(inputs[:, None] * layer.kernel, axis=0) + layer.bias


def _normalise(inputs: Array, layer: Affine) -> Array:
    """Layer norm of `[D]`."""
    width = inputs.shape[0]
    centred = inputs - jnp.sum(inputs) / width
    variance = jnp.sum(centred * centred) / width
    return centred * lax.rsqrt(variance + 1e-5) * layer.kernel + layer.bias


def _slots(size: int) -> Array:
    return lax.iota(jnp.int32, size)
