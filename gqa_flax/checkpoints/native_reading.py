"""Telling a damaged checkpoint from one that is only not to be had now."""

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from gqa_flax import partitioning
from gqa_flax.checkpoints import (
  checksums,
  json_files,
  native_items,
  orbax_items,
)
from gqa_flax.checkpoints.arrays import listed, reason
from gqa_flax.checkpoints.folders import MismatchError
from gqa_flax.config import T5Config

T = TypeVar('T')
_CRC = 'crc32'
# TensorStore's words for what may pass, in whatever exception.
_PASSING = (
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'RESOURCE_EXHAUSTED',
  'CANCELLED',
  'ABORTED',
  'Permission denied',
  'Too many open files',
)
_FINE, _DAMAGED, _FAILED = range(3)


class CorruptCheckpointError(ValueError):
  """A checkpoint is not what was written: parts are missing or changed."""


def corrupt(folder, what) -> CorruptCheckpointError:
  """Returns the error for a damaged checkpoint, `what` saying how."""
  return CorruptCheckpointError(
    f'The checkpoint {folder} is damaged: {what}; go on from an older one, or '
    'copy it again.'
  )


def agreed(
  folder: epath.Path,
  read: Callable[[], T],
  is_damage: Callable[[Exception], bool] | None = None,
) -> T:
  """Calls `read`, and lets all processes fail together if one does.

  Args:
    folder: of the checkpoint.
    read: must not wait for other processes.
    is_damage: whether an exception means that the checkpoint is damaged, as
      opposed to another's fault or a passing trouble.

  Raises:
    CorruptCheckpointError: if it is damaged, here or for another process.
    OSError: if another process failed for another reason.
    Exception: what `read` raised, if that is no damage.
  """
  value: Any = None
  error: Exception | None = None
  try:
    value = read()
  except Exception as e:
    error = e
  state = _FINE
  if error is not None:
    damaged = (is_damage or means_damage)(error) and folder.exists()
    state = _DAMAGED if damaged else _FAILED
  states = [state]
  if jax.process_count() > 1:
    states = list(np.ravel(multihost_utils.process_allgather(np.int32(state))))
  if state == _FAILED:
    assert error is not None
    raise error
  if _FAILED in states:
    raise OSError(
      f'Process {states.index(_FAILED)} could not read {folder}; its own '
      'message says why.'
    ) from error
  if isinstance(error, CorruptCheckpointError):
    raise error
  if state == _DAMAGED:
    raise corrupt(folder, f'it cannot be read ({reason(error)})') from error
  if _DAMAGED in states:
    raise corrupt(folder, f'process {states.index(_DAMAGED)} cannot read it')
  return value


def means_damage(error: BaseException) -> bool:
  """Whether an exception of reading arrays or JSON means changed files."""
  missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  if isinstance(error, (CorruptCheckpointError, *missing)):
    return True
  if isinstance(error, MismatchError | OSError | MemoryError):
    return False
  if any(word in str(error) for word in _PASSING):
    return False
  causes = [*getattr(error, 'exceptions', ()), error.__cause__]
  return all(means_damage(cause) for cause in causes if cause is not None)


def describe(config, step: int, sums: Mapping[str, Mapping[str, int]], items):
  """Returns the `model` item: what it holds, and a checksum of that itself."""
  model: dict[str, Any] = {'config': config.to_dict(), 'step': step}
  model.update(items=list(items), checksums=sums)
  return {**model, _CRC: _crc(model)}


def read_model(folder: epath.Path) -> dict[str, Any]:
  """Reads what `describe` returned, or what older versions wrote.

  Returns:
    What JSON holds, but its config as a T5Config.

  Raises:
    CorruptCheckpointError: if it is damaged.
    MismatchError: if its config has a value that T5Config does not take.
  """

  def read():
    file = folder / native_items.MODEL / 'metadata'
    try:
      model = json_files.parse(file.read_bytes())
      wanted = model.pop(_CRC, None)
      if wanted is not None and _crc(model) != wanted:
        raise ValueError('it has changed since it was written')
      _check_kinds(model)
    except ValueError as error:
      raise corrupt(folder, f'in {file}, {error}') from error
    try:
      return {**model, 'config': T5Config.from_dict(model['config'])}
    except ValueError as error:
      # As it was written, or as somebody edited it.
      raise MismatchError(f'In {file}: {error}') from error

  return agreed(folder, read)


