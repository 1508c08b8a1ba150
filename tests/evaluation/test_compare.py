"""Two systems, and several runs, on folders made by hand."""

import json
import pathlib
import subprocess
import sys

import pytest
import sacrebleu

from gqa_flax.evaluation import average, bootstrap, compare, metrics
from gqa_flax.evaluation import predictions as files

TARGETS = ['a b', 'c d', 'e f', 'g h']
# Of words found: all, half, none, all; and half, all, none, all.
ONE = ['a b', 'c x', 'x x', 'g h']
OTHER = ['a x', 'c d', 'x y', 'h g']


def write(folder, predictions, targets=TARGETS, name='rouge', **changes):
  """Writes what `evaluate` writes, and returns the folder's name."""
  metric = metrics.get(name)
  statistics = metric.statistics(targets, predictions)
  by_example = metric.example_scores(statistics).tolist()
  folder.mkdir(parents=True)
  files.write(
    folder,
    {
      'checkpoint': '/model',
      'step': 7,
      **{f'test/{k}': x for k, x in metric.corpus_scores(statistics).items()},
      'task': 'by_hand',
      'split': 'test',
      'metric': name,
      'num_examples': len(targets),
      **changes,
    },
    [
      {
        'index': i,
        'inputs': f'input {i}',
        'target': targets[i],
        'prediction': predictions[i],
        'scores': dict(zip(metric.keys, by_example[i])),
        'statistics': statistics[i].tolist(),
      }
      for i in range(len(targets))
    ],
  )
  return str(folder)


def test_one_run_each_by_hand(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  result = compare.compare([a], [b])
  assert (result.metric, result.num_examples) == ('rouge', 4)
  assert (result.a.runs, result.b.runs) == ((a,), (b,))
  # ROUGE-1: (100 + 50 + 0 + 100) / 4 and (50 + 100 + 0 + 100) / 4.
  assert result.a.scores['rouge1'] == result.b.scores['rouge1'] == 62.5
  difference = result.differences['rouge1']
  assert difference.value == 0
  assert difference.p_value == 1
  # Of four draws that give 12.5, -12.5, 0 or 0: 3.5% sum to 37.5 or more.
  assert difference.interval == (-37.5, 37.5)
  assert (difference.num_better_a, difference.num_better_b) == (1, 1)
  assert difference.num_tied == 2
  # ROUGE-2: the bigrams of 1 and 4 against that of 2: (1 - 2) / 4.
  difference = result.differences['rouge2']
  assert difference.value == -25
  assert (difference.num_better_a, difference.num_better_b) == (2, 1)
  assert difference.num_tied == 1


def test_a_better_system_is_found(tmp_path):
  targets = [f'w{i} x' for i in range(50)]
  a = write(tmp_path / 'a', ['x'] * 50, targets)
  b = write(tmp_path / 'b', ['x', 'x', *targets[2:]], targets)
  result = compare.compare([a], [b])
  difference = result.differences['rouge1']
  # 'x' alone: P = 1, R = 1/2, F = 2/3; B gains 1/3 on 48 of 50.
  assert difference.value == pytest.approx(100 / 3 * 48 / 50)
  assert difference.interval[0] > 28
  assert difference.interval[1] <= 100 / 3 + 1e-9
  assert difference.p_value == pytest.approx(2 / 1001)
  assert (difference.num_better_b, difference.num_tied) == (48, 2)
  reverse = compare.compare([b], [a]).differences['rouge1']
  assert reverse.value == -difference.value
  assert reverse.p_value == difference.p_value
  assert (reverse.num_better_a, reverse.num_better_b) == (48, 0)


def test_a_system_does_not_differ_from_itself(tmp_path):
  a = write(tmp_path / 'a', ONE)
  result = compare.compare([a], [a])
  assert result.a == result.b
  for difference in result.differences.values():
    assert difference == compare.Difference(0, (0, 0), 1, 0, 0, 4)


def test_runs_are_averaged_before_examples_are_counted(tmp_path):
  runs = [write(tmp_path / f'{i}', p) for i, p in enumerate((ONE, OTHER, ONE))]
  result = compare.compare(runs[:2], runs[2:])
  # By example: 75, 75, 0, 100 against 100, 50, 0, 100.
  difference = result.differences['rouge1']
  assert result.a.runs == tuple(runs[:2])
  assert result.a.scores['rouge1'] == 62.5
  assert (difference.num_better_a, difference.num_better_b) == (1, 1)
  assert difference.num_tied == 2
  # ROUGE-2: A has (50 + 25) / 2, B 50.
  assert result.a.scores['rouge2'] == 37.5
  assert result.differences['rouge2'].value == 12.5


def test_runs_that_are_the_same_in_another_order_tie(tmp_path):
  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1.
  texts = [['a b c d e f g'], ['a x y'], ['a b x y z']]
  targets = ['a b c d e f g h i j']
  one = [write(tmp_path / f'1{i}', t, targets) for i, t in enumerate(texts)]
  two = [write(tmp_path / f'2{i}', t, targets) for i, t in enumerate(texts)]
  for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 1, 0]):
    result = compare.compare(one, [two[i] for i in order])
    assert result.differences['rouge1'].num_tied == 1


