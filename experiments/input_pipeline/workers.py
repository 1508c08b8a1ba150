"""Processes that measure, each on cores and with a data folder of its own."""

import concurrent.futures
import multiprocessing
import os
import pathlib


class Workers:
  """Processes by their cores and their data folder, one at work at a time."""

  def __init__(self, folder: pathlib.Path):
    """Keeps all their files in a folder."""
    self._folder = folder
    self._pools: dict[tuple, concurrent.futures.Executor] = {}

  def call(self, cores: str, data: str, function: str, *arguments):
    """Calls a function of `measure` in the process on 'one' core or 'all'."""
    if (cores, data) not in self._pools:
      available = sorted(os.sched_getaffinity(0))
      chosen = available[-1:] if cores == 'one' else available
      self._pools[cores, data] = concurrent.futures.ProcessPoolExecutor(
        max_workers=1,
        # Not forked: TensorFlow must not have started yet.
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start,
        initargs=(chosen, str(self._folder / data)),
      )
    pool = self._pools[cores, data]
    return pool.submit(_call, function, *arguments).result()

  def close(self):
    """Ends the processes."""
    for pool in self._pools.values():
      pool.shutdown()
    self._pools.clear()


def _start(cores, data_dir):
  os.sched_setaffinity(0, cores)
  os.environ.update(TFDS_DATA_DIR=data_dir, TF_CPP_MIN_LOG_LEVEL='2')
  pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)


def _call(function, *arguments):
  # Late: the module imports TensorFlow.
  from experiments.input_pipeline import measure

  return getattr(measure, function)(*arguments)
