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
from typing import Any, TypeAlias

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
      for path in paths:
        reader = READERS[format or _format(path)]
        yield from reader(filesystem, path, columns)
    except (OSError, pa.ArrowException) as error:
      reason = textwrap.shorten(str(error), 300, placeholder=' ...')
      remedy = _REMEDIES.get(
        pattern.partition('://')[0], 'check that it is whole and readable.'
      )
      raise FilesError(f'Cannot read {pattern}: {reason}; {remedy}') from error


def check_known(what: str, name: str, known: Collection[str]):
  """Raises a FilesError with the nearest names if `name` is not known."""
  if name not in known:
    nearest = difflib.get_close_matches(name, known, cutoff=0.5)
    hint = f'did you mean {" or ".join(nearest)}? ' if nearest else ''
    there = ', '.join(known) or 'none'
    raise FilesError(f'{what} {name!r}: {hint}There are {there}.')


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
    for number, line in enumerate(_lines(stream, path), start=1):
      if line.isspace():
        continue
      place = f'{path}, line {number}'
      try:
        row = json.loads(line, parse_int=str, parse_float=str)
      except ValueError as error:
        raise FilesError(
          f'{place} is not JSON ({error}): write one object a line.'
        ) from None
      if not isinstance(row, dict):
        raise FilesError(
          f'{place} is a {type(row).__name__}: write one JSON object a line.'
        )
      _check_columns(columns, row, place)
      yield place, row


def _csv_rows(
  filesystem: fs.FileSystem, path: str, columns: Collection[str]
) -> Iterator[Row]:
  # Not by pyarrow, which cannot say on which line a bad row is where new lines
  # are quoted. A document may be longer than the 131,072 characters that
  # Python allows a cell by default.
  csv.field_size_limit(2**31 - 1)
  with filesystem.open_input_stream(path) as stream:
    reader = csv.reader(_lines(stream, path), strict=True)
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
    rows = itertools.chain.from_iterable(b.to_pylist() for b in batches)
    for number, row in enumerate(rows, start=1):
      yield f'{path}, row {number}', row


READERS: Mapping[str, Callable[..., Iterator[Row]]] = {
  'jsonl': _json_rows,
  'csv': _csv_rows,
  'parquet': _parquet_rows,
}


def _lines(stream: pa.NativeFile, path: str) -> Iterator[str]:
  """Yields lines of text with their ends, as UTF-8, without a BOM."""
  for number, line in enumerate(io.BufferedReader(stream), start=1):
    try:
      text = line.decode()
    except UnicodeDecodeError as error:
      raise FilesError(
        f'{path}, line {number} is not UTF-8 ({error}): convert the file.'
      ) from None
    yield text.removeprefix('\ufeff') if number == 1 else text


def _check_columns(wanted: Collection[str], there: Collection[str], place: str):
  for name in sorted(wanted):
    check_known(f'{place} has no column', name, there)
    if [*there].count(name) > 1:
      raise FilesError(
        f'{place} has several columns {name!r}: give each its own name.'
      )
