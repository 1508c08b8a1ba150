"""What is compiled, planned and measured: the cells of both parts; no JAX."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.scale.jobs import JOBS
from gqa_flax.config import T5Config

REMAT = ('none', 'dots', 'full')
MICROBATCHES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Knobs:
  """One setting of the knobs.

  Attributes:
    remat: the policy of `T5Config.remat_policy`.
    microbatches: parts of the batch.
    dtype: of the activations.
    donated: whether the step gives its state's memory to the next.
  """

  remat: str
  microbatches: int
  dtype: str
  donated: bool = True

  def label(self) -> str:
    """In short, such as 'full, 2 parts'."""
    text = self.remat
    if self.microbatches > 1:
      text += f', {self.microbatches} parts'
    if not self.donated:
      text += ', not donated'
    return text

  def config(self, base: T5Config) -> T5Config:
    """Returns a model with these knobs."""
    return dataclasses.replace(base, remat_policy=self.remat, dtype=self.dtype)


def _grid(dtype: str) -> list[Knobs]:
  return [Knobs(r, n, dtype) for n in MICROBATCHES for r in REMAT]


# --- For TPUs: compiled, not run.

SLICE = 'v4:2x2x1'
# One chip of it: what is left is what the knobs do, without exchanges.
MESH = (1, 1, 1)
# All twelve layers of Base take the compiler 12 GB and ten minutes a program.
LAYERS = 3
NUM_KV_HEADS = {'base': 4, 'large': 8, 'xl': 8, 'xxl': 8}
# An eighth of the recipe's 2048.
ROWS = 256
LENGTHS = {'inputs': 512, 'targets': 114}
# The whole grid in bfloat16, and in float32 where it fits.
PROGRAMS = (
  *_grid('bfloat16'),
  Knobs('full', 1, 'float32'),
  Knobs('none', 4, 'float32'),
)


def tpu_model(**overrides: Any) -> T5Config:
  """Returns the model that is compiled, the knobs apart."""
  fields = {'num_encoder_layers': LAYERS, 'num_decoder_layers': LAYERS}
  return _gqa('base', **fields | overrides)


def _gqa(size: str, **overrides: Any) -> T5Config:
  fields = {'num_kv_heads': NUM_KV_HEADS[size], 'dropout_rate': 0.0}
  return T5Config.t5_1_1(size, **fields | overrides)


@dataclasses.dataclass(frozen=True)
class PlanCell:
  """A job of the paper whose memory `training.plan` estimates.

  Attributes:
    job: a key of `scale.jobs.JOBS`.
    size: of the model.
    remat: policy.
  """

  job: str
  size: str
  remat: str

  def arguments(self) -> dict[str, Any]:
    """Returns what `plan` takes."""
    job = JOBS[self.job]
    return {
      'config': _gqa(
        self.size,
        dtype='bfloat16',
        remat_policy=self.remat,
        dropout_rate=job['dropout_rate'],
      ),
      'batch_size': job['batch_size'],
      'sequence_length': {
        'inputs': job['source_length'],
        'targets': job['target_length'],
      },
      'num_devices': PLAN_CHIPS[self.size],
    }


# Of TPU v4, so that each chip has 128 rows of Base and 32 of XXL at the
# recipe's batch of 2048.
PLAN_CHIPS = {'base': 16, 'large': 32, 'xl': 64, 'xxl': 64}


def plans() -> Iterator[PlanCell]:
  """Yields the jobs and sizes whose default of REMAT_POLICY is wanted."""
  for job in JOBS:
    for size in PLAN_CHIPS:
      for remat in REMAT:
        yield PlanCell(job, size, remat)


# --- On this machine's CPU: run.

CPU_LAYERS = 2
CPU_ROWS = 16
CPU_LENGTHS = {'inputs': 128, 'targets': 32}
TIMINGS = (
  *_grid('float32'),
  Knobs('none', 1, 'bfloat16'),
  Knobs('full', 1, 'bfloat16'),
  Knobs('none', 1, 'float32', donated=False),
)


def cpu_model(**overrides: Any) -> T5Config:
  """Returns the model whose steps are timed: Small, two layers a stack."""
  fields = {
    'num_kv_heads': 2,
    'dropout_rate': 0.0,
    'num_encoder_layers': CPU_LAYERS,
    'num_decoder_layers': CPU_LAYERS,
  }
  return T5Config.t5_1_1('small', **fields | overrides)


# The compilation cache of `gqa-flax train`: without one, with an empty one,
# with one that an earlier run has filled.
CACHES = ('off', 'cold', 'warm')

# The environment of `gqa-flax train` with the C library's small pages, with
# huge ones for what it asks of the system (glibc 2.35 or later, on Linux), and
# with huge ones that it keeps, whatever is freed. That takes a single arena:
# the others ask the system for all that is larger than 64 MB.
PAGES = {
  'small': {},
  'huge': {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'},
  'kept': {
    'GLIBC_TUNABLES': ':'.join(
      (
        'glibc.malloc.hugetlb=1',
        'glibc.malloc.mmap_threshold=1000000000000',
        'glibc.malloc.trim_threshold=1000000000000',
        'glibc.malloc.arena_max=1',
      )
    )
  },
}
