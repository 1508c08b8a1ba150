"""The command line: what it prints, refuses, and how it reads bindings."""

import json

import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import cli
from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.cli import jobs
from gqa_flax.config import T5Config

RUNS = 'gin_configs/runs'
SUMMARIZATION = '--gin_file=gin_configs/tasks/wikipedia_summarization.gin'
PRETRAIN = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
  f'--gin_file={RUNS}/pretrain.gin',
]
# What training cannot do without.
GIVEN = ['--gin.MODEL_DIR=/tmp/run', '--gin.TRAIN_STEPS=1']
CONVERT = f'--gin_file={RUNS}/convert.gin'
# Four heads of 8, two layers, at step 3.
T5X_LEGACY = 'tests/fixtures/t5x_tiny/legacy'


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


def test_a_template_is_text_and_a_list_of_references_is_not(capsys):
  argv = ['train', '--dry_run', '--gin_file=gin_configs/tasks/own_files.gin']
  argv += [f'--gin_file={RUNS}/finetune.gin', '--gin.TARGETS={answer}']
  argv += ['--gin.loop.train.evaluators=[@validation.ValidationLoss()]']
  assert cli.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "TARGETS = '{answer}'" in lines
  assert 'loop.train.evaluators = [@validation.ValidationLoss()]' in lines


def test_what_files_refer_to_may_be_bound(capsys, tmp_path):
  argv = [
    'train',
    '--dry_run',
    *PRETRAIN[:2],
    f'--gin_file={RUNS}/finetune.gin',
  ]
  assert cli.main([*argv, '--gin.KEEP_BEST=validation/f1']) == 0
  assert "KEEP_BEST = 'validation/f1'" in capsys.readouterr().out.splitlines()


def test_gin_files_are_found_from_any_folder(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.gin').write_text(
    "include 'gin_configs/tasks/wikipedia_summarization.gin'\n"
  )
  argv = ['train', '--dry_run', '--gin_file=gin_configs/models/mini.gin']
  argv += ['--gin_file=mine.gin', f'--gin_file={RUNS}/finetune.gin']
  assert cli.main(argv) == 0
  assert 'BATCH_SIZE = 128' in capsys.readouterr().out.splitlines()


def test_a_macro_that_nothing_sets_is_named(capsys, tmp_path):
  error = fails(
    capsys,
    'train',
    *PRETRAIN[:2],
    f'--gin_file={RUNS}/finetune.gin',
    f'--gin.MODEL_DIR={tmp_path}',
    '--gin.TRAIN_STEPS=1',
    '--gin.INITIAL_CHECKPOINT_PATH=None',
  )
  assert 'KEEP_BEST has no value: no gin file given sets it' in error


@pytest.mark.slow
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
    (
      ['--gin_file=nowhere.gin'],
      'The gin file nowhere.gin (--gin_file) does not exist',
    ),
    (['--gin.BATCH_SIZE=4'], 'no gin file given uses BATCH_SIZE'),
    ([*PRETRAIN], 'add --gin.MODEL_DIR=... --gin.TRAIN_STEPS=...'),
    (
      [*PRETRAIN, '--gin.TRAIN_STEP=5'],
      '--gin.TRAIN_STEP: no gin file given uses TRAIN_STEP; the nearest are '
      'TRAIN_STEPS',
    ),
    (
      [*PRETRAIN, *GIVEN, '--gin.loop.train.train_stepz=5'],
      "doesn't have a parameter named 'train_stepz'",
    ),
    (
      [*PRETRAIN, *GIVEN, '--gin.looop.x=5'],
      "No configurable matching 'looop'",
    ),
    ([*PRETRAIN, '--gin.BATCH_SIZE'], 'write --gin.NAME=value'),
  ],
)
def test_a_bad_configuration_is_one_sentence(capsys, argv, message):
  assert message in fails(capsys, 'train', *argv)


@pytest.mark.parametrize(
  ('argv', 'function', 'run'),
  [
    (['train'], 'training.loop.train', 'pretrain'),
    (['convert'], 'conversion.convert.convert_checkpoint', 'convert'),
    (['evaluate'], 'evaluation.evaluate.evaluate', 'evaluate'),
    (['infer'], 'evaluation.evaluate.infer', 'infer'),
    (['time'], 'timing.measure.measure_all', 'time'),
    (['time', PRETRAIN[0]], 'timing.measure.measure_all', 'time'),
    (['time', '--target=v4-16'], 'timing.estimate.search', 'time'),
  ],
)
def test_a_run_without_its_file_names_the_file(capsys, argv, function, run):
  error = fails(capsys, *argv)
  assert f'No --gin_file configures gqa_flax.{function}; give ' in error
  assert f'{RUNS}/{run}.gin' in error


def test_a_run_without_a_model_names_the_files_of_models(capsys):
  error = fails(capsys, 'time', f'--gin_file={RUNS}/time.gin')
  assert error == (
    'gqa-flax time: T5Config has no vocab_size: no gin file given sets it; add '
    'one of gin_configs/models.\n'
  )


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


