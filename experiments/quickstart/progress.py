"""One progress bar, with the time left, for all stages together."""

import sys
import time
from collections.abc import Collection, Mapping

import tqdm

# For how long the expected seconds are believed, rather than the measured pace.
_TRUST_SECONDS = 60.0
_LOG_SECONDS = 20.0


class Progress:
  """Shows which share of the whole is done and how long the rest will take.

  On a terminal it is one line, rewritten in place; in a log, a line now and
  then. The time left follows from the seconds that each stage is expected to
  take and from how fast this machine has been so far.
  """

  def __init__(
    self,
    seconds: Mapping[str, float],
    done: Collection[str] = (),
    clock=time.monotonic,
  ):
    """Shows the bar.

    Args:
      seconds: that each stage takes on two quiet cores, by its name.
      done: the stages that an earlier run has finished.
      clock: seconds, for the time left.
    """
    self._seconds = dict(seconds)
    self._done = set(done)
    self._clock = clock
    self._began = clock()
    self._skipped = sum(self._seconds[name] for name in self._done)
    self._stage: str | None = None
    self._share = 0.0
    self._label = ''
    self._last_line = -_LOG_SECONDS
    self._bar = tqdm.tqdm(
      total=sum(self._seconds.values()),
      initial=self._skipped,
      bar_format='{percentage:3.0f}% |{bar:20}| {desc}',
      dynamic_ncols=True,
      disable=not sys.stderr.isatty(),
    )

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.finish()
      self._bar.n = self._current()
      self._bar.set_description_str('done')
    self._bar.close()

  def start(self, stage: str, label: str | None = None):
    """Begins a stage; the one before it is finished."""
    self.finish()
    self._stage, self._share = stage, 0.0
    self._label = label or stage
    self._show(self._label)

  def part(self, share: float, note: str = ''):
    """Shows that a share of the stage is done, from 0 to 1."""
    self._share = min(max(share, self._share), 1.0)
    self._show(f'{self._label}, {note}' if note else self._label)

  def finish(self):
    """Counts the stage as done."""
    if self._stage is not None:
      self._done.add(self._stage)
    self._stage, self._share = None, 0.0

  def say(self, text: str):
    """Prints a line above the bar, to standard output."""
    with self._bar.external_write_mode(file=sys.stdout):
      print(text, flush=True)

  @property
  def seconds_left(self) -> float:
    """How long the rest is going to take."""
    gained = self._current() - self._skipped
    pace = (self._clock() - self._began + _TRUST_SECONDS) / (
      gained + _TRUST_SECONDS
    )
    return pace * (sum(self._seconds.values()) - self._current())

  def _current(self) -> float:
    done = sum(self._seconds[name] for name in self._done)
    if self._stage is None or self._stage in self._done:
      return done
    return done + self._share * self._seconds[self._stage]

  def _show(self, text: str):
    left = self.seconds_left
    time_left = f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'
    text = f'{time_left} left: {text}'
    self._bar.n = self._current()
    self._bar.set_description_str(text)
    now = self._clock()
    if self._bar.disable and now - self._last_line >= _LOG_SECONDS:
      self._last_line = now
      share = self._current() / sum(self._seconds.values())
      print(f'{share:4.0%}, {text}', file=sys.stderr, flush=True)
