"""Which mesh is chosen, and what is said where none fits."""

import jax
import numpy as np
import pytest

from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.partitioning.mesh import MeshShape

XXL = T5Config.t5_1_1('xxl')
XXL_PARAMS = 11_135_332_352


@pytest.mark.parametrize(
  ('devices', 'batch', 'gib', 'sizes'),
  [
    (1, 128, 32, (1, 1, 1)),
    # 134 GB of state: 13 GB of 32 a device may hold it, so at least 10 parts.
    (64, 2048, 32, (4, 16, 1)),
    (64, 2048, 16, (2, 32, 1)),
    # 128 rows for 512 devices: four share each.
    (512, 128, 32, (32, 4, 4)),
  ],
)
def test_auto_divides_as_little_as_it_can(devices, batch, gib, sizes):
  assert sizes == MeshShape().sizes(
    devices,
    batch_size=batch,
    config=XXL,
    num_params=XXL_PARAMS,
    device_bytes=gib * 2**30,
  )


def test_auto_divides_nothing_of_a_small_model():
  sizes = MeshShape().sizes(8, batch_size=64, num_params=77_000_000)
  assert sizes == (8, 1, 1)


def test_auto_takes_a_model_axis_that_divides_the_heads():
  six_heads = T5Config.t5_1_1('small')
  assert MeshShape().sizes(12, batch_size=4, config=six_heads)[2] == 3
  assert MeshShape().sizes(8, batch_size=2, config=six_heads)[2] == 4


def test_what_is_given_is_kept():
  assert MeshShape(2, 2, 2).sizes(8) == (2, 2, 2)
  assert MeshShape(model=8).sizes(8) == (1, 1, 8)
  assert MeshShape(data=2, model=1).sizes(8) == (2, 4, 1)


def test_slices_lie_along_data():
  assert MeshShape().sizes(8, num_slices=4, num_params=10**11) == (4, 2, 1)


@pytest.mark.parametrize(
  ('shape', 'options', 'sentence'),
  [
    ({'model': 3}, {}, r'model=3 fits 8 devices: .* MESH_MODEL'),
    ({'data': 8}, {'batch_size': 12}, 'and 12 rows a batch'),
    ({'data': 1}, {'num_slices': 2}, 'in 2 slices'),
    ({'data': 2, 'fsdp': 2, 'model': 1}, {}, 'data=2, fsdp=2, model=1'),
  ],
)
def test_no_mesh_is_one_sentence(shape, options, sentence):
  with pytest.raises(ValueError, match=sentence):
    MeshShape(**shape).sizes(8, **options)
  # As the sentence says: 'auto' finds a mesh.
  assert np.prod(MeshShape().sizes(8, **options)) == 8


@pytest.mark.parametrize('size', [0, -1, 'all', 2.0])
def test_a_size_is_auto_or_a_positive_integer(size):
  with pytest.raises(ValueError, match=f'MESH_FSDP is {size!r}'):
    MeshShape(fsdp=size)


def test_every_device_is_in_the_mesh_once():
  mesh = partitioning.make_mesh(MeshShape(2, 2, 2))
  assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'model': 2}


def test_the_current_mesh_is_the_chosen_one():
  mesh = partitioning.make_mesh(MeshShape(2, 2, 2))
  assert partitioning.current_mesh().shape['data'] == 8
  with jax.set_mesh(mesh):
    assert partitioning.current_mesh() == mesh


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_a_batch_arrives_as_it_was(sizes):
  mesh = partitioning.make_mesh(MeshShape(*sizes))
  batch = {'x': np.arange(48).reshape(16, 3), 'y': np.arange(16.0)}
  placed = partitioning.shard_batch(batch, mesh)
  for name, x in batch.items():
    np.testing.assert_array_equal(placed[name], x)
  rows = 16 // (sizes[0] * sizes[1])
  assert placed['x'].sharding.shard_shape((16, 3)) == (rows, 3)
  np.testing.assert_array_equal(partitioning.own_rows(mesh, 16), np.arange(16))


def test_rows_that_do_not_divide():
  mesh = partitioning.make_mesh(MeshShape(2, 2, 2))
  batch = {'x': np.arange(6)}
  with pytest.raises(ValueError, match='6 examples .* over 4 devices; set BAT'):
    partitioning.shard_batch(batch, mesh)
  partitioning.shard_batch({'x': np.arange(8)}, mesh)
  spread = partitioning.spread_batch(batch, mesh)['x']
  assert spread.sharding.is_fully_replicated
  np.testing.assert_array_equal(spread, batch['x'])
