"""Rows of files: nothing changed on the way, and bad ones named."""

import csv
import gzip
import http.server
import json
import pathlib
import threading
import types

import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from gqa_flax.data import file_rows
from gqa_flax.data.file_rows import FilesError

ROWS = [
  {'question': 'Größe?', 'answer': '二', 'year': '1999', 'unused': 'x'},
  {'question': 'a,"b"\nc\u2028d\r\ne', 'answer': ' b ', 'year': '-7'},
  {'question': '', 'answer': '{}', 'year': '1.50'},
]


def write_jsonl(path, rows):
  lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
  path.write_text(''.join(lines), encoding='utf-8')


def write_csv(path, rows):
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def write_parquet(path, rows):
  parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {'jsonl': write_jsonl, 'csv': write_csv, 'parquet': write_parquet}


def read(patterns, columns=('n',), **kwargs):
  """Returns the wanted columns of all rows."""
  patterns = [patterns] if isinstance(patterns, str) else patterns
  return [
    tuple(row[column] for column in columns)
    for _, row in file_rows.read(patterns, columns, **kwargs)
  ]


def read_text(path, text, encoding='utf-8'):
  path.write_bytes(text.encode(encoding))
  return [n for (n,) in read(str(path))]


@pytest.fixture
def numbers(tmp_path):
  """The pattern of files of 10, 7 and 0 rows, each with its own number."""
  for name, rows in {'a': range(10), 'b': range(10, 17), 'c': ()}.items():
    write_jsonl(tmp_path / f'{name}.jsonl', [{'n': f'{n:02}'} for n in rows])
  return f'{tmp_path}/*.jsonl'


