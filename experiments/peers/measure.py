"""Who is compared takes turns, so that what disturbs one disturbs all."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from experiments.peers import machine

# A thread pool of torch keeps spinning for a moment after its work.
_REST_SECONDS = 0.2

# By what is measured ('decode', 'encode') and by name; a call returns when
# its work is done.
Contestants = Mapping[str, Mapping[str, Callable[[], Any]]]


def warm_up(contestants: Contestants) -> tuple[dict, dict]:
  """Makes every call twice: the first compiles, and the second settles.

  Args:
    contestants: see Contestants.

  Returns:
    By part and name, the seconds of the first call, and what both returned.
  """
  first: dict[str, dict[str, float]] = {part: {} for part in contestants}
  results: dict[str, dict[str, list]] = {part: {} for part in contestants}
  for part, name, call in _flat(contestants):
    first[part][name], found = _clock(call)
    again, found_again = _clock(call)
    results[part][name] = [found, found_again]
    print(f'{part}, {name}: {again:.2f} s, the second call', flush=True)
  return first, results


def take_turns(contestants: Contestants, repeats: int) -> dict[str, Any]:
  """Times every call so many times, in turn.

  Each round begins with another one, so that none always follows the same.

  Args:
    contestants: see Contestants; all have been called before.
    repeats: rounds.

  Returns:
    Of each contestant the seconds of all rounds; the machine's load before and
    after, and the share of our processors that other programs took.
  """
  calls = _flat(contestants)
  seconds: dict[str, dict[str, list[float]]] = {
    part: {name: [] for name in names} for part, names in contestants.items()
  }
  before, others = machine.load(), machine.Others()
  for repeat in range(repeats):
    start = repeat % len(calls)
    for part, name, call in calls[start:] + calls[:start]:
      seconds[part][name].append(_clock(call)[0])
    print(f'round {repeat + 1} of {repeats}', flush=True)
  return {
    'seconds': seconds,
    'load_before': before,
    'load_after': machine.load(),
    'others_share': others.share(),
  }


def _flat(contestants: Contestants) -> list[tuple[str, str, Callable]]:
  return [
    (part, name, call)
    for part, names in contestants.items()
    for name, call in names.items()
  ]


def _clock(call: Callable[[], Any]) -> tuple[float, Any]:
  """Returns the seconds of a call, and its result."""
  time.sleep(_REST_SECONDS)
  begin = time.perf_counter()
  result = call()
  return round(time.perf_counter() - begin, 5), result
