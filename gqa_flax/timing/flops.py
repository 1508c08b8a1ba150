"""Model FLOPs of a training step in closed form; no JAX.

What the mathematics needs, whatever the program does: matrix products of the
forward pass, and twice as many for the two gradients of each. Nothing that is
computed again for want of memory counts, and no softmax, norm or update; those
are what separates the model's FLOPs from the machine's.
"""

from gqa_flax.config import T5Config


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
  S, T = source_length, target_length
  D, F, H = config.emb_dim, config.mlp_dim, config.head_dim
  N, K = config.num_heads, config.num_kv_heads
  mlp = (len(config.mlp_activations) + 1) * D * F
  queries_and_out = 2 * D * N * H
  # Logits and the weighted sum of values: each N * H for a pair of positions.
  pair = 2 * N * H
  encoder_layer = S * (queries_and_out + 2 * D * N * H + mlp) + S * S * pair
  decoder_layer = (
    T * (2 * queries_and_out + 2 * D * K * H + mlp)
    + S * 2 * D * K * H
    + (T * T + T * S) * pair
  )
  head = T * D * config.vocab_size
  products = (
    config.num_encoder_layers * encoder_layer
    + config.num_decoder_layers * decoder_layer
    + head
  )
  return 2 * batch_size * products


def training_flops(
  config: T5Config, batch_size: int, source_length: int, target_length: int
) -> int:
  """Returns the model FLOPs of one training step: three forward passes."""
  return 3 * forward_flops(config, batch_size, source_length, target_length)
