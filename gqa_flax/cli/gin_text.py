"""What gin files and bindings say, read without importing what they configure.

gin itself imports TensorFlow and JAX to parse a file that configures something
built on them. Reading the statements alone takes milliseconds, so that a wrong
value is an error at once.
"""

import ast
import dataclasses
import os
import pathlib
import re
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gin import config_parser


class UsageError(Exception):
  """The command line or a gin file cannot be run as it is."""


class Reference(str):
  """A configurable function, such as '@decode.greedy_decode'."""


class MacroReference(str):
  """The name of another macro, such as 'TRAIN_STEPS' in '%TRAIN_STEPS'."""


REQUIRED = MacroReference('gin.REQUIRED')


class Binding(NamedTuple):
  """A value, where it is bound, and how it is written there.

  Attributes:
    value: A literal, a `Reference`, a `MacroReference`, or a container of them.
    place: '--gin.NAME', or a file and line such as 'runs/train.gin:9'.
    written: The text on the command line, or None for a value in a file.
  """

  value: Any
  place: str
  written: str | None = None


@dataclasses.dataclass
class Text:
  """All statements of some gin files and bindings, later ones winning.

  Attributes:
    macros: Values by name.
    parameters: Values by scope, function and parameter, such as
      'eval/loop.train.seed'.
    macro_of: The macro that a gin file binds to a parameter, by the same keys.
    referenced: Names of all macros that are used, each with where.
    in_files: Names of the macros that files set.
  """

  macros: dict[str, Binding] = dataclasses.field(default_factory=dict)
  parameters: dict[str, Binding] = dataclasses.field(default_factory=dict)
  macro_of: dict[str, str] = dataclasses.field(default_factory=dict)
  referenced: dict[str, str] = dataclasses.field(default_factory=dict)
  in_files: set[str] = dataclasses.field(default_factory=set)

  def value(self, name: str) -> Any:
    """Returns the value of a macro, or None if it has none or no literal."""
    value = self.resolve(MacroReference(name))
    return None if has_references(value) else value

  def resolve(self, value: Any) -> Any:
    """Follows macros to what the last of them is bound to."""
    seen: set[str] = set()
    while isinstance(value, MacroReference) and value not in seen:
      seen.add(value)
      if value not in self.macros:
        return value
      value = self.macros[value].value
    return value

  def fields(self, function: str) -> dict[str, Any]:
    """Returns the literals that are bound to a function, outside all scopes."""
    found = {}
    for key, binding in self.parameters.items():
      owner, _, parameter = key.rpartition('.')
      if owner.rpartition('.')[2] == function and '/' not in key:
        found[parameter] = self.resolve(binding.value)
    return {k: v for k, v in found.items() if not has_references(v)}


def has_references(value: Any) -> bool:
  """Whether a value is known only once gin has resolved it."""
  if isinstance(value, Mapping):
    return any(map(has_references, (*value.keys(), *value.values())))
  if isinstance(value, list | tuple):
    return any(map(has_references, value))
  return isinstance(value, Reference | MacroReference)


def read(
  files: Sequence[str], bindings: Sequence[str], folders: Sequence[str]
) -> Text:
  """Reads files, what they include, and bindings.

  Args:
    files: Paths, relative to the working directory or to one of `folders`.
    bindings: 'NAME=value' as on the command line.
    folders: Where files are searched besides the working directory.

  Raises:
    UsageError: A file cannot be found or read, or a statement is malformed.
  """
  text = Text()
  for file in files:
    _read_file(text, file, ['', *folders], '--gin_file', ())
  text.in_files.update(text.macros)
  for binding in bindings:
    name, equals, value = binding.partition('=')
    if not equals:
      raise UsageError(
        f'--gin.{binding} binds nothing; write --gin.NAME=value.'
      )
    place = f'--gin.{name}'
    statements = _parse(f'{name} = {as_gin_value(value)}\n', place, binding)
    for statement in statements:
      _add(text, statement, place, value)
  _check_cycles(text)
  return text


