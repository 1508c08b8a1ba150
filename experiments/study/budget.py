"""What the paper's jobs would take: chip-hours, from compiled steps.

results/scale holds the compiler's estimate of the time of two steps of XXL with
GQA-8 on 64 TPU v4, uptraining and fine-tuning. Another model's or another
length's step is taken to use the chips equally well: its FLOPs decide.
"""

import dataclasses
import functools
import pathlib

from experiments import paper_values
from experiments.scale import summary
from experiments.study.cells import ALPHA
from experiments.study.jobs import Job
from gqa_flax.cli import gin_config, gin_text
from gqa_flax.config import T5Config
from gqa_flax.reporting import records
from gqa_flax.timing import flops
from gqa_flax.timing.chips import Slice

SCALE_RECORDS = pathlib.Path('results/scale/records.jsonl')
SLICE = 'v4:4x4x4'
# bfloat16 matrix FLOP/s of a TPU v3 chip (cloud.google.com/tpu/docs/v3), on
# which the paper gives its only figure, for uptraining XXL by 5%.
V3_PEAK_FLOPS = 123e12


@dataclasses.dataclass(frozen=True)
class Budget:
  """What a training job takes on `SLICE`.

  Attributes:
    steps: of training.
    mesh: data, fsdp and model.
    step_seconds: exchanges counted after computation.
    flops: of the model, of all steps.
    is_compiled: whether this very step was compiled; else its FLOPs are taken
      at that one's utilisation.
  """

  steps: int
  mesh: tuple[int, int, int]
  step_seconds: float
  flops: float
  is_compiled: bool

  @property
  def chip_hours(self) -> float:
    """Of TPU v4."""
    chips = Slice.parse(SLICE).num_chips
    return self.steps * self.step_seconds * chips / 3600

  def __str__(self) -> str:
    how = (
      'by the compiled step'
      if self.is_compiled
      else "by its FLOPs at the compiled step's utilisation"
    )
    return (
      f'{self.steps:,} steps of {self.step_seconds:.3g} s on {SLICE}, mesh '
      f'{" x ".join(map(str, self.mesh))}: {self.chip_hours:,.0f} chip-hours '
      f'of v4, {how}'
    )


def budget(job: Job) -> Budget | None:
  """Returns what a job at the paper's scale takes; None if it trains nothing.

  Args:
    job: its gin files name a size of T5.1.1, lengths and a batch.
  """
  if not job.steps:
    return None
  return _step(job, _compiled(job.gin_files[-1]))


@functools.cache
def _compiled(run_file: str) -> summary.Program:
  # Pre-training's step is uptraining's.
  finetunes = pathlib.Path(run_file).stem == 'finetune'
  kind = 'fine-tuning' if finetunes else 'uptraining'
  programs = summary.programs(records.read(SCALE_RECORDS))
  (program,) = [
    p for p in summary.best(programs) if p.job == kind and p.cost.slice == SLICE
  ]
  return program


def _step(job: Job, compiled: summary.Program) -> Budget:
  lengths = _macro(job, 'TASK_FEATURE_LENGTHS')
  size = pathlib.Path(job.gin_files[0]).stem
  config = T5Config.t5_1_1(size, num_kv_heads=job.bindings['NUM_KV_HEADS'])
  step_flops = flops.training_flops(
    config, _macro(job, 'BATCH_SIZE'), lengths['inputs'], lengths['targets']
  )
  ratio = step_flops / compiled.model_flops
  return Budget(
    steps=job.steps,
    mesh=tuple(compiled.cost.mesh),
    step_seconds=compiled.seconds(overlap=False) * ratio,
    flops=step_flops * job.steps,
    is_compiled=ratio == 1,
  )


def _macro(job: Job, name: str):
  """Returns a macro's value, as the job's files and bindings have it."""
  bindings = [f'{k}={x}' for k, x in job.bindings.items()]
  text = gin_text.read(job.gin_files, bindings, gin_config.search_paths())
  found = text.value(name)
  if found is None:
    raise ValueError(f'{name} is set by none of {job.gin_files}.')
  return found


def v3_chip_days(b: Budget) -> float:
  """Returns the time on TPU v3 at the utilisation estimated for v4."""
  v4 = Slice.parse(SLICE).chip.peak_flops
  return b.chip_hours / 24 * v4 / V3_PEAK_FLOPS


def paper_chip_days() -> float:
  """Returns the paper's figure, of TPU v3, for uptraining XXL by ALPHA."""
  paper = paper_values.read('uptraining_xxl_tpu_v3_chip_days')
  return paper['values'][f'{ALPHA:g}']


def paper_utilisation(b: Budget, steps: int) -> float:
  """Returns what of v3's peak a job needs in the paper's chip-days.

  Args:
    b: of a job.
    steps: that the paper takes in them.
  """
  flops = b.flops / b.steps * steps
  return flops / (paper_chip_days() * 86400 * V3_PEAK_FLOPS)
