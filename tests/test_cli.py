"""The command line: what it prints, refuses, and how it reads bindings."""

import pytest

from gqa_flax import cli

RUNS = 'gin_configs/runs'
SUMMARIZATION = '--gin_file=gin_configs/tasks/wikipedia_summarization.gin'
PRETRAIN = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
  f'--gin_file={RUNS}/pretrain.gin',
]


def fails(capsys, *argv):
  """Returns what a failing command says: one line, no traceback."""
  assert cli.main(argv) != 0
  captured = capsys.readouterr()
  assert captured.out == ''
  assert captured.err.count('\n') == 1, captured.err
  assert 'Traceback' not in captured.err
  return captured.err


def test_help_teaches_by_example(capsys):
  for command in ('train', 'convert', 'evaluate', 'infer'):
    with pytest.raises(SystemExit) as exit_:
      cli.main([command, '--help'])
    assert exit_.value.code == 0
    assert f'gqa-flax {command}' in capsys.readouterr().out


def test_dry_run_prints_the_configuration_later_bindings_winning(capsys):
  status = cli.main(
    [
      'train',
      *PRETRAIN,
      '--gin_file=gin_configs/attention/gqa_2.gin',
      '--gin.MODEL_DIR=/nowhere/at all',
      '--gin.TRAIN_STEPS=7',
      '--gin.BATCH_SIZE=4',
      '--gin.BATCH_SIZE=8',
      '--gin.optimizer.rsqrt_schedule.warmup_steps=3',
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 16}",
      '--dry_run',
    ]
  )
  lines = capsys.readouterr().out.splitlines()
  assert status == 0
  for line in (
    'NUM_KV_HEADS = 2',
    "MODEL_DIR = '/nowhere/at all'",
    'TRAIN_STEPS = 7',
    'BATCH_SIZE = 8',
    "TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 16}",
    'optimizer.rsqrt_schedule.warmup_steps = 3',
    'config.T5Config.num_kv_heads = %NUM_KV_HEADS',
  ):
    assert line in lines


@pytest.mark.parametrize('run', ['pretrain', 'uptrain', 'finetune'])
@pytest.mark.parametrize(
  'size', ['mini', 'small', 'base', 'large', 'xl', 'xxl']
)
def test_every_size_composes_with_every_run(capsys, size, run):
  argv = ['train', '--dry_run', f'--gin_file=gin_configs/models/{size}.gin']
  argv += [SUMMARIZATION, f'--gin_file={RUNS}/{run}.gin']
  assert cli.main(argv) == 0
  assert 'loop.train.config = @config.T5Config()' in capsys.readouterr().out


@pytest.mark.parametrize('size', ['small', 'base', 'large', 'xl', 'xxl'])
def test_gin_sizes_are_the_named_sizes(size):
  import gin

  from gqa_flax.config import T5Config

  gin.clear_config()
  gin.parse_config_file(f'gin_configs/models/{size}.gin')
  configured = gin.get_configurable(T5Config)()
  gin.clear_config()
  assert configured == T5Config.t5_1_1(size, dtype='bfloat16', dropout_rate=0.0)


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--gin_file=nowhere.gin'], 'The gin file nowhere.gin cannot be read'),
    ([*PRETRAIN], 'add --gin.MODEL_DIR=... --gin.TRAIN_STEPS=...'),
    (
      [*PRETRAIN, '--gin.TRAIN_STEP=5'],
      '--gin.TRAIN_STEP: no gin file uses TRAIN_STEP; the nearest are '
      'TRAIN_STEPS',
    ),
    (
      [*PRETRAIN, '--gin.loop.train.train_stepz=5'],
      "doesn't have a parameter named 'train_stepz'",
    ),
    ([*PRETRAIN, '--gin.looop.x=5'], "No configurable matching 'looop'"),
    ([*PRETRAIN, '--gin.BATCH_SIZE'], 'write --gin.NAME=value'),
  ],
)
def test_a_bad_configuration_is_one_sentence(capsys, argv, message):
  assert message in fails(capsys, 'train', *argv)


def test_an_unknown_task_names_the_nearest(capsys, tmp_path):
  error = fails(
    capsys,
    'train',
    *PRETRAIN,
    f'--gin.MODEL_DIR={tmp_path}',
    '--gin.TRAIN_STEPS=1',
    '--gin.MIXTURE_OR_TASK_NAME=wikipedia_summarisation',
  )
  assert "no task 'wikipedia_summarisation'" in error
  assert 'wikipedia_summarization' in error


def test_heads_that_do_not_divide_are_one_sentence(capsys, tmp_path):
  error = fails(
    capsys,
    'train',
    *PRETRAIN,
    f'--gin.MODEL_DIR={tmp_path}',
    '--gin.TRAIN_STEPS=1',
    '--gin.NUM_KV_HEADS=3',
  )
  assert 'num_kv_heads is 3, which does not divide num_heads = 8' in error


def test_a_checkpoint_that_is_not_there_is_one_sentence(capsys, tmp_path):
  error = fails(
    capsys,
    'convert',
    f'--gin_file={RUNS}/convert.gin',
    f'--gin.INPUT={tmp_path}/nothing',
    f'--gin.OUTPUT={tmp_path}/out',
    '--gin.NUM_KV_HEADS=2',
  )
  assert f'There is no checkpoint at {tmp_path}/nothing' in error
  assert not (tmp_path / 'out').exists()


def test_debug_shows_the_traceback():
  with pytest.raises(cli.UsageError):
    cli.main(['train', '--debug', '--gin_file=nowhere.gin'])


def test_public_names_load_late():
  """`import gqa_flax` loads neither TensorFlow, gin nor JAX."""
  import subprocess
  import sys

  code = (
    'import sys, gqa_flax\n'
    "heavy = {'tensorflow', 'gin', 'jax', 'seqio'} & set(sys.modules)\n"
    'assert not heavy, heavy\n'
    'for name in gqa_flax.__all__: getattr(gqa_flax, name)\n'
    "assert 'gin' not in sys.modules\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)
