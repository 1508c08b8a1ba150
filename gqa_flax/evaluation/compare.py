"""Two systems on the same examples: is one better, or was it luck?

Reads the folders that `evaluate.evaluate` wrote, and loads neither JAX nor
TensorFlow.
"""

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gqa_flax.evaluation import bootstrap, metrics, predictions, table
from gqa_flax.evaluation.predictions import Evaluation

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class System:
  """One side of a comparison.

  Attributes:
    runs: the folders of its runs.
    scores: their mean, in percent, by key such as 'rouge1'.
    intervals: the bootstrap's.
  """

  runs: tuple[str, ...]
  scores: Mapping[str, float]
  intervals: Mapping[str, Interval]


@dataclasses.dataclass(frozen=True)
class Difference:
  """B - A in one score.

  Attributes:
    value: in percent.
    interval: by resampling the same examples for both.
    p_value: see `bootstrap.Difference`.
    num_better_a: examples on which A scores more, each side being averaged
      over its runs.
    num_better_b: examples on which B scores more.
    num_tied: the other examples.
  """

  value: float
  interval: Interval
  p_value: float
  num_better_a: int
  num_better_b: int
  num_tied: int


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two systems on the same examples.

  Attributes:
    a: one system.
    b: the other.
    differences: by key.
    metric: a key of `metrics.METRICS`.
    num_examples: how many both were scored on.
    confidence: of the intervals.
    num_resamples: of the bootstrap.
    seed: of the bootstrap.
  """

  a: System
  b: System
  differences: Mapping[str, Difference]
  metric: str
  num_examples: int
  confidence: float
  num_resamples: int
  seed: int

  def to_dict(self) -> dict[str, Any]:
    """Returns the same for JSON."""
    return dataclasses.asdict(self)

  def table(self) -> str:
    """Returns the same to be read, without a new line at the end."""
    share = f'{100 * self.confidence:g}%'
    header = ['score', 'A', share, 'B', share, 'B - A', share, 'p']
    rows = [[*header, 'A better', 'B better', 'tied']]
    for key, difference in self.differences.items():
      row = [key]
      for system in (self.a, self.b):
        row += [f'{system.scores[key]:.2f}', _span(system.intervals[key])]
      row += [f'{difference.value:+.2f}', _span(difference.interval, '+')]
      row += [f'{difference.p_value:.3f}', f'{difference.num_better_a:,}']
      row += [f'{difference.num_better_b:,}', f'{difference.num_tied:,}']
      rows.append(row)
    return '\n'.join(
      [
        f'A: {", ".join(self.a.runs)}',
        f'B: {", ".join(self.b.runs)}',
        *table.align(rows),
        f'{self.metric} on {self.num_examples:,} examples; intervals and p by '
        f'{self.num_resamples:,} bootstrap resamples, seed {self.seed}',
      ]
    )


def compare(
  a: Sequence[str | os.PathLike],
  b: Sequence[str | os.PathLike],
  *,
  confidence: float = bootstrap.CONFIDENCE,
  num_resamples: int = bootstrap.NUM_RESAMPLES,
  seed: int = bootstrap.SEED,
) -> Comparison:
  """Compares two systems on the same examples.

  Args:
    a: the evaluation folders of one or more runs of A.
    b: those of B.
    confidence: of the intervals.
    num_resamples: of the bootstrap.
    seed: of the bootstrap.

  Raises:
    FileNotFoundError: a folder holds no evaluation.
    ValueError: an argument is out of range, a side has no runs or one of them
      twice, or a run has no scores by example, or is of another metric, task,
      split or other examples than the first.
  """
  settings: dict[str, Any] = dict(
    confidence=confidence, num_resamples=num_resamples, seed=seed
  )
  if not (0 < confidence < 1 and num_resamples > 0 and seed >= 0):
    raise ValueError(
      f'confidence is {confidence}, num_resamples {num_resamples} and seed '
      f'{seed}: give a confidence between 0 and 1, such as 0.95, at least one '
      'resample, and a seed of at least 0.'
    )
  predictions.check_runs(a)
  predictions.check_runs(b)
  runs = _read([*a, *b])
  a_runs, b_runs, first = runs[: len(a)], runs[len(a) :], runs[0]
  metric = metrics.get(first.record['metric'])
  return Comparison(
    a=_system(a_runs, metric, settings),
    b=_system(b_runs, metric, settings),
    differences=_differences(a_runs, b_runs, metric, settings),
    metric=first.record['metric'],
    num_examples=len(first.predictions),
    **settings,
  )


def _system(
  runs: Sequence[Evaluation],
  metric: metrics.Metric,
  settings: Mapping[str, Any],
) -> System:
  rows = [_statistics(run) for run in runs]
  ends = bootstrap.interval(rows, metric.scores, **settings)
  return System(
    tuple(run.folder for run in runs),
    _mean_scores(runs, metric),
    {key: tuple(ends[:, k].tolist()) for k, key in enumerate(metric.keys)},
  )


def _differences(
  a: Sequence[Evaluation],
  b: Sequence[Evaluation],
  metric: metrics.Metric,
  settings: Mapping[str, Any],
) -> dict[str, Difference]:
  paired = bootstrap.paired_difference(
    [_statistics(run) for run in a],
    [_statistics(run) for run in b],
    metric.scores,
    **settings,
  )
  a_scores, b_scores = _mean_scores(a, metric), _mean_scores(b, metric)
  differences = {}
  for k, key in enumerate(metric.keys):
    signs = np.sign(_by_example(b, key) - _by_example(a, key))
    differences[key] = Difference(
      value=b_scores[key] - a_scores[key],
      interval=tuple(paired.interval[:, k].tolist()),
      p_value=float(paired.p_value[k]),
      num_better_a=int((signs < 0).sum()),
      num_better_b=int((signs > 0).sum()),
      num_tied=int((signs == 0).sum()),
    )
  return differences


def _statistics(run: Evaluation) -> np.ndarray:
  return np.array([p['statistics'] for p in run.predictions], np.float64)


def _mean_scores(
  runs: Sequence[Evaluation], metric: metrics.Metric
) -> dict[str, float]:
  scores = [metric.corpus_scores(_statistics(run)) for run in runs]
  return {key: statistics.fmean(s[key] for s in scores) for key in metric.keys}


def _by_example(runs: Sequence[Evaluation], key: str) -> np.ndarray:
  """Returns every example's score, averaged over the runs."""
  # fmean: what ties must not differ by the order of the runs.
  return np.array(
    [
      statistics.fmean(p['scores'][key] for p in same_example)
      for same_example in zip(*(run.predictions for run in runs), strict=True)
    ]
  )


