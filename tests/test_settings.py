"""Settings: what each accepts, and that no nonsense gets as far as a run."""

import pathlib
import subprocess
import sys

import pytest

from gqa_flax import cli
from gqa_flax.cli import gin_config, gin_text, setting_checks, setting_types
from gqa_flax.cli.gin_text import UsageError
from gqa_flax.cli.settings import SETTINGS, setting

FILES = sorted(pathlib.Path('gin_configs').rglob('*.gin'))
PRETRAIN = [
  'gin_configs/models/mini.gin',
  'gin_configs/tasks/wikipedia_span_corruption.gin',
  'gin_configs/runs/pretrain.gin',
]
# Of scripts, which are no commands.
OTHERS = {'quickstart', 'toy'}


def read(*bindings, files=PRETRAIN):
  return gin_text.read(files, bindings, gin_config.search_paths())


def check(*bindings, files=PRETRAIN, command='train'):
  setting_checks.check(read(*bindings, files=files), command)


def refusal(*bindings, **kwargs):
  with pytest.raises(UsageError) as error:
    check(*bindings, **kwargs)
  return str(error.value)


@pytest.mark.parametrize(
  'file', [f for f in FILES if f.stem not in OTHERS], ids=str
)
def test_every_macro_is_a_setting_of_a_fitting_type(file):
  command = file.stem if file.parent.name == 'runs' else 'train'
  text = gin_text.read([str(file)], [], gin_config.search_paths())
  assert text.macros
  assert text.macros.keys() <= SETTINGS.keys()
  setting_checks.check(text, command)


def test_the_words_of_settings_are_those_of_the_library():
  from gqa_flax import config
  from gqa_flax.checkpoints import formats
  from gqa_flax.conversion import plan
  from gqa_flax.evaluation import metrics
  from gqa_flax.training import losses

  words = {
    name: set(found.type.words)
    for name, found in SETTINGS.items()
    if isinstance(found.type, setting_types.Choice)
  }
  assert words['INPUT_FORMAT'] == {*formats.READABLE}
  assert words['OUTPUT_FORMAT'] == {*formats.WRITABLE}
  assert words['OUTPUT_DTYPE'] == {*formats.DTYPES}
  assert words['CONVERSION_METHOD'] == {*plan.METHODS}
  assert words['METRIC'] == {*metrics.METRICS}
  assert words['REMAT_POLICY'] == {*config._REMAT_POLICIES}
  assert words['CACHE_SHARDING'] == {*config._CACHE_SHARDINGS}
  assert words['CACHE_DTYPE'] == {*config._CACHE_DTYPES}
  factors = SETTINGS['LOSS_NORMALIZING_FACTOR'].type.also
  assert {*factors} == {*losses.LOSS_NORMALIZING_FACTORS, None}


@pytest.mark.parametrize(
  ('binding', 'shown'),
  [
    ('TRAIN_STEPS=abc', "'abc'"),
    ('TRAIN_STEPS=1.5', '1.5'),
    ('TRAIN_STEPS=1e3', '1e3'),
    ('TRAIN_STEPS=', "''"),
    ('TRAIN_STEPS=-5', '-5'),
    ('TRAIN_STEPS=True', 'True'),
    ('TRAIN_STEPS=[3]', '[3]'),
    ('TRAIN_STEPS=99999999999', '99999999999'),
    ('BATCH_SIZE=0', '0'),
    ('CHECKPOINT_EVERY=-1', '-1'),
    ('DROPOUT_RATE=high', "'high'"),
    ('DROPOUT_RATE=1', '1'),
    ('PACK=maybe', "'maybe'"),
    ('PACK=1', '1'),
    ('RANDOM_SEED=-1', '-1'),
    ('KEEP_CHECKPOINTS=0', '0'),
    ('TASK_FEATURE_LENGTHS=32', '32'),
    ("TASK_FEATURE_LENGTHS={'inputs': 3}", "{'inputs': 3}"),
    ("TASK_FEATURE_LENGTHS={'inputs': 3, 'targets': 0}", "'targets': 0}"),
    ('MODEL_DIR=20240101', '20240101'),
    ('MODEL_DIR=', "''"),
    ('VOCABULARY=x', "'x'"),
    ('REMAT_POLICY=ful', "'ful'"),
    ('HANG_SECONDS=nan', "'nan'"),
    ('LOSS_NORMALIZING_FACTOR=0', '0'),
  ],
)
def test_a_value_of_another_type_is_named_with_its_setting(binding, shown):
  name = binding.partition('=')[0]
  sentence = refusal(binding)
  assert sentence.startswith(f'--gin.{name} is ') and shown in sentence
  found = setting(name, 'train').type
  assert str(found) in sentence or './20240101' in sentence


@pytest.mark.parametrize(
  'binding',
  [
    'TRAIN_STEPS=1_050_000',
    'KEEP_CHECKPOINTS=None',
    'MESH_DATA=auto',
    'MESH_DATA=4',
    'LOSS_NORMALIZING_FACTOR=233472',
    'LOSS_NORMALIZING_FACTOR=AVERAGE_PER_SEQUENCE',
    'VOCABULARY=@seqio.ByteVocabulary()',
    'TRAIN_STEPS=%BATCH_SIZE',
    'MODEL_DIR=gs://bucket/run',
  ],
)
def test_what_fits_is_accepted(binding):
  check(binding)


