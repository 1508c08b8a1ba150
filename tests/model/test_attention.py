"""grouped_query_attention against what repeats K and V, and JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import grouped_query_attention
from gqa_flax.model.attention import (
  attend_in_two_passes,
  attend_one_position,
)

B, T, S, N, H = 2, 3, 5, 8, 4

in_one_pass_and_two = pytest.mark.parametrize(
  'attend', [grouped_query_attention, attend_in_two_passes]
)


def repeat_oracle(q_BTNH, k_BSKH, v_BSKH, bias_BNTS):
  """Multi-head attention on keys and values repeated for each query head."""
  groups = N // k_BSKH.shape[2]
  k_BSNH, v_BSNH = (np.repeat(x, groups, axis=2) for x in (k_BSKH, v_BSKH))
  logits = np.einsum('btnh,bsnh->bnts', q_BTNH, k_BSNH) + bias_BNTS
  probs = np.exp(logits - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  return np.einsum('bnts,bsnh->btnh', probs, v_BSNH)


def inputs(num_kv_heads, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(B, T, N, H)] + [(B, S, num_kv_heads, H)] * 2 + [(B, N, T, S)]
  q, k, v, bias = (rng.normal(size=s).astype(np.float32) for s in shapes)
  barred = rng.random((B, 1, T, S)) < 0.3
  barred[..., 0] = False
  return q, k, v, np.where(barred, np.float32(-1e10), bias)


@in_one_pass_and_two
@pytest.mark.parametrize('num_kv_heads', [1, 2, 4, 8])
def test_equals_attention_on_repeated_keys_and_values(num_kv_heads, attend):
  q, k, v, bias = inputs(num_kv_heads)
  bias[1, :, 2] = -1e10  # a row that may read nothing reads the mean
  np.testing.assert_allclose(
    attend(q, k, v, bias),
    repeat_oracle(q, k, v, bias),
    atol=1e-5,
  )


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4, 8])
def test_equals_jax(num_kv_heads):
  q, k, v, bias = inputs(num_kv_heads)
  expected = jax.nn.dot_product_attention(
    jnp.asarray(q), k, v, bias=jnp.asarray(bias), scale=1.0
  )
  actual = grouped_query_attention(q, k, v, bias)
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4, 8])
def test_gradient_of_a_shared_head_is_the_sum_over_its_queries(num_kv_heads):
  q, k, v, bias = inputs(num_kv_heads)
  groups = N // num_kv_heads
  cotangent = np.random.default_rng(1).normal(size=(B, T, N, H))
  cotangent = cotangent.astype(np.float32)

  def grouped(k, v):
    return jnp.sum(grouped_query_attention(q, k, v, bias) * cotangent)

  def multi_head(k_BSNH, v_BSNH):
    x = jax.nn.dot_product_attention(
      jnp.asarray(q), k_BSNH, v_BSNH, bias=jnp.asarray(bias), scale=1.0
    )
    return jnp.sum(x * cotangent)

  repeated = [jnp.repeat(jnp.asarray(x), groups, axis=2) for x in (k, v)]
  per_query_head = jax.grad(multi_head, argnums=(0, 1))(*repeated)
  actual = jax.grad(grouped, argnums=(0, 1))(jnp.asarray(k), jnp.asarray(v))
  for a, g in zip(actual, per_query_head, strict=True):
    summed = g.reshape(B, S, num_kv_heads, groups, H).sum(axis=3)
    np.testing.assert_allclose(a, summed, atol=1e-5)


def test_query_head_n_reads_key_value_head_n_over_group_size():
  """Values that name their head show which head each query reads."""
  num_kv_heads = 2
  q, k, _, bias = inputs(num_kv_heads)
  heads = jnp.arange(num_kv_heads, dtype=jnp.float32)[None, None, :, None]
  v = jnp.broadcast_to(heads, (B, S, num_kv_heads, H))
  x_BTNH = grouped_query_attention(q, k, v, bias)
  expected = np.arange(N) // (N // num_kv_heads)
  np.testing.assert_allclose(x_BTNH[0, 0, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_one_position_of_a_cache_reads_the_same(
  monkeypatch, num_kv_heads, platform
):
  monkeypatch.setattr(
    jax.lax,
    'platform_dependent',
    lambda *args, default, **best: best.get(platform, default)(*args),
  )
  q, k, v, bias = inputs(num_kv_heads)
  mask = np.where(np.arange(S) < 4, 0.0, -1e10).astype(np.float32)
  mask = np.broadcast_to(mask, (B, 1, 1, S))
  for t in range(T):
    one = q[:, t : t + 1], bias[:, :, t : t + 1], mask
    expected = grouped_query_attention(one[0], k, v, *one[1:])
    keys, values = (jnp.swapaxes(x, 1, 2) for x in (k, v))
    actual = attend_one_position(one[0], keys, values, *one[1:])
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_one_position_has_logits_in_float32():
  """Two keys that bfloat16 logits could not tell apart."""
  q = jnp.full((1, 1, 1, 2), 16, jnp.bfloat16)
  k = jnp.asarray([[[[8, 8], [8, 8.0625]]]], jnp.bfloat16)
  v = jnp.asarray([[[[0, 0], [1, 1]]]], jnp.bfloat16)
  # 256 and 257 have one neighbour less in bfloat16: both would be 256.
  share = float(attend_one_position(q, k, v)[0, 0, 0, 0])
  assert share == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.005)


def test_two_passes_neither_overflow_nor_vanish():
  q, k, v, bias = inputs(2)
  for shift in (-1e4, 1e4):
    np.testing.assert_allclose(
      attend_in_two_passes(q, k, v, bias + np.float32(shift)),
      repeat_oracle(q, k, v, bias),
      atol=2e-3,  # what float32 keeps of such logits
    )


def test_two_passes_in_bfloat16_are_as_near_as_one():
  inputs_16 = [x.astype(jnp.bfloat16) for x in inputs(2)]
  exact = repeat_oracle(*(np.asarray(x, np.float32) for x in inputs_16))
  errors = [
    np.abs(np.asarray(attend(*inputs_16), np.float32) - exact).max()
    for attend in (attend_in_two_passes, grouped_query_attention)
  ]
  assert attend_in_two_passes(*inputs_16).dtype == jnp.bfloat16
  assert errors[0] < 1.2 * errors[1] < 3e-2


def test_a_tpu_takes_two_passes_where_nothing_is_differentiated():
  def squares(*args):
    return jnp.sum(grouped_query_attention(*args) ** 2)

  def products(function, platform):
    lowered = (
      jax.jit(function).trace(*inputs(2)).lower(lowering_platforms=(platform,))
    )
    text = lowered.as_text()
    return text.count('dot_general'), text.count('optimization_barrier')

  assert products(squares, 'cpu') == (2, 0)
  assert products(squares, 'tpu') == (3, 1)
  assert products(jax.grad(squares), 'tpu')[1] == 0


def test_bias_shared_by_heads_or_batch_broadcasts():
  q, k, v, bias = inputs(2)
  for shared in (bias[:, :1], bias[:1], bias[:1, :1]):
    np.testing.assert_allclose(
      grouped_query_attention(q, k, v, shared),
      repeat_oracle(q, k, v, np.broadcast_to(shared, bias.shape)),
      atol=1e-5,
    )


@in_one_pass_and_two
def test_biases_of_heads_and_of_rows_add_up(attend):
  q, k, v, bias = inputs(2)
  positions, mask = bias[:1], bias[:, :1]
  np.testing.assert_allclose(
    attend(q, k, v, positions, mask),
    repeat_oracle(q, k, v, positions + mask),
    atol=1e-5,
  )


def test_no_bias_is_a_bias_of_zero():
  q, k, v, bias = inputs(4)
  np.testing.assert_array_equal(
    grouped_query_attention(q, k, v),
    grouped_query_attention(q, k, v, np.zeros_like(bias)),
  )


def test_softmax_is_float32_and_the_result_bfloat16():
  q, k, v, bias = (x.astype(jnp.bfloat16) for x in inputs(2))
  x = grouped_query_attention(q, k, v, bias)
  assert x.dtype == jnp.bfloat16
  exact = repeat_oracle(*(np.asarray(y, np.float32) for y in (q, k, v, bias)))
  np.testing.assert_allclose(np.asarray(x, np.float32), exact, atol=3e-2)


def test_dropout_is_one_draw_for_all_query_positions():
  """With the same query at each position, so is the dropped result."""
  q, k, v, _ = inputs(2)
  q = np.broadcast_to(q[:, :1], q.shape)
  x = grouped_query_attention(
    q, k, v, dropout_rate=0.5, dropout_rng=jax.random.key(0)
  )
  np.testing.assert_allclose(x, np.broadcast_to(x[:, :1], x.shape), rtol=1e-6)
  assert np.abs(x - grouped_query_attention(q, k, v)).max() > 0.1


def test_dropout_keeps_the_mean():
  q, k, v, bias = inputs(2)
  draw = jax.jit(
    lambda rng: grouped_query_attention(
      q, k, v, bias, dropout_rate=0.25, dropout_rng=rng
    )
  )
  keys = jax.random.split(jax.random.key(0), 4000)
  mean = jnp.mean(jax.lax.map(draw, keys), axis=0)
  np.testing.assert_allclose(
    mean, grouped_query_attention(q, k, v, bias), atol=0.1
  )


def test_heads_that_do_not_divide_are_refused():
  q, _, _, _ = inputs(8)
  k = np.zeros((B, S, 3, H), np.float32)
  with pytest.raises(ValueError, match=r'8 query heads cannot attend'):
    grouped_query_attention(q, k, k)
