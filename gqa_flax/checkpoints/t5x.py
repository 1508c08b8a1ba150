"""T5X's legacy checkpoints: an index and one zarr folder an array.

  checkpoint_<step>/
    checkpoint              msgpack: {version, optimizer: {state, target}}
    target.<parameter>/     zarr, named with dots for slashes
    state.param_states.<parameter>.<v_row, v_col or v>/

The leaves of the index are TensorStore specs with paths relative to the folder,
or small arrays themselves. Source: t5x/checkpoints.py.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from gqa_flax.checkpoints import adafactor_state, arrays, folders, scanned
from gqa_flax.checkpoints.architecture import infer_config
from gqa_flax.checkpoints.arrays import LazyArray, StoredCheckpoint
from gqa_flax.checkpoints.json_files import is_integer

INDEX = folders.MARKERS['t5x_legacy']

PLACEHOLDER = (1,)
# What an index may hold in place of a spec.
_INLINE = (np.ndarray, np.generic, int, float)


def open_legacy(path, *, optimizer: bool = True) -> StoredCheckpoint:
  """Opens a checkpoint as T5X wrote them before Orbax.

  Args:
    path: of the `checkpoint_<step>` folder, local or on gs://.
    optimizer: whether to open the optimizer's state, which may be missing
      otherwise.

  Returns:
    The checkpoint, of format 't5x_legacy'; nothing but metadata is read.

  Raises:
    ValueError: one sentence, if the index cannot be read, if arrays or chunks
      are missing (all of them are listed), or if the arrays are not a T5.1.1.
  """
  folder = epath.Path(path)
  index = _read_index(folder)
  stored = index.get('optimizer', index)
  state = stored.get('state') or {}
  step = _read_step(state, folder)
  files = _list_files(folder)

  stores, problems = _open(_leaves(stored['target'], folder), folder, files)
  _check(problems, folder)
  params = _lazy(stores, folder)
  shapes = {name: array.shape for name, array in params.items()}
  config = infer_config(shapes, folder)

  skipped = {
    name: 'neither a parameter nor a statistic of Adafactor'
    for name in [
      *(index.keys() - {'version', 'optimizer', 'target', 'state'}),
      *(stored.keys() - {'version', 'target', 'state'}),
      *(f'state/{x}' for x in state.keys() - {'step', 'param_states'}),
    ]
  }
  leaves = {}
  plain = {name: store.shape for name, store in stores.items()} == shapes
  states = (state.get('param_states') or {}) if optimizer else {}
  for name, leaf in _leaves(states, folder).items():
    reason = _why_skip(name, leaf, shapes, plain)
    if reason is None:
      leaves[name] = leaf
    elif reason:
      skipped[f'state/param_states/{name}'] = reason
  stores, problems = _open(leaves, folder, files)
  slots = _lazy(stores, folder)
  _check(problems, folder, ' Or set OPTIMIZER_STATE = reset to do without it.')
  adafactor_state.check_slots(slots, shapes, folder)
  return StoredCheckpoint(
    format='t5x_legacy',
    path=str(path),
    step=step,
    config=config,
    params=params,
    slots=slots or None,
    count=step if slots else 0,
    skipped=skipped,
  )


def _read_index(folder) -> dict[str, Any]:
  file = folder / INDEX
  if not file.exists():
    raise FileNotFoundError(
      f'There is no {file}; give a checkpoint_<step> folder that T5X wrote.'
    )
  data = file.read_bytes()
  if data.startswith(b'model_checkpoint_path'):
    raise ValueError(
      f'{file} is of a TensorFlow checkpoint; convert that to T5X first '
      '(t5x.scripts.convert_tf_checkpoint).'
    )
  try:
    index = serialization.msgpack_restore(data)
  # Damaged bytes can raise anything there.
  except Exception as error:
    raise ValueError(
      f'{file} cannot be read as msgpack ({arrays.reason(error)}); it is '
      'truncated or damaged: copy or download it again.'
    ) from error
  stored = index.get('optimizer', index) if isinstance(index, dict) else None
  if not isinstance(stored, dict) or not isinstance(stored.get('target'), dict):
    raise ValueError(
      f'{file} has no optimizer/target, where T5X keeps the parameters; give '
      'a checkpoint_<step> folder that T5X wrote.'
    )
  if not isinstance(stored.get('state') or {}, dict):
    raise _damaged(folder, f'optimizer/state is {stored["state"]!r}')
  return index


def _read_step(state, folder) -> int | None:
  if 'step' not in state:
    return folders.step_of(folder)
  step = np.asarray(state['step'])
  if step.size != 1 or step.dtype.kind not in 'iu' or step.item() < 0:
    raise _damaged(folder, f'state/step is {state["step"]!r}')
  return int(step.item())


def _damaged(folder, what) -> ValueError:
  return ValueError(
    f'The index {folder / INDEX} is damaged ({what[:200]}); copy or download '
    'it again.'
  )


def _list_files(folder) -> set[str]:
  # One listing of all: an XXL checkpoint has some 1500 folders.
  spec = arrays.kvstore(folder)
  return {
    key.decode() for key in ts.KvStore.open(spec).result().list().result()
  }


def _is_spec(leaf) -> bool:
  return isinstance(leaf, dict) and 'driver' in leaf and 'kvstore' in leaf


def _leaves(tree, folder) -> dict[str, Any]:
  if not isinstance(tree, dict):
    raise _damaged(folder, f'{tree!r} stands where names are expected')
  try:
    flat = traverse_util.flatten_dict(tree, is_leaf=lambda _, x: _is_spec(x))
  except RecursionError:
    raise _damaged(folder, 'it is nested too deeply') from None
  return {'/'.join(map(str, k)): x for k, x in flat.items() if x is not None}


def _leaf_shape(leaf) -> tuple[int, ...] | None:
  """Returns the shape that the index gives, None if it makes no sense."""
  if not _is_spec(leaf):
    return np.shape(leaf) if isinstance(leaf, _INLINE) else None
  metadata = leaf.get('metadata')
  shape = metadata.get('shape') if isinstance(metadata, dict) else None
  if not isinstance(shape, list | tuple):
    return None
  return tuple(shape) if all(is_integer(n, least=0) for n in shape) else None


def _folder_name(spec) -> str | None:
  """Returns the array's folder, None if the spec makes no sense."""
  # Only the last part: old indices hold the path of where they were written,
  # and specs before TensorStore 0.1.14 keep it outside the kvstore.
  kvstore = spec['kvstore']
  path = kvstore.get('path') if isinstance(kvstore, dict) else None
  path = path or spec.get('path', '')
  if not isinstance(path, str):
    return None
  return path.rstrip('/').rpartition('/')[2] or None


