"""Several runs of one system, on folders made by hand."""

import json

import pytest

from gqa_flax.evaluation import average, bootstrap, predictions


def write(folder, rouge1, **changes):
  """Writes the scores.json of a run, and returns the folder's name."""
  record = {
    'checkpoint': '/model',
    'step': 7,
    'test/rouge1': rouge1,
    'loss': 0.5,
    'task': 'by_hand',
    'split': 'test',
    'metric': 'rouge',
    'num_examples': 4,
    'intervals': {'test/rouge1': [30.0, 50.0]},
    'evaluation': {'examples': 'a', 'params': f'{rouge1}'},
  }
  folder.mkdir()
  predictions.write(folder, record | changes, [])
  return str(folder)


def test_an_average_by_hand(tmp_path):
  runs = [
    write(tmp_path / f'{i}', score)
    for i, score in enumerate((40.0, 42.0, 44.0))
  ]
  result = average.average(runs)
  assert list(result.scores) == ['test/rouge1', 'loss']
  # Deviations -2, 0, 2: the root of 8 / 2.
  assert result.scores['test/rouge1'] == bootstrap.Spread(
    values=(40.0, 42.0, 44.0), mean=42.0, std=2.0, min=40.0, max=44.0
  )
  assert result.scores['loss'].std == 0
  lines = result.table().splitlines()
  assert lines[:3] == [f'run {i + 1}: {run}' for i, run in enumerate(runs)]
  assert lines[4].split() == [
    *('test/rouge1', '42.00', '2.00', '40.00', '44.00'),
    *('40.00', '42.00', '44.00'),
  ]
  again = json.loads(json.dumps(result.to_dict()))
  assert again['scores']['test/rouge1']['std'] == 2


def test_one_run_has_no_spread(tmp_path):
  result = average.average([write(tmp_path / 'a', 62.5)])
  assert result.scores['test/rouge1'].std is None
  assert result.table().splitlines()[2].split()[:3] == [
    *('test/rouge1', '62.50', '-')
  ]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'split': 'validation'}, "has split = 'validation', but .* has 'test'"),
    ({'metric': 'bleu'}, "has metric = 'bleu', but .* has 'rouge'; average"),
    ({'num_examples': 3}, 'has num_examples = 3, but .* has 4'),
    ({'task': 'b'}, "has task = 'b', but .* has 'by_hand'"),
    (
      {'evaluation': {'examples': 'b'}},
      "has examples = 'b', but .* has 'a'; average",
    ),
    ({'other': 0.5}, "do not both have the score 'other'; average runs of the"),
  ],
)
def test_other_evaluations_are_not_averaged(tmp_path, changes, message):
  a = write(tmp_path / 'a', 62.5)
  b = write(tmp_path / 'b', 40.0, **changes)
  with pytest.raises(ValueError, match=message):
    average.average([a, b])
  with pytest.raises(ValueError, match='average runs of the same evaluation'):
    average.average([b, a])


def test_a_record_without_a_score_is_refused(tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir()
  predictions.write(folder, {'checkpoint': '/model', 'step': 7}, [])
  with pytest.raises(ValueError, match=f'{folder} has no score to average'):
    average.average([str(folder)])
