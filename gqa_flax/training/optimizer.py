"""Adafactor with T5's constants, and T5's learning-rate schedules."""

import jax.numpy as jnp
import optax


def adafactor(min_dim_size_to_factor: int = 128):
  """Returns T5's Adafactor as an optax transformation, learning rate apart.

  Decay 1 - t**-0.8, clipping at 1, epsilons 1e-30 and 1e-3, updates scaled by
  the parameters' size, no momentum (Shazeer and Stern 2018; T5X's defaults).
  Its updates are for a learning rate of 1: the training step multiplies them,
  since the rate follows the checkpoint's step and not this optimizer's count.

  Args:
    min_dim_size_to_factor: second moments of a matrix whose two sides are at
      least this long are kept as a row and a column.
  """
  return optax.adafactor(
    learning_rate=None,
    min_dim_size_to_factor=min_dim_size_to_factor,
    decay_rate=0.8,
    clipping_threshold=1.0,
    multiply_by_parameter_scale=True,
    momentum=None,
    eps=1e-30,
  )


def rsqrt_schedule(warmup_steps: int = 10_000, base: float = 1.0):
  """base / sqrt(max(step, warmup_steps)): T5's pre-training.

  Args:
    warmup_steps: the rate is constant until this step.
    base: numerator.

  Returns:
    A function of the step (int32 scalar) that gives a float32 scalar.
  """

  def learning_rate(step):
    step = jnp.maximum(step, warmup_steps).astype(jnp.float32)
    return base / jnp.sqrt(step)

  return learning_rate


def constant_schedule(value: float = 1e-3):
  """The same rate at every step: T5's fine-tuning, 1e-3 in the paper."""

  def learning_rate(step):
    del step
    return jnp.float32(value)

  return learning_rate
