"""Which checkpoint a path means: its format, and the newest that is whole."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from etils import epath

from gqa_flax.checkpoints import hub

T = TypeVar('T')

PREFIX = 'checkpoint'
# The file or folder that tells each format from the others.
MARKERS = {
  't5x_legacy': 'checkpoint',
  't5x': 'state',
  'native': 'model',
  'hugging_face': 'config.json',
}
_NAME = re.compile(rf'{PREFIX}_(0|[1-9][0-9]*)')


class MismatchError(ValueError):
  """A checkpoint is whole, but not what is asked for."""


def step_of(path) -> int | None:
  """Returns the step in a folder's name, or None if it has another name."""
  match = _NAME.fullmatch(epath.Path(path).name)
  return int(match[1]) if match else None


def steps_in(folder: epath.Path) -> list[epath.Path]:
  """Returns the checkpoint_<step> folders in a folder, the latest first."""
  found = [x for x in folder.iterdir() if step_of(x) is not None]
  return sorted(found, key=step_of, reverse=True)


def format_of(folder: epath.Path) -> str | None:
  """Returns the format of a checkpoint's own folder, or None."""
  for format, marker in MARKERS.items():
    if (folder / marker).exists():
      return format
  return None


def recognize(path) -> str | None:
  """Returns the format of a folder, or None if it is not a checkpoint.

  Args:
    path: A checkpoint, or a folder of checkpoint_<step> folders, of which the
      latest that has a format decides; local or on gs:// or s3://.

  Returns:
    'native', 't5x', 't5x_legacy', 'hugging_face' or None.
  """
  if not str(path) or not as_path(path).is_dir():
    return None
  folder = as_path(path)
  formats = map(format_of, steps_in(folder) or [folder])
  return next(filter(None, formats), None)


def checkpoints_at(path) -> list[epath.Path]:
  """Returns the checkpoints that a path may mean, the latest first.

  Args:
    path: A checkpoint, a folder of checkpoint_<step> folders, or a model on
      the Hugging Face Hub, which is downloaded into its cache: hf://ID, or ID
      alone where there is no such folder.

  Raises:
    FileNotFoundError: If there is no folder, saying what there is.
    ImportError: If the model on the Hub needs a library that is not installed.
    ValueError: If the path is a URL of another kind.
  """
  if not str(path):
    raise FileNotFoundError(
      "The path of the checkpoint to read is empty (''); give a "
      f'{PREFIX}_<step> folder, or a folder that contains one.'
    )
  model = hub.parse(path)
  if model and model.is_url:
    return [hub.download(model)]
  folder = as_path(path)
  if folder.is_dir():
    return steps_in(folder) or [folder]
  if folder.exists():
    raise FileNotFoundError(
      f'There is no checkpoint at {path}: it is a file; give the folder of a '
      'checkpoint.'
    )
  # The first part of a relative path would most often be there.
  if model and not folder.parent.exists():
    return [hub.download(model)]
  remedy = (
    f', or hf://{model.id} for a model on the Hugging Face Hub' if model else ''
  )
  raise FileNotFoundError(
    f'There is no checkpoint at {path}: no such folder; give a '
    f'{PREFIX}_<step> folder, or a folder that contains one{remedy}.'
  )


def as_path(path) -> epath.Path:
  """Returns a path; raises ValueError for a URL that cannot be one."""
  try:
    # From gin, a name of digits comes as a number.
    return epath.Path(path if isinstance(path, os.PathLike) else str(path))
  except KeyError as error:
    raise ValueError(
      f'{path} is neither a local path nor one on gs:// or s3://; give one of '
      'these.'
    ) from error


def read_newest(
  checkpoints: Sequence[epath.Path],
  read: Callable[[epath.Path], T],
  is_damage: Callable[[Exception], bool],
) -> T:
  """Reads the newest checkpoint that is whole.

  Args:
    checkpoints: From `checkpoints_at`.
    read: Called with a checkpoint's folder.
    is_damage: Whether an exception of `read` means a checkpoint that is not
      whole, so that an older one is read instead, with a warning.

  Returns:
    What `read` returned.

  Raises:
    Exception: What `read` raised for the newest, if none is whole; what it
      raised for any, if that is not damage.
  """
  problems: dict[epath.Path, Exception] = {}
  for checkpoint in checkpoints:
    try:
      found = read(checkpoint)
    except Exception as error:
      if not is_damage(error):
        raise
      problems[checkpoint] = error
      continue
    if problems:
      reasons = '; '.join(f'{x.name} ({e})' for x, e in problems.items())
      warnings.warn(
        f'Reading {checkpoint}, the newest whole checkpoint there; passed '
        f'over: {reasons}',
        stacklevel=2,
      )
    return found
  raise next(iter(problems.values()))
