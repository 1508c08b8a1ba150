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
    lengths = step.source_length, step.target_length
    _append(
      path,
      'program',
      key,
      step=step.to_dict(),
      model_flops=flops.training_flops(step.config, rows, *lengths),
      cost=cost.to_dict(),
    )
    print(f'{key}: {cost.compile_seconds:.0f} s', flush=True)


def plan_programs(path, model: T5Config, rows: int, todo: Iterable[Knobs]):
  """Appends what the plan says of the programs, where that is news."""
  for knobs in todo:
    found = plan(
      config=knobs.config(model),
      batch_size=rows,
      sequence_length=cells.LENGTHS,
      microbatches=knobs.microbatches,
      num_devices=1,
    )
    _append_plan(path, 'program_plan', _key(knobs, rows, model), found)


def plan_jobs(path, todo: Iterable[PlanCell]):
  """Appends what the plan says of the paper's jobs, where that is news."""
  for cell in todo:
    key = {'job': cell.job, 'size': cell.size, 'remat': cell.remat}
    arguments = cell.arguments()
    _append_plan(
      path,
      'plan',
      key,
      plan(**arguments),
      batch_size=arguments['batch_size'],
      sequence_length=arguments['sequence_length'],
    )


def _append_plan(path, what: str, key, found, **fields):
  """Appends a plan unless the newest record of its cell says the same."""
  fields |= {'mesh': found['mesh'], 'planned': found['bytes']}
  known = [
    {name: record[name] for name in fields}
    for record in records.read(path)
    if (record['what'], record['key']) == (what, key)
  ]
  if known[-1:] != [fields]:
    _append(path, what, key, **fields)
    print(f'{what} {key}', flush=True)


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
