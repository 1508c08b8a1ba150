"""Bad data files: the message names the file and the line."""

import gzip
import io

import pyarrow as pa
import pytest
from pyarrow import parquet

ROW = b'{"text": "a", "summary": "b"}\n'


def _parquet(columns) -> bytes:
  buffer = io.BytesIO()
  parquet.write_table(pa.table(columns), buffer)
  return buffer.getvalue()


def _not_utf_8() -> bytes:
  """Returns Parquet with a string column that is not UTF-8."""
  array = pa.array([b'fine', b'\xff\xfe'], pa.binary()).cast(
    pa.string(), safe=False
  )
  return _parquet({'text': array, 'summary': ['a', 'b']})


# Content and fragments by file name, which is a fragment itself.
FILES = {
  # JSON lines
  'surrogate.jsonl': (
    ROW + rb'{"text": "\ud800", "summary": "b"}' + b'\n',
    ('line 2',),
  ),
  'latin_1.jsonl': (
    ROW + '{"text": "für", "summary": "b"}\n'.encode('latin-1'),
    ('line 2', 'UTF-8'),
  ),
  'utf_16.jsonl': (ROW.decode().encode('utf-16'), ('line 1', 'UTF-8')),
  'nested.jsonl': (
    ROW + b'{"text": ' + b'[' * 100_000 + b']' * 100_000 + b'}\n',
    ('line 2', 'nested'),
  ),
  'nested_and_open.jsonl': (ROW + b'[' * 100_000 + b'\n', ('line 2', 'nested')),
  'not_json.jsonl': (ROW + b'text, summary\n', ('line 2', 'JSON')),
  'cut.jsonl': (ROW + b'{"text": "a", "summ', ('line 2', 'JSON')),
  'two_objects.jsonl': (ROW + ROW.strip() + ROW, ('line 2', 'JSON')),
  'list.jsonl': (ROW + b'["a", "b"]\n', ('line 2', 'list')),
  'one_list.json': (b'[' + ROW.strip() + b']\n', ('line 1', 'list')),
  'number.jsonl': (ROW + b'5\n', ('line 2',)),
  'missing.jsonl': (
    ROW + b'{"text": "a", "sumary": "b"}\n',
    ('line 2', 'summary', 'sumary'),
  ),
  'null.jsonl': (
    ROW + b'{"text": null, "summary": "b"}\n',
    ('line 2', 'text', 'null'),
  ),
  'object.jsonl': (
    ROW + b'{"text": {"a": 1}, "summary": "b"}\n',
    ('line 2', 'text'),
  ),
  'cell_list.jsonl': (
    ROW + b'{"text": ["a"], "summary": "b"}\n',
    ('line 2', 'text'),
  ),
  'null_bytes.jsonl': (b'\0' * 100 + b'\n', ('line 1',)),
  # Compressed
  'cut.jsonl.gz': (gzip.compress(ROW * 1000, mtime=0)[:-20], ()),
  'plain.jsonl.gz': (ROW, ()),
  'compressed.jsonl': (gzip.compress(ROW, mtime=0), ('line 1', 'UTF-8')),
  # CSV
  'missing.csv': (b'text,sumary\na,b\n', ('summary', 'sumary', 'line 1')),
  'more_cells.csv': (b'text,summary\na,b\na,b,c\n', ('line 3', '3', '2')),
  'fewer_cells.csv': (b'text,summary\na\n', ('line 2', '1', '2')),
  'open_quote.csv': (b'text,summary\n"a,b\nc,d\n', ('line 2', 'CSV')),
  'bad_quote.csv': (b'text,summary\n"a"b,c\n', ('line 2', 'CSV')),
  'twice.csv': (b'text,text,summary\na,b,c\n', ('line 1', 'text')),
  'latin_1.csv': ('text,summary\nfür,b\n'.encode('latin-1'), ('line 2',)),
  'null_bytes.csv': (b'text,summary\na\0,b\n', ('line 2',)),
  'tabs.csv': (b'text\tsummary\na\tb\n', ('line 1', 'summary')),
  # Parquet
  'text.parquet': (b'text,summary\na,b\n', ('Parquet',)),
  'empty.parquet': (b'', ('Parquet',)),
  'cut.parquet': (_parquet({'text': ['a'], 'summary': ['b']})[:-8], ()),
  'missing.parquet': (
    _parquet({'text': ['a'], 'sumary': ['b']}),
    ('summary', 'sumary'),
  ),
  'null.parquet': (
    _parquet({'text': ['a', None], 'summary': ['b', 'c']}),
    ('row 2', 'text', 'null'),
  ),
  'binary.parquet': (
    _parquet({'text': [b'a', b'\xff'], 'summary': ['b', 'c']}),
    ('row 1', 'text'),
  ),
  'not_utf_8.parquet': (_not_utf_8(), ('row 2', 'UTF-8')),
  # Endings
  'rows.txt': (ROW, ('.jsonl',)),
  'rows': (ROW, ('.jsonl',)),
  'rows.jsonl.zip': (ROW, ('.jsonl',)),
}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('command', ['train', 'evaluate', 'data check'])
def test_a_bad_data_file(refused, tmp_path, command, name):
  content, fragments = FILES[name]
  (tmp_path / name).write_bytes(content)
  files = {'train': f'{tmp_path}/{name}', 'validation': f'{tmp_path}/{name}'}
  refused(command, f'--gin.FILES={files}', name, *fragments)


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('empty.jsonl', b''),
    ('blank.jsonl', b'\n\n\n'),
    ('empty.csv', b''),
    ('header_alone.csv', b'text,summary\n'),
    (
      'no_rows.parquet',
      _parquet(dict.fromkeys(('text', 'summary'), pa.array([], pa.string()))),
    ),
  ],
)
@pytest.mark.parametrize('command', ['train', 'evaluate', 'data check'])
def test_a_data_file_without_rows(refused, tmp_path, command, name, content):
  (tmp_path / name).write_bytes(content)
  files = {'train': f'{tmp_path}/{name}', 'validation': f'{tmp_path}/{name}'}
  refused(command, f'--gin.FILES={files}', 'own_files', 'no examples')


