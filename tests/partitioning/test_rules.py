"""Where parameters, optimizer state and caches go."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec

from gqa_flax import partitioning
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.inference.precision import prepare
from gqa_flax.partitioning import rules
from gqa_flax.partitioning.mesh import AXES
from gqa_flax.training import optimizer

P = PartitionSpec


def abstract_mesh(*sizes):
  return partitioning.abstract_mesh(sizes)


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def specs(config, *sizes):
  shapes = abstract_params(config)
  mesh = abstract_mesh(*sizes)
  shardings = partitioning.param_shardings(shapes, config, mesh)
  return {name: x.spec for name, x in flat(shardings).items()}


def test_only_the_key_value_heads_of_the_decoder_may_be_copied():
  """Section 2.2 of the paper: MQA's head on every part, GQA's divided."""
  for kv_heads, spec in ((64, 'model'), (8, 'model'), (4, None), (1, None)):
    found = specs(T5Config.t5_1_1('xxl', num_kv_heads=kv_heads), 1, 1, 8)
    axes = ('model',) if spec else None
    for attention in ('self_attention', 'encoder_decoder_attention'):
      layer = f'decoder/layers_0/{attention}'
      assert found[f'{layer}/key/kernel'] == P(None, axes)
      assert found[f'{layer}/value/kernel'] == P(None, axes)
      assert found[f'{layer}/query/kernel'] == P(None, ('model',))
      assert found[f'{layer}/out/kernel'] == P(('model',), None)
    encoder = 'encoder/layers_0/attention/key/kernel'
    assert found[encoder] == P(None, ('model',))


def test_an_int8_kernel_is_divided_as_its_kernel():
  """Its scales, one a column, as the columns."""
  config = T5Config.t5_1_1('mini', num_kv_heads=2)
  shapes = abstract_params(config)
  for sizes in ((2, 2, 2), (1, 2, 4)):
    mesh = abstract_mesh(*sizes)
    kernels = specs(config, *sizes)
    prepared = jax.eval_shape(lambda p: prepare(p, 'int8'), shapes)
    found = flat(partitioning.param_shardings(prepared, config, mesh))
    assert found.keys() == kernels.keys()
    for name, spec in kernels.items():
      if not name.endswith('kernel'):
        assert found[name].spec == spec
        continue
      assert found[name].values.spec == spec
      assert found[name].scale.spec == P(spec[1])
    key = found['decoder/layers_0/self_attention/key/kernel']
    whole = sizes[2] > config.num_kv_heads
    assert key.scale.spec == P(None if whole else ('model',))
    out = found['decoder/layers_0/self_attention/out/kernel']
    assert out.scale.spec == P(('fsdp',))


def test_heads_are_divided_whole():
  """384 columns would divide by 4, six heads do not."""
  found = specs(T5Config.t5_1_1('small'), 1, 1, 4)
  assert found['encoder/layers_0/attention/query/kernel'] == P(None, None)
  assert found['encoder/layers_0/mlp/wo/kernel'] == P(('model',), None)


def test_every_matrix_is_divided_over_fsdp_and_model():
  config = T5Config.t5_1_1('xxl', num_kv_heads=8)
  shapes = flat(abstract_params(config))
  for name, spec in specs(config, 2, 4, 8).items():
    if name.endswith(('scale', 'rel_embedding')):
      continue
    assert set(spec) == {'fsdp', 'model'}, name
    assert len(shapes[name].shape) == 2


def test_an_axis_of_one_device_divides_nothing():
  assert {P(None), P(None, None)} == set(
    specs(T5Config.t5_1_1('mini'), 8, 1, 1).values()
  )


@pytest.mark.parametrize('kv_heads', [8, 2, 1])
def test_optimizer_state_goes_where_its_parameter_goes(kv_heads):
  config = T5Config.t5_1_1('mini', num_kv_heads=kv_heads)
  params = abstract_params(config)
  mesh = abstract_mesh(2, 2, 2)
  state = jax.eval_shape(optimizer.adafactor(16).init, params)
  shardings = partitioning.state_shardings(state, params, config, mesh)
  factored, found = state[0], shardings[0]
  param_specs = flat(partitioning.param_shardings(params, config, mesh))
  shapes = flat(params)
  for slot in ('v_row', 'v_col', 'v'):
    arrays, where = flat(getattr(factored, slot)), flat(getattr(found, slot))
    for name, x in arrays.items():
      spec = where[name].spec
      if x.shape == shapes[name].shape:
        assert spec == param_specs[name].spec
      elif x.size > 1:
        # The dimension it keeps, found by its length where that tells.
        lengths = shapes[name].shape
        if lengths[0] != lengths[1]:
          kept = lengths.index(x.shape[0])
          assert spec == P(param_specs[name].spec[kept]), (slot, name)
  square = 'decoder/layers_0/self_attention/query/kernel'
  assert shapes[square].shape == (128, 128)
  assert flat(found.v_row)[square].spec == P(('fsdp',))
  assert flat(found.v_col)[square].spec == P(('model',))


def test_the_state_of_any_optimizer_has_shardings():
  import optax

  config = T5Config.t5_1_1('mini')
  params = abstract_params(config)
  state = jax.eval_shape(optax.adamw(1e-3).init, params)
  mesh = abstract_mesh(1, 2, 4)
  found = partitioning.state_shardings(state, params, config, mesh)
  wanted = partitioning.param_shardings(params, config, mesh)
  assert found[0].mu == wanted and found[0].nu == wanted


def test_an_unknown_parameter_is_one_sentence():
  shapes = {'decoder': {'gate': jax.ShapeDtypeStruct((4,), jnp.float32)}}
  with pytest.raises(ValueError, match='decoder/gate has no line in'):
    partitioning.param_shardings(
      shapes, T5Config.t5_1_1('mini'), abstract_mesh(1, 1, 2)
    )


def test_a_mesh_axis_divides_one_dimension_alone():
  spec = rules.partition_spec(
    ('cache_batch', 'kv_heads'), (8, 8), abstract_mesh(2, 2, 2)
  )
  assert spec == P(AXES, None)


@pytest.mark.parametrize(
  ('kv_heads', 'batch', 'model', 'layout'),
  [
    (8, 32, 8, 'heads'),
    (16, 32, 8, 'heads'),
    (8, 32, 16, 'batch'),
    (1, 32, 8, 'batch'),
    (1, 4, 8, 'heads'),  # too few rows: the head is copied
    (1, 4, 1, 'heads'),  # nothing to divide
  ],
)
def test_the_cache_is_divided_over_heads_or_batch(
  kv_heads, batch, model, layout
):
  mesh = abstract_mesh(1, 1, model)
  assert partitioning.cache_layout('auto', batch, kv_heads, mesh) == layout
  assert partitioning.cache_layout('batch', batch, kv_heads, mesh) == 'batch'


def test_nothing_is_constrained_without_a_mesh():
  x = jnp.ones((4, 4))
  assert partitioning.constrain(x, 'batch', None) is x


def test_bytes_of_a_device_are_its_share():
  """All of XXL's matrices divide by 32, so a device has a 32nd of them."""
  config = T5Config.t5_1_1('xxl', num_kv_heads=8)
  shapes = flat(abstract_params(config))
  mesh = abstract_mesh(2, 4, 8)
  shardings = flat(
    partitioning.param_shardings(shapes_tree(shapes), config, mesh)
  )
  matrices = [n for n in shapes if not n.endswith(('scale', 'rel_embedding'))]
  whole = sum(math.prod(shapes[n].shape) for n in matrices)
  share = sum(
    math.prod(shardings[n].shard_shape(shapes[n].shape)) for n in matrices
  )
  assert share * 32 == whole


def shapes_tree(shapes):
  return traverse_util.unflatten_dict(shapes, sep='/')


def test_the_layout_of_the_cache_is_checked():
  config = T5Config.t5_1_1('mini')
  with pytest.raises(ValueError, match="cache_sharding is 'head'; choose of"):
    dataclasses.replace(config, cache_sharding='head')
