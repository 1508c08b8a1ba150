"""The Transformer against T5X's numbers, and properties it must have."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import T5Config, Transformer, convert_params
from gqa_flax.model.layers import relative_position_bucket


def test_logits_equal_t5x(golden, logits_of):
  logits = logits_of(golden.model, golden.params, golden.batch)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, golden['logits'], atol=1e-5, rtol=0)


def test_encoder_output_equals_t5x(golden):
  @jax.jit
  def encode(params, tokens):
    return golden.model.apply({'params': params}, tokens, method='encode')

  encoded = encode(golden.params, golden.batch['encoder_input_tokens'])
  np.testing.assert_allclose(encoded, golden['encoded'], atol=1e-5, rtol=0)


def test_packed_logits_equal_t5x(golden, logits_of):
  packed = golden.flat('packed')
  expected = packed.pop('logits')
  logits = logits_of(golden.model, golden.params, packed)
  np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_init_gives_t5x_names_and_shapes(golden):
  token = jnp.zeros((1, 1), jnp.int32)
  init = jax.eval_shape(
    golden.model.init, jax.random.key(0), token, token, token
  )
  ours = jax.tree.map(jnp.shape, init['params'])
  assert ours == jax.tree.map(jnp.shape, golden.params)


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_grouped_config_narrows_decoder_keys_and_values_alone(
  tiny_config, num_kv_heads
):
  def shapes(config):
    token = jnp.zeros((1, 1), jnp.int32)
    init = Transformer(config).init
    tree = jax.eval_shape(init, jax.random.key(0), token, token, token)
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in paths}

  grouped = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  before, after = shapes(tiny_config), shapes(grouped)
  changed = {name for name in before if before[name] != after[name]}
  width = num_kv_heads * tiny_config.head_dim
  assert {after[name] for name in changed} == {(tiny_config.emb_dim, width)}
  pattern = r"\['decoder'\].*_attention'\]\['(key|value)'\]\['kernel'\]$"
  assert changed == {name for name in before if re.search(pattern, name)}
  assert len(changed) == 4 * tiny_config.num_decoder_layers


def test_init_scale_is_t5s(make_params):
  """Queries carry 1 / sqrt(head_dim); the rest have variance 1 / fan_in."""
  config = T5Config(
    vocab_size=512,
    emb_dim=256,
    num_heads=8,
    head_dim=32,
    mlp_dim=512,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  params = make_params(config)
  layer = params['decoder']['layers_0']
  attention = layer['self_attention']
  expected = {
    'query': (256 * 32) ** -0.5,
    'key': 256**-0.5,
    'value': 256**-0.5,
    'out': 256**-0.5,
  }
  for name, std in expected.items():
    actual = float(jnp.std(attention[name]['kernel']))
    assert actual == pytest.approx(std, rel=0.03), name
  assert float(jnp.std(layer['mlp']['wo']['kernel'])) == pytest.approx(
    512**-0.5, rel=0.03
  )
  embedding = params['token_embedder']['embedding']
  assert float(jnp.std(embedding)) == pytest.approx(1, rel=0.03)


def test_relative_position_buckets_are_t5s():
  """T5's formula, in NumPy and float32, to twice the paper's input length."""

  def t5_bucket(distance, bidirectional):
    buckets, n = 32, -distance
    result = np.zeros_like(distance)
    if bidirectional:
      buckets = 16
      result = (n < 0).astype(np.int32) * buckets
      n = np.abs(n)
    else:
      n = np.maximum(n, 0)
    exact = buckets // 2
    log = np.log(n.astype(np.float32) / exact + np.finfo(np.float32).eps)
    large = exact + (log / np.log(128 / exact) * (buckets - exact)).astype(int)
    return result + np.where(n < exact, n, np.minimum(large, buckets - 1))

  distance = np.arange(-4096, 4097, dtype=np.int32)
  for bidirectional in (True, False):
    np.testing.assert_array_equal(
      relative_position_bucket(jnp.asarray(distance), bidirectional),
      t5_bucket(distance, bidirectional),
    )


def test_padding_does_not_reach_real_positions(golden, logits_of):
  batch = inputs(golden.batch)
  wider = {k: np.pad(x, ((0, 0), (0, 3))) for k, x in batch.items()}
  length = batch['decoder_target_tokens'].shape[1]
  real = batch['decoder_target_tokens'] > 0
  logits = logits_of(golden.model, golden.params, batch)
  with_padding = logits_of(golden.model, golden.params, wider)[:, :length]
  np.testing.assert_allclose(with_padding[real], logits[real], atol=1e-5)


@pytest.mark.parametrize('num_kv_heads', [1, 8])
def test_a_packed_row_equals_its_examples_apart(
  tiny_config, make_params, make_batch, logits_of, num_kv_heads
):
  config = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  params, model = make_params(config), Transformer(config)
  two = inputs(make_batch(config, batch=2))
  two = {k: np.where(x == 0, 2, x) for k, x in two.items()}
  two['decoder_input_tokens'][:, 0] = 0
  apart = logits_of(model, params, two)

  packed = {k: x.reshape(1, -1) for k, x in two.items()}
  for side, tokens in (
    ('encoder', 'encoder_input_tokens'),
    ('decoder', 'decoder_target_tokens'),
  ):
    rows, length = two[tokens].shape
    packed[f'{side}_segment_ids'] = np.repeat(
      np.arange(1, rows + 1, dtype=np.int32), length
    )[None]
  together = logits_of(model, params, packed)
  np.testing.assert_allclose(together.reshape(apart.shape), apart, atol=1e-5)


def test_segment_ids_on_one_side_only_are_refused(golden):
  batch = inputs(golden.batch)
  ids = np.ones_like(batch['encoder_input_tokens'])
  with pytest.raises(ValueError, match='give both or neither'):
    golden.model.apply(
      {'params': golden.params}, **batch, encoder_segment_ids=ids
    )


@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_cached_decoding_equals_teacher_forcing(
  tiny_config, make_params, make_batch, logits_of, num_kv_heads
):
  config = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  params, model = {'params': make_params(config)}, Transformer(config)
  batch = inputs(make_batch(config))
  batch['decoder_target_tokens'] = np.ones_like(batch['decoder_target_tokens'])
  forced = logits_of(model, params['params'], batch)
  length = forced.shape[1]
  init_cache = jax.jit(
    lambda tokens: model.apply(params, tokens, length + 2, method='init_cache')
  )
  cache = init_cache(batch['encoder_input_tokens'])
  step = jax.jit(lambda t, c: model.apply(params, t, c, method='decode_step'))
  for position in range(length):
    logits, cache = step(batch['decoder_input_tokens'][:, position], cache)
    np.testing.assert_allclose(
      logits, forced[:, position], atol=1e-5, err_msg=f'position {position}'
    )


def test_a_full_cache_is_refused(tiny_config, tiny_params):
  model, params = Transformer(tiny_config), {'params': tiny_params}
  tokens = jnp.ones((1, 3), jnp.int32)
  cache = model.apply(params, tokens, 1, method='init_cache')
  _, cache = model.apply(params, tokens[:, 0], cache, method='decode_step')
  with pytest.raises(ValueError, match='holds 1 positions and all are written'):
    model.apply(params, tokens[:, 0], cache, method='decode_step')


def test_multi_head_is_the_case_of_as_many_key_value_heads(
  tiny_config, tiny_params, make_batch, logits_of
):
  explicit = dataclasses.replace(tiny_config, num_kv_heads=8)
  assert explicit == tiny_config
  converted, config = convert_params(tiny_params, tiny_config, 8, 'mean')
  batch = make_batch(tiny_config)
  np.testing.assert_array_equal(
    logits_of(Transformer(config), converted, batch),
    logits_of(Transformer(tiny_config), tiny_params, batch),
  )


@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_a_decode_step_holds_no_key_or_value_of_every_query_head(
  tiny_config, make_params, num_kv_heads
):
  """Lengths are primes, so that a repeated cache shows by its shape."""
  batch, source, target = 3, 11, 13
  config = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  params, model = {'params': make_params(config)}, Transformer(config)
  tokens = jnp.ones((batch, source), jnp.int32)
  cache = jax.eval_shape(
    lambda p: model.apply(p, tokens, target, method='init_cache'), params
  )

  def step(params, token, cache):
    return model.apply(params, token, cache, method='decode_step')

  lowered = jax.jit(step).lower(params, tokens[:, 0], cache)
  for text in (lowered.as_text(), lowered.compile().as_text()):
    shapes = {
      tuple(map(int, re.split('[x,]', dims)))
      for dims in re.findall(r'(?:tensor<|f32\[)(\d+(?:[x,]\d+)+)', text)
    }
    sizes = {
      length: {int(np.prod(s)) for s in shapes if length in s}
      for length in (source, target)
    }
    for length in (source, target):
      cached = batch * length * num_kv_heads * config.head_dim
      repeated = batch * length * config.num_heads * config.head_dim
      assert cached in sizes[length], 'the cache itself was not found'
      assert max(sizes[length]) < repeated


@pytest.mark.parametrize('policy', ['full', 'dots'])
def test_remat_changes_no_gradient(
  tiny_config, tiny_params, make_batch, policy
):
  batch = inputs(make_batch(tiny_config))

  def gradient(config):
    def loss(params):
      logits = Transformer(config).apply({'params': params}, **batch)
      return jnp.mean(jnp.square(logits))

    return jax.jit(jax.grad(loss))(tiny_params)

  plain = gradient(tiny_config)
  remat = gradient(dataclasses.replace(tiny_config, remat_policy=policy))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, remat
  )


def test_dropout_is_drawn_from_its_rng_and_off_by_default(
  tiny_config, tiny_params, make_batch, logits_of
):
  config = dataclasses.replace(tiny_config, dropout_rate=0.5)
  model, batch = Transformer(config), inputs(make_batch(config))

  @jax.jit
  def logits(seed):
    return model.apply(
      {'params': tiny_params},
      **batch,
      enable_dropout=True,
      rngs={'dropout': jax.random.key(seed)},
    )

  np.testing.assert_array_equal(logits(1), logits(1))
  assert np.abs(logits(1) - logits(2)).max() > 0.1
  np.testing.assert_array_equal(
    logits_of(model, tiny_params, batch),
    logits_of(Transformer(tiny_config), tiny_params, batch),
  )


def test_bfloat16_activations_stay_near_float32(golden, logits_of):
  config = dataclasses.replace(golden.config, dtype=jnp.bfloat16)
  logits = logits_of(Transformer(config), golden.params, golden.batch)
  assert logits.dtype == jnp.float32
  error = np.abs(logits - golden['logits'])
  assert 0 < error.mean() < 0.05


def test_tied_head_is_the_embedding(
  tiny_config, tiny_params, make_batch, logits_of
):
  """With an untied head set to the embedding, tied logits differ by a scale."""
  tied = dataclasses.replace(tiny_config, logits_via_embedding=True)
  batch = inputs(make_batch(tiny_config))
  embedding = tiny_params['token_embedder']['embedding']
  decoder = {**tiny_params['decoder']}
  decoder['logits_dense'] = {'kernel': embedding.T}
  untied_logits = logits_of(
    Transformer(tiny_config), {**tiny_params, 'decoder': decoder}, batch
  )
  decoder = {k: x for k, x in decoder.items() if k != 'logits_dense'}
  tied_logits = logits_of(
    Transformer(tied), {**tiny_params, 'decoder': decoder}, batch
  )
  np.testing.assert_allclose(
    tied_logits * tiny_config.emb_dim**0.5, untied_logits, rtol=1e-4, atol=1e-4
  )


def inputs(batch):
  """Returns what the model takes of a batch."""
  return {k: np.array(x) for k, x in batch.items() if 'weights' not in k}
