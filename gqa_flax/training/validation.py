"""Teacher-forced loss on held-out batches."""

import functools

import jax
import numpy as np

from gqa_flax import partitioning
from gqa_flax.runtime import status
from gqa_flax.training import watchdog
from gqa_flax.training.step import loss_and_metrics


class ValidationLoss:
  """An evaluator: cross-entropy and accuracy per target token.

  Attributes:
    metric_names: what a call returns numbers for.
    vocab_size: token ids that a model needs for these batches.

  Args:
    batches: finite; kept in memory, so that every call sees the same.
    name: prefix of the metrics.

  Raises:
    ValueError: if there is no batch, or no target token in them.
  """

  def __init__(self, batches, name: str = 'validation'):
    with status.phase(f'reading the batches of the {name} loss'):
      self._batches = list(batches)
    self._name = name
    if not self._batches:
      raise ValueError(
        f'There is no batch to compute the {name} loss on; check the split '
        'and its number of examples.'
      )
    if not any(np.any(b['decoder_loss_weights']) for b in self._batches):
      raise ValueError(
        f'No batch of the {name} loss has a target token; check the targets of '
        'the split.'
      )
    self.metric_names = (f'{name}/cross_entropy', f'{name}/accuracy')
    self.vocab_size = 1 + max(
      int(batch[tokens].max())
      for batch in self._batches
      for tokens in ('encoder_input_tokens', 'decoder_target_tokens')
    )

  def __call__(self, model, params):
    """Returns {name/cross_entropy: nats a token, name/accuracy: 0 to 1}."""
    mesh = partitioning.current_mesh()
    # One program at a time: on several CPU devices, those in flight at once can
    # wait for threads that the others hold, until XLA ends the process.
    total = []
    for batch in self._batches:
      placed = partitioning.spread_batch(batch, mesh)
      total.append(jax.device_get(_metrics(model, params, placed)))
      watchdog.beat()
    total = jax.tree.map(lambda *xs: float(np.sum(xs)), *total)
    values = (total.cross_entropy, total.correct)
    return {k: x / total.tokens for k, x in zip(self.metric_names, values)}


@functools.partial(jax.jit, static_argnames='model')
def _metrics(model, params, batch):
  return loss_and_metrics(model, params, batch)[1]
