"""From a seqio task to a dataset of tokenized examples."""

import contextlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import TypeAlias

import seqio
import tensorflow as tf

from gqa_flax.data import caching

TaskOrMixture: TypeAlias = seqio.Task | seqio.Mixture


class NoExamplesError(ValueError):
  """A split, or a part of it, has no example that can be used."""


# The nodes of TensorFlow's graph and the iterator in which an error occurs.
_INTERNALS = re.compile(
  r'Error in user-defined function .* with iterator: \S+: '
  r'|\{\{.*?\}\}|\[\[.*',
  re.DOTALL,
)

# Evaluation draws the same spans every time.
EVALUATION_SEED = 42


def dataset(
  task: TaskOrMixture,
  split: str,
  sequence_length: Mapping[str, int],
  *,
  num_examples: int | None = None,
  seed: int = EVALUATION_SEED,
  shuffle: bool = False,
  num_epochs: int | None = 1,
  use_cached: bool = False,
  shard_info: seqio.ShardInfo | None = None,
  may_be_empty: bool = True,
) -> tf.data.Dataset:
  """Returns tokenized examples, having seen that there are any.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    sequence_length: to how many tokens features are cut, EOS included.
    num_examples: how many to read at most; None for all.
    seed: for the order and for what the task itself draws.
    shuffle: whether to shuffle.
    num_epochs: how often to go through the data; None for no end.
    use_cached: whether to read the task's cache; see `caching`.
    shard_info: which part of the examples to read.
    may_be_empty: False if it is known that there are examples.

  Raises:
    ValueError: see `batches.train_batches`.
    MissingDataError: the data set or the cache is not on disk.
  """
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

  @_as_written(task)
  def read(shuffle, num_epochs):
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

  examples = read(shuffle, num_epochs)
  # Repeating for ever examples of which none is left would hang.
  once = examples
  if may_be_empty and not num_epochs:
    once = read(shuffle=False, num_epochs=1)
  in_order = not (shuffle and num_epochs)
  with naming_errors(task.name, split, () if in_order else None):
    is_empty = may_be_empty and not any(True for _ in once.take(1))
  if is_empty:
    part = (
      f'shard {shard_info.index} of {shard_info.num_shards} of '
      if shard_info
      else ''
    )
    raise NoExamplesError(
      f'Task {task.name!r} has no examples in {part}its split {split!r}: '
      'use another split, or fewer shards than it has examples.'
    )
  return examples.take(-1 if num_examples is None else num_examples)


@contextlib.contextmanager
def naming_errors(
  task_name: str, split: str, before: Sized | None = None
) -> Iterator[None]:
  """Says of which task and split an example cannot be read.

  TensorFlow itself names the operation that failed, and no data.

  Args:
    task_name: of the task.
    split: of the split.
    before: what was read so far, in the split's own order; None if unknown.

  Raises:
    ValueError: TensorFlow could not read or process an example.
  """
  try:
    yield
  except tf.errors.OpError as error:
    reason = _INTERNALS.sub('', error.message)
    reason = textwrap.shorten(reason, 300, placeholder=' ...')
    where = (
      f"find it with `gqa-flax data check {task_name} --all --split='{split}'`."
      if before is None
      else f'it comes after the first {len(before):,} that can be used.'
    )
    raise ValueError(
      f'An example of task {task_name!r} in its split {split!r} cannot be '
      f'read: {reason.removesuffix(".")}; {where}'
    ) from error


def _as_written(task: TaskOrMixture) -> Callable[[Callable], Callable]:
  """Lets TensorFlow take the functions of our own tasks as they are written.

  AutoGraph would rewrite each of them, in case it has Python's `if` or `for`
  over tensors: half the time in which a training starts. Our sources and
  preprocessors have none, nor have seqio's preprocessors; a user's may.
  """
  parts = task.tasks if isinstance(task, seqio.Mixture) else [task]
  if all(map(_is_ours, parts)):
    return tf.autograph.experimental.do_not_convert
  return lambda function: function


def _is_ours(task: seqio.Task) -> bool:
  # seqio's own sources call functions of their users.
  steps = [getattr(step, 'func', step) for step in task.preprocessors]
  return _package(type(task.source)) == 'gqa_flax' and all(
    _package(inspect.unwrap(step)) in ('gqa_flax', 'seqio') for step in steps
  )


def _package(function) -> str:
  return getattr(function, '__module__', '').partition('.')[0]


def options() -> tf.data.Options:
  """Returns the options of every dataset here: the same order every time."""
  chosen = tf.data.Options()
  chosen.deterministic = True
  return chosen


def _require_caches(task: TaskOrMixture) -> None:
  parts = task.tasks if isinstance(task, seqio.Mixture) else [task]
  cacheable = [part for part in parts if part.supports_caching]
  # Of a mixture seqio reads the others from their source.
  for part in cacheable or parts:
    caching.require(part)


def _keep_off_gpus() -> None:
  """Hides the GPUs from TensorFlow, which would take all their memory."""
  # It refuses where TensorFlow is in use already, as its user wants it then.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
