"""Cross-entropy of every held-out example, the encoder run only once.

Conversion leaves the encoder as it is, so that all models converted from one
checkpoint share its output.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.real_checkpoint import data
from gqa_flax.model.layers import allowed_pairs, attention_bias
from gqa_flax.model.network import Transformer
from gqa_flax.training.losses import cross_entropy_with_z_loss

# Examples evaluated of each kind: whole batches of the held-out text.
EXAMPLES = {'translation': 192, 'summaries': 320, 'span': 288}
BATCH_SIZE = 32


class HeldOut:
  """Held-out examples of one kind, for models with one encoder."""

  def __init__(self, kind: str, params, config):
    examples = data.pairs(kind, 'validation')[: EXAMPLES[kind]]
    self.tokens = [
      min(len(target), data.LENGTHS[kind][1]) for _, target in examples
    ]
    encode = jax.jit(
      lambda tokens: Transformer(config).apply(
        {'params': params}, tokens, method='encode'
      )
    )
    self._batches = [
      (batch, np.asarray(encode(batch['encoder_input_tokens'])))
      for batch in data.batches(examples, kind, BATCH_SIZE)
    ]

  def losses(self, params, config) -> list[float]:
    """Returns the summed cross-entropy of each example, in nats."""
    return [
      round(float(x), 3)
      for batch, encoded in self._batches
      for x in _losses(config, params, batch, encoded)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _losses(config, params, batch, encoded_BSD):
  """Returns [B]: teacher forcing from the encoder's output."""

  def decode(model):
    real_BT = batch['decoder_target_tokens'] > 0
    T = real_BT.shape[1]
    causal = jnp.tril(jnp.ones((1, T, T), bool))
    y_BTD = model.decoder(
      model.token_embedder(batch['decoder_input_tokens']),
      encoded_BSD,
      attention_bias(causal & allowed_pairs(real_BT, real_BT), jnp.float32),
      attention_bias(
        allowed_pairs(real_BT, batch['encoder_input_tokens'] > 0), jnp.float32
      ),
      True,
    )
    return model.decoder.logits_dense(y_BTD)

  logits_BTV = nn.apply(decode, Transformer(config))({'params': params})
  loss_BT, _ = cross_entropy_with_z_loss(
    logits_BTV, batch['decoder_target_tokens'], 0.0
  )
  return jnp.sum(loss_BT * batch['decoder_loss_weights'], axis=1)