def _open(leaves, folder, files) -> tuple[dict[str, Any], list[str]]:
  """Returns the opened arrays and what is wrong with others, in words."""
  stores: dict[str, Any] = {}
  futures, problems = {}, []
  for name, leaf in leaves.items():
    if _leaf_shape(leaf) is None:
      problems.append(f'{name} has no shape in the index, but {leaf!r:.200}')
      continue
    if not _is_spec(leaf):
      if np.ndim(leaf) == 0:
        problems.append(f'{name} is a single number')
      else:
        stores[name] = np.asarray(leaf)
      continue
    part = _folder_name(leaf)
    if part is None:
      problems.append(f'{name} has no path in the index, but {leaf!r:.200}')
      continue
    if f'{part}/.zarray' not in files:
      problems.append(f'{name} has no {part}/.zarray')
      continue
    kvstore = arrays.kvstore(folder / part)
    # A chunk that is lost after the listing must not read as zeros.
    spec = {
      'driver': 'zarr',
      'kvstore': kvstore,
      'fill_missing_data_reads': False,
    }
    futures[name] = part, ts.open(spec, open=True, read=True)
  for name, (part, future) in futures.items():
    try:
      store = future.result()
    except ValueError as error:
      problems.append(f'{name} cannot be opened ({arrays.reason(error)})')
      continue
    shape = _leaf_shape(leaves[name])
    missing = [x for x in _chunk_files(store) if f'{part}/{x}' not in files]
    if store.shape != shape:
      problems.append(
        f'{name} has shape {store.shape}, but {shape} in the index'
      )
    elif missing:
      problems.append(
        f'{name} lacks {len(missing)} of its chunks ({part}/{missing[0]})'
      )
    else:
      stores[name] = store
  return stores, problems


def _chunk_files(store) -> Iterator[str]:
  """Yields the files that a zarr array has."""
  separator = store.spec().to_json()['metadata']['dimension_separator']
  grid = [
    range(-(-size // chunk))
    for size, chunk in zip(store.shape, store.chunk_layout.read_chunk.shape)
  ]
  for index in itertools.product(*grid):
    yield separator.join(map(str, index))


def _lazy(stores, folder) -> dict[str, LazyArray]:
  params = scanned.lazy_params(stores, folder)
  return {name: _as_float32(array) for name, array in params.items()}


def _as_float32(array: LazyArray) -> LazyArray:
  if array.dtype == np.uint16:
    # T5X's version 2 stored bfloat16 as its bits.
    read_rows = array.read_rows
    array = dataclasses.replace(
      array,
      dtype=np.dtype(jnp.bfloat16),
      read_rows=lambda *rows: read_rows(*rows).view(jnp.bfloat16),
    )
  return array.astype(np.float32)


def _why_skip(name, leaf, shapes, plain) -> str | None:
  """Returns why a state is no slot; '' for a placeholder; None if it is one."""
  param, _, slot = name.rpartition('/')
  if _leaf_shape(leaf) == PLACEHOLDER and shapes.get(param) != PLACEHOLDER:
    return ''
  if not plain:
    return 'a statistic of layers together or heads apart, which we cannot use'
  if slot == 'm':
    return 'momentum, of which there is none in pre-training T5.1.1'
  if slot not in adafactor_state.SLOTS or param not in shapes:
    return 'neither a parameter nor a statistic of Adafactor'
  return None


def _check(problems, folder, remedy=''):
  if problems:
    raise ValueError(
      f'{folder} is not a whole checkpoint: {arrays.listed(problems)}. Copy or '
      f'download it again.{remedy}'
    )
