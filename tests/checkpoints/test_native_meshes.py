"""What one mesh wrote, any other reads, to the bit."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gqa_flax.checkpoints import native
from gqa_flax.training import optimizer


def make_mesh(shape):
  devices = jax.devices()[: np.prod(shape)]
  return Mesh(np.reshape(devices, shape), ('data', 'fsdp', 'model'))


def shardings(tree, mesh):
  """Splits every axis that divides, the last over model."""

  def sharding(x):
    axes = ('fsdp', 'model')[-x.ndim :] if x.ndim else ()
    spec = [
      a if n % mesh.shape[a] == 0 else None for a, n in zip(axes, x.shape)
    ]
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(sharding, tree)


@pytest.fixture(scope='module')
def opt_state(tiny_params):
  adafactor = optimizer.adafactor(min_dim_size_to_factor=16)
  grads = jax.tree.map(jax.numpy.cos, tiny_params)
  return adafactor.update(grads, adafactor.init(tiny_params), tiny_params)[1]


@pytest.fixture(scope='module')
def folder(tiny_config, tiny_params, opt_state, tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  mesh = make_mesh((2, 2, 2))
  there = jax.device_put(tiny_params, shardings(tiny_params, mesh))
  state = jax.device_put(opt_state, shardings(opt_state, mesh))
  with native.checkpoint_manager(folder, background=True) as manager:
    native.save(
      manager, native.Checkpoint(5, there, tiny_config), opt_state=state
    )
  return folder


@pytest.mark.parametrize(
  'shape', [(1, 8, 1), (8, 1, 1), (1, 1, 8), (2, 2, 2), (1, 1, 1)]
)
@pytest.mark.parametrize('as_function', [True, False])
def test_it_is_read_onto_any_mesh(
  folder, shape, as_function, tiny_params, opt_state
):
  mesh = make_mesh(shape)
  wanted = shardings(tiny_params, mesh)
  restored = native.restore(
    folder, (lambda config: wanted) if as_function else wanted
  )
  assert_same(restored.params, tiny_params, wanted)
  states = shardings(opt_state, mesh)
  target = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    opt_state,
    states,
  )
  assert_same(native.restore_optimizer(folder, target), opt_state, states)


def test_without_shardings_it_is_whole_on_every_device(folder, tiny_params):
  params = native.restore(folder).params
  assert all(x.is_fully_replicated for x in jax.tree.leaves(params))
  assert all(len(x.devices()) == 8 for x in jax.tree.leaves(params))


def assert_same(found, wanted, placed):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  for x, sharding in zip(jax.tree.leaves(found), jax.tree.leaves(placed)):
    assert x.sharding.is_equivalent_to(sharding, x.ndim)
