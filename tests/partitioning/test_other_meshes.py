"""A mesh of other axes than ours: what it lacks divides nothing."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gqa_flax import partitioning
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning.mesh import mesh_axis_size
from gqa_flax.training import optimizer
from gqa_flax.training.step import loss_and_metrics

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
P = PartitionSpec
# Sizes, axes, their type, and what divides a batch of 8 and 8 query heads.
MESHES = {
  'data, model': ((4, 2), ('data', 'model'), AUTO, ('data',), ('model',)),
  'data': ((8,), ('data',), AUTO, ('data',), None),
  'model': ((8,), ('model',), AUTO, None, ('model',)),
  'x': ((8,), ('x',), AUTO, None, None),
  'replica, tensor': ((2, 4), ('replica', 'tensor'), AUTO, None, None),
  # What jax.make_mesh makes where nobody says of which type.
  'explicit': ((4, 2), ('data', 'model'), EXPLICIT, None, None),
}


def make_mesh(name):
  sizes, axes, axis_type = MESHES[name][:3]
  return jax.make_mesh(sizes, axes, axis_types=(axis_type,) * len(axes))


@functools.partial(jax.jit, static_argnames='model')
def loss_and_gradient(model, params, batch):
  def loss(params):
    return loss_and_metrics(model, params, batch)[0]

  value, gradient = jax.value_and_grad(loss)(params)
  return value, gradient['decoder']['layers_0']['self_attention']['key']


def compute(config, params, batch, logits_of):
  """Returns logits, a loss, a gradient, and decoded tokens."""
  model = Transformer(config)
  return (
    logits_of(model, params, batch),
    *loss_and_gradient(model, params, batch),
    greedy_decode(model, params, batch['encoder_input_tokens'], 3),
  )


@pytest.fixture(scope='module')
def without_mesh(tiny_config, make_params, make_batch, logits_of):
  config = dataclasses.replace(
    tiny_config, num_kv_heads=2, num_decoder_layers=1
  )
  params, batch = make_params(config), make_batch(config, batch=8)
  return config, params, batch, compute(config, params, batch, logits_of)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['data, model', 'x', 'explicit'])
def test_any_mesh_computes_what_no_mesh_does(name, without_mesh, logits_of):
  config, params, batch, expected = without_mesh
  mesh = make_mesh(name)
  with jax.set_mesh(mesh):
    shardings = partitioning.param_shardings(params, config, mesh)
    params = jax.device_put(params, shardings)
    placed = partitioning.shard_batch(batch, mesh)
    found = compute(config, params, placed, logits_of)
  for x, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found[-1], expected[-1])
  assert len(np.unique(expected[-1])) > 2


@pytest.mark.parametrize('name', MESHES)
def test_what_a_mesh_has_divides_and_nothing_else(
  name, tiny_config, tiny_params
):
  batch, heads = MESHES[name][3:]
  mesh = make_mesh(name)
  assert partitioning.batch_sharding(mesh, 8).spec == P(batch)
  params = partitioning.param_shardings(tiny_params, tiny_config, mesh)
  attention = params['decoder']['layers_0']['self_attention']
  assert attention['query']['kernel'].spec == P(None, heads)
  opt_state = optimizer.adafactor(8).init(tiny_params)
  shardings = partitioning.state_shardings(
    opt_state, tiny_params, tiny_config, mesh
  )
  entries = {x for s in jax.tree.leaves(shardings) for x in s.spec}
  assert entries - {None} == ({'model'} if heads else set())
  np.testing.assert_array_equal(partitioning.own_rows(mesh, 8), np.arange(8))


def test_a_batch_must_divide_by_what_divides_batches_alone():
  rows = {'x': np.arange(6)}
  for name in ('x', 'model', 'explicit'):
    placed = partitioning.shard_batch(rows, make_mesh(name))
    np.testing.assert_array_equal(placed['x'], rows['x'])
  with pytest.raises(ValueError, match='6 examples cannot be split over 4'):
    partitioning.shard_batch(rows, make_mesh('data, model'))


def test_a_cache_is_divided_by_heads_where_no_axis_divides_them():
  for name, layout in (('x', 'heads'), ('data', 'heads'), ('model', 'batch')):
    assert partitioning.cache_layout('auto', 8, 1, make_mesh(name)) == layout


def test_an_axis_of_another_name_or_type_divides_nothing():
  mesh = make_mesh('data, model')
  assert mesh_axis_size(mesh, 'model') == 2
  assert mesh_axis_size(mesh, 'fsdp') == 1
  assert mesh_axis_size(mesh.abstract_mesh, 'model') == 2
  assert mesh_axis_size(make_mesh('explicit'), 'model') == 1
