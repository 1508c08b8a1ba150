"""Gin files that are missing, unreadable or wrong."""

import sys

import pytest

FILES = {
  'missing_include': (
    b"include 'nowhere/at_all.gin'\n",
    ('mine.gin', 'nowhere/at_all.gin'),
  ),
  'include_of_a_folder': (
    b"include 'gin_configs/tasks'\n",
    ('mine.gin', 'gin_configs/tasks'),
  ),
  'include_of_itself': (b"include 'mine.gin'\n", ('mine.gin', 'includes')),
  'latin_1': ("PREFIX = 'für: '\n".encode('latin-1'), ('mine.gin', 'UTF-8')),
  'utf_16': ("PREFIX = 'a: '\n".encode('utf-16'), ('mine.gin', 'UTF-8')),
  'binary': (bytes(range(256)), ('mine.gin', 'UTF-8')),
  'null_bytes': (b"PREFIX = 'a\0b'\n", ('mine.gin:1',)),
  # Where Python sees the end of the file: of an empty last line until 3.11.
  'open_bracket': (
    b'\nBATCH_SIZE = (8\n',
    (f'mine.gin:{3 if sys.version_info < (3, 12) else 2}',),
  ),
  'open_string': (b"PREFIX = 'say: \n", ('mine.gin:1',)),
  'no_value': (b'BATCH_SIZE =\n', ('mine.gin:1',)),
  'no_name': (b'= 8\n', ('mine.gin:1',)),
  'a_word': (b'hello\n', ('mine.gin:1',)),
  'two_equals': (b'BATCH_SIZE == 8\n', ('mine.gin:1',)),
  'json': (b'{"BATCH_SIZE": 8}\n', ('mine.gin:1',)),
  'python': (b'def f():\n  return 8\n', ('mine.gin:1',)),
  'bare_text': (b'METRIC = rouge\n', ('mine.gin:1',)),
  'arithmetic': (b'BATCH_SIZE = 2 * 4\n', ('mine.gin:1',)),
  'no_such_module': (
    b'from __gin__ import dynamic_registration\n'
    b'from gqa_flax.training import lop\n',
    ('mine.gin', 'gqa_flax.training', 'lop'),
  ),
  'no_such_package': (
    b'from __gin__ import dynamic_registration\nimport t5y\n',
    ('mine.gin', 't5y'),
  ),
  'no_such_function': (
    b'from __gin__ import dynamic_registration\n'
    b'from gqa_flax.training import loop\nloop.trian.seed = 3\n',
    ('mine.gin', 'loop.trian'),
  ),
  'no_such_parameter': (
    b'from __gin__ import dynamic_registration\n'
    b'from gqa_flax.training import loop\nloop.train.sed = 3\n',
    ('mine.gin', 'sed'),
  ),
  'not_imported': (b'nothing.at_all.seed = 3\n', ('mine.gin', 'nothing.at')),
  'no_such_reference': (
    b'VOCABULARY = @vocabulary.sentence_piece()\n',
    ('mine.gin', 'vocabulary.sentence_piece'),
  ),
  'no_such_macro': (b'WARMUP_STEPS = %WARMUP\n', ('WARMUP',)),
  'setting_that_nothing_reads': (
    b'TRAIN_STEP = 9\n',
    ('mine.gin', 'TRAIN_STEP', 'TRAIN_STEPS'),
  ),
  'setting_in_lower_case': (
    b'train_steps = 9\n',
    ('mine.gin', 'train_steps', 'TRAIN_STEPS'),
  ),
}


@pytest.mark.parametrize('name', FILES)
def test_a_bad_gin_file(refused, tmp_path, name):
  content, fragments = FILES[name]
  (tmp_path / 'mine.gin').write_bytes(content)
  refused('train', '--gin_file=mine.gin', *fragments)


@pytest.mark.parametrize(
  'name', ['missing_include', 'latin_1', 'no_value', 'binary']
)
@pytest.mark.parametrize(
  'command', ['convert', 'evaluate', 'infer', 'time', 'estimate', 'data check']
)
def test_a_bad_gin_file_of_other_commands(refused, tmp_path, command, name):
  content, fragments = FILES[name]
  (tmp_path / 'mine.gin').write_bytes(content)
  refused(command, '--gin_file=mine.gin', *fragments)


@pytest.mark.parametrize(
  'command',
  ['train', 'convert', 'evaluate', 'infer', 'time', 'estimate', 'data check'],
)
@pytest.mark.parametrize(
  'file', ['nowhere.gin', 'gin_configs/tasks', '', '/proc/foo', '5']
)
def test_a_gin_file_that_is_none(refused, command, file):
  refused(command, f'--gin_file={file}', '--gin_file', file)


@pytest.mark.parametrize(
  ('command', 'file'),
  [
    ('train', 'pretrain.gin'),
    ('convert', 'convert.gin'),
    ('evaluate', 'evaluate.gin'),
    ('infer', 'infer.gin'),
    ('time', 'time.gin'),
  ],
)
def test_no_file_of_the_run(refused, command, file):
  refused(command, [f'!--gin_file=gin_configs/runs/{file}', '!--gin.'], file)


@pytest.mark.parametrize('command', ['train', 'time', 'estimate'])
def test_no_file_of_the_model(refused, command):
  refused(
    command,
    ['!--gin_file=gin_configs/models', '!--gin.VOCAB_SIZE'],
    'gin_configs/models',
  )


@pytest.mark.parametrize('command', ['train', 'evaluate', 'infer'])
def test_no_file_of_the_task(refused, command):
  settings = ('FILES', 'INPUTS', 'TARGETS', 'VOCABULARY')
  removed = [f'!--gin.{name}=' for name in (*settings, 'TASK_FEATURE_LENGTHS')]
  refused(
    command,
    ['!--gin_file=gin_configs/tasks', *removed],
    'has no value',
  )
