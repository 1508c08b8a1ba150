"""What the records come to: programs, plans, steps and starts by cell."""

import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.input_pipeline.summary import Spread
from experiments.training_knobs.cells import Knobs
from gqa_flax.timing.cost import Cost

# What of a chip a program may take: the runtime and the batches that wait need
# some, too.
USABLE = 0.95


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled step, of one chip.

  Attributes:
    knobs: the cell.
    rows: of a chip's batch.
    model_flops: of a step.
    planned: bytes by what they hold, by `training.plan`.
    cost: of the chip.
  """

  knobs: Knobs
  rows: int
  model_flops: float
  planned: Mapping[str, int]
  cost: Cost

  @property
  def fits(self) -> bool:
    """Whether it leaves a chip's memory some room."""
    limit = USABLE * self.cost.chip.hbm_bytes
    return self.cost.fits and self.cost.total_bytes <= limit

  @property
  def seconds(self) -> float:
    """The estimated time of a step."""
    return self.cost.step_seconds()

  @property
  def recomputed(self) -> float:
    """Matrix FLOPs beyond the model's, as a share of the model's."""
    return self.cost.flops / self.model_flops - 1

  @property
  def planned_temporaries(self) -> int:
    """What of the plan is no argument."""
    names = ('gradients', 'activations', 'recomputed')
    return sum(self.planned[name] for name in names)

  @property
  def ratio(self) -> float:
    """The compiler's temporaries over the plan's."""
    return self.cost.temporary_bytes / self.planned_temporaries


@dataclasses.dataclass(frozen=True)
class Plan:
  """What `training.plan` says of a job of the paper.

  Attributes:
    job: a key of `scale.jobs.JOBS`.
    size: of the model.
    remat: policy.
    mesh: devices by axis.
    planned: bytes of one device by what they hold.
  """

  job: str
  size: str
  remat: str
  mesh: Mapping[str, int]
  planned: Mapping[str, int]

  @property
  def total_bytes(self) -> int:
    """Of one device."""
    return sum(self.planned.values())


@dataclasses.dataclass(frozen=True)
class Timing:
  """Steps that ran.

  Attributes:
    knobs: the cell.
    seconds: the median of each repeat.
  """

  knobs: Knobs
  seconds: Sequence[float]

  @property
  def spread(self) -> Spread:
    """Median, lowest and highest."""
    return Spread.of(self.seconds)


@dataclasses.dataclass(frozen=True)
class Start:
  """Runs of one step.

  Attributes:
    cache: of `cells.CACHES`.
    first_step: seconds from the start of the process to the end of the step.
    compilation: of these, the seconds of the step's own compilation.
    cache_bytes: what the cache then holds, the largest.
  """

  cache: str
  first_step: Sequence[float]
  compilation: Sequence[float]
  cache_bytes: int


def programs(found: Sequence[Mapping[str, Any]]) -> list[Program]:
  """Returns the compiled steps with their plans, the newest of each cell."""
  planned = {
    _hashable(record['key']): record['planned']
    for record in found
    if record['what'] == 'program_plan'
  }
  newest = {}
  for record in found:
    if record['what'] == 'program':
      key = record['key']
      knobs = Knobs(key['remat'], key['microbatches'], key['dtype'])
      newest[knobs] = Program(
        knobs,
        key['rows'],
        record['model_flops'],
        planned[_hashable(key)],
        Cost.from_dict(record['cost']),
      )
  return sorted(newest.values(), key=lambda p: _order(p.knobs))


def _hashable(key: Mapping[str, Any]) -> str:
  return json.dumps(key, sort_keys=True)


def plans(found: Sequence[Mapping[str, Any]]) -> list[Plan]:
  """Returns the plans, in the order of the records."""
  newest = {
    tuple(record['key'].values()): Plan(
      **record['key'], mesh=record['mesh'], planned=record['planned']
    )
    for record in found
    if record['what'] == 'plan'
  }
  return list(newest.values())


def timings(found: Sequence[Mapping[str, Any]]) -> list[Timing]:
  """Returns the timed steps of the last run, by cell."""
  by_knobs = defaultdict(list)
  for record in _last_run(found, 'step'):
    key = dict(record['key'])
    del key['repeat']
    by_knobs[Knobs(**key)].append(record)
  return [
    Timing(knobs, [statistics.median(r['seconds']) for r in repeats])
    for knobs, repeats in sorted(by_knobs.items(), key=lambda i: _order(i[0]))
  ]


def starts(found: Sequence[Mapping[str, Any]]) -> dict[str, Start]:
  """Returns the starts of the last run, by what cache they had."""
  by_cache = defaultdict(list)
  for record in _last_run(found, 'startup'):
    by_cache[record['key']['cache']].append(record)
  until_step = ('startup', 'input', 'compilation', 'step')
  return {
    cache: Start(
      cache,
      [sum(r['seconds'].get(k, 0.0) for k in until_step) for r in repeats],
      [r['seconds']['compilation'] for r in repeats],
      max(r['cache_bytes'] for r in repeats),
    )
    for cache, repeats in by_cache.items()
  }


def pages(found: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
  """Returns seconds a step of the last run, by the kind of its pages."""
  by_kind = defaultdict(list)
  for record in _last_run(found, 'pages'):
    seconds = record['seconds']['step'] / record['steps']
    by_kind[record['key']['pages']].append(seconds)
  return {kind: Spread.of(seconds) for kind, seconds in by_kind.items()}


def get(found: Sequence, **knobs: Any):
  """Returns the program or timing with these knobs, None if there is none."""
  for one in found:
    if all(getattr(one.knobs, k) == x for k, x in knobs.items()):
      return one
  return None


def last_run(found: Sequence[Mapping[str, Any]], *what: str) -> int:
  """Returns the number of the last run that measured any of these, at first 1.

  Args:
    found: the records.
    *what: 'startup', 'step' or 'pages'.
  """
  return max((r['run'] for r in found if r['what'] in what), default=1)


def _last_run(found, what: str):
  last = last_run(found, what)
  return [r for r in found if r['what'] == what and r['run'] == last]


def _order(knobs: Knobs):
  remat = ('none', 'dots', 'full').index(knobs.remat)
  return knobs.dtype, not knobs.donated, knobs.microbatches, remat
