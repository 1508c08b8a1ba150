"""Our own checkpoints: Orbax, one folder a step, whole or absent.

  <directory>/checkpoint_<step>/
    params/     the parameters, float32
    model/      JSON: the T5Config and the step
    optimizer/  the optimizer's state   } only where training may
    data/       the data's position     } go on from here

Orbax writes each checkpoint to a temporary folder and renames it when it is
complete, so that one which can be seen can be read.
"""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gqa_flax import partitioning
from gqa_flax.checkpoints.architecture import abstract_params
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
    handler_registry=_handlers(),
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
    items['data'] = IteratorSave(data)
  manager.save(
    checkpoint.step, args=ocp.args.Composite(**items), metrics=metrics or {}
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
    optimizer=ocp.args.StandardRestore(opt_state), data=IteratorRestore(data)
  )
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


class IteratorSave(ocp.args.CheckpointArgs):
  """Saves an iterator's position with `iterator.save(directory)`."""

  def __init__(self, iterator):
    self.iterator = iterator


class IteratorRestore(IteratorSave):
  """Moves an iterator to a position with `iterator.restore(directory)`."""


class IteratorHandler(ocp.CheckpointHandler):
  """Lets Orbax write an iterator's position inside a checkpoint."""

  def save(self, directory: epath.Path, args: IteratorSave):
    args.iterator.save(directory)

  def restore(self, directory: epath.Path, args: IteratorRestore):
    args.iterator.restore(directory)
    return args.iterator


def _handlers():
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  for name in ('params', 'optimizer'):
    handler = ocp.StandardCheckpointHandler()
    registry.add(name, ocp.args.StandardSave, handler)
    registry.add(name, ocp.args.StandardRestore, handler)
  json_handler = ocp.JsonCheckpointHandler()
  registry.add('model', ocp.args.JsonSave, json_handler)
  registry.add('model', ocp.args.JsonRestore, json_handler)
  iterator_handler = IteratorHandler()
  registry.add('data', IteratorSave, iterator_handler)
  registry.add('data', IteratorRestore, iterator_handler)
  return registry


def _model_args():
  return ocp.args.Composite(model=ocp.args.JsonRestore())


def _step(path) -> int | None:
  prefix, _, step = path.name.rpartition('_')
  return int(step) if prefix == PREFIX and step.isdigit() else None
