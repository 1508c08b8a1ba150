"""Batches of numpy arrays for the encoder-decoder, from a seqio task.

Every batch is a dict of int32 arrays of shape [B, T] (decoder) or [B, S]
(encoder):

  encoder_input_tokens   [B, S]
  decoder_input_tokens   [B, T]  the targets, one place to the right
  decoder_target_tokens  [B, T]
  decoder_loss_weights   [B, T]  1 on targets, 0 on padding

and, where several examples are packed into a row, encoder_segment_ids,
encoder_positions, decoder_segment_ids and decoder_positions, whose segments
count from 1; padding is 0 in all.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from gqa_flax.data import packing, reading, tasks, vocabulary
from gqa_flax.data.iterator import Batch, BatchIterator
from gqa_flax.data.reading import TaskOrMixture
from gqa_flax.runtime import status


def train_batches(
  task: TaskOrMixture,
  sequence_length: Mapping[str, int],
  batch_size: int,
  seed: int,
  *,
  split: str = 'train',
  pack: bool = True,
  shuffle: bool = True,
  num_epochs: int | None = None,
  num_shards: int | None = None,
  use_cached: bool = False,
  position: str = 'restore',
) -> BatchIterator:
  """Returns the batches to train on, the same for the same arguments.

  Every epoch has another order and, for span corruption, other spans. Where
  several processes share the batches, tell the iterator by its `assign`.

  Args:
    task: from `tasks.get_task`.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.
    batch_size: B, the rows in each batch, of all processes together.
    seed: for the order and for what the task itself draws.
    split: which split to read.
    pack: whether several examples share a row.
    shuffle: whether to shuffle.
    num_epochs: how often to go through the data; None for no end. The rows
      left at the end of a stream that do not fill its part of a batch are
      dropped; see `BatchIterator` for streams that end apart.
    num_shards: into how many streams the examples are divided; each fills an
      equal part of every batch. None is as many as the restored position has
      or, without one, as there are processes.
    use_cached: whether to read the task's cache; see `caching`.
    position: 'restore', or 'reset' to start from the beginning where the
      restored position is of other arguments or not whole; see `BatchIterator`.

  Raises:
    ValueError: there is no such split, it has no examples, a length is too
      short for the task, the cache is of another vocabulary, or B is not
      divisible by `num_shards`. On the first use: a stream has no examples.
    MissingDataError: the data set or the cache is not on disk.
  """
  read = functools.partial(
    reading.dataset,
    _tokens_alone(task),
    split,
    sequence_length,
    seed=seed,
    use_cached=use_cached,
  )

  def stream(index: int, number: int) -> tf.data.Dataset:
    examples = read(
      shuffle=shuffle,
      num_epochs=num_epochs,
      shard_info=seqio.ShardInfo(index, number) if number > 1 else None,
      may_be_empty=number > 1,
    )
    rows = _rows(examples, sequence_length, pack)
    part = rows.batch(batch_size // number, drop_remainder=True).prefetch(2)
    return part.with_options(reading.options())

  # Streams are opened later: what is wrong with all of them is said now.
  with status.phase(f'reading {task.name} ({split})'):
    _rows(read(), sequence_length, pack)
  return BatchIterator(
    stream,
    dict(
      task=task.name,
      split=split,
      sequence_length=dict(sequence_length),
      batch_size=batch_size,
      seed=seed,
      pack=pack,
      shuffle=shuffle,
      num_epochs=num_epochs,
      use_cached=use_cached,
      **tasks.choices(task),
    ),
    num_shards,
    vocab_size=vocabulary.size_of(task),
    position=position,
  )


def evaluation_batches(
  task: TaskOrMixture,
  split: str,
  sequence_length: Mapping[str, int],
  batch_size: int,
  *,
  pack: bool = False,
  num_examples: int | None = None,
  rows: Callable[[int], np.ndarray] | None = None,
  use_cached: bool = False,
) -> Iterator[Batch]:
  """Yields a split once, in order, for teacher-forced losses.

  What the task draws comes from a fixed seed. The last batch is filled up
  with rows of zeros, of loss weight 0, so that one compiled shape serves all.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.
    batch_size: B, the rows in each batch, of all processes together.
    pack: whether several examples share a row.
    num_examples: how many examples to read at most; None for all.
    rows: maps B to which rows of every batch to yield; None for all.
    use_cached: whether to read the task's cache.

  Raises:
    ValueError: as `train_batches`.
  """
  examples = reading.dataset(
    task,
    split,
    sequence_length,
    num_examples=num_examples,
    use_cached=use_cached,
  )
  batches = _rows(examples, sequence_length, pack).batch(batch_size)
  batches = batches.with_options(reading.options())
  own = slice(None) if rows is None else rows(batch_size)

  def read():
    with reading.naming_errors(task.name, split):
      for batch in batches.as_numpy_iterator():
        yield _fill(batch, batch_size, own)

  return read()


def _tokens_alone(task: TaskOrMixture) -> TaskOrMixture:
  """Returns the task without its texts.

  They would fill the shuffle buffer and the tokenizer's queue, and every saved
  position with them.
  """
  if isinstance(task, seqio.Mixture):
    return task  # drops them itself

  def drop_texts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(
      lambda example: {name: example[name] for name in task.output_features}
    )

  tokenize = seqio.preprocessors.tokenize
  steps = [
    functools.partial(tokenize, copy_pretokenized=False)
    if step is tokenize
    else step
    for step in task.preprocessors
  ]
  return task.replace(preprocessors=[*steps, drop_texts])


# No function here has Python's control flow over tensors; see `reading`.
@tf.autograph.experimental.do_not_convert
def _rows(
  examples: tf.data.Dataset, sequence_length: Mapping[str, int], pack: bool
) -> tf.data.Dataset:
  # Whatever else the task keeps, the converter would drop with a warning.
  examples = examples.map(lambda x: {k: x[k] for k in ('inputs', 'targets')})
  converter = packing.Converter(pack=pack)
  return converter(examples, task_feature_lengths=sequence_length)


def _fill(batch: Batch, size: int, own: slice | np.ndarray) -> Batch:
  """Fills a batch up with rows of zeros, and returns some of its rows."""
  missing = size - len(next(iter(batch.values())))
  return {
    name: np.pad(array, [(0, missing), (0, 0)])[own]
    for name, array in batch.items()
  }
