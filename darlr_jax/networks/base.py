"""Layers and initialisers shared by the networks."""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.types import Array, Key, Params


def symmetric_uniform(fan_in: int) -> Any:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of the published code."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def call(module: nn.Module, params: Params, *inputs: Any, **options: Any) -> Any:
    """Applies a module to inputs, nothing being mutable."""
    return module.apply({"params": params}, *inputs, **options)


class Linear(nn.Module):
    """Affine map whose kernel and bias start as U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    features: int
    use_bias: bool = True
    kernel_init: Any = None  # symmetric_uniform of the inputs

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Maps `[..., n]` to `[..., features]`; several as if they were concatenated.

        Leading axes of several inputs broadcast after they have been mapped: what is
        the same for a whole row of a grid is mapped once.
        """
        default = symmetric_uniform(sum(part.shape[-1] for part in inputs))
        layer = Dense(
            self.features,
            self.use_bias,
            kernel_init=self.kernel_init or default,
            bias_init=default,
            name="Dense_0",
        )
        return layer(*inputs)


class Dense(nn.Module):
    """`flax.linen.Dense` of a concatenation, with the parameters that it has."""

    features: int
    use_bias: bool
    kernel_init: Any
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Maps `[..., n]`, or several such, to `[..., features]`."""
        widths = [part.shape[-1] for part in inputs]
        kernel = self.param("kernel", self.kernel_init, (sum(widths), self.features))
        blocks = jnp.split(kernel, list(itertools.accumulate(widths))[:-1])
        pairs = zip(inputs, blocks, strict=True)
        mapped = functools.reduce(jnp.add, [part @ block for part, block in pairs])
        if not self.use_bias:
            return mapped
        bias = self.param("bias", self.bias_init, (self.features,))
        return mapped + bias.reshape((1,) * (mapped.ndim - 1) + (-1,))


class MLP(nn.Module):
    """Linear-ReLU layers."""

    hidden: tuple[int, ...]
    kernel_init: Any = None  # symmetric_uniform of the inputs

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Maps `[..., n]` to `[..., hidden[-1]]`; several inputs as `Linear` does."""
        for width in self.hidden:
            inputs = (nn.relu(Linear(width, kernel_init=self.kernel_init)(*inputs)),)
        return _concatenate(inputs)


def _concatenate(parts: tuple[Array, ...]) -> Array:
    """Joins last axes; the others broadcast."""
    leading = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    shapes = [(*leading, part.shape[-1]) for part in parts]
    return jnp.concatenate(list(map(jnp.broadcast_to, parts, shapes)), axis=-1)


class Dropout(nn.Module):
    """Dropout whose decisions are a hash of the key, of where it is, and of the entry.

    JAX's own generator would take more time than the network around it.
    """

    rate: float

    @nn.compact
    def __call__(self, inputs: Array, key: Key | None) -> Array:
        """Zeroes entries with probability `rate` and scales the others; needs a key.

        Modules of different paths may be given the same key.
        """
        if key is None or self.rate == 0:
            return inputs
        words = hashed_words(key, "/".join(self.path), inputs.shape)
        keep = words >= jnp.uint32(round(self.rate * 2**32))
        return jnp.where(keep, inputs / (1.0 - self.rate), 0.0)


def hashed_words(key: Key, salt: str, shape: tuple[int, ...]) -> Array:
    """Random uint32 `shape`, others for each key and salt; for noise, not for draws.

    Each position is hashed by itself, in some twenty instructions that the compiler
    fuses with what reads them. No word comes twice in an array.
    """
    data = jax.random.key_data(key)
    number = jnp.uint32(zlib.crc32(salt.encode()))
    first, second = _mixed(data[0] ^ number), _mixed(data[-1] + number)
    position = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _mixed(_mixed(position + first) ^ second)


def _mixed(word: Array) -> Array:
    """A bijection of uint32 in which each bit depends on all (Wellons' lowbias32)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x21F0AAAD)
    word = (word ^ (word >> 15)) * jnp.uint32(0xD35A2D97)
    return word ^ (word >> 15)
