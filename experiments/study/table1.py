"""The models of Table 1, and what the laptop's records say of each."""

import dataclasses

from experiments.study import results
from experiments.study.cells import ALPHA, Timing, Uptraining
from experiments.study.results import Found
from experiments.study.scales import LAPTOP, Scale
from experiments.study.spread import Seeds
from gqa_flax.timing.measure import Measurement

# By size and number of key/value heads, in the paper's order.
LAPTOP_MODELS = (
  ('laptop_small', 4),
  ('laptop', 8),
  ('laptop', 1),
  ('laptop', 2),
)


def method(scale: Scale, size: str, num_kv_heads: int) -> str:
  """Returns how a model of the table is made from its checkpoint."""
  multi_head = num_kv_heads == scale.models[size].num_heads
  return 'none' if multi_head else 'mean'


def starts(scale: Scale, size: str, num_kv_heads: int) -> list[Uptraining]:
  """Returns what a model's fine-tuning begins with, one a seed."""
  how = method(scale, size, num_kv_heads)
  if scale.name == 'laptop' and how != 'none':
    return results.uptrainings(scale, size, num_kv_heads, how)
  return [
    Uptraining(size, num_kv_heads, how, seed, alpha_of(how))
    for seed in scale.seeds
  ]


def alpha_of(method: str) -> float:
  """Returns the alpha of what is fine-tuned; a multi-head model is as it is."""
  return 0.0 if method == 'none' else ALPHA


@dataclasses.dataclass(frozen=True)
class Row:
  """What the laptop's records say of a model.

  Attributes:
    name: as in the paper, but for the sizes.
    time: of decoding; None if it is not measured yet.
    scores: by task, of all seeds; those that are there.
    losses: of the targets on the validation split when fine-tuning ends, nats
      a token; the same tasks.
  """

  name: str
  time: Measurement | None
  scores: dict[str, Seeds]
  losses: dict[str, Seeds]

  @property
  def average(self) -> Seeds | None:
    """The mean score of the tasks."""
    return _over_tasks(self.scores)

  @property
  def loss(self) -> Seeds | None:
    """The mean loss of the tasks."""
    return _over_tasks(self.losses)


def _over_tasks(numbers: dict[str, Seeds]) -> Seeds | None:
  """Returns the mean, seed by seed; None unless all tasks are there."""
  if len(numbers) < len(LAPTOP.tasks):
    return None
  by_seed = zip(*(seeds.values for seeds in numbers.values()))
  return Seeds.of([sum(values) / len(values) for values in by_seed])


def rows(found: Found) -> list[Row]:
  """Returns the laptop's table, in the paper's order."""
  return [_row(found, size, K) for size, K in LAPTOP_MODELS]


def _row(found: Found, size: str, num_kv_heads: int) -> Row:
  kind = LAPTOP.models[size].attention(num_kv_heads)
  timed = found.get(Timing(size, num_kv_heads).name)
  time = timed and Measurement.from_dict(timed['measurement']['measurement'])
  models = starts(LAPTOP, size, num_kv_heads)
  alpha = alpha_of(method(LAPTOP, size, num_kv_heads))
  tuned = {
    task: records
    for task in LAPTOP.tasks
    if (records := results.fine_tunings(found, models, task, alpha))
  }
  return Row(
    f'small {kind}' if size == 'laptop_small' else kind,
    time,
    {
      task: Seeds.of([record['scores'][_score(task)] for record in records])
      for task, records in tuned.items()
    },
    {
      task: Seeds.of([record['held_out'][-1][1] for record in records])
      for task, records in tuned.items()
    },
  )


def _score(task: str) -> str:
  return f'{LAPTOP.split}/{LAPTOP.tasks[task].metric}'