def test_a_value_behind_a_macro_or_past_it_is_checked():
  assert 'DROPOUT_RATE is 2048 ' in refusal('DROPOUT_RATE=%BATCH_SIZE').replace(
    '--gin.', ''
  ).replace(';', ' ')
  assert refusal('loop.train.train_steps=1.5').startswith(
    '--gin.loop.train.train_steps is 1.5; give an integer of at least 1'
  )


def test_a_value_in_a_file_is_named_with_its_line(tmp_path):
  file = tmp_path / 'mine.gin'
  file.write_text('# Mine.\n\nBATCH_SIZE = 0\n')
  assert refusal(files=[*PRETRAIN, str(file)]) == (
    f'BATCH_SIZE is 0 ({file}:3); give an integer of at least 1.'
  )


def test_a_name_that_nothing_uses_is_refused(tmp_path):
  assert 'the nearest are TRAIN_STEPS' in refusal('train_steps=5')
  # Of another run's file.
  assert 'uses LEARNING_RATE' in refusal('LEARNING_RATE=0.1')
  assert 'uses KEEP_BEST' in refusal('KEEP_BEST=validation/f1')
  file = tmp_path / 'mine.gin'
  file.write_text('train_steps = 5\nMY_OWN = 3\n')
  assert refusal(files=[*PRETRAIN, str(file)]) == (
    f'{file}:1: nothing uses train_steps; is TRAIN_STEPS meant?'
  )


def test_sizes_that_fit_no_model_are_refused_before_jax_is_loaded():
  assert 'num_kv_heads is 3, which does not divide' in refusal('NUM_KV_HEADS=3')
  assert "emb_dim is 'wide'" in refusal('config.T5Config.emb_dim=wide')
  assert 'MICROBATCHES is 3' in refusal('MICROBATCHES=3', 'BATCH_SIZE=16')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b"include 'nowhere.gin'\n", 'nowhere.gin (FILE:1) does not exist'),
    (b"\nX = '\xe9'\n", 'FILE:2 is not UTF-8'),
    (b'X = 3\nX = 3 4\n', 'FILE:2 is not a statement'),
    (b'X = [3\n', 'is not a statement'),
    (b'X\0 = 3\n', 'FILE'),
    (b'X = ' + b'[' * 5000 + b']' * 5000, 'FILE'),
    (b"include 'FILE'\n", 'includes itself'),
  ],
)
def test_a_gin_file_that_cannot_be_read_is_named(tmp_path, content, message):
  file = tmp_path / 'bad.gin'
  file.write_bytes(content.replace(b'FILE', str(file).encode()))
  with pytest.raises(UsageError) as error:
    read(files=[str(file)])
  assert message.replace('FILE', str(file)) in str(error.value)


@pytest.mark.parametrize(
  ('setting_', 'message'),
  [
    ('MODEL_DIR=/proc/foo', 'cannot be written'),
    ('MODEL_DIR={tmp}/file', 'is a file; give a folder'),
    ('MODEL_DIR={tmp}/file/run', 'is a file; give a folder'),
    ('COMPILATION_CACHE=/proc/x', 'cannot be written'),
    ('MODEL_DIR=' + 'x' * 300, 'cannot be written'),
  ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(
  capsys, tmp_path, setting_, message
):
  (tmp_path / 'file').write_text('')
  argv = ['train', *(f'--gin_file={file}' for file in PRETRAIN)]
  argv += ['--gin.TRAIN_STEPS=1', f'--gin.MODEL_DIR={tmp_path}/run']
  argv += [f'--gin.{setting_.format(tmp=tmp_path)}']
  assert cli.main(argv) == 2
  error = capsys.readouterr().err
  assert message in error and setting_.partition('=')[0] in error
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_settings_are_refused_before_anything_slow_is_loaded():
  code = (
    'import sys\n'
    'from gqa_flax import cli\n'
    f'argv = {["train", *(f"--gin_file={file}" for file in PRETRAIN)]}\n'
    "status = cli.main([*argv, '--gin.TRAIN_STEPS=abc'])\n"
    "assert not {'tensorflow', 'jax', 'seqio'} & {*sys.modules}\n"
    'sys.exit(status)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr == (
    "gqa-flax train: --gin.TRAIN_STEPS is 'abc'; give an integer of at least "
    '1.\n'
  )


def test_help_names_every_setting_of_the_command(capsys):
  with pytest.raises(SystemExit):
    cli.main(['convert', '--help'])
  shown = capsys.readouterr().out
  text = read(files=['gin_configs/runs/convert.gin'])
  for name in text.macros:
    assert f'\n  {name}\n' in shown
  assert setting('PERMUTE_HEADS', 'convert').meaning in shown


def test_num_devices_is_for_dry_runs(capsys):
  argv = ['train', *(f'--gin_file={file}' for file in PRETRAIN)]
  assert cli.main([*argv, '--num_devices=64']) == 2
  assert '--num_devices=64 is for --dry_run' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    cli.main([*argv, '--dry_run', '--num_devices=0'])
  assert "--num_devices: '0'; give an integer of at least 1" in (
    capsys.readouterr().err
  )
