"""What a process of its own measures, on the cores that it was given.

Every function here is called in such a process, with its data folder in force:
TensorFlow sees how many cores there are when it starts, and never again.
"""

import collections
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from experiments.input_pipeline import corpus, stages, summary
from gqa_flax.data import caching, embedded, tasks, vocabulary

EARLY_STEP = 10
# Rows of a batch where a position is saved: the paper's 128, on 16 hosts.
POSITION_BATCH_SIZE = 8


@functools.cache
def task(name: str, vocabulary_file: str | None) -> seqio.Task:
  """Returns the task by name, with the vocabulary of a file or the embedded."""
  chosen = (
    vocabulary.sentencepiece(vocabulary_file)
    if vocabulary_file
    else embedded.vocabulary()
  )
  return tasks.get_task(name, chosen)


@functools.cache
def _datasets(name: str, vocabulary_file: str | None):
  shape = corpus.SHAPES[name]
  found = stages.datasets(
    task(name, vocabulary_file), shape.lengths, shape.pack
  )
  sizes = {stage: stages.count(dataset) for stage, dataset in found.items()}
  return found, sizes


@functools.cache
def _texts(name: str, vocabulary_file: str | None) -> list[list[str]]:
  dataset = _datasets(name, vocabulary_file)[0]['text']
  examples = dataset.as_numpy_iterator()
  return [
    [example[key].decode() for key in ('inputs', 'targets') if key in example]
    for example in examples
  ]


def describe(name: str, vocabulary_file: str | None) -> dict[str, Any]:
  """Writes the task's data set and cache; returns what there is to measure."""
  shape = corpus.SHAPES[name]
  data_dir = pathlib.Path(os.environ['TFDS_DATA_DIR'])
  corpus.write(data_dir, name, shape.num_measured)
  this = task(name, vocabulary_file)
  cache = pathlib.Path(caching.write(this, min_shards=corpus.NUM_SHARDS))
  datasets, sizes = _datasets(name, vocabulary_file)
  texts = _texts(name, vocabulary_file)
  tokenized = list(datasets['tokenize'].as_numpy_iterator())
  keys = [key for key in ('inputs', 'targets') if key in tokenized[0]]
  rows = datasets['rows'].as_numpy_iterator()
  records = this.source.tfds_dataset.builder.info.splits['train'].num_bytes
  cached = sum(f.stat().st_size for f in cache.glob('*train*tfrecord*'))
  return {
    'examples': sizes['read'],
    'rows': sizes['rows'],
    'text_bytes': sum(len(x.encode()) for pair in texts for x in pair),
    'text_words': sum(len(x.split()) for pair in texts for x in pair),
    'text_tokens': sum(len(x[key]) for x in tokenized for key in keys),
    'fed_tokens': sum(
      int(np.count_nonzero(row[f'{part}_tokens']))
      for row in rows
      for part in ('encoder_input', 'decoder_target')
    ),
    'record_bytes': int(records),
    'cached_bytes': cached,
  }


def rates(name: str, vocabulary_file: str | None) -> dict[str, Any]:
  """Returns seconds of an epoch in every stage, on the clock and on the cores.

  The epoch is gone through to its end, so that nothing is left in a buffer
  that was paid for and not counted, or the other way round. Making the
  iterators is not counted. 'cached' is `train_batches` on the task's cache.

  Raises:
    RuntimeError: more cores were used than given.
  """
  this, shape = task(name, vocabulary_file), corpus.SHAPES[name]
  found, sizes = _datasets(name, vocabulary_file)
  taken = {
    stage: _time(lambda s=stage: _last(found[s], sizes[s]))
    for stage in summary.STAGES[:-1]
  }
  begin = time.perf_counter()
  # Opened as well, as the others are by `_time`.
  iterator = iter(stages.all_batches(this, shape.lengths, shape.pack))
  start = time.perf_counter() - begin
  taken['batches'] = _time(lambda: iterator)
  cached = functools.partial(
    stages.all_batches, this, shape.lengths, shape.pack, use_cached=True
  )
  taken['cached'] = _time(cached)
  cores = len(os.sched_getaffinity(0))
  for stage, (seconds, cpu_seconds) in taken.items():
    if cpu_seconds > 1.05 * cores * seconds:
      raise RuntimeError(
        f'{name}, {stage}: {cpu_seconds:.2f} s on {cores} cores in '
        f'{seconds:.2f} s; the process was not kept to its cores.'
      )
  return {**_both(taken), 'start_seconds': round(start, 3)}


