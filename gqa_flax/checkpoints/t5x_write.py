"""Writes T5X's legacy checkpoints, as `t5x` reads them and T5X does.

Source: t5x/checkpoints.py and t5x/adafactor.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization

from gqa_flax.checkpoints import adafactor_state, arrays, t5x, zarr
from gqa_flax.checkpoints.arrays import LazyArray

# The bucket that T5X writes into an index, to be replaced by the real one.
_DUMMY_BUCKET = 't5x-dummy-bucket'


def write_legacy(
  path,
  step: int,
  params: Mapping[str, LazyArray],
  slots: Mapping[str, LazyArray] | None,
  on_slab: Callable[[str, int, np.ndarray], None] | None = None,
):
  """Writes a checkpoint as T5X wrote them before Orbax; the index comes last.

  Args:
    path: of the folder, which does not exist yet.
    step: steps since the very first of pre-training.
    params: by T5X name, written in the dtype they have.
    slots: Adafactor's statistics, by the parameter's name and '/v_row',
      '/v_col' or '/v'; parameters without any, and all where this is None, get
      the zeros of Adafactor's first step.
    on_slab: see `zarr.write_arrays`; the names are those of params and slots.

  Raises:
    ValueError: if `slots` has what is no statistic of `params`; else as
      `zarr.write_arrays`.
  """
  folder = epath.Path(path)
  slots = complete_slots(params, slots or {}, folder)
  specs: dict[str, Any] = {}

  def create(name, array):
    store, specs[name] = _create(folder, _prefix(name, slots) + name, array)
    return store

  folder.mkdir(parents=True)
  zarr.write_arrays({**params, **slots}, create, on_slab)
  states: dict[str, Any] = {}
  for name in params:
    for slot in ('m', *adafactor_state.SLOTS):
      leaf = specs.get(f'{name}/{slot}')
      if leaf is None:
        leaf = np.zeros(t5x.PLACEHOLDER, np.float32)
      states[f'{name}/{slot}'] = leaf
  index = {
    'version': 3,
    'optimizer': {
      'state': {
        'param_states': _sorted_tree(states),
        'step': np.asarray(step, np.int32),
      },
      'target': _sorted_tree({name: specs[name] for name in params}),
    },
  }
  # In place: a copy would come with its keys sorted.
  data = serialization.msgpack_serialize(index, in_place=True)
  (folder / t5x.INDEX).write_bytes(data)


def complete_slots(
  params: Mapping[str, LazyArray], slots: Mapping[str, LazyArray], where
) -> dict[str, LazyArray]:
  """Returns Adafactor's statistics of all parameters, zeros where none are.

  Raises:
    ValueError: if `slots` has what is no statistic of `params`, or half of
      one.
  """
  complete = {}
  for name, param in params.items():
    if not any(f'{name}/{slot}' in slots for slot in adafactor_state.SLOTS):
      for slot, shape in adafactor_state.slot_shapes(param.shape).items():
        complete[f'{name}/{slot}'] = _zeros(shape)
  complete.update(slots)
  shapes = {name: param.shape for name, param in params.items()}
  adafactor_state.check_slots(complete, shapes, where)
  return complete


def chunk_shape(shape, itemsize: int) -> tuple[int, ...]:
  """Returns T5X's chunks: the largest axis is divided till 64 MiB hold one."""
  chunk = list(shape)
  while itemsize * int(np.prod(chunk)) > arrays.SLAB_BYTES:
    axis = chunk.index(max(chunk))
    chunk[axis] = next(
      n for n in range(chunk[axis] - 1, 0, -1) if shape[axis] % n == 0
    )
  return tuple(chunk)


def _zeros(shape) -> LazyArray:
  return LazyArray(
    shape,
    np.dtype(np.float32),
    lambda start, stop: np.zeros((stop - start, *shape[1:]), np.float32),
  )


def _prefix(name, slots) -> str:
  return 'state/param_states/' if name in slots else 'target/'


def _create(folder, name, array) -> tuple[ts.TensorStore, dict[str, Any]]:
  """Creates an empty array; returns it and its spec for the index."""
  part = name.replace('/', '.')
  spec = {
    'driver': 'zarr',
    'dtype': array.dtype.name,
    'metadata': {
      'chunks': list(chunk_shape(array.shape, array.dtype.itemsize)),
      'compressor': {'id': 'gzip', 'level': 1},
      'shape': list(array.shape),
    },
  }
  kvstore = arrays.kvstore(folder / part)
  store = ts.open(
    # A missing chunk is then always a lost one.
    {**spec, 'kvstore': kvstore, 'store_data_equal_to_fill_value': True},
    create=True,
  ).result()
  relative = {'driver': kvstore['driver'], 'path': f'{part}/'}
  if kvstore['driver'] == 'gcs':
    relative['bucket'] = _DUMMY_BUCKET
  return store, dict(sorted({**spec, 'kvstore': relative}.items()))


def _sorted_tree(flat) -> dict[str, Any]:
  """Nests by name, with all keys sorted, as JAX's trees have them."""
  tree: dict[str, Any] = {}
  for name in sorted(flat, key=lambda name: name.split('/')):
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = flat[name]
  return tree