def _check_cycles(text: Text):
  for name, binding in text.macros.items():
    value = text.resolve(binding.value)
    if isinstance(value, MacroReference) and value in text.macros:
      raise UsageError(
        f'{name} ({binding.place}) is defined by itself; give it a value.'
      )


def as_gin_value(text: str) -> str:
  """Quotes what is neither a literal nor a reference: --gin.DIR=/tmp/x."""
  if text.startswith(('@', '%')):
    return text
  try:
    ast.literal_eval(text)
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    # Not a template such as {answer}, but a list of references.
    nested = text.startswith(('[', '(', '{')) and re.search('[@%]', text)
    return text if nested else repr(text)
  return text.strip()


def _read_file(text, file, folders, place, including):
  path = next(
    (p for f in folders if (p := pathlib.Path(f, file)).is_file()), None
  )
  if path is None:
    is_folder = os.path.isdir(file)
    raise UsageError(
      f'The gin file {file} ({place}) '
      + ('is a folder' if is_folder else 'does not exist')
      + '; check --gin_file and --gin_search_paths.'
    )
  if path in including:
    raise UsageError(f'The gin file {file} ({place}) includes itself.')
  try:
    content = path.read_bytes()
    source = content.decode()
  except OSError as error:
    raise UsageError(
      f'The gin file {file} cannot be read ({error.strerror}).'
    ) from error
  except UnicodeDecodeError as error:
    line = content[: error.start].count(b'\n') + 1
    raise UsageError(
      f'{file}:{line} is not UTF-8; save the gin file as UTF-8 text.'
    ) from error
  for statement in _parse(source, file):
    place = f'{file}:{statement.location.line_num}'
    if isinstance(statement, config_parser.IncludeStatement):
      included = statement.filename
      _read_file(text, included, folders, place, (*including, path))
    elif isinstance(statement, config_parser.BindingStatement):
      _add(text, statement, place)


def _parse(source: str, place: str, binding: str | None = None) -> list:
  """Returns the statements; an error names the line, or the binding."""
  try:
    return list(config_parser.ConfigParser(source, _Delegate()))
  except RecursionError as error:
    raise UsageError(f'{place} is nested too deeply.') from error
  except (SyntaxError, ValueError, tokenize.TokenError) as error:
    if binding is not None:
      raise UsageError(
        f'--gin.{binding} is not a binding; write --gin.NAME=value, with NAME '
        'as in the gin files.'
      ) from error
    line = _line_of(error)
    raise UsageError(
      f'{place}{line} is not a statement that gin reads; write NAME = value.'
    ) from error


def _line_of(error: Exception) -> str:
  """Returns ':LINE' of a syntax error as gin and tokenize give it, or ''."""
  number = getattr(error, 'lineno', None)
  if number is None and len(error.args) > 1:
    where = error.args[1]
    number = getattr(where, 'line_num', None) or where[0]
  return f':{number}' if isinstance(number, int) else ''


class _Delegate(config_parser.ParserDelegate):
  """Keeps references as names."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(f'@{scoped_configurable_name}{"()" if evaluate else ""}')

  def macro(self, macro_name):
    return MacroReference(macro_name)


def _add(text: Text, statement, place: str, written: str | None = None):
  for name in _macros_in(statement.value):
    text.referenced.setdefault(name, place)
  scope, selector, argument, value, _ = statement
  if not argument and not scope:
    text.macros[selector] = Binding(value, place, written)
    return
  key = f'{scope}/' * bool(scope) + f'{selector}.{argument}'
  text.parameters[key] = Binding(value, place, written)
  if isinstance(value, MacroReference) and value != REQUIRED:
    text.macro_of[key] = value


def _macros_in(value) -> list[str]:
  if isinstance(value, MacroReference):
    return [] if value == REQUIRED else [value]
  if isinstance(value, Mapping):
    value = [*value.keys(), *value.values()]
  if isinstance(value, list | tuple):
    return [name for part in value for name in _macros_in(part)]
  return []
