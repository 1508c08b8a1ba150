"""Grouped-query attention: the function, and the module around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gqa_flax.model.cache import KVCache
from gqa_flax.partitioning import (
  constrain,
  constrain_beside_cache,
  constrain_cache,
)


def grouped_query_attention(
  query, key, value, *biases, dropout_rate=0.0, dropout_rng=None
):
  """Attends with N query heads to K <= N key/value heads, N divisible by K.

  Query head n reads key/value head n // (N // K); no key or value is ever
  repeated in memory. As in T5, logits are not divided by sqrt(H): the query's
  initializer carries that factor. Source: Ainslie et al. 2023, section 2.2.

  Args:
    query: [batch, target_length, N, head_dim].
    key: [batch, source_length, K, head_dim].
    value: [batch, source_length, K, head_dim].
    *biases: added to the logits (positions; masks, a large negative number
      where attention is masked); each broadcastable to
      [batch, N, target_length, source_length]. Positions depend on the head and
      masks on the row, so their sum would be as large as the logits: pass them
      separately.
    dropout_rate: share of the attention weights to drop.
    dropout_rng: a PRNG key, needed if dropout_rate > 0. One draw serves all
      query positions, as in T5X.

  Returns:
    [batch, target_length, N, head_dim], in the value's dtype.

  Raises:
    ValueError: if K does not divide N, or key and value disagree.
  """
  N, K = query.shape[2], key.shape[2]
  if key.shape != value.shape or N % K:
    raise ValueError(
      f'{N} query heads cannot attend to keys {key.shape} and values '
      f'{value.shape}; give both one shape [batch, length, heads, head_dim] '
      f'whose heads divide {N}.'
    )
  if dropout_rate > 0:
    return _in_one_pass(query, key, value, biases, dropout_rate, dropout_rng)
  return _in_one_pass_or_two(query, key, value, *biases)


def _in_one_pass(query, key, value, biases, dropout_rate=0.0, dropout_rng=None):
  """softmax(query key^T + biases) value, a group of queries for each key."""
  logits_BKGTS = _logits(query, key, biases)
  probs_BKGTS = jax.nn.softmax(logits_BKGTS.astype(jnp.float32))
  probs_BKGTS = probs_BKGTS.astype(value.dtype)
  if dropout_rate > 0:
    B, K, G, _, S = probs_BKGTS.shape
    keep_BKG1S = jax.random.bernoulli(
      dropout_rng, 1 - dropout_rate, (B, K, G, 1, S)
    )
    probs_BKGTS *= keep_BKG1S.astype(value.dtype) / (1 - dropout_rate)
  x_BTKGH = jnp.einsum('BKGTS,BSKH->BTKGH', probs_BKGTS, value)
  return x_BTKGH.reshape(query.shape)


def attend_in_two_passes(query, key, value, *biases):
  """`grouped_query_attention` that leaves no logits in a TPU's memory.

  The logits are computed twice, the first time for their maximum alone. Then
  only products and what is elementwise stand between query and result, since a
  column of ones beside the values sums the weights; and that the compiler for
  TPUs runs as one program, tile by tile.

  Args:
    query: as in `grouped_query_attention`; so are the others, and what it
      returns.
    key: [batch, source_length, K, head_dim].
    value: [batch, source_length, K, head_dim].
    *biases: added to the logits.
  """
  top_BKGT1 = _logits(query, key, biases).max(axis=-1, keepdims=True)
  # Or the compiler would see that both logits are the same, and keep them.
  query, key, top_BKGT1 = jax.lax.optimization_barrier((query, key, top_BKGT1))
  logits_BKGTS = _logits(query, key, biases).astype(jnp.float32)
  weights_BKGTS = jnp.exp(logits_BKGTS - top_BKGT1.astype(jnp.float32))
  x_BTKGH = jnp.einsum(
    'BKGTS,BSKH->BTKGH',
    weights_BKGTS.astype(value.dtype),
    jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1),
    preferred_element_type=jnp.float32,
  )
  x_BTKGH = x_BTKGH[..., :-1] / x_BTKGH[..., -1:]
  return x_BTKGH.astype(value.dtype).reshape(query.shape)


@jax.custom_vjp
def _in_one_pass_or_two(query, key, value, *biases):
  """Two passes on a TPU, where nothing is differentiated."""
  return jax.lax.platform_dependent(
    *(query, key, value, *biases),
    tpu=attend_in_two_passes,
    default=lambda query, key, value, *biases: _in_one_pass(
      query, key, value, biases
    ),
  )


_in_one_pass_or_two.defvjp(
  lambda *args: jax.vjp(lambda q, k, v, *b: _in_one_pass(q, k, v, b), *args),
  lambda pull_back, cotangent: pull_back(cotangent),
)


def _logits(query, key, biases):
  """Returns [batch, K, N // K, target_length, source_length]."""
  B, T, N, H = query.shape
  K = key.shape[2]
  q_BTKGH = query.reshape(B, T, K, N // K, H)
  logits_BKGTS = jnp.einsum('BTKGH,BSKH->BKGTS', q_BTKGH, key)
  for bias in biases:
    logits_BKGTS += _group_heads(bias.astype(logits_BKGTS.dtype), K, N // K)
  return logits_BKGTS


def attend_one_position(query, key, value, *biases):
  """`grouped_query_attention` of one position a sequence, to a cache.

  Written for decoding: without an axis of positions, and with logits in float32
  whatever the query's dtype, the compiler for TPUs has a faster program.

  Args:
    query: [batch, 1, N, head_dim].
    key: [batch, K, source_length, head_dim], heads first as a cache has them.
    value: [batch, K, source_length, head_dim].
    *biases: as in `grouped_query_attention`, target_length 1.

  Returns:
    [batch, 1, N, head_dim], in the value's dtype.
  """
  B, _, N, H = query.shape
  K = key.shape[1]
  q_BKGH = query.reshape(B, K, N // K, H)
  biases_BKGS = [_group_heads(bias, K, N // K)[:, :, :, 0] for bias in biases]

  def attend(q_BKGH, *biases_BKGS):
    logits_BKGS = jnp.einsum(
      'BKGH,BKSH->BKGS', q_BKGH, key, preferred_element_type=jnp.float32
    )
    for bias in biases_BKGS:
      logits_BKGS += bias.astype(jnp.float32)
    probs_BKGS = jax.nn.softmax(logits_BKGS).astype(value.dtype)
    return jnp.einsum('BKGS,BKSH->BKGH', probs_BKGS, value)

  def attend_twice(q_BK1H, *biases_BK1S):
    two_BK2H = jnp.concatenate([q_BK1H, q_BK1H], axis=2)
    return attend(two_BK2H, *biases_BK1S)[:, :, :1]

  def attend_in_turn(*of_group):
    def attend_with(g):
      return attend(*(_one_of_group(x, g) for x in of_group))[:, :, 0]

    return jnp.moveaxis(jax.lax.map(attend_with, jnp.arange(N // K)), 0, 2)

  # A product with one row is no product for the compiler for TPUs, and takes it
  # twice as long as one with two. For a CPU's, one with a few rows takes longer
  # than as many with one.
  best = {'tpu': attend_twice} if N == K else {'cpu': attend_in_turn}
  x_BKGH = jax.lax.platform_dependent(
    q_BKGH, *biases_BKGS, default=attend, **best
  )
  return x_BKGH.reshape(B, 1, N, H)


def _one_of_group(x_BKGX, g):
  """Returns [B, K, 1, X]: query g of each group, or what a group shares."""
  if x_BKGX.shape[2] == 1:
    return x_BKGX
  return jax.lax.dynamic_slice_in_dim(x_BKGX, g, 1, axis=2)


def _group_heads(bias, num_kv_heads, group_size):
  """Splits the head axis of a bias; one that heads share stays unbroadcast."""
  bias_BNTS = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
  if bias_BNTS.shape[1] == 1:
    return bias_BNTS[:, :, None]
  B, _, T, S = bias_BNTS.shape
  return bias_BNTS.reshape(B, num_kv_heads, group_size, T, S)


class Attention(nn.Module):
  """Self- or cross-attention with grouped key/value heads.

  Kernels are two-dimensional, [D, heads * H], as T5X stores them. The four
  projections are methods of their own, so that decoding can project the keys
  and values of a cache once.
  """

  num_heads: int
  num_kv_heads: int
  head_dim: int
  emb_dim: int
  dropout_rate: float
  dtype: jnp.dtype
  cache_sharding: str = 'auto'
  cache_dtype: str = 'auto'

  def setup(self):
    # T5 folds 1 / sqrt(head_dim) into the query's initializer.
    init = kernel_init(1.0)
    self.query = self._dense(self.num_heads, kernel_init(1.0 / self.head_dim))
    self.key = self._dense(self.num_kv_heads, init)
    self.value = self._dense(self.num_kv_heads, init)
    self.out = nn.Dense(
      self.emb_dim, use_bias=False, dtype=self.dtype, kernel_init=init
    )

  def _dense(self, heads, init):
    return nn.Dense(
      heads * self.head_dim, use_bias=False, dtype=self.dtype, kernel_init=init
    )

  def __call__(self, x_BTD, source_BSD, biases=(), *, deterministic=True):
    """Returns [B, T, D]: what positions of x read from those of source."""
    keys_values = self._keys_values_by_heads(source_BSD)
    query_BTNH = constrain(self._queries(x_BTD), 'batch', None, 'heads', None)
    x_BTNH = self._attend(query_BTNH, *keys_values, biases, deterministic)
    return self._out(x_BTNH)

  def project_keys_values(self, source_BSD) -> KVCache:
    """Returns the cache of source: its keys and values."""
    key_BSKH, value_BSKH = self._keys_values(source_BSD)
    return KVCache.of(key_BSKH, value_BSKH, self.cache_dtype)

  def place(self, cache: KVCache) -> KVCache:
    """Returns a cache as it is kept while decoding, over heads or batch."""
    return jax.tree.map(
      lambda x_BKSH: constrain_cache(x_BKSH, self.cache_sharding), cache
    )

  def extend(self, cache: KVCache, x_B1D, position) -> KVCache:
    """Returns a cache with the keys and values of x at a position."""

    def project(dense):
      x_B1X = self._by_heads(dense(x_B1D), 'kv_heads')
      return self._split_heads(self._by_cache(x_B1X))

    new = KVCache.of(project(self.key), project(self.value), self.cache_dtype)
    return self.place(cache.write(self.place(new), position))

  def attend(self, x_BTD, cache: KVCache, biases=()):
    """Returns [B, 1, D]: what the position of x reads from a cache."""
    query_BTX = self._by_cache(self._by_heads(self.query(x_BTD), 'heads'))
    x_BTNH = attend_one_position(
      self._split_heads(query_BTX), *cache.keys_values(), *biases
    )
    x_BTX = self._by_cache(x_BTNH.reshape(query_BTX.shape))
    return self.out(self._by_heads(x_BTX, 'heads'))

  def _by_heads(self, x_BTX, axis):
    """Puts x where the kernels are, which would be gathered otherwise."""
    B, T, X = x_BTX.shape
    sizes = (B, T, X // self.head_dim)
    return constrain(x_BTX, 'batch', None, axis, sizes=sizes)

  def _by_cache(self, x_BTX):
    return constrain_beside_cache(x_BTX, self.cache_sharding, self.num_kv_heads)

  def _split_heads(self, x_BTX):
    return x_BTX.reshape(*x_BTX.shape[:2], -1, self.head_dim)

  def _queries(self, x_BTD):
    return self._split_heads(self.query(x_BTD))

  def _keys_values(self, source_BSD):
    return (
      self._split_heads(self.key(source_BSD)),
      self._split_heads(self.value(source_BSD)),
    )

  def _keys_values_by_heads(self, source_BSD):
    key_BSKH, value_BSKH = self._keys_values(source_BSD)
    return (
      constrain(key_BSKH, 'batch', None, 'kv_heads', None),
      constrain(value_BSKH, 'batch', None, 'kv_heads', None),
    )

  def _attend(self, query_BTNH, key_BSKH, value_BSKH, biases, deterministic):
    dropout_rate = 0.0 if deterministic else self.dropout_rate
    return grouped_query_attention(
      query_BTNH,
      key_BSKH,
      value_BSKH,
      *biases,
      dropout_rate=dropout_rate,
      dropout_rng=self.make_rng('dropout') if dropout_rate else None,
    )

  def _out(self, x_BTNH):
    x_BTNH = constrain(x_BTNH, 'batch', None, 'heads', None)
    B, T, N, H = x_BTNH.shape
    return self.out(x_BTNH.reshape(B, T, N * H))


def kernel_init(scale):
  """The initializer of attention kernels: normal, variance scale / fan_in."""
  return nn.initializers.variance_scaling(scale, 'fan_in', 'normal')
