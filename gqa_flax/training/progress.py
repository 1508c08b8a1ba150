"""What a run tells while it runs: one line, JSON lines, TensorBoard."""

import json
import math
import sys

import clu.metric_writers
import tqdm
from etils import epath

METRICS_FILE = 'metrics.jsonl'


class MetricLog:
  """Writes metrics to `metrics.jsonl` and to TensorBoard's event files.

  A run that goes on from a checkpoint repeats the steps after it; what an
  earlier attempt wrote of those is dropped, so that every step stands once.
  """

  def __init__(self, directory, restart_step: int, writes: bool = True):
    """Drops what earlier attempts have logged of later steps.

    Args:
      directory: of the run.
      restart_step: where this attempt goes on.
      writes: whether this is the one process that writes.
    """
    self._file = epath.Path(directory) / METRICS_FILE
    self._writes = writes
    if writes:
      kept = records(directory, restart_step)
      temporary = self._file.with_suffix('.tmp')
      text = ''.join(json.dumps(record) + '\n' for record in kept)
      temporary.write_text(text)
      temporary.replace(self._file)
      self._tensorboard = clu.metric_writers.SummaryWriter(str(directory))

  def write(self, step: int, metrics):
    """Adds one record: {'step': step, name: number, ...}."""
    if not self._writes:
      return
    with self._file.open('a') as file:
      file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._tensorboard.write_scalars(step, metrics)
    self._tensorboard.flush()


def records(directory, last_step: float = math.inf) -> list[dict[str, float]]:
  """Returns what a run has logged up to a step, by default all."""
  file = epath.Path(directory) / METRICS_FILE
  lines = file.read_text().splitlines() if file.exists() else []
  # The last line of a killed run may be cut short.
  found = [json.loads(line) for line in lines if line.endswith('}')]
  return [record for record in found if record['step'] <= last_step]


class ProgressLine:
  """One line: step, time left, loss and examples per second.

  It is rewritten in place on a terminal, and repeated in a log file.
  """

  def __init__(
    self, name: str, first_step: int, last_step: int, shows: bool = True
  ):
    self._bar = tqdm.tqdm(
      desc=name,
      initial=first_step,
      total=last_step,
      unit='step',
      ncols=100,
      disable=not shows,
    )

  def show(self, step: int, loss: float, examples_per_second: float):
    """Shows where the run stands."""
    self._bar.set_postfix_str(
      f'loss {loss:.3f}, {examples_per_second:,.0f} examples/s', refresh=False
    )
    self._bar.n = step
    self._bar.refresh()
    if not (self._bar.disable or sys.stderr.isatty()):
      print(file=sys.stderr)

  def close(self):
    """Leaves the line as it stands."""
    self._bar.close()
