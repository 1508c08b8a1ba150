"""Metrics of the steps since the last record, still on the devices."""

import time

import jax
import numpy as np


class Window:
  """Sums metrics over steps without waiting for them."""

  def __init__(self):
    self._empty()

  def _empty(self):
    self._metrics, self._examples = [], 0.0
    self.restart_clock()

  def add(self, metrics, examples: float):
    """Adds a step, and waits for the one before it.

    So there is work for the devices at any time, and never a queue of it: who
    waits here sees that they do not go on.
    """
    if self._metrics:
      jax.block_until_ready(self._metrics[-1])
    self._metrics.append(metrics)
    self._examples += examples

  def restart_clock(self):
    """Leaves out the time that something else has taken."""
    self._start = time.monotonic()

  def close(self, step: int) -> dict[str, float] | None:
    """Returns the means over the window's tokens, and starts the next one.

    Args:
      step: the last.

    Returns:
      The means, or None if the window holds one step alone and that was
      skipped: it is left for the next window.

    Raises:
      FloatingPointError: if a loss is not finite, or all of several steps were
        skipped.
    """
    per_step = jax.device_get(self._metrics)
    first_step = step - len(per_step) + 1
    for i, metrics in enumerate(per_step):
      loss = (metrics.cross_entropy + metrics.z_loss) / max(metrics.tokens, 1)
      if not np.isfinite(loss):
        raise FloatingPointError(
          f'The loss of step {first_step + i} is {loss}, and nothing has been '
          'saved since the last checkpoint; start again from there with a '
          'lower learning rate, with another RANDOM_SEED, which reads other '
          "batches, or with NON_FINITE = 'skip', which leaves such steps out."
        )
    total = jax.tree.map(lambda *xs: float(np.sum(xs)), *per_step)
    if total.skipped == len(per_step) == 1:
      self._examples = 0.0
      return None
    if total.skipped == len(per_step):
      raise FloatingPointError(
        f'Steps {first_step} to {step} were all skipped, since none gave a '
        'finite update; start again from the last checkpoint with a lower '
        'learning rate.'
      )
    seconds = time.monotonic() - self._start
    rate = self._examples / seconds
    self._empty()
    numbers = {
      'loss': (total.cross_entropy + total.z_loss) / total.tokens,
      'cross_entropy': total.cross_entropy / total.tokens,
      'accuracy': total.correct / total.tokens,
      'target_tokens': total.tokens,
      'examples_per_second': rate,
      'seconds': seconds,
    }
    if total.skipped:
      numbers['skipped_steps'] = total.skipped
    return numbers