def test_bleu_is_compared_by_its_counts(tmp_path):
  targets = [f'a b c d e w{i}' for i in range(12)]
  better = [t if i % 2 else t[2:] for i, t in enumerate(targets)]
  worse = [t if i % 4 else 'x y z' for i, t in enumerate(targets)]
  a = write(tmp_path / 'a', worse, targets, 'bleu')
  b = write(tmp_path / 'b', better, targets, 'bleu')
  result = compare.compare([a], [b], num_resamples=200)
  for system, texts in ((result.a, worse), (result.b, better)):
    expected = sacrebleu.corpus_bleu(texts, [targets], tokenize='intl').score
    assert system.scores == {'bleu': expected}
    low, high = system.intervals['bleu']
    assert low < expected < high
  difference = result.differences['bleu']
  assert difference.value == result.b.scores['bleu'] - result.a.scores['bleu']
  # A is whole on 9 of 12, B on 6; both on 1, 3, 5, 7, 9 and 11; B has the
  # better of 0, 4 and 8.
  assert (difference.num_better_a, difference.num_better_b) == (3, 3)
  assert difference.num_tied == 6


def test_chrf_is_compared_by_its_counts(tmp_path):
  targets = [f'第{i}次会议在东京举行' for i in range(8)]
  worse = [t[:4] for t in targets]
  a = write(tmp_path / 'a', worse, targets, 'chrf')
  b = write(tmp_path / 'b', targets, targets, 'chrf')
  result = compare.compare([a], [b], num_resamples=50)
  expected = sacrebleu.corpus_chrf(worse, [targets]).score
  assert result.a.scores == {'chrf': pytest.approx(expected)}
  assert result.b.scores == {'chrf': pytest.approx(100)}
  assert result.differences['chrf'].num_better_b == 8
  assert average.average([a, b]).scores['test/chrf'].max == pytest.approx(100)


