"""Our own checkpoints: Orbax, one folder a step, whole or absent.

  <directory>/checkpoint_<step>/
    params/     the parameters, float32
    model/      JSON: the T5Config, the step, the items, checksums of arrays
    optimizer/  the optimizer's state, only where training may go on from here
    data/       the data's position, only where it may go on without a seam

Orbax writes each checkpoint to a temporary folder and renames it when it is
complete, so that one which can be seen can be read. What disks and copying do
to it later is found by the checksums. Where there are many processes, all of
them call these functions.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from gqa_flax.checkpoints import folders, native_items, native_reading
from gqa_flax.checkpoints.architecture import abstract_params, check_shapes
from gqa_flax.checkpoints.arrays import StoredCheckpoint
from gqa_flax.checkpoints.folders import PREFIX, step_of
from gqa_flax.checkpoints.native_manager import (
  CheckpointWriteError,
  Manager,
  best_step,
)
from gqa_flax.checkpoints.native_reading import CorruptCheckpointError
from gqa_flax.checkpoints.native_writing import (
  Checkpoint,
  check,
  checkpoint_manager,
  save,
  save_lazy,
  wait,
)
from gqa_flax.config import T5Config

__all__ = [
  'PREFIX',
  'Checkpoint',
  'CheckpointWriteError',
  'CorruptCheckpointError',
  'best_step',
  'check',
  'checkpoint_manager',
  'locate',
  'open_checkpoint',
  'read_config',
  'restore',
  'restore_latest_whole',
  'restore_optimizer',
  'restore_training',
  'save',
  'save_lazy',
  'step_of',
  'wait',
]

T = TypeVar('T')


def open_checkpoint(path, *, optimizer: bool = True) -> StoredCheckpoint:
  """Opens a checkpoint of ours; nothing but metadata is read.

  Args:
    path: as in `restore`.
    optimizer: whether to open the optimizer's state, too.

  Returns:
    The checkpoint, with slots if it holds Adafactor's state.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    ValueError: if what is there is of another format, or is not whole.
  """
  folder = locate(path, optimizer=optimizer)
  model = native_reading.read_model(folder)
  config = model['config']
  params, slots, count, skipped = native_items.open_items(folder, optimizer)
  check_shapes({name: x.shape for name, x in params.items()}, config, folder)
  return StoredCheckpoint(
    format='native',
    path=str(folder),
    step=model['step'],
    config=config,
    params=params,
    slots=slots,
    count=count,
    skipped=skipped,
  )


def restore(path, shardings=None) -> Checkpoint:
  """Reads step, parameters and config, whatever devices wrote them.

  Args:
    path: a checkpoint's folder, or one that holds `checkpoint_<step>` folders,
      of which the newest whole one is read.
    shardings: of the parameters: a tree of them, or a function that makes one
      from the config. None puts them whole on every device.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    CorruptCheckpointError: if it is damaged.
    ValueError: if what is there is of another format.
  """
  folder = locate(path)
  model = native_reading.read_model(folder)
  config = model['config']
  native_reading.check_item(folder, model, native_items.PARAMS)
  target = abstract_params(config)
  if callable(shardings):
    shardings = shardings(config)
  if shardings is not None:
    target = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      target,
      shardings,
    )

  def fits(shapes):
    check_shapes(shapes, config, folder)

  params = native_reading.read_tree(
    folder, model, native_items.PARAMS, target, fits
  )
  return Checkpoint(step=model['step'], params=params, config=config)


def restore_training(manager, step, *, opt_state, data):
  """Reads what `restore` leaves out, to go on training.

  Args:
    manager: from `checkpoint_manager`.
    step: of the checkpoint.
    opt_state: a tree of the structure, shapes and shardings to read.
    data: an iterator with `restore(directory)`; it is moved.

  Returns:
    The optimizer's state.

  Raises:
    CorruptCheckpointError: if the checkpoint is damaged.
    ValueError: if it holds no optimizer state, or another optimizer's, or
      what `data.restore` raises.
  """
  folder = manager.directory / f'{PREFIX}_{step}'
  opt_state = restore_optimizer(folder, opt_state)
  model = native_reading.read_model(folder)
  native_reading.restore_data(folder, model, data)
  return opt_state


def restore_optimizer(path, opt_state):
  """Reads the optimizer's state alone, to begin another run with.

  Args:
    path: as in `restore`.
    opt_state: a tree of the structure, shapes and shardings to read.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    CorruptCheckpointError: if it is damaged.
    ValueError: if it holds no optimizer state, or another optimizer's.
  """
  folder = locate(path, optimizer=True)
  model = native_reading.read_model(folder)
  native_reading.check_item(folder, model, native_items.OPTIMIZER)
  if not (folder / native_items.OPTIMIZER).exists():
    raise ValueError(
      f'{folder} holds no optimizer state to carry on with; set '
      "OPTIMIZER_STATE = 'reset', or convert the original checkpoint with "
      '--gin.OPTIMIZER_STATE=carry.'
    )
  wanted = ocp.tree.to_flat_dict(opt_state, sep='/')

  def fits(shapes):
    if {k: x.shape for k, x in wanted.items()} != shapes:
      raise ValueError(
        f'The optimizer state in {folder} is not of the configured optimizer; '
        "set OPTIMIZER_STATE = 'reset', or configure the optimizer that wrote "
        'it.'
      )

  return native_reading.read_tree(
    folder, model, native_items.OPTIMIZER, opt_state, fits
  )


def restore_latest_whole(
  manager: Manager, read: Callable[[int], T]
) -> T | None:
  """Reads the newest checkpoint that is whole, and sets damaged ones aside.

  They are renamed to corrupt_checkpoint_<step>, with a warning.

  Args:
    manager: from `checkpoint_manager`; of the one job that writes there.
    read: reads a step, by `restore` and `restore_training`.

  Returns:
    What `read` returned, or None if there is no checkpoint.

  Raises:
    CorruptCheckpointError: if all checkpoints are damaged.
    Exception: what `read` raises else.
  """
  problem: Exception | None = None
  manager.reload()
  while (step := manager.latest_step()) is not None:
    try:
      return read(step)
    except CorruptCheckpointError as error:
      problem = error
    _set_aside(manager, step, problem)
  if problem is not None:
    raise CorruptCheckpointError(
      f'No checkpoint in {manager.directory} is whole, and all have been set '
      f'aside as corrupt_{PREFIX}_<step>: copy one from elsewhere, or start in '
      'an empty folder.'
    ) from problem
  return None


def _set_aside(manager, step, problem):
  """Renames a damaged checkpoint so that nobody takes it for one."""
  folder = manager.directory / f'{PREFIX}_{step}'

  def rename():
    if jax.process_index() > 0:
      return
    target = manager.directory / f'corrupt_{folder.name}'
    if target.exists():
      target.rmtree()  # damaged, set aside and written again since
    folder.rename(target)
    warnings.warn(f'{problem} It is now {target.name}.', stacklevel=4)

  native_reading.agreed(folder, rename, is_damage=lambda _: False)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('gqa_flax: set aside')
  manager.reload()


def read_config(path) -> T5Config:
  """Reads the config alone; path and errors as in `restore`."""
  return native_reading.read_model(locate(path))['config']


def locate(path, *, optimizer: bool = False) -> epath.Path:
  """Returns the folder of the checkpoint that `path` means.

  Args:
    path: as in `restore`.
    optimizer: whether one without the optimizer's state is passed over, if it
      had one when it was written.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    CorruptCheckpointError: if it is damaged.
    ValueError: if what is there is of another format.
  """
  items = [
    native_items.PARAMS,
    *([native_items.OPTIMIZER] if optimizer else []),
  ]
  checkpoints = folders.checkpoints_at(path)

  def read(folder):
    folder = folder.absolute()
    _check_native(folder)
    if len(checkpoints) > 1:
      native_reading.check_whole(folder, items)
    return folder

  return folders.read_newest(checkpoints, read, native_reading.means_damage)


def _check_native(folder: epath.Path):
  """Raises where a folder does not look like a checkpoint of ours."""
  if (folder / native_items.MODEL).exists():
    return
  if format := folders.format_of(folder):
    raise folders.MismatchError(
      f'{folder} is a checkpoint in the format {format!r}, where one of this '
      "package's own is needed: convert it first (gqa-flax convert "
      f'{folder} DIR --num_kv_heads=NUMBER), and give DIR.'
    )
  found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
  items = {native_items.PARAMS, native_items.OPTIMIZER}
  is_empty = found <= {'_CHECKPOINT_METADATA'} and step_of(folder) is not None
  if found & items or is_empty:
    raise native_reading.corrupt(folder, 'it has no model/ folder')
  raise FileNotFoundError(
    f'There is no checkpoint at {folder}: it has no model/ folder; give a '
    f'{PREFIX}_<step> folder that gqa_flax wrote, or a folder that contains '
    'one.'
  )
