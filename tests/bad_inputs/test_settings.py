"""Typed settings: bad values for every macro of the gin files.

The message names the setting, the value, and the binding or gin file it came
from.
"""

import pathlib
import re

import pytest

INTEGER = ('abc', '1.5', '1e3', '', 'True', '[1]')
BOOLEAN = ('maybe', 'yes', 'false', '2', '')
HUGE = '1' + 30 * '0'
NAME = ('nonsense', '5', '', '[]')

# Command, setting, and values that must be refused.
SETTINGS = [
  ('train', 'TRAIN_STEPS', (*INTEGER, 'None', '-5', '1_000.0')),
  ('train', 'BATCH_SIZE', (*INTEGER, 'None', '0', '-4')),
  ('train', 'MICROBATCHES', (*INTEGER, 'None', '0', '-1')),
  ('train', 'CHECKPOINT_EVERY', (*INTEGER, 'None', '0', '-1')),
  ('train', 'EVALUATE_EVERY', (*INTEGER, 'None', '0', '-1')),
  ('train', 'KEEP_CHECKPOINTS', ('abc', '1.5', '', '0', '-1')),
  ('train', 'RANDOM_SEED', (*INTEGER, 'None', '-1')),
  ('train', 'VALIDATION_EXAMPLES', ('abc', '1.5', '', '0', '-1')),
  ('train', 'DATA_POSITION', ('start', '5', '', 'None')),
  ('train', 'DATA_SHARDS', ('abc', '1.5', '', '0', '-1')),
  ('train', 'WARMUP_STEPS', (*INTEGER, 'None', '0', '-1')),
  ('train', 'NUM_KV_HEADS', ('abc', '1.5', '', '0', '-1')),
  ('train', 'VOCAB_SIZE', ('abc', '1.5', '', 'None', '0', '-1')),
  ('train', 'DROPOUT_RATE', ('high', '', 'None', '1', '-0.1', 'nan', 'True')),
  ('train', 'HANG_SECONDS', ('soon', '', '-1', 'nan')),
  (
    'train',
    'LOSS_NORMALIZING_FACTOR',
    ('NUM_TOKENZ', '', '0', '-1', 'nan', '[]'),
  ),
  ('train', 'MESH_DATA', ('all', '', '0', '-1', '1.5', 'None', 'True')),
  ('train', 'MESH_FSDP', ('all', '0')),
  ('train', 'MESH_MODEL', ('all', '0')),
  ('train', 'REMAT_POLICY', (*NAME, 'None')),
  ('train', 'NON_FINITE', (*NAME, 'None')),
  ('train', 'PACK', (*BOOLEAN, 'None')),
  ('train', 'USE_CACHED_TASKS', BOOLEAN),
  ('train', 'RUN_EVAL_BEFORE_TRAINING', BOOLEAN),
  (
    'train',
    'TASK_FEATURE_LENGTHS',
    (
      '32',
      '',
      'None',
      '[16, 8]',
      "{'inputs': 16}",
      "{'targets': 8}",
      "{'inputs': 0, 'targets': 8}",
      "{'inputs': 16, 'targets': -8}",
      "{'inputs': 'long', 'targets': 8}",
      "{'inputs': 16.5, 'targets': 8}",
      "{'input': 16, 'target': 8}",
    ),
  ),
  ('train', 'MIXTURE_OR_TASK_NAME', ('5', '', 'None')),
  ('train', 'METRIC', ('rogue', '5', '')),
  ('train', 'PREFIX', ('5', 'None', '[]')),
  ('train', 'FILES', ('5', '', 'None', '[]', '{}', "{'train': 5}")),
  ('train', 'INPUTS', ('5', '[]')),
  ('train', 'TARGETS', ('5', 'None', '[]')),
  ('train', 'ANSWERS', ('5', '[]')),
  ('train', 'VOCABULARY', ('bytes', '5', '', 'None')),
  ('finetune', 'LEARNING_RATE', ('fast', '', 'None', '-1', '0', 'nan', 'inf')),
  ('finetune', 'KEEP_BEST', ('5', '')),
  ('finetune', 'OPTIMIZER_STATE', (*NAME, 'None')),
  ('convert', 'NUM_KV_HEADS', ('abc', '1.5', '', 'None', '0', '-1', 'True')),
  ('convert', 'CONVERSION_METHOD', ('maen', '5', '', 'None')),
  ('convert', 'RANDOM_SEED', (*INTEGER, 'None', '-1')),
  ('convert', 'STEP', (*INTEGER, '-1', HUGE)),
  ('convert', 'INPUT_FORMAT', ('natvie', '5', '')),
  ('convert', 'OUTPUT_FORMAT', ('t5x', '5', '', 'None')),
  ('convert', 'OUTPUT_DTYPE', ('float16', '5', '', 'None')),
  ('convert', 'OPTIMIZER_STATE', (*NAME, 'None')),
  ('convert', 'PERMUTE_HEADS', BOOLEAN),
  ('calibrate', 'CALIBRATION_TOKENS', (*INTEGER, 'None', '0', '-5')),
  ('calibrate', 'CALIBRATION_TASK', ('5', '')),
  ('calibrate', 'BATCH_SIZE', ('abc', '0', '-1')),
  ('calibrate', 'TASK_FEATURE_LENGTHS', ('32', "{'inputs': 16}")),
  ('evaluate', 'SPLIT', ('5', '', 'None')),
  ('evaluate', 'BEST_BY', ('5', '')),
  ('evaluate', 'BATCH_SIZE', (*INTEGER, 'None', '0', '-4')),
  ('evaluate', 'NUM_EXAMPLES', ('abc', '1.5', '', '0', '-1')),
  ('evaluate', 'USE_CACHED_TASKS', BOOLEAN),
  ('evaluate', 'CACHE_SHARDING', (*NAME, 'None')),
  ('evaluate', 'PARAM_DTYPE', ('float16', '5', '', 'None')),
  ('evaluate', 'CACHE_DTYPE', ('int4', '5', '', 'None')),
  ('evaluate', 'DECODE', ('greedy', '5', '', 'None')),
  ('evaluate', 'MESH_MODEL', ('all', '0', '1.5')),
  ('infer', 'BATCH_SIZE', (*INTEGER, 'None', '0', '-4')),
  ('infer', 'PARAM_DTYPE', ('float16', '5')),
  ('infer', 'CACHE_DTYPE', ('int4', '5')),
  ('infer', 'DECODE', ('greedy', '5')),
  ('infer', 'PREFIX', ('5', 'None')),
  ('infer', 'VOCABULARY', ('bytes', 'None')),
  ('infer', 'TASK_FEATURE_LENGTHS', ('32', "{'inputs': 16}")),
  ('time', 'BATCH_SIZE', ('abc', '1.5', '', '0', '-4')),
  ('time', 'REPEATS', (*INTEGER, 'None', '0', '-1')),
  ('time', 'PARAM_DTYPE', ('float16', '5', '', 'None')),
  ('time', 'CACHE_DTYPE', ('int4', '5')),
  ('time', 'CACHE_SHARDING', ('rows', '5')),
  ('time', 'TASK_FEATURE_LENGTHS', ('32', "{'inputs': 16}", 'None')),
  ('time', 'MESH_MODEL', ('all', '0')),
  ('estimate', 'BATCH_SIZE', ('abc', '0', '-4')),
  ('estimate', 'PARAM_DTYPE', ('float16', '5')),
  ('estimate', 'MESH_DATA', ('all', '0')),
  ('trivia_qa', 'EVIDENCE', ('wiki', '5', '', 'None')),
  ('trivia_qa', 'LOWERCASE', BOOLEAN),
  ('trivia_qa', 'DROP_WITHOUT_EVIDENCE', BOOLEAN),
  ('trivia_qa', 'TFDS_NAME', ('5', '', 'None')),
  ('media_sum', 'SPEAKERS', BOOLEAN),
  ('multi_news', 'SEPARATOR', ('5', 'None', '[]')),
  # Too large for a step, a seed, an array or a timer.
  ('train', 'TRAIN_STEPS', (HUGE,)),
  ('train', 'RANDOM_SEED', (HUGE,)),
  ('train', 'BATCH_SIZE', (HUGE,)),
  ('train', 'VOCAB_SIZE', (HUGE,)),
  ('train', 'HANG_SECONDS', ('1e300', 'inf')),
  ('convert', 'RANDOM_SEED', (HUGE,)),
  ('evaluate', 'BATCH_SIZE', (HUGE,)),
  ('time', 'BATCH_SIZE', (HUGE,)),
]


