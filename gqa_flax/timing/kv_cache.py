"""Bytes of the decoding caches, and the batches that fit; no JAX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gqa_flax.config import T5Config, divisors
from gqa_flax.timing.chips import Chip
from gqa_flax.timing.geometries import DecoderOnlyConfig, num_params

# The paper's choice for T5-XXL, and since then most published decoders'.
_USUAL_KV_HEADS = 8


@dataclasses.dataclass(frozen=True)
class CacheSize:
  """What one number of key/value heads costs in memory.

  Attributes:
    attention: 'MHA', 'MQA' or such as 'GQA-8'.
    num_kv_heads: K.
    num_params: of the whole model; with K they shrink a little too.
    token_bytes: of one position in all layers, keys and values.
    sequence_bytes: of all positions of a sequence.
    batch_bytes: of all sequences.
    share: of the bytes of multi-head attention, K / N.
    params_fit: whether the chips can hold the parameters alone.
    largest_batch: sequences whose caches fit beside them.
  """

  attention: str
  num_kv_heads: int
  num_params: int
  token_bytes: int
  sequence_bytes: int
  batch_bytes: int
  share: float
  params_fit: bool
  largest_batch: int

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return dataclasses.asdict(self)


def usual_kv_heads(config: T5Config | DecoderOnlyConfig) -> list[int]:
  """Returns the numbers of key/value heads worth comparing, descending.

  Multi-head and multi-query attention, and between them the config's own
  number or, where it has multi-head attention, the largest divisor up to 8.
  """
  N, K = config.num_heads, config.num_kv_heads
  if K == N:
    K = max(
      k for k in divisors(N) if k <= _USUAL_KV_HEADS and (k < N or N == 1)
    )
  return sorted({N, K, 1}, reverse=True)


def attention_name(config: T5Config | DecoderOnlyConfig) -> str:
  """Returns 'MHA', 'MQA' or such as 'GQA-8'."""
  if config.num_kv_heads == config.num_heads:
    return 'MHA'
  return 'MQA' if config.num_kv_heads == 1 else f'GQA-{config.num_kv_heads}'


def num_layers(config: T5Config | DecoderOnlyConfig) -> int:
  """Returns the number of decoder layers, each of which has its caches."""
  if isinstance(config, T5Config):
    return config.num_decoder_layers
  return config.num_layers


def compare(
  config: T5Config | DecoderOnlyConfig,
  kv_heads: Sequence[int],
  batch_size: int,
  length: int,
  chip: Chip,
  num_chips: int = 1,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> list[CacheSize]:
  """Returns the cache's size for each number of key/value heads.

  Args:
    config: the architecture; its own num_kv_heads does not matter.
    kv_heads: to be compared, in this order.
    batch_size: sequences.
    length: positions of a sequence, see `cache_bytes`.
    chip: whose memory it is.
    num_chips: how many of them share parameters and caches.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the cache.

  Raises:
    ValueError: if one of kv_heads does not divide config.num_heads.
  """
  sizes = []
  for num_kv_heads in kv_heads:
    grouped = dataclasses.replace(config, num_kv_heads=num_kv_heads)
    sizes.append(
      CacheSize(
        attention=attention_name(grouped),
        num_kv_heads=num_kv_heads,
        num_params=num_params(grouped),
        token_bytes=cache_bytes(grouped, 1, 1, value_width=value_width),
        sequence_bytes=cache_bytes(grouped, 1, length, value_width=value_width),
        batch_bytes=cache_bytes(
          grouped, batch_size, length, value_width=value_width
        ),
        share=num_kv_heads / config.num_heads,
        params_fit=params_fit(
          grouped, chip, num_chips, param_width=param_width
        ),
        largest_batch=largest_batch(
          grouped,
          length,
          chip,
          num_chips,
          param_width=param_width,
          value_width=value_width,
        ),
      )
    )
  return sizes


def cache_bytes(
  config: T5Config | DecoderOnlyConfig,
  batch_size: int,
  length: int,
  *,
  value_width: int = 2,
) -> int:
  """Returns the bytes of the keys and values of all decoder layers.

  Args:
    config: the architecture; its num_kv_heads counts, not num_heads.
    batch_size: sequences; 1 with a length of 1 gives the bytes a token.
    length: positions of a sequence. A T5 decoder caches those of the source
      for its cross-attention and those of the target for its self-attention:
      give their sum.
    value_width: bytes an element of the cache.
  """
  heads = num_layers(config) * config.num_kv_heads
  position = 2 * heads * config.head_dim
  return value_width * batch_size * length * position


def largest_batch(
  config: T5Config | DecoderOnlyConfig,
  length: int,
  chip: Chip,
  num_chips: int = 1,
  *,
  param_width: int = 2,
  value_width: int = 2,
) -> int:
  """Returns how many sequences' caches fit beside the parameters.

  An upper bound: activations need room too, and nothing is held twice.

  Args:
    config: the architecture.
    length: positions of a sequence, see `cache_bytes`.
    chip: whose memory it is.
    num_chips: how many of them share parameters and caches.
    param_width: bytes an element of parameters.
    value_width: bytes an element of the cache.

  Returns:
    0 if there is no room for one sequence, or not even for the parameters (see
    `params_fit`).
  """
  room = num_chips * chip.hbm_bytes - param_width * num_params(config)
  sequence = cache_bytes(config, 1, length, value_width=value_width)
  return max(0, room // sequence)


def params_fit(
  config: T5Config | DecoderOnlyConfig,
  chip: Chip,
  num_chips: int = 1,
  *,
  param_width: int = 2,
) -> bool:
  """Whether the chips can hold the parameters, with nothing else."""
  return param_width * num_params(config) <= num_chips * chip.hbm_bytes
