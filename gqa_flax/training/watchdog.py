"""Ends a process that makes no progress, so that its job can be restarted."""

import faulthandler
import os
import sys
import threading

from gqa_flax.runtime import status
from gqa_flax.training.preemption import EXIT_STATUS

_current: 'Watchdog | None' = None


def beat():
  """Tells the watchdog that runs, if one does, that there is progress."""
  if _current is not None:
    _current.beat()


class Watchdog:
  """Ends the process when no beat has come for a number of seconds.

  A collective waits without end for a host that hangs. This writes where every
  thread stands to standard error and leaves with `preemption.EXIT_STATUS`; the
  other hosts lose their peer, or have a watchdog that sees no beat either, and
  end too.

  Time in which the whole process stood still, in a suspended machine for
  instance, does not count. The thread that watches needs the interpreter: it
  cannot end a process that hangs in C code while holding its lock.

  Args:
    seconds: longer than anything between two beats, compilation, restoring and
      saving included; None or 0 never ends anything.

  Raises:
    ValueError: if seconds is negative.
  """

  def __init__(self, seconds: float | None):
    if seconds is not None and seconds < 0:
      raise ValueError(
        f'The watchdog got {seconds} seconds; give a positive number, or 0 to '
        'turn it off.'
      )
    self._seconds = seconds
    self._beats = 0
    self._over = threading.Event()
    self._outer: Watchdog | None = None

  def beat(self):
    """Tells that there is progress."""
    self._beats += 1

  def __enter__(self):
    global _current
    self._outer, _current = _current, self
    if self._seconds:
      self._over.clear()
      threading.Thread(target=self._watch, name='watchdog', daemon=True).start()
    return self

  def __exit__(self, *_):
    global _current
    _current = self._outer
    self._over.set()

  def _watch(self):
    # Naps are counted, not the time: a process that was stopped through ten
    # minutes has slept one nap.
    nap = self._seconds / 20
    seen, naps = self._beats, 0
    while not self._over.wait(nap):
      if self._beats != seen:
        seen, naps = self._beats, 0
        continue
      naps += 1
      if naps >= 20:
        self._bite()

  def _bite(self):
    # Closing a bar could wait for the thread that hangs.
    end_line = '\n' if status.bar_is_open() else ''
    print(
      f'{end_line}No progress for {self._seconds:g} seconds: process '
      f'{os.getpid()} ends with status {EXIT_STATUS}, so that the job can be '
      'started again; its threads stand here:',
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    os._exit(EXIT_STATUS)
