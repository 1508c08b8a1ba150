"""Whether two evaluations are the same one, so that none replaces another."""

import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any

_UNSET = object()
# Whole values of settings, and the beginnings of hashes.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxdict = 8


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
  differing = [
    _difference(name, found[name], wanted[name])
    for name in wanted
    if name != 'settings' and found.get(name, wanted[name]) != wanted[name]
  ]
  if isinstance(found.get('settings'), dict) and 'settings' in wanted:
    ours, theirs = wanted['settings'], found['settings']
    differing += [
      _difference(name, theirs.get(name, _UNSET), ours.get(name, _UNSET))
      for name in sorted({*ours, *theirs})
      if theirs.get(name) != ours.get(name)
    ]
  if differing:
    raise FileExistsError(
      f'{where} holds another evaluation ({"; ".join(differing)}), which would '
      'be lost; give another OUTPUT_DIR.'
    )


def _difference(name: str, found: Any, wanted: Any) -> str:
  there, here = (
    'not set' if x is _UNSET else _REPR.repr(x) for x in (found, wanted)
  )
  return f'{name} is {there} there and {here} here'