def test_every_setting_has_cases():
  gin_files = pathlib.Path(__file__).parents[2] / 'gin_configs'
  known = {
    name
    for path in gin_files.glob('*/*.gin')
    for name in re.findall('^([A-Z][A-Z0-9_]*) =', path.read_text(), re.M)
  }
  paths = {
    *('MODEL_DIR', 'INITIAL_CHECKPOINT_PATH', 'CHECKPOINT', 'OUTPUT_DIR'),
    *('INPUT', 'OUTPUT', 'STATISTICS', 'COMPILATION_CACHE', 'VOCABULARY_FILE'),
  }
  assert known - paths == {setting for _, setting, _ in SETTINGS}


@pytest.mark.parametrize(
  ('command', 'setting', 'value'),
  [(c, s, value) for c, s, values in SETTINGS for value in values],
)
def test_on_the_command_line(refused, command, setting, value):
  refused(
    command,
    f'--gin.{setting}={value}',
    f'{setting} is {value}',
    f'--gin.{setting}',
  )


@pytest.mark.parametrize(
  ('command', 'setting', 'value'),
  [
    ('train', 'TRAIN_STEPS', "'abc'"),
    ('train', 'BATCH_SIZE', '0'),
    ('train', 'PACK', "'maybe'"),
    ('train', 'DROPOUT_RATE', "'high'"),
    ('train', 'TASK_FEATURE_LENGTHS', '32'),
    ('train', 'MESH_DATA', '0'),
    ('train', 'MODEL_DIR', '20240101'),
    ('finetune', 'LEARNING_RATE', '-1'),
    ('convert', 'NUM_KV_HEADS', "'abc'"),
    ('convert', 'PERMUTE_HEADS', "'maybe'"),
    ('evaluate', 'NUM_EXAMPLES', '-1'),
    ('infer', 'BATCH_SIZE', '0'),
    ('time', 'REPEATS', '0'),
  ],
)
def test_in_a_gin_file(refused, tmp_path, command, setting, value):
  (tmp_path / 'mine.gin').write_text(f'# Mine.\n{setting} = {value}\n')
  refused(
    command,
    [f'!--gin.{setting}=', '--gin_file=mine.gin'],
    f'{setting} is {value}',
    'mine.gin',
  )


@pytest.mark.parametrize('command', ['train', 'finetune'])
@pytest.mark.parametrize('setting', ['MODEL_DIR', 'TRAIN_STEPS'])
def test_missing_settings(refused, command, setting):
  refused(command, f'!--gin.{setting}=', f'--gin.{setting}=')


@pytest.mark.parametrize(
  ('command', 'setting'),
  [
    ('finetune', 'INITIAL_CHECKPOINT_PATH'),
    ('finetune', 'FILES'),
    ('convert', 'INPUT'),
    ('convert', 'OUTPUT'),
    ('convert', 'NUM_KV_HEADS'),
    ('evaluate', 'CHECKPOINT'),
    ('evaluate', 'OUTPUT_DIR'),
    ('infer', 'CHECKPOINT'),
  ],
)
def test_missing_settings_of_other_commands(refused, command, setting):
  refused(command, f'!--gin.{setting}=', f'--gin.{setting}=')