def test_the_intervals_are_those_of_the_evaluation(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  metric = metrics.get('rouge')
  ends = bootstrap.interval([metric.statistics(TARGETS, ONE)], metric.scores)
  expected = {k: tuple(ends[:, i]) for i, k in enumerate(metric.keys)}
  assert compare.compare([a], [b]).a.intervals == expected
  other = compare.compare([a], [b], confidence=0.5, num_resamples=99, seed=3)
  assert (other.confidence, other.num_resamples, other.seed) == (0.5, 99, 3)
  assert other.a.intervals != expected


def test_the_same_twice(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  assert compare.compare([a], [b]) == compare.compare([a], [b])


def test_other_examples_are_refused_with_the_first_that_differs(tmp_path):
  a = write(tmp_path / 'a', ONE)
  b = write(tmp_path / 'b', OTHER, ['a b', f'{"c " * 40}z', 'e', 'g'])
  targets = ['a b', 'c d', 'e f']
  c = write(tmp_path / 'c', ONE[:3], targets)
  d = write(tmp_path / 'd', OTHER, [f'{"c " * 40}z', *TARGETS[1:]])
  e = write(tmp_path / 'e', OTHER, [f'{"c " * 40}y', *TARGETS[1:]])
  with pytest.raises(
    ValueError,
    match=f'{a} and {b} are not of the same examples: the target of example 1 '
    "has 'c d' in the one where it has 'c c c .* in the other; evaluate both",
  ):
    compare.compare([a], [b])
  # Where they differ is what is shown.
  with pytest.raises(ValueError, match="c c c z' in the one .* c c c y' in"):
    compare.compare([d], [e])
  with pytest.raises(
    ValueError, match=f'{a} has 4 examples, but {c} has 3; evaluate both with'
  ):
    compare.compare([a], [c])
  # A run of A itself is compared too.
  with pytest.raises(ValueError, match=f'{a} has 4 examples, but {c} has 3'):
    compare.compare([a, c], [a])


def test_other_inputs_are_refused(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  path = tmp_path / 'b' / 'predictions.jsonl'
  path.write_text(path.read_text().replace('input 2', 'input two'))
  with pytest.raises(
    ValueError, match="inputs of example 2 has 'input 2' .* has 'input two'"
  ):
    compare.compare([a], [b])


def test_other_metrics_are_refused(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER, name='bleu')
  c = write(tmp_path / 'c', ONE, metric=None)
  with pytest.raises(
    ValueError, match=f'{a} was scored with rouge, but {b} with bleu; compare'
  ):
    compare.compare([a], [b])
  with pytest.raises(
    ValueError, match=f'{c} has no scores of single .* rouge, bleu, chrf, .*'
  ):
    compare.compare([a], [c])


@pytest.mark.parametrize('name', ['task', 'split'])
def test_another_task_of_the_same_examples_is_refused(tmp_path, name):
  a = write(tmp_path / 'a', ONE)
  b = write(tmp_path / 'b', OTHER, **{name: 'another'})
  with pytest.raises(
    ValueError,
    match=f"{b} has {name} = 'another', but {a} has '.*'; compare runs of one",
  ):
    compare.compare([a], [b])


def damage(folder, change):
  """Edits the third line of a run's predictions."""
  path = pathlib.Path(folder) / 'predictions.jsonl'
  lines = path.read_text().splitlines()
  example = json.loads(lines[2])
  change(example)
  lines[2] = json.dumps(example)
  path.write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize(
  'change',
  [
    lambda e: e['statistics'].__setitem__(0, float('nan')),
    lambda e: e['statistics'].__setitem__(1, None),
    lambda e: e['statistics'].append(1.0),
    lambda e: e.update(statistics='0 0 0'),
    lambda e: e.pop('statistics'),
    lambda e: e['scores'].pop('rouge2'),
    lambda e: e['scores'].update(rouge1='high'),
    lambda e: e.update(scores=None),
    lambda e: e.pop('inputs'),
    lambda e: e.pop('target'),
  ],
)
def test_examples_without_their_numbers_are_refused(tmp_path, change):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  damage(b, change)
  with pytest.raises(ValueError, match=f'Example 2 in {b} lacks what rouge is'):
    compare.compare([a], [b])


@pytest.mark.parametrize('function', [compare.compare, average.average])
@pytest.mark.parametrize(
  'name, value',
  [
    ('test/rouge1', float('nan')),
    ('test/rouge1', float('inf')),
    ('test/rouge1', None),
    ('test/rouge1', '62.5'),
    ('test/rouge1', True),
    ('num_examples', -4),
    ('num_examples', '4'),
    ('num_examples', 0),
    ('metric', 3),
    ('split', ['test']),
    ('evaluation', 'mine'),
    ('loss', float('-inf')),
  ],
)
def test_records_that_no_evaluation_writes_are_refused(
  tmp_path, function, name, value
):
  runs = [write(tmp_path / i, ONE, **{name: value}) for i in 'ab']
  arguments = [[run] for run in runs] if function is compare.compare else [runs]
  with pytest.raises(
    ValueError, match=f'a/scores.json says {name} = .*; evalu'
  ):
    function(*arguments)


def test_files_that_cannot_be_read_are_named(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  path = tmp_path / 'b' / 'predictions.jsonl'
  for content in (b'\xff\xfe\n', b'[' * 100_000 + b'\n', b'3\n', b'{\n'):
    path.write_bytes(content)
    with pytest.raises(ValueError, match='predictions.jsonl.* is not JSON as'):
      compare.compare([a], [b])
  path.unlink()
  path.mkdir()
  with pytest.raises(ValueError, match='predictions.jsonl is not JSON as'):
    compare.compare([a], [b])
  with pytest.raises(FileNotFoundError, match='no predictions.jsonl in .*json'):
    compare.compare([a], [f'{a}/scores.json'])


@pytest.mark.parametrize('function', [compare.compare, average.average])
def test_runs_that_are_missing_or_there_twice_are_refused(tmp_path, function):
  a = write(tmp_path / 'a', ONE)
  others = [[a]] if function is compare.compare else []
  with pytest.raises(ValueError, match='no runs; give at least one'):
    function([], *others)
  with pytest.raises(ValueError, match=f'The run {a} is given twice'):
    function([a, f'{a}/'], *others)
  with pytest.raises(FileNotFoundError, match='in nowhere; give a folder that'):
    function(['nowhere'], *others)
  for runs in ([''], [a, '']):
    with pytest.raises(
      ValueError, match='has no name; give the folder of each'
    ):
      function(runs, *others)
  (tmp_path / 'link').symlink_to(a)
  with pytest.raises(ValueError, match=f'The run {a} is given twice'):
    function([a, str(tmp_path / 'link')], *others)


def test_a_comparison_is_read_and_is_json(tmp_path):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  result = compare.compare([a], [b])
  lines = result.table().splitlines()
  assert lines[0] == f'A: {a}'
  assert lines[1] == f'B: {b}'
  assert lines[2].split('  ')[0] == 'score'
  cells = ' '.join(lines[3].split())
  low, high = result.a.intervals['rouge1']
  assert cells.startswith(f'rouge1 62.50 [{low:.2f}, {high:.2f}] 62.50 [')
  assert cells.endswith(' +0.00 [-37.50, +37.50] 1.000 1 1 2')
  assert lines[-1] == (
    'rouge on 4 examples; intervals and p by 1,000 bootstrap resamples, seed 0'
  )
  # Columns end where their heads end.
  assert len({len(line) for line in lines[2:6]}) == 1
  again = json.loads(json.dumps(result.to_dict()))
  assert again['differences']['rouge2']['value'] == -25
  assert again['a']['runs'] == [a]


def test_neither_loads_jax_nor_tensorflow():
  code = (
    'import sys\n'
    'from gqa_flax.evaluation import average, compare\n'
    'print([m for m in ("jax", "tensorflow", "seqio") if m in sys.modules])'
  )
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert loaded.stdout.strip() == '[]'


@pytest.mark.parametrize(
  'argument',
  [
    *({'confidence': x} for x in (95, 0, 1, -0.5, float('nan'), float('inf'))),
    *({'num_resamples': x} for x in (0, -1)),
    {'seed': -1},
  ],
)
def test_arguments_out_of_range_are_refused(tmp_path, argument):
  a, b = write(tmp_path / 'a', ONE), write(tmp_path / 'b', OTHER)
  with pytest.raises(ValueError, match='give a confidence between 0 and 1'):
    compare.compare([a], [b], **argument)
