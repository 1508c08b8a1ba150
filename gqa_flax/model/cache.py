"""Keys and values kept for decoding: an explicit pytree in, and out."""

import flax.struct
import jax
import jax.numpy as jnp

from gqa_flax.model import int8


@flax.struct.dataclass
class KVCache:
  """Keys and values of one attention, in the activations' dtype or as int8.

  Heads come before positions: a decoding step multiplies head by head, and so
  reads each head's rows in one piece. With positions first, XLA transposes the
  whole cache in every step on a CPU.

  Attributes:
    key: [batch, num_kv_heads, length, head_dim].
    value: [batch, num_kv_heads, length, head_dim].
    key_scale: None, or of int8 keys one scale a position and head, [batch,
      num_kv_heads, length, 1] in the activations' dtype.
    value_scale: the same for values.
  """

  key: jax.Array
  value: jax.Array
  key_scale: jax.Array | None = None
  value_scale: jax.Array | None = None

  @classmethod
  def zeros(
    cls, batch, length, num_kv_heads, head_dim, dtype, cache_dtype='auto'
  ) -> 'KVCache':
    """Returns an empty cache, for activations of a dtype."""
    shape = (batch, num_kv_heads, length)
    if cache_dtype == 'int8':
      empty = jnp.zeros((*shape, head_dim), jnp.int8)
      scale = jnp.zeros((*shape, 1), dtype)
      return cls(empty, empty, scale, scale)
    empty = jnp.zeros((*shape, head_dim), dtype)
    return cls(key=empty, value=empty)

  @classmethod
  def of(cls, key_BSKH, value_BSKH, cache_dtype='auto') -> 'KVCache':
    """Returns a cache of what a projection gives."""
    key, value = (jnp.swapaxes(x, 1, 2) for x in (key_BSKH, value_BSKH))
    if cache_dtype == 'int8':
      key, key_scale = int8.quantize(key, axis=-1)
      value, value_scale = int8.quantize(value, axis=-1)
      return cls(key, value, key_scale, value_scale)
    return cls(key, value)

  def keys_values(self) -> tuple[jax.Array, jax.Array]:
    """Returns key and value in the activations' dtype, however they are kept.

    Each is [batch, num_kv_heads, length, head_dim].
    """
    if self.key_scale is None:
      return self.key, self.value
    return (
      int8.dequantize(self.key, self.key_scale),
      int8.dequantize(self.value, self.value_scale),
    )

  @property
  def length(self) -> int:
    """Positions that it holds."""
    return self.key.shape[2]

  def write(self, new: 'KVCache', position) -> 'KVCache':
    """Returns the cache with new's rows at `position` and after it."""
    start = (0, 0, position, 0)
    return jax.tree.map(
      lambda old, rows: jax.lax.dynamic_update_slice(old, rows, start),
      self,
      new,
    )


@flax.struct.dataclass
class DecoderCache:
  """All that one decoding step needs of the past, besides the parameters.

  Attributes:
    self_attention: one cache a layer, of length max_decode_length; positions
      from `position` on are unwritten.
    cross_attention: one cache a layer, projected once from the encoder.
    encoder_bias: [batch, 1, 1, source_length], bars padding in the source.
    position: scalar int32, how many tokens have been decoded.
  """

  self_attention: tuple[KVCache, ...]
  cross_attention: tuple[KVCache, ...]
  encoder_bias: jax.Array
  position: jax.Array

  def check_room(self):
    """Raises ValueError if all positions are written.

    Inside a compiled function that is not known, and nothing is said.
    """
    length = self.self_attention[0].length
    known = not isinstance(self.position, jax.core.Tracer)
    if known and int(self.position) >= length:
      raise ValueError(
        f'The decoding cache holds {length} positions and all are written; '
        'begin with a larger max_decode_length.'
      )