@pytest.mark.parametrize(
  ('path', 'fragments'),
  [
    ('$tmp/nothing.jsonl', ('$tmp/nothing.jsonl',)),
    ('$tmp/*.jsonl', ('$tmp/*.jsonl',)),
    ('$empty', ('$empty',)),
    ('$rows/deeper.jsonl', ('$rows/deeper.jsonl',)),
    ('/proc/foo.jsonl', ('/proc/foo.jsonl',)),
    ('', ('files',)),
    ('file://$tmp/nothing.jsonl', ('nothing.jsonl',)),
    ('ftp://host/rows.jsonl', ('ftp://host/rows.jsonl',)),
    ('http://host/rows.jsonl', ('http://host/rows.jsonl',)),
  ],
)
@pytest.mark.parametrize('command', ['train', 'data check'])
def test_a_path_of_no_data(refused, command, path, fragments):
  files = f"{{'train': '{path}', 'validation': '{path}'}}"
  refused(command, f'--gin.FILES={files}', *fragments)


@pytest.mark.parametrize(
  ('changes', 'fragments'),
  [
    (['--gin.INPUTS={txt}'], ('txt', 'text', 'rows.jsonl')),
    (['--gin.TARGETS={sumary}'], ('sumary', 'summary', 'rows.jsonl')),
    (['--gin.INPUTS={text!r}'], ('inputs', '{text!r}')),
    (['--gin.INPUTS={text:>9}'], ('inputs', '{text:>9}')),
    (['--gin.INPUTS={0}'], ('inputs', '{0}')),
    (['--gin.INPUTS={text}}'], ('inputs', '{text}}')),
    (
      ['--gin.METRIC=trivia_qa', '--gin.ANSWERS=answers'],
      ('answers', 'rows.jsonl'),
    ),
    (
      ['--gin.METRIC=trivia_qa', '--gin.ANSWERS=summary'],
      ('summary', 'rows.jsonl', 'list'),
    ),
    (['--gin.files.files_task.format=xml'], ('xml', 'jsonl')),
    (['--gin.files.files_task.format=parquet'], ('rows.jsonl', 'Parquet')),
  ],
)
def test_templates_and_columns(refused, changes, fragments):
  refused('data check', changes, *fragments)


@pytest.mark.parametrize(
  'value',
  ['', '$empty', '$empty_file', '$rows', '$binary', '$tmp/no.model', '5'],
)
@pytest.mark.parametrize('command', ['train', 'infer', 'data check'])
def test_a_bad_vocabulary(refused, command, value):
  refused(
    command,
    [
      '!--gin.VOCABULARY=',
      f'--gin.VOCABULARY_FILE={value}',
    ],
    'VOCABULARY_FILE',
    value,
  )


def test_a_vocabulary_that_cannot_be_fetched(refused):
  refused('train', '!--gin.VOCABULARY=', 'VOCABULARY_FILE', 'https://')


def test_a_vocabulary_larger_than_the_model_of_a_checkpoint(refused):
  refused(
    'evaluate',
    ['!--gin.VOCABULARY=', '--gin.VOCABULARY_FILE=$vocabulary'],
    *('4100', '384', 'VOCABULARY'),
  )


@pytest.mark.parametrize('line', [b'f\xfcr\n', b'a\n\xff\n'])
def test_lines_that_are_not_text(refused, tmp_path, line):
  (tmp_path / 'lines.txt').write_bytes(line)
  number = line.count(b'\n')
  refused(
    'infer',
    '--input=lines.txt',
    *('lines.txt', f'line {number}', 'UTF-8'),
  )
