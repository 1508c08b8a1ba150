"""The report on parameters and caches in fewer bytes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.low_precision.cells import ATTENTIONS, EXAMPLES, PRECISIONS
from gqa_flax.evaluation import bootstrap
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph

SHOWN = {'bleu': 'BLEU', 'rougeLsum': 'ROUGE-L'}


def write(folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = {
    (r['attention'], r['precision']): r
    for r in records.read(folder / 'records.jsonl')
  }
  rows = [
    (attention, precision)
    for attention in ATTENTIONS
    for precision in PRECISIONS
    if (attention, precision) in found and (attention, 'float32') in found
  ]
  text = ['# Parameters and caches in fewer bytes\n', _head(found, rows)]
  text += ['## What it costs\n', _summary(found, rows)]
  for kind in EXAMPLES:
    text += [f'## {kind.capitalize()}\n', _of_kind(found, rows, kind)]
  text.append('Every number is in, or computed from, records.jsonl.\n')
  (folder / 'report.md').write_text('\n'.join(text), encoding='utf-8')


def _head(found, rows) -> str:
  """Returns what was measured."""
  examples = {
    kind: len(cell['tokens'])
    for row in rows
    for kind, cell in found[row]['kinds'].items()
  }
  return paragraph(
    _HEAD.format(
      attentions=', '.join(dict.fromkeys(attention for attention, _ in rows)),
      examples=', '.join(f'{n} of {kind}' for kind, n in examples.items()),
    )
  )


def _summary(found, rows) -> str:
  """Returns a table over all attentions and kinds, and what it says."""
  lines = []
  for precision in PRECISIONS:
    cells = [found[row] for row in rows if row[1] == precision]
    if precision == 'float32' or not cells:
      continue
    kinds = [
      (found[r['attention'], 'float32']['kinds'][kind], r['kinds'][kind])
      for r in cells
      for kind in r['kinds']
    ]
    changes = [_per_token(b) - _per_token(a) for a, b in kinds]
    worse = sum(_interval(a, b)[0] > 0 for a, b in kinds)
    lines.append(
      (
        precision,
        _share_of_float32(found, cells, 'param_bytes'),
        _share_of_float32(found, cells, 'token_bytes'),
        f'{min(changes):+.4f} to {max(changes):+.4f}',
        f'{worse} of {len(kinds)}',
        f'{100 * min(_share(b, "same_next", "tokens") for _, b in kinds):.1f}%',
      )
    )
  header = ('kept', 'parameters', 'cache', 'nats a token', 'worse')
  table = markdown_table((*header, 'same next token'), lines)
  costs = [
    f'{_per_token(r["kinds"][kind]) - _per_token(mha["kinds"][kind]):+.2f} '
    f'({attention}, {kind})'
    for mha in [found.get(('MHA', 'float32'))]
    if mha
    for attention in ATTENTIONS
    for r in [found.get((attention, 'float32'))]
    if r and r is not mha
    for kind in r['kinds']
  ]
  beside = (
    'For comparison, the conversion alone, in float32 and before any '
    f'uptraining, changes the cross-entropy by {", ".join(costs)}.'
    if costs
    else ''
  )
  return '\n'.join([paragraph(_SUMMARY), table, paragraph(beside)])


def _of_kind(found, rows, kind) -> str:
  """Returns the table of a kind of text."""
  lines, scores = [], ()
  for attention, precision in rows:
    cell = found[attention, precision]['kinds'][kind]
    float32 = found[attention, 'float32']['kinds'][kind]
    scores = tuple(name for name in cell['scores'] if name in SHOWN)
    low, high = _interval(float32, cell)
    change = f'{_per_token(cell) - _per_token(float32):+.4f}'
    lines.append(
      (
        attention,
        precision,
        f'{_per_token(cell):.4f}',
        '' if cell is float32 else f'{change} ({low:+.4f} to {high:+.4f})',
        f'{100 * _share(cell, "same_next", "tokens"):.1f}%',
        f'{100 * _share(cell, "same_greedy", "greedy_tokens"):.1f}%',
        f'{cell["same_texts"]} of {len(cell["tokens"])}',
        *(f'{cell["scores"][name]:.2f}' for name in scores),
      )
    )
  header = (
    *('attention', 'kept', 'nats a token', 'against float32'),
    *('same next token', 'same greedy tokens', 'same texts'),
    *(SHOWN[name] for name in scores),
  )
  return markdown_table(header, lines)


def _per_token(cell: Mapping[str, Any]) -> float:
  return sum(cell['losses']) / sum(cell['tokens'])


def _share(cell: Mapping[str, Any], part: str, whole: str) -> float:
  return sum(cell[part]) / sum(cell[whole])


def _share_of_float32(found, cells: Sequence[Mapping[str, Any]], what) -> str:
  """Returns the bytes as a share of float32's, the smallest to the largest."""
  shares = [r[what] / found[r['attention'], 'float32'][what] for r in cells]
  ends = [f'{100 * x:.0f}%' for x in (min(shares), max(shares))]
  return ends[0] if ends[0] == ends[1] else ' to '.join(ends)


def _interval(float32, cell) -> tuple[float, float]:
  """Returns the 95% interval of what a token's cross-entropy changes by."""
  a, b = (
    np.array([x['losses'], x['tokens']], np.float64).T for x in (float32, cell)
  )
  low, high = bootstrap.paired_difference(
    [a], [b], lambda sums, _: sums[:, :1] / sums[:, 1:]
  ).interval[:, 0]
  return float(low), float(high)


_HEAD = """
flan-t5-small (fine-tuned to write titles; 6 heads of 64, 8 + 8 layers), as it
is or with its decoder converted to fewer key/value heads by `subspace`.
Attentions: {attentions}. Held-out examples, which no conversion was calibrated
on: {examples}. All activations are float32, and so is the cache where it is not
int8. The package keeps the checkpoint's matrices as int8 with one scale each,
dequantized here to float32, so float32 itself has lost something already; a
kernel's columns with a scale each are another grid, and rounding to it is what
is measured. Made by experiments/low_precision.
"""
_SUMMARY = """
Bytes of all parameters, and of a position's keys and values, as shares of
float32's; the change of the cross-entropy of the reference tokens, forced
through the decoding cache, smallest to largest over attentions and kinds of
text, and in how many of these the 95% interval of paired bootstrap samples lies
above zero; and the smallest share of reference positions at which the most
probable next token is float32's.
"""
