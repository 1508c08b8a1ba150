"""How far a score could have come out otherwise: resampling, and several runs.

The bootstrap (Efron and Tibshirani 1993) draws as many examples as there are,
with replacement, and scores them; what that gives many times over is how the
score varies with the choice of the examples. Two systems are compared on the
same draws (Koehn 2004), so that what makes an example hard for both cancels.
"""

import dataclasses
import statistics as stdlib_statistics
from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
SEED = 0

# From sums of statistics [R, S] and the number of examples to scores [R, K],
# as `metrics.Metric.scores`.
Scores = Callable[[np.ndarray, int], np.ndarray]


def interval(
  runs: Sequence[np.ndarray],
  scores: Scores,
  *,
  confidence: float = CONFIDENCE,
  num_resamples: int = NUM_RESAMPLES,
  seed: int = SEED,
) -> np.ndarray:
  """Returns the percentile interval of a score, averaged over runs.

  The order of the examples does not matter.

  Args:
    runs: for each run of the system the statistics of the same examples,
      [num_examples, S].
    scores: the metric's.
    confidence: the share of the resamples between the ends.
    num_resamples: R.
    seed: of the draws.

  Returns:
    [2, K]: the lower and the upper ends of the K scores.
  """
  samples = _resampled_scores(runs, scores, num_resamples, seed)
  return _quantiles(samples.mean(axis=1), confidence)


@dataclasses.dataclass(frozen=True)
class Difference:
  """What resampling says of the difference of two systems, B - A.

  Attributes:
    interval: [2, K], as of `interval`.
    p_value: [K], two-sided: twice the share of the resamples in which the
      difference is not on its side of zero. It cannot fall below
      2 / (num_resamples + 1).
  """

  interval: np.ndarray
  p_value: np.ndarray


def paired_difference(
  a: Sequence[np.ndarray],
  b: Sequence[np.ndarray],
  scores: Scores,
  *,
  confidence: float = CONFIDENCE,
  num_resamples: int = NUM_RESAMPLES,
  seed: int = SEED,
) -> Difference:
  """Resamples the difference B - A of the mean scores over each side's runs.

  Args:
    a: the runs of one system; see `interval`.
    b: those of the other, with the same examples in the same order.
    scores: the metric's.
    confidence: see `interval`.
    num_resamples: see `interval`.
    seed: see `interval`.
  """
  samples = _resampled_scores([*a, *b], scores, num_resamples, seed)
  of_a, of_b = samples[:, : len(a)], samples[:, len(a) :]
  differences = of_b.mean(axis=1) - of_a.mean(axis=1)
  # The observed difference counts as one more draw, so that p is never 0.
  below = 1 + (differences <= 0).sum(axis=0)
  above = 1 + (differences >= 0).sum(axis=0)
  p_value = 2 * np.minimum(below, above) / (num_resamples + 1)
  return Difference(
    _quantiles(differences, confidence), np.minimum(p_value, 1.0)
  )


@dataclasses.dataclass(frozen=True)
class Spread:
  """One score in several runs.

  Attributes:
    values: one for each run.
    mean: of the runs.
    std: with n - 1 in the denominator; None for a single run.
    min: the lowest.
    max: the highest.
  """

  values: tuple[float, ...]
  mean: float
  std: float | None
  min: float
  max: float


def spread(values: Sequence[float]) -> Spread:
  """Returns mean and spread of a score over at least one run."""
  several = len(values) > 1
  return Spread(
    tuple(values),
    mean=stdlib_statistics.fmean(values),
    std=stdlib_statistics.stdev(values) if several else None,
    min=min(values),
    max=max(values),
  )


def _resampled_scores(
  runs: Sequence[np.ndarray], scores: Scores, num_resamples: int, seed: int
) -> np.ndarray:
  """Returns [R, num_runs, K]: every run's scores on the same draws."""
  rows = np.concatenate(runs, axis=1)
  num_examples = len(rows)
  # Draws are of positions: sorted, the order that was given cannot matter.
  rows = rows[np.lexsort(rows.T)]
  rng = np.random.default_rng(seed)
  sums = np.stack(
    [
      # One draw at a time: all at once would be num_resamples times the data.
      rows[rng.integers(num_examples, size=num_examples)].sum(axis=0)
      for _ in range(num_resamples)
    ]
  )
  by_run = np.split(sums, len(runs), axis=1)
  return np.stack([scores(s, num_examples) for s in by_run], axis=1)


def _quantiles(samples: np.ndarray, confidence: float) -> np.ndarray:
  tail = (1 - confidence) / 2
  return np.quantile(samples, [tail, 1 - tail], axis=0)
