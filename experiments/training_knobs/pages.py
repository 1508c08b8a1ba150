"""What a step takes on a CPU with small, huge and kept pages of memory.

XLA asks for a step's temporaries anew at each step; whatever is too large to be
kept is taken from the system and given back, and each page is a fault.
"""

import tempfile
from typing import Any

from experiments.training_knobs import runs, startup
from experiments.training_knobs.cells import PAGES

# The laptop's model, from initialisation.
_COMMAND = (
  *('train', '--gin_file=gin_configs/models/laptop.gin'),
  '--gin_file=gin_configs/tasks/prose_span_corruption.gin',
  '--gin_file=gin_configs/runs/pretrain.gin',
  *('--gin.NUM_KV_HEADS=2', '--gin.BATCH_SIZE=16'),
  *('--gin.VALIDATION_EXAMPLES=16', '--gin.EVALUATE_EVERY=1000'),
)
STEPS = 100


def time_pages(path, repeats: int, run_number: int):
  """Trains for what the records lack, and appends a record for each run.

  Args:
    path: of the records.
    repeats: of each of `cells.PAGES`, which take turns.
    run_number: which run's records count as done.
  """
  for repeat in range(repeats):
    for kind, variables in PAGES.items():
      key = {'pages': kind, 'repeat': repeat}
      if not runs.is_done(path, 'pages', run_number, key):
        found = _train(variables)
        runs.append(
          path, 'pages', run_number, key, command=_COMMAND, steps=STEPS, **found
        )


def _train(variables) -> dict[str, Any]:
  with tempfile.TemporaryDirectory(prefix='training_knobs_') as folder:
    steps = f'--gin.TRAIN_STEPS={STEPS}'
    seconds = startup.train([*_COMMAND, steps], folder, **variables)
  print(variables, seconds['step'], flush=True)
  return {'variables': dict(variables), 'seconds': seconds}
