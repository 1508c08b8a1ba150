"""What was measured several times, and how it is written; no JAX."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
  """The median and the quartiles.

  Attributes:
    median: half of the values are below.
    low: a quarter of them.
    high: three quarters.
  """

  median: float
  low: float
  high: float

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Spread':
    """Returns that of the values; a single one is all three."""
    if len(values) == 1:
      return cls(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, method='inclusive')
    return cls(median, low, high)

  def __str__(self) -> str:
    """Returns median (lower to upper quartile), in three digits."""
    return f'{digits(self.median)} ({digits(self.low)} to {digits(self.high)})'


def digits(x: float) -> str:
  """Returns three digits, or all before the point."""
  if abs(x) >= 100:
    return f'{x:,.0f}'
  if abs(x) >= 10:
    return f'{x:.1f}'
  return f'{x:.2f}' if abs(x) >= 1 else f'{x:.3g}'
