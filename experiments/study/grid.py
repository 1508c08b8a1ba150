"""Runs cells, a record for each; what is interrupted goes on where it was."""

import concurrent.futures
import json
import os
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.study.cells import Cell, FineTuning, Timing
from experiments.study.jobs import Job, JobError
from experiments.study.scales import Scale
from gqa_flax.reporting import records

RECORDS = pathlib.Path('results/study/records.jsonl')
DONE, FAILED = 'done', 'failed'
# Cores that a cell's jobs are held to; None is all of them.
Share = frozenset[int] | None


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

  def run(
    self,
    cells: Sequence[Cell],
    shares: Sequence[Share] = (None,),
    again: bool = False,
  ):
    """Runs what is missing; a cell that fails is told of, and tried again.

    Where a job is told to stop, so does this.

    Args:
      cells: in their order, but that those that measure time come first, one
        at a time.
      shares: of the cores, each for one of the others at a time.
      again: record what is done anew, too. Jobs whose results are still there
        are not done again.
    """
    chosen = cells if again else self.missing(cells)
    timed = [cell for cell in chosen if cell.kind == Timing.kind]
    others = [cell for cell in chosen if cell.kind != Timing.kind]
    run = _Run(self.scale, self._path)
    run.all(timed, [None])
    run.all(others, shares)


def shares_of_cores(number: int) -> list[Share]:
  """Divides this process's cores.

  Args:
    number: of shares.

  Returns:
    The shares, disjoint; where the system cannot hold a process to cores, None
    for each.

  Raises:
    ValueError: there are not so many cores.
  """
  # XLA makes as many threads as there are cores that it may use.
  most = os.cpu_count() or 1
  cores: list[int] = []
  if hasattr(os, 'sched_getaffinity'):
    cores = sorted(os.sched_getaffinity(0))
    most = len(cores)
  if not 1 <= number <= most:
    raise ValueError(
      f'--parallel={number} is not among 1 to {most}, the number of cores.'
    )
  if number == 1 or not cores:
    return [None] * number
  return [frozenset(cores[i::number]) for i in range(number)]


class _Run:
  """Cells that run side by side, and stop together."""

  def __init__(self, scale: Scale, path: pathlib.Path):
    self._scale, self._path = scale, path
    self._stopped = threading.Event()
    self._locks: dict[str, threading.Lock] = {}

  def all(self, cells: Sequence[Cell], shares: Sequence[Share]):
    """Runs the cells, as many at once as there are shares of the cores."""
    free: queue.SimpleQueue[Share] = queue.SimpleQueue()
    for share in shares:
      free.put(share)

    def take_cores():
      # Of this thread, and so of the jobs that it starts.
      if (share := free.get()) is not None:
        os.sched_setaffinity(0, share)

    with concurrent.futures.ThreadPoolExecutor(
      len(shares), initializer=take_cores
    ) as pool:
      try:
        for _ in pool.map(lambda cell: self._one(cell, len(shares)), cells):
          pass
      except BaseException:
        self._stopped.set()
        raise

  def _one(self, cell: Cell, parallel: int):
    if self._stopped.is_set():
      return
    start = time.monotonic()
    jobs = cell.jobs(self._scale)
    log = pathlib.Path(self._scale.work_dir, 'logs', f'{cell.name}.log')
    try:
      for job in jobs:
        with self._lock(job):
          job.run(log)
      outcome = {'status': DONE, **cell.numbers(self._scale)}
    except JobError as error:
      print(f'{cell.name}: {error}', file=sys.stderr, flush=True)
      if error.preempted:
        self._stopped.set()
        return
      outcome = {'status': FAILED, 'error': str(error)}
    seconds = round(time.monotonic() - start, 1)
    records.append(
      self._path,
      {
        'scale': self._scale.name,
        'cell': cell.name,
        **outcome,
        'seconds': seconds,
        'parallel': parallel,
        'jobs': [_description(job) for job in jobs],
      },
    )
    print(f'{cell.name}: {outcome["status"]}, {seconds} s', flush=True)
    scored = isinstance(cell, FineTuning) and outcome['status'] == DONE
    if scored and not self._scale.keeps_finetuned:
      cell.discard(self._scale)

  def _lock(self, job: Job) -> threading.Lock:
    # What several cells need is made by one; conversions share statistics.
    name = job.command if job.command == 'convert' else job.done
    return self._locks.setdefault(name, threading.Lock())


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
