"""Numbers of the records by cell, gathered over seeds."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study.cells import ALPHA, FineTuning, Uptraining
from experiments.study.scales import Scale
from experiments.study.spread import Seeds
from gqa_flax.reporting import plots

Found = Mapping[str, Mapping[str, Any]]
# Of the laptop's models in plots, by number of key/value heads.
COLORS = {8: '#444444', 2: plots.COLORS[0], 1: plots.COLORS[1]}
# How far uptraining goes for the models of Figure 5, by number of key/value
# heads and method; for others it ends at ALPHA.
LONGEST = 0.1
UPTRAINED_LONGEST = (
  (8, 'none'),
  (2, 'mean'),
  (2, 'subspace'),
  (1, 'mean'),
  (1, 'subspace'),
)


def uptrainings(
  scale: Scale, size: str, num_kv_heads: int, method: str
) -> list[Uptraining]:
  """Returns one cell a seed, as far as any figure needs it."""
  longest = size == 'laptop' and (num_kv_heads, method) in UPTRAINED_LONGEST
  alpha = LONGEST if longest else ALPHA
  return [
    Uptraining(size, num_kv_heads, method, seed, alpha) for seed in scale.seeds
  ]


def losses(found: Found, cells: Sequence[Uptraining]) -> dict[float, Seeds]:
  """Returns the held-out loss by alpha; nothing unless all seeds are there."""
  records = [found.get(cell.name) for cell in cells]
  if not all(records):
    return {}
  by_seed = [dict(map(tuple, record['losses'])) for record in records]
  return {
    alpha: Seeds.of([losses[alpha] for losses in by_seed])
    for alpha in by_seed[0]
  }


def fine_tunings(
  found: Found, starts: Sequence[Uptraining], task: str, alpha: float
) -> list[Mapping[str, Any]]:
  """Returns one record a seed; nothing unless all seeds are there."""
  names = [FineTuning(start, task, alpha).name for start in starts]
  return [found[name] for name in names] if found.keys() >= {*names} else []


def reached_at(losses: Mapping[float, float], level: float) -> float | None:
  """Returns the alpha at which a curve first comes down to a level.

  Args:
    losses: by alpha, ascending; straight between.
    level: of the loss.
  """
  points = sorted(losses.items())
  if points[0][1] <= level:
    return points[0][0]
  for (left, high), (right, low) in itertools.pairwise(points):
    if low <= level:
      return left + (high - level) / (high - low) * (right - left)
  return None