def _check_kinds(model: Mapping[str, Any]):
  """Raises ValueError where a value is not of the kind that was written."""
  step = model.get('step')
  if not json_files.is_integer(step, least=0):
    raise ValueError(f'step is {step!r} instead of an integer of 0 or more')
  for name, kind, default in (
    ('config', dict, None),
    ('checksums', dict, {}),
    ('items', list, []),
  ):
    found = model.get(name, default)
    if not isinstance(found, kind):
      raise ValueError(f'{name} is {found!r} instead of a {kind.__name__}')


def check_whole(folder: epath.Path, items: Sequence[str]):
  """Raises CorruptCheckpointError unless all files of some items are there."""
  model = read_model(folder)
  for item in items:
    check_item(folder, model, item)
    if (folder / item).exists():
      agreed(folder, functools.partial(orbax_items.open_item, folder / item))


def check_item(folder: epath.Path, model, item: str):
  """Raises CorruptCheckpointError if an item that was written is not there."""

  def check():
    if item in model.get('items', ()) and not (folder / item).exists():
      raise corrupt(folder, f'{item}/ is missing')

  agreed(folder, check)


def read_tree(
  folder: epath.Path,
  model: Mapping[str, Any],
  item: str,
  target,
  check: Callable[[Mapping[str, tuple[int, ...]]], None],
):
  """Reads an item of arrays, and checks them if it can be.

  Args:
    folder: of the checkpoint.
    model: from `read_model`.
    item: name of the item.
    target: tree of arrays or ShapeDtypeStructs to read; without a sharding a
      leaf is read whole onto every device.
    check: raises where the stored shapes, by name, are not those wanted.

  Raises:
    CorruptCheckpointError: if it is damaged.
    MismatchError: if `check` raised ValueError, or the dtypes differ.
  """
  sums = model.get('checksums', {}).get(item)
  everywhere = partitioning.replicated(partitioning.data_parallel_mesh())

  def abstract(x):
    sharding = getattr(x, 'sharding', None) or everywhere
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  target = jax.tree.map(abstract, target)

  def read():
    stores = orbax_items.open_item(folder / item)
    if sums is not None and stores.keys() != sums.keys():
      changed = sorted(stores.keys() ^ sums.keys())
      raise corrupt(folder, f'{item}/ lacks or invents {listed(changed)}')
    try:
      check({name: tuple(x.shape) for name, x in stores.items()})
    except ValueError as error:
      raise MismatchError(str(error)) from None
    for name, x in ocp.tree.to_flat_dict(target, sep='/').items():
      found = stores[name].dtype.numpy_dtype
      if sums is not None and found != x.dtype:
        raise MismatchError(
          f'{item}/{name} in {folder} is {found}, but {x.dtype} is '
          'configured; configure what wrote it.'
        )
    flat = ocp.tree.to_flat_dict(target, sep='/')
    # Not by Orbax: where it fails, reads go on whose end nobody awaits.
    arrays = orbax_items.read_arrays(stores, flat)
    return ocp.tree.from_flat_dict(arrays, target=target, sep='/')

  tree = agreed(folder, read)
  if sums is not None:
    found = checksums.compute(tree)
    changed = [name for name in sums if found[name] != sums[name]]
    if changed:
      raise corrupt(
        folder, f'{item}/ has changed since it was written ({listed(changed)})'
      )
  return tree


def restore_data(folder: epath.Path, model: Mapping[str, Any], data):
  """Moves an iterator to the position in a checkpoint.

  Raises:
    CorruptCheckpointError: if the positions are damaged.
    Exception: what `data.restore` raises.
  """
  check_item(folder, model, native_items.DATA)
  if not (folder / native_items.DATA).exists():
    raise ValueError(
      f'{folder} holds no position in the data to go on from; give it as '
      'INITIAL_CHECKPOINT_PATH of a run in an empty MODEL_DIR.'
    )

  def compare():
    changed = native_items.changed_files(folder / native_items.DATA)
    if changed:
      raise corrupt(folder, f'data/ has changed ({listed(changed)})')

  def restore():
    data.restore(folder / native_items.DATA)

  agreed(folder, compare)
  # The files are as they were: what is wrong now, the arguments are.
  agreed(folder, restore, is_damage=lambda _: False)


def _crc(model) -> int:
  return zlib.crc32(json.dumps(model, sort_keys=True).encode())
