"""`compare` and `average`: damaged evaluations and bad flags."""

import json
import shutil

import pytest

NAN = float('nan')


@pytest.fixture
def copied(world, tmp_path):
  return shutil.copytree(world.scores_b, tmp_path / 'copy')


def _edit(path, changes):
  record = {**json.loads(path.read_text()), **changes}
  path.write_text(json.dumps({k: x for k, x in record.items() if x != 'gone'}))


CHANGES = ['!$scores_b', 'copy']


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'{',
    b'[]',
    b'5',
    b'null',
    b'"text"',
    b'{}',
    b'\xff\xfe',
    b'[' * 100_000,
    b'{"task": 5}',
  ],
)
@pytest.mark.parametrize('command', ['compare', 'average'])
def test_scores_json(refused, copied, command, content):
  (copied / 'scores.json').write_bytes(content)
  refused(command, CHANGES, 'copy')


@pytest.mark.parametrize(
  ('changes', 'fragments'),
  [
    ({'test/rouge1': NAN}, ('test/rouge1', 'nan')),
    ({'test/rouge1': float('inf')}, ('test/rouge1', 'inf')),
    ({'test/rouge1': 'high'}, ('test/rouge1', 'high')),
    ({'test/rouge1': None}, ('test/rouge1',)),
    ({'test/rouge1': True}, ('test/rouge1', 'True')),
    ({'test/rouge1': 'gone'}, ('test/rouge1',)),
    ({'num_examples': 3}, ('num_examples', '3', '2')),
    ({'num_examples': 'two'}, ('num_examples', 'two')),
    ({'num_examples': 'gone'}, ('num_examples',)),
    ({'task': 'another'}, ('task', 'another', 'by_hand')),
    ({'task': 'gone'}, ('task', 'by_hand')),
    ({'split': 'validation'}, ('split', 'validation', 'test')),
    ({'metric': 'bleu'}, ('metric', 'bleu', 'rouge')),
    ({'metric': 'rogue'}, ('metric', 'rogue')),
    ({'metric': 5}, ('metric', '5')),
    ({'metric': ['rouge']}, ('metric', 'rouge')),
    ({'metric': None}, ('metric', 'rouge')),
  ],
)
def test_average_of_other_scores(refused, copied, changes, fragments):
  _edit(copied / 'scores.json', changes)
  refused('average', CHANGES, 'copy', *fragments)


@pytest.mark.parametrize(
  'value', [NAN, float('inf'), float('-inf')], ids=['nan', 'inf', '-inf']
)
def test_average_of_one_run_that_is_not_finite(refused, copied, value):
  _edit(copied / 'scores.json', {'test/rouge2': value})
  refused(
    'average',
    ['!$scores_a', '!$scores_b', 'copy'],
    *('copy', 'test/rouge2', str(value)),
  )


@pytest.mark.parametrize(
  ('changes', 'fragments'),
  [
    ({'num_examples': 3}, ('3', '2')),
    ({'num_examples': 'two'}, ('two',)),
    ({'task': 'another'}, ('another', 'by_hand')),
    ({'split': 'validation'}, ('validation', 'test')),
    ({'metric': 'bleu'}, ('bleu',)),
    ({'metric': 'rogue'}, ('rogue',)),
    ({'metric': None}, ('rouge',)),
    ({'metric': 5}, ('5', 'metric')),
    ({'metric': ['rouge']}, ('rouge',)),
  ],
)
def test_comparison_of_other_scores(refused, copied, changes, fragments):
  _edit(copied / 'scores.json', changes)
  refused('compare', CHANGES, 'copy', *fragments)


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'text\n',
    b'{"index": 0}\n',
    b'{}\n{}\n',
    b'[]\n[]\n',
    b'5\n5\n',
    b'null\nnull\n',
    b'\xff\n\xfe\n',
    b'[' * 100_000 + b'\n{}\n',
  ],
)
def test_lines_of_predictions(refused, copied, content):
  (copied / 'predictions.jsonl').write_bytes(content)
  refused('compare', CHANGES, 'copy')


