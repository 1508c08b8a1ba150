"""What a run keeps of its configuration, and that nothing else replaces it."""

import json

import pytest

from gqa_flax import cli
from gqa_flax.training import window


@pytest.fixture
def argv(tmp_path):
  """A training run whose steps take no time."""
  files = ('models/mini', 'tasks/wikipedia_span_corruption', 'runs/pretrain')
  return [
    'train',
    *(f'--gin_file=gin_configs/{file}.gin' for file in files),
    f'--gin.MODEL_DIR={tmp_path}',
    '--gin.TRAIN_STEPS=1',
    '--gin.BATCH_SIZE=8',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 16}",
    '--gin.VALIDATION_EXAMPLES=8',
    '--gin.config.T5Config.emb_dim=16',
    '--gin.config.T5Config.mlp_dim=16',
    '--gin.config.T5Config.head_dim=4',
  ]


@pytest.mark.slow
def test_the_whole_configuration_is_there_while_a_run_goes_on(
  tmp_path, argv, monkeypatch
):
  during = []
  add = window.Window.add

  def spy(*args):
    during.append((tmp_path / 'train.gin').read_text())
    return add(*args)

  monkeypatch.setattr(window.Window, 'add', spy)
  assert cli.main(argv) == 0
  assert during == [(tmp_path / 'train.gin').read_text()]
  for line in (
    'TRAIN_STEPS = 1',
    'optimizer.rsqrt_schedule.warmup_steps = %WARMUP_STEPS',
    'validation.ValidationLoss.name',
  ):
    assert line in during[0]


@pytest.mark.slow
def test_a_refused_run_leaves_the_record_of_the_earlier_one(
  tmp_path, argv, capsys
):
  assert cli.main(argv) == 0
  files = ('train.gin', 'train_provenance.json')
  before = [(tmp_path / name).read_text() for name in files]
  # By the checkpoint that is there.
  assert cli.main([*argv, '--gin.NUM_KV_HEADS=2', '--gin.TRAIN_STEPS=4']) == 1
  assert 'num_kv_heads 8 (configured: 2)' in capsys.readouterr().err
  # There is nothing to do.
  assert cli.main([*argv, '--gin.CHECKPOINT_EVERY=7']) == 0
  assert [(tmp_path / name).read_text() for name in files] == before
  assert json.loads(before[1])['num_devices'] == 8
