"""Append-only JSON lines, each with where its numbers come from."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'seqio')


def append(path, record: Mapping[str, Any]):
  """Adds one record to a file of JSON lines, in one write.

  Args:
    path: made with its folder if absent.
    record: what JSON can hold.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'a', encoding='utf-8') as file:
    file.write(json.dumps(record, ensure_ascii=False) + '\n')


def read(path) -> list[dict[str, Any]]:
  """Returns all records of a file, oldest first; none if it is absent.

  Raises:
    ValueError: if a line is no JSON, such as one that a kill has torn.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  # A file's lines, for a string's also end at what a record's text may hold.
  with open(path, encoding='utf-8') as lines:
    return [_parse(line, f'{path}:{n}') for n, line in enumerate(lines, 1)]


def _parse(line: str, place: str) -> dict[str, Any]:
  try:
    return json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{place} is no record ({error.msg}); mend or remove that line.'
    ) from error


def provenance(device_kind: str, num_devices: int) -> dict[str, Any]:
  """Returns what a number needs to be traced and repeated.

  Args:
    device_kind: as the accelerator library names it, such as 'cpu'.
    num_devices: how many of them.

  Returns:
    Time (UTC), git revision (see `git_revision`), versions, platform and
    devices.
  """
  return {
    'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    'git_revision': git_revision(),
    'python': platform.python_version(),
    'versions': {p: importlib.metadata.version(p) for p in _PACKAGES},
    'platform': f'{platform.system()}-{platform.machine()}',
    'cpus': os.cpu_count(),
    'device_kind': device_kind,
    'num_devices': num_devices,
  }


def processor() -> str | None:
  """Returns the name of the CPU; None where the system does not say."""
  info = pathlib.Path('/proc/cpuinfo')
  if not info.exists():
    return None
  names = [
    line.partition(':')[2].strip()
    for line in info.read_text().splitlines()
    if line.startswith('model name')
  ]
  return names[0] if names else None


def git_revision() -> str | None:
  """Returns the revision of the checkout that this package lies in.

  It ends in '-dirty' if files differ from it, but for results/, which the
  records themselves change. None outside a checkout.
  """
  try:
    revision = _git('rev-parse', 'HEAD')
    changed = _git('status', '--porcelain', '-uno', '--', ':/', ':!/results')
  except (OSError, subprocess.CalledProcessError):
    return None
  return f'{revision}-dirty' if changed else revision


def _git(*arguments: str) -> str:
  result = subprocess.run(
    ['git', *arguments],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=True,
  )
  return result.stdout.strip()
