"""How soon `gqa-flax train` has done its first step, and what a cache saves."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.training_knobs import runs
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
        if runs.is_done(path, 'startup', run_number, key):
          continue
        if kind == 'cold':
          shutil.rmtree(cache, ignore_errors=True)
        if kind == 'warm' and not cache.exists():
          _start(cache)  # the run that filled it was of an earlier call
        load = os.getloadavg()[0]
        found = _start(None if kind == 'off' else cache)
        runs.append(
          path,
          'startup',
          run_number,
          key,
          command=COMMAND,
          **found,
          cache_bytes=0 if kind == 'off' else _size(cache),
          load=round(load, 2),
        )
        print(key, found['seconds'], flush=True)


def _start(cache: pathlib.Path | None) -> dict[str, Any]:
  """Runs it, and returns its seconds by what they went into, and its loss."""
  cached = () if cache is None else (f'--gin.COMPILATION_CACHE={cache}',)
  with tempfile.TemporaryDirectory(prefix='training_knobs_') as model_dir:
    seconds = train([*COMMAND, *cached], model_dir)
    loss = progress.records(model_dir)[0]['loss']
  return {'seconds': seconds, 'loss': loss}


def train(
  command: Sequence[str], model_dir: str, **variables: str
) -> dict[str, float]:
  """Runs a command of gqa-flax that trains, and returns its seconds.

  They are the run's own account, goodput.jsonl, which begins when the process
  did and waits for the devices at the end of the step.

  Args:
    command: the arguments.
    model_dir: of the run.
    **variables: of its environment, besides those of this process.

  Raises:
    RuntimeError: the run failed.
  """
  command = [*command, f'--gin.MODEL_DIR={model_dir}']
  result = subprocess.run(
    [sys.executable, '-m', 'gqa_flax.cli', *command],
    env={**_environment(os.environ), **variables},
    capture_output=True,
    text=True,
  )
  if result.returncode:
    raise RuntimeError(
      f'gqa-flax {" ".join(command)} ended with status {result.returncode}:'
      f'\n{result.stderr[-2000:]}'
    )
  seconds = goodput.summary(model_dir)['seconds']
  return {k: round(x, 3) for k, x in seconds.items()}


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
  """Returns the environment without the knobs that are measured here."""
  knobs = ('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE', 'GLIBC_TUNABLES')
  kept = {k: v for k, v in variables.items() if not k.startswith(knobs)}
  return {**kept, 'JAX_PLATFORMS': 'cpu'}


def _size(folder: pathlib.Path) -> int:
  return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
