"""Keys and values kept as int8: how far off they are, and what follows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import Transformer, beam_search, grouped_query_attention
from gqa_flax.model import int8
from gqa_flax.model.attention import Attention
from gqa_flax.model.cache import KVCache

B, S, H = 3, 11, 16


def keys_values(num_kv_heads, dtype=jnp.float32, seed=0):
  """Returns both, [B, S, K, H], of magnitudes that differ by position."""
  rng = np.random.default_rng(seed)
  shape = (2, B, S, num_kv_heads, H)
  x = rng.normal(size=shape) * 10 ** rng.uniform(-3, 1, (*shape[:4], 1))
  return jnp.asarray(x, dtype)


def positions_first(cache):
  """Returns what a cache has kept, as it was given: [B, S, K, H]."""
  return tuple(jnp.swapaxes(x, 1, 2) for x in cache.keys_values())


@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_no_element_is_off_by_more_than_a_254th_of_its_largest(num_kv_heads):
  exact = keys_values(num_kv_heads)
  cache = KVCache.of(*exact, 'int8')
  assert {x.dtype for x in (cache.key, cache.value)} == {jnp.dtype('int8')}
  assert cache.key_scale.shape == (B, num_kv_heads, S, 1)
  assert cache.length == S
  largest = np.abs(exact).max(axis=-1, keepdims=True)
  # A quotient of up to 127 is rounded to 2**-24 of itself, as is a product.
  bound = largest * (1 / 254 + 2**-23)
  error = np.abs(np.asarray(positions_first(cache)) - exact)
  assert (error <= bound).all()
  assert (error > bound / 2).any()


def test_bfloat16_adds_its_own_rounding_alone():
  """The scale is off by 2**-8 of itself at most, and so is the product."""
  exact = keys_values(2, jnp.bfloat16)
  cache = KVCache.of(*exact, 'int8')
  assert cache.value_scale.dtype == jnp.bfloat16
  found = positions_first(cache)
  assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}
  exact = np.asarray(exact, np.float32)
  largest = np.abs(exact).max(axis=-1, keepdims=True)
  bound = largest * (1 + 2**-8) * (1 / 254 + 2**-8)
  error = np.abs(np.asarray(found, np.float32) - exact)
  assert (error <= bound).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_what_int8_can_say_is_kept_to_the_bit(dtype):
  """Whole multiples, to 127, of a power of two; and zeros alone."""
  rng = np.random.default_rng(0)
  x = rng.integers(-127, 128, (2, B, S, 2, H)).astype(np.float32)
  x[..., 0] = 127
  x *= 2.0 ** rng.integers(-9, 9, (2, B, S, 2, 1))
  x[:, 0, 0] = 0
  cache = KVCache.of(*jnp.asarray(x, dtype), 'int8')
  np.testing.assert_array_equal(
    np.asarray(positions_first(cache), np.float32), x
  )


def test_what_is_not_a_number_is_not_hidden():
  x = jnp.asarray([[1.0, jnp.nan], [1.0, 2.0]])
  found = int8.dequantize(*int8.quantize(x, axis=-1))
  np.testing.assert_array_equal(jnp.isnan(found), [[True, True], [False] * 2])


def test_rows_are_written_with_their_scales():
  exact = keys_values(2)
  empty = KVCache.zeros(B, S + 4, 2, H, jnp.float32, 'int8')
  np.testing.assert_array_equal(empty.keys_values(), 0)
  new = KVCache.of(*exact, 'int8')
  cache = empty.write(new, 3)
  assert jax.tree.map(jnp.shape, cache) == jax.tree.map(jnp.shape, empty)
  for whole, rows in zip(positions_first(cache), positions_first(new)):
    np.testing.assert_array_equal(whole[:, 3:-1], rows)
    np.testing.assert_array_equal(whole[:, :3], 0)
    np.testing.assert_array_equal(whole[:, -1:], 0)


@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_attention_is_off_by_no_more_than_its_keys_and_values_are(num_kv_heads):
  """Logits move by d = |q|_1 max|k| / 254 at most, one by one.

  So weights change by a factor between exp(-2 d) and exp(2 d), all together by
  exp(2 d) - 1 at most; values besides by max|v| / 254.
  """
  rng = np.random.default_rng(1)
  q = jnp.asarray(rng.normal(size=(B, 1, 8, H)) / H, jnp.float32)
  key, value = keys_values(num_kv_heads)
  exact = grouped_query_attention(q, key, value)
  kept = positions_first(KVCache.of(key, value, 'int8'))
  error = np.abs(grouped_query_attention(q, *kept) - exact)

  def of_query_head(x_BSK):
    """Returns the largest over positions, [B, 1, N, 1]."""
    largest_BK = np.abs(x_BSK).max(axis=1)
    return np.repeat(largest_BK, 8 // num_kv_heads, axis=1)[:, None, :, None]

  largest_key, largest_value = (
    of_query_head(np.abs(x).max(axis=-1)) for x in (key, value)
  )
  d = np.abs(q).sum(axis=-1, keepdims=True) * largest_key / 254
  bound = np.expm1(2 * d) * largest_value + largest_value / 254
  assert (error <= bound + 1e-5).all()
  assert (error > bound / 100).any()


@pytest.fixture
def round_keys_values(monkeypatch):
  """Lets the decoder see keys and values as int8 has them, cache or not."""

  def patch():
    exact = Attention._keys_values

    def rounded(self, x):
      if 'decoder' not in self.path:
        return exact(self, x)
      return positions_first(KVCache.of(*exact(self, x), 'int8'))

    monkeypatch.setattr(Attention, '_keys_values', rounded)

  return patch


def forced_logits(model, params, encoder_tokens, targets):
  """Returns logits of teacher forcing; traced anew, whatever is patched."""
  inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  forward = jax.jit(
    lambda *batch: model.apply({'params': params}, *batch, np.ones_like(inputs))
  )
  return forward(encoder_tokens, inputs)


@pytest.mark.slow
@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_cached_decoding_sees_what_the_cache_keeps(
  tiny_config, make_params, make_batch, round_keys_values, num_kv_heads
):
  """Teacher forcing with every key and value rounded gives the same logits."""
  config = dataclasses.replace(
    tiny_config,
    num_kv_heads=num_kv_heads,
    num_decoder_layers=1 if num_kv_heads > 2 else 2,
    cache_dtype='int8',
  )
  model, params = Transformer(config), make_params(config)
  batch = make_batch(config)
  tokens = batch['decoder_target_tokens']
  encoder_tokens = batch['encoder_input_tokens']
  exact = forced_logits(model, params, encoder_tokens, tokens)

  def steps(params, encoder_tokens, tokens):
    cache = model.apply(params, encoder_tokens, 7, method='init_cache')

    def step(cache, previous):
      logits, cache = model.apply(params, previous, cache, method='decode_step')
      return cache, logits

    return jnp.swapaxes(jax.lax.scan(step, cache, tokens.T)[1], 0, 1)

  inputs = batch['decoder_input_tokens']
  logits = jax.jit(steps)({'params': params}, encoder_tokens, inputs)

  round_keys_values()
  forced = forced_logits(model, params, encoder_tokens, tokens)
  np.testing.assert_allclose(logits, forced, atol=1e-5)
  assert 1e-4 < np.abs(logits - exact).max() < 0.1


def test_beams_take_their_scales_with_them(
  tiny_config, make_params, make_batch, round_keys_values
):
  """Every beam scores what teacher forcing makes of its tokens."""
  config = dataclasses.replace(tiny_config, num_kv_heads=2, cache_dtype='int8')
  model, params = Transformer(config), make_params(config)
  encoder_tokens = make_batch(config)['encoder_input_tokens']
  tokens, scores = beam_search(
    model, params, encoder_tokens, 7, beam_size=3, alpha=0.0
  )
  round_keys_values()
  tokens = np.asarray(tokens).reshape(-1, 7)
  encoder_tokens = np.repeat(encoder_tokens, 3, axis=0)
  logits = forced_logits(model, params, encoder_tokens, tokens)
  log_probs = jax.nn.log_softmax(logits)
  taken = np.take_along_axis(np.asarray(log_probs), tokens[..., None], -1)[
    ..., 0
  ]
  expected = np.where(tokens > 0, taken, 0).sum(axis=1)
  np.testing.assert_allclose(np.ravel(scores), expected, atol=1e-4)
  assert len(np.unique(tokens, axis=0)) > 6
