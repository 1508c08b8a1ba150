"""Ctrl-C as a request that nothing swallows.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a
finalizer, in a callback from C code (JAX registers one with the garbage
collector) or below an `except BaseException` it is lost, and during a
compilation it is raised only afterwards.

After `install`, nothing is raised there. A thread learns of the signal at once,
whatever the main thread is doing, and ends the process with status 130. What
ends better by itself, at the next step for instance, calls `check` in between,
and then has a grace period to unwind; a second Ctrl-C cuts it short.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from gqa_flax.runtime import status

# What shells report for a command that SIGINT ended: 128 + 2.
EXIT_STATUS = 130
_GRACE_SECONDS = 2.0
# At most; both are over at once unless a lock or a full pipe blocks them.
_FAREWELL_SECONDS = 5.0
_FLUSH_SECONDS = 0.5


class _Interrupts:
  """The state of this process; the module's functions are its methods."""

  def __init__(self):
    self._requested = False
    self._checked = False
    self._sentence: Callable[[], str] = lambda: 'Interrupted.'
    self._told = False
    self._ending = threading.RLock()
    self._cleanups: list[Callable[[], None]] = []
    self._leaving = threading.Event()
    self._flushing = threading.Event()

  def install(self):
    """Takes over SIGINT for the rest of the process; call it once.

    Only for a program that owns its process, from the main thread. A process
    that ignores SIGINT, as background jobs of shell scripts do, still does.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
      return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Now: while the interpreter ends, no thread can be started.
    for function, args in (
      (self._watch, (reader,)),
      (self._limit, (self._leaving, _FAREWELL_SECONDS)),
      (self._limit, (self._flushing, _FLUSH_SECONDS)),
    ):
      threading.Thread(
        target=function, args=args, name='interrupts', daemon=True
      ).start()
    # The signal's number is written by C code, at once; the handler runs in the
    # main thread when that is back in Python.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, self._receive)
    os.register_at_fork(after_in_child=_restore_default)

  def check(self):
    """Raises KeyboardInterrupt if Ctrl-C was pressed.

    Code that calls this once is taken to call it again soon: the process is
    then ended only if it has not ended by itself in two seconds.
    """
    self._checked = True
    if self._requested:
      raise KeyboardInterrupt

  def requested(self) -> bool:
    """Whether Ctrl-C was pressed."""
    return self._requested

  def describe(self, sentence: Callable[[], str]):
    """Sets what an interrupted process says.

    Args:
      sentence: called in another thread, while the main thread may hold any
        lock: it must not import anything.
    """
    self._sentence = sentence
    self._told = False

  def tell(self):
    """Prints the sentence to standard error, unless that has been done.

    What another thread is printing or cleaning up is waited for.
    """
    with self._ending:
      if self._told:
        return
      self._told = True
      if self._requested:  # and not in a notebook, which lives on
        status.fall_silent()
      try:
        text = self._sentence()
      except Exception:  # the process ends with a plain sentence, then
        text = 'Interrupted.'
      if sys.stderr is not None:
        # On a line of its own, after '^C' or a progress line; in one piece,
        # since other threads may be writing too.
        sys.stderr.write(f'\n{text}\n')
        sys.stderr.flush()

  @contextlib.contextmanager
  def cleanup(self, function: Callable[[], None]) -> Iterator[None]:
    """Calls a function if the process is ended by Ctrl-C in this context.

    Args:
      function: removes what the code in the context leaves half-written; it is
        called in another thread, and may be cut short.
    """
    self._cleanups.append(function)
    try:
      yield
    finally:
      self._cleanups.remove(function)

  def leave(self) -> NoReturn:
    """Ends an interrupted process, waiting for no thread or exit handler."""
    try:
      sys.stdout.flush()
    finally:
      os._exit(EXIT_STATUS)

  def _receive(self, signum, frame):
    self._requested = True

  def _watch(self, reader: int):
    _wait_for_signal(reader)
    self._requested = True
    if self._checked:
      _wait_for_signal(reader, _GRACE_SECONDS)
    try:
      self._leaving.set()
      with contextlib.suppress(Exception):  # the output is to be written still
        self._farewell()
      self._flushing.set()
      sys.stdout.flush()
    finally:
      os._exit(EXIT_STATUS)

  def _limit(self, begun: threading.Event, seconds: float):
    begun.wait()
    time.sleep(seconds)
    os._exit(EXIT_STATUS)

  def _farewell(self):
    with self._ending:
      self.tell()
      for function in reversed(self._cleanups):
        with contextlib.suppress(Exception):  # the others still have to run
          function()


def _wait_for_signal(reader: int, seconds: float | None = None):
  """Waits for SIGINT, or until some seconds have passed."""
  end = None if seconds is None else time.monotonic() + seconds
  while True:
    left = None if end is None else max(0.0, end - time.monotonic())
    if not select.select([reader], [], [], left)[0]:
      return
    # Other signals with a handler of Python's come by as well.
    if os.read(reader, 1)[0] == signal.SIGINT:
      return


def _restore_default():
  # The thread is not in a forked process, and the pipe is the parent's.
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGINT, signal.SIG_DFL)


_interrupts = _Interrupts()
install = _interrupts.install
check = _interrupts.check
requested = _interrupts.requested
describe = _interrupts.describe
tell = _interrupts.tell
cleanup = _interrupts.cleanup
leave = _interrupts.leave
