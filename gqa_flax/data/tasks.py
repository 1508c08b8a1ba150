"""The seqio tasks, by name.

A row of `TASKS` says where the text of a task comes from, how it becomes
tokens, and which metric scores it; `get_task` makes a seqio task of it with
the vocabulary at hand. Tasks and mixtures that users register with seqio
themselves are found as well.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from gqa_flax.data import embedded
from gqa_flax.data.span_corruption import span_corruption

Preprocessor = Callable[..., tf.data.Dataset]


class UnknownTaskError(ValueError):
  """There is no task of this name."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """What makes a task, but for the vocabulary.

  Attributes:
    source: makes the seqio source of the raw examples; it is called late, for
      a source may need data that is not on disk.
    preprocessors: seqio preprocessors from raw examples to 'inputs' and
      'targets' of token ids.
    metric: 'rouge', 'bleu', 'trivia_qa', or None where the loss is all.
  """

  source: Callable[[], seqio.DataSource]
  preprocessors: Sequence[Preprocessor]
  metric: str | None


class TextSource(seqio.DataSource):
  """A seqio source of texts held in memory.

  seqio's FunctionDataSource would do, but it can neither shard nor shuffle at
  the source, and says so in a warning on every run.
  """

  def __init__(
    self,
    rows: Callable[[str], Mapping[str, Sequence[str]]],
    splits: Sequence[str],
  ):
    """Makes the source.

    Args:
      rows: from the name of a split to its columns, all of one length.
      splits: the names of the splits.
    """
    super().__init__(splits=splits)
    self._rows = rows

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(
    self, split='train', shuffle=True, seed=None, shard_info=None, **unused
  ) -> tf.data.Dataset:
    """Returns a dataset of scalar strings; see seqio.DataSource."""
    columns = {
      name: tf.constant(column, tf.string)
      for name, column in self._rows(split).items()
    }
    num_rows = len(next(iter(columns.values())))
    # Row numbers are shuffled, not rows: the whole split can be, and a saved
    # iterator stays small.
    dataset = tf.data.Dataset.range(num_rows)
    if shard_info is not None:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle and num_rows:
      dataset = dataset.shuffle(num_rows, seed=seed)
    return dataset.map(
      lambda row: {name: column[row] for name, column in columns.items()}
    )


def _extracts(split: str) -> dict[str, list[str]]:
  return {'targets': [a.extract for a in embedded.articles(split)]}


def _summaries(split: str) -> dict[str, list[str]]:
  described = [a for a in embedded.articles(split) if a.description]
  return {
    'inputs': [f'summarize: {a.extract}' for a in described],
    'targets': [a.description for a in described],
  }


TASKS: dict[str, TaskSpec] = {
  'wikipedia_span_corruption': TaskSpec(
    source=lambda: TextSource(_extracts, embedded.SPLITS),
    preprocessors=(
      seqio.preprocessors.tokenize,
      span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ),
    metric=None,
  ),
  'wikipedia_summarization': TaskSpec(
    source=lambda: TextSource(_summaries, embedded.SPLITS),
    preprocessors=(
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ),
    metric='rouge',
  ),
}


def get_task(
  name: str, vocabulary: seqio.Vocabulary | None = None
) -> seqio.Task | seqio.Mixture:
  """Returns a task, or a mixture of tasks, by name.

  A task of `TASKS` is made with the vocabulary and registered with seqio, in
  place of what an earlier call registered; those returned before keep theirs.

  Args:
    name: a name in `TASKS` or in seqio's registries.
    vocabulary: of inputs and targets. Tasks registered with seqio bring their
      own; it is compared if given.

  Raises:
    UnknownTaskError: there is no such task.
    ValueError: a task of `TASKS` got no vocabulary, or a registered one has
      another.
  """
  if name in TASKS:
    if vocabulary is None:
      raise ValueError(f'Task {name!r} needs a vocabulary: none was given.')
    return _register(name, TASKS[name], vocabulary)
  registries = (seqio.MixtureRegistry, seqio.TaskRegistry)
  for registry in registries:
    if name in registry.names():
      return _check_vocabulary(registry.get(name), vocabulary)
  known = {*TASKS, *(n for registry in registries for n in registry.names())}
  nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = (
    f'the nearest are {", ".join(nearest)}'
    if nearest
    else f'there are {", ".join(sorted(known))}'
  )
  raise UnknownTaskError(
    f'There is no task {name!r}: {hint}; choose one of them, or import the '
    'module that registers yours with seqio.'
  )


def metric_name(name: str) -> str | None:
  """Returns the metric of a task: 'rouge', 'bleu', 'trivia_qa' or None.

  Tasks that are not in `TASKS` have None.
  """
  return TASKS[name].metric if name in TASKS else None


def _register(
  name: str, spec: TaskSpec, vocabulary: seqio.Vocabulary
) -> seqio.Task:
  seqio.TaskRegistry.remove(name)
  return seqio.TaskRegistry.add(
    name,
    source=spec.source(),
    preprocessors=list(spec.preprocessors),
    output_features={
      key: seqio.Feature(vocabulary, add_eos=True)
      for key in ('inputs', 'targets')
    },
  )


def _check_vocabulary(
  task: seqio.Task | seqio.Mixture, vocabulary: seqio.Vocabulary | None
) -> seqio.Task | seqio.Mixture:
  for key, feature in task.output_features.items():
    if vocabulary is not None and feature.vocabulary != vocabulary:
      raise ValueError(
        f'The {key} of task {task.name!r} have a vocabulary other than the '
        'one given: give the vocabulary that the task was registered with.'
      )
  return task
