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

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import seqio
import tensorflow as tf

from gqa_flax.data import caching
from gqa_flax.data.iterator import Batch, BatchIterator

TaskOrMixture: TypeAlias = seqio.Task | seqio.Mixture

# Evaluation draws the same spans every time.
_EVALUATION_SEED = 42


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
  examples = _dataset(
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
    batches.with_options(_options()),
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
  examples = _dataset(
    task,
    split,
    sequence_length,
    num_examples=num_examples,
    use_cached=use_cached,
  )
  rows = _rows(examples, sequence_length, pack)
  all_size = batch_size * num_shards
  own = slice(shard_index * batch_size, (shard_index + 1) * batch_size)
  batches = rows.batch(all_size).with_options(_options())
  return (_fill(batch, all_size, own) for batch in batches.as_numpy_iterator())


def examples(
  task: TaskOrMixture,
  split: str,
  inputs_length: int,
  num_examples: int | None = None,
  use_cached: bool = False,
) -> list[dict[str, Any]]:
  """Returns the examples of a split, in order, to generate from and to score.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    inputs_length: to how many tokens the inputs are cut, EOS included. The
      targets stay whole.
    num_examples: how many examples to read at most; None for all.
    use_cached: whether to read the task's cache.

  Returns:
    For each example all that the task keeps: 'inputs' ([<= inputs_length]
    int32), 'targets', and the texts as bytes, 'inputs_pretokenized' and
    'targets_pretokenized', where the task tokenizes texts; and
    'uncut_inputs_length', how many tokens the inputs had before they were cut,
    EOS included.

  Raises:
    ValueError: as `train_batches`.
  """
  dataset = _dataset(
    task,
    split,
    {'inputs': inputs_length},
    num_examples=num_examples,
    use_cached=use_cached,
  ).with_options(_options())
  feature = task.output_features['inputs']
  return [
    {
      **example,
      'uncut_inputs_length': _uncut_length(
        example, 'inputs', feature, inputs_length
      ),
    }
    for example in dataset.as_numpy_iterator()
  ]


def example(
  task: TaskOrMixture,
  split: str,
  sequence_length: Mapping[str, int],
  index: int = 0,
) -> dict[str, Any]:
  """Returns one example of a split, to look at.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.
    index: which one, in the split's own order.

  Returns:
    What the task keeps, 'inputs' and 'targets' cut; and 'uncut_inputs_length'
    and 'uncut_targets_length', how many tokens there were before.

  Raises:
    ValueError: as `train_batches`, or the split has no example of this index.
  """
  rest = _dataset(task, split, sequence_length).skip(index)
  for found in rest.take(1).as_numpy_iterator():
    uncut = {
      f'uncut_{name}_length': _uncut_length(
        found, name, task.output_features[name], sequence_length[name]
      )
      for name in ('inputs', 'targets')
    }
    return {**found, **uncut}
  raise ValueError(
    f'The split {split!r} of task {task.name!r} has no example {index}; they '
    'are counted from 0.'
  )


def generation_batches(
  examples: Sequence[Mapping[str, np.ndarray]],
  inputs_length: int,
  batch_size: int,
) -> Iterator[Batch]:
  """Yields the inputs of examples: {'encoder_input_tokens': [B, S] int32}.

  The last batch is filled up with rows of zeros.

  Args:
    examples: from `examples`, with inputs of at most `inputs_length` tokens.
    inputs_length: S.
    batch_size: B.
  """
  for start in range(0, len(examples), batch_size):
    tokens = np.zeros((batch_size, inputs_length), np.int32)
    for row, example in enumerate(examples[start : start + batch_size]):
      tokens[row, : len(example['inputs'])] = example['inputs']
    yield {'encoder_input_tokens': tokens}


def _dataset(
  task: TaskOrMixture,
  split: str,
  sequence_length: Mapping[str, int],
  *,
  num_examples: int | None = None,
  seed: int = _EVALUATION_SEED,
  shuffle: bool = False,
  num_epochs: int | None = 1,
  use_cached: bool = False,
  shard_info: seqio.ShardInfo | None = None,
) -> tf.data.Dataset:
  """Returns tokenized examples, having seen that there are any."""
  _keep_off_gpus()
  names = [part.partition('[')[0] for part in split.split('+')]
  if unknown := set(names) - set(task.splits):
    raise ValueError(
      f'Task {task.name!r} has no split {sorted(unknown)[0]!r}: it has '
      f'{", ".join(task.splits)}.'
    )
  if missing := {'inputs', 'targets'} - set(task.output_features):
    raise ValueError(
      f'Task {task.name!r} has no feature {sorted(missing)[0]!r}: an '
      'encoder-decoder needs inputs and targets.'
    )

  if use_cached:
    _require_caches(task)

  def dataset(shuffle, num_epochs):
    # An in-memory cache would make the saved position of an iterator as large
    # as the data.
    return task.get_dataset(
      sequence_length,
      split=split,
      seed=seed,
      shuffle=shuffle,
      num_epochs=num_epochs,
      try_in_mem_cache=False,
      use_cached=use_cached,
      shard_info=shard_info,
    )

  examples = dataset(shuffle, num_epochs)
  # Repeating for ever examples of which none is left would hang.
  once = examples if num_epochs else dataset(shuffle=False, num_epochs=1)
  if not any(True for _ in once.take(1)):
    part = (
      f'shard {shard_info.index} of {shard_info.num_shards} of '
      if shard_info
      else ''
    )
    raise ValueError(
      f'Task {task.name!r} has no examples in {part}its split {split!r}: '
      'use another split, or fewer shards than it has examples.'
    )
  return examples.take(-1 if num_examples is None else num_examples)


def _require_caches(task: TaskOrMixture) -> None:
  for part in task.tasks if isinstance(task, seqio.Mixture) else [task]:
    if part.supports_caching:  # seqio reads the others from their source
      caching.require(part)


def _uncut_length(
  example: Mapping[str, Any],
  name: str,
  feature: seqio.Feature,
  length: int,
) -> int:
  """Returns the number of tokens that a feature had before it was cut."""
  tokens, text = example[name], example.get(f'{name}_pretokenized')
  if len(tokens) < length or text is None:
    return len(tokens)
  # Tokenizing again, rather than reading without a limit: some preprocessors
  # do more with the limit than to cut.
  whole = feature.vocabulary.encode(text.decode())
  kept = len(tokens) - feature.add_eos
  if whole[:kept] != tokens[:kept].tolist():
    return len(tokens)  # these are not the text's tokens: nothing is known
  return len(whole) + feature.add_eos


def _tokens_alone(task: TaskOrMixture) -> TaskOrMixture:
  """Returns the task without its texts.

  They would fill the shuffle buffer, and every saved position with it.
  """
  if isinstance(task, seqio.Mixture):
    return task  # drops them itself

  def drop_texts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(
      lambda example: {name: example[name] for name in task.output_features}
    )

  return task.replace(preprocessors=[*task.preprocessors, drop_texts])


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


def _options() -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  return options


def _keep_off_gpus() -> None:
  """Hides the GPUs from TensorFlow, which would take all their memory."""
  # It refuses where TensorFlow is in use already, as its user wants it then.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
