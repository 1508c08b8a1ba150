"""The study of a real checkpoint: what its records are made into."""

import json

import numpy as np
import pytest

from experiments.real_checkpoint import report


def cell(method, losses, heads=2, calibration=None, seed=0, **more):
  return {
    'cell': f'{method} {heads} {calibration} {seed}',
    'method': method,
    'calibration': calibration,
    'num_kv_heads': heads,
    'seed': seed,
    'losses': {kind: losses for kind in report.KINDS},
    'seconds': 60.0,
    **more,
  }


@pytest.fixture
def cells():
  """Three examples of 1, 2 and 1 tokens; multi-head loses 1 nat a token."""
  tokens = {kind: [1, 2, 1] for kind in report.KINDS}
  return [
    cell('multi-head', [1.0, 2.0, 1.0], heads=6, tokens=tokens),
    cell('mean', [3.0, 6.0, 3.0]),
    cell('first', [4.0, 8.0, 4.0]),
    cell('random', [5.0, 10.0, 5.0]),
    cell('subspace', [1.5, 3.0, 1.5], calibration='broad'),
    {
      'cell': 'uptrain',
      'method': 'mean',
      'calibration': None,
      'num_kv_heads': 2,
      'seed': 0,
      'curve': [[0, 4.0], [25, 3.0], [50, 2.5], [100, 2.0], [200, 1.0]],
      'settings': {'steps': 200, 'batch_size': 4, 'learning_rate': 0.001},
      'examples': 3,
      'seconds': 60.0,
    },
  ]


def test_losses_are_a_token_and_shares_are_of_the_means_gap(cells):
  table = report.Table(cells[:-1])
  key = ('subspace', 'broad', 2, 0)
  assert table.per_token(key, 'span') == (1.5, 1.5, 1.5)
  assert table.closed(key, 'span') == (0.75, 0.75, 0.75)
  worse = table.closed(('first', None, 2, 0), 'span')
  assert worse == (-0.5, -0.5, -0.5)


def test_an_interval_covers_the_spread_of_the_examples():
  rng = np.random.default_rng(0)
  losses = rng.normal(3.0, 1.0, 400)
  cells = [
    cell('multi-head', losses.tolist(), heads=6)
    | {'tokens': {kind: [1] * 400 for kind in report.KINDS}}
  ]
  table = report.Table(cells)
  middle, low, high = table.per_token(('multi-head', None, 6, 0), 'span')
  assert middle == pytest.approx(losses.mean())
  assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
  assert low < middle < high


@pytest.mark.parametrize(
  ('level', 'step'), [(5.0, 0.0), (3.0, 5.0), (2.0, 10.0), (1.0, None)]
)
def test_steps_are_counted_between_the_points_of_a_curve(level, step):
  assert report.steps_to_reach([0, 10, 20], [4.0, 2.0, 1.5], level) == step


def test_the_report_comes_from_the_records_alone_byte_for_byte(cells, tmp_path):
  records = tmp_path / 'records.jsonl'
  records.write_text(''.join(json.dumps(c) + '\n' for c in cells))
  report.write(tmp_path)
  names = ('report.md', 'conversion.png', 'uptraining.png')
  first = {name: (tmp_path / name).read_bytes() for name in names}
  for name in names:
    (tmp_path / name).unlink()
  report.write(tmp_path)
  assert first == {name: (tmp_path / name).read_bytes() for name in names}
  text = first['report.md'].decode()
  assert '| 2 | subspace, broad text | 0.75 (0.75 to 0.75)' in text
  assert 'span, 2 heads: mean < first < random holds' in text
  assert 'subspace wins back 75% (target 85%: not met)' in text
  assert 'summaries, 2 heads: mean < first < random holds' in text
