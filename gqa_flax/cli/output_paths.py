"""Checks of what a command will write, before anything slow is imported."""

import os
import pathlib
import tempfile

from gqa_flax.cli.gin_text import Text, UsageError

_FOLDERS = ('MODEL_DIR', 'OUTPUT', 'OUTPUT_DIR', 'COMPILATION_CACHE')
_FILES = ('STATISTICS',)


def check(text: Text):
  """Raises UsageError if a setting names a place that cannot be written."""
  for name in (*_FOLDERS, *_FILES):
    path = text.value(name)
    if path is None or '://' in path:
      continue
    setting = f'{name}={path} ({text.macros[name].place})'
    if name in _FOLDERS:
      require_folder(setting, path)
    else:
      require_file(setting, path)


def require_folder(what: str, path: str | os.PathLike):
  """Raises UsageError unless a folder is there, or can be made, to write in.

  Args:
    what: The setting or flag with its value, for the error.
    path: A local path.
  """
  try:
    existing = pathlib.Path(path).absolute()
    while not existing.exists():
      existing = existing.parent
    if not existing.is_dir():
      raise UsageError(f'{what}: {existing} is a file; give a folder.')
    # Asking for permissions would not tell that /proc makes no folders.
    os.rmdir(tempfile.mkdtemp(dir=existing, prefix='.writable'))
  except OSError as error:
    raise UsageError(
      f'{what} cannot be written ({error.strerror}); give a folder that you '
      'may write to.'
    ) from error


def require_file(what: str, path: str | os.PathLike):
  """Raises UsageError unless a path is that of a file to write, or can be.

  Args:
    what: The setting or flag with its value, for the error.
    path: A local path.
  """
  if not os.fspath(path).strip() or os.path.isdir(path):
    raise UsageError(f'{what} is a folder; give a file.')
  require_folder(what, pathlib.Path(path).absolute().parent)
