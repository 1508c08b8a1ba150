"""Symmetric int8: numbers from -127 to 127, and the scale that they share."""

import jax
import jax.numpy as jnp

LARGEST = 127


def quantize(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns the nearest int8 numbers, and their scale along an axis.

  The largest magnitude along the axis becomes 127, so that no other is off by
  more than half a scale: a 254th of it. Zeros alone get the scale 0.

  Args:
    x: floating point.
    axis: whose entries share a scale.

  Returns:
    values: int8, of x's shape.
    scale: of x's dtype and shape, but 1 along the axis.
  """
  largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True).astype(jnp.float32)
  # What is kept is what the values are divided by: a rounded scale costs none.
  scale = (largest / LARGEST).astype(x.dtype)
  divisor = jnp.where(scale == 0, jnp.ones_like(scale), scale)
  quotient = x.astype(jnp.float32) / divisor.astype(jnp.float32)
  return jnp.round(quotient).astype(jnp.int8), scale


def dequantize(values: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns the numbers that `quantize` kept, in the scale's dtype."""
  return values.astype(scale.dtype) * scale
