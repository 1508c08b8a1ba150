"""SIGTERM as a request: all processes stop at one step, save, and end."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: the same command, started again, goes on.
EXIT_STATUS = 75


class Preempted(Exception):
  """The run was asked to stop, and has saved where it stands.

  Args:
    step: of the checkpoint that was written.
    directory: where it lies.
  """

  exit_status = EXIT_STATUS
  orderly = True  # every process raises it, and none waits for another

  def __init__(self, step: int, directory):
    super().__init__(step, directory)
    self.step, self.directory = step, directory

  def __str__(self):
    return (
      f'The run was asked to stop: saved step {self.step} in '
      f'{self.directory}; start the same command again to go on.'
    )


class Requests:
  """Knows whether this run was asked to stop; see `listening`."""

  def __init__(self):
    self._requested = False

  @property
  def requested(self) -> bool:
    """Whether to stop, as far as known here without asking anybody.

    With several processes it stays False until `__call__` has found that all
    of them know: one that left a computation alone would stall the others.
    """
    return self._requested

  def __call__(self, step: int) -> bool:
    """Whether to save after this step and end; the same on every process.

    Every process has to ask once a step, the last included, with a number that
    grows by one: the processes agree on the highest step that any of them has
    reached, plus one.

    Raises:
      RuntimeError: with several processes, if JAX's preemption service is off.
    """
    if (
      jax.process_count() > 1
      and multihost_utils.reached_preemption_sync_point(step)
    ):
      self._requested = True
    return self._requested

  def _receive(self, signum, frame):
    self._requested = True


@contextlib.contextmanager
def listening() -> Iterator[Requests]:
  """Catches SIGTERM for as long as the context lasts.

  One process remembers the signal. With several, `jax.distributed` has put its
  own handler in place, below Python's; one from here would take its signals
  away, so none is installed. A signal to any of the processes stops all.

  Handlers belong to the main thread: in another one, a single process is never
  asked to stop.

  Yields:
    Requests, to ask once a step.
  """
  requests = Requests()
  handles = (
    jax.process_count() == 1
    and threading.current_thread() is threading.main_thread()
  )
  if not handles:
    yield requests
    return
  previous = signal.signal(signal.SIGTERM, requests._receive)
  try:
    yield requests
  finally:
    # None stands for a handler that Python did not install and cannot set.
    signal.signal(
      signal.SIGTERM, signal.SIG_DFL if previous is None else previous
    )
