"""What a run says of itself when it has ended."""

import json

import pytest

from gqa_flax.training import progress


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / 'a run'
  for step in (4, 10):
    (folder / f'checkpoint_{step}').mkdir(parents=True)
  (folder / 'checkpoint_12.orbax-checkpoint-tmp').mkdir()
  return folder


def log(folder, *logged):
  lines = [json.dumps(record) + '\n' for record in logged]
  (folder / progress.METRICS_FILE).write_text(''.join(lines))


def test_last_and_best_scores_are_told_with_their_steps(run):
  log(
    run,
    {'step': 4, 'loss': 9.0},
    {'step': 4, 'dev/cross_entropy': 2.5, 'dev/rouge1': 30.25},
    {'step': 10, 'loss': 8.0},
    {'step': 10, 'dev/cross_entropy': 2.0, 'dev/rouge1': 28.0},
  )
  assert progress.outcome(run).splitlines() == [
    f'checkpoint         {run}/checkpoint_10',
    'dev/cross_entropy  2 at step 10',
    'dev/rouge1         28 at step 10 (best: 30.25 at step 4)',
    f"curves             tensorboard --logdir='{run}'",
  ]


def test_a_run_without_evaluations_tells_its_checkpoint(run):
  assert progress.outcome(run).splitlines() == [
    f'checkpoint  {run}/checkpoint_10',
    f"curves      tensorboard --logdir='{run}'",
  ]


def test_a_score_that_is_no_number_is_no_best(run):
  log(run, {'step': 4, 'dev/bleu': 1.0}, {'step': 10, 'dev/bleu': float('nan')})
  assert 'nan at step 10 (best: 1 at step 4)' in progress.outcome(run)
