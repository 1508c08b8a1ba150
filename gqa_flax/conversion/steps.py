"""The step of a checkpoint whose files do not say it.

The 1/sqrt learning-rate schedule and TRAIN_STEPS count from the first step of
pre-training. Hugging Face's format has no place for it, so it is asked for.
"""

import dataclasses

from gqa_flax.checkpoints.arrays import StoredCheckpoint

# The steps of published checkpoints, by their names on Hugging Face's hub; * is
# a size.
# Source: the folders listed in T5X's docs/models.md and, for Flan-T5, in the
# list of models of its later documentation.
PUBLISHED = {
  't5-v1_1-*': 1_000_000,
  't5-*-lm-adapt': 1_100_000,
  'flan-t5-small': 1_198_000,
  'flan-t5-base': 1_184_000,
  'flan-t5-large': 1_164_000,
  'flan-t5-xl': 1_138_000,
  'flan-t5-xxl': 1_114_000,
  'mt5-*': 1_000_000,
  't5-small': 1_000_000,
  't5-base': 999_900,
  't5-large': 1_000_700,
  't5-3b': 1_000_000,
  't5-11b': 1_000_000,
}
_SIZES = ('small', 'base', 'large', 'xl', 'xxl')
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
    name = part.rpartition('--')[2]  # as in the cache of Hugging Face's hub
    for pattern, step in PUBLISHED.items():
      # The whole name: what others trained further is at another step.
      if name in {pattern.replace('*', size) for size in _SIZES}:
        return f'{step} if it is the published {name}'
  published = ', '.join(f'{step} for {n}' for n, step in PUBLISHED.items())
  return f'{published}, or 0 if it was never trained'
