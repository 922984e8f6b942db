"""Layers and initialisers shared by the networks."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.types import Array, Params


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
    """Dropout taking two decisions from a random word: randomness is what it costs."""

    rate: float

    @nn.compact
    def __call__(self, inputs: Array, deterministic: bool) -> Array:
        """Zeroes entries with probability `rate`, to 16 bits, and scales the others."""
        if deterministic or self.rate == 0:
            return inputs
        words = jax.random.bits(
            self.make_rng("dropout"), (-(-inputs.size // 2),), jnp.uint32
        )
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16).ravel()
        keep = halves[: inputs.size].reshape(inputs.shape) >= round(self.rate * 2**16)
        return jnp.where(keep, inputs / (1.0 - self.rate), 0.0)
