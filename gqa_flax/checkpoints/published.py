"""The steps of published checkpoints, which Hugging Face's files do not say."""

# By their names on Hugging Face's hub; * is a size.
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


def step_of(name: str) -> int | None:
  """Returns the step of a checkpoint, or None unless it is a published one.

  Args:
    name: Without its owner. What others trained further has a longer one.
  """
  for pattern, step in PUBLISHED.items():
    if name in {pattern.replace('*', size) for size in _SIZES}:
      return step
  return None
