"""Gin files and bindings, in T5X's manner; the only file that knows gin.

Gin files say `from __gin__ import dynamic_registration` and import what they
configure, so that the library carries no decorators.
"""

import argparse
import ast
import difflib
import importlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

# What gin adds to Python's error when a function lacks arguments.
_UNSET = re.compile(
  r'(\w+)\S*\(\) missing .* No values supplied by Gin or caller for '
  r"arguments: \['([^\]]*)'\]"
)
# Files that set a function's parameters.
_FOLDERS = {'T5Config': 'one of gin_configs/models'}


class UsageError(Exception):
  """The command line or a gin file cannot be run as it is."""


def add_arguments(parser: argparse.ArgumentParser):
  """Adds the options of every command that reads gin files."""
  add = parser.add_argument
  add('--gin_file', action='append', default=[], help='may be repeated')
  add('--gin_search_paths', default='', help='folders, comma-separated')
  add(
    '--gin_bindings',
    action='append',
    default=[],
    metavar='NAME=value',
    help='also written --gin.NAME=value',
  )
  add('--tfds_data_dir', help='of data sets; TFDS_DATA_DIR by default')
  add(
    '--seqio_additional_cache_dirs',
    default='',
    help='where tasks are cached, comma-separated',
  )
  add('--dry_run', action='store_true', help='print the configuration, stop')
  add('--debug', action='store_true', help='show tracebacks')


def rewrite_bindings(argv: Sequence[str]) -> list[str]:
  """Turns T5X's `--gin.NAME=value` into `--gin_bindings=NAME=value`."""
  return [
    f'--gin_bindings={arg[6:]}' if arg.startswith('--gin.') else arg
    for arg in argv
  ]


def parse(args):
  """Reads files, then bindings; with --dry_run prints what they amount to.

  Raises:
    UsageError: a file or a binding cannot be read, or a value is missing.
  """
  _choose_folders(args)
  gin.clear_config()
  # Files alone: gin would look into Python packages before our search paths,
  # and fail on gin_configs/, a folder that looks like one.
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
  for folder in _search_paths(args):
    gin.add_config_file_search_path(str(folder))
  for path in args.gin_file:
    try:
      gin.parse_config_file(path)
    except OSError as error:
      raise UsageError(
        f'The gin file {path} cannot be read ({error.args[0]}); check '
        '--gin_file and --gin_search_paths.'
      ) from error
    except Exception as error:
      raise UsageError(flatten(f'{path}: {error}')) from error
  referenced = re.findall(r'%([A-Z]\w*)', gin.config_str())
  known = {*_macros(), *referenced}
  for binding in args.gin_bindings:
    _bind(binding, known)
  missing = [n for n, value in _macros().items() if value == '%gin.REQUIRED']
  if missing and not args.dry_run:
    wanted = ' '.join(f'--gin.{name}=...' for name in missing)
    raise UsageError(f'These have no value yet: add {wanted}')
  if args.dry_run:
    print(gin.config_str())
  else:
    _finalize()


def _finalize():
  """Ends the parsing, in which every macro must have found its value."""
  try:
    gin.finalize()
  except ValueError as error:
    found = re.match(r"No bindings specified for '(\w+)/gin.macro'", str(error))
    if not found:
      raise
    raise UsageError(
      f'{found[1]} has no value: no gin file given sets it; add one that does, '
      f'or --gin.{found[1]}=...'
    ) from error


def _choose_folders(args):
  """Hands on where data sets and cached tasks lie."""
  if args.tfds_data_dir:
    os.environ['TFDS_DATA_DIR'] = args.tfds_data_dir
  if args.seqio_additional_cache_dirs:
    from gqa_flax.data import caching

    caching.add_folders(args.seqio_additional_cache_dirs.split(','))


def scan(args, name: str) -> Any:
  """Returns the value of a macro as files and bindings spell it, or None.

  Reading the text takes no time, where parsing it imports TensorFlow and JAX.
  Values that are no literals are not seen.
  """
  folders = ['', *_search_paths(args)]
  lines = [line for file in args.gin_file for line in _lines(file, folders)]
  value: str | None = None
  for line in (*lines, *args.gin_bindings):
    if found := re.fullmatch(rf'{name}\s*=\s*([^#]*?)\s*(#.*)?', line):
      value = _as_gin_value(found[1])
  try:
    return ast.literal_eval(value) if value else None
  except (SyntaxError, ValueError):
    return None


def binds_parameter(args, name: str) -> bool:
  """Whether a binding sets a parameter of this name, of whatever function."""
  return any(
    re.match(rf'\S*\.{name}\s*=', binding) for binding in args.gin_bindings
  )


