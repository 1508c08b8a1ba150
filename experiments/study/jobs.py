"""Jobs: commands of gqa-flax on gin files, to be printed or run."""

import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from experiments.training_knobs.cells import PAGES
from gqa_flax.runtime import interrupts

# The statuses with which a job that was told to stop ends, by SIGTERM or by
# Ctrl-C: its own, and those of one that was told before it listened.
_PREEMPTED = (
  75,
  interrupts.EXIT_STATUS,
  -signal.SIGTERM,
  -signal.SIGINT,
)


class JobError(RuntimeError):
  """A job ended with another status than 0.

  Attributes:
    preempted: whether it was told to stop, and goes on when it is run again.
  """

  def __init__(self, message: str, preempted: bool = False):
    super().__init__(message)
    self.preempted = preempted


@dataclasses.dataclass(frozen=True)
class Job:
  """One command.

  Attributes:
    command: of gqa-flax.
    gin_files: later ones win.
    bindings: of macros.
    done: a file that is there when the job has been done: the last that the
      command writes or, where that is a checkpoint before its evaluation, an
      empty one.
    steps: of training.
    options: further arguments.
  """

  command: str
  gin_files: tuple[str, ...]
  bindings: Mapping[str, Any]
  done: str
  steps: int = 0
  options: tuple[str, ...] = ()

  @property
  def arguments(self) -> list[str]:
    """What follows `gqa-flax` on the command line."""
    return [
      self.command,
      *(f'--gin_file={file}' for file in self.gin_files),
      *(f'--gin.{name}={value}' for name, value in self.bindings.items()),
      *self.options,
    ]

  def __str__(self) -> str:
    """The command line, an argument a line, for a shell."""
    return ' \\\n  '.join(map(shlex.quote, ['gqa-flax', *self.arguments]))

  @property
  def is_done(self) -> bool:
    """Whether its result is there."""
    return pathlib.Path(self.done).exists()

  def run(self, log_path: pathlib.Path):
    """Runs it to its end, unless it is done.

    Args:
      log_path: gets what it prints.

    Raises:
      JobError: if it fails; with what it said last.
    """
    if self.is_done:
      return
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, 'a', encoding='utf-8') as log:
      log.write(f'{self}\n')
      log.flush()
      status = subprocess.run(
        [sys.executable, '-m', 'gqa_flax.cli', *self.arguments],
        env={**PAGES['huge'], **os.environ},
        stdout=log,
        stderr=log,
      ).returncode
    if status:
      raise JobError(
        f'gqa-flax {self.command} ended with status {status}: '
        f'{self._last_words(log_path)} (all of it: {log_path})',
        preempted=status in _PREEMPTED,
      )
    pathlib.Path(self.done).touch()

  def _last_words(self, log_path: pathlib.Path) -> str:
    """Returns the command's own sentence, or else the last line of its log."""
    # The line of progress is rewritten in place.
    text = log_path.read_text(encoding='utf-8').replace('\r', '\n')
    lines = [line for line in text.splitlines() if line.strip()]
    own = [x for x in lines if x.startswith(f'gqa-flax {self.command}:')]
    return [*lines[-1:], *own][-1]
