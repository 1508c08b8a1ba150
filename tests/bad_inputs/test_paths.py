"""Paths of the wrong kind, missing paths, and unwritable places."""

import io
import shutil

import pytest

WRITTEN = [
  ('train', 'MODEL_DIR'),
  ('convert', 'OUTPUT'),
  ('evaluate', 'OUTPUT_DIR'),
]
READ = [
  ('finetune', 'INITIAL_CHECKPOINT_PATH'),
  ('convert', 'INPUT'),
  ('evaluate', 'CHECKPOINT'),
  ('infer', 'CHECKPOINT'),
]


@pytest.mark.parametrize(('command', 'setting'), WRITTEN)
@pytest.mark.parametrize(
  'value',
  [
    *('20240101', '', 'None', 'True', '1.5', "['a']", '/proc/foo'),
    *('/proc/version', '/dev/null', '$rows', '$rows/deeper'),
  ],
)
def test_what_cannot_be_written(refused, command, setting, value):
  refused(command, f'--gin.{setting}={value}', setting, value)


@pytest.mark.parametrize(('command', 'setting'), READ)
@pytest.mark.parametrize('value', ['20240101', '', 'True', "['a']"])
def test_what_is_no_path(refused, command, setting, value):
  refused(command, f'--gin.{setting}={value}', setting, value)


@pytest.mark.slow
@pytest.mark.parametrize(('command', 'setting'), READ)
@pytest.mark.parametrize(
  'path',
  [
    *('/proc/foo', 'google/t5-v1_1-small', '$tmp/nothing', '$empty'),
    *('hf://google/t5-v1_1-small@main', 'gogle/t5-v1_1-small'),
    *('$empty_file', '$rows', '$binary', '$results', '$scores_a'),
    *('$native/checkpoint_8', '$native/checkpoint_7/params'),
  ],
)
def test_what_holds_no_checkpoint(refused, command, setting, path):
  refused(command, f'--gin.{setting}={path}', path)


# INITIAL_CHECKPOINT_PATH may be None.
@pytest.mark.parametrize(('command', 'setting'), READ[1:])
def test_a_checkpoint_that_is_none(refused, command, setting):
  refused(command, f'--gin.{setting}=None', setting, 'None')


def test_another_formats_optimizer_names_the_conversion(refused):
  refused(
    'finetune',
    [
      '--gin.INITIAL_CHECKPOINT_PATH=$hugging_face',
      '--gin.OPTIMIZER_STATE=carry',
    ],
    *('OPTIMIZER_STATE', '$hugging_face', 'gqa-flax convert'),
  )


@pytest.mark.parametrize(
  ('command', 'setting', 'name', 'others'),
  [
    ('convert', 'OUTPUT', 'native', ()),
    ('convert', 'OUTPUT', 'hugging_face', ()),
    ('convert', 'OUTPUT', 't5x', ()),
    ('convert', 'OUTPUT', 't5x_legacy', ()),
    ('convert', 'OUTPUT', 'results', ('--gin.OUTPUT_FORMAT=hugging_face',)),
    ('convert', 'OUTPUT', 'native', ('--gin.OUTPUT_FORMAT=t5x_legacy',)),
    ('evaluate', 'OUTPUT_DIR', 'scores_a', ()),
    ('evaluate', 'OUTPUT_DIR', 'scores_bleu', ()),
  ],
)
def test_a_folder_that_is_taken(
  refused, world, tmp_path, command, setting, name, others
):
  shutil.copytree(vars(world)[name], tmp_path / 'taken')
  refused(command, [f'--gin.{setting}=taken', *others], setting, 'taken')


