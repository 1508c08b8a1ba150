"""Runs cells, a record for each; what is interrupted goes on where it was."""

import json
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.study.cells import Cell
from experiments.study.jobs import Job, JobError
from experiments.study.scales import Scale
from gqa_flax.reporting import records

RECORDS = pathlib.Path('results/study/records.jsonl')
DONE, FAILED = 'done', 'failed'


class Grid:
  """The cells of a scale and their records."""

  def __init__(self, scale: Scale, path: pathlib.Path = RECORDS):
    self.scale = scale
    self._path = path

  def found(self) -> dict[str, dict[str, Any]]:
    """Returns the record of every cell that is done, by its name."""
    return {
      record['cell']: record
      for record in records.read(self._path)
      if record['scale'] == self.scale.name and record['status'] == DONE
    }

  def missing(self, cells: Iterable[Cell]) -> list[Cell]:
    """Returns those of the cells that are not done."""
    found = self.found()
    return [cell for cell in cells if cell.name not in found]

  def run(self, cells: Sequence[Cell]):
    """Runs what is missing; a cell that fails is told of, and tried again.

    Where a job is told to stop, so does this.

    Args:
      cells: in their order.
    """
    for cell in self.missing(cells):
      start = time.monotonic()
      jobs = cell.jobs(self.scale)
      log = pathlib.Path(self.scale.work_dir, 'logs', f'{cell.name}.log')
      try:
        for job in jobs:
          job.run(log)
        outcome = {'status': DONE, **cell.numbers(self.scale)}
      except JobError as error:
        if error.preempted:
          print(f'{cell.name}: {error}', file=sys.stderr, flush=True)
          return
        outcome = {'status': FAILED, 'error': str(error)}
        print(f'{cell.name}: {error}', file=sys.stderr, flush=True)
      seconds = round(time.monotonic() - start, 1)
      records.append(
        self._path,
        {
          'scale': self.scale.name,
          'cell': cell.name,
          **outcome,
          'seconds': seconds,
          'jobs': [_description(job) for job in jobs],
        },
      )
      print(f'{cell.name}: {outcome["status"]}, {seconds} s', flush=True)


def _description(job: Job) -> dict[str, Any]:
  """Returns a job's command, and what it wrote of itself if it has ended.

  That is the operative configuration and where it ran: devices, versions, git
  revision, time.
  """
  folder = pathlib.Path(job.done).parent
  written: dict[str, Any] = {}
  if (path := folder / f'{job.command}.gin').exists():
    written['gin'] = path.read_text(encoding='utf-8')
  if (path := folder / f'{job.command}_provenance.json').exists():
    written['provenance'] = json.loads(path.read_text(encoding='utf-8'))
  return {'arguments': job.arguments, **written}
