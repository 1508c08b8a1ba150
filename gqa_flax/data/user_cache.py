"""Small files that are made or fetched once, in the user's cache folder."""

import os
import pathlib
import tempfile


def folder(chosen: str | os.PathLike | None = None) -> pathlib.Path:
  """Returns the folder: as chosen, else below $XDG_CACHE_HOME or ~/.cache."""
  if chosen is not None:
    return pathlib.Path(chosen)
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'gqa_flax'


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file that is there whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # Its own name each time, for several processes may write it at once.
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(content)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
