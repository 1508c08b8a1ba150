"""Tasks from one's own files, without code: JSON lines, CSV or Parquet.

`files_task` makes a `TaskSpec` of paths, templates over the columns and a
metric, all of which a gin file can bind; gin_configs/tasks/own_files.gin is
there to be copied. A split is read when it is first used, and its texts are
then kept in memory.
"""

import functools
import itertools
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import seqio
import tensorflow as tf

from gqa_flax.data import file_rows
from gqa_flax.data.file_rows import FilesError
from gqa_flax.data.sources import TaskSpec, TextSource
from gqa_flax.data.span_corruption import span_corruption

# The names in `evaluation.metrics.METRICS`, a floor above.
METRICS = ('rouge', 'bleu', 'chrf', 'trivia_qa')

# Pieces of text, each with the column that follows it, or None at the end.
_Template: TypeAlias = Sequence[tuple[str, str | None]]


def files_task(
  files: Mapping[str, str | Sequence[str]],
  targets: str,
  inputs: str | None = None,
  *,
  prefix: str = '',
  metric: str | None = None,
  answers: str | None = None,
  format: str | None = None,
  name: str | None = None,
) -> TaskSpec:
  """Returns a task on files.

  A template is text with columns in braces: 'question: {question} context:
  {context}', or '{summary}' for a column alone. A brace itself is written
  twice. Texts stay as they are, spaces and new lines included; numbers are as
  written, booleans 'true' and 'false'. A null is an error, as an example that
  lacks something would train the model all the same; '' is not.

  Args:
    files: from the name of a split to a path or several, local or in a bucket,
      such as {'train': 'data/train-*.jsonl', 'validation': 's3://b/dev.csv'};
      see `file_rows.read`. JSON lines and CSV may be compressed (.gz). CSV has
      a header.
    targets: the template of the targets.
    inputs: the template of the inputs; None for span corruption of the targets,
      as in pre-training.
    prefix: text before all inputs, such as 'summarize: '.
    metric: a name in `METRICS`; None where the loss is all.
    answers: for trivia_qa, the column with the list of accepted answers; None
      where the target alone is accepted.
    format: 'jsonl', 'csv' or 'parquet'; None for what each file's ending says:
      .jsonl or .json, .csv, .parquet.
    name: of the task; None for any.

  Raises:
    FilesError: the arguments do not fit together. Where files are missing or
      bad, it is raised as their split is first used.
  """
  if not isinstance(files, Mapping) or not files:
    raise FilesError(
      f'files is {files!r}: give paths by split, such as '
      "{'train': 'data/train-*.jsonl', 'validation': 'data/dev.jsonl'}."
    )
  if metric is not None:
    file_rows.check_known('There is no metric', metric, METRICS)
  if format is not None:
    file_rows.check_known('There is no format', format, file_rows.READERS)
  if answers is not None and metric in ('rouge', 'bleu', 'chrf'):
    raise FilesError(
      f'The answers {answers!r} are of no use to the metric {metric}, which '
      'takes the target: leave answers out, or choose trivia_qa.'
    )
  if prefix and inputs is None:
    raise FilesError(
      f'There are no inputs for the prefix {prefix!r}: give their template, or '
      'leave the prefix out.'
    )
  templates = {'targets': _parse('targets', targets)}
  if inputs is not None:
    templates['inputs'] = [(prefix, None), *_parse('inputs', inputs)]

  @functools.cache
  def texts(split: str) -> Mapping[str, tf.Tensor | tf.RaggedTensor]:
    paths = files[split]
    return _texts(
      [paths] if isinstance(paths, str) else paths,
      templates,
      answers,
      accept_target=metric == 'trivia_qa',
      format=format,
    )

  return TaskSpec(
    source=lambda: TextSource(texts, list(files)),
    preprocessors=(
      seqio.preprocessors.tokenize,
      *([span_corruption] if inputs is None else []),
      seqio.preprocessors.append_eos_after_trim,
    ),
    metric=metric,
    name=name,
    choices={
      'files': dict(files),
      'inputs': inputs,
      'targets': targets,
      'prefix': prefix,
      'answers': answers,
    },
  )


def _texts(
  paths: Sequence[str],
  templates: Mapping[str, _Template],
  answers: str | None,
  accept_target: bool,
  format: str | None,
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
  """Reads files, and fills the templates with each row."""
  columns = {c for t in templates.values() for _, c in t if c is not None}
  if answers is not None:
    columns.add(answers)
  texts: dict[str, list[str]] = {name: [] for name in templates}
  accepted: list[list[str]] = []
  for place, row in file_rows.read(paths, columns, format):
    for name, template in templates.items():
      texts[name].append(_fill(template, row, place))
    if answers is not None:
      accepted.append(_list(row[answers], answers, place))
    elif accept_target:
      accepted.append([texts['targets'][-1]])
  tensors = {name: tf.constant(x, tf.string) for name, x in texts.items()}
  if answers is not None or accept_target:
    tensors['answers'] = tf.RaggedTensor.from_row_lengths(
      tf.constant([*itertools.chain.from_iterable(accepted)], tf.string),
      tf.constant([len(x) for x in accepted], tf.int64),
    )
  return tensors


def _parse(argument: str, template: str) -> _Template:
  write = 'write a column as {column}, and a brace itself twice.'
  try:
    pieces = list(string.Formatter().parse(template))
  except ValueError as error:
    raise FilesError(
      f'{argument} is {template!r}, which is no template ({error}): {write}'
    ) from None
  for _, column, spec, conversion in pieces:
    if column == '' or spec or conversion:
      raise FilesError(
        f'{argument} is {template!r}, with more or less than the name of a '
        f'column between braces: {write}'
      )
  if all(column is None for _, column, _, _ in pieces):
    raise FilesError(
      f'{argument} is {template!r}, which has no column: {write}'
    )
  return [(text, column) for text, column, _, _ in pieces]


def _fill(template: _Template, row: Mapping[str, Any], place: str) -> str:
  return ''.join(
    text if column is None else text + _text(row[column], column, place)
    for text, column in template
  )


def _text(value: Any, column: str, place: str) -> str:
  if value is None or value != value:  # NaN is what pandas makes of a null
    raise FilesError(
      f'{place}: {column!r} is null: fill it in, or leave the row out.'
    )
  if value in (math.inf, -math.inf):
    raise FilesError(
      f'{place}: {column!r} is {value}: fill in a number, or leave the row out.'
    )
  if isinstance(value, (bytes, dict, list)):
    raise FilesError(
      f'{place}: {column!r} is a {type(value).__name__}: make it a text or a '
      'number.'
    )
  return str(value).lower() if isinstance(value, bool) else str(value)


def _list(value: Any, column: str, place: str) -> list[str]:
  if not isinstance(value, list) or not value:
    raise FilesError(
      f'{place}: {column!r} is {value!r}: make it a list of at least one '
      'accepted answer, in JSON lines or Parquet.'
    )
  return [_text(item, column, place) for item in value]
