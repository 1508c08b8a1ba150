"""Means over seeds, and how far they can be trusted."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import scipy.stats

# Of a difference by its 95% interval: above 0, with 0 in it, below 0.
HOLDS, UNDECIDED, FAILS = 'holds', 'undecided', 'does not hold'


@dataclasses.dataclass(frozen=True)
class Seeds:
  """A number that was found with several seeds.

  Attributes:
    values: one a seed.
  """

  values: tuple[float, ...]

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Seeds':
    return cls(tuple(values))

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values)

  @property
  def half_width(self) -> float:
    """Half of the mean's 95% interval, by Student's t; nan of one value."""
    n = len(self.values)
    if n < 2:
      return math.nan
    error = statistics.stdev(self.values) / math.sqrt(n)
    return float(scipy.stats.t.ppf(0.975, n - 1)) * error

  def minus(self, other: 'Seeds') -> 'Seeds':
    """Returns the differences seed by seed, which share data and order."""
    return Seeds.of(
      [a - b for a, b in zip(self.values, other.values, strict=True)]
    )

  @property
  def verdict(self) -> str:
    """Whether a difference that should be above 0 is."""
    if self.mean - self.half_width > 0:
      return HOLDS
    return FAILS if self.mean + self.half_width < 0 else UNDECIDED

  def interval(self, places: int = 3) -> str:
    """Returns the mean's 95% interval, as '4.113 to 4.133'.

    It is empty where nothing differed between the seeds, or there was one.
    """
    if len({*self.values}) == 1:
      return ''
    low, high = self.mean - self.half_width, self.mean + self.half_width
    return f'{low:.{places}f} to {high:.{places}f}'

  def shown(self, places: int = 3) -> str:
    """Returns the mean with its interval, as '4.123 ± 0.010'.

    Without one where nothing differed between the seeds, or there was one.
    """
    if len({*self.values}) == 1:
      return f'{self.mean:.{places}f}'
    return f'{self.mean:.{places}f} ± {self.half_width:.{places}f}'
