"""The paper's pipeline on the command line, and a run that is killed."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gqa_flax import cli
from gqa_flax.checkpoints import native
from gqa_flax.runtime import owner

MODEL = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin.config.T5Config.emb_dim=32',
  '--gin.config.T5Config.head_dim=4',
  '--gin.config.T5Config.mlp_dim=32',
  '--gin.config.T5Config.num_encoder_layers=1',
  '--gin.config.T5Config.num_decoder_layers=1',
]
SPANS = [
  '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 10}",
  '--gin.VALIDATION_EXAMPLES=16',
]
SUMMARIES = [
  '--gin_file=gin_configs/tasks/wikipedia_summarization.gin',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}",
]
BATCH = '--gin.BATCH_SIZE=8'


def gin_file(run):
  return f'--gin_file=gin_configs/runs/{run}.gin'


def run(command, *argv):
  # Files before bindings, as argparse keeps each kind in order.
  assert cli.main([command, '--debug', *argv]) == 0


@pytest.mark.slow
def test_pretrain_convert_uptrain_finetune_evaluate_infer(
  tmp_path, capsys, monkeypatch
):
  folder = {
    name: str(tmp_path / name)
    for name in ('mha', 'gqa', 'uptrained', 'tuned', 'scores')
  }
  steps = ['--gin.EVALUATE_EVERY=4', BATCH]
  run(
    'train',
    *MODEL,
    *SPANS,
    gin_file('pretrain'),
    *steps,
    f'--gin.MODEL_DIR={folder["mha"]}',
    '--gin.TRAIN_STEPS=4',
  )
  run(
    'convert',
    gin_file('convert'),
    f'--gin.INPUT={folder["mha"]}',
    f'--gin.OUTPUT={folder["gqa"]}',
    '--gin.NUM_KV_HEADS=2',
    '--gin.CONVERSION_METHOD=mean',
  )
  run(
    'train',
    *MODEL,
    '--gin_file=gin_configs/attention/gqa_2.gin',
    *SPANS,
    gin_file('uptrain'),
    *steps,
    f'--gin.MODEL_DIR={folder["uptrained"]}',
    f'--gin.INITIAL_CHECKPOINT_PATH={folder["gqa"]}',
    '--gin.TRAIN_STEPS=6',
  )
  run(
    'train',
    *MODEL,
    '--gin_file=gin_configs/attention/gqa_2.gin',
    *SUMMARIES,
    gin_file('finetune'),
    *steps,
    '--gin.evaluate.TaskScore.num_examples=9',
    f'--gin.MODEL_DIR={folder["tuned"]}',
    f'--gin.INITIAL_CHECKPOINT_PATH={folder["uptrained"]}',
    '--gin.TRAIN_STEPS=8',
  )
  capsys.readouterr()
  evaluation = [
    *SUMMARIES,
    gin_file('evaluate'),
    BATCH,
    f'--gin.CHECKPOINT={folder["tuned"]}',
    f'--gin.OUTPUT_DIR={folder["scores"]}',
  ]
  run('evaluate', *evaluation, '--gin.NUM_EXAMPLES=9', '--json')
  printed = json.loads(capsys.readouterr().out)

  # Another split does not replace it.
  before = {x.name: x.read_bytes() for x in (tmp_path / 'scores').iterdir()}
  other = ['--gin.NUM_EXAMPLES=8', '--gin.SPLIT=test']
  assert cli.main(['evaluate', *evaluation, *other]) == 1
  error = capsys.readouterr().err
  assert "SPLIT is 'validation' there and 'test' here" in error
  assert 'NUM_EXAMPLES is 9 there and 8 here' in error
  assert 'give another OUTPUT_DIR' in error
  assert before == {
    x.name: x.read_bytes() for x in (tmp_path / 'scores').iterdir()
  }

  scores = json.loads((tmp_path / 'scores' / 'scores.json').read_text())
  assert scores['step'] == 8
  assert {k: scores[k] for k in printed} == printed
  lines = (tmp_path / 'scores' / 'predictions.jsonl').read_text().splitlines()
  predictions = [json.loads(line) for line in lines]
  assert len(predictions) == 9
  assert predictions[0]['inputs'].startswith('summarize: ')

  # The same model, decoder and length give the same text, line by line.
  texts = [p['inputs'].removeprefix('summarize: ') for p in predictions]
  lines = ''.join(t + '\n' for t in texts).encode()
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(lines)))
  infer = [*SUMMARIES, gin_file('infer'), f'--gin.CHECKPOINT={folder["tuned"]}']
  run('infer', *infer, BATCH)
  assert capsys.readouterr().out.splitlines() == [
    p['prediction'] for p in predictions
  ]

  # Everything that was run says how, and goes on as one model.
  for name, command in (
    ('mha', 'train'),
    ('gqa', 'convert'),
    ('uptrained', 'train'),
    ('scores', 'evaluate'),
  ):
    assert (tmp_path / name / f'{command}.gin').read_text()
    record = (tmp_path / name / f'{command}_provenance.json').read_text()
    assert json.loads(record)['device_kind'] == 'cpu'
  uptrained = native.restore(tmp_path / 'uptrained')
  assert (uptrained.step, uptrained.config.num_kv_heads) == (6, 2)
  tuned = (tmp_path / 'tuned' / 'metrics.jsonl').read_text().splitlines()
  assert any('validation/rouge1' in json.loads(line) for line in tuned)
  assert list((tmp_path / 'mha').glob('events.out.tfevents.*'))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_parameters(tmp_path):
  """SIGKILL between two checkpoints, then the same command again."""

  def command(name):
    return [
      sys.executable,
      '-m',
      'gqa_flax.cli',
      'train',
      *MODEL,
      *SPANS,
      gin_file('pretrain'),
      BATCH,
      '--gin.DROPOUT_RATE=0.1',
      f'--gin.MODEL_DIR={tmp_path / name}',
      '--gin.TRAIN_STEPS=40',
      '--gin.CHECKPOINT_EVERY=15',
      '--gin.loop.train.log_every=1',
    ]

  def logged(name):
    path = tmp_path / name / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith('}')]

  subprocess.run(command('whole'), check=True, capture_output=True)

  process = subprocess.Popen(
    command('killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  saved = tmp_path / 'killed' / 'checkpoint_15'
  while not (saved.exists() and any(r['step'] >= 18 for r in logged('killed'))):
    assert process.poll() is None, 'the run ended before it could be killed'
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  names = {p.name for p in (tmp_path / 'killed').glob('checkpoint_*')}
  whole = {name for name in names if not name.endswith('-tmp')}
  assert whole == {'checkpoint_15'}

  subprocess.run(command('killed'), check=True, capture_output=True)
  whole, killed = (
    native.restore(tmp_path / name) for name in ('whole', 'killed')
  )
  assert whole.step == killed.step == 40
  jax.tree.map(np.testing.assert_array_equal, whole.params, killed.params)
  losses = [
    [(r['step'], r['loss']) for r in logged(name) if 'loss' in r]
    for name in ('whole', 'killed')
  ]
  assert losses[0] == losses[1]
  assert [step for step, _ in losses[0]] == list(range(1, 41))


@pytest.mark.slow
def test_a_killed_evaluation_scores_the_same(
  tmp_path, tiny_config, make_params
):
  """SIGKILL between two batches, then the same command again."""
  config = dataclasses.replace(tiny_config, vocab_size=4160, num_kv_heads=2)
  with native.checkpoint_manager(tmp_path / 'model') as manager:
    native.save(manager, native.Checkpoint(3, make_params(config), config))
  num_examples, batch_size = 400, 4

  def command(name):
    return [
      sys.executable,
      '-m',
      'gqa_flax.cli',
      'evaluate',
      '--gin_file=gin_configs/tasks/wikipedia_summarization.gin',
      gin_file('evaluate'),
      f'--gin.CHECKPOINT={tmp_path / "model"}',
      f'--gin.OUTPUT_DIR={tmp_path / name}',
      f'--gin.NUM_EXAMPLES={num_examples}',
      f'--gin.BATCH_SIZE={batch_size}',
    ]

  subprocess.run(command('whole'), check=True, capture_output=True)

  partial = tmp_path / 'killed' / 'predictions.partial.jsonl'

  def num_decoded():
    return partial.read_text().count('\n') - 1 if partial.exists() else 0

  process = subprocess.Popen(
    command('killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  while num_decoded() < 10:
    assert process.poll() is None, 'it ended before it could be killed'
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert 10 <= num_decoded() < num_examples / batch_size
  left = {path.name for path in partial.parent.iterdir()}
  assert left == {partial.name, owner.NAME}

  subprocess.run(command('killed'), check=True, capture_output=True)
  left = {path.name for path in partial.parent.iterdir()}
  assert left == {path.name for path in (tmp_path / 'whole').iterdir()}
  assert 'scores.json' in left
  assert not left & {partial.name, owner.NAME}
  for file in ('predictions.jsonl', 'scores.json'):
    whole, killed = (
      (tmp_path / name / file).read_bytes() for name in ('whole', 'killed')
    )
    assert whole == killed
