"""The command line as it is typed: hyphens, --gin.NAME, and what is unknown."""

import argparse
import difflib
import importlib.metadata
import sys
from collections.abc import Sequence

from gqa_flax.cli import gin_config, setting_help, settings

_NEAREST = 3


def rewrite(argv: Sequence[str]) -> list[str]:
  """Returns a command line in one spelling.

  T5X's `--gin.NAME=value` becomes `--gin_bindings=NAME=value`, and the name of
  any other flag may have hyphens for underscores, as in `--dry-run`.
  """
  return [*map(_rewrite, argv)]


def _rewrite(arg: str) -> str:
  if arg.startswith('--gin.'):
    return f'--gin_bindings={arg[6:]}'
  if not arg.startswith('--'):
    return arg
  name, equals, value = arg[2:].partition('=')
  return f'--{name.replace("-", "_")}{equals}{value}'


class Parser(argparse.ArgumentParser):
  """Says in one sentence what an unknown argument may have meant."""

  def parse_known_args(self, args=None, namespace=None):
    namespace, unknown = super().parse_known_args(args, namespace)
    # argparse takes INPUT and OUTPUT together, or none where a flag is between.
    for action in self._get_positional_actions():
      if unknown and getattr(namespace, action.dest, '') is None:
        if not unknown[0].startswith('-'):
          setattr(namespace, action.dest, unknown.pop(0))
    if unknown:
      sentence = self._sentence(
        unknown[0], sys.argv[1:] if args is None else args
      )
      self.exit(2, f'{self.prog}: {sentence}\n')
    return namespace, unknown

  def _sentence(self, unknown: str, args: Sequence[str]) -> str:
    lists = f'`{self.prog} --help` lists what there is'
    if not unknown.startswith('--'):
      return f'there is no place for the argument {unknown!r}; {lists}.'
    flag, _, value = unknown.partition('=')
    if '=' not in unknown:
      after = [*args, '--'][args.index(unknown) + 1]
      value = '...' if after.startswith('--') else after
    near = self._nearest(flag[2:], value)
    remedy = f'did you mean {" or ".join(near)}?' if near else f'{lists}.'
    return f'there is no flag {flag}; {remedy}'

  def _nearest(self, name: str, value: str) -> list[str]:
    """Returns how to write what a name may have meant, best first."""
    flags = {
      option[2:]: option if action.nargs == 0 else f'{option}={value}'
      for option, action in self._option_string_actions.items()
      if option.startswith('--')
    }
    bindings = {
      setting.lower(): f'--gin.{setting}={value}'
      for setting in (self._settings() if 'gin_bindings' in flags else ())
    }
    name = name.lower()
    if name in bindings:
      return [bindings[name]]
    # METHOD of CONVERSION_METHOD is a whole word of it.
    found = [x for x in bindings if name in x.split('_')]
    spelled = bindings | flags
    found += difflib.get_close_matches(name, spelled, n=_NEAREST)
    return [spelled[x] for x in dict.fromkeys(found)][:_NEAREST]

  def _settings(self) -> list[str]:
    """Returns the settings of the command, or of all where it has no own."""
    command = self.prog.split()[1:2]
    if not command:
      return [*settings.SETTINGS]
    found = setting_help.sections(command[0], gin_config.search_paths())
    return [entry.name for entries in found.values() for entry in entries]


class Version(argparse.Action):
  """Prints the version of the package, looked up when it is asked for."""

  def __init__(self, option_strings, dest, **_):
    super().__init__(option_strings, dest, nargs=0, help='print the version')

  def __call__(self, parser, *_):
    try:
      version = importlib.metadata.version('gqa_flax')
    except importlib.metadata.PackageNotFoundError:
      version = '(not installed)'
    print(parser.prog, version)
    parser.exit(0)
