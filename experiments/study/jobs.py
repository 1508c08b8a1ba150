"""Jobs: commands of gqa-flax on gin files, to be printed or run."""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


class JobError(RuntimeError):
  """A job ended with another status than 0."""


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
      JobError: if it fails; with the last line it printed.
    """
    if self.is_done:
      return
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, 'a', encoding='utf-8') as log:
      log.write(f'{self}\n')
      log.flush()
      status = subprocess.run(
        [sys.executable, '-m', 'gqa_flax.cli', *self.arguments],
        stdout=log,
        stderr=log,
      ).returncode
    if status:
      last = log_path.read_text(encoding='utf-8').splitlines()[-1]
      raise JobError(
        f'gqa-flax {self.command} ended with status {status}: {last} '
        f'(all of it: {log_path})'
      )
    pathlib.Path(self.done).touch()
