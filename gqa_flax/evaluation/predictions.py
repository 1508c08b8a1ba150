"""The files of an evaluation, and what is known of one example.

predictions.jsonl   one line an example, in order
scores.json         the scores and what they are of
"""

import dataclasses
import json
import math
import os
import pathlib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

PREDICTIONS = 'predictions.jsonl'
SCORES = 'scores.json'


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an evaluation folder holds.

  Attributes:
    folder: where it was read.
    record: scores.json.
    predictions: the lines of predictions.jsonl.
  """

  folder: str
  record: Mapping[str, Any]
  predictions: list[dict[str, Any]]


def write(
  folder, record: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
):
  """Writes both files, each whole or not at all.

  Args:
    folder: one that exists.
    record: for scores.json.
    predictions: for predictions.jsonl, which is left out if there are none.
  """
  folder = epath.Path(folder)
  if predictions:
    lines = [json.dumps(p, ensure_ascii=False) + '\n' for p in predictions]
    write_whole(folder / PREDICTIONS, ''.join(lines))
  write_whole(folder / SCORES, json.dumps(record, indent=2) + '\n')


def read(folder) -> Evaluation:
  """Reads both files.

  Raises:
    FileNotFoundError: one of them is not there.
    ValueError: one of them is not what `write` writes.
  """
  lines = _read_text(folder, PREDICTIONS).split('\n')[:-1]
  record = read_scores(folder)
  predictions = [
    _parse(line, folder, f'{PREDICTIONS}, line {i + 1},')
    for i, line in enumerate(lines)
  ]
  if record.get('num_examples') != len(predictions):
    raise ValueError(
      f'{folder} has predictions of {len(predictions)} examples, but scores of '
      f'{record.get("num_examples")}; evaluate the checkpoint again.'
    )
  return Evaluation(str(folder), record, predictions)


def read_scores(folder) -> dict[str, Any]:
  """Reads scores.json; errors as of `read`."""
  record = _parse(_read_text(folder, SCORES), folder, SCORES)
  for name, is_right in _FIELDS.items():
    if name in record and not is_right(record[name]):
      raise _wrong(folder, name, record[name])
  for name in score_keys(record):
    if not is_finite(record[name]):
      raise _wrong(folder, name, record[name])
  return record


def score_keys(record: Mapping[str, Any]) -> list[str]:
  """Returns the names of the scores among what scores.json holds."""
  return [
    key
    for key, value in record.items()
    # Those of a split are scores even where they are no numbers.
    if ('/' in key or isinstance(value, int | float)) and key not in _FIELDS
  ]


def is_finite(value: Any) -> bool:
  """Whether a value of a JSON file is a finite number."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def check_same(first, folder, names: Sequence[str], remedy: str):
  """Raises ValueError unless two records agree in some fields.

  Args:
    first: a folder and its record.
    folder: another folder and its record.
    names: of the fields.
    remedy: what to give instead.
  """
  (one, expected), (other, found) = first, folder
  for name in names:
    if found.get(name) != expected.get(name):
      raise ValueError(
        f'{other} has {name} = {found.get(name)!r}, but {one} has '
        f'{expected.get(name)!r}; {remedy}.'
      )


def check_runs(folders: Sequence[str | os.PathLike]):
  """Raises ValueError if there are no runs, or one of them twice."""
  if not folders:
    raise ValueError('There are no runs; give at least one evaluation folder.')
  names = [os.fspath(folder) for folder in folders]
  if '' in names:
    raise ValueError(
      f'One of the runs {names} has no name; give the folder of each.'
    )
  places = [n if '://' in n else os.path.realpath(n) for n in names]
  for folder, place in zip(folders, places, strict=True):
    if places.count(place) > 1:
      raise ValueError(f'The run {folder} is given twice; give each run once.')


def write_whole(path: epath.Path, text: str):
  """Writes a file that appears by a rename."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def example_lengths(
  inputs: int,
  target: int,
  prediction: int,
  *,
  limits: Mapping[str, int],
  ended: bool,
) -> dict[str, Any]:
  """Returns an example's lengths in tokens, EOS included, and what was cut.

  Args:
    inputs: before cutting.
    target: as it is; it is scored whole, but no more than the limit can be
      decoded of it.
    prediction: as decoded.
    limits: {'inputs': S, 'targets': T}.
    ended: whether the prediction ended by itself, with EOS.
  """
  return {
    'inputs_tokens': inputs,
    'inputs_cut': inputs > limits['inputs'],
    'target_tokens': target,
    'target_cut': target > limits['targets'],
    'prediction_tokens': prediction,
    'prediction_cut': prediction >= limits['targets'] and not ended,
  }


def summarize_lengths(
  predictions: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, float]]:
  """Sums up `example_lengths` of all examples.

  Returns:
    For each of 'inputs', 'target' and 'prediction': 'num_cut', 'share_cut' (0
    to 1), and of its tokens 'mean', 'median', 'p95' and 'max'.
  """
  summary = {}
  for name in ('inputs', 'target', 'prediction'):
    tokens = [p[f'{name}_tokens'] for p in predictions]
    num_cut = sum(p[f'{name}_cut'] for p in predictions)
    median, p95 = np.percentile(tokens, [50, 95])
    summary[name] = {
      'num_cut': num_cut,
      'share_cut': num_cut / len(tokens),
      'mean': float(np.mean(tokens)),
      'median': float(median),
      'p95': float(p95),
      'max': max(tokens),
    }
  return summary


def _read_text(folder, name: str) -> str:
  path = epath.Path(folder) / name
  if not path.exists():
    raise FileNotFoundError(
      f'There is no {name} in {folder}; give a folder that `gqa-flax evaluate` '
      'wrote (its OUTPUT_DIR).'
    )
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise _not_ours(folder, name) from error


def _parse(text: str, folder, name: str) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except (json.JSONDecodeError, RecursionError) as error:
    raise _not_ours(folder, name) from error
  if not isinstance(value, dict):
    raise _not_ours(folder, name)
  return value


def _not_ours(folder, name: str) -> ValueError:
  return ValueError(
    f'{pathlib.PurePath(folder) / name} is not JSON as `gqa-flax evaluate` '
    'writes it; evaluate the checkpoint again, into another OUTPUT_DIR.'
  )


def _wrong(folder, name: str, value: Any) -> ValueError:
  return ValueError(
    f'{pathlib.PurePath(folder) / SCORES} says {name} = '
    f'{reprlib.repr(value)}, which `gqa-flax evaluate` does not write; '
    'evaluate the checkpoint again, into another OUTPUT_DIR.'
  )


def _is_text(value) -> bool:
  return isinstance(value, str)


# What is no score, where it is there.
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
  'task': _is_text,
  'split': _is_text,
  'metric': lambda value: value is None or _is_text(value),
  'step': lambda value: is_finite(value) and value >= 0,
  'num_examples': lambda value: isinstance(value, int) and value >= 1,
  'evaluation': lambda value: isinstance(value, dict),
}
