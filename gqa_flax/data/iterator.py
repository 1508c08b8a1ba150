"""An iterator over batches whose position outlives the process."""

import json
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from etils import epath

Batch = dict[str, np.ndarray]


class BatchIterator:
  """An iterator over batches whose position can be saved and restored.

  The saved position holds everything drawn or buffered so far: the order of
  the shuffled examples, the random masks, the rows begun by packing. It can
  be restored only where the batches are made by the same arguments.
  """

  def __init__(self, dataset: tf.data.Dataset, arguments: Mapping[str, object]):
    """Starts at the beginning.

    Args:
      dataset: elements are flat dicts of tensors.
      arguments: what the dataset was made from, for JSON; saved alongside and
        compared on restoring.
    """
    self._iterator = iter(dataset)
    self._checkpoint = tf.train.Checkpoint(iterator=self._iterator)
    self._arguments = json.loads(json.dumps(arguments))
    self.batch_size = self._arguments['batch_size']
    self._rows: slice | np.ndarray = slice(None)
    self._writes = True

  def assign(
    self,
    rows: Callable[[int], np.ndarray],
    num_processes: int,
    writes: bool,
  ) -> None:
    """Tells which rows this process feeds; call it before the first use.

    Every process reads all examples, so that a batch is the same whatever the
    number of processes, and a saved position serves any number.

    Args:
      rows: maps the number of rows of a batch to those of this process.
      num_processes: how many there are; one needs no rows left out.
      writes: whether this process saves the position.
    """
    if num_processes > 1:
      self._rows = rows(self.batch_size)
    self._writes = writes

  def __iter__(self) -> 'BatchIterator':
    return self

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    return {name: array.numpy()[self._rows] for name, array in batch.items()}

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the position into a directory, beside those of other shards.

    Args:
      directory: made if need be. Let it be one that is renamed into place
        when all is written.
    """
    if not self._writes:
      return
    path = self._path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    self._checkpoint.write(str(path))
    path.with_suffix('.json').write_text(json.dumps(self._arguments))

  def restore(self, directory: str | os.PathLike) -> None:
    """Goes to the position saved in a directory.

    Raises:
      FileNotFoundError: no position of this shard was saved there.
      ValueError: the position is one among batches made by other arguments.
    """
    path = self._path(directory)
    if not path.with_suffix('.json').exists():
      raise FileNotFoundError(
        f'There is no saved position of the batches at {path}: start from '
        'the beginning, or restore with as many hosts as saved it.'
      )
    saved = json.loads(path.with_suffix('.json').read_text())
    for name, value in self._arguments.items():
      if saved.get(name) != value:
        raise ValueError(
          f'The position saved at {path} is for {name} = '
          f'{saved.get(name)!r}, but now it is {value!r}: set it back, or '
          'start the batches from the beginning.'
        )
    self._checkpoint.read(str(path)).assert_consumed()

  def _path(self, directory: str | os.PathLike) -> epath.Path:
    index, count = self._arguments['shard_index'], self._arguments['num_shards']
    return epath.Path(directory) / f'batches-{index:05}-of-{count:05}'
