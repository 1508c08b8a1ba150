"""Table, report and plots of the study, from its records alone."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.real_checkpoint import plots
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table

RESAMPLES = 1000
KINDS = ('translation', 'summaries', 'span')
# The share of mean's gap to multi-head that subspace was to close.
TARGETS = {'translation': 0.65, 'summaries': 0.65, 'span': 0.85}


class Table:
  """Losses by example of every conversion, and intervals of what they say."""

  def __init__(self, cells):
    self.tokens: dict[str, np.ndarray] = {}
    self.losses: dict[tuple[str, Any, int, int], dict[str, np.ndarray]] = {}
    for cell in cells:
      if 'losses' not in cell:
        continue
      key = (
        cell['method'],
        cell.get('calibration'),
        cell['num_kv_heads'],
        cell.get('seed', 0),
      )
      for kind, losses in cell['losses'].items():
        self.losses.setdefault(key, {})[kind] = np.asarray(losses)
      for kind, tokens in cell.get('tokens', {}).items():
        self.tokens[kind] = np.asarray(tokens)
    rng = np.random.default_rng(0)
    self._samples = {
      kind: rng.integers(0, len(x), (RESAMPLES, len(x)))
      for kind, x in self.tokens.items()
    }

  def per_token(self, key, kind) -> tuple[float, float, float]:
    """Returns cross-entropy in nats a token, and its 95% interval."""
    draws = self._draws(key, kind)
    return (
      float(self.losses[key][kind].sum() / self.tokens[kind].sum()),
      *_interval(draws),
    )

  def closed(self, key, kind) -> tuple[float, float, float]:
    """Returns the share of mean's gap that is closed, and its 95% interval.

    The same examples are drawn for all three models.
    """

    def share(mean, this, multi_head):
      return (mean - this) / (mean - multi_head)

    keys = (('mean', None, key[2], 0), key, ('multi-head', None, 6, 0))
    total = self.tokens[kind].sum()
    point = share(*(self.losses[k][kind].sum() / total for k in keys))
    draws = share(*(self._draws(k, kind) for k in keys))
    return float(point), *_interval(draws)

  def _draws(self, key, kind) -> np.ndarray:
    sample = self._samples[kind]
    tokens = self.tokens[kind][sample].sum(axis=1)
    return self.losses[key][kind][sample].sum(axis=1) / tokens


def _interval(draws) -> tuple[float, float]:
  low, high = np.percentile(draws, (2.5, 97.5))
  return float(low), float(high)


def _heads(number: int) -> str:
  return '1 head' if number == 1 else f'{number} heads'


def label(method, calibration, seed=0) -> str:
  """Returns how a conversion is called in tables and plots."""
  name = method if calibration is None else f'{method}, {calibration} text'
  return f'{name}, seed {seed}' if method == 'random' else name


def write(results_dir):
  """Writes report.md and the plots that its records allow."""
  folder = pathlib.Path(results_dir)
  cells = records.read(folder / 'records.jsonl')
  by_name = {cell['cell']: cell for cell in cells}
  text = [_HEAD]
  if 'translate' in by_name:
    cell = by_name['translate']
    text.append(
      f'The checkpoint has {cell["parameters"]:,} parameters; from '
      f'"{cell["input"]}" it makes "{cell["output"]}"\n'
    )
  if 'change of basis' in by_name:
    cell = by_name['change of basis']
    changes = ', '.join(
      f'{change:.1e} ({method})'
      for method, change in cell['largest_change'].items()
    )
    text.append(
      'A change of basis in every head, and a random order of heads, change '
      f'its logits by at most {changes}; the largest logit of the '
      f'{cell["target_tokens"]} tokens is {cell["largest_logit"]:.1f}.\n'
    )
  table = Table(cells)
  if all(kind in table.tokens for kind in KINDS):
    text.extend(_before_uptraining(table))
    plots.before_uptraining(folder / 'conversion.png', table)
    text.append('![Losses before uptraining](conversion.png)\n')
  curves = [cell for cell in cells if 'curve' in cell]
  if curves:
    text.extend(_uptraining(curves))
    plots.uptraining(folder / 'uptraining.png', curves)
    text.append('\n![Losses by steps of uptraining](uptraining.png)\n')
  text.append('\nEvery number above is in, or computed from, records.jsonl.\n')
  (folder / 'report.md').write_text('\n'.join(text), encoding='utf-8')


def _before_uptraining(table: Table):
  sizes = ', '.join(
    f'{len(table.tokens[k])} examples, {table.tokens[k].sum():,} tokens of {k}'
    for k in KINDS
  )
  yield '## Before uptraining\n'
  yield (
    'Cross-entropy in nats a target token on held-out text, with the 95% '
    f'interval of {RESAMPLES:,} bootstrap samples of the examples ({sizes}).\n'
  )
  keys = sorted(table.losses, key=lambda k: (-k[2], _ORDER.index(k[0]), str(k)))
  rows = []
  for key in keys:
    method, calibration, heads, seed = key
    cells = [
      '{:.2f} ({:.2f} to {:.2f})'.format(*table.per_token(key, kind))
      for kind in KINDS
    ]
    rows.append((str(heads), label(method, calibration, seed), *cells))
  yield markdown_table(('K/V heads', 'conversion', *KINDS), rows)
  yield (
    '\nThe share of what the mean costs over multi-head that each other '
    'conversion wins back (1 is multi-head, 0 the mean, negative is worse than '
    'the mean):\n'
  )
  rows = []
  for key in keys:
    method, calibration, heads, seed = key
    if method not in ('mean', 'multi-head'):
      cells = [
        '{:.2f} ({:.2f} to {:.2f})'.format(*table.closed(key, kind))
        for kind in KINDS
      ]
      rows.append((str(heads), label(method, calibration, seed), *cells))
  yield markdown_table(('K/V heads', 'conversion', *KINDS), rows)
  yield _verdict(table)


def _verdict(table: Table) -> str:
  """Says whether the paper's order and the targets hold, cell by cell."""
  lines = []
  for kind in KINDS:
    for heads in sorted({key[2] for key in table.losses} - {6}, reverse=True):
      loss = {
        key[0]: table.losses[key][kind].sum()
        for key in table.losses
        if key[2] == heads and key[1] is None and key[0] != 'random'
      }
      drawn = [
        x[kind].sum()
        for key, x in table.losses.items()
        if key[2] == heads and key[0] == 'random'
      ]
      held = loss['mean'] < loss['first'] < min(drawn)
      share = table.closed(('subspace', 'broad', heads, 0), kind)[0]
      target = TARGETS[kind]
      lines.append(
        f'- {kind}, {_heads(heads)}: mean < first < random '
        f'{"holds" if held else "does not hold"}; subspace wins back '
        f'{share:.0%} (target {target:.0%}: '
        f'{"met" if share >= target else "not met"}).'
      )
  return '\n'.join(['', *lines, ''])