def _lines(file: str, folders: Sequence[str]) -> Iterator[str]:
  """Yields the lines of a gin file, and of those that it includes."""
  paths = [pathlib.Path(folder, file) for folder in folders]
  path = next((path for path in paths if path.is_file()), None)
  for line in path.read_text().splitlines() if path else ():
    if found := re.fullmatch(r"""include\s+['"](.*)['"].*""", line):
      yield from _lines(found[1], folders)
    else:
      yield line


def find_folder(args, name: str) -> str:
  """Returns where a folder of gin files is, such as 'gin_configs/tasks'."""
  candidates = [os.path.join(folder, name) for folder in _search_paths(args)]
  return next(filter(os.path.isdir, candidates), name)


def _search_paths(args) -> list[str]:
  """The repository or the installed package, then what the user names."""
  root = pathlib.Path(__file__).parent.parent
  return [str(root.parent), str(root), *args.gin_search_paths.split(',')]


def _bind(binding: str, known):
  name, equals, value = binding.partition('=')
  if not equals:
    raise UsageError(f'--gin.{binding} binds nothing; write --gin.NAME=value.')
  if re.fullmatch('[A-Z][A-Z0-9_]*', name) and name not in known:
    near = difflib.get_close_matches(name, known, n=3) or sorted(known)
    remedy = f'the nearest are {", ".join(near)}' if near else 'give one'
    raise UsageError(f'--gin.{name}: no gin file uses {name}; {remedy}.')
  line = f'{name} = {_as_gin_value(value)}'
  try:
    try:
      gin.parse_config(line)
    except ValueError as error:
      # What no gin file has used yet is known by what they import.
      imports = re.findall('^(?:from|import) .*$', gin.config_str(), re.M)
      try:
        gin.parse_config([*imports, line])
      except Exception:
        raise error from None
  except Exception as error:
    first = flatten(str(error).split('\n  In bindings')[0])
    raise UsageError(
      f'--gin.{binding}: {first} Check the name against --dry_run.'
    ) from error


def _as_gin_value(text: str) -> str:
  """Quotes what is neither a literal nor a reference: --gin.DIR=/tmp/x."""
  if text.startswith(('@', '%')):
    return text
  try:
    ast.literal_eval(text)
  except (SyntaxError, ValueError):
    # Not a template such as {answer}, but a list of references.
    nested = text.startswith(('[', '(', '{')) and re.search('[@%]', text)
    return text if nested else repr(text)
  return text


def _macros() -> dict[str, str]:
  lines = re.findall(r'^([A-Z][A-Z0-9_]*) = (.*)$', gin.config_str(), re.M)
  return dict(lines)


def macro(name: str):
  """Returns the value of a macro.

  Raises:
    UsageError: it is the call of a function.
  """
  value = gin.query_parameter(f'%{name}')
  if hasattr(value, 'scoped_configurable_fn'):
    raise UsageError(f'{name} must be a plain string for this command.')
  return value


def call(module: str, name: str, files: str = 'one that does') -> Callable:
  """Returns a function of ours with its parameters bound by gin.

  Args:
    module: where the function is.
    name: of the function.
    files: that configure it, for the error.

  Raises:
    UsageError: no gin file given configures it.
  """
  function = getattr(importlib.import_module(module), name)
  try:
    is_bound = bool(gin.get_bindings(function, resolve_references=False))
  except ValueError:  # gin has never heard of it
    is_bound = False
  if not is_bound:
    raise UsageError(f'No --gin_file configures {module}.{name}; give {files}.')
  return gin.get_configurable(function)


def find_macro(name: str) -> Any:
  """Returns the value of a macro, or None if there is none."""
  return macro(name) if name in _macros() else None


def config_str() -> str:
  """Returns what was used so far, or else what was parsed."""
  return gin.operative_config_str() or gin.config_str()


def parsed_without(name: str) -> str:
  """Returns what was parsed, but for a macro."""
  # Gin continues a long value on indented lines.
  whole = re.compile(rf'^{name} =.*\n([ \t].*\n)*', re.MULTILINE)
  return whole.sub('', gin.config_str())


def one_sentence(error: Exception) -> str:
  """Returns what an error says, without what gin adds to it."""
  text = flatten(str(error).split('\n  In call to')[0])
  if unset := _UNSET.match(text):
    name, arguments = unset.groups()
    where = _FOLDERS.get(name, 'one that does')
    return f'{name} has no {arguments}: no gin file given sets it; add {where}.'
  return text or repr(error)


def flatten(text: str) -> str:
  """Returns a text in one line."""
  return ' '.join(text.split())
