"""Bytes and FLOPs of encoding and decoding from a config alone; no JAX.

Bounds, whatever the program: every weight that a phase uses is read once, and
so is its input; its output and what it adds to a cache are written once. What
passes from one layer to the next, the logits and the sampling count nothing, as
if they stayed on the chip. FLOPs are those of matrix products, 2 m k n for
[m, k] and [k, n], as `timing.flops` counts them.

On several chips, bytes and FLOPs are divided evenly and nothing is exchanged or
held twice: weights too, so that a step cannot be faster in any partitioning.

Widths are bytes an element: `param_width` of parameters, `value_width` of
activations and caches; 2 is bfloat16. B, S, T, N, K, H, D, F and V are as in
`gqa_flax.model`.
"""

import dataclasses

from gqa_flax.config import T5Config
from gqa_flax.timing.chips import Chip
from gqa_flax.timing.geometries import (
  DecoderOnlyConfig,
  mlp_params,
  t5_param_parts,
)
from gqa_flax.timing.kv_cache import cache_bytes


@dataclasses.dataclass(frozen=True)
class Work:
  """What a phase must at least do; phases add up.

  Attributes:
    flops: of matrix products.
    bytes: read from and written to memory.
  """

  flops: int
  bytes: int

  def __add__(self, other: 'Work') -> 'Work':
    return Work(self.flops + other.flops, self.bytes + other.bytes)

  @property
  def intensity(self) -> float:
    """FLOPs a byte."""
    return self.flops / self.bytes

  def compute_seconds(self, chip: Chip, num_chips: int = 1) -> float:
    """The FLOPs at the peak of the chips."""
    return self.flops / (num_chips * chip.peak_flops)

  def memory_seconds(self, chip: Chip, num_chips: int = 1) -> float:
    """The bytes at the bandwidth of the chips' memories."""
    return self.bytes / (num_chips * chip.hbm_bandwidth)

  def seconds(self, chip: Chip, num_chips: int = 1) -> float:
    """The bound: the longer of the two."""
    return max(
      self.compute_seconds(chip, num_chips),
      self.memory_seconds(chip, num_chips),
    )


def encode(
  config: T5Config,
  batch_size: int,
  source_length: int,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> Work:
  """Returns the work of T5's encoder, embedding included.

  Args:
    config: the architecture.
    batch_size: rows, B.
    source_length: positions a row, S; padding counts like the rest.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the encoder's output.
  """
  S, D = source_length, config.emb_dim
  width = config.num_heads * config.head_dim
  # Logits and the weighted sum of values: each N * H for a pair of positions.
  layer = S * (4 * D * width + mlp_params(config)) + S * S * 2 * width
  read = t5_param_parts(config)['encoder'] + _rows(config, batch_size * S)
  return Work(
    flops=2 * batch_size * config.num_encoder_layers * layer,
    bytes=param_width * read + value_width * batch_size * S * D,
  )


def cache_fill(
  config: T5Config,
  batch_size: int,
  source_length: int,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> Work:
  """Returns the work of projecting T5's cross-attention cache, once a batch.

  Reads the encoder's output once for all layers. Arguments as in `encode`.
  """
  positions = batch_size * source_length
  params = t5_param_parts(config)['cross_keys_values']
  return Work(
    flops=2 * positions * params,
    bytes=param_width * params
    + value_width * positions * config.emb_dim
    + cache_bytes(config, batch_size, source_length, value_width=value_width),
  )


def decode_step(
  config: T5Config,
  batch_size: int,
  source_length: int,
  cache_length: int,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> Work:
  """Returns the work of decoding one position of T5 from caches.

  Reads the decoder but for the keys' and values' projections of its
  cross-attention, the output head, a row of the embedding for each sequence,
  and both caches; writes one position of the self-attention cache.

  Args:
    config: the architecture.
    batch_size: sequences, B.
    source_length: positions of the cross-attention cache, S.
    cache_length: positions of the self-attention cache that are attended to,
      the new one among them.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the caches.
  """
  parts = t5_param_parts(config)
  D, L = config.emb_dim, config.num_decoder_layers
  width = config.num_heads * config.head_dim
  grouped = config.num_kv_heads * config.head_dim
  pairs = cache_length + source_length
  layer = (
    4 * D * width + 2 * D * grouped + mlp_params(config) + pairs * 2 * width
  )
  head = config.vocab_size * D
  # A tied head reads the whole embedding, and its rows with it.
  table = head if config.logits_via_embedding else _rows(config, batch_size)
  read = parts['decoder'] + parts['head'] + table
  return Work(
    flops=2 * batch_size * (L * layer + head),
    bytes=param_width * read
    + cache_bytes(config, batch_size, pairs + 1, value_width=value_width),
  )


def prefill(
  config: DecoderOnlyConfig,
  batch_size: int,
  length: int,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> Work:
  """Returns the work of reading prompts into the cache of a decoder.

  Attention counts the pairs that are allowed, not those that a causal mask
  bars; the head sees the last position alone.

  Args:
    config: the geometry.
    batch_size: sequences, B.
    length: positions of a prompt.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the cache.
  """
  pairs = length * (length + 1) // 2
  return Work(
    flops=_decoder_flops(config, batch_size, length, pairs),
    bytes=param_width * _decoder_read(config, batch_size * length)
    + cache_bytes(config, batch_size, length, value_width=value_width),
  )


def decoder_only_step(
  config: DecoderOnlyConfig,
  batch_size: int,
  cache_length: int,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> Work:
  """Returns the work of decoding one position of a decoder from its cache.

  Args:
    config: the geometry.
    batch_size: sequences, B.
    cache_length: positions attended to, the new one among them.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the cache.
  """
  return Work(
    flops=_decoder_flops(config, batch_size, 1, cache_length),
    bytes=param_width * _decoder_read(config, batch_size)
    + cache_bytes(
      config, batch_size, cache_length + 1, value_width=value_width
    ),
  )


def _rows(config, num_tokens) -> int:
  """Parameters of the embedding's rows for so many tokens, if all differ."""
  return min(num_tokens, config.vocab_size) * config.emb_dim


def _decoder_flops(config: DecoderOnlyConfig, batch_size, positions, pairs):
  """FLOPs of positions and pairs a sequence, with one position's logits."""
  D, H = config.emb_dim, config.head_dim
  width, grouped = config.num_heads * H, config.num_kv_heads * H
  products = 2 * D * width + 2 * D * grouped + 3 * D * config.mlp_dim
  layers = config.num_layers * (positions * products + pairs * 2 * width)
  return 2 * batch_size * (layers + config.embedding_params)


def _decoder_read(config: DecoderOnlyConfig, num_tokens) -> int:
  """Parameters read for so many tokens: the layers, the head, and rows."""
  # A tied head reads the whole embedding, and its rows with it.
  rows = 0 if config.tied_embedding else _rows(config, num_tokens)
  layers = config.num_layers * config.layer_params + config.emb_dim
  return layers + config.embedding_params + rows
