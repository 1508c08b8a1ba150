"""Conversion against definitions, and the function it must keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import Transformer, convert_params, partitioning
from gqa_flax.conversion.plan import is_pooled


def flatten(params):
  return traverse_util.flatten_dict(params, sep='/')


def test_only_decoder_keys_and_values_are_pooled(golden):
  pooled = {name for name in flatten(golden.params) if is_pooled(name)}
  assert pooled == {
    f'decoder/layers_{layer}/{attention}/{projection}/kernel'
    for layer in (0, 1)
    for attention in ('self_attention', 'encoder_decoder_attention')
    for projection in ('key', 'value')
  }


@pytest.mark.parametrize('method', ['mean', 'first', 'random'])
@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_all_else_is_untouched_and_the_config_follows(
  tiny_config, tiny_params, method, num_kv_heads
):
  params, config = convert_params(
    tiny_params, tiny_config, num_kv_heads, method
  )
  assert config == dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  before, after = flatten(tiny_params), flatten(params)
  assert before.keys() == after.keys()
  for name in before:
    if is_pooled(name):
      width = num_kv_heads * tiny_config.head_dim
      assert after[name].shape == (tiny_config.emb_dim, width)
      assert after[name].dtype == before[name].dtype
    else:
      assert after[name] is before[name]


def test_mean_and_first_by_hand(tiny_config, tiny_params):
  """Slices of the stored kernel, without a reshape: head n is columns 4n..."""
  name = 'decoder/layers_1/encoder_decoder_attention/value/kernel'
  kernel = np.asarray(flatten(tiny_params)[name])
  heads = [kernel[:, 4 * n : 4 * n + 4] for n in range(8)]
  mean, _ = convert_params(tiny_params, tiny_config, 2, 'mean')
  first, _ = convert_params(tiny_params, tiny_config, 2, 'first')
  for group in (0, 1):
    members = heads[4 * group : 4 * group + 4]
    columns = slice(4 * group, 4 * group + 4)
    np.testing.assert_allclose(
      flatten(mean)[name][:, columns], sum(members) / 4, rtol=1e-6
    )
    np.testing.assert_array_equal(flatten(first)[name][:, columns], members[0])


@pytest.mark.parametrize('method', ['mean', 'first'])
@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_heads_made_equal_within_each_group_pool_without_changing_a_logit(
  tiny_config, tiny_params, make_batch, logits_of, method, num_kv_heads
):
  config = tiny_config
  groups = config.num_heads // num_kv_heads

  def equal_heads(name, kernel):
    if not is_pooled(name):
      return kernel
    # Short mantissas: the sum over a group's equal heads is then exact.
    kernel = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    heads = kernel.reshape(config.emb_dim, config.num_heads, config.head_dim)
    return jnp.repeat(heads[:, ::groups], groups, axis=1).reshape(kernel.shape)

  flat = {n: equal_heads(n, x) for n, x in flatten(tiny_params).items()}
  params = traverse_util.unflatten_dict(flat, sep='/')
  batch = make_batch(config)
  before = logits_of(Transformer(config), params, batch)
  converted, grouped = convert_params(params, config, num_kv_heads, method)
  after = logits_of(Transformer(grouped), converted, batch)
  np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize('method', ['mean', 'first'])
def test_grouped_to_fewer_groups_is_the_same_in_two_steps(
  tiny_config, tiny_params, method
):
  at_once, _ = convert_params(tiny_params, tiny_config, 2, method)
  four = convert_params(tiny_params, tiny_config, 4, method)
  in_two, config = convert_params(*four, 2, method)
  assert config.num_kv_heads == 2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), at_once, in_two
  )


@pytest.mark.slow
def test_random_is_the_initializer_and_follows_the_seed(
  tiny_config, make_params
):
  config = dataclasses.replace(
    tiny_config, emb_dim=256, head_dim=32, num_decoder_layers=1
  )
  params = make_params(config)

  def kernels(seed):
    converted, _ = convert_params(params, config, 4, 'random', seed=seed)
    return {n: x for n, x in flatten(converted).items() if is_pooled(n)}

  one, again, other = kernels(1), kernels(1), kernels(2)
  for name, kernel in one.items():
    np.testing.assert_array_equal(kernel, again[name])
    assert np.abs(kernel - other[name]).max() > 0.1
    assert float(jnp.std(kernel)) == pytest.approx(256**-0.5, rel=0.02)
  drawn = list(one.values())
  assert all(np.abs(drawn[0] - x).max() > 0.1 for x in drawn[1:])


def test_numpy_in_numpy_out(golden):
  params, _ = convert_params(golden.params, golden.config, 2, 'mean')
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('change', 'arguments', 'message'),
  [
    ({}, (3, 'mean'), '3 does not divide the 8 .* choose one of .1, 2, 4, 8'),
    ({}, (16, 'mean'), '16 does not divide the 8'),
    ({}, (2, 'maen'), "no conversion method 'maen'.*Did you mean 'mean'"),
    ({'num_decoder_layers': 3}, (2, 'mean'), 'layers_2/.* is missing'),
    ({'emb_dim': 32}, (2, 'mean'), r'shape \(16, 32\) instead of \(32, 32\)'),
    ({'num_heads': 16}, (2, 'mean'), 'already grouped to 8 key/value heads'),
  ],
)
def test_what_cannot_be_converted_says_why(
  tiny_config, tiny_params, change, arguments, message
):
  fields = {**tiny_config.to_dict(), 'num_kv_heads': None, **change}
  config = type(tiny_config).from_dict(fields)
  with pytest.raises(ValueError, match=message):
    convert_params(tiny_params, config, *arguments)


def test_an_encoder_alone_cannot_be_converted(tiny_config, tiny_params):
  encoder = {k: x for k, x in tiny_params.items() if k != 'decoder'}
  with pytest.raises(ValueError, match='only an encoder-decoder checkpoint'):
    convert_params(encoder, tiny_config, 2, 'mean')


def test_a_grouped_checkpoint_under_a_multi_head_config_is_told_apart(
  tiny_config, tiny_params
):
  grouped, _ = convert_params(tiny_params, tiny_config, 2, 'mean')
  with pytest.raises(
    ValueError, match=r'already grouped to 2 .*num_kv_heads=2'
  ):
    convert_params(grouped, tiny_config, 1, 'mean')


def test_converted_kernels_stay_on_the_devices_of_the_others(
  tiny_config, tiny_params
):
  everywhere = partitioning.replicated(partitioning.data_parallel_mesh())
  params = jax.device_put(tiny_params, everywhere)
  for method in ('mean', 'first', 'random'):
    converted, _ = convert_params(params, tiny_config, 2, method)
    assert {x.sharding for x in jax.tree.leaves(converted)} == {everywhere}
