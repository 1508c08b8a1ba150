"""The rows of JSON lines, CSV and Parquet files, local or in a bucket."""

import csv
import difflib
import fnmatch
import glob
import io
import itertools
import json
import posixpath
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
from pyarrow import fs, parquet

# Where the row stands, for errors, and its columns.
Row: TypeAlias = tuple[str, Mapping[str, Any]]

# Google's client would try for 15 minutes where nothing answers.
_GCS_SECONDS = 10

_ENDINGS = {
  '.jsonl': 'jsonl',
  '.json': 'jsonl',
  '.csv': 'csv',
  '.parquet': 'parquet',
}

_REMEDIES = {
  'gs': (
    'check the bucket and the network, and log in with `gcloud auth '
    'application-default login`, or write gs://anonymous@... for a public '
    'bucket.'
  ),
  's3': (
    'check the bucket and the network, and give credentials by AWS_PROFILE or '
    'by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.'
  ),
}


class FilesError(ValueError):
  """Files, or what was said about them, do not make a task."""


def read(
  patterns: Sequence[str], columns: Collection[str], format: str | None = None
) -> Iterator[Row]:
  """Yields rows, file after file: as the patterns stand, then by name.

  Args:
    patterns: paths, in whose last part *, ? and [...] match as in a shell; in
      a URI only *.
    columns: the columns that every row must have; of Parquet no others are
      read.
    format: a key of `READERS`; None for what each file's ending says.

  Raises:
    FilesError: a pattern matches no file, or a file is bad.
  """
  for pattern in patterns:
    try:
      filesystem, paths = _find(pattern)
      if not paths:
        raise FilesError(
          f'No file matches {pattern!r}: check the path; a * may stand in its '
          'last part.'
        )
    except (OSError, pa.ArrowException) as error:
      raise _cannot_read(pattern, pattern, error) from error
    for path in paths:
      reader = READERS[format or _format(path)]
      try:
        yield from reader(filesystem, path, columns)
      except (OSError, pa.ArrowException) as error:
        raise _cannot_read(path, pattern, error) from error


def check_known(what: str, name: str, known: Collection[str]):
  """Raises a FilesError with the nearest names if `name` is not known."""
  if name not in known:
    nearest = difflib.get_close_matches(name, known, cutoff=0.5)
    hint = f'did you mean {" or ".join(nearest)}? ' if nearest else ''
    there = ', '.join(known) or 'none'
    raise FilesError(f'{what} {name!r}: {hint}There are {there}.')


def _cannot_read(path: str, pattern: str, error: Exception) -> FilesError:
  reason = textwrap.shorten(str(error), 300, placeholder=' ...')
  remedy = _REMEDIES.get(
    pattern.partition('://')[0], 'check that it is whole and readable.'
  )
  return FilesError(f'Cannot read {path}: {reason}; {remedy}')


def _find(pattern: str) -> tuple[fs.FileSystem, list[str]]:
  """Returns a file system and, sorted, the paths in it that match."""
  filesystem, path = fs.LocalFileSystem(), posixpath.expanduser(pattern)
  if '://' in pattern:
    if pattern.startswith('gs://') and 'retry_limit_seconds' not in pattern:
      mark = '&' if '?' in pattern else '?'
      pattern = f'{pattern}{mark}retry_limit_seconds={_GCS_SECONDS}'
    filesystem, path = fs.FileSystem.from_uri(pattern)
  folder, name = posixpath.split(path)
  if glob.has_magic(name):
    selector = fs.FileSelector(folder or '.', allow_not_found=True)
    found = filesystem.get_file_info(selector)
    found = [f for f in found if fnmatch.fnmatchcase(f.base_name, name)]
  else:
    found = [filesystem.get_file_info(path)]
  return filesystem, sorted(f.path for f in found if f.is_file)


def _format(path: str) -> str:
  ending = posixpath.splitext(path.lower().removesuffix('.gz'))[1]
  if ending not in _ENDINGS:
    raise FilesError(
      f'The ending of {path} does not say what it is: set format to one of '
      f'{", ".join(READERS)}, or end its name in {", ".join(_ENDINGS)}.'
    )
  return _ENDINGS[ending]


def _json_rows(
  filesystem: fs.FileSystem, path: str, columns: Collection[str]
) -> Iterator[Row]:
  # Not by pyarrow, which turns a text that looks like a time into one and
  # counts the rows of an error from the beginning of a block.
  with filesystem.open_input_stream(path) as stream:
    lines = text_lines(io.BufferedReader(stream), path)
    for number, line in enumerate(lines, start=1):
      if line.isspace():
        continue
      place = f'{path}, line {number}'
      try:
        row = json.loads(
          line, parse_int=str, parse_float=str, object_pairs_hook=_object
        )
      except RecursionError:
        raise FilesError(
          f'{place} is nested too deep: write one flat object a line.'
        ) from None
      except ValueError as error:
        raise FilesError(
          f'{place} is not JSON ({error}): write one object a line.'
        ) from None
      if not isinstance(row, dict):
        raise FilesError(
          f'{place} is a {type(row).__name__}: write one JSON object a line.'
        )
      _check_columns(columns, row, place)
      if '\\u' in line:
        _check_characters(columns, row, place)
      yield place, row


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  """Makes an object, in which Python would keep the last of several values."""
  made = dict(pairs)
  if len(made) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'an object has the key {twice!r} twice')
  return made