def tokenizer(name: str, vocabulary_file: str | None) -> dict[str, Any]:
  """Returns seconds that the texts of an epoch take to encode, all at once.

  'sentencepiece' is the library alone, on one thread; 'operation' the
  vocabulary's own for TensorFlow.
  """
  texts = [x for pair in _texts(name, vocabulary_file) for x in pair]
  feature = task(name, vocabulary_file).output_features['targets']
  bare = sentencepiece.SentencePieceProcessor(
    model_file=feature.vocabulary.sentencepiece_model_file
  )
  column = tf.constant(texts)
  feature.vocabulary.encode_tf(column[:1])
  timed = {
    'sentencepiece': _clock(lambda: bare.encode(texts, num_threads=1)),
    'operation': _clock(lambda: feature.vocabulary.encode_tf(column)),
  }
  return _both(timed)


def position(name: str, vocabulary_file: str | None) -> dict[str, Any]:
  """Saves the position early and late, and goes on from both.

  Returns:
    For either step, the bytes on disk, the seconds to save, to restore, and
    from there to the next batch, and to come to the step from the beginning.

  Raises:
    RuntimeError: the first batch after restoring is not the very next one.
  """
  shape = corpus.SHAPES[name]
  corpus.write(os.environ['TFDS_DATA_DIR'], name, shape.num_long)
  make = functools.partial(
    stages.all_batches,
    task(name, vocabulary_file),
    shape.lengths,
    shape.pack,
    batch_size=POSITION_BATCH_SIZE,
    num_epochs=None,
  )
  begin = time.perf_counter()
  iterator, saving, found, expected = make(), 0.0, {}, {}
  with tempfile.TemporaryDirectory() as folder:
    for step in range(shape.late_step + 1):
      if step not in (EARLY_STEP, shape.late_step):
        next(iterator)
        continue
      replay = time.perf_counter() - begin - saving
      here = pathlib.Path(folder) / str(step)
      save, _ = _clock(functools.partial(iterator.save, here))
      saving += save
      expected[step] = next(iterator)
      found[step] = {
        'bytes': sum(file.stat().st_size for file in here.iterdir()),
        'save_seconds': round(save, 4),
        'replay_seconds': round(replay, 4),
      }
    del iterator
    for step, batch in expected.items():
      here = pathlib.Path(folder) / str(step)
      found[step] |= _restored(make, here, batch, f'{name}, step {step}')
  return {'steps': {str(step): values for step, values in found.items()}}


def _restored(make: Callable, folder, expected, where: str) -> dict[str, float]:
  iterator = iter(make())  # opened: restoring alone is timed
  restore, _ = _clock(lambda: iterator.restore(folder))
  begin = time.perf_counter()
  batch = next(iterator)
  first = time.perf_counter() - begin
  same = batch.keys() == expected.keys() and all(
    np.array_equal(batch[key], expected[key]) for key in expected
  )
  if not same:
    raise RuntimeError(f'{where}: the batch after restoring is not the next.')
  return {
    'restore_seconds': round(restore, 4),
    'first_batch_seconds': round(first, 4),
  }


def _last(dataset: tf.data.Dataset, size: int) -> Iterable:
  """Returns what yields the last element, made without Python in between."""
  return iter(dataset.skip(size - 1))


def _time(make: Callable[[], Iterable]) -> tuple[float, float]:
  """Returns seconds to go through what is made; see `_clock`."""
  iterator = iter(make())
  taken = _clock(functools.partial(collections.deque, iterator, maxlen=0))
  # Ending it may wait for a thread of TensorFlow's that sleeps: not counted.
  del iterator
  return taken


def _clock(call: Callable[[], Any]) -> tuple[float, float]:
  """Returns seconds of a call, on the clock and of the cores that it used."""
  begin, cpu_begin = time.perf_counter(), time.process_time()
  call()
  return time.perf_counter() - begin, time.process_time() - cpu_begin


def _both(taken: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
  keys = ('seconds', 'cpu_seconds')
  return {
    key: {what: round(both[i], 5) for what, both in taken.items()}
    for i, key in enumerate(keys)
  }
