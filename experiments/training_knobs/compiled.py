"""The part for TPUs: compiles a training step for every cell, and plans it."""

import sys
from collections.abc import Iterable
from typing import Any

from experiments.training_knobs import cells
from experiments.training_knobs.cells import Knobs, PlanCell
from gqa_flax.config import T5Config
from gqa_flax.reporting import records
from gqa_flax.timing import flops, tpu_compile
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.programs import TrainStep
from gqa_flax.training.plan import plan


def compile_programs(
  path, model: T5Config, rows: int, todo: Iterable[Knobs], log
):
  """Compiles the cells that the records lack, and appends a record for each.

  A program that fails to compile for another reason than memory is told of,
  leaves no record, and is tried again by the next run.

  Args:
    path: of the records.
    model: the knobs apart.
    rows: of a chip's batch.
    todo: the cells.
    log: an open file for what the compiler says.
  """
  where = Slice.parse(cells.SLICE)
  for knobs in todo:
    key = _key(knobs, rows, model)
    if _done(path, 'program', key):
      continue
    step = TrainStep(
      knobs.config(model),
      batch_size=rows,
      source_length=cells.LENGTHS['inputs'],
      target_length=cells.LENGTHS['targets'],
      packed=True,
      microbatches=knobs.microbatches,
    )
    try:
      cost = tpu_compile.compile_train_step(step, where, cells.MESH, log)
    except RuntimeError as error:
      print(f'{knobs}: {error}', file=sys.stderr, flush=True)
      continue
    planned = plan(
      config=step.config,
      batch_size=rows,
      sequence_length=cells.LENGTHS,
      microbatches=knobs.microbatches,
      num_devices=1,
    )
    lengths = step.source_length, step.target_length
    _append(
      path,
      'program',
      key,
      step=step.to_dict(),
      model_flops=flops.training_flops(step.config, rows, *lengths),
      planned=planned['bytes'],
      cost=cost.to_dict(),
    )
    print(f'{key}: {cost.compile_seconds:.0f} s', flush=True)


def write_plans(path, todo: Iterable[PlanCell]):
  """Appends what the plan says of the jobs that the records lack."""
  for cell in todo:
    key = {'job': cell.job, 'size': cell.size, 'remat': cell.remat}
    if _done(path, 'plan', key):
      continue
    arguments = cell.arguments()
    found = plan(**arguments)
    _append(
      path,
      'plan',
      key,
      batch_size=arguments['batch_size'],
      sequence_length=arguments['sequence_length'],
      mesh=found['mesh'],
      planned=found['bytes'],
    )
    print(key, flush=True)


def _key(knobs: Knobs, rows: int, model: T5Config) -> dict[str, Any]:
  return {
    'remat': knobs.remat,
    'microbatches': knobs.microbatches,
    'dtype': knobs.dtype,
    'rows': rows,
    'architecture': model.architecture(),
  }


def _done(path, what: str, key) -> bool:
  return any(
    record['what'] == what and record['key'] == key
    for record in records.read(path)
  )


def _append(path, what: str, key, **fields):
  generation = Slice.parse(cells.SLICE).generation
  provenance = records.provenance(generation, 1)
  libtpu = {'libtpu': tpu_compile.version()}
  record = {'experiment': 'training_knobs', 'what': what, 'key': key, **fields}
  records.append(path, {**record, 'provenance': {**provenance, **libtpu}})