def _uptraining(curves):
  settings = curves[0]['settings']
  yield '## Uptraining\n'
  yield (
    f'{settings["steps"]} steps of span corruption, all parameters trained, '
    f'{settings["batch_size"]} rows a step, Adafactor from a new state at '
    f'{settings["learning_rate"]:g}; loss on {curves[0]["examples"]} held-out '
    'examples, mean over the seeds of the data, with the lowest and highest '
    'seed.\n'
  )
  steps = [step for step, _ in curves[0]['curve']]
  groups = by_conversion(curves)
  rows = []
  for (heads, name), losses in groups.items():
    cells = [
      f'{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})'
      for x in np.asarray(losses).T
    ]
    shown = [cells[steps.index(s)] for s in _SHOWN_STEPS]
    rows.append((str(heads), name, str(len(losses)), *shown))
  yield markdown_table(
    ('K/V heads', 'from', 'seeds', *(f'step {s}' for s in _SHOWN_STEPS)), rows
  )
  yield ''
  for heads, name in groups:
    if name == 'mean' or (heads, 'mean') not in groups:
      continue
    reached = [
      steps_to_reach(steps, curve, mean[-1])
      for curve, mean in zip(groups[heads, name], groups[heads, 'mean'])
    ]
    words = ', '.join('not' if x is None else f'{x:.0f}' for x in reached)
    yield (
      f"- {_heads(heads)}, {name}: steps until mean's final loss is reached, "
      f'seed by seed: {words}.'
    )


def by_conversion(curves) -> Mapping[tuple[int, str], list[list[float]]]:
  """Returns the losses of each seed by (num_kv_heads, conversion)."""
  groups: dict[tuple[int, str], list[list[float]]] = {}
  for cell in sorted(
    curves, key=lambda c: (-c['num_kv_heads'], _ORDER.index(c['method']))
  ):
    key = (cell['num_kv_heads'], label(cell['method'], cell['calibration']))
    groups.setdefault(key, []).append([loss for _, loss in cell['curve']])
  return groups


def steps_to_reach(steps, losses, level: float) -> float | None:
  """Returns where a curve first comes down to a level, between its points."""
  if losses[0] <= level:
    return 0.0
  for i in range(1, len(steps)):
    if losses[i] <= level:
      share = (losses[i - 1] - level) / (losses[i - 1] - losses[i])
      return steps[i - 1] + share * (steps[i] - steps[i - 1])
  return None


_ORDER = ('multi-head', 'mean', 'first', 'random', 'aligned', 'subspace')
_SHOWN_STEPS = (0, 25, 50, 100, 200)
_HEAD = """\
# A real checkpoint, converted

flan-t5-small (fine-tuned to write titles; int8, dequantized; 6 heads), its
decoder converted to fewer key/value heads. Translation and summaries are scored
with the checkpoint as published, span corruption with the same checkpoint after
150 steps of span corruption. Text to calibrate on and to uptrain on shares no
verse and no article with what is evaluated. `narrow` is span corruption of
Wikipedia alone, `broad` all three kinds; the weights alone where neither is
named. Made by experiments/real_checkpoint/study.py.
"""
