"""Numbers of the report from the records of a run."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# The last is `batches.train_batches`; see `stages`.
STAGES = ('read', 'text', 'tokenize', 'features', 'rows', 'batches')


@dataclasses.dataclass(frozen=True)
class Spread:
  """What was measured several times."""

  median: float
  low: float
  high: float

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Spread':
    """Returns that of the values."""
    return cls(statistics.median(values), min(values), max(values))

  def times(self, factor: float) -> 'Spread':
    """Returns these in a unit so many times smaller."""
    return Spread(self.median * factor, self.low * factor, self.high * factor)

  def per_second(self, amount: float) -> 'Spread':
    """Returns rates, where these are seconds."""
    return Spread(amount / self.median, amount / self.high, amount / self.low)

  def __str__(self) -> str:
    """Returns median (lowest to highest), with three digits or all."""
    return f'{_digits(self.median)} ({_digits(self.low)} to ' + (
      f'{_digits(self.high)})'
    )


def _digits(x: float) -> str:
  if abs(x) >= 100:
    return f'{x:,.0f}'
  return f'{x:.1f}' if abs(x) >= 10 else f'{x:.2f}'


@dataclasses.dataclass(frozen=True)
class Task:
  """The records of one task.

  Attributes:
    name: of the task.
    data: the record of what its data set is like.
    tokenizer: the records of its texts encoded at once.
    rates: by cores, the records of the stages.
    positions: the records of the saved position.
  """

  name: str
  data: Mapping[str, Any]
  tokenizer: Sequence[Mapping[str, Any]]
  rates: Mapping[str, Sequence[Mapping[str, Any]]]
  positions: Sequence[Mapping[str, Any]]

  def seconds(self, stage: str, cores: str = 'one') -> Spread:
    """Returns those of an epoch up to a stage.

    On one core they are of the processor's time, which other programs on the
    machine hardly change; on all cores they are of the clock.
    """
    key = 'cpu_seconds' if cores == 'one' else 'seconds'
    return Spread.of([r[key][stage] for r in self.rates[cores]])

  def encoding(self, what: str) -> Spread:
    """Returns the processor's seconds of all texts encoded at once."""
    return Spread.of([r['cpu_seconds'][what] for r in self.tokenizer])

  def waiting(self) -> list[float]:
    """Returns, for each epoch on one core, the clock's time over the core's."""
    return [
      r['seconds']['batches'] / r['cpu_seconds']['batches']
      for r in self.rates['one']
    ]

  def stage_seconds(self) -> dict[str, float]:
    """Returns what each stage adds on one core; all add up to the last.

    A stage that measured slower than the whole of which it is a part, by
    noise, is taken to be as fast as the whole.
    """
    reached = [self.seconds(stage).median for stage in STAGES]
    for i in reversed(range(len(reached) - 1)):
      reached[i] = min(reached[i], reached[i + 1])
    before = [0.0, *reached[:-1]]
    return {s: here - b for s, here, b in zip(STAGES, reached, before)}

  def shares(self) -> dict[str, float]:
    """Returns each stage's part of the time on one core; the sum is one."""
    added = self.stage_seconds()
    total = sum(added.values())
    return {stage: seconds / total for stage, seconds in added.items()}

  def cores_needed(self, batch: int, stage: str = 'batches') -> float:
    """Returns the cores that feed one batch of so many rows a second."""
    return batch * self.seconds(stage).median / self.data['rows']

  def steps(self) -> list[str]:
    """Returns at which steps positions were saved, the early one first."""
    return sorted(self.positions[0]['steps'], key=int)

  def position(self, step: str, key: str) -> Spread:
    """Returns one quantity of the positions saved at a step."""
    return Spread.of([r['steps'][step][key] for r in self.positions])


def last_run(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Returns the records of the last run alone."""
  last = max(record['run'] for record in found)
  return [record for record in found if record['run'] == last]


def tasks(found: Sequence[Mapping[str, Any]]) -> list[Task]:
  """Returns the tasks of which there are records of every kind."""
  complete = []
  for name in dict.fromkeys(record['task'] for record in found):
    of = {
      (what, cores): [
        record
        for record in found
        if (record['task'], record['what'], record['cores'])
        == (name, what, cores)
      ]
      for what, cores in (
        *(('data', 'all'), ('tokenizer', 'one'), ('position', 'all')),
        *(('rates', 'one'), ('rates', 'all')),
      )
    }
    if all(of.values()):
      rates = {cores: of['rates', cores] for cores in ('one', 'all')}
      complete.append(
        Task(
          name,
          of['data', 'all'][0],
          of['tokenizer', 'one'],
          rates,
          of['position', 'all'],
        )
      )
  return complete
