"""Orbax's items, opened and written array by array through TensorStore.

An item is a folder that Orbax's PyTree and Standard handlers write:
`_METADATA` (JSON) names the arrays; they lie in the zarr format, in an OCDBT
database or each in a folder. Orbax itself reads and writes whole trees; here
no array need ever be in memory as a whole.
"""

import collections
import concurrent.futures
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath

from gqa_flax.checkpoints import json_files, zarr
from gqa_flax.checkpoints.arrays import LazyArray, kvstore, listed, reason
from gqa_flax.checkpoints.ocdbt import lost_keys

_METADATA = '_METADATA'
_ARRAY_FILES = ('.zarray', '.zattrs', 'zarr.json')
# What Orbax (0.12) gives TensorStore: small values and the tree's root stand
# in one node, and nobody else writes to the database.
_OCDBT = {
  'driver': 'ocdbt',
  'cache_pool': 'cache_pool#ocdbt',
}
# Arrays that are read onto devices at a time.
_READING = 8
_OCDBT_WRITE = {
  'config': {
    'max_inline_value_bytes': 1024,
    'max_decoded_node_bytes': 100_000_000,
    'manifest_kind': 'single',
  },
  'assume_config': True,
  'target_data_file_size': 2**31,
}


def open_item(
  path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, Any]:
  """Opens every array of an item; only metadata is read now.

  Args:
    path: the item's folder, local or on gs:// or s3://.
    keep: which arrays to open, by name; the others may be missing.

  Returns:
    TensorStores by the names in the tree, joined by '/'. Reading raises
    ValueError where data is missing. Leaves that are no array are left out.

  Raises:
    ValueError: if there is no item, or arrays or parts of them are missing.
  """
  path = epath.Path(path)
  metadata = _read_metadata(path)
  ocdbt = metadata.get('use_ocdbt')
  if ocdbt is None:
    ocdbt = (path / 'manifest.ocdbt').exists()
  names = {k: x for k, x in _array_names(metadata, path).items() if keep(k)}
  # Zeros may be left out of an item that says so.
  sparse = not metadata.get('store_array_data_equal_to_fill_value', False)
  spec = {
    'driver': 'zarr3' if metadata.get('use_zarr3') else 'zarr',
    'fill_missing_data_reads': sparse,
  }
  database = kvstore(path)
  context = _context()
  lost = []
  try:
    if ocdbt:
      files = ts.KvStore.open(database).result()
      database = {**_OCDBT, 'base': database}
      lost = lost_keys(files, path)
    values = ts.KvStore.open(database, context=context).result()
    keys = values.list().result()
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be read ({reason(error)}); the checkpoint is '
      'damaged: copy or download it again.'
    ) from error
  opening = {
    name: ts.open(
      spec, kvstore=values / f'{stored}/', open=True, read=True, context=context
    )
    for name, stored in names.items()
  }
  chunks, lost_chunks = _chunks(keys), _chunks(lost)
  stores, problems = {}, []
  for name, future in opening.items():
    try:
      store = stores[name] = future.result()
    except ValueError as error:
      problems.append(f'{name} ({reason(error)})')
      continue
    wanted, missing = _count_chunks(store), lost_chunks[names[name]]
    if not sparse:
      missing += wanted - chunks[names[name]]
    if missing:
      problems.append(f'{name} ({missing} of {wanted} chunks)')
  if problems:
    raise ValueError(
      f'{path} lacks {len(problems)} of {len(names)} arrays, or parts of them: '
      f'{listed(problems)}. The checkpoint is incomplete: '
      'copy or download it again.'
    )
  return stores


