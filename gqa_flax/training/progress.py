"""What a run tells while it runs: one line, JSON lines, TensorBoard."""

import json
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
    with self._file.open('a') as file:
      file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._tensorboard.write_scalars(step, metrics)
    self._tensorboard.flush()


class ProgressLine:
  """One line: step, time left, loss and examples per second.

  It is rewritten in place on a terminal, and repeated in a log file.
  """

  def __init__(self, name: str, first_step: int, last_step: int):
    self._bar = tqdm.tqdm(
      desc=name, initial=first_step, total=last_step, unit='step', ncols=100
    )

  def show(self, step: int, loss: float, examples_per_second: float):
    """Shows where the run stands."""
    self._bar.set_postfix_str(
      f'loss {loss:.3f}, {examples_per_second:,.0f} examples/s', refresh=False
    )
    self._bar.n = step
    self._bar.refresh()
    if not sys.stderr.isatty():
      print(file=sys.stderr)

  def close(self):
    """Leaves the line as it stands."""
    self._bar.close()
