"""OCDBT databases of which data files were lost, for instance in copying.

The database's tree gives each value's place: a file, an offset and a length.
TensorStore opens a database without looking at these files.
"""

from collections.abc import Iterator

import tensorstore as ts
from etils import epath


def lost_keys(database: ts.KvStore, folder: epath.Path) -> list[bytes]:
  """Returns the keys whose values are in files that are missing or too short.

  Args:
    database: The folder as a key-value store of files.
    folder: The same folder.

  Raises:
    ValueError: If the tree itself cannot be read.
  """
  sizes: dict[str, int] = {}
  lost = []
  for key, location in _locations(database):
    _, base, name, offset, length = location.split(':')
    if base + name not in sizes:
      file = folder / (base + name)
      sizes[base + name] = file.stat().length if file.exists() else 0
    if int(offset) + int(length) > sizes[base + name]:
      lost.append(key)
  return lost


def _locations(database) -> Iterator[tuple[bytes, str]]:
  """Yields the keys of the latest version and where their values are."""
  manifest = ts.ocdbt.dump(database).result()
  nodes = [(b'', manifest['versions'][-1]['root'].get('location'))]
  while nodes:
    prefix, location = nodes.pop()
    if location is None:  # of a database without keys
      continue
    for entry in ts.ocdbt.dump(database, node=location).result()['entries']:
      if 'location' in entry:
        nodes.append(
          (prefix + entry['subtree_common_prefix'], entry['location'])
        )
      elif 'indirect_value' in entry:
        yield prefix + entry['key'], entry['indirect_value']
