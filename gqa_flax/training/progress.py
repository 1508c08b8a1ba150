"""What a run tells: JSON lines and TensorBoard's files, and its outcome."""

import json
import math
import shlex

import clu.metric_writers
from etils import epath

from gqa_flax.checkpoints import native
from gqa_flax.training import checks

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


def outcome(directory) -> str:
  """Returns where a run has ended, as aligned lines.

  The latest checkpoint, the last and the best of every score that evaluators
  gave, and the command that shows its curves.

  Args:
    directory: of the run.
  """
  folder = epath.Path(directory)
  rows = []
  saved = [
    path
    for path in folder.glob(f'{native.PREFIX}_*')
    if native.step_of(path) is not None
  ]
  if saved:
    rows.append(('checkpoint', str(max(saved, key=native.step_of))))
  scores: dict[str, dict[int, float]] = {}
  for record in records(directory):
    if 'loss' not in record:  # of an evaluation
      for name in record.keys() - {'step'}:
        scores.setdefault(name, {})[int(record['step'])] = record[name]
  for name, by_step in sorted(scores.items()):
    last = max(by_step)
    best = native.best_step(by_step, checks.best_mode(name), among=by_step)
    text = f'{by_step[last]:.4g} at step {last:,}'
    if best is not None and best != last:
      text += f' (best: {by_step[best]:.4g} at step {best:,})'
    rows.append((name, text))
  rows.append(('curves', f'tensorboard --logdir={shlex.quote(str(folder))}'))
  width = max(len(name) for name, _ in rows)
  return '\n'.join(f'{name:{width}}  {text}' for name, text in rows)
