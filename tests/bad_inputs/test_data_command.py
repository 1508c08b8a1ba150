"""`gqa-flax data`: unknown tasks, missing examples and damaged data sets."""

import json

import pytest

OWN = '$repo/gin_configs/tasks/own_files.gin'
NO_TASK = ['!--gin', f'!{OWN}']

CASES = [
  ('data check', [*NO_TASK, 'cnn_dailymial'], 'cnn_dailymial', 'cnn_dailymail'),
  ('data check', [*NO_TASK, 'CNN_DailyMail'], 'CNN_DailyMail', 'cnn_dailymail'),
  ('data check', [*NO_TASK, ''], 'task'),
  ('data check', [*NO_TASK, '5'], '5'),
  ('data check', [*NO_TASK, '$empty'], '$empty'),
  ('data check', [*NO_TASK, '$rows'], '$rows'),
  ('data check', [*NO_TASK, 'nowhere.gin'], 'nowhere.gin'),
  ('data check', NO_TASK, 'TASK'),
  ('data check', [*NO_TASK, 'xxl'], 'xxl'),
  (
    'data check',
    [*NO_TASK, '$repo/gin_configs/models/mini.gin'],
    'mini.gin',
  ),
  (
    'data check',
    [*NO_TASK, 'cnn_dailymail'],
    *('cnn_dailymail:3.4.0', 'gqa-flax data prepare cnn_dailymail'),
  ),
  ('data check', [*NO_TASK, 'own_files'], '--gin.FILES='),
  ('data check', '--split=vallidation', 'split', 'vallidation', 'validation'),
  ('data check', '--split=', 'split'),
  ('data check', '--split=train[:5]', 'split', 'train[:5]'),
  ('data check', '--example=16', 'example', '16'),
  ('data check', '--example=99999999999999999999', 'example', '9999999999'),
  ('data check', '--example=-1', 'example', '-1'),
  ('data check', '--example=first', 'example', 'first'),
  ('data check', '--example=1.5', 'example', '1.5'),
  ('data check', '--example=', 'example'),
  ('data check', '--color=red', '--color', 'red'),
  ('data check', '--min_shards=2', '--min_shards'),
  ('data check', '--gin.TASK_FEATURE_LENGTHS=32', 'TASK_FEATURE_LENGTHS', '32'),
  (
    'data check',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16}",
    *('TASK_FEATURE_LENGTHS', 'targets'),
  ),
  ('data check', '--gin.METRIC=rogue', 'METRIC', 'rogue', 'rouge'),
  ('data check', '--gin.MIXTURE_OR_TASK_NAME=5', 'MIXTURE_OR_TASK_NAME', '5'),
  (
    'data check',
    [*NO_TASK, 'cnn_dailymail', '--gin.TFDS_NAME=cnn_dailymail'],
    *('TFDS_NAME', 'cnn_dailymail', 'version'),
  ),
  (
    'data check',
    [*NO_TASK, 'cnn_dailymail', '--gin.TFDS_NAME=5'],
    *('TFDS_NAME', '5'),
  ),
  (
    'data check',
    [*NO_TASK, 'cnn_dailymail', '--gin.TFDS_NAME='],
    'TFDS_NAME',
  ),
  (
    'data check',
    [*NO_TASK, 'cnn_dailymail', '--gin.TFDS_NAME=../../etc:1.0.0'],
    *('TFDS_NAME', '../../etc:1.0.0'),
  ),
  ('data prepare', [*NO_TASK, 'cnn_dailymial'], 'cnn_dailymial'),
  ('data prepare', NO_TASK, 'TASK'),
  ('data prepare', '--cache', 'own_files', 'cache'),
  ('data prepare', ['--cache', '--min_shards=0'], '--min_shards', '0'),
  ('data prepare', ['--cache', '--min_shards=-4'], '--min_shards', '-4'),
  ('data prepare', ['--cache', '--min_shards=all'], '--min_shards', 'all'),
  ('data prepare', ['--cache', '--min_shards='], '--min_shards'),
  ('data prepare', '--min_shards=4', '--min_shards', '--cache'),
  ('data prepare', '--overwrite', '--overwrite', '--cache'),
  ('data prepare', '--cache_dir=$tmp/cache', '--cache_dir', '--cache'),
  ('data prepare', ['--cache', '--cache_dir=$rows'], '--cache_dir', '$rows'),
  (
    'data prepare',
    ['--cache', '--cache_dir=/proc/x'],
    '--cache_dir',
    '/proc/x',
  ),
  ('data prepare', ['--cache', '--cache_dir='], '--cache_dir'),
  (
    'data prepare',
    ['--cache', '--pipeline_options=--runner=NoRunner'],
    'cannot be cached',
  ),
  (
    'data prepare',
    [*NO_TASK, 'arxiv', '--manual_dir=$tmp/nothing'],
    *('--manual_dir', '$tmp/nothing'),
  ),
  ('data prepare', '--split=train', 'split'),
  (
    'data prepare',
    [*NO_TASK, 'media_sum', '--manual_dir=$tmp/nothing'],
    '$tmp/nothing',
  ),
  (
    'data prepare',
    [*NO_TASK, 'media_sum', '--manual_dir=$rows'],
    *('--manual_dir', '$rows'),
  ),
  (
    'data prepare',
    [*NO_TASK, 'cnn_dailymail', '--gin.TFDS_NAME=cnn_dailymial:3.4.0'],
    *('TFDS_NAME', 'cnn_dailymial'),
  ),
  ('data list', '--debug=yes', '--debug'),
  ('data list', '--gin_file=x.gin', '--gin_file'),
]


@pytest.mark.parametrize('case', CASES)
def test_arguments(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'{',
    b'[]',
    b'5',
    b'{}',
    b'\xff',
    b'[' * 100_000,
    json.dumps({'splits': 5}).encode(),
    json.dumps({'splits': [{'name': 5, 'shardLengths': ['x']}]}).encode(),
  ],
)
def test_a_bad_description_of_a_data_set(refused, tmp_path, content):
  folder = tmp_path / 'data' / 'cnn_dailymail' / '3.4.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_bytes(content)
  refused(
    'data check',
    [*NO_TASK, 'cnn_dailymail', '--tfds_data_dir=data'],
    'dataset_info.json',
  )


def test_a_folder_for_the_description_of_a_data_set(refused, tmp_path):
  folder = tmp_path / 'data' / 'cnn_dailymail' / '3.4.0' / 'dataset_info.json'
  folder.mkdir(parents=True)
  refused(
    'data list',
    ['!--tfds_data_dir', '--tfds_data_dir=data'],
    'dataset_info.json',
  )
