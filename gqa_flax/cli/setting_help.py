"""The settings of each command with defaults, for `--help` and documents."""

import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gqa_flax.cli import gin_text, settings

# Files of gin_configs/runs, and whether models and tasks have files, too.
_FILES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
  'train': (('pretrain', 'uptrain', 'finetune'), ('models', 'tasks')),
  'convert': (('convert',), ()),
  'evaluate': (('evaluate',), ('tasks',)),
  'infer': (('infer',), ('tasks',)),
  'time': (('time',), ('models',)),
  'data': ((), ('tasks',)),
}


class Entry(NamedTuple):
  """A setting as a command has it.

  Attributes:
    name: Of the macro.
    default: As gin writes it, 'required', or where it is to be found.
    setting: Its type and meaning.
  """

  name: str
  default: str
  setting: settings.Setting


def sections(command: str, folders: Sequence[str]) -> dict[str, list[Entry]]:
  """Returns the settings of a command, by the title of their section.

  Args:
    command: Such as 'train'.
    folders: Where gin_configs/ may be.
  """
  runs, kinds = _FILES[command]
  seen: set[str] = set()

  def entries(files, default_of) -> Iterator[Entry]:
    texts = {file: gin_text.read([file], [], folders) for file in files}
    for name in dict.fromkeys(
      n for text in texts.values() for n in text.macros
    ):
      found = settings.setting(name, command)
      if found and name not in seen:
        seen.add(name)
        yield Entry(name, default_of(_values(name, texts)), found)

  found = {}
  if runs:
    title = 'settings (--gin.NAME=value)'
    files = [f'gin_configs/runs/{name}.gin' for name in runs]
    found[title] = [*entries(files, lambda x: _by_file(x, len(files)))]
  for kind in kinds:
    title = f'settings of a file in gin_configs/{kind} (--gin.NAME=value)'
    found[title] = [*entries(_all(kind, folders), _common)]
  return found


def describe(command: str, folders: Sequence[str]) -> str:
  """Returns the settings of a command as the end of its `--help`."""
  lines = []
  for title, entries in sections(command, folders).items():
    lines.append(f'{title}:')
    for name, default, found in entries:
      type_ = str(found.type)
      text = f'{found.meaning} {type_[0].upper()}{type_[1:]}.'
      lines.append(f'  {name}: {default}')
      lines.append(textwrap.indent(textwrap.fill(text, 74), ' ' * 6))
    lines.append('')
  return '\n'.join(lines)


def _values(name: str, texts: Mapping[str, gin_text.Text]) -> dict[str, list]:
  """Returns the files by what they say of a setting."""
  found: dict[str, list] = {}
  for file, text in texts.items():
    if name in text.macros:
      value = text.resolve(text.macros[name].value)
      is_name = isinstance(value, gin_text.Reference | gin_text.MacroReference)
      shown = str(value) if is_name else repr(value)
      shown = 'required' if value == gin_text.REQUIRED else shown
      found.setdefault(shown, []).append(pathlib.Path(file).stem)
  return found


def _by_file(values: Mapping[str, list], num_files: int) -> str:
  """Returns the default, with the files that have it where they differ."""
  if sum(map(len, values.values())) == num_files and len(values) == 1:
    return next(iter(values))
  return '; '.join(f'{x} ({", ".join(of)})' for x, of in values.items())


def _common(values: Mapping[str, list]) -> str:
  """Returns the default if all files have the same."""
  return next(iter(values)) if len(values) == 1 else 'set by each file'


def _all(kind: str, folders: Sequence[str]) -> list[str]:
  """Returns the gin files of a folder."""
  found = [pathlib.Path(x, 'gin_configs', kind) for x in ('', *folders)]
  folder = next((x for x in found if x.is_dir()), found[0])
  return [str(file) for file in sorted(folder.glob('*.gin'))]