CASES = [
  ('train', '--gin.COMPILATION_CACHE=/proc/x', 'COMPILATION_CACHE', '/proc/x'),
  ('train', '--gin.COMPILATION_CACHE=$rows', 'COMPILATION_CACHE', '$rows'),
  ('train', '--gin.COMPILATION_CACHE=5', 'COMPILATION_CACHE', '5'),
  ('train', '--gin.COMPILATION_CACHE=', 'COMPILATION_CACHE'),
  (
    'convert',
    ['--gin.OUTPUT_FORMAT=hugging_face', '--gin.OUTPUT=/proc/foo'],
    'OUTPUT',
    '/proc/foo',
  ),
  (
    'convert',
    ['--gin.OUTPUT_FORMAT=t5x_legacy', '--gin.OUTPUT=/proc/foo'],
    'OUTPUT',
    '/proc/foo',
  ),
  ('calibrate', '--gin.STATISTICS=$rows', 'STATISTICS', '$rows'),
  ('calibrate', '--gin.STATISTICS=$empty', 'STATISTICS', '$empty'),
  ('calibrate', '--gin.STATISTICS=$binary', 'STATISTICS', '$binary'),
  ('calibrate', '--gin.STATISTICS=/proc/foo', 'STATISTICS', '/proc/foo'),
  ('calibrate', '--gin.STATISTICS=5', 'STATISTICS', '5'),
  ('calibrate', '--gin.STATISTICS=', 'STATISTICS'),
  ('infer', '--input=$tmp/nothing', '--input', '$tmp/nothing'),
  ('infer', '--input=$empty', '--input', '$empty'),
  ('infer', '--input=$binary', '$binary', 'line 2'),
  ('infer', '--input=', '--input'),
  ('infer', '--output=$empty', '--output', '$empty'),
  ('infer', '--output=/proc/foo', '--output', '/proc/foo'),
  ('infer', '--output=$rows/deeper', '--output', '$rows/deeper'),
  ('infer', '--output=', '--output'),
  ('report', '--results=$tmp/nothing', 'reports', '$tmp/nothing'),
  ('report', '--results=$empty', 'reports', '$empty'),
  ('report', '--results=$rows', 'reports', '$rows'),
  ('report', '--results=', 'reports'),
  ('report', '--output=$empty', '--output', '$empty'),
  ('report', '--output=/proc/foo', '--output', '/proc/foo'),
  ('report', '--output=$rows/deeper', '--output', '$rows/deeper'),
  ('report', '--output=', '--output'),
  ('time', '--output=$empty', '--output', '$empty'),
  ('time', '--output=/proc/foo', '--output', '/proc/foo'),
  ('time', '--output=$rows/deeper', '--output', '$rows/deeper'),
  ('time', '--output=', '--output'),
  ('time', '--trace_dir=', '--trace_dir'),
  ('time', '--trace_dir=/proc/foo', '--trace_dir', '/proc/foo'),
  ('time', '--trace_dir=$rows', '--trace_dir', '$rows'),
  ('compare', ['!$scores_b', '$tmp/nothing'], '$tmp/nothing'),
  ('compare', ['!$scores_b', '$empty'], '$empty'),
  ('compare', ['!$scores_b', '$rows'], '$rows'),
  ('compare', ['!$scores_b', '$native'], '$native'),
  ('compare', ['!$scores_b', ''], 'runs'),
  ('compare', ['!$scores_b', ','], 'runs'),
  ('average', ['!$scores_b', '$tmp/nothing'], '$tmp/nothing'),
  ('average', ['!$scores_b', '$empty'], '$empty', 'scores.json'),
  ('average', ['!$scores_b', '$rows'], '$rows'),
  ('average', ['!$scores_b', '$native'], '$native'),
  ('average', ['!$scores_b', ''], 'run'),
  ('data list', '--tfds_data_dir=$rows', '--tfds_data_dir', '$rows'),
  ('data list', '--tfds_data_dir=', '--tfds_data_dir'),
  ('train', '--tfds_data_dir=$rows', '--tfds_data_dir', '$rows'),
  ('evaluate', '--tfds_data_dir=$rows', '--tfds_data_dir', '$rows'),
  ('data check', '--tfds_data_dir=$rows', '--tfds_data_dir', '$rows'),
  ('data prepare', '--tfds_data_dir=$rows', '--tfds_data_dir', '$rows'),
  (
    'train',
    '--seqio_additional_cache_dirs=$tmp/nothing',
    '--seqio_additional_cache_dirs',
    '$tmp/nothing',
  ),
  (
    'train',
    '--seqio_additional_cache_dirs=$rows',
    '--seqio_additional_cache_dirs',
    '$rows',
  ),
  (
    'train',
    '--gin_search_paths=$tmp/nothing',
    '--gin_search_paths',
    '$tmp/nothing',
  ),
  ('train', '--gin_search_paths=$rows', '--gin_search_paths', '$rows'),
]


@pytest.mark.parametrize('case', CASES)
def test_other_paths(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)


def test_a_standard_input_that_is_closed(refused, monkeypatch):
  monkeypatch.setattr('sys.stdin', None)
  refused('infer', (), 'standard input', '--input')


def test_a_standard_input_that_is_not_text(refused, monkeypatch, world):
  with world.binary.open('rb') as file:
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(file, 'utf-8'))
    refused('infer', (), 'standard input', 'line 2', 'UTF-8')
