"""Which checkpoints are written and kept, and what happens if writing fails."""

import contextlib
import dataclasses
import errno
import functools
import logging
import math
import os
import sys
import threading
from collections.abc import Collection, Mapping, Sequence

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager as manager_errors
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gqa_flax.checkpoints import native_items
from gqa_flax.checkpoints.folders import PREFIX, step_of

# In the operating system's words, which Python and TensorStore quote.
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


class CheckpointWriteError(OSError):
  """A checkpoint could not be written; older ones are as they were."""


class Manager(ocp.CheckpointManager):
  """Orbax's manager, which says in one sentence why writing failed."""

  def __init__(self, directory: epath.Path, options):
    self._log = native_items.Log()
    self._step: int | None = None
    # Orbax logs what is raised here as well, with tracebacks.
    logging.getLogger('absl').addFilter(_keep_record)
    logging.getLogger('asyncio').addFilter(_keep_lost_error)
    _drop_late_results()
    super().__init__(
      directory,
      options=options,
      handler_registry=native_items.handlers(self._log),
    )

  def save_whole(self, step: int, args):
    """Begins to write a checkpoint; it may be done in the background.

    Raises:
      CheckpointWriteError: if that fails, or failed for the step before.
    """
    self.wait_until_finished()  # so that what it raises is of that step
    self._log.clear()
    self._step = step
    with self._explained():
      super().save(step, args=args, force=True)

  def wait_until_finished(self):
    with self._explained():
      super().wait_until_finished()

  def check(self):
    """Raises CheckpointWriteError if writing in the background has failed."""
    if self._log.failures and jax.process_count() > 1:
      # The other processes would not be at the barriers of a clean end.
      raise self._error(self._log.failures[0])
    if self._log.failures or not self.is_saving_in_progress():
      self.wait_until_finished()

  def close(self):
    if not (self._log.failures and jax.process_count() > 1):
      super().close()

  @contextlib.contextmanager
  def _explained(self):
    try:
      yield
    except (CheckpointWriteError, manager_errors.StepAlreadyExistsError):
      raise
    except Exception as error:
      self._clean_up()
      raise self._error(error) from error

  def _clean_up(self):
    """Removes what a failed write left; older checkpoints count again."""
    self._log.wait()
    self._log.clear()
    with contextlib.suppress(Exception):
      if jax.process_index() == 0:
        remove_unfinished(self.directory, self._step)
      self.reload()

  def _error(self, error: BaseException) -> CheckpointWriteError:
    try:
      steps = [s for s in self._listed_steps() if s != self._step]
      older = f'the newest whole one there is {PREFIX}_{max(steps)}'
    except ValueError:
      older = 'there is no older one'
    except OSError:
      older = 'nor can it be listed for older ones'
    first = (str(error).splitlines() or [type(error).__name__])[0]
    reason = full_disk(error) or first[:300]
    return CheckpointWriteError(
      f'{PREFIX}_{self._step} could not be written to {self.directory} '
      f'({reason}); {older}: see that the folder is there and has room, and '
      'start again.'
    )

  def _listed_steps(self) -> list[int]:
    found = [step_of(path) for path in self.directory.iterdir()]
    return [step for step in found if step is not None]


@dataclasses.dataclass
class BestScored(preservation_policy.PreservationPolicy):
  """Keeps the checkpoint with the best score so far, if any has one."""

  scores: Mapping[int, float]
  mode: str

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = best_step(self.scores, self.mode, steps)
    return [step == best for step in steps]


def best_step(
  scores: Mapping[int, float],
  mode: str = 'max',
  among: Collection[int] | None = None,
) -> int | None:
  """Returns the step with the best score, the later of equal ones.

  Args:
    scores: by step; one that is not a number does not count.
    mode: 'max' if a larger score is better, else 'min'.
    among: steps to choose from; None is all that have a score.

  Returns:
    The step, or None if none has a score.

  Raises:
    ValueError: if the mode is another.
  """
  check_mode(mode)
  sign = 1 if mode == 'max' else -1
  ranked = [
    (sign * score, step)
    for step, score in scores.items()
    if not math.isnan(score) and (among is None or step in among)
  ]
  return max(ranked)[1] if ranked else None


def check_mode(mode: str):
  """Raises ValueError if mode is neither 'max' nor 'min'."""
  if mode not in ('max', 'min'):
    raise ValueError(
      f"The mode of the best checkpoint is {mode!r}; give 'max' or 'min'."
    )


def remove_unfinished(directory: epath.Path, step: int | None = None):
  """Removes temporary folders, of one step or of all."""
  for folder in directory.glob(
    f'{PREFIX}_{"*" if step is None else step}.orbax-checkpoint-tmp*'
  ):
    folder.rmtree()


def full_disk(error: BaseException | None) -> str | None:
  """Returns 'no space left on device' or the like if that is the cause."""
  while error is not None:
    for words in _FULL:
      if words in str(error):
        return words.lower()
    error = error.__cause__ or error.__context__
  return None


def _keep_record(record: logging.LogRecord) -> bool:
  if 'orbax' not in record.pathname:
    return True
  record.exc_info = None
  return not any(words in record.getMessage() for words in _FULL)


def _keep_lost_error(record: logging.LogRecord) -> bool:
  # Of arrays that Orbax writes at once, the first to fail is raised, and
  # asyncio logs the others with their tracebacks when they are collected.
  text = record.getMessage()
  return not ('never retrieved' in text and 'orbax' in text)


@functools.cache
def _drop_late_results():
  """Hides tracebacks of writes that end after another one has failed.

  Orbax has closed the event loop by then that TensorStore reports to.
  """
  show = sys.unraisablehook

  def show_others(unraisable):
    is_main = threading.current_thread() is threading.main_thread()
    if is_main or str(unraisable.exc_value) != 'Event loop is closed':
      show(unraisable)

  sys.unraisablehook = show_others