def _read(folders: Sequence[str | os.PathLike]) -> list[Evaluation]:
  """Reads runs, and sees that they are of the same metric and examples."""
  runs = []
  for folder in folders:
    run = predictions.read(folder)
    if run.record.get('metric') is None:
      raise ValueError(
        f'{folder} has no scores of single examples to compare; only tasks '
        f'with one of the metrics {", ".join(metrics.METRICS)} have them.'
      )
    _check_examples(run)
    if runs:
      _check_same(runs[0], run)
      for prediction in run.predictions:
        del prediction['inputs']  # whole documents, as in the first run
    runs.append(run)
  return runs


def _check_examples(run: Evaluation):
  """Raises ValueError unless every example has its texts and numbers."""
  try:
    metric = metrics.get(run.record['metric'])
  except ValueError as error:
    raise ValueError(f'In {run.folder}/scores.json: {error}') from error
  for i, example in enumerate(run.predictions):
    if not _is_whole(example, metric):
      raise ValueError(
        f'Example {i} in {run.folder} lacks what {run.record["metric"]} is '
        'compared by: inputs, target, finite scores and statistics; evaluate '
        'the checkpoint again, into another OUTPUT_DIR.'
      )


def _is_whole(example: Mapping[str, Any], metric: metrics.Metric) -> bool:
  scores, row = example.get('scores'), example.get('statistics')
  return (
    {'inputs', 'target'} <= example.keys()
    and isinstance(scores, dict)
    and all(predictions.is_finite(scores.get(key)) for key in metric.keys)
    and isinstance(row, list)
    and len(row) == metric.width
    and all(map(predictions.is_finite, row))
  )


def _check_same(first: Evaluation, run: Evaluation):
  """Raises ValueError unless two runs are of the same metric and examples."""
  ours, theirs = first.record['metric'], run.record['metric']
  if ours != theirs:
    raise ValueError(
      f'{first.folder} was scored with {ours}, but {run.folder} with {theirs}; '
      'compare runs of the same metric.'
    )
  predictions.check_same(
    (first.folder, first.record),
    (run.folder, run.record),
    ('task', 'split'),
    'compare runs of one task and split',
  )
  for i, (x, y) in enumerate(zip(first.predictions, run.predictions)):
    for name in ('inputs', 'target'):
      if x[name] != y[name]:
        one, other = _around_difference(repr(x[name]), repr(y[name]))
        raise ValueError(
          f'{first.folder} and {run.folder} are not of the same examples: the '
          f'{name} of example {i} has {one} in the one where it has {other} in '
          'the other; evaluate both on the same split of the same task.'
        )
  if len(first.predictions) != len(run.predictions):
    raise ValueError(
      f'{first.folder} has {len(first.predictions)} examples, but {run.folder} '
      f'has {len(run.predictions)}; evaluate both with one NUM_EXAMPLES.'
    )


def _around_difference(x: str, y: str) -> tuple[str, str]:
  differing = (i for i, (p, q) in enumerate(zip(x, y)) if p != q)
  start = max(0, next(differing, min(len(x), len(y))) - 20)
  return x[start:][:40], y[start:][:40]


def _span(interval: Interval, sign: str = '') -> str:
  low, high = interval
  return f'[{low:{sign}.2f}, {high:{sign}.2f}]'
