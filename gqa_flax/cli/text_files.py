"""Lines of text in, text out, for the commands that read and write files."""

import errno
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from gqa_flax.cli.gin_config import UsageError


def read_lines(path: str | None) -> list[str]:
  """Returns the lines of a file or of standard input, without their ends.

  A line ends at a new line, '\\n' or '\\r\\n', and at nothing else.

  Args:
    path: None or '-' is standard input.

  Raises:
    UsageError: the file cannot be read, or standard input is closed.
    ValueError: a line is not UTF-8.
  """
  from gqa_flax.data import file_rows

  if path in (None, '-'):
    if sys.stdin is None:
      raise UsageError(
        'Standard input is closed: give a file with --input, or lines on '
        'standard input.'
      )
    lines = file_rows.text_lines(sys.stdin.buffer, 'standard input')
    return [_without_end(line) for line in lines]
  try:
    with open(path, 'rb') as stream:
      return [_without_end(line) for line in file_rows.text_lines(stream, path)]
  except FileNotFoundError:
    raise UsageError(f'There is no input file {path}; check --input.') from None
  except OSError as error:
    raise UsageError(
      f'--input: {path!r} cannot be read ({error.strerror}); give a file of '
      'lines.'
    ) from None


def to_text(lines: Sequence[str]) -> str:
  """Returns a text of as many lines, whatever is in them."""
  # '\r' too, for Python ends a line there in a file that it reads as text.
  return ''.join(re.sub('\r\n|[\r\n]', ' ', x) + '\n' for x in lines)


def check_output(path: str | None):
  """Sees that a text can be written, before it takes time to make it.

  Args:
    path: None or '-' is standard output.

  Raises:
    UsageError: it cannot be written.
  """
  if path in (None, '-'):
    if sys.stdout is None:
      raise UsageError('Standard output is closed: give a file with --output.')
    return
  try:
    if pathlib.Path(path).is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if _is_device(path):
      return
    temporary = _temporary(path)
    temporary.touch()
    temporary.unlink()
  except OSError as error:
    raise UsageError(
      f'--output: {path!r} cannot be written ({error.strerror}); give a file '
      'in a folder that is there and yours.'
    ) from None


def write(path: str | None, text: str):
  """Writes a text; a file appears whole, by a rename.

  Args:
    path: None or '-' is standard output.
    text: written as UTF-8.
  """
  content = text.encode()
  if path in (None, '-'):
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
  elif _is_device(path):
    pathlib.Path(path).write_bytes(content)
  else:
    temporary = _temporary(path)
    temporary.write_bytes(content)
    temporary.replace(path)


def _without_end(line: str) -> str:
  return line.removesuffix('\n').removesuffix('\r')


def _temporary(path: str) -> pathlib.Path:
  return pathlib.Path(f'{path}.tmp')


def _is_device(path: str) -> bool:
  """Whether a rename would put a file in the place of, say, /dev/null."""
  found = pathlib.Path(path)
  return found.exists() and not found.is_file()