def write_item(
  path,
  arrays: Mapping[str, LazyArray],
  *,
  scalars: Mapping[str, Any] | None = None,
  empty: Iterable[str] = (),
  on_slab=None,
):
  """Writes an item that Orbax restores as NumPy arrays, or as a target says.

  Args:
    path: the item's folder, made if absent.
    arrays: by their names in the tree, joined by '/'; a part of digits is an
      index into a sequence.
    scalars: arrays of no axes, by name likewise.
    empty: names of leaves that hold nothing (None, or an empty NamedTuple).
    on_slab: see `zarr.write_arrays`.
  """
  path = epath.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  scalars = scalars or {}
  context = _context()
  spec = {**_OCDBT, **_OCDBT_WRITE, 'base': kvstore(path)}
  values = ts.KvStore.open(spec, context=context).result()

  def create(name, array):
    dtype = np.dtype(array.dtype)
    return ts.open(
      {
        'driver': 'zarr',
        'metadata': {
          'chunks': zarr.chunk_shape(array.shape, dtype.itemsize)
          if array.shape
          else (),
          'compressor': {'id': 'zstd', 'level': 1},
        },
        # Else a chunk of zeros could not be told from one that was lost.
        'store_data_equal_to_fill_value': True,
      },
      kvstore=values / f'{name.replace("/", ".")}/',
      create=True,
      shape=array.shape,
      dtype=ts.dtype(dtype),
      context=context,
    ).result()

  for name, scalar in scalars.items():
    value = np.asarray(scalar)
    create(name, value).write(value).result()
  zarr.write_arrays(arrays, create, on_slab=on_slab)
  tree = dict.fromkeys([*scalars, *arrays], 'np.ndarray')
  tree.update(dict.fromkeys(empty, 'None'))
  metadata = {
    'tree_metadata': dict(_leaf(name, kind) for name, kind in tree.items()),
    'use_ocdbt': True,
    'use_zarr3': False,
    'store_array_data_equal_to_fill_value': True,
    'custom_metadata': None,
  }
  (path / _METADATA).write_text(json.dumps(metadata))


def _read_metadata(path) -> dict[str, Any]:
  try:
    metadata = json_files.parse((path / _METADATA).read_bytes())
    metadata['tree_metadata'].items()
  except FileNotFoundError:
    raise ValueError(
      f'{path} has no {_METADATA} file, so it is not a folder of arrays as '
      'Orbax writes it, or an incomplete one; copy or download it again.'
    ) from None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path}/{_METADATA} is damaged; copy or download it again.'
    ) from error
  return metadata


def _array_names(metadata, path) -> dict[str, str]:
  """Maps names in the tree, joined by '/', to names of stored arrays."""
  names = {}
  try:
    for leaf in metadata['tree_metadata'].values():
      value = leaf['value_metadata']
      if value['skip_deserialize'] or value['value_type'] == 'string':
        continue
      keys = [str(part['key']) for part in leaf['key_metadata']]
      names['/'.join(keys)] = '.'.join(keys)
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path}/{_METADATA} is damaged; copy or download it again.'
    ) from error
  return names


def _leaf(name, value_type):
  """Returns an entry of Orbax's tree_metadata."""
  parts = tuple(name.split('/'))
  # Orbax's KeyType: 1 is a sequence, 2 a dict.
  keys = [{'key': p, 'key_type': 1 if p.isdigit() else 2} for p in parts]
  value = {'value_type': value_type, 'skip_deserialize': value_type == 'None'}
  return str(parts), {'key_metadata': keys, 'value_metadata': value}


def _chunks(keys: Iterable[bytes]) -> collections.Counter[str]:
  """Counts the chunks of each array among the keys of a database."""
  parts = (key.decode().partition('/') for key in keys)
  return collections.Counter(
    folder for folder, _, file in parts if file not in _ARRAY_FILES
  )


def _count_chunks(store) -> int:
  chunk = store.chunk_layout.write_chunk.shape or ()  # None without axes
  return math.prod(-(-n // c) for n, c in zip(store.shape, chunk))


def _context():
  # For the nodes of the database's tree; chunks are never cached.
  return ts.Context({'cache_pool#ocdbt': {'total_bytes_limit': 100_000_000}})


def read_arrays(
  stores: Mapping[str, ts.TensorStore],
  wanted: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Reads arrays onto devices, each process the parts that its devices hold.

  Some arrays are read at a time, the largest first, so that the host holds
  little more than what the devices get.

  Args:
    stores: from `open_item`.
    wanted: by the same names, with shardings.

  Raises:
    ValueError: if something cannot be read; all reading has ended then.
  """

  def read(name):
    store, x = stores[name], wanted[name]
    parts: dict[str, np.ndarray] = {}

    def part(index):
      # Devices that hold the same part share one reading of it.
      if str(index) not in parts:
        part = store[index].read().result()
        parts[str(index)] = np.asarray(part, dtype=x.dtype)
      return parts[str(index)]

    return jax.make_array_from_callback(x.shape, x.sharding, part)

  names = sorted(wanted, key=lambda name: -wanted[name].size)
  with concurrent.futures.ThreadPoolExecutor(_READING) as pool:
    arrays = dict(zip(names, pool.map(read, names)))
  return {name: arrays[name] for name in wanted}
