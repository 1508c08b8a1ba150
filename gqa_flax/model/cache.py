"""Keys and values kept for decoding: an explicit pytree in, and out."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KVCache:
  """Keys and values of one attention, in the activations' dtype.

  Heads come before positions: a decoding step multiplies head by head, and so
  reads each head's rows in one piece. With positions first, XLA transposes the
  whole cache in every step on a CPU.

  Attributes:
    key: [batch, num_kv_heads, length, head_dim].
    value: [batch, num_kv_heads, length, head_dim].
  """

  key: jax.Array
  value: jax.Array

  @classmethod
  def zeros(cls, batch, length, num_kv_heads, head_dim, dtype) -> 'KVCache':
    """Returns an empty cache."""
    empty = jnp.zeros((batch, num_kv_heads, length, head_dim), dtype)
    return cls(key=empty, value=empty)

  @classmethod
  def of(cls, key_BSKH, value_BSKH) -> 'KVCache':
    """Returns a cache of what a projection gives."""
    return cls(jnp.swapaxes(key_BSKH, 1, 2), jnp.swapaxes(value_BSKH, 1, 2))

  def keys_values(self) -> tuple[jax.Array, jax.Array]:
    """Returns key and value, each [batch, length, num_kv_heads, head_dim]."""
    return jnp.swapaxes(self.key, 1, 2), jnp.swapaxes(self.value, 1, 2)

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
