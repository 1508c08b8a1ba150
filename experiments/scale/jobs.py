"""The paper's two jobs, the slices, and which layouts are tried on each."""

import dataclasses
from collections.abc import Iterator

from gqa_flax.config import T5Config
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.programs import TrainStep

_COMMON = {'num_kv_heads': 8, 'dtype': 'bfloat16'}

# Ainslie et al. 2023, section 3.1: uptraining as in pre-training, on packed
# rows without dropout; fine-tuning on long inputs with dropout 0.1.
JOBS = {
  'uptraining': {
    'batch_size': 2048,
    'source_length': 512,
    'target_length': 114,
    'packed': True,
    'dropout_rate': 0.0,
  },
  'fine-tuning': {
    'batch_size': 128,
    'source_length': 2048,
    'target_length': 512,
    'packed': False,
    'dropout_rate': 0.1,
  },
}

SLICES = (
  'v4:4x4x4',
  'v4:4x8x8',
  'v4:8x8x8',
  'v4:4x4x8',
  'v5p:4x4x4',
  'v5e:16x16',
)
# Tried in this order, until a step fits.
MICROBATCHES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One program to compile.

  Attributes:
    job: a key of JOBS.
    slice: such as 'v4:4x4x4'.
    mesh: sizes of data, fsdp and model.
    remat: the policy of `T5Config.remat_policy`.
    microbatches: parts of the batch.
  """

  job: str
  slice: str
  mesh: tuple[int, int, int]
  remat: str
  microbatches: int = 1

  def step(self, size: str = 'xxl', **overrides) -> TrainStep:
    """Returns what is compiled.

    Args:
      size: of `T5Config.t5_1_1`.
      **overrides: of its fields.
    """
    job = dict(JOBS[self.job])
    config = T5Config.t5_1_1(
      size,
      **{
        **_COMMON,
        'dropout_rate': job.pop('dropout_rate'),
        'remat_policy': self.remat,
        **overrides,
      },
    )
    return TrainStep(config, microbatches=self.microbatches, **job)


def candidates(job: str, where: str) -> list[Cell]:
  """Returns the layouts to try for a job on a slice, likeliest first.

  Every row of a batch lies on one chip or on the chips of one `model` part, so
  data x fsdp cannot exceed the batch: 128 rows on 512 chips need model 4.
  Parameters are divided among 16 chips: with 64 along `fsdp`, which is then all
  three dimensions of a slice, the compiler gathers a kernel by an all-reduce of
  zeros and the parts, which sends twice as much.
  """
  chips = Slice.parse(where).num_chips
  model = max(1, chips // JOBS[job]['batch_size'])
  mesh = (chips // model // 16, 16, model)
  return [
    Cell(job, where, mesh, 'full', microbatches=parts)
    for parts in MICROBATCHES
    if JOBS[job]['batch_size'] // parts % (chips // model) == 0
  ]


def cells(slices=SLICES, jobs=tuple(JOBS)) -> Iterator[list[Cell]]:
  """Yields the candidates for each job and slice, those of interest first.

  Of one list, only the first that fits is needed.
  """
  for where in slices:
    for job in jobs:
      yield candidates(job, where)
