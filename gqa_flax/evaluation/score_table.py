"""What scores.json holds, for people."""

from collections.abc import Mapping
from typing import Any

from gqa_flax.evaluation import predictions, table

_NOUNS = {'inputs': 'inputs', 'target': 'targets', 'prediction': 'predictions'}


def score_table(record: Mapping[str, Any]) -> str:
  """Returns scores with their intervals, and what was cut, as lines.

  Args:
    record: of `predictions.read_scores`.
  """
  intervals = record.get('intervals', {})
  confidence = record.get('bootstrap', {}).get('confidence')
  header = ['', 'score']
  if intervals:
    header.append(f'{confidence:.0%} interval')
  rows = [header]
  for name in predictions.score_keys(record):
    row = [name, f'{record[name]:.2f}']
    if intervals:
      ends = intervals.get(name)
      row.append('{:.2f} to {:.2f}'.format(*ends) if ends else '')
    rows.append(row)
  lines = table.align(rows)
  if 'num_examples' in record:
    lines += ['', _examples(record)]
  return '\n'.join(lines)


def _examples(record: Mapping[str, Any]) -> str:
  """Returns a sentence on the examples, and how many of them were cut."""
  text = (
    f'{record["num_examples"]:,} examples of {record["task"]} '
    f'({record["split"]})'
  )
  lengths = record.get('lengths') or {}
  counts = [
    f'{lengths[name]["num_cut"]:,} {noun} ({lengths[name]["share_cut"]:.1%})'
    for name, noun in _NOUNS.items()
    if name in lengths
  ]
  if counts:
    text += f'; cut: {", ".join(counts)}'
  if skipped := sum(record.get('skipped', {}).values()):
    text += f'; skipped: {skipped:,}'
  return f'{text}.'
