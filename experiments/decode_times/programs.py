"""Compiles the decoding of T5.1.1 models for a TPU slice; keeps the records.

What Table 1's column of times and Figure 6 have in common: a cell is a model on
one mesh with its cache divided in one way, the largest batch that fits it, and
what the TPU's compiler says of its programs.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.decode_times.cells import Cell, Found
from gqa_flax.reporting import records
from gqa_flax.timing import estimate, tpu_compile
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.cost import Cost
from gqa_flax.timing.decoding import Decoding
from gqa_flax.timing.estimate import Estimate

RECORDS = pathlib.Path('results/decode_times/records.jsonl')


class NotCompiled(LookupError):
  """The records have no line for a program."""


class Programs:
  """Costs of compiled programs, a line of the records for each."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._costs: dict[tuple, Mapping[str, Cost]] = {}
    self.provenance: Mapping[str, Any] = {}
    for record in records.read(path):
      self._add(record)

  def __len__(self) -> int:
    return len(self._costs)

  def recorded(self, decoding, where, mesh, program) -> Mapping[str, Cost]:
    """Returns a program's costs.

    Raises:
      NotCompiled: if there is no record of it.
    """
    try:
      return self._costs[_key(decoding, where, mesh, program)]
    except KeyError:
      raise NotCompiled(f'{program} of {decoding} on {mesh}') from None

  def compiled(
    self, decoding, where, mesh, program, log=None
  ) -> Mapping[str, Cost]:
    """Returns a program's costs, and records them if they are new."""
    if _key(decoding, where, mesh, program) not in self._costs:
      costs = tpu_compile.compile_decoding(
        decoding, where, mesh, [program], log
      )
      record = {
        'experiment': 'decode_times',
        'program': program,
        'decoding': decoding.to_dict(),
        'slice': where.name,
        'mesh': mesh,
        'costs': {name: cost.to_dict() for name, cost in costs.items()},
        'provenance': {
          **records.provenance(where.generation, where.num_chips),
          'libtpu': tpu_compile.version(),
        },
      }
      records.append(self._path, record)
      self._add(record)
    return self.recorded(decoding, where, mesh, program)

  def _add(self, record):
    decoding = Decoding.from_dict(record['decoding'])
    where = Slice.parse(record['slice'])
    key = _key(decoding, where, record['mesh'], record['program'])
    self._costs[key] = {
      name: Cost.from_dict(cost) for name, cost in record['costs'].items()
    }
    self.provenance = record['provenance']


def read(path: pathlib.Path, todo: Iterable[Cell]) -> dict[Cell, Found]:
  """Returns those of the cells whose programs all have a record."""
  programs, found = Programs(path), {}
  for cell in todo:
    with contextlib.suppress(NotCompiled):
      result = _estimate(cell, programs.recorded)
      found[cell] = Found(cell, result, programs.provenance)
  return found


def run(todo: Iterable[Cell], path: pathlib.Path = RECORDS, log=None):
  """Compiles the programs that have no record, and appends one for each.

  A cell of which one fails to compile for another reason than memory is told
  of, and is tried again by the next run.
  """
  programs = Programs(path)
  for cell in todo:
    before = len(programs)
    try:
      result = _estimate(cell, functools.partial(programs.compiled, log=log))
    except RuntimeError as error:
      print(f'{cell}: {error}', file=sys.stderr, flush=True)
      continue
    if len(programs) == before:
      continue
    text = 'fits not at all'
    if result:
      seconds = result.a_sample(result.seconds())
      text = f'{result.batch_per_chip:g} a chip, {seconds:.3f} s a sample'
    print(f'{cell.model} {cell.mesh} {cell.cache_sharding}: {text}', flush=True)


def _estimate(cell: Cell, compile: estimate.Compile) -> Estimate | None:
  where = Slice.parse(cell.slice)
  batch_sizes = None
  if cell.batch_per_chip:
    batch_sizes = [cell.batch_per_chip * where.num_chips]
  return estimate.largest(
    cell.config,
    where,
    cell.mesh,
    (cell.source_length, cell.target_length),
    batch_sizes=batch_sizes,
    compile=compile,
  )


def _key(decoding: Decoding, where: Slice, mesh, program: str) -> tuple:
  """Returns what a program depends on."""
  rows = decoding.encoded_rows
  if program == 'decode':
    decoding = dataclasses.replace(decoding, encoded_rows=decoding.batch_size)
  else:  # not on the decoder, its cache and the rest of the batch
    config = dataclasses.replace(
      decoding.config,
      num_kv_heads=decoding.config.num_heads,
      cache_sharding='auto',
    )
    decoding = dataclasses.replace(
      decoding, config=config, batch_size=rows, target_length=1
    )
  return program, decoding, where.name, tuple(mesh)