def _check_characters(
  columns: Collection[str], row: Mapping[str, Any], place: str
):
  """Refuses half a surrogate pair, which JSON can write and UTF-8 cannot."""
  for name in columns:
    try:
      json.dumps(row[name], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      half = error.object[error.start]
      raise FilesError(
        f'{place}: {name!r} has {half!a}, half of a surrogate pair, which is '
        'no character: write the pair, or leave it out.'
      ) from None


def _csv_rows(
  filesystem: fs.FileSystem, path: str, columns: Collection[str]
) -> Iterator[Row]:
  # Not by pyarrow, which cannot say on which line a bad row is where new lines
  # are quoted. A document may be longer than the 131,072 characters that
  # Python allows a cell by default.
  csv.field_size_limit(2**31 - 1)
  with filesystem.open_input_stream(path) as stream:
    lines = text_lines(io.BufferedReader(stream), path)
    reader = csv.reader(_without_nul(lines, path), strict=True)
    header, number = None, 1
    try:
      for cells in reader:
        # A row that spans lines is found where it begins.
        place, number = f'{path}, line {number}', reader.line_num + 1
        if header is None:
          header = cells
          _check_columns(columns, header, place)
        elif len(cells) == len(header):
          yield place, dict(zip(header, cells))
        elif cells:  # a blank line has none
          raise FilesError(
            f'{place} has {len(cells)} cells, but the header has '
            f'{len(header)}: quote cells with commas or new lines in them.'
          )
    except csv.Error as error:
      raise FilesError(
        f'{path}, line {number} is not CSV ({error}): write a quotation mark '
        'inside quotes twice.'
      ) from None


def _parquet_rows(
  filesystem: fs.FileSystem, path: str, columns: Collection[str]
) -> Iterator[Row]:
  with filesystem.open_input_file(path) as file:
    table = parquet.ParquetFile(file)
    _check_columns(columns, table.schema_arrow.names, path)
    # Small batches, for documents are long.
    batches = table.iter_batches(batch_size=1024, columns=sorted(columns))
    rows = itertools.chain.from_iterable(map(_python_rows, batches))
    for number, row in enumerate(rows, start=1):
      place = f'{path}, row {number}'
      if isinstance(row, UnicodeDecodeError):
        raise FilesError(f'{place} is not UTF-8: convert the file.')
      yield place, row


def _python_rows(
  batch: pa.RecordBatch,
) -> Iterator[Mapping[str, Any] | UnicodeDecodeError]:
  """Yields rows as Python sees them, and the error of one that it cannot."""
  try:
    yield from batch.to_pylist()
  except UnicodeDecodeError:
    for number in range(batch.num_rows):
      try:
        yield from batch.slice(number, 1).to_pylist()
      except UnicodeDecodeError as error:
        yield error


READERS: Mapping[str, Callable[..., Iterator[Row]]] = {
  'jsonl': _json_rows,
  'csv': _csv_rows,
  'parquet': _parquet_rows,
}


def text_lines(stream: BinaryIO, name: str) -> Iterator[str]:
  """Yields the lines of a file as text, with their ends.

  A line ends at '\\n' alone, not at whatever else `str.splitlines` cuts at.

  Args:
    stream: the bytes of the file, UTF-8; a byte order mark is left out.
    name: of the file, for errors.

  Raises:
    FilesError: a line is not UTF-8.
  """
  for number, line in enumerate(stream, start=1):
    try:
      text = line.decode()
    except UnicodeDecodeError:
      raise FilesError(
        f'{name}, line {number} is not UTF-8: convert the file.'
      ) from None
    yield text.removeprefix('\ufeff') if number == 1 else text


def _without_nul(lines: Iterator[str], path: str) -> Iterator[str]:
  """Yields lines; JSON refuses this by itself, CSV would take it for text."""
  for number, line in enumerate(lines, start=1):
    if '\0' in line:
      raise FilesError(
        f'{path}, line {number} has a NUL byte, which is no text: convert the '
        'file to UTF-8, or write it anew if it is damaged.'
      )
    yield line


def _check_columns(wanted: Collection[str], there: Collection[str], place: str):
  for name in sorted(wanted):
    check_known(f'{place} has no column', name, there)
    if [*there].count(name) > 1:
      raise FilesError(
        f'{place} has several columns {name!r}: give each its own name.'
      )
