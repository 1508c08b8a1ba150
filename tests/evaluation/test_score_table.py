"""Scores as `gqa-flax evaluate` prints them."""

from gqa_flax.evaluation.score_table import score_table

LENGTHS = {
  'inputs': {'num_cut': 12, 'share_cut': 0.0625},
  'target': {'num_cut': 0, 'share_cut': 0.0},
  'prediction': {'num_cut': 3, 'share_cut': 0.015625},
}


def test_scores_stand_beside_their_intervals():
  record = {
    'checkpoint': '/tmp/run',
    'step': 8,
    'validation/rouge1': 45.9,
    'validation/cross_entropy': 1.234,
    'task': 'news',
    'split': 'validation',
    'metric': 'rouge',
    'num_examples': 1192,
    'skipped': {'summary': 2, 'document': 1},
    'intervals': {'validation/rouge1': [43.1, 48.75]},
    'bootstrap': {'confidence': 0.95},
    'lengths': LENGTHS,
  }
  assert score_table(record).splitlines() == [
    '                          score    95% interval',
    'validation/rouge1         45.90  43.10 to 48.75',
    'validation/cross_entropy   1.23',
    '',
    '1,192 examples of news (validation); cut: 12 inputs (6.2%), 0 targets '
    '(0.0%), 3 predictions (1.6%); skipped: 3.',
  ]


def test_losses_alone_have_neither_interval_nor_examples():
  assert score_table({'checkpoint': '/tmp/run', 'validation/loss': 2.0}) == (
    '                 score\nvalidation/loss   2.00'
  )
