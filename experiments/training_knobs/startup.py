"""How soon `gqa-flax train` has done its first step, and what a cache saves."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.reporting import records
from gqa_flax.training import goodput, progress

# One step, one evaluation of few examples and one checkpoint.
COMMAND = (
  *('train', '--gin_file=gin_configs/models/mini.gin'),
  '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
  '--gin_file=gin_configs/runs/pretrain.gin',
  *('--gin.BATCH_SIZE=16', '--gin.TRAIN_STEPS=1'),
  '--gin.VALIDATION_EXAMPLES=16',
)


def time_startups(path, todo: Sequence[str], repeats: int, run_number: int):
  """Starts runs for what the records lack, and appends a record for each.

  Args:
    path: of the records.
    todo: of `cells.CACHES`, in this order within each repeat.
    repeats: of each.
    run_number: which run's records count as done.
  """
  with tempfile.TemporaryDirectory(prefix='training_knobs_') as folder:
    cache = pathlib.Path(folder) / 'cache'
    for repeat in range(repeats):
      for kind in todo:
        key = {'cache': kind, 'repeat': repeat}
        if _done(path, run_number, key):
          continue
        if kind == 'cold':
          shutil.rmtree(cache, ignore_errors=True)
        if kind == 'warm' and not cache.exists():
          _start(cache)  # the run that filled it was of an earlier call
        load = os.getloadavg()[0]
        found = _start(None if kind == 'off' else cache)
        record = {
          'experiment': 'training_knobs',
          'what': 'startup',
          'run': run_number,
          'key': key,
          'command': COMMAND,
          **found,
          'cache_bytes': 0 if kind == 'off' else _size(cache),
          'load': round(load, 2),
          'provenance': records.provenance('cpu', 1),
        }
        records.append(path, record)
        print(key, found['seconds'], flush=True)


def _start(cache: pathlib.Path | None) -> dict[str, Any]:
  """Runs it, and returns its seconds by what they went into.

  They are the run's own account, goodput.jsonl, which begins when the process
  did and waits for the devices at the end of the step.

  Raises:
    RuntimeError: the run failed.
  """
  with tempfile.TemporaryDirectory(prefix='training_knobs_') as model_dir:
    command = [*COMMAND, f'--gin.MODEL_DIR={model_dir}']
    if cache is not None:
      command.append(f'--gin.COMPILATION_CACHE={cache}')
    result = subprocess.run(
      [sys.executable, '-m', 'gqa_flax.cli', *command],
      env=_environment(os.environ),
      capture_output=True,
      text=True,
    )
    if result.returncode:
      raise RuntimeError(
        f'gqa-flax {" ".join(command)} ended with status {result.returncode}:'
        f'\n{result.stderr[-2000:]}'
      )
    summary = goodput.summary(model_dir)
    loss = progress.records(model_dir)[0]['loss']
  seconds = {k: round(x, 3) for k, x in summary['seconds'].items()}
  return {'seconds': seconds, 'loss': loss}


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
  """Returns the environment without a cache that somebody chose before."""
  kept = {
    k: v
    for k, v in variables.items()
    if not k.startswith(('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE'))
  }
  return {**kept, 'JAX_PLATFORMS': 'cpu'}


def _size(folder: pathlib.Path) -> int:
  return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())


def _done(path, run_number: int, key) -> bool:
  return any(
    record['what'] == 'startup'
    and (record['run'], record['key']) == (run_number, key)
    for record in records.read(path)
  )
