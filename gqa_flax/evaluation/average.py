"""Several runs of one system: the mean of each score, and its spread.

The paper reports multi-query models on the tasks where fine-tuning is unstable
as the average of three runs (section 2.2 and appendix A). Reads the folders
that `evaluate.evaluate` wrote, and loads neither JAX nor TensorFlow.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.evaluation import bootstrap, predictions, table

# What must be the same for an average to make sense.
_SAME = ('task', 'split', 'metric', 'num_examples')


@dataclasses.dataclass(frozen=True)
class Average:
  """Several runs of one system.

  Attributes:
    runs: their folders.
    scores: every score that they have, by its name in scores.json.
  """

  runs: tuple[str, ...]
  scores: Mapping[str, bootstrap.Spread]

  def to_dict(self) -> dict[str, Any]:
    """Returns the same for JSON."""
    return dataclasses.asdict(self)

  def table(self) -> str:
    """Returns the same to be read, without a new line at the end."""
    names = [f'run {i + 1}' for i in range(len(self.runs))]
    rows = [['score', 'mean', 'std', 'min', 'max', *names]]
    for key, score in self.scores.items():
      numbers = [score.mean, score.std, score.min, score.max, *score.values]
      rows.append([key, *('-' if x is None else f'{x:.2f}' for x in numbers)])
    runs = [f'{name}: {run}' for name, run in zip(names, self.runs)]
    return '\n'.join([*runs, *table.align(rows)])


def average(runs: Sequence[str | os.PathLike]) -> Average:
  """Averages the scores of several runs.

  Args:
    runs: evaluation folders; of each scores.json is read.

  Raises:
    FileNotFoundError: a folder holds no evaluation.
    ValueError: there are no runs, one is given twice, or one has other scores,
      or is of something else, than the first, or no finite scores.
  """
  predictions.check_runs(runs)
  records = [predictions.read_scores(folder) for folder in runs]
  first, keys = records[0], predictions.score_keys(records[0])
  for folder, record in zip(runs, records, strict=True):
    remedy = 'average runs of the same evaluation'
    predictions.check_same((runs[0], first), (folder, record), _SAME, remedy)
    ours, theirs = (r.get('evaluation', {}) for r in (first, record))
    # Earlier versions did not write it.
    if 'examples' in ours.keys() & theirs.keys():
      predictions.check_same(
        (runs[0], ours), (folder, theirs), ['examples'], remedy
      )
    if other := sorted({*predictions.score_keys(record)} ^ {*keys}):
      raise ValueError(
        f'{folder} and {runs[0]} do not both have the score {other[0]!r}; '
        f'{remedy}.'
      )
  if not keys:
    raise ValueError(
      f'{runs[0]} has no score to average; give the OUTPUT_DIR of an '
      'evaluation.'
    )
  return Average(
    tuple(map(str, runs)),
    {key: bootstrap.spread([r[key] for r in records]) for key in keys},
  )
