"""Where the time of a run goes, over all of its attempts.

Wall time is split without rest: into what the loop does (`CATEGORIES`), steps
that a restart did again, and the time between attempts. Goodput is the share
of it that went into steps that were kept.
"""

import contextlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

GOODPUT_FILE = 'goodput.jsonl'
CATEGORIES = (
  'startup',
  'compilation',
  'input',
  'step',
  'checkpoint',
  'evaluation',
  'other',
)
# Known only afterwards: steps that were done again, and time without a process.
_LATER = ('lost', 'down')

_process_start_taken = False


class Goodput:
  """Measures one attempt, and appends what it measured to goodput.jsonl.

  The first of a process begins when the process began, so that imports count.
  Time outside of every clock is 'startup' until the first step and 'other'
  from there.

  Args:
    directory: of the run, the same in every attempt.
    first_step: where this attempt goes on, the step of its checkpoint.
    writes: False on all processes but one.
    now: seconds since 1970.
    start: when the attempt began, by the same clock; None asks the system.
  """

  def __init__(
    self,
    directory,
    first_step: int,
    *,
    writes: bool = True,
    now: Callable[[], float] | None = None,
    start: float | None = None,
  ):
    self._file = epath.Path(directory) / GOODPUT_FILE
    self._writes = writes
    self._now = now or _steady_clock()
    self._attempt = uuid.uuid4().hex[:12]
    self._step = first_step
    self._running = ['startup']
    self._seconds = dict.fromkeys(CATEGORIES, 0.0)
    self._start = self._now() - _take_process_age() if start is None else start
    self._mark = self._start
    if writes:
      _end_torn_line(self._file)
    self.record(first_step)

  @contextlib.contextmanager
  def __call__(self, category: str) -> Iterator[None]:
    """Counts what happens inside; an inner clock takes its time from an outer.

    Args:
      category: one of CATEGORIES.

    Raises:
      ValueError: if it is none of them.
    """
    if category not in CATEGORIES:
      raise ValueError(
        f'{category!r} is no category of time; use one of '
        f'{", ".join(CATEGORIES)}.'
      )
    self._split()
    if category == 'step' and self._running[0] == 'startup':
      self._running[0] = 'other'
    self._running.append(category)
    try:
      yield
    finally:
      self._split()
      self._running.pop()

  def record(self, step: int, finished: bool = False):
    """Appends a line on the time since the last one.

    Args:
      step: the last that was done.
      finished: the run is at its end: the time until somebody makes it longer
        does not count.
    """
    self._split()
    line = {
      'attempt': self._attempt,
      'start': self._start,
      'time': self._mark,
      'steps': [self._step, step],
      'seconds': {k: x for k, x in self._seconds.items() if x},
    }
    if finished:
      line['finished'] = True
    self._step = step
    self._seconds = dict.fromkeys(CATEGORIES, 0.0)
    if self._writes:
      with self._file.open('a') as file:
        file.write(json.dumps(line) + '\n')

  def _split(self):
    """Gives the time since the last call to what runs."""
    now = self._now()
    self._seconds[self._running[-1]] += now - self._mark
    self._mark = now


def summary(directory) -> dict[str, Any]:
  """Adds up all attempts of a run.

  Steps after an attempt's last line, and the time they took, are not known:
  that time counts as down.

  Args:
    directory: of the run.

  Returns:
    attempts, restarts; steps_done (all that were recorded), steps_lost (those
    behind the step from which a later attempt went on); wall_seconds from the
    start of the first attempt to the last line, without pauses after a finished
    run; seconds and shares by category, 'step' being steps that were kept;
    goodput, the share of those.

  Raises:
    FileNotFoundError: if no attempt has left a line.
  """
  attempts = _read(epath.Path(directory) / GOODPUT_FILE)
  seconds = dict.fromkeys(CATEGORIES + _LATER, 0.0)
  steps_done = steps_lost = 0
  kept_until = float('inf')
  for lines in reversed(attempts):
    for line in lines:
      first, last = line['steps']
      lost = max(0, last - max(first, kept_until))
      steps_done += last - first
      steps_lost += lost
      for category, x in line['seconds'].items():
        seconds[category] += x
      if lost:
        x = line['seconds'].get('step', 0.0) * lost / (last - first)
        seconds['step'] -= x
        seconds['lost'] += x
    kept_until = min(kept_until, lines[0]['steps'][0])
  for lines, following in itertools.pairwise(attempts):
    if not lines[-1].get('finished'):
      # Clocks of two hosts may differ: less than nothing is nothing.
      gap = following[0]['start'] - lines[-1]['time']
      seconds['down'] += max(0.0, gap)

  wall = sum(seconds.values())
  shares = {k: x / wall if wall else 0.0 for k, x in seconds.items()}
  return {
    'attempts': len(attempts),
    'restarts': len(attempts) - 1,
    'steps_done': steps_done,
    'steps_lost': steps_lost,
    'wall_seconds': wall,
    'seconds': seconds,
    'shares': shares,
    'goodput': shares['step'],
  }


def table(numbers: dict[str, Any]) -> str:
  """Lays out a `summary` for people: one category a line, seconds and share."""
  names = {
    'step': 'steps kept',
    'lost': 'steps done again',
    'down': 'between attempts',
  }
  width = max(len(names.get(k, k)) for k in numbers['seconds'])
  lines = [
    f'{names.get(k, k):{width}} {x:12,.1f} s {numbers["shares"][k]:7.1%}'
    for k, x in numbers['seconds'].items()
  ]
  head = (
    f'Goodput {numbers["goodput"]:.1%} of {numbers["wall_seconds"]:,.1f} s in '
    f'{_count(numbers["attempts"], "attempt")}: '
    f'{_count(numbers["steps_done"], "step")}, '
    f'{numbers["steps_lost"]:,} of them lost to restarts'
  )
  return '\n'.join([head, *lines])


def _count(number: int, noun: str) -> str:
  return f'{number:,} {noun}{"" if number == 1 else "s"}'


def _read(file) -> list[list[dict]]:
  """Returns the lines of each attempt, in the order of the attempts."""
  if not file.exists():
    raise FileNotFoundError(
      f'{file} does not exist: no training has run in this folder yet.'
    )
  attempts: dict[str, list[dict]] = {}
  for text in file.read_text().splitlines():
    try:
      line = json.loads(text)
    except json.JSONDecodeError:
      # A killed attempt leaves its last line torn.
      continue
    attempts.setdefault(line['attempt'], []).append(line)
  return list(attempts.values())


def _end_torn_line(file):
  """Lets what is appended begin on a line of its own."""
  if file.exists():
    text = file.read_text()
    if text and not text.endswith('\n'):
      with file.open('a') as stream:
        stream.write('\n')


def _steady_clock() -> Callable[[], float]:
  """Returns a clock of seconds since 1970 that is never set back."""
  offset = time.time() - time.monotonic()
  return lambda: time.monotonic() + offset


def _take_process_age() -> float:
  """Returns the age of this process in seconds; 0 if it was counted before."""
  global _process_start_taken
  if _process_start_taken:
    return 0.0
  _process_start_taken = True
  try:
    with open('/proc/self/stat') as file:
      # The name, in parentheses, may hold spaces; the 22nd field is the start.
      ticks = int(file.read().rpartition(')')[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, since_boot - ticks / os.sysconf('SC_CLK_TCK'))
  except (OSError, AttributeError, ValueError):
    # Not Linux: the imports before this one stay uncounted.
    return 0.0
