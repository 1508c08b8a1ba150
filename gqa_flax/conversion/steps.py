"""The step of a checkpoint whose files do not say it.

The 1/sqrt learning-rate schedule and TRAIN_STEPS count from the first step of
pre-training. Hugging Face's format has no place for it, so it is asked for.
"""

import dataclasses

from gqa_flax.checkpoints import published
from gqa_flax.checkpoints.arrays import StoredCheckpoint

# The training state holds it as int32.
_MAX_STEP = 2**31 - 1


def check_step(step):
  """Raises ValueError unless `step` is None or a number of steps."""
  if step is None:
    return
  is_integer = isinstance(step, int) and not isinstance(step, bool)
  if not is_integer or not 0 <= step <= _MAX_STEP:
    raise ValueError(
      f'STEP is {step!r}; give an integer from 0 to {_MAX_STEP}, the steps of '
      'training since the first of pre-training.'
    )


def settle(source: StoredCheckpoint, step: int | None) -> StoredCheckpoint:
  """Returns the checkpoint with its step known.

  Args:
    source: the checkpoint.
    step: as given by the user; None where the files are to say.

  Raises:
    ValueError: if neither says the step, or they contradict each other.
  """
  check_step(step)
  if source.step is None and step is None:
    raise ValueError(
      f'{source.path} does not say at which step it is, from which the '
      'learning-rate schedule and TRAIN_STEPS count; give it as STEP: '
      f'{_suggestion(source.path)}.'
    )
  if source.step is None:
    # Where there are statistics without a step, T5X has one number for both.
    count = step if source.count is None else source.count
    return dataclasses.replace(source, step=step, count=count)
  if step not in (None, source.step):
    raise ValueError(
      f'STEP is {step}, but {source.path} says that it is at step '
      f'{source.step}; leave out STEP.'
    )
  return source


def _suggestion(path: str) -> str:
  """Returns what is known of the published checkpoint that a path names."""
  for part in reversed(path.lower().split('/')):
    # As in the cache of Hugging Face's hub, and without a revision.
    name = part.rpartition('--')[2].partition('@')[0]
    if (step := published.step_of(name)) is not None:
      return f'{step} if it is the published {name}'
  known = ', '.join(
    f'{step} for {n}' for n, step in published.PUBLISHED.items()
  )
  return f'{known}, or 0 if it was never trained'
