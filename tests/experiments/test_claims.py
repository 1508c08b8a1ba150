"""Claims: a sentence and a row from one number and one verdict."""

import json

import pytest

from experiments import overview, public_checkpoint
from experiments.study.claims import Claim, verdict
from experiments.study.command import Estimates, Script
from experiments.study.spread import Seeds


@pytest.mark.parametrize(
  'values, says, interval',
  [
    # 1.5 and half of a 95% interval, 4.303 * 0.5 / 3 ** 0.5 = 1.242.
    ((1.0, 1.5, 2.0), 'Holds', '0.26 to 2.74'),
    ((-1.0, -1.5, -2.0), '**Does not hold**', '-2.74 to -0.26'),
    ((0.5, 1.0, 1.5), '**Undecided**', '-0.24 to 2.24'),
  ],
)
def test_an_interval_decides(values, says, interval):
  claim = Claim.of_gap('mean beats first', Seeds.of(values), 'nats', places=2)
  mean = sum(values) / 3
  assert claim.sentence() == (
    f'- {says}: mean beats first by {mean:.2f} nats (95% interval {interval}).'
  )
  row = claim.row()
  assert row['interval'] == interval and row['paper'] == ''
  assert row['claim'] == 'Mean beats first'
  assert row['ours'] == f'{mean:.2f} nats'
  assert row['verdict'] == says.strip('*').lower()


def test_a_sentence_has_the_papers_number_and_a_note():
  gap = Seeds.of([0.5, 0.5])
  claim = Claim.of_gap('a is b', gap, 's', paper='2 s', note='By a clock.')
  assert claim.sentence() == (
    '- Holds: a is b by 0.500 s (paper: 2 s). By a clock.'
  )
  claim = Claim('a is b', '3', verdict(False), '2', joint=': ')
  assert claim.sentence() == '- **Does not hold**: a is b: 3 (paper: 2).'


class Recorded:
  """A cell that has a record."""

  name = 'recorded/0'


def test_rows_and_sentences_are_of_the_same_claims(tmp_path):
  claims = [Claim('a is b', '1 s', 'holds'), Claim('c is d', '2', 'undecided')]
  times = tmp_path / 'times.jsonl'
  times.touch()
  script = Script(
    'Table 9: a thing.\n\nThe paper: it is.',
    tmp_path / 'table9',
    cells=lambda scale: [Recorded],
    report=lambda found, folder: None,
    claims=lambda found: claims[:1],
    estimates=Estimates(
      lambda: [], lambda records, folder: None, lambda records: claims[1:]
    ),
  )
  overview.write(tmp_path, [script], {'laptop': {Recorded.name: {}}}, times)
  lines = (tmp_path / 'claims.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['claim'] for row in rows] == ['A is b', 'C is d']
  assert [(row['group'], row['report']) for row in rows] == [
    ("Table 9: a thing (at the laptop's scale)", 'table9/laptop.md'),
    ('Table 9: a thing (estimated for eight TPU v4)', 'table9/report.md'),
  ]
  text = (tmp_path / 'README.md').read_text()
  for claim in claims:
    assert f'\n{claim.sentence()}\n' in text


def test_a_script_without_records_is_left_out(tmp_path):
  script = public_checkpoint.SCRIPT
  overview.write(tmp_path, [script], {'public': {}}, tmp_path / 'none')
  text = (tmp_path / 'README.md').read_text()
  assert 'A public checkpoint' not in text
  assert (tmp_path / 'claims.jsonl').read_text() == ''
