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
from collections.abc import Iterator

import tqdm

_PHASE_SECONDS = 1.0


class _Status:
  """The state of this process; the module's functions are its methods."""

  def __init__(self):
    self._name: str | None = None

  def begin(self, name: str):
    """Lets this process say what it does.

    Args:
      name: what every line begins with, such as 'gqa-flax train'.
    """
    self._name = name

  def end(self):
    """Says nothing more, as all processes of a job but one do."""
    self._name = None

  def tell(self, text: str):
    """Says what is done, if this process is one that says it."""
    if self._name is not None:
      say(f'{self._name}: {text}')

  @contextlib.contextmanager
  def phase(self, text: str) -> Iterator[None]:
    """Says what is done, once it has taken more than a second.

    Args:
      text: such as 'compiling the training step'.
    """
    # The timer's thread waits where C code holds the interpreter's lock.
    timer = threading.Timer(_PHASE_SECONDS, self.tell, [text])
    timer.daemon = True
    timer.start()
    try:
      yield
    finally:
      timer.cancel()


def say(text: str):
  """Prints a line to standard error; a progress bar moves out of its way."""
  if sys.stderr is None:
    return
  if sys.stderr.isatty():
    tqdm.tqdm.write(text, file=sys.stderr)
  else:
    print(text, file=sys.stderr, flush=True)


class Bar:
  """A progress bar, rewritten in place on a terminal, repeated in a file.

  Args:
    name: what is being done.
    total: how many there are.
    initial: how many are done already.
    unit: what is counted.
    shows: False on all processes of a job but one.
  """

  def __init__(
    self,
    name: str,
    total: int,
    *,
    initial: int = 0,
    unit: str = 'it',
    shows: bool = True,
  ):
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
    if not (self._bar.disable or self._rewrites):
      print(self._bar, file=sys.stderr, flush=True)

  def close(self):
    """Leaves the line as it stands."""
    self._bar.close()


def close_bars():
  """Ends the line of every progress bar, others' included."""
  # All are known to tqdm alone: TFDS and huggingface_hub have theirs.
  for bar in list(getattr(tqdm.tqdm, '_instances', ())):
    with contextlib.suppress(Exception):  # an error is about to be said
      bar.close()


_status = _Status()
begin = _status.begin
end = _status.end
tell = _status.tell
phase = _status.phase
