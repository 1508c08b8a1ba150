"""Our own checkpoints: Orbax, one folder a step, whole or absent.

  <directory>/checkpoint_<step>/
    params/     the parameters, float32
    model/      JSON: the T5Config and the step
    optimizer/  the optimizer's state, only where training may go on from here
    data/       the data's position, only where it may go on without a seam

Orbax writes each checkpoint to a temporary folder and renames it when it is
complete, so that one which can be seen can be read.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gqa_flax import partitioning
from gqa_flax.checkpoints import native_items, orbax_items
from gqa_flax.checkpoints.architecture import abstract_params, check_shapes
from gqa_flax.checkpoints.arrays import LazyArray, StoredCheckpoint
from gqa_flax.config import T5Config

PREFIX = 'checkpoint'


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a checkpoint holds for everybody.

  Attributes:
    step: steps since the very first of pre-training.
    params: float32 tree of arrays.
    config: the architecture.
  """

  step: int
  params: Any
  config: T5Config


def checkpoint_manager(
  directory, *, keep: int | None = None, best: str | None = None, mode='max'
) -> ocp.CheckpointManager:
  """Opens a folder of checkpoints, to write and to read.

  Args:
    directory: made if absent.
    keep: how many of the latest to keep; None keeps all.
    best: name of a metric; the checkpoint best by it is kept besides.
    mode: 'max' if a larger metric is better, else 'min'.
  """
  policies: list[Any] = [preservation_policy.LatestN(keep)]
  score = None
  if best is not None:
    worst = float('-inf') if mode == 'max' else float('inf')

    def score(metrics):
      return metrics.get(best, worst)

    policies.append(
      preservation_policy.BestN(
        get_metric_fn=score,
        reverse=mode == 'min',
        n=1,
        keep_checkpoints_without_metrics=False,
      )
    )
  return ocp.CheckpointManager(
    epath.Path(directory).absolute(),
    options=ocp.CheckpointManagerOptions(
      step_prefix=PREFIX,
      best_fn=score,
      best_mode=mode,
      # Donated buffers must not change under a background write.
      enable_async_checkpointing=False,
      preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
    ),
    handler_registry=native_items.handlers(),
  )


def save(
  manager, checkpoint: Checkpoint, *, opt_state=None, data=None, metrics=None
):
  """Writes one checkpoint.

  Args:
    manager: from `checkpoint_manager`.
    checkpoint: step, parameters, config.
    opt_state: any tree of arrays.
    data: an iterator with `save(directory)`.
    metrics: dict of floats, by which the best checkpoint is chosen.
  """
  items = {
    'params': ocp.args.StandardSave(checkpoint.params),
    'model': ocp.args.JsonSave(
      {'config': checkpoint.config.to_dict(), 'step': checkpoint.step}
    ),
  }
  if opt_state is not None:
    items['optimizer'] = ocp.args.StandardSave(opt_state)
  if data is not None:
    items['data'] = native_items.IteratorSave(data)
  manager.save(
    checkpoint.step, args=ocp.args.Composite(**items), metrics=metrics or {}
  )


def save_lazy(
  manager,
  step: int,
  config: T5Config,
  params: Mapping[str, LazyArray],
  slots: Mapping[str, LazyArray] | None = None,
  on_slab: Callable[[str, int, np.ndarray], None] | None = None,
  *,
  count: int | None = None,
  on_written: Callable[[], None] = lambda: None,
):
  """Writes one checkpoint, of which never more than some slabs are in memory.

  Args:
    manager: from `checkpoint_manager`.
    step: steps since the very first of pre-training.
    config: the architecture.
    params: float32, by T5X name.
    slots: Adafactor's statistics, as in StoredCheckpoint; None saves none.
    on_slab: see `zarr.write_arrays`; the names are those of params and slots.
      What it raises leaves no checkpoint.
    count: Adafactor's count of steps; None is the step.
    on_written: called when all is written and the checkpoint is about to
      appear. What it raises leaves no checkpoint, too.
  """
  count = step if count is None else count
  items = {
    'model': ocp.args.JsonSave({'config': config.to_dict(), 'step': step}),
    **native_items.lazy_items(params, slots, count, on_slab, on_written),
  }

  def clean_up():
    for folder in manager.directory.glob(f'{PREFIX}_{step}.orbax-*-tmp*'):
      folder.rmtree()

  clean_up()  # what a process left that was killed
  try:
    # Forced, for Orbax skips a step before the latest without a word.
    manager.save(step, args=ocp.args.Composite(**items), metrics={}, force=True)
  except BaseException:
    clean_up()
    raise


