"""Whether two evaluations are the same one, so that none replaces another."""

import json
import re
import reprlib
import textwrap
from collections.abc import Mapping
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def parse_settings(text: str) -> dict[str, str]:
  """Returns the assignments of a configuration, as gin writes it, by name."""
  without_comments = re.sub('^#.*\n?', '', text, flags=re.MULTILINE)
  found = re.split(r'^([\w./]+) =', without_comments, flags=re.MULTILINE)
  names, values = found[1::2], found[2::2]
  return {
    name: ' '.join(value.replace('\\\n', ' ').split())
    for name, value in zip(names, values, strict=True)
  }


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where):
  """Raises FileExistsError unless a folder's evaluation is the wanted one.

  Args:
    found: what the folder says of its evaluation; may lack what earlier
      versions did not write.
    wanted: the same of the evaluation that is to be written there; may lack
      what is not known yet.
    where: the folder or file, for the error.
  """
  wanted = json.loads(json.dumps(wanted))  # as what was read
  differing = _differing_settings(
    found.get('settings'), wanted.get('settings')
  ) or [
    f'{name} is {_REPR.repr(found[name])} there and {_REPR.repr(value)} here'
    for name, value in wanted.items()
    if name != 'settings' and found.get(name, value) != value
  ]
  if differing:
    raise FileExistsError(
      f'{where} holds another evaluation ({"; ".join(differing)}), which would '
      'be lost; give another OUTPUT_DIR.'
    )


def _differing_settings(found: Any, wanted: Any) -> list[str]:
  if not (isinstance(found, dict) and isinstance(wanted, dict)):
    return []
  return [
    f'{name} is {_shorten(found.get(name))} there and '
    f'{_shorten(wanted.get(name))} here'
    for name in sorted({*found, *wanted})
    if found.get(name) != wanted.get(name)
  ]


def _shorten(value: str | None) -> str:
  return 'not set' if value is None else textwrap.shorten(value, 60)
