"""The pipeline of a task in stages, each upon the one before.

The first ones are put together here as seqio and `batches.train_batches` do it;
that they come to the same batches is what the tests compare. The last is
`train_batches` itself.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from gqa_flax.data import batches, reading

SEED = 0
# Of a host: the paper's batches are shared by many. The rows at the end of an
# epoch that fill no batch are made as well, so that it weighs little.
BATCH_SIZE = 32


def datasets(
  task: seqio.Task,
  lengths: Mapping[str, int],
  pack: bool,
  seed: int = SEED,
) -> dict[str, tf.data.Dataset]:
  """Returns an epoch in every stage but the last.

  'read' has records parsed, 'text' inputs and targets as strings, 'tokenize'
  their ids, 'features' what the model sees of them (cut, with EOS; spans
  corrupted), 'rows' those shuffled and packed or padded.

  Args:
    task: of `tasks.TASKS`, from TFDS.
    lengths: of inputs and targets, in tokens.
    pack: whether several examples share a row.
    seed: as for `train_batches`.
  """
  # As `train_batches` has it, whatever texts that leaves out, and when.
  task = batches._tokens_alone(task)
  steps = task.preprocessors
  cut = next(i for i, step in enumerate(steps) if _tokenizes(step))
  cached = next(
    i
    for i, step in enumerate(steps)
    if isinstance(step, seqio.CacheDatasetPlaceholder)
  )
  stages = {}
  dataset = task.source.get_dataset('train', shuffle=True, seed=seed)
  stages['read'] = dataset
  with seqio.map_seed_manager(seed):
    stages['text'] = _apply(task, steps[:cut], dataset, None)
    stages['tokenize'] = _apply(task, steps[cut:cached], stages['text'], None)
  # As seqio does, that a cache may stand between.
  with seqio.map_seed_manager(seed + 42 * cached):
    dataset = _apply(task, steps[cached + 1 :], stages['tokenize'], lengths)
  stages['features'] = seqio.utils.trim_dataset(
    dataset, lengths, task.output_features
  )
  dataset = stages['features'].shuffle(
    seqio.dataset_providers.SHUFFLE_BUFFER_SIZE, seed=seed
  )
  converter = seqio.EncDecFeatureConverter(pack=pack)
  stages['rows'] = converter(
    dataset.prefetch(tf.data.AUTOTUNE), task_feature_lengths=lengths
  )
  return {
    name: dataset.with_options(reading.options())
    for name, dataset in stages.items()
  }


def all_batches(
  task: seqio.Task,
  lengths: Mapping[str, int],
  pack: bool,
  *,
  batch_size: int = BATCH_SIZE,
  num_epochs: int | None = 1,
  use_cached: bool = False,
):
  """Returns the last stage: the iterator that training has."""
  return batches.train_batches(
    task,
    lengths,
    batch_size,
    SEED,
    pack=pack,
    num_epochs=num_epochs,
    use_cached=use_cached,
  )


def count(dataset: tf.data.Dataset) -> int:
  """Returns the number of elements."""
  return int(dataset.reduce(np.int64(0), lambda total, _: total + 1))


def _tokenizes(step) -> bool:
  tokenize = seqio.preprocessors.tokenize
  return tokenize in (step, getattr(step, 'func', None))


def _apply(task, preprocessors, dataset, lengths):
  for step in preprocessors:
    step = seqio.utils.add_kwargs_to_transform(
      step, sequence_length=lengths, output_features=task.output_features
    )
    dataset = step(dataset)
  return dataset
