"""Whom to kill and when, drawn before anything starts."""

import dataclasses
import random

VICTIMS = ((0,), (1,), (0, 1))
_STARTUP_EVERY = 5  # one kill in so many comes before the first step
_STEPS_MEANWHILE = 5  # more than are done in a kill's `seconds`


@dataclasses.dataclass(frozen=True)
class Kill:
  """One kill.

  Attributes:
    victims: indices of the processes.
    phase: 'startup' or 'steps'.
    fraction: in 'startup', of the time that the last startup took.
    steps: in 'steps', how many the attempt does first, so that the kills spread
      over the run on a slow machine as well.
    seconds: in 'steps', and so long after these, so that some kills fall into
      the middle of a step, or into the writing of a checkpoint.
  """

  victims: tuple[int, ...]
  phase: str
  fraction: float
  steps: int
  seconds: float


def draw(num_kills: int, checkpoint_every: int, seed: int) -> list[Kill]:
  """Draws the kills; each set of victims comes in turn."""
  rng = random.Random(seed)
  return [
    Kill(
      victims=VICTIMS[i % len(VICTIMS)],
      phase='startup' if i % _STARTUP_EVERY == 3 else 'steps',
      fraction=round(rng.uniform(0.1, 1.0), 3),
      steps=rng.randint(1, 3 * checkpoint_every),
      seconds=round(rng.uniform(0.0, 0.5), 3),
    )
    for i in range(num_kills)
  ]


def struck(records):
  """Returns the records of kills that hit what they were meant for."""
  return [record for record in records if not record['ended_before']]


def train_steps(kills: list[Kill], checkpoint_every: int) -> int:
  """Returns a length that no sequence of attempts reaches before the end."""
  most = sum(
    kill.steps + _STEPS_MEANWHILE for kill in kills if kill.phase == 'steps'
  )
  return checkpoint_every * (most // checkpoint_every + 4)
