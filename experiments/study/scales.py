"""Three sizes of one study: the paper's, a laptop's, and a public checkpoint's.

Jobs are made in the same way for all; gin files, steps and tasks differ, and
each script says which cells it has at which.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gqa_flax.config import T5Config
from gqa_flax.timing.kv_cache import attention_name


@dataclasses.dataclass(frozen=True)
class Task:
  """A task to fine-tune on.

  Attributes:
    gin_files: of its data; later ones win.
    steps: of fine-tuning.
    metric: the score that the paper reports.
    bindings: of the task's macros.
    also: names in `metrics.METRICS` that the predictions are scored by, too.
  """

  gin_files: tuple[str, ...]
  steps: int
  metric: str
  bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Model:
  """A multi-head model that is there before the study begins.

  Attributes:
    gin_file: its sizes.
    checkpoint: multi-head, pre-trained.
    num_heads: of queries.
  """

  gin_file: str
  checkpoint: str
  num_heads: int

  def attention(self, num_kv_heads: int) -> str:
    """Returns 'MHA', 'MQA' or such as 'GQA-2'."""
    heads = {'num_heads': self.num_heads, 'num_kv_heads': num_kv_heads}
    return attention_name(T5Config.t5_1_1('mini', **heads))


@dataclasses.dataclass(frozen=True)
class Scale:
  """What jobs are made of.

  Attributes:
    name: 'paper', 'laptop' or 'public'.
    where: what is found at it is found, such as "at the paper's scale".
    models: by size.
    pretraining_steps: of the checkpoints; alpha is a share of these.
    pretraining_files: gin files of the pre-training's data.
    tasks: to fine-tune on, by name.
    split: of a task, that its scores are of.
    seeds: of each cell.
    bindings: of macros, for pretraining (and uptraining), finetuning,
      evaluation and calibration.
    work_dir: of checkpoints and logs.
    evaluate_every: steps of uptraining.
    checkpoint_every: steps of uptraining.
    first_step: of uptraining, that of the checkpoints; None if it is
      `pretraining_steps`.
    optimizer_state: 'carry' if the checkpoints have Adafactor's, or 'reset'.
    scored: how often a fine-tuning is evaluated, of which the best counts.
    keeps_finetuned: whether fine-tuned checkpoints stay after they are scored.
  """

  name: str
  where: str
  models: Mapping[str, Model]
  pretraining_steps: int
  pretraining_files: tuple[str, ...]
  tasks: Mapping[str, Task]
  split: str
  seeds: tuple[int, ...]
  bindings: Mapping[str, Mapping[str, Any]]
  work_dir: str
  evaluate_every: int
  checkpoint_every: int
  first_step: int | None = None
  optimizer_state: str = 'carry'
  scored: int = 4
  keeps_finetuned: bool = True

  def step(self, alpha: float) -> int:
    """Returns the step that uptraining for a share ends at."""
    first = self.first_step or self.pretraining_steps
    return first + round(alpha * self.pretraining_steps)


def _of_the_paper(name: str, metric: str) -> Task:
  # "Until convergence" (section 3.1): so many steps at most, of which the best
  # by the dev score counts.
  return Task((f'gin_configs/tasks/{name}.gin',), 20_000, metric)


# What results/scale found to fit and to be fastest on 64 chips of v4.
_MESH = {
  'MESH_DATA': 4,
  'MESH_FSDP': 16,
  'MESH_MODEL': 1,
  'REMAT_POLICY': 'full',
}
_PUBLIC = 'gs://t5-data/pretrained_models/t5x'

PAPER = Scale(
  name='paper',
  where="at the paper's scale",
  models={
    'large': Model(
      'gin_configs/models/large.gin',
      f'{_PUBLIC}/t5_1_1_large/checkpoint_1000000',
      16,
    ),
    'xxl': Model(
      'gin_configs/models/xxl.gin',
      f'{_PUBLIC}/t5_1_1_xxl/checkpoint_1000000',
      64,
    ),
  },
  pretraining_steps=1_000_000,
  pretraining_files=('gin_configs/tasks/c4_span_corruption.gin',),
  tasks={
    'cnn_dailymail': _of_the_paper('cnn_dailymail', 'rouge1'),
    'arxiv': _of_the_paper('arxiv', 'rouge1'),
    'pubmed': _of_the_paper('pubmed', 'rouge1'),
    'media_sum': _of_the_paper('media_sum', 'rouge1'),
    'multi_news': _of_the_paper('multi_news', 'rouge1'),
    'wmt14_en_de': _of_the_paper('wmt14_en_de', 'bleu'),
    'trivia_qa': _of_the_paper('trivia_qa', 'f1'),
  },
  split='validation',
  seeds=(0,),
  bindings={'pretraining': _MESH, 'finetuning': _MESH},
  work_dir='runs/paper',
  evaluate_every=10_000,
  checkpoint_every=50_000,
)

_VOCABULARY = 'gin_configs/tasks/laptop_vocabulary.gin'
_LAPTOP = {'BATCH_SIZE': 16, 'COMPILATION_CACHE': 'runs/laptop/compiled'}

LAPTOP = Scale(
  name='laptop',
  where="at the laptop's scale",
  models={
    'laptop': Model(
      'gin_configs/models/laptop.gin', 'results/pretraining/checkpoint', 8
    ),
    'laptop_small': Model(
      'gin_configs/models/laptop_small.gin',
      'results/pretraining/checkpoint_small',
      4,
    ),
  },
  pretraining_steps=12_000,
  pretraining_files=('gin_configs/tasks/prose_span_corruption.gin',),
  tasks={
    'wikipedia_summarization': Task(
      ('gin_configs/tasks/wikipedia_summarization.gin', _VOCABULARY),
      600,
      'rouge1',
      {'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 16}"},
    ),
    'verse_translation': Task(
      ('gin_configs/tasks/verse_translation.gin',),
      600,
      'bleu',
    ),
  },
  split='test',
  seeds=(0, 1, 2),
  bindings={
    'pretraining': {
      'WARMUP_STEPS': 1000,
      'VALIDATION_EXAMPLES': 512,
      **_LAPTOP,
    },
    'finetuning': _LAPTOP,
  },
  work_dir='runs/laptop',
  evaluate_every=120,
  checkpoint_every=600,
)

_T5_VOCABULARY = 'gin_configs/tasks/public_vocabulary.gin'
_PUBLIC_RUN = {'COMPILATION_CACHE': 'runs/public/compiled'}

# flan-t5-small, which was pre-trained for a million steps and tuned for 198,000
# more; alpha is a share of the million.
PUBLIC_CHECKPOINT = Scale(
  name='public',
  where='on a public checkpoint',
  models={
    'public': Model(
      'gin_configs/models/public.gin', 'runs/public/checkpoint', 6
    )
  },
  pretraining_steps=1_000_000,
  first_step=1_198_000,
  pretraining_files=(
    'gin_configs/tasks/prose_span_corruption.gin',
    _T5_VOCABULARY,
  ),
  tasks={
    'wikipedia_summarization': Task(
      ('gin_configs/tasks/wikipedia_summarization.gin', _T5_VOCABULARY),
      120,
      'rouge1',
      {'TASK_FEATURE_LENGTHS': "{'inputs': 48, 'targets': 16}"},
    ),
    'verse_translation': Task(
      ('gin_configs/tasks/verse_translation.gin', _T5_VOCABULARY),
      120,
      'bleu',
      {'TASK_FEATURE_LENGTHS': "{'inputs': 48, 'targets': 48}"},
      also=('chrf',),
    ),
  },
  split='test',
  seeds=(0, 1, 2),
  bindings={
    'pretraining': {
      'BATCH_SIZE': 16,
      'VALIDATION_EXAMPLES': 256,
      **_PUBLIC_RUN,
    },
    'finetuning': {
      'BATCH_SIZE': 8,
      'VALIDATION_EXAMPLES': 64,
      'evaluate.TaskScore.num_examples': 64,
      **_PUBLIC_RUN,
    },
    'evaluation': {'BATCH_SIZE': 32, 'NUM_EXAMPLES': 256},
    'calibration': {'CALIBRATION_TOKENS': 16_384},
  },
  work_dir='runs/public',
  evaluate_every=100,
  checkpoint_every=100,
  optimizer_state='reset',
  scored=2,
  keeps_finetuned=False,
)

SCALES = {scale.name: scale for scale in (PAPER, LAPTOP, PUBLIC_CHECKPOINT)}
