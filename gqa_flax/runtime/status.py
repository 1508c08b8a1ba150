"""What a command says on standard error while it works.

A command says what it does within its first two seconds, then a line for each
phase that can take long, then a progress bar. Each is a line of its own, on a
terminal and in a file alike, so that nothing that is said later stands beside
it. A library stays silent: `begin` is for a program.
"""

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

_PHASE_SECONDS = 1.0
# Between two lines of a bar that is shown in a file and hurries.
_BAR_SECONDS = 30.0


class _Status:
  """The state of this process; the module's functions are its methods."""

  def __init__(self):
    self._speaks = False
    self._name = ''
    self._over = False
    # Timers of two phases may end together.
    self._writing = threading.Lock()

  def begin(self):
    """Lets this process say what it does."""
    self._speaks = True

  def end(self):
    """Says nothing more, as all processes of a job but one do."""
    self._speaks = False

  def fall_silent(self):
    """Prints nothing from here on, so that the caller has the last word."""
    with self._writing:
      self._over = True

  def name(self, name: str):
    """Sets what every line begins with, such as 'gqa-flax train'."""
    self._name = name

  def tell(self, text: str):
    """Says what is done, if this process says it."""
    if self._speaks:
      self.say(f'{self._name}: {text}')

  def say(self, text: str):
    """Prints a line to standard error; a progress bar moves out of its way."""
    if sys.stderr is None:
      return
    with self._writing:
      if self._over:
        return
      if sys.stderr.isatty():
        tqdm.tqdm.write(text, file=sys.stderr)
      else:
        sys.stderr.write(f'{text}\n')
        sys.stderr.flush()

  @contextlib.contextmanager
  def phase(
    self, text: str | Callable[[], str], seconds: float = _PHASE_SECONDS
  ) -> Iterator[None]:
    """Says what is done, once it has taken so long.

    Args:
      text: such as 'compiling the training step', or what gives it.
      seconds: in which what is soon over says nothing.
    """
    if not self._speaks:
      yield
      return

    def tell():
      with contextlib.suppress(Exception):  # the command has its own error
        self.tell(text if isinstance(text, str) else text())

    # Its thread waits where C code holds the interpreter's lock.
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
      yield
    finally:
      timer.cancel()


class Bar:
  """A progress bar, rewritten in place on a terminal, repeated in a file.

  Args:
    name: what is being done.
    total: how many there are.
    initial: how many are done already.
    unit: what is counted.
    shows: False on all processes of a job but one.
    hurries: whether it is shown more often than a file should hold.
  """

  def __init__(
    self,
    name: str,
    total: int,
    *,
    initial: int = 0,
    unit: str = 'it',
    shows: bool = True,
    hurries: bool = False,
  ):
    self._next_line = time.monotonic() + _BAR_SECONDS if hurries else 0.0
    self._rewrites = sys.stderr is not None and sys.stderr.isatty()
    self._bar = tqdm.tqdm(
      desc=name,
      initial=initial,
      total=total,
      unit=unit,
      ncols=100,
      disable=not shows or sys.stderr is None,
      file=sys.stderr if self._rewrites else io.StringIO(),
    )

  def show(self, done: int, text: str = ''):
    """Shows how far it is.

    Args:
      done: of the total.
      text: shown behind it.
    """
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.n = done
    self._bar.refresh()
    if self._bar.disable or self._rewrites:
      return
    if self._next_line:
      if time.monotonic() < self._next_line:
        return
      self._next_line = time.monotonic() + _BAR_SECONDS
    say(str(self._bar))

  def close(self):
    """Leaves the line as it stands."""
    self._bar.close()


def bar_is_open() -> bool:
  """Whether the cursor of a terminal stands behind a progress bar."""
  return bool(_bars()) and sys.stderr is not None and sys.stderr.isatty()


def close_bars():
  """Ends the line of every progress bar, others' included."""
  for bar in _bars():
    with contextlib.suppress(Exception):  # an error is about to be said
      bar.close()


def _bars() -> list[tqdm.tqdm]:
  # All are known to tqdm alone: TFDS and huggingface_hub have theirs.
  return list(getattr(tqdm.tqdm, '_instances', ()))


_status = _Status()
begin = _status.begin
end = _status.end
fall_silent = _status.fall_silent
name = _status.name
say = _status.say
tell = _status.tell
phase = _status.phase
