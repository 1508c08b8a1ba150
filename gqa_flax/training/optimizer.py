"""Adafactor with T5's constants, and T5's learning-rate schedules."""

import dataclasses

import jax.numpy as jnp
import optax

from gqa_flax.config import check_integer


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


@dataclasses.dataclass(frozen=True)
class RsqrtSchedule:
  """base / sqrt(max(step, warmup_steps)); see `rsqrt_schedule`."""

  warmup_steps: int
  base: float

  def __call__(self, step):
    step = jnp.maximum(step, self.warmup_steps).astype(jnp.float32)
    return self.base / jnp.sqrt(step)


def rsqrt_schedule(
  warmup_steps: int = 10_000, base: float = 1.0
) -> RsqrtSchedule:
  """base / sqrt(max(step, warmup_steps)): T5's pre-training.

  Args:
    warmup_steps: the rate is constant until this step.
    base: numerator.

  Returns:
    A function of the step (int32 scalar) that gives a float32 scalar.

  Raises:
    ValueError: if warmup_steps is below 1, for which the first rate is
      infinite.
  """
  check_integer('WARMUP_STEPS', warmup_steps, 1)
  return RsqrtSchedule(warmup_steps, base)


def warmup_warning(learning_rate, step: int, checkpoint: str) -> str | None:
  """Returns what to say of a schedule that a checkpoint begins in its warm-up.

  A published checkpoint has left it long ago, so that its step was lost.

  Args:
    learning_rate: a function of the step.
    step: of the checkpoint.
    checkpoint: its path.
  """
  in_warmup = isinstance(learning_rate, RsqrtSchedule) and (
    step < learning_rate.warmup_steps
  )
  if not in_warmup:
    return None
  return (
    f'Warning: {checkpoint} is at step {step}, within the '
    f'{learning_rate.warmup_steps} warm-up steps of the 1/sqrt schedule, at '
    f'learning rate {float(learning_rate(jnp.int32(step))):.3g}; if it was '
    'trained for longer, convert it again with that many steps as STEP.'
  )


def constant_schedule(value: float = 1e-3):
  """The same rate at every step: T5's fine-tuning, 1e-3 in the paper."""

  def learning_rate(step):
    del step
    return jnp.float32(value)

  return learning_rate
