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
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from gqa_flax.data import reading, tasks
from gqa_flax.data.iterator import Batch, BatchIterator
from gqa_flax.data.reading import TaskOrMixture


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
  shard_index: int = 0,
  num_shards: int = 1,
  use_cached: bool = False,
) -> BatchIterator:
  """Returns the batches to train on, the same for the same arguments.

  Every epoch has another order and, for span corruption, other spans.

  Args:
    task: from `tasks.get_task`.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.
    batch_size: B, the rows in each batch of this shard.
    seed: for the order and for what the task itself draws.
    split: which split to read.
    pack: whether several examples share a row.
    shuffle: whether to shuffle.
    num_epochs: how often to go through the data; None for no end. The rows
      left at the end that do not fill a batch are dropped.
    shard_index: which part of the examples to read, below `num_shards`.
    num_shards: into how many parts the examples are divided: one a host.
    use_cached: whether to read the task's cache; see `caching`.

  Raises:
    ValueError: there is no such split, it has no examples, a length is too
      short for the task, or the cache is of another vocabulary.
    MissingDataError: the data set or the cache is not on disk.
  """
  examples = reading.dataset(
    _tokens_alone(task),
    split,
    sequence_length,
    seed=seed,
    shuffle=shuffle,
    num_epochs=num_epochs,
    use_cached=use_cached,
    shard_info=(
      seqio.ShardInfo(shard_index, num_shards) if num_shards > 1 else None
    ),
  )
  rows = _rows(examples, sequence_length, pack)
  batches = rows.batch(batch_size, drop_remainder=True).prefetch(2)
  return BatchIterator(
    batches.with_options(reading.options()),
    dict(
      task=task.name,
      split=split,
      sequence_length=dict(sequence_length),
      batch_size=batch_size,
      seed=seed,
      pack=pack,
      shuffle=shuffle,
      num_epochs=num_epochs,
      shard_index=shard_index,
      num_shards=num_shards,
      use_cached=use_cached,
      **tasks.choices(task),
    ),
  )


def evaluation_batches(
  task: TaskOrMixture,
  split: str,
  sequence_length: Mapping[str, int],
  batch_size: int,
  *,
  pack: bool = False,
  num_examples: int | None = None,
  shard_index: int = 0,
  num_shards: int = 1,
  use_cached: bool = False,
) -> Iterator[Batch]:
  """Yields a split once, in order, for teacher-forced losses.

  What the task draws comes from a fixed seed. The last batch is filled up
  with rows of zeros, of loss weight 0, so that one compiled shape serves all.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.
    batch_size: B, the rows in each batch of this shard.
    pack: whether several examples share a row.
    num_examples: how many examples to read at most; None for all.
    shard_index: which rows of every batch to yield, below `num_shards`.
    num_shards: by how many hosts the rows are shared. All yield the same
      number of batches, and together the same rows, whatever the number.
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
  rows = _rows(examples, sequence_length, pack)
  all_size = batch_size * num_shards
  own = slice(shard_index * batch_size, (shard_index + 1) * batch_size)
  batches = rows.batch(all_size).with_options(reading.options())
  return (_fill(batch, all_size, own) for batch in batches.as_numpy_iterator())


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


def _rows(
  examples: tf.data.Dataset, sequence_length: Mapping[str, int], pack: bool
) -> tf.data.Dataset:
  # Whatever else the task keeps, the converter would drop with a warning.
  examples = examples.map(lambda x: {k: x[k] for k in ('inputs', 'targets')})
  converter = seqio.EncDecFeatureConverter(pack=pack)
  return converter(examples, task_feature_lengths=sequence_length)


def _fill(batch: Batch, size: int, own: slice) -> Batch:
  """Fills a batch up with rows of zeros, and returns this shard's rows."""
  missing = size - len(next(iter(batch.values())))
  return {
    name: np.pad(array, [(0, missing), (0, 0)])[own]
    for name, array in batch.items()
  }
