"""Adafactor's statistics of converted kernels, against gradients and optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from gqa_flax.checkpoints.adafactor_state import check_slots
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.config import T5Config
from gqa_flax.conversion import slots
from gqa_flax.conversion.plan import Conversion
from gqa_flax.conversion.statistics import Moments, Statistics
from gqa_flax.model.attention import grouped_query_attention

CROSS = 'decoder/layers_0/encoder_decoder_attention'
BIAS = 'decoder/relpos_bias/rel_embedding'


@pytest.fixture(scope='module')
def config():
  """Kernels [256, 256], which Adafactor factors until they are narrow."""
  return T5Config(
    vocab_size=64,
    emb_dim=256,
    num_heads=8,
    head_dim=32,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )


def draw(config, seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in parameter_shapes(config).items()
  }


def conversion_of(params, config, num_kv_heads, method, **options):
  lazy = {name: LazyArray.of(x) for name, x in params.items()}
  return Conversion(lazy, config, num_kv_heads, method, **options)


def optax_slots(name, v):
  """What optax's first step keeps for a gradient of squares v."""
  adafactor = optax.scale_by_factored_rms()
  param = {'x': np.zeros(v.shape, np.float32)}
  with jax.numpy_dtype_promotion('standard'):
    gradient = {'x': jnp.asarray(np.sqrt(v), jnp.float32)}
    _, state = adafactor.update(gradient, adafactor.init(param), param)
  kept = {kind: getattr(state, kind)['x'] for kind in ('v_row', 'v_col', 'v')}
  return {
    f'{name}/{kind}': np.asarray(x)
    for kind, x in kept.items()
    if x.shape != (1,) or v.shape == (1,)
  }


def carried_slots(conversion, params, v):
  """Carries what optax keeps for v; returns both, by name."""
  before = {}
  for name in params:
    before.update(optax_slots(name, v[name]))
  lazy = {name: LazyArray.of(x) for name, x in before.items()}
  shapes = {name: x.shape for name, x in params.items()}
  return lazy, slots.carry(conversion, lazy, shapes)


def expected_statistics(conversion, name, v, H):
  """The rules of `slots`, head by head; v is [D, heads * H] or as `out`."""
  if name == BIAS:
    order = conversion.orders.get('self_attention', range(len(v)))
    return v[list(order)]
  attention, projection = name.rsplit('/', 2)[:2]
  kind = attention.rpartition('/')[2]
  key = kind if kind == 'self_attention' else attention
  v = v.T if projection == 'out' else v
  heads = [v[:, i : i + H] for i in range(0, v.shape[1], H)]
  if key in conversion.orders:
    heads = [heads[i] for i in conversion.orders[key]]
  basis = None
  if conversion.action(f'{attention}/out/kernel') == 'rebased':
    basis = conversion.bases(attention)[projection in ('value', 'out')]
  if projection in ('key', 'value'):
    if basis is not None:
      heads = [x @ basis.unfold[h] ** 2 for h, x in enumerate(heads)]
    size = len(heads) // conversion.config.num_kv_heads
    heads = [sum(heads[i : i + size]) for i in range(0, len(heads), size)]
  elif basis is not None:
    heads = [
      np.outer(x.sum(axis=1), basis.share[h]) for h, x in enumerate(heads)
    ]
  new = np.concatenate(heads, axis=1)
  return new.T if projection == 'out' else new


