"""`gqa-flax infer`: one line out for each line in, whatever they hold."""

import io
import os
import subprocess
import sys

import pytest

from gqa_flax import cli
from gqa_flax.cli import gin_config, text_files


@pytest.fixture
def decoded(monkeypatch):
  """Replaces the model: texts come back in brackets; returns those it got."""
  seen = []

  def texts_to_texts(texts):
    seen.extend(texts)
    return [f'<{text}>' for text in texts]

  monkeypatch.setattr(gin_config, 'require_function', lambda *args: None)
  monkeypatch.setattr(gin_config, 'call', lambda *args: lambda: texts_to_texts)
  return seen


def infer(tmp_path, content, *argv):
  """Returns what is written for the bytes of an input file."""
  (tmp_path / 'in.txt').write_bytes(content)
  output = tmp_path / 'out.txt'
  argv = [f'--input={tmp_path}/in.txt', f'--output={output}', *argv]
  assert cli.main(['infer', *argv]) == 0
  assert sorted(p.name for p in tmp_path.iterdir()) == ['in.txt', 'out.txt']
  return output.read_bytes()


@pytest.mark.parametrize(
  ('content', 'lines'),
  [
    ('a\u2028b\u2029c\nd\n', ['a\u2028b\u2029c', 'd']),
    ('a\u0085b\nc\n', ['a\u0085b', 'c']),
    ('a\x0bb\x0cc\x1cd\x1ee\n', ['a\x0bb\x0cc\x1cd\x1ee']),
    ('a\rb\nc\n', ['a\rb', 'c']),
    ('a\r\nb\r\n', ['a', 'b']),
    ('a\n\n\nb', ['a', '', '', 'b']),
    ('\ufeffa\n', ['a']),
    ('\x00\n', ['\x00']),
    ('\n', ['']),
    ('', []),
  ],
)
def test_a_line_ends_at_a_new_line_and_nowhere_else(
  tmp_path, decoded, content, lines
):
  written = infer(tmp_path, content.encode())
  assert decoded == lines
  assert written.count(b'\n') == len(lines)
  # Python's own reading ends a line at '\r', too.
  assert written.decode() == ''.join(
    f'<{line}>\n'.replace('\r', ' ') for line in lines
  )


def test_a_prediction_of_several_lines_is_one():
  predictions = ['a\nb', 'c\r\nd\re', '\u2028', '']
  assert text_files.to_text(predictions) == 'a b\nc d e\n\u2028\n\n'


def test_standard_input_is_cut_as_a_file_is(monkeypatch, decoded, capsys):
  for argv in ([], ['--input=-', '--output=-']):
    content = io.BytesIO('é\u2028x\r\n\ny'.encode())
    # Of whatever encoding the terminal is.
    wrapper = io.TextIOWrapper(content, encoding='latin-1')
    monkeypatch.setattr(sys, 'stdin', wrapper)
    assert cli.main(['infer', *argv]) == 0
    assert capsys.readouterr().out == '<é\u2028x>\n<>\n<y>\n'


@pytest.mark.parametrize('stdin', [False, True])
def test_bytes_that_are_no_text_name_file_and_line(
  tmp_path, capsys, monkeypatch, decoded, stdin
):
  path = tmp_path / 'in.txt'
  path.write_bytes(b'a\n\nb\xe9c\n')
  argv = [f'--input={path}', f'--output={tmp_path}/out.txt']
  if stdin:
    wrapper = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, 'stdin', wrapper)
    argv = argv[1:]
  assert cli.main(['infer', *argv]) == 1
  assert capsys.readouterr().err == (
    f'gqa-flax infer: {"standard input" if stdin else path}, line 3 is not '
    'UTF-8: convert the file.\n'
  )
  assert decoded == [] and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--input=nothing.txt'], 'There is no input file nothing.txt; check'),
    (['--input=folder'], "--input: 'folder' cannot be read (Is a directory)"),
    (['--output=folder'], "--output: 'folder' cannot be written (Is a dir"),
    (['--output='], "--output: '' cannot be written (Is a directory)"),
    (['--output=no/out.txt'], "--output: 'no/out.txt' cannot be written (No "),
    (['--output=file/x'], "--output: 'file/x' cannot be written (Not a dir"),
    (['--output=/proc/x'], "--output: '/proc/x' cannot be written ("),
  ],
)
def test_what_cannot_be_read_or_written_is_said_before_anything_is_decoded(
  tmp_path, capsys, monkeypatch, decoded, argv, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'file').write_text('')
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'a\n')))
  assert cli.main(['infer', *argv]) == 2
  found = capsys.readouterr()
  assert found.out == '' and found.err.count('\n') == 1
  assert found.err.startswith(f'gqa-flax infer: {message}')
  assert decoded == []
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'folder']


def test_closed_streams_are_one_sentence(tmp_path):
  """Python has None for them."""
  code = (
    'import sys\n'
    'from gqa_flax import cli\n'
    'from gqa_flax.cli import gin_config\n'
    'gin_config.call = lambda *args: lambda: list\n'
    'gin_config.require_function = lambda *args: None\n'
    "sys.exit(cli.main(['infer']))\n"
  )
  for closing, message in (
    (
      '<&-',
      'Standard input is closed: give a file with --input, or lines on '
      'standard input.',
    ),
    ('>&-', 'Standard output is closed: give a file with --output.'),
  ):
    done = subprocess.run(
      ['sh', '-c', f'"$0" -c "$1" {closing}', sys.executable, code],
      input=b'',
      capture_output=True,
      check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode() == f'gqa-flax infer: {message}\n'


def test_a_pipe_is_written_to_and_stays(tmp_path, decoded):
  """A rename would put a file in its place, and in that of /dev/null."""
  (tmp_path / 'in.txt').write_text('a\n')
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  argv = [f'--input={tmp_path}/in.txt', f'--output={pipe}']
  assert cli.main(['infer', *argv]) == 0
  assert pipe.is_fifo() and os.read(reader, 99) == b'<a>\n'
  os.close(reader)