@pytest.mark.parametrize('name', WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
  columns = ('question', 'answer', 'year')
  expected = [tuple(row[column] for column in columns) for row in ROWS]
  path = tmp_path / f'data.{name}'
  WRITERS[name](path, ROWS)
  assert read(str(path), columns) == expected
  renamed = path.rename(tmp_path / 'data.txt')
  assert read(str(renamed), columns, format=name) == expected


@pytest.mark.parametrize('name', ['jsonl', 'csv'])
def test_compressed_files_are_read(tmp_path, name):
  path = tmp_path / f'data.{name}'
  WRITERS[name](path, ROWS)
  compressed = tmp_path / f'other.{name}.gz'
  compressed.write_bytes(gzip.compress(path.read_bytes()))
  assert read(str(compressed), ['year']) == [('1999',), ('-7',), ('1.50',)]


def test_numbers_and_what_looks_like_a_time_are_as_written(tmp_path):
  lines = ['1.50', '123456789012345678901', '-0', '"2020-01-01"', 'true']
  text = ''.join(f'{{"n": {line}}}\n' for line in lines)
  assert read_text(tmp_path / 'a.jsonl', text) == [
    '1.50',
    '123456789012345678901',
    '-0',
    '2020-01-01',
    True,
  ]
  text = 'n\n1.50\n2020-01-01\nTrue\nNA\n'
  assert read_text(tmp_path / 'a.csv', text) == text.split()[1:]


@pytest.mark.parametrize('name', ['jsonl', 'csv'])
def test_a_byte_order_mark_and_blank_lines_are_no_text(tmp_path, name):
  text = {
    'jsonl': '{"n": "x"}\r\n\r\n{"n": "y"}\r\n\n',
    'csv': 'n\r\nx\r\n\r\ny\r\n',
  }[name]
  assert read_text(tmp_path / f'a.{name}', text, 'utf-8-sig') == ['x', 'y']


def test_a_cell_may_be_longer_than_python_allows_by_default(tmp_path):
  long = 'word ' * 40_000
  assert read_text(tmp_path / 'a.csv', f'n\n"{long}"') == [long]


def test_of_parquet_only_the_wanted_columns_are_read(tmp_path):
  write_parquet(tmp_path / 'a.parquet', ROWS)
  rows = file_rows.read([f'{tmp_path}/a.parquet'], {'year', 'answer'})
  assert {frozenset(row) for _, row in rows} == {frozenset(['year', 'answer'])}


def test_files_follow_one_another_as_named_and_then_by_name(numbers):
  everything = [(f'{n:02}',) for n in range(17)]
  assert read(numbers) == everything
  named = [numbers.replace('*', 'b'), numbers.replace('*', '[ac]')]
  assert read(named) == everything[10:] + everything[:10]


def test_paths_are_relative_from_home_or_uris(numbers, monkeypatch):
  folder = pathlib.Path(numbers).parent
  monkeypatch.chdir(folder)
  assert len(read('*.jsonl')) == 17
  assert len(read('a.jsonl')) == 10
  monkeypatch.chdir('/')
  monkeypatch.setenv('HOME', str(folder))
  assert len(read('~/a.jsonl')) == 10
  assert len(read(f'file://{folder}/*.jsonl')) == 17


def test_a_path_that_matches_nothing(tmp_path):
  (tmp_path / 'folder.jsonl').mkdir()
  for name in ('nothing.jsonl', '*.csv', 'no/*.csv', '*', 'folder.jsonl'):
    with pytest.raises(FilesError) as error:
      read(f'{tmp_path}/{name}')
    assert str(error.value) == (
      f"No file matches '{tmp_path}/{name}': check the path; a * may stand in "
      'its last part.'
    )


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    (
      'a.txt',
      'n\n1\n',
      'The ending of {path} does not say what it is: set format to one of '
      'jsonl, csv, parquet, or end its name in .jsonl, .json, .csv, .parquet.',
    ),
    (
      'a.jsonl',
      '{"n": 1}\n{"m": 2, "nn": 3}\n',
      "{path}, line 2 has no column 'n': did you mean nn? There are m, nn.",
    ),
    (
      'a.jsonl',
      '{}\n',
      "{path}, line 1 has no column 'n': There are none.",
    ),
    (
      'a.csv',
      'm,x\n1,2\n',
      "{path}, line 1 has no column 'n': There are m, x.",
    ),
    (
      'a.csv',
      'n,n\n1,2\n',
      "{path}, line 1 has several columns 'n': give each its own name.",
    ),
    (
      'a.jsonl',
      '{"n": 1}\n\n{"n": }\n',
      '{path}, line 3 is not JSON (Expecting value: line 1 column 7 (char 6)): '
      'write one object a line.',
    ),
    (
      'a.json',
      '[{"n": 1}]',
      '{path}, line 1 is a list: write one JSON object a line.',
    ),
    (
      'a.csv',
      'n,m\n"1\n2\n3",x\n4,5,6\n',
      '{path}, line 5 has 3 cells, but the header has 2: quote cells with '
      'commas or new lines in them.',
    ),
    (
      'a.csv',
      'n,m\n"1\n2",x\n"4\n5"\n',
      '{path}, line 4 has 1 cells, but the header has 2: quote cells with '
      'commas or new lines in them.',
    ),
    (
      'a.csv',
      'n,m\n1,2\n"open,c\nd,e\n',
      '{path}, line 3 is not CSV (unexpected end of data): write a quotation '
      'mark inside quotes twice.',
    ),
    (
      'a.csv',
      'n,m\n"a"b,c\n',
      "{path}, line 2 is not CSV (',' expected after '\"'): write a quotation "
      'mark inside quotes twice.',
    ),
  ],
)
def test_what_is_bad_is_named_by_file_and_line(tmp_path, name, text, message):
  path = tmp_path / name
  with pytest.raises(FilesError) as error:
    read_text(path, text)
  assert str(error.value) == message.replace('{path}', str(path))


