"""Gin files and bindings, in T5X's manner; the only file that knows gin.

Gin files say `from __gin__ import dynamic_registration` and import what they
configure, so that the library carries no decorators.
"""

import argparse
import importlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import gin

from gqa_flax.cli import gin_text, output_paths, setting_checks, setting_help
from gqa_flax.cli.gin_text import UsageError
from gqa_flax.data import on_disk

__all__ = ['UsageError']

# What gin adds to Python's error when a function lacks arguments.
_UNSET = re.compile(
  r'(\w+)\S*\(\) missing .* No values supplied by Gin or caller for '
  r"arguments: \['([^\]]*)'\]"
)
# Files that set a function's parameters.
_FOLDERS = {'T5Config': 'one of gin_configs/models'}


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


def add_settings(parser: argparse.ArgumentParser, command: str):
  """Lets `--help` end with the settings of a command."""
  format_help = parser.format_help

  def with_settings() -> str:
    return f'{format_help()}\n{setting_help.describe(command, search_paths())}'

  parser.format_help = with_settings  # type: ignore[method-assign]


def read(args) -> gin_text.Text:
  """Returns what files and bindings say, checked without importing anything.

  Raises:
    UsageError: A file cannot be read, or a setting cannot be as it is.
  """
  if getattr(args, 'text', None) is None:
    for folder in filter(None, args.gin_search_paths.split(',')):
      if not os.path.isdir(folder):
        raise UsageError(f'--gin_search_paths: {folder} is not a folder.')
    for folder in filter(None, args.seqio_additional_cache_dirs.split(',')):
      if '://' not in folder and not os.path.isdir(folder):
        raise UsageError(
          f'--seqio_additional_cache_dirs: {folder} is not a folder; give one '
          'that holds cached tasks.'
        )
    if args.tfds_data_dir is not None:
      require_data_dir(args.tfds_data_dir)
    text = gin_text.read(
      args.gin_file, args.gin_bindings, search_paths(args.gin_search_paths)
    )
    setting_checks.check(text, args.command)
    if not args.dry_run:
      output_paths.check(text)
    args.text = text
  return args.text


def _require_values(text: gin_text.Text, shorthand: Mapping[str, str]):
  """Raises UsageError if a macro has no value."""
  if missing := setting_checks.missing(text):
    wanted = ' '.join(shorthand.get(x, f'--gin.{x}=...') for x in missing)
    raise UsageError(f'These have no value yet: add {wanted}')
  for name in setting_checks.unset(text):
    raise UsageError(
      f'{name} has no value: no gin file given sets it; add one that does, '
      f'or --gin.{name}=...'
    )


def require_data_dir(folder: str):
  """Raises an error if TFDS cannot have its data sets in a folder."""
  if not folder:
    raise UsageError('--tfds_data_dir is empty; give the folder of data sets.')
  on_disk.data_dir(folder)


def parse(args):
  """Lets gin read files, then bindings; with --dry_run prints the result.

  Raises:
    UsageError: a file or a binding cannot be read, or a value is missing.
  """
  text = read(args)
  if not args.dry_run:
    _require_values(text, getattr(args, 'shorthand', {}))
  _choose_folders(args)
  gin.clear_config()
  # Files alone: gin would look into Python packages before our search paths,
  # and fail on gin_configs/, a folder that looks like one.
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
  for folder in search_paths(args.gin_search_paths):
    gin.add_config_file_search_path(str(folder))
  for path in args.gin_file:
    try:
      gin.parse_config_file(path)
    except Exception as error:
      raise UsageError(f'{path}: {_without_location(error)}') from error
  for binding in args.gin_bindings:
    _bind(binding)
  if args.dry_run:
    print(gin.config_str())
  else:
    gin.finalize()


def _without_location(error: Exception) -> str:
  """Returns what went wrong in a gin file, without gin's own quotation."""
  text = flatten(re.split(r'\n\s*In (?:file|bindings)', str(error))[0])
  return re.sub(
    r"Couldn't resolve selector (\S+); .* has no attribute .*",
    r'there is no \1; check the name.',
    text,
  )


def _choose_folders(args):
  """Hands on where data sets and cached tasks lie."""
  if args.tfds_data_dir:
    os.environ['TFDS_DATA_DIR'] = args.tfds_data_dir
  if args.seqio_additional_cache_dirs:
    from gqa_flax.data import caching

    caching.add_folders(args.seqio_additional_cache_dirs.split(','))


def find_folder(args, name: str) -> str:
  """Returns where a folder of gin files is, such as 'gin_configs/tasks'."""
  candidates = [
    os.path.join(folder, name) for folder in search_paths(args.gin_search_paths)
  ]
  return next(filter(os.path.isdir, candidates), name)


def search_paths(chosen: str = '') -> list[str]:
  """Returns where gin files are: in the repository or the package, then those
  folders that the user names, separated by commas."""
  root = pathlib.Path(__file__).parent.parent
  return [str(root.parent), str(root), *filter(None, chosen.split(','))]


def _bind(binding: str):
  name, _, value = binding.partition('=')
  line = f'{name} = {gin_text.as_gin_value(value)}'
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
    raise UsageError(
      f'--gin.{binding}: {_without_location(error)} Check the name against '
      '--dry_run.'
    ) from error


def literal(args, name: str) -> Any:
  """Returns the value of a macro that the command itself reads.

  Raises:
    UsageError: It has none, or it is the call of a function.
  """
  value = read(args).value(name)
  if value is None:
    raise UsageError(
      f'{name} must have a plain value for this command: --gin.{name}=...'
    )
  return value


def require_function(args, name: str, files: str):
  """Raises UsageError unless gin files or bindings configure a function.

  Args:
    args: Of the command.
    name: The function with its module, such as 'gqa_flax.training.loop.train'.
    files: Files that configure it, for the error.
  """
  # Files may import the module under any name.
  functions = {
    key.rpartition('.')[0].rpartition('.')[2] for key in read(args).parameters
  }
  if not args.dry_run and name.rpartition('.')[2] not in functions:
    raise UsageError(f'No --gin_file configures {name}; give {files}.')


def configured(
  args,
  module: str,
  name: str,
  files: str,
  before: Callable[[Any], None] = lambda args: None,
) -> Callable | None:
  """Returns a function of ours as gin files and bindings configure it.

  Args:
    args: Of the command.
    module: Where the function is.
    name: Of the function.
    files: Files that configure it, for the error.
    before: Called with `args` once a file configures it, before gin loads
      what the files import.

  Returns:
    The function; None for a dry run, for which the configuration is printed.

  Raises:
    UsageError: No gin file configures it, or as `parse`.
  """
  require_function(args, f'{module}.{name}', files)
  before(args)
  parse(args)
  return None if args.dry_run else call(module, name, files)


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
  # gin's copy of an OSError has its text and none of its attributes.
  if failed := re.fullmatch(r"\[Errno \d+\] (.*): '(.*)'", text):
    return f'{failed[2]}: {failed[1]}; check the path.'
  if unset := _UNSET.match(text):
    name, arguments = unset.groups()
    where = _FOLDERS.get(name, 'one that does')
    return f'{name} has no {arguments}: no gin file given sets it; add {where}.'
  return text or repr(error)


def flatten(text: str) -> str:
  """Returns a text in one line."""
  return ' '.join(text.split())
