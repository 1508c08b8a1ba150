"""What the records come to: the best layout of each, and what still scales."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.timing.chips import Slice
from gqa_flax.timing.cost import Cost

# The rule of the report: a slice still scales if each chip gets at least this
# share done of what it does on the smallest slice of its generation, ...
MIN_EFFICIENCY = 0.5


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled step.

  Attributes:
    job: a key of `jobs.JOBS`.
    size: of the model.
    remat: policy.
    microbatches: parts of the batch.
    tokens: positions of encoder and decoder in the global batch.
    model_flops: of a step, on all chips.
    cost: of one chip.
  """

  job: str
  size: str
  remat: str
  microbatches: int
  tokens: int
  model_flops: float
  cost: Cost

  @property
  def slice(self) -> Slice:
    """Where it runs."""
    return Slice.parse(self.cost.slice)

  def seconds(self, overlap: bool = True) -> float:
    """The estimated time of a step; see `Cost.step_seconds`."""
    return self.cost.step_seconds(overlap)

  def utilisation(self, overlap: bool = True) -> float:
    """The estimated share of the chips' peak that the model's FLOPs take."""
    return self.cost.model_flops_utilisation(self.model_flops, overlap)

  def layout(self) -> str:
    """The mesh and what else was chosen, in short."""
    data, fsdp, model = self.cost.mesh
    text = f'{data} x {fsdp} x {model}, {self.remat}'
    if self.microbatches > 1:
      text += f', {self.microbatches} parts'
    return text


def programs(found: Sequence[Mapping[str, Any]]) -> list[Program]:
  """Returns all programs of the records, the newest of each layout."""
  newest: dict[tuple, Program] = {}
  for record in found:
    program = Program(
      record['job'],
      record['size'],
      record['remat'],
      record['microbatches'],
      _tokens(record['step']),
      record['model_flops'],
      Cost.from_dict(record['cost']),
    )
    cost = program.cost
    name = (program.job, program.size, cost.slice, program.layout())
    newest[name] = program
  return list(newest.values())


def _tokens(step) -> int:
  row = step['source_length'] + step['target_length']
  return step['batch_size'] * row


def best(found: Sequence[Program]) -> list[Program]:
  """Returns the fastest layout that fits, of each job and slice.

  Where exchanges are not hidden behind computation: a layout must not win by
  an overlap that is only hoped for.
  """
  fastest: dict[tuple[str, str], Program] = {}
  for program in found:
    if program.cost.fits:
      name = (program.job, program.cost.slice)
      other = fastest.get(name)
      if other is None or program.seconds(False) < other.seconds(False):
        fastest[name] = program
  return sorted(
    fastest.values(),
    key=lambda p: (p.job, p.slice.generation, p.cost.num_chips),
  )


def series(found: Sequence[Program], job: str, generation: str):
  """Returns the best programs of one job and generation, by chips."""
  return [
    p for p in best(found) if p.job == job and p.slice.generation == generation
  ]


def efficiency(
  program: Program, smallest: Program, overlap: bool = True
) -> float:
  """Returns what a chip gets done, of what one of the smallest slice does."""
  chips = program.cost.num_chips / smallest.cost.num_chips
  return smallest.seconds(overlap) / (program.seconds(overlap) * chips)


def scales(program: Program, smallest: Program) -> bool:
  """Whether a slice still scales, by the report's rule.

  Efficiency is taken with exchanges after computation, the worse case, and
  what bounds exchanges must be below what bounds computation.
  """
  cost = program.cost
  return (
    efficiency(program, smallest, overlap=False) >= MIN_EFFICIENCY
    and cost.collective_seconds < cost.compute_seconds
  )


def largest_that_scales(
  found: Sequence[Program], job: str, generation: str
) -> Program | None:
  """Returns the largest slice up to which every slice scales, None if none."""
  largest = None
  line = series(found, job, generation)
  for program in line:
    if not scales(program, line[0]):
      break
    largest = program
  return largest