@pytest.mark.parametrize(
  ('name', 'content', 'place', 'message'),
  [
    (
      'a.jsonl',
      b'{"n": "\\ud83d\\ude00"}\n{"n": ["x", "\\ud800"]}\n',
      'line 2',
      ": 'n' has '\\ud800', half of a surrogate pair, which is no character: "
      'write the pair, or leave it out.',
    ),
    (
      'a.jsonl',
      b'{"n": "x"}\n' + b'{"n": ' + b'[' * 100_000,
      'line 2',
      ' is nested too deep: write one flat object a line.',
    ),
    (
      'a.jsonl',
      b'{"n": "x"}\n{"n": "y", "m": 1, "n": "z"}\n',
      'line 2',
      " is not JSON (an object has the key 'n' twice): write one object a "
      'line.',
    ),
    (
      'a.jsonl',
      b'{"n": "x"}\n\0\0\0\0',
      'line 2',
      ' is not JSON (Expecting value: line 1 column 1 (char 0)): write one '
      'object a line.',
    ),
    (
      'a.csv',
      b'n,m\nx,1\n\0\0\0\0\n',
      'line 3',
      ' has a NUL byte, which is no text: convert the file to UTF-8, or write '
      'it anew if it is damaged.',
    ),
  ],
)
def test_what_json_and_csv_let_pass_is_named_by_file_and_line(
  tmp_path, name, content, place, message
):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(FilesError) as error:
    read(str(path))
  assert str(error.value) == f'{path}, {place}{message}'


def test_half_a_surrogate_pair_in_another_column_is_no_matter(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"n": "\\ud83d\\ude00", "m": "\\ud800"}\n')
  assert read(str(path)) == [('😀',)]


def test_a_row_of_parquet_that_is_not_utf8_is_named(tmp_path):
  path = tmp_path / 'a.parquet'
  binary = pa.array([b'x'] * 1500 + [b'\xff\xfe', b'z'], pa.binary())
  texts = pa.StringArray.from_buffers(len(binary), *binary.buffers()[1:])
  parquet.write_table(pa.table({'n': texts}), path)
  with pytest.raises(FilesError) as error:
    read(str(path))
  assert str(error.value) == (
    f'{path}, row 1501 is not UTF-8: convert the file.'
  )


@pytest.mark.parametrize('cut', [4, 50])
def test_a_compressed_file_that_is_cut_is_named_among_others(tmp_path, cut):
  lines = ''.join(f'{{"n": {n * n}}}\n' for n in range(1000)).encode()
  whole = gzip.compress(lines)
  (tmp_path / 'a.jsonl.gz').write_bytes(whole)
  (tmp_path / 'b.jsonl.gz').write_bytes(whole[:-cut])
  with pytest.raises(FilesError) as error:
    read(f'{tmp_path}/*.jsonl.gz')
  assert str(error.value) == (
    f'Cannot read {tmp_path}/b.jsonl.gz: Truncated compressed stream; check '
    'that it is whole and readable.'
  )


def test_rows_of_parquet_are_counted_through(tmp_path):
  path = tmp_path / 'a.parquet'
  write_parquet(path, [{'n': str(n)} for n in range(1, 3001)])
  for place, row in file_rows.read([str(path)], ['n']):
    assert place == f'{path}, row {row["n"]}'
  with pytest.raises(FilesError, match=r"a.parquet has no column 'm': There"):
    read(str(path), ['m'])


@pytest.mark.parametrize(
  ('name', 'text'),
  [('a.jsonl', '{"n": "x"}\n{"n": "ö"}'), ('a.csv', 'n\nö')],
)
def test_another_encoding_is_named_by_file_and_line(tmp_path, name, text):
  with pytest.raises(FilesError, match=f'{name}, line 2 is not UTF-8'):
    read_text(tmp_path / name, text, 'latin-1')


@pytest.mark.parametrize('name', ['a.parquet', 'a.jsonl.gz'])
def test_a_damaged_file_is_one_sentence(tmp_path, name):
  with pytest.raises(FilesError) as error:
    read_text(tmp_path / name, 'this is something else')
  assert str(error.value).startswith(f'Cannot read {tmp_path}/{name}: ')
  assert str(error.value).endswith('; check that it is whole and readable.')