@pytest.mark.parametrize(
  ('changes', 'fragments'),
  [
    ({'statistics': 'gone'}, ('statistics',)),
    ({'statistics': []}, ('statistics',)),
    ({'statistics': [1.0]}, ('statistics',)),
    ({'statistics': 'many'}, ('statistics',)),
    ({'statistics': [NAN] * 3}, ('statistics', 'finite')),
    ({'statistics': None}, ('statistics',)),
    ({'scores': 'gone'}, ('scores',)),
    ({'scores': {}}, ('scores',)),
    ({'scores': []}, ('scores',)),
    (
      {'scores': dict.fromkeys(('rouge1', 'rouge2', 'rougeLsum'), 'a')},
      ('scores',),
    ),
    ({'target': 'gone'}, ('target',)),
    ({'target': 'another'}, ('target', 'another')),
    ({'inputs': 'gone'}, ('inputs',)),
    ({'inputs': 'another'}, ('inputs', 'another')),
  ],
)
def test_one_prediction(refused, copied, changes, fragments):
  path = copied / 'predictions.jsonl'
  first, second = path.read_text().splitlines()
  row = {**json.loads(second), **changes}
  row = {k: x for k, x in row.items() if x != 'gone'}
  path.write_text(f'{first}\n{json.dumps(row)}\n')
  refused('compare', CHANGES, 'copy', *fragments)


def test_no_predictions(refused, copied):
  (copied / 'predictions.jsonl').unlink()
  refused('compare', CHANGES, 'copy', 'predictions.jsonl')


def test_no_scores(refused, copied):
  (copied / 'scores.json').unlink()
  refused('compare', CHANGES, 'copy', 'scores.json')


@pytest.mark.parametrize('file', ['predictions.jsonl', 'scores.json'])
def test_a_folder_for_a_file(refused, copied, file):
  (copied / file).unlink()
  (copied / file).mkdir()
  refused('compare', CHANGES, 'copy', file)


FLAGS = [
  ('compare', '--confidence=0', 'confidence', '0'),
  ('compare', '--confidence=1', 'confidence', '1'),
  ('compare', '--confidence=95', 'confidence', '95'),
  ('compare', '--confidence=-0.5', 'confidence', '-0.5'),
  ('compare', '--confidence=nan', 'confidence', 'nan'),
  ('compare', '--confidence=inf', 'confidence', 'inf'),
  ('compare', '--confidence=95%', 'confidence', '95%'),
  ('compare', '--confidence=', 'confidence'),
  ('compare', '--num_resamples=0', 'num_resamples', '0'),
  ('compare', '--num_resamples=-5', 'num_resamples', '-5'),
  ('compare', '--num_resamples=1e3', 'num_resamples', '1e3'),
  ('compare', '--num_resamples=many', 'num_resamples', 'many'),
  ('compare', '--num_resamples=', 'num_resamples'),
  ('compare', '--seed=-1', 'seed', '-1'),
  ('compare', '--seed=1.5', 'seed', '1.5'),
  ('compare', '--seed=abc', 'seed', 'abc'),
  ('compare', '--json=yes', '--json', 'yes'),
  ('compare', '$scores_b', '$scores_b'),
  ('compare', '!$scores_b', 'B'),
  ('compare', ['!$scores_b', '$scores_bleu'], '$scores_bleu', 'rouge', 'bleu'),
  ('compare', ['!$scores_b', '$scores_b,$scores_b'], '$scores_b', 'twice'),
  ('compare', '--gin_file=x.gin', '--gin_file'),
  ('average', ['!$scores_b', '$scores_bleu'], '$scores_bleu', 'metric'),
  ('average', '$scores_b', '$scores_b', 'twice'),
  ('average', ['!$scores_a', '!$scores_b'], 'RUN'),
  ('average', '--json=yes', '--json', 'yes'),
  ('average', '--confidence=0.9', 'confidence'),
]


@pytest.mark.parametrize('case', FLAGS)
def test_flags(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)
