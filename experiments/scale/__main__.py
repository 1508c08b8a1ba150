"""How far the paper's own jobs scale: whole training steps for TPU slices.

T5.1.1-XXL with GQA-8, uptraining (batch 2048, 512/114 tokens, packed) and
fine-tuning (batch 128, 2048/512, dropout 0.1), compiled by the TPU's compiler
on a machine without TPUs for v4 slices of 64, 128, 256 and 512 chips, and for
v5p and v5e: the step that training runs, with Adafactor, donated state and
bfloat16 activations. Bytes a chip against its memory, FLOPs, bytes exchanged,
the compiler's estimate of the time beside what bounds it, and the largest slice
at which the step still scales.

  python -m experiments.scale
  python -m experiments.scale --report

The second redraws the report from the records. Records go to results/scale/
as they come; a run that was interrupted goes on where it stopped.

Hardware: two CPU cores, 18 GB of memory, no accelerator; five to twelve
minutes a program, two hours in all. Needs `pip install -e '.[tpu-compile]'`.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterable

from experiments.scale.jobs import JOBS, SLICES, Cell, cells
from gqa_flax.reporting import records
from gqa_flax.timing import flops, tpu_compile
from gqa_flax.timing.chips import Slice

KEYS = ('job', 'slice', 'mesh', 'remat', 'microbatches')


def key(fields) -> tuple:
  """Returns what tells programs apart, of a record."""
  return tuple(tuple(fields[k]) if k == 'mesh' else fields[k] for k in KEYS)


def run(path, todo: Iterable[list[Cell]], size: str, log, **overrides):
  """Compiles what the records lack, and appends a record for each.

  Args:
    path: of the records.
    todo: lists of candidates; of each, those up to the first that fits.
    size: of `T5Config.t5_1_1`.
    log: an open file for what the compiler says.
    **overrides: fields of T5Config.

  A program that fails to compile for another reason than memory is told of,
  leaves no record, and is tried again by the next run.
  """
  for candidates in todo:
    for cell in candidates:
      done = {
        key(record): record['cost']['fits']
        for record in records.read(path)
        if record['size'] == size
      }
      where = (cell.job, cell.slice, cell.mesh, cell.remat, cell.microbatches)
      if where not in done:
        done[where] = _measure(path, cell, size, log, overrides)
      if done[where] is not False:
        break


def _measure(path, cell, size, log, overrides) -> bool | None:
  """Appends a record; returns whether the step fits, None if it failed."""
  step = cell.step(size, **overrides)
  where = Slice.parse(cell.slice)
  try:
    cost = tpu_compile.compile_train_step(step, where, cell.mesh, log)
  except RuntimeError as error:
    print(f'{cell}: {error}', file=sys.stderr, flush=True)
    return None
  record = {
    'experiment': 'scale',
    'size': size,
    **{name: getattr(cell, name) for name in KEYS},
    'step': step.to_dict(),
    'model_flops': flops.training_flops(
      step.config, step.batch_size, step.source_length, step.target_length
    ),
    'cost': cost.to_dict(),
    'provenance': {
      **records.provenance(where.generation, where.num_chips),
      'libtpu': tpu_compile.version(),
    },
  }
  records.append(path, record)
  text = 'fits' if cost.fits else f'is {cost.over_bytes} bytes over'
  print(f'{cell} {text}; {cost.compile_seconds:.0f} s', flush=True)
  return cost.fits


def main() -> int:
  """Compiles, then reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', default='xxl')
  parser.add_argument('--slices', nargs='+', default=SLICES)
  parser.add_argument('--jobs', nargs='+', default=tuple(JOBS), choices=JOBS)
  parser.add_argument('--results_dir', default='results/scale')
  parser.add_argument('--log', default='runs/scale.log', type=pathlib.Path)
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args()
  results = pathlib.Path(args.results_dir)
  if not args.report:
    args.log.parent.mkdir(parents=True, exist_ok=True)
    with open(args.log, 'a', encoding='utf-8') as log:
      todo = cells(args.slices, args.jobs)
      run(results / 'records.jsonl', todo, args.size, log)
  from experiments.scale import report

  report.write(results)
  return 0


if __name__ == '__main__':
  sys.exit(main())
