"""The parts of T5.1.1 that are not attention, and the attention masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gqa_flax.partitioning import constrain

# What T5X adds where attention is barred.
BARRED = -1e10
NUM_BUCKETS = 32
MAX_DISTANCE = 128


class RMSNorm(nn.Module):
  """x / rms(x) * scale, with the mean square in float32."""

  dtype: jnp.dtype
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x_BTD):
    scale_D = self.param('scale', nn.initializers.ones, (x_BTD.shape[-1],))
    x_BTD = x_BTD.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x_BTD), axis=-1, keepdims=True)
    x_BTD = (x_BTD * jax.lax.rsqrt(mean_square + self.epsilon)).astype(
      self.dtype
    )
    return x_BTD * scale_D.astype(self.dtype).reshape(1, 1, -1)


class GatedMlp(nn.Module):
  """wo(activation_0(wi_0 x) * activation_1(wi_1 x) * ...)."""

  mlp_dim: int
  activations: tuple[str, ...]
  dropout_rate: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BTD, *, deterministic=True):
    x_BTF = 1
    for i, activation in enumerate(self.activations):
      name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
      x_BTF *= _activation(activation)(self._dense(self.mlp_dim, name)(x_BTD))
    x_BTF = constrain(x_BTF, 'batch', None, 'mlp')
    x_BTF = residual_dropout(self.dropout_rate)(x_BTF, deterministic)
    return self._dense(x_BTD.shape[-1], 'wo')(x_BTF)

  def _dense(self, features, name):
    return nn.Dense(
      features,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=truncated_init(),
      name=name,
    )


class RelativePositionBias(nn.Module):
  """A learned number per query head and bucket of relative distance.

  One row per *query* head, whatever the number of key/value heads. The bias is
  shared by all layers of a stack.
  """

  num_heads: int
  bidirectional: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, query_positions_T, key_positions_S):
    """Returns [1, N, T, S] from positions [T] and [S]."""
    embedding = self.param(
      'rel_embedding',
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
      (self.num_heads, NUM_BUCKETS),
    )
    buckets_TS = relative_position_bucket(
      key_positions_S[None, :] - query_positions_T[:, None], self.bidirectional
    )
    bias_NTS = jnp.take(embedding.astype(self.dtype), buckets_TS, axis=1)
    return bias_NTS[None]


def relative_position_bucket(distance, bidirectional: bool):
  """Buckets key position minus query position as T5 does.

  Half of the buckets hold one distance each; the other half grow
  logarithmically up to MAX_DISTANCE. Going both ways, a sign takes one bit.

  Args:
    distance: int32 array, key position - query position.
    bidirectional: False maps every future key to bucket 0.

  Returns:
    int32 array of the same shape, from 0 to NUM_BUCKETS - 1.
  """
  num_buckets, sign = NUM_BUCKETS, 0
  if bidirectional:
    num_buckets //= 2
    sign = (distance > 0).astype(jnp.int32) * num_buckets
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  # T5X's epsilon: log of 0 is avoided without a branch.
  ratio = distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps
  log_bucket = exact + (
    jnp.log(ratio) / np.log(MAX_DISTANCE / exact) * (num_buckets - exact)
  ).astype(jnp.int32)
  log_bucket = jnp.minimum(log_bucket, num_buckets - 1)
  return sign + jnp.where(distance < exact, distance, log_bucket)


def attention_bias(allowed_BTS, dtype):
  """Returns [B, 1, T, S]: 0 where attention is allowed, BARRED elsewhere."""
  bias = jnp.where(allowed_BTS, 0.0, BARRED).astype(dtype)
  return bias[:, None]


def allowed_pairs(queries_BT, keys_BS, query_segments=None, key_segments=None):
  """Returns [B, T, S], true where neither is padding and segments agree."""
  allowed = queries_BT[:, :, None] & keys_BS[:, None, :]
  if query_segments is not None:
    allowed &= query_segments[:, :, None] == key_segments[:, None, :]
  return allowed


def residual_dropout(rate):
  """Dropout as T5 places it: one draw serves all positions of a sequence."""
  return nn.Dropout(rate, broadcast_dims=(-2,))


def truncated_init():
  """The initializer of MLP and output kernels."""
  return nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def _activation(name):
  if name == 'linear':
    return lambda x: x
  return getattr(nn, name)
