"""What a run tells while it runs: one line, JSON lines, TensorBoard."""

import json
import sys
import time

import clu.metric_writers
from etils import epath

METRICS_FILE = 'metrics.jsonl'


class MetricLog:
  """Writes metrics to `metrics.jsonl` and to TensorBoard's event files.

  A run that goes on from a checkpoint repeats the steps after it; what an
  earlier attempt wrote of those is dropped, so that every step stands once.
  """

  def __init__(self, directory, restart_step: int):
    self._file = epath.Path(directory) / METRICS_FILE
    lines = self._file.read_text().splitlines() if self._file.exists() else []
    # The last line of a killed run may be cut short.
    whole = [line for line in lines if line.endswith('}')]
    kept = [line for line in whole if json.loads(line)['step'] <= restart_step]
    temporary = self._file.with_suffix('.tmp')
    temporary.write_text(''.join(line + '\n' for line in kept))
    temporary.replace(self._file)
    self._tensorboard = clu.metric_writers.SummaryWriter(str(directory))

  def write(self, step: int, metrics):
    """Adds one record: {'step': step, name: number, ...}."""
    with open(self._file, 'a') as file:
      file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._tensorboard.write_scalars(step, metrics)
    self._tensorboard.flush()


class ProgressLine:
  """One line that is rewritten on a terminal, and repeated in a log file."""

  def __init__(self, name: str, first_step: int, last_step: int, out=None):
    self._name, self._first, self._last = name, first_step, last_step
    self._out = out or sys.stderr
    self._start = time.monotonic()

  def show(self, step: int, loss: float, examples_per_second: float):
    """Shows step, loss, speed and the time left at the speed so far."""
    done = step - self._first
    seconds = (time.monotonic() - self._start) / max(done, 1)
    left = _minutes(seconds * (self._last - step))
    line = (
      f'{self._name}: step {step:,}/{self._last:,}  loss {loss:.3f}  '
      f'{examples_per_second:,.0f} examples/s  {left} left'
    )
    if self._out.isatty():
      line = f'\r\x1b[K{line}' + ('\n' if step == self._last else '')
    else:
      line += '\n'
    self._out.write(line)
    self._out.flush()


def _minutes(seconds: float) -> str:
  return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'
