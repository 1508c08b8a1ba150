"""Orbax items, opened and written without Orbax: it is the oracle."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gqa_flax.checkpoints import arrays, orbax_items
from gqa_flax.checkpoints.arrays import LazyArray


@pytest.fixture
def tree():
  rng = np.random.default_rng(0)
  return {
    'a.b': {'kernel': rng.standard_normal((7, 3)).astype(np.float32)},
    'zeros': np.zeros((5, 2), np.float32),
    'list': [np.arange(3, dtype=np.int32), None],
    'half': rng.standard_normal((2, 2)).astype(ml_dtypes.bfloat16),
    'count': np.int32(4),
  }


def flat(tree):
  return {
    'a.b/kernel': tree['a.b']['kernel'],
    'zeros': tree['zeros'],
    'list/0': tree['list'][0],
    'half': tree['half'],
    'count': np.asarray(tree['count']),
  }


def write(path, tree, **kwargs):
  lazies = {k: LazyArray.of(x) for k, x in flat(tree).items() if x.ndim}
  orbax_items.write_item(
    path, lazies, scalars={'count': tree['count']}, empty=['list/1'], **kwargs
  )


def read(path):
  stores = orbax_items.open_item(path)
  return {name: store.read().result() for name, store in stores.items()}


def assert_equal(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('ocdbt', [True, False])
@pytest.mark.parametrize('zarr3', [True, False])
def test_what_orbax_writes_is_read(tree, tmp_path, ocdbt, zarr3):
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
  with ocp.Checkpointer(handler) as checkpointer:
    on_device = jax.tree.map(jnp.asarray, tree)
    checkpointer.save(tmp_path / 'item', ocp.args.PyTreeSave(on_device))
  assert_equal(read(tmp_path / 'item'), flat(tree))


@pytest.mark.parametrize('slab_bytes', [16, arrays.SLAB_BYTES])
def test_orbax_reads_what_is_written(tree, tmp_path, monkeypatch, slab_bytes):
  """Without a target, with one, and whether in one chunk or in many."""
  monkeypatch.setattr('gqa_flax.checkpoints.zarr.SLAB_BYTES', slab_bytes)
  path = tmp_path / 'item'
  write(path, tree)
  store = orbax_items.open_item(path)['zeros']
  rows = 2 if slab_bytes == 16 else 5
  assert store.chunk_layout.write_chunk.shape == (rows, 2)
  assert_equal(read(path), flat(tree))
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[3])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
  with ocp.StandardCheckpointer() as checkpointer:
    assert_equal(checkpointer.restore(path), tree)
    restored = checkpointer.restore(path, target)
  assert_equal(restored, tree)
  assert all(x.sharding == sharding for x in jax.tree.leaves(restored))


def test_metadata_is_that_of_orbax(tree, tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'orbax', tree)
  write(tmp_path / 'ours', tree)
  theirs, ours = (
    json.loads((tmp_path / name / '_METADATA').read_text())
    for name in ('orbax', 'ours')
  )
  assert ours == theirs
  stores = [
    orbax_items.open_item(tmp_path / name)['zeros'].spec().to_json()
    for name in ('orbax', 'ours')
  ]
  assert stores[0]['metadata'] == stores[1]['metadata']
  configs = [store['kvstore']['config'] for store in stores]
  assert configs[0].pop('uuid') != configs[1].pop('uuid')
  assert configs[0] == configs[1]


def test_missing_chunks_are_counted(tree, tmp_path):
  """TensorStore alone would read zeros where a chunk is missing."""
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(tmp_path / 'item', ocp.args.PyTreeSave(tree))
  opened = orbax_items.open_item(tmp_path / 'item')
  (tmp_path / 'item' / 'zeros' / '0.0').unlink()
  with pytest.raises(ValueError, match='NOT_FOUND|missing'):
    opened['zeros'].read().result()
  shutil.rmtree(tmp_path / 'item' / 'list.0')
  with pytest.raises(
    ValueError,
    match=r'lacks 2 of 5 arrays.*list/0 \(.*zeros \(1 of 1 chunks\).*again',
  ):
    orbax_items.open_item(tmp_path / 'item')


def test_zeros_may_be_missing_where_metadata_says_so(tree, tmp_path):
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  path = tmp_path / 'item'
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(path, ocp.args.PyTreeSave(tree))
  metadata = json.loads((path / '_METADATA').read_text())
  del metadata['store_array_data_equal_to_fill_value']
  (path / '_METADATA').write_text(json.dumps(metadata))
  (path / 'zeros' / '0.0').unlink()
  assert_equal(read(path), flat(tree))


def damage_nothing_left(path):
  (path / '_METADATA').unlink()


def damage_metadata(path):
  text = (path / '_METADATA').read_text()
  (path / '_METADATA').write_text(text[: len(text) // 2])


def damage_leaves(path):
  (path / '_METADATA').write_text('{"tree_metadata": {"x": {}}}')


def damage_manifest(path):
  data = (path / 'manifest.ocdbt').read_bytes()
  (path / 'manifest.ocdbt').write_bytes(data[: len(data) // 2])


def lose_manifest(path):
  (path / 'manifest.ocdbt').unlink()


def lose_data(path):
  shutil.rmtree(path / 'd')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (damage_nothing_left, 'has no _METADATA file'),
    (damage_metadata, '_METADATA is damaged'),
    (damage_leaves, '_METADATA is damaged'),
    (damage_manifest, 'cannot be read .*damaged'),
    (lose_manifest, 'cannot be read .*Manifest not found'),
    (lose_data, 'cannot be read .*damaged'),
  ],
)
def test_damage_is_one_sentence(tree, tmp_path, damage, message):
  write(tmp_path / 'item', tree)
  damage(tmp_path / 'item')
  with pytest.raises(ValueError, match=message) as caught:
    orbax_items.open_item(tmp_path / 'item')
  assert str(tmp_path / 'item') in str(caught.value)


def test_on_slab_sees_every_row_and_can_stop_it(tree, tmp_path):
  seen = {}
  write(tmp_path / 'a', tree, on_slab=lambda k, i, x: seen.update({k: len(x)}))
  assert seen == {'a.b/kernel': 7, 'zeros': 5, 'list/0': 3, 'half': 2}

  def stop(*_):
    raise FloatingPointError('not finite')

  with pytest.raises(FloatingPointError):
    write(tmp_path / 'b', tree, on_slab=stop)
  assert not (tmp_path / 'b' / '_METADATA').exists()