def open_checkpoint(path) -> StoredCheckpoint:
  """Opens a checkpoint of ours; nothing but metadata is read.

  Args:
    path: as in `restore`.

  Returns:
    The checkpoint, with slots if it holds Adafactor's state.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    ValueError: if what is there is of another format, or is not whole.
  """
  directory, step = locate(path)
  folder = directory / f'{PREFIX}_{step}'
  with checkpoint_manager(directory) as manager:
    model = manager.restore(step, args=_model_args())['model']
  config = T5Config.from_dict(model['config'])
  params, slots, count, skipped = native_items.open_items(folder)
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


def restore(path) -> Checkpoint:
  """Reads step, parameters and config.

  Args:
    path: a `checkpoint_<step>` folder, or one that holds some, of which the
      latest is read.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    ValueError: if what is there is of another format.
  """
  directory, step = locate(path)
  with checkpoint_manager(directory) as manager:
    model = manager.restore(step, args=_model_args())['model']
    config = T5Config.from_dict(model['config'])
    # Onto the devices that are here, not those that wrote it.
    sharding = partitioning.replicated(partitioning.data_parallel_mesh())
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      abstract_params(config),
    )
    args = ocp.args.Composite(params=ocp.args.StandardRestore(target))
    params = manager.restore(step, args=args)['params']
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
  """
  args = ocp.args.Composite(
    optimizer=ocp.args.StandardRestore(opt_state),
    data=native_items.IteratorRestore(data),
  )
  return manager.restore(step, args=args)['optimizer']


def restore_optimizer(path, opt_state):
  """Reads the optimizer's state alone, to begin another run with.

  Args:
    path: as in `restore`.
    opt_state: a tree of the structure, shapes and shardings to read.

  Raises:
    FileNotFoundError: if there is no checkpoint there.
    ValueError: if it holds no optimizer state, or another optimizer's.
  """
  directory, step = locate(path)
  folder = directory / f'{PREFIX}_{step}'
  if not (folder / native_items.OPTIMIZER).exists():
    raise ValueError(
      f'{folder} holds no optimizer state to carry on with; set '
      "OPTIMIZER_STATE = 'reset', or convert the original checkpoint with "
      '--gin.OPTIMIZER_STATE=carry.'
    )
  # Beforehand: where shapes differ, Orbax fails with stray futures.
  wanted = ocp.tree.to_flat_dict(opt_state, sep='/')
  stores = orbax_items.open_item(folder / native_items.OPTIMIZER)
  if {k: x.shape for k, x in wanted.items()} != {
    k: tuple(x.shape) for k, x in stores.items()
  }:
    raise ValueError(
      f'The optimizer state in {folder} is not of the configured optimizer; '
      "set OPTIMIZER_STATE = 'reset', or configure the optimizer that wrote it."
    )
  args = ocp.args.Composite(optimizer=ocp.args.StandardRestore(opt_state))
  with checkpoint_manager(directory) as manager:
    return manager.restore(step, args=args)['optimizer']


def read_config(path) -> T5Config:
  """Reads the config alone; path and errors as in `restore`."""
  directory, step = locate(path)
  with checkpoint_manager(directory) as manager:
    model = manager.restore(step, args=_model_args())['model']
  return T5Config.from_dict(model['config'])


def locate(path) -> tuple[epath.Path, int]:
  """Returns the folder of checkpoints and the step that `path` means."""
  path = epath.Path(path).absolute()
  if _step(path) is not None and path.exists():
    folder, step = path.parent, _step(path)
  else:
    steps = [_step(p) for p in path.iterdir()] if path.is_dir() else []
    folder, step = path, max((s for s in steps if s is not None), default=None)
  if step is None:
    raise FileNotFoundError(
      f'There is no checkpoint at {path}; give a {PREFIX}_<step> folder or a '
      'MODEL_DIR that holds one.'
    )
  if not (folder / f'{PREFIX}_{step}' / 'model').exists():
    raise ValueError(
      f'{folder}/{PREFIX}_{step} is not a checkpoint that gqa_flax wrote: it '
      'has no model/ folder; give one that it did.'
    )
  return folder, step


def _model_args():
  return ocp.args.Composite(model=ocp.args.JsonRestore())


def _step(path) -> int | None:
  prefix, _, step = path.name.rpartition('_')
  return int(step) if prefix == PREFIX and step.isdigit() else None
