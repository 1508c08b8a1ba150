"""Model FLOPs of a training step in closed form; no JAX.

What the mathematics needs, whatever the program does: matrix products of the
forward pass, and twice as many for the two gradients of each. Nothing that is
computed again for want of memory counts, and no softmax, norm or update; those
are what separates the model's FLOPs from the machine's.
"""

from gqa_flax.config import T5Config
from gqa_flax.timing import roofline


def forward_flops(
  config: T5Config, batch_size: int, source_length: int, target_length: int
) -> int:
  """Returns the FLOPs of the matrix products of one forward pass.

  A product of [m, k] and [k, n] is 2 m k n. Padding and what a mask bars count
  like the rest, as the program computes them; the embedding is a table and
  costs nothing.

  Args:
    config: the architecture.
    batch_size: rows.
    source_length: encoder positions a row, S.
    target_length: decoder positions a row, T.
  """
  # Teacher forcing computes at every position what a step computes at the last.
  step = roofline.decode_step(config, batch_size, source_length, target_length)
  return (
    roofline.encode(config, batch_size, source_length).flops
    + roofline.cache_fill(config, batch_size, source_length).flops
    + target_length * step.flops
  )


def training_flops(
  config: T5Config, batch_size: int, source_length: int, target_length: int
) -> int:
  """Returns the model FLOPs of one training step: three forward passes."""
  return 3 * forward_flops(config, batch_size, source_length, target_length)
