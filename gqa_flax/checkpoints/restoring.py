"""Checkpoints of any format onto devices, to train or to decode with them."""

import dataclasses

import jax
from etils import epath
from flax import traverse_util

from gqa_flax import partitioning
from gqa_flax.checkpoints import (
  folders,
  formats,
  hub,
  native,
  native_reading,
)
from gqa_flax.checkpoints.architecture import abstract_params, check_shapes
from gqa_flax.checkpoints.arrays import StoredCheckpoint, check_finite
from gqa_flax.config import T5Config


@dataclasses.dataclass(frozen=True)
class Found:
  """A checkpoint that is about to be read.

  Attributes:
    folder: Its own, or the one that was given where it holds several of another
      format; local or on gs:// or s3://.
    config: The architecture.
    step: Steps since the very first of pre-training; None where the files do
      not say.
    stored: The checkpoint, if it is not in our own format.
  """

  folder: epath.Path
  config: T5Config
  step: int | None
  stored: StoredCheckpoint | None = None

  def __str__(self) -> str:
    """The folder, or hf://ID@COMMIT of a model on the Hub."""
    return hub.name_of(self.folder) or str(self.folder)


def find(path, *, optimizer: bool = False) -> Found:
  """Returns which checkpoint a path means, of any format.

  Args:
    path: As in `formats.open_checkpoint`.
    optimizer: Whether the optimizer's state is wanted, too, which only our own
      format gives.

  Raises:
    FileNotFoundError: If there is no checkpoint there.
    ImportError: If reading it needs a library that is not installed.
    ValueError: If it is damaged, or is to give an optimizer's state and is of
      another format.
  """
  checkpoints = folders.checkpoints_at(path)
  if len(checkpoints) == 1:
    path = checkpoints[0]  # what was downloaded is not asked for again
  format = folders.recognize(path)
  if format in (None, 'native'):
    folder = native.locate(path, optimizer=optimizer)
    return Found(folder, native.read_config(folder), native.step_of(folder))
  if optimizer:
    raise ValueError(
      f'The format of {path} is {format!r}, from which only gqa-flax convert '
      'carries the state of an optimizer: set OPTIMIZER_STATE = reset, or '
      f'convert it first (gqa-flax convert {path} DIR --num_kv_heads=NUMBER '
      '--gin.OPTIMIZER_STATE=carry) and give DIR.'
    )
  stored = formats.open_checkpoint(path, optimizer=False)
  return Found(epath.Path(path), stored.config, stored.step, stored)


def restore(found: Found, shardings=None) -> native.Checkpoint:
  """Reads step, parameters and config; of other formats an array at a time.

  Args:
    found: From `find`.
    shardings: As in `native.restore`.

  Raises:
    CorruptCheckpointError: If a checkpoint of ours is damaged.
    ValueError: If the arrays of another format are, or do not fit its config.
  """
  stored, config = found.stored, found.config
  if stored is None:
    return native.restore(found.folder, shardings)
  target = abstract_params(config)
  if callable(shardings):
    shardings = shardings(config)
  if shardings is None:
    whole = partitioning.replicated(partitioning.data_parallel_mesh())
    shardings = jax.tree.map(lambda _: whole, target)
  placed = traverse_util.flatten_dict(shardings, sep='/')

  def read():
    shapes = {name: array.shape for name, array in stored.params.items()}
    check_shapes(shapes, config, stored.path)
    return {name: _read(stored, name, placed[name]) for name in placed}

  params = native_reading.agreed(found.folder, read, is_damage=lambda _: False)
  tree = traverse_util.unflatten_dict(params, sep='/')
  return native.Checkpoint(step=found.step, params=tree, config=config)


def _read(stored: StoredCheckpoint, name: str, sharding) -> jax.Array:
  array = stored.params[name].read()
  check_finite(array, name, stored.path)
  return jax.make_array_from_callback(
    array.shape, sharding, lambda index: array[index]
  )
