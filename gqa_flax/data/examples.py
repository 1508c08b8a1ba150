"""Single examples of a task: to generate from, to score, and to look at."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from gqa_flax.data import reading, skipping
from gqa_flax.data.iterator import Batch
from gqa_flax.data.reading import TaskOrMixture
from gqa_flax.runtime import status


@dataclasses.dataclass(frozen=True)
class Survey:
  """What a split holds.

  Attributes:
    split: its name.
    num_examples: that the task uses.
    skipped: from the id of each other one to what it lacks.
    lengths: of 'inputs' and 'targets' the tokens of each example before they
      are cut, EOS included.
  """

  split: str
  num_examples: int
  skipped: Mapping[str, str]
  lengths: Mapping[str, Sequence[int]]


def read_examples(
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
    ValueError: as `batches.train_batches`.
  """
  dataset = reading.dataset(
    task,
    split,
    {'inputs': inputs_length},
    num_examples=num_examples,
    use_cached=use_cached,
  ).with_options(reading.options())
  feature = task.output_features['inputs']
  with (
    status.phase(f'reading {task.name} ({split})'),
    reading.naming_errors(task.name, split),
  ):
    return [
      {
        **example,
        'uncut_inputs_length': _uncut_length(
          example, 'inputs', feature, inputs_length
        ),
      }
      for example in dataset.as_numpy_iterator()
    ]


def read_example(
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
    ValueError: as `batches.train_batches`, or the split has no such example.
  """
  rest = reading.dataset(task, split, sequence_length).skip(index)
  with reading.naming_errors(task.name, split):
    rows = [*rest.take(1).as_numpy_iterator()]
  for found in rows:
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


def survey(
  task: TaskOrMixture, split: str, sequence_length: Mapping[str, int]
) -> Survey:
  """Reads a whole split, and returns what is in it.

  Args:
    task: from `tasks.get_task`.
    split: which split to read.
    sequence_length: {'inputs': S, 'targets': T}, EOS included.

  Raises:
    ValueError: as `batches.train_batches`, but for a split without examples.
  """
  lengths: dict[str, list[int]] = {name: [] for name in ('inputs', 'targets')}
  with (
    status.phase(f'reading {task.name} ({split})'),
    skipping.collected() as skipped,
    reading.naming_errors(task.name, split, lengths['inputs']),
    contextlib.suppress(reading.NoExamplesError),
  ):
    dataset = reading.dataset(task, split, sequence_length)
    for example in dataset.as_numpy_iterator():
      for name, found in lengths.items():
        found.append(
          _uncut_length(
            example, name, task.output_features[name], sequence_length[name]
          )
        )
  return Survey(split, len(lengths['inputs']), dict(skipped), lengths)


def generation_batches(
  examples: Sequence[Mapping[str, np.ndarray]],
  inputs_length: int,
  batch_size: int,
) -> Iterator[Batch]:
  """Yields the inputs of examples: {'encoder_input_tokens': [B, S] int32}.

  The last batch is filled up with rows of zeros.

  Args:
    examples: from `read_examples`, with at most `inputs_length` tokens.
    inputs_length: S.
    batch_size: B.
  """
  for start in range(0, len(examples), batch_size):
    tokens = np.zeros((batch_size, inputs_length), np.int32)
    for row, example in enumerate(examples[start : start + batch_size]):
      tokens[row, : len(example['inputs'])] = example['inputs']
    yield {'encoder_input_tokens': tokens}


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
