"""The seqio tasks, by name.

A row of `TASKS` says where the text of a task comes from, how it becomes
tokens, and which metric scores it; `get_task` makes a seqio task of it with
the vocabulary at hand. Tasks and mixtures that users register with seqio
themselves are found as well.
"""

import difflib
import hashlib
from typing import Any

import seqio

from gqa_flax.data import embedded, paper_tasks, verses
from gqa_flax.data import vocabulary as vocabulary_lib
from gqa_flax.data.sources import TaskSpec, TextSource
from gqa_flax.data.span_corruption import span_corruption


class UnknownTaskError(ValueError):
  """There is no task of this name."""


def _extracts(split: str) -> dict[str, list[str]]:
  return {'targets': [a.extract for a in embedded.articles(split)]}


def _prose(split: str) -> dict[str, list[str]]:
  texts = [*_extracts(split)['targets'], *verses.chapters(split)]
  # Mixed, so that the first examples of a split are of all kinds.
  return {'targets': sorted(texts, key=_hash)}


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _translations(split: str) -> dict[str, list[str]]:
  pairs = verses.verses(split)
  return {
    'inputs': [f'translate English to German: {v.english}' for v in pairs],
    'targets': [v.german for v in pairs],
  }


def _summaries(split: str) -> dict[str, list[str]]:
  described = [a for a in embedded.articles(split) if a.description]
  return {
    'inputs': [f'summarize: {a.extract}' for a in described],
    'targets': [a.description for a in described],
  }


def _embedded(rows, *preprocessors, metric: str | None) -> TaskSpec:
  return TaskSpec(
    source=lambda: TextSource(rows, embedded.SPLITS),
    preprocessors=(
      seqio.preprocessors.tokenize,
      *preprocessors,
      seqio.preprocessors.append_eos_after_trim,
    ),
    metric=metric,
  )


TASKS: dict[str, TaskSpec] = {
  'wikipedia_span_corruption': _embedded(
    _extracts, span_corruption, metric=None
  ),
  'wikipedia_summarization': _embedded(_summaries, metric='rouge'),
  'prose_span_corruption': _embedded(_prose, span_corruption, metric=None),
  'verse_translation': _embedded(_translations, metric='bleu'),
  'cnn_dailymail': paper_tasks.cnn_dailymail(),
  'arxiv': paper_tasks.arxiv(),
  'pubmed': paper_tasks.pubmed(),
  'media_sum': paper_tasks.media_sum(),
  'multi_news': paper_tasks.multi_news(),
  'wmt14_en_de': paper_tasks.wmt14_en_de(),
  'trivia_qa': paper_tasks.trivia_qa(),
  'c4_span_corruption': paper_tasks.c4_span_corruption(),
}

# Of the tasks that `get_task` has registered.
_specs: dict[str, TaskSpec] = {}


def get_task(
  name: str,
  vocabulary: seqio.Vocabulary | None = None,
  spec: TaskSpec | None = None,
) -> seqio.Task | seqio.Mixture:
  """Returns a task, or a mixture of tasks, by name.

  A task of `TASKS` is made with the vocabulary and registered with seqio, in
  place of what an earlier call registered; those returned before keep theirs.

  Args:
    name: a name in `TASKS` or in seqio's registries, or any with a `spec`.
    vocabulary: of inputs and targets. Tasks registered with seqio bring their
      own; it is compared if given.
    spec: what makes the task, in place of its row in `TASKS`.

  Raises:
    UnknownTaskError: there is no such task.
    ValueError: a task of `TASKS` got no vocabulary, a registered one has
      another, the vocabulary's special tokens are not T5's, or the spec is of a
      task of another name.
  """
  spec = spec or TASKS.get(name)
  if spec is not None:
    if vocabulary is None:
      raise ValueError(f'Task {name!r} needs a vocabulary: none was given.')
    if spec.name not in (None, name):
      raise ValueError(
        f'The task is called {name!r}, but what makes it is that of '
        f'{spec.name!r}: give gin_configs/tasks/{name}.gin instead of another '
        'MIXTURE_OR_TASK_NAME.'
      )
    return _register(name, spec, vocabulary)
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
  """Returns the metric of a task: one of `files.METRICS` or None.

  Tasks that `get_task` did not make have None.
  """
  return _specs[name].metric if name in _specs else None


def choices(task: seqio.Task | seqio.Mixture) -> dict[str, Any]:
  """Returns the choices of a task, or by name those of a mixture's tasks.

  Tasks that `get_task` did not make have none.
  """
  if isinstance(task, seqio.Mixture):
    return {part.name: choices(part) for part in task.tasks}
  return dict(_specs[task.name].choices) if task.name in _specs else {}


def _register(
  name: str, spec: TaskSpec, vocabulary: seqio.Vocabulary
) -> seqio.Task:
  vocabulary_lib.check_ids(vocabulary, f'task {name!r}')
  seqio.TaskRegistry.remove(name)
  _specs[name] = spec
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
    vocabulary_lib.check_ids(
      feature.vocabulary, f'the {key} of task {task.name!r}'
    )
    if vocabulary is not None and feature.vocabulary != vocabulary:
      raise ValueError(
        f'The {key} of task {task.name!r} have a vocabulary other than the '
        'one given: give the vocabulary that the task was registered with.'
      )
  return task