class Bucket(http.server.BaseHTTPRequestHandler):
  """As much of S3 as reading takes, and a note of what was signed."""

  contents: dict[str, bytes] | None
  signed: list[bool]

  def do_GET(self):
    self.signed.append('Authorization' in self.headers)
    path, _, query = self.path.partition('?')
    if self.contents is None:
      return self._answer(403)
    if 'list-type=2' in query:
      keys = ''.join(
        f'<Contents><Key>{k}</Key><Size>{len(v)}</Size></Contents>'
        for k, v in self.contents.items()
      )
      return self._answer(
        200, f'<ListBucketResult>{keys}</ListBucketResult>'.encode()
      )
    body = self.contents.get(path.removeprefix('/mine/'))
    if body is None:
      return self._answer(404)
    if 'Range' not in self.headers:
      return self._answer(200, body)
    first, last = self.headers['Range'].removeprefix('bytes=').split('-')
    part = body[int(first) : int(last) + 1]
    return self._answer(
      206, part, {'Content-Range': f'bytes {first}-{last}/{len(body)}'}
    )

  do_HEAD = do_GET

  def _answer(self, status, body=b'', headers=None):
    self.send_response(status)
    self.send_header('Content-Length', str(len(body)))
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """Yields the end of a URI that leads to `Bucket`; there is no key to it."""
  for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(Bucket, 'signed', [], raising=False)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Bucket)
  threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  ).start()
  where = f'127.0.0.1:{server.server_port}'
  yield f'region=x&scheme=http&endpoint_override={where}'
  server.shutdown()
  server.server_close()


def test_a_bucket_is_read_and_without_credentials_unsigned(bucket, monkeypatch):
  contents = {
    f'd/{name}': f'{{"n": "{name}"}}'.encode()
    for name in ('b.jsonl', 'a.jsonl', 'c.csv')
  }
  monkeypatch.setattr(Bucket, 'contents', contents, raising=False)
  assert read(f's3://mine/d/a.jsonl?{bucket}') == [('a.jsonl',)]
  several = [('a.jsonl',), ('b.jsonl',)]
  assert read(f's3://mine/d/*.jsonl?{bucket}') == several
  with pytest.raises(FilesError, match='No file matches'):
    read(f's3://mine/d/z.jsonl?{bucket}')
  assert Bucket.signed and not any(Bucket.signed)


def test_a_bucket_that_refuses_is_one_sentence(bucket, monkeypatch):
  monkeypatch.setattr(Bucket, 'contents', None, raising=False)
  monkeypatch.setattr(file_rows, '_GCS_SECONDS', 1)
  nobody = 'scheme=http&endpoint_override=127.0.0.1:9'
  for pattern, remedy in {
    f's3://mine/*.jsonl?{bucket}': 'give credentials by AWS_PROFILE',
    f'gs://anonymous@mine/*.jsonl?{nobody}': 'gcloud auth application-default',
    'x3://mine/a.jsonl': 'check that it is whole and readable',
  }.items():
    with pytest.raises(FilesError) as error:
      read(pattern)
    message = str(error.value)
    assert message.startswith(f'Cannot read {pattern}: ')
    assert remedy in message
    assert len(message) < 600 and '\n' not in message


def test_google_gets_seconds_not_minutes(monkeypatch):
  seen = []

  def from_uri(uri):
    seen.append(uri)
    raise OSError('no')

  file_systems = types.SimpleNamespace(
    FileSystem=types.SimpleNamespace(from_uri=from_uri),
    LocalFileSystem=fs.LocalFileSystem,
  )
  monkeypatch.setattr(file_rows, 'fs', file_systems)
  for uri in ('gs://b/a', 'gs://b/a?x=1', 'gs://b/a?retry_limit_seconds=99'):
    with pytest.raises(FilesError):
      read(uri)
  assert seen == [
    'gs://b/a?retry_limit_seconds=10',
    'gs://b/a?x=1&retry_limit_seconds=10',
    'gs://b/a?retry_limit_seconds=99',
  ]
