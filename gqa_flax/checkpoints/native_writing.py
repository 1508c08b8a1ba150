"""Writing our own checkpoints; `native` tells what they are."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gqa_flax.checkpoints import checksums, native_items, native_reading
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.checkpoints.folders import PREFIX
from gqa_flax.checkpoints.native_manager import (
  BestScored,
  Manager,
  check_mode,
  remove_unfinished,
)
from gqa_flax.config import T5Config


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
  directory,
  *,
  keep: int | None = None,
  scores: Mapping[int, float] | None = None,
  mode='max',
  background=False,
) -> Manager:
  """Opens a folder of checkpoints, to write and to read.

  Args:
    directory: made if absent.
    keep: how many of the latest to keep; None keeps all.
    scores: by step, looked at whenever a checkpoint is written; the best by
      them is kept besides. They may come after their checkpoints.
    mode: 'max' if a larger score is better, else 'min'.
    background: whether `save` returns before all is on disk. Only for the one
      job that writes here, for what a killed one left is removed.
  """
  check_mode(mode)
  directory = epath.Path(directory).absolute()
  policies: list[Any] = [preservation_policy.LatestN(keep)]
  if scores is not None:
    policies.append(BestScored(scores, mode))
  if background and jax.process_index() == 0 and directory.is_dir():
    remove_unfinished(directory)
  return Manager(
    directory,
    ocp.CheckpointManagerOptions(
      step_prefix=PREFIX,
      enable_async_checkpointing=background,
      # A folder that is not to be made is to be heard of at once.
      async_options=ocp.options.AsyncOptions(
        create_directories_asynchronously=False
      ),
      preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
      # What is damaged must not keep the whole folder from being opened.
      lightweight_initialize=True,
    ),
  )


def save(
  manager: Manager, checkpoint: Checkpoint, *, opt_state=None, data=None
):
  """Writes one checkpoint; the arrays may be donated when it returns.

  Args:
    manager: from `checkpoint_manager`.
    checkpoint: step, parameters, config. A step that is not after the latest
      is not written.
    opt_state: any tree of arrays.
    data: an iterator with `save(directory)`; each process saves its own.

  Raises:
    CheckpointWriteError: if it, or the one before, could not be written.
  """
  wait(manager)
  latest = manager.latest_step()
  if latest is not None and latest >= checkpoint.step:
    return
  trees = {native_items.PARAMS: checkpoint.params}
  if opt_state is not None:
    trees[native_items.OPTIMIZER] = opt_state
  trees = {name: _own(tree) for name, tree in trees.items()}
  names = [*trees, native_items.MODEL]
  items: dict[str, Any] = {
    name: ocp.args.StandardSave(tree) for name, tree in trees.items()
  }
  if data is not None:
    names.append(native_items.DATA)
    items[native_items.DATA] = native_items.IteratorSave(data)
  sums = {name: checksums.compute(tree) for name, tree in trees.items()}
  model = native_reading.describe(
    checkpoint.config, checkpoint.step, sums, names
  )
  items[native_items.MODEL] = ocp.args.JsonSave(model)
  manager.save_whole(checkpoint.step, ocp.args.Composite(**items))


def wait(manager: Manager):
  """Waits till the last checkpoint is on disk.

  Raises:
    CheckpointWriteError: if it could not be written.
  """
  manager.wait_until_finished()


def check(manager: Manager):
  """Like `wait`, but only says what has happened already."""
  manager.check()


def _own(tree):
  """Returns arrays which nobody changes while they are being written.

  From other devices Orbax copies to the host before it returns. A CPU's memory
  it looks at as it is, and then JAX would not give it to the next training
  step, which needed as much again.
  """

  def owned(x):
    if isinstance(x, jax.Array):
      return x
    return np.array(x, dtype=jax.dtypes.canonicalize_dtype(np.result_type(x)))

  tree = jax.tree.map(owned, tree)
  if jax.default_backend() != 'cpu':
    return tree
  jax.block_until_ready(tree)
  return jax.block_until_ready(_copy(tree))


@jax.jit
def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


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
    remove_unfinished(manager.directory, step)

  clean_up()  # what a process left that was killed
  try:
    # Forced, for Orbax skips a step before the latest without a word.
    manager.save(step, args=ocp.args.Composite(**items), force=True)
  except BaseException:
    clean_up()
    raise