@pytest.mark.parametrize('permute_heads', [False, True])
@pytest.mark.parametrize('method', ['mean', 'aligned'])
@pytest.mark.parametrize('num_kv_heads', [4, 2])
def test_factored_statistics_are_those_of_the_whole(
  config, method, num_kv_heads, permute_heads
):
  """From rank-one v, so that factors say all: (256, 256) to (256, 128), whose
  v_row is indexed by the other side, and to (256, 64), which is not factored.
  """
  params = draw(config)
  rng = np.random.default_rng(1)
  v = {
    name: np.prod(np.meshgrid(*a, indexing='ij'), axis=0)
    for name, x in params.items()
    for a in [[rng.uniform(0.1, 3, n) for n in x.shape]]
  }
  conversion = conversion_of(
    params, config, num_kv_heads, method, permute_heads=permute_heads
  )
  lazy, carried = carried_slots(conversion, params, v)
  # First, for it settles the order of the heads.
  found = {name: slot.read() for name, slot in carried.items()}
  expected = {}
  for name in params:
    if conversion.action(name) == 'copied':
      for kind in ('v_row', 'v_col', 'v'):
        if f'{name}/{kind}' in lazy:
          slot = expected[f'{name}/{kind}'] = lazy[f'{name}/{kind}'].read()
          # Not so much as looked at.
          assert carried[f'{name}/{kind}'] is lazy[f'{name}/{kind}']
    else:
      new = expected_statistics(conversion, name, v[name], config.head_dim)
      expected.update(optax_slots(name, new))
  assert carried.keys() == expected.keys()
  for name, slot in expected.items():
    assert (carried[name].shape, carried[name].dtype) == (slot.shape, 'f4')
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(found[name], slot, rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(
      carried[name].read_rows(1, 3), found[name][1:3]
    )
  shapes = {name: conversion.array(name).shape for name in params}
  check_slots(carried, shapes, 'here')
  key = f'{CROSS}/key/kernel'
  if num_kv_heads == 4:
    # The swap, in so many words: v_row was of the inputs, and v_col is now.
    assert lazy[f'{key}/v_row'].shape == (256,)
    assert carried[f'{key}/v_row'].shape == (128,)
    ratio = found[f'{key}/v_col'] / lazy[f'{key}/v_row'].read()
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
  else:
    assert carried[f'{key}/v'].shape == (256, 64)
  changed = {n for n in params if conversion.action(n) != 'copied'}
  heads = {f'{CROSS}/{x}/kernel' for x in ('query', 'key', 'value', 'out')}
  both = heads | {x.replace('encoder_decoder', 'self') for x in heads}
  pooled = {x for x in both if '/key/' in x or '/value/' in x}
  wanted = both if permute_heads or method == 'aligned' else pooled
  assert changed == wanted | ({BIAS} if permute_heads else set())


@pytest.mark.parametrize('method', ['mean', 'first', 'aligned', 'subspace'])
def test_whole_statistics_of_any_rank(tiny_config, some_statistics, method):
  params = draw(tiny_config)
  rng = np.random.default_rng(2)
  v = {name: rng.uniform(0.1, 3, x.shape) for name, x in params.items()}
  conversion = conversion_of(
    params,
    tiny_config,
    2,
    method,
    permute_heads=True,
    statistics=some_statistics(tiny_config),
  )
  before = {
    f'{name}/v': LazyArray.of(x.astype(np.float32)) for name, x in v.items()
  }
  shapes = {name: x.shape for name, x in params.items()}
  carried = slots.carry(conversion, before, shapes)
  for name in params:
    if conversion.action(name) != 'copied':
      np.testing.assert_allclose(
        carried[f'{name}/v'].read(),
        expected_statistics(conversion, name, v[name], tiny_config.head_dim),
        rtol=1e-4,
        err_msg=name,
      )
  assert conversion.orders['self_attention'] != list(range(8))


@pytest.mark.parametrize('method', ['mean', 'aligned', 'subspace'])
def test_keys_and_values_follow_independent_gradients(
  tiny_config, some_statistics, method
):
  """E[(sum_h g_h Q_h)^2] of drawn g_h is what the rule says it is."""
  params = draw(tiny_config)
  conversion = conversion_of(
    params, tiny_config, 2, method, statistics=some_statistics(tiny_config)
  )
  rng = np.random.default_rng(3)
  for projection in ('key', 'value'):
    v = rng.uniform(0.1, 3, 32)
    g = (rng.normal(size=(40_000, 32)) * v**0.5).reshape(-1, 8, 4)
    if method != 'mean':
      unfold = conversion.bases(CROSS)[projection == 'value'].unfold
      g = np.einsum('nhi,hij->nhj', g, unfold)
    pooled = g.reshape(-1, 2, 4, 4).sum(axis=2).reshape(-1, 8)
    rule = slots.carry_rule(conversion, f'{CROSS}/{projection}/kernel')
    # A sampled variance is off by sqrt(2 / n), 0.7%, now and then by thrice.
    np.testing.assert_allclose(rule(v), (pooled**2).mean(axis=0), rtol=0.03)


@pytest.mark.parametrize('method', ['mean', 'aligned', 'subspace'])
def test_the_chain_rule_holds_for_real_gradients(
  tiny_config, some_statistics, shareable, method
):
  """Where k_h = k' Q_h^T, the gradient of W_k' is sum_h g_h Q_h; so for W_v.

  For pooling Q_h = I: the sum over a group, not the mean.
  """
  tree = shareable(
    traverse_util.unflatten_dict(draw(tiny_config), sep='/'),
    tiny_config,
    method,
    lambda _: np.repeat(np.arange(2), 4),
  )
  params = traverse_util.flatten_dict(tree, sep='/')
  conversion = conversion_of(
    params, tiny_config, 2, method, statistics=some_statistics(tiny_config)
  )
  rng = np.random.default_rng(4)
  x = rng.normal(size=(1, 3, 16)).astype(np.float32)
  y = rng.normal(size=(1, 5, 16)).astype(np.float32)
  wanted = rng.normal(size=(1, 3, 16)).astype(np.float32)

  @jax.jit
  @jax.grad
  def gradient(kernels):
    q, k, v = (
      (z @ kernels[projection]).reshape(1, z.shape[1], -1, 4)
      for z, projection in ((x, 'query'), (y, 'key'), (y, 'value'))
    )
    z = grouped_query_attention(0.1 * q, k, v).reshape(1, 3, -1)
    return jnp.mean((z @ kernels['out'] - wanted) ** 2)

  projections = ('query', 'key', 'value', 'out')
  names = {x: f'{CROSS}/{x}/kernel' for x in projections}
  old = gradient({x: params[name] for x, name in names.items()})
  new = gradient({x: conversion.array(n).read() for x, n in names.items()})
  for projection in ('key', 'value'):
    heads = np.asarray(old[projection], np.float64).reshape(16, 8, 4)
    if method != 'mean':
      unfold = conversion.bases(CROSS)[projection == 'value'].unfold
      heads = np.einsum('dhi,hij->dhj', heads, unfold)
    expected = heads.reshape(16, 2, 4, 4).sum(axis=2).reshape(16, 8)
    np.testing.assert_allclose(
      new[projection], expected, atol=1e-3 * np.abs(expected).max()
    )


@pytest.mark.parametrize('method', ['aligned', 'subspace'])
def test_queries_and_outputs_follow_the_size_of_what_they_meet(
  tiny_config, some_statistics, method
):
  """If E[g^2] of W_q is E[x_d^2] times E[k_i^2], it stays so with k'."""
  params = draw(tiny_config)
  plain = some_statistics(tiny_config)
  # Rows of mean zero: whichever moment the method takes, it is this.
  statistics = Statistics(
    {n: Moments(m.second, m.second) for n, m in plain.moments.items()}, 1
  )
  conversion = conversion_of(
    params, tiny_config, 2, method, statistics=statistics
  )
  for attention in (CROSS, CROSS.replace('encoder_decoder', 'self')):
    moment = statistics.of(attention)[1].second.astype(np.float64)
    inputs = np.random.default_rng(5).uniform(0.1, 3, 16)
    for shared, follower in (('key', 'query'), ('value', 'out')):
      name = f'{attention}/{shared}/kernel'
      old, new = params[name], conversion.array(name).read()
      before = np.einsum('di,de,ei->i', old, moment, old)
      after = np.einsum('di,de,ei->i', new, moment, new).reshape(2, 4)
      # Four query heads read each shared head.
      after = np.repeat(after, 4, axis=0).reshape(32)
      rule = slots.carry_rule(conversion, f'{attention}/{follower}/kernel')
      np.testing.assert_allclose(
        rule(np.outer(inputs, before)), np.outer(inputs, after), rtol=1e-3
      )


def test_several_queries_to_a_head(tiny_config):
  """Of a grouped checkpoint every query head takes its own head's share."""
  config = dataclasses.replace(tiny_config, num_kv_heads=4)
  params = draw(config)
  conversion = conversion_of(params, config, 2, 'aligned')
  v = np.random.default_rng(6).uniform(0.1, 3, (16, 32))
  share = conversion.bases(CROSS)[0].share
  new = slots.carry_rule(conversion, f'{CROSS}/query/kernel')(v)
  for n in range(8):
    columns = slice(4 * n, 4 * n + 4)
    np.testing.assert_allclose(
      new[:, columns],
      np.outer(v[:, columns].sum(axis=1), share[n // 2]),
      rtol=1e-5,
    )
