"""Decoded batches on disk, so that an evaluation that stops loses nothing.

The first line is a header that says what was being decoded; every further line
holds the tokens of one batch.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from gqa_flax.evaluation import identity, predictions

NAME = 'predictions.partial.jsonl'


class Partial:
  """The batches that an evaluation has decoded so far.

  Attributes:
    batches: for each whole batch its rows of token ids, in order.
  """

  def __init__(self, path, header: Mapping[str, Any]):
    """Reads what an earlier call left.

    Args:
      path: in a folder that exists; nothing is written before `append`.
      header: what decides the tokens, for JSON.

    Raises:
      FileExistsError: if an earlier call was decoding something else.
    """
    self._path = epath.Path(path)
    self._header = json.loads(json.dumps(header))
    found, batches = self._read()
    if found is not None:
      identity.check_same(found, self._header, self._path)
    self.batches = batches
    self._clean = False

  def append(self, batch: Sequence[Sequence[int]]):
    """Adds a batch; when this returns it is on disk."""
    self.batches.append(batch)
    if self._clean:
      with self._path.open('a') as file:
        file.write(self._line(len(self.batches) - 1))
      return
    # Anew, for a torn line must not run into the next.
    lines = [self._line(i) for i in range(len(self.batches))]
    header = json.dumps(self._header) + '\n'
    predictions.write_whole(self._path, header + ''.join(lines))
    self._clean = True

  def remove(self):
    """Removes the file, when all that came of it is written."""
    self._path.unlink(missing_ok=True)

  def _line(self, i: int) -> str:
    return json.dumps({'batch': i, 'tokens': self.batches[i]}) + '\n'

  def _read(self) -> tuple[dict | None, list]:
    """Returns the header, None if there is none, and the whole batches."""
    if not self._path.exists():
      return None, []
    header, batches = None, []
    for line in self._path.read_bytes().splitlines(keepends=True):
      try:
        value = json.loads(line)
      except ValueError:
        break
      # A torn line may parse, and a second process may have been writing.
      whole = line.endswith(b'\n') and isinstance(value, dict)
      if not whole or value.get('batch', 0) != len(batches):
        break
      if header is None:
        header = value
      else:
        batches.append(value['tokens'])
    return header, batches
