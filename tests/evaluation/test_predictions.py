"""Lengths, and the files that an evaluation writes."""

import json

import pytest

from gqa_flax.evaluation import predictions

LIMITS = {'inputs': 8, 'targets': 4}


def lengths(inputs, target, prediction, ended=True):
  return predictions.example_lengths(
    inputs, target, prediction, limits=LIMITS, ended=ended
  )


def test_what_fills_its_limit_is_not_cut_and_what_exceeds_it_is():
  assert lengths(8, 4, 4) == {
    'inputs_tokens': 8,
    'inputs_cut': False,
    'target_tokens': 4,
    'target_cut': False,
    'prediction_tokens': 4,
    'prediction_cut': False,
  }
  cut = lengths(9, 5, 4, ended=False)
  assert cut['inputs_cut'] and cut['target_cut'] and cut['prediction_cut']


def test_a_prediction_without_eos_is_cut_only_where_the_limit_ended_it():
  assert not lengths(1, 1, 3, ended=False)['prediction_cut']


def test_lengths_are_summed_up_by_hand():
  summary = predictions.summarize_lengths(
    [
      lengths(2, 1, 4, ended=False),
      lengths(4, 2, 4),
      lengths(6, 9, 1),
      lengths(40, 8, 1),
    ]
  )
  # The 95th percentile lies 0.95 * 3 = 2.85 places from the shortest.
  assert summary['inputs'] == {
    'num_cut': 1,
    'share_cut': 0.25,
    'mean': 13.0,
    'median': 5.0,
    'p95': pytest.approx(6 + 0.85 * 34),
    'max': 40,
  }
  assert summary['target']['num_cut'] == 2
  assert summary['target']['share_cut'] == 0.5
  assert summary['target']['mean'] == 5
  assert summary['prediction'] == {
    'num_cut': 1,
    'share_cut': 0.25,
    'mean': 2.5,
    'median': 2.5,
    'p95': 4.0,
    'max': 4,
  }
  json.dumps(summary)


def test_what_is_written_is_read(tmp_path):
  # New lines that only Unicode knows must not end a line of the file.
  lines = [{'inputs': 'a\u2028b\x85c\nd', 'target': ['é', '東京']}]
  record = {'num_examples': 1, 'test/rouge1': 1 / 3}
  predictions.write(tmp_path, record, lines)
  evaluation = predictions.read(tmp_path)
  assert evaluation == predictions.Evaluation(str(tmp_path), record, lines)
  assert '東京' in (tmp_path / 'predictions.jsonl').read_text()
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'predictions.jsonl', 'scores.json'}


def test_scores_are_told_from_what_else_is_recorded():
  record = {
    'checkpoint': '/m',
    'step': 3,
    'test/rouge1': 1.5,
    'heads': 2,
    'metric': 'rouge',
    'num_examples': 7,
    'intervals': {'test/rouge1': [1.0, 2.0]},
  }
  assert predictions.score_keys(record) == ['test/rouge1', 'heads']


@pytest.mark.parametrize('name', ['scores.json', 'predictions.jsonl'])
def test_files_that_are_absent_or_not_ours_are_refused(tmp_path, name):
  predictions.write(tmp_path, {'num_examples': 1}, [{'index': 0}])
  (tmp_path / name).write_text('{"index": 0\n')
  with pytest.raises(ValueError, match=f'{tmp_path}/{name}.* is not JSON as'):
    predictions.read(tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(
    FileNotFoundError, match=f'There is no {name} in {tmp_path}; give a folder'
  ):
    predictions.read(tmp_path)


def test_scores_that_are_a_list_are_not_ours(tmp_path):
  (tmp_path / 'scores.json').write_text('[]')
  with pytest.raises(ValueError, match='scores.json is not JSON as'):
    predictions.read_scores(tmp_path)


def test_files_of_two_evaluations_are_refused(tmp_path):
  predictions.write(tmp_path, {'num_examples': 2}, [{'index': 0}])
  with pytest.raises(
    ValueError, match='predictions of 1 examples, but scores of 2; evaluate'
  ):
    predictions.read(tmp_path)