def test_convert_prints_a_table_and_the_path(capsys, tmp_path):
  output = tmp_path / 'gqa_2'
  argv = [CONVERT, f'--gin.INPUT={T5X_LEGACY}', f'--gin.OUTPUT={output}']
  assert cli.main(['convert', *argv, '--gin.NUM_KV_HEADS=2']) == 0
  *table, summary, path = capsys.readouterr().out.splitlines()

  assert path == f'{output}/checkpoint_3'
  assert formats.open_checkpoint(path).config.num_kv_heads == 2
  assert summary == '4 -> 2 key/value heads by mean; optimizer state: reset'
  header, *rows = [line.split(maxsplit=4) for line in table]
  assert header == ['action', 'arrays', 'MB', 'name', 'shape']
  of = {name: (action, num, shape) for action, num, _, name, shape in rows}
  pooled = {
    f'decoder/layers_*/{attention}/{projection}/kernel'
    for attention in ('self_attention', 'encoder_decoder_attention')
    for projection in ('key', 'value')
  }
  assert pooled == {name for name in of if of[name][0] == 'pooled'}
  assert {of[name] for name in pooled} == {('pooled', '2', '32x32 -> 32x16')}
  assert of['encoder/layers_*/attention/key/kernel'] == ('copied', '2', '32x32')
  assert of['decoder/logits_dense/kernel'] == ('copied', '1', '32x128')

  record = json.loads((output / 'conversion.json').read_text())
  assert sum(int(num) for _, num, _ in of.values()) == len(record['arrays'])
  assert record['method'] == 'mean'
  assert sorted(p.name for p in output.iterdir()) == [
    'checkpoint_3',
    'conversion.json',
    'convert.gin',
    'convert_provenance.json',
  ]


@pytest.mark.parametrize(
  ('binding', 'message'),
  [
    (
      'OUTPUT_FORMAT=t5x_legasy',
      "--gin.OUTPUT_FORMAT is 't5x_legasy'; give one of 'native', "
      "'t5x_legacy', 'hugging_face' (is 't5x_legacy' meant?).",
    ),
    (
      'CONVERSION_METHOD=subspace',
      "'subspace' needs statistics of the attentions' inputs; give a "
      'CALIBRATION_TASK',
    ),
  ],
)
def test_convert_refuses_in_one_sentence_and_writes_nothing(
  capsys, tmp_path, binding, message
):
  bindings = (
    f'INPUT={T5X_LEGACY}',
    f'OUTPUT={tmp_path}/out',
    'NUM_KV_HEADS=2',
    binding,
  )
  argv = ['convert', CONVERT, *(f'--gin.{b}' for b in bindings)]
  assert message in fails(capsys, *argv)
  assert not list(tmp_path.iterdir())


def test_a_dry_run_of_convert_prints_and_writes_nothing(capsys, tmp_path):
  argv = ['--dry_run', CONVERT, f'--gin.OUTPUT={tmp_path}/out']
  argv += [f'--gin.INPUT={T5X_LEGACY}', '--gin.CONVERSION_METHOD=aligned']
  assert cli.main(['convert', *argv]) == 0
  lines = capsys.readouterr().out.splitlines()
  for line in (
    "CONVERSION_METHOD = 'aligned'",
    'NUM_KV_HEADS = %gin.REQUIRED',
    'convert.convert_checkpoint.method = %CONVERSION_METHOD',
  ):
    assert line in lines
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_convert_calibrates_on_a_task(capsys, tmp_path, tiny_config):
  rng = np.random.default_rng(0)
  config = T5Config(**{**tiny_config.to_dict(), 'vocab_size': 4160})
  flat = {
    name: rng.normal(size=shape, scale=0.5).astype(np.float32)
    for name, shape in parameter_shapes(config).items()
  }
  params = traverse_util.unflatten_dict(flat, sep='/')
  formats.save_params(tmp_path / 'mha', params, config, step=5)
  argv = [
    'convert',
    CONVERT,
    '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
    f'--gin.INPUT={tmp_path}/mha',
    f'--gin.OUTPUT={tmp_path}/gqa_2',
    '--gin.NUM_KV_HEADS=2',
    '--gin.CONVERSION_METHOD=subspace',
    '--gin.CALIBRATION_TASK=wikipedia_span_corruption',
    '--gin.CALIBRATION_TOKENS=64',
    f'--gin.STATISTICS={tmp_path}/statistics',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 10}",
    '--gin.BATCH_SIZE=8',
  ]
  assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert 'weighted variance kept of the keys: 0.' in out
  record = json.loads((tmp_path / 'gqa_2' / 'conversion.json').read_text())
  # Batches of at most 8 * 10 tokens, until there are 64.
  statistics = record['statistics']
  assert statistics['source'] == 'wikipedia_span_corruption'
  assert 64 <= statistics['tokens'] < 64 + 80
  for layer in record['kept'].values():
    assert 0 < layer['key'] < 1 and 0 < layer['value'] < 1
  actions = {n: array['action'] for n, array in record['arrays'].items()}
  attention = 'decoder/layers_0/encoder_decoder_attention'
  assert actions[f'{attention}/query/kernel'] == 'rebased'
  assert actions[f'{attention}/key/kernel'] == 'pooled'

  # From the file, without text, the same comes out.
  again = [arg.replace('gqa_2', 'again') for arg in argv]
  again = [arg for arg in again if 'CALIBRATION_TASK' not in arg]
  assert cli.main(again) == 0
  record_again = json.loads((tmp_path / 'again/conversion.json').read_text())
  assert record_again == record


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


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_no_process_is_waited_for_without_a_run_file(
  command, monkeypatch, capsys
):
  def join(args):
    raise AssertionError('it would wait for the other process')

  monkeypatch.setattr(jobs, '_join', join)
  argv = [command, '--gin_file=gin_configs/models/mini.gin']
  job = ['--coordinator_address=localhost:1', '--process_count=2']
  assert cli.main([*argv, *job, '--process_index=0']) == 2
  assert 'No --gin_file configures' in capsys.readouterr().err
