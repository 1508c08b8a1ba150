"""An iterator over global batches whose position outlives the processes."""

import json
import os
import re
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from etils import epath

from gqa_flax.data import reading
from gqa_flax.runtime import status

_START_OVER = (
  "set DATA_POSITION = 'reset' to start the batches from the beginning"
)

Batch = dict[str, np.ndarray]
# Maps the index of a stream and how many there are to its part of the batches.
MakeStream = Callable[[int, int], tf.data.Dataset]


class BatchIterator:
  """An iterator over one process's rows of batches, to be saved and restored.

  A batch of B rows is made of n streams of examples: stream i fills the rows
  from i * B / n up to (i + 1) * B / n. Only n decides what a batch holds, not
  how many processes read it: each reads the streams that its rows come from.

  Streams that end need not end together. The iterator ends with the first of
  its own to do so, and the rows that the others had for that batch are lost;
  processes may so end at different batches. Train on streams without end.

  The saved position holds everything drawn or buffered so far: the order of
  the shuffled examples, the random masks, the rows begun by packing. Any
  number of processes can restore it, where the batches are made by the same
  arguments.
  """

  def __init__(
    self,
    make_stream: MakeStream,
    arguments: Mapping[str, object],
    num_shards: int | None = None,
    *,
    vocab_size: int | None = None,
    position: str = 'restore',
  ):
    """Stands at the beginning; streams are opened on the first use.

    Args:
      make_stream: its elements are flat dicts of tensors [B / n, ...].
      arguments: what the batches are made from, for JSON, with batch_size, B,
        task and split; saved alongside and compared on restoring.
      num_shards: n. None is that of the restored position or, without one,
        the number of processes.
      vocab_size: how many token ids a model of the batches needs, if known.
      position: what to do with a saved position of other batches, or one that
        is not whole: 'restore' refuses it; 'reset' starts the batches from the
        beginning, with a warning.

    Raises:
      ValueError: B is not divisible by n, or there is no such `position`.
    """
    if position not in ('restore', 'reset'):
      raise ValueError(
        f"DATA_POSITION is {position!r}; give 'restore' or 'reset'."
      )
    self._make_stream = make_stream
    self._arguments = json.loads(json.dumps(arguments))
    self.batch_size = self._arguments['batch_size']
    self.vocab_size = vocab_size
    self._resets = position == 'reset'
    self._task_name = self._arguments['task']
    self._split = self._arguments['split']
    self._fixed = num_shards
    if num_shards is not None:
      self._check_divides(num_shards)
    self._process_rows = [np.arange(self.batch_size)]
    self._process = 0
    # Streams by their index, and which rows of each are this process's.
    self._streams: dict[int, tf.data.Iterator] = {}
    self._own: dict[int, np.ndarray] = {}
    self._number: int | None = None

  def assign(
    self,
    rows: Callable[[int, int], np.ndarray],
    num_processes: int,
    process: int,
  ) -> None:
    """Tells which rows which process feeds; call it before the first use.

    Args:
      rows: maps B and the index of a process to its rows, ascending. Several
        processes may feed the same ones. It must be the same everywhere: who
        saves a stream follows from it.
      num_processes: how many there are; one has all rows.
      process: the index of this one.
    """
    if num_processes > 1:
      self._process_rows = [
        np.asarray(rows(self.batch_size, i)) for i in range(num_processes)
      ]
      self._process = process

  def __iter__(self) -> 'BatchIterator':
    self._open_if_new()
    return self

  def __next__(self) -> Batch:
    self._open_if_new()
    parts = []
    for index, stream in self._streams.items():
      with reading.naming_errors(self._task_name, self._split):
        batch = next(stream)
      own = self._own[index]
      parts.append({name: x.numpy()[own] for name, x in batch.items()})
    return {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }

  def save(self, directory: str | os.PathLike) -> None:
    """Writes this process's share of the position into a directory.

    All processes save into the same one. Every stream is written by one of
    them: the first of those that feed the first row of the stream.

    Args:
      directory: made if need be. Let it be one that is renamed into place
        when all is written.
    """
    self._open_if_new()
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for index, stream in self._streams.items():
      if self._writer(index) != self._process:
        continue
      path = folder / _name(index, self._number)
      tf.train.Checkpoint(iterator=stream).write(str(path))
      path.with_suffix('.json').write_text(json.dumps(self._arguments))

  def restore(self, directory: str | os.PathLike) -> None:
    """Goes to the position saved in a directory, by however many processes.

    A position of another seed belongs to another order of the batches: these
    start from the beginning of theirs, with a warning.

    Raises:
      FileNotFoundError: no position was saved there, or a stream is missing.
      ValueError: the position is one among batches made by other arguments or
        of another number of streams.
    """
    folder = epath.Path(directory)
    # All streams were saved with the same arguments, and every process looks
    # at the same files, so that none continues alone.
    try:
      number = self._saved_number(folder)
      new_seed = self._check_arguments(folder / _name(0, number))
    except (FileNotFoundError, ValueError) as error:
      if not self._resets:
        raise
      self._number = None
      self._warn(f"{error} As DATA_POSITION is 'reset', they do start there.")
      return
    if new_seed:
      self._open(number)
      self._warn(
        f'RANDOM_SEED is not that of the position in {folder}: it gives the '
        'batches a new order, which starts from its beginning.'
      )
      return
    if number != self._number:
      self._open(number)
    for index, stream in self._streams.items():
      path = folder / _name(index, number)
      tf.train.Checkpoint(iterator=stream).read(str(path)).assert_consumed()

  def _warn(self, text: str) -> None:
    if self._process == 0:
      status.say(f'Warning: {text}')

  def _open_if_new(self) -> None:
    if self._number is None:
      self._open(self._fixed or len(self._process_rows))

  def _open(self, number: int) -> None:
    self._check_divides(number)
    size = self.batch_size // number
    rows = self._process_rows[self._process]
    self._own = {
      int(i): rows[rows // size == i] % size for i in np.unique(rows // size)
    }
    self._streams = {i: iter(self._make_stream(i, number)) for i in self._own}
    self._number = number

  def _writer(self, index: int) -> int:
    first_row = index * (self.batch_size // self._number)
    owners = [i for i, own in enumerate(self._process_rows) if first_row in own]
    return owners[0]

  def _check_divides(self, number: int) -> None:
    if number < 1 or self.batch_size % number:
      raise ValueError(
        f'BATCH_SIZE = {self.batch_size} cannot be divided over {number} '
        'streams of data: set it to a multiple of them, or DATA_SHARDS to one '
        'of its divisors.'
      )

  def _check_arguments(self, path: epath.Path) -> bool:
    """Returns whether a position has another seed; nothing else may differ."""
    saved = json.loads(path.with_suffix('.json').read_text())
    for name, value in self._arguments.items():
      if name != 'seed' and saved.get(name) != value:
        raise ValueError(
          f'The position saved at {path} is for {name} = '
          f'{saved.get(name)!r}, but now it is {value!r}: set it back, or '
          f'{_START_OVER}.'
        )
    return saved.get('seed') != self._arguments.get('seed')

  def _saved_number(self, directory: epath.Path) -> int:
    """Returns of how many streams a position is, having seen them all."""
    files = (
      {file.name for file in directory.glob('batches-*')}
      if directory.exists()
      else set()
    )
    matches = [re.match(r'batches-\d{5}-of-(\d{5})\.', file) for file in files]
    numbers = sorted({int(match[1]) for match in matches if match})
    if not numbers:
      raise FileNotFoundError(
        f'There is no saved position of the batches in {directory}: restore '
        f'another checkpoint, or {_START_OVER}.'
      )
    if len(numbers) > 1:
      raise ValueError(
        f'The positions saved in {directory} are of {numbers} streams: keep '
        f'the files of one of them, or {_START_OVER}.'
      )
    (number,) = numbers
    if self._fixed not in (None, number):
      raise ValueError(
        f'The position saved in {directory} is of {number} streams, but '
        f'DATA_SHARDS is {self._fixed}: set it to {number} or None, or '
        f'{_START_OVER}.'
      )
    for index in range(number):
      for end in ('.json', '.index'):
        if _name(index, number) + end not in files:
          raise FileNotFoundError(
            f'The position saved in {directory} lacks '
            f'{_name(index, number) + end}, of stream {index} of {number}: '
            f'restore another checkpoint, or {_START_OVER}.'
          )
    return number


def _name(index: int, number: int) -> str:
  return f'batches-{index:05}-of-{number:05}'
