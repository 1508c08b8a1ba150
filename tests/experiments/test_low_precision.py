"""What the report says of hand-made records."""

import json

import pytest

from experiments.low_precision import cells as kinds_of_cell
from experiments.low_precision import report as low_precision
from gqa_flax.reporting import records

TOKENS = [10, 20, 30, 40]


def cell(attention, precision, per_token, same=1.0, share=1.0):
  """A record whose examples all lose as much a token."""
  kinds = {
    kind: {
      'tokens': TOKENS,
      'losses': [per_token * n for n in TOKENS],
      'same_next': [same * n for n in TOKENS],
      'greedy_tokens': [2 * n for n in TOKENS],
      'same_greedy': [same * n for n in TOKENS],
      'same_texts': 3,
      'scores': {'bleu': 20 * per_token},
    }
    for kind in kinds_of_cell.EXAMPLES
  }
  return {
    'cell': f'{attention}, {precision}',
    'attention': attention,
    'precision': precision,
    'param_bytes': 1000 * share,
    'token_bytes': 400 * share,
    'kinds': kinds,
  }


def report(folder, cells):
  lines = ''.join(json.dumps(c) + '\n' for c in cells)
  (folder / 'records.jsonl').write_text(lines)
  low_precision.write(folder)
  return (folder / 'report.md').read_text()


@pytest.fixture
def cells():
  return [
    cell('MHA', 'float32', 2.0),
    cell('MHA', 'int8 kernels', 2.0625, 0.9, share=0.26),
    cell('GQA-2', 'float32', 2.25),
    cell('GQA-2', 'int8 kernels', 2.1875, 0.8, share=0.28),
  ]


def test_every_cell_is_set_against_float32_of_its_attention(tmp_path, cells):
  text = report(tmp_path, cells)
  float32, int8 = (
    next(
      line.split('|')[3:-1]
      for line in text.splitlines()
      if line.startswith(f'| GQA-2 | {precision} |')
    )
    for precision in ('float32', 'int8 kernels')
  )
  assert [x.strip() for x in float32] == [
    *('2.2500', '', '100.0%', '50.0%', '3 of 4', '45.00')
  ]
  # Every example changes alike, so that no draw can give another change.
  assert [x.strip() for x in int8] == [
    *('2.1875', '-0.0625 (-0.0625 to -0.0625)'),
    *('80.0%', '40.0%', '3 of 4', '43.75'),
  ]
  assert text.count('| MHA | int8 kernels | 2.0625 | +0.0625 (') == 2


def test_the_summary_has_the_ends_over_attentions_and_kinds(tmp_path, cells):
  text = report(tmp_path, cells)
  assert (
    '| int8 kernels | 26% to 28% | 26% to 28% | -0.0625 to +0.0625 | 2 of 4 '
    '| 80.0% |\n'
  ) in text
  assert '+0.25 (GQA-2, translation), +0.25 (GQA-2, summaries).' in text
  assert '| int8 cache |' not in text


def test_the_last_record_of_a_cell_counts_and_the_text_is_the_records(
  tmp_path, cells
):
  text = report(tmp_path, cells)
  assert report(tmp_path, cells) == text
  records.append(
    tmp_path / 'records.jsonl', cell('MHA', 'int8 kernels', 3.0, 0.5)
  )
  low_precision.write(tmp_path)
  changed = (tmp_path / 'report.md').read_text()
  assert '| MHA | int8 kernels | 3.0000 | +1.0000 (' in changed
  assert '| 26% to 28% |' not in changed


def test_a_cell_without_its_float32_waits_for_it(tmp_path, cells):
  text = report(tmp_path, cells[1:])
  assert '| MHA |' not in text
  assert 'Attentions: GQA-2. Held-out' in text
  assert ': 4 of translation, 4 of summaries.' in text
  assert '| GQA-2 | int8 kernels |' in text
