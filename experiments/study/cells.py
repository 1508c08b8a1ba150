"""The cells of the grid: what is trained, by which jobs, and what comes of it.

A cell has a name, the jobs that make it, and a function that reads its numbers
from where the jobs wrote them. Jobs that several cells need are done once.
"""

import dataclasses
import pathlib
from typing import Any, Protocol

from etils import epath

from experiments.study.jobs import Job
from experiments.study.scales import Scale
from gqa_flax.checkpoints import folders
from gqa_flax.evaluation import metrics, predictions
from gqa_flax.reporting import records
from gqa_flax.training import progress

# Where uptraining ends in the paper's Table 1 and Figure 4 (section 3.1).
ALPHA = 0.05
LOSS = 'validation/cross_entropy'
_UPTRAIN = 'gin_configs/runs/uptrain.gin'
_PRETRAIN = 'gin_configs/runs/pretrain.gin'
_CALIBRATED = ('aligned', 'subspace')


class Cell(Protocol):
  """A part of the grid."""

  kind: str

  @property
  def name(self) -> str:
    """Tells it from all others of its scale."""

  def jobs(self, scale: Scale) -> list[Job]:
    """Returns what makes it, in order."""

  def numbers(self, scale: Scale) -> dict[str, Any]:
    """Returns what it found, when all its jobs are done."""


@dataclasses.dataclass(frozen=True)
class Uptraining:
  """A multi-head checkpoint, converted and uptrained.

  Adafactor's statistics go along where the scale's checkpoints have them: with
  none a multi-head model that just trains on is set back for longer than
  uptraining lasts.

  Attributes:
    size: of the scale's models.
    num_kv_heads: to which it is converted.
    method: of conversion; 'none' leaves it multi-head.
    seed: of random heads and of the data's order.
    alpha: the share of pre-training's steps.
  """

  size: str
  num_kv_heads: int
  method: str
  seed: int = 0
  alpha: float = ALPHA

  kind = 'uptraining'

  @property
  def name(self) -> str:
    return (
      f'{self.kind}/{self.size}/{self.num_kv_heads}/{self.method}/'
      f'{self.alpha:g}/{self.seed}'
    )

  def folder(self, scale: Scale) -> str:
    """Returns the run's folder."""
    return f'{scale.work_dir}/{self.name}'

  def converted(self, scale: Scale) -> str:
    """Returns the folder of the converted checkpoint."""
    return (
      f'{scale.work_dir}/converted/{self.size}/{self.num_kv_heads}/'
      f'{self.method}/{self._conversion_seed}'
    )

  def checkpoint(self, scale: Scale, alpha: float) -> str:
    """Returns the checkpoint after a share of pre-training's steps."""
    if alpha == 0:
      return self.converted(scale)
    return f'{self.folder(scale)}/checkpoint_{scale.step(alpha)}'

  @property
  def _conversion_seed(self) -> int:
    # What draws nothing is converted once.
    return self.seed if self.method == 'random' else 0

  def jobs(self, scale: Scale) -> list[Job]:
    """Returns the conversion and, for an alpha above 0, the training."""
    model = scale.models[self.size]
    converted = self.converted(scale)
    calibration: dict[str, Any] = {}
    if self.method in _CALIBRATED:
      name = pathlib.Path(scale.pretraining_files[0]).stem
      calibration = {
        'CALIBRATION_TASK': name,
        'STATISTICS': f'{scale.work_dir}/statistics_{self.size}.npz',
        **scale.bindings.get('calibration', {}),
      }
    method = 'mean' if self.method == 'none' else self.method
    convert = Job(
      'convert',
      (
        'gin_configs/runs/convert.gin',
        *(scale.pretraining_files if calibration else ()),
      ),
      {
        'INPUT': model.checkpoint,
        'OUTPUT': converted,
        'NUM_KV_HEADS': self.num_kv_heads,
        'CONVERSION_METHOD': method,
        'OPTIMIZER_STATE': scale.optimizer_state,
        'RANDOM_SEED': self._conversion_seed,
        **calibration,
      },
      done=f'{converted}/conversion.json',
    )
    if self.alpha == 0:
      return [convert]
    last = scale.step(self.alpha)
    train = Job(
      'train',
      (model.gin_file, *scale.pretraining_files, _UPTRAIN),
      {
        'NUM_KV_HEADS': self.num_kv_heads,
        'INITIAL_CHECKPOINT_PATH': converted,
        'OPTIMIZER_STATE': scale.optimizer_state,
        'MODEL_DIR': self.folder(scale),
        'TRAIN_STEPS': last,
        'RANDOM_SEED': self.seed,
        'RUN_EVAL_BEFORE_TRAINING': True,
        'EVALUATE_EVERY': scale.evaluate_every,
        'CHECKPOINT_EVERY': scale.checkpoint_every,
        'KEEP_CHECKPOINTS': None,
        **scale.bindings['pretraining'],
      },
      done=f'{self.folder(scale)}/train.done',
      steps=last - scale.step(0),
    )
    return [convert, train]

  def numbers(self, scale: Scale) -> dict[str, Any]:
    """Returns the held-out loss, nats a token, by alpha."""
    first, steps = scale.step(0), scale.pretraining_steps
    logged = progress.records(self.folder(scale))
    return {
      'losses': [
        [round((r['step'] - first) / steps, 6), r[LOSS]]
        for r in logged
        if LOSS in r
      ]
    }


@dataclasses.dataclass(frozen=True)
class FineTuning:
  """An uptrained model, fine-tuned on a task and scored on the scale's split.

  Attributes:
    start: whose checkpoint it begins with.
    task: of the scale's.
    alpha: of that checkpoint.
  """

  start: Uptraining
  task: str
  alpha: float = ALPHA

  kind = 'finetuning'

  @property
  def name(self) -> str:
    return f'{self.kind}/{self.task}/{self.alpha:g}/{self.start.name}'

  def jobs(self, scale: Scale) -> list[Job]:
    model, task = scale.models[self.start.size], scale.tasks[self.task]
    folder = f'{scale.work_dir}/{self.name}'
    metric = f'validation/{task.metric}'
    last = scale.step(self.alpha) + task.steps
    every = task.steps // scale.scored
    finetune = Job(
      'train',
      (model.gin_file, *task.gin_files, 'gin_configs/runs/finetune.gin'),
      {
        'NUM_KV_HEADS': self.start.num_kv_heads,
        'INITIAL_CHECKPOINT_PATH': self.start.checkpoint(scale, self.alpha),
        'MODEL_DIR': folder,
        'TRAIN_STEPS': last,
        'RANDOM_SEED': self.start.seed,
        'EVALUATE_EVERY': every,
        'CHECKPOINT_EVERY': every,
        **task.bindings,
        **scale.bindings['finetuning'],
      },
      done=f'{folder}/train.done',
      steps=task.steps,
    )
    score = Job(
      'evaluate',
      (*task.gin_files, 'gin_configs/runs/evaluate.gin'),
      {
        'CHECKPOINT': folder,
        'BEST_BY': metric,
        'SPLIT': scale.split,
        'OUTPUT_DIR': f'{folder}/{scale.split}',
        **task.bindings,
        **scale.bindings.get('evaluation', {}),
      },
      done=f'{folder}/{scale.split}/scores.json',
    )
    return [*self.start.jobs(scale), finetune, score]

  def numbers(self, scale: Scale) -> dict[str, Any]:
    """Returns the scores with their intervals, and the losses by step."""
    folder = pathlib.Path(scale.work_dir, self.name)
    scores = predictions.read_scores(folder / scale.split)
    for name in scale.tasks[self.task].also:
      examples = predictions.read(folder / scale.split).predictions
      targets, texts = (
        [example[part] for example in examples]
        for part in ('target', 'prediction')
      )
      also = metrics.compute(name, targets, texts)
      scores |= {f'{scale.split}/{key}': x for key, x in also.items()}
    return {'scores': scores, **_losses_by_step(folder)}

  def discard(self, scale: Scale):
    """Removes its checkpoints, which no other cell needs."""
    for path in folders.steps_in(epath.Path(scale.work_dir, self.name)):
      path.rmtree()


@dataclasses.dataclass(frozen=True)
class FromScratch:
  """A model pre-trained with few key/value heads from the first step on.

  Attributes:
    size: of the scale's models.
    num_kv_heads: from the beginning.
    steps: of pre-training.
    seed: of initialisation and data.
  """

  size: str
  num_kv_heads: int
  steps: int
  seed: int = 0

  kind = 'from_scratch'

  @property
  def name(self) -> str:
    return (
      f'{self.kind}/{self.size}/{self.num_kv_heads}/{self.steps}/{self.seed}'
    )

  def jobs(self, scale: Scale) -> list[Job]:
    folder = f'{scale.work_dir}/{self.name}'
    return [
      Job(
        'train',
        (
          scale.models[self.size].gin_file,
          *scale.pretraining_files,
          _PRETRAIN,
        ),
        {
          'NUM_KV_HEADS': self.num_kv_heads,
          'MODEL_DIR': folder,
          'TRAIN_STEPS': self.steps,
          'RANDOM_SEED': self.seed,
          **scale.bindings['pretraining'],
        },
        done=f'{folder}/train.done',
        steps=self.steps,
      )
    ]

  def numbers(self, scale: Scale) -> dict[str, Any]:
    """Returns the losses by step."""
    return _losses_by_step(pathlib.Path(scale.work_dir, self.name))


def _losses_by_step(folder: pathlib.Path) -> dict[str, Any]:
  """Returns a run's training loss, and its loss on the validation split."""
  logged = progress.records(folder)
  return {
    'losses': [[r['step'], r['loss']] for r in logged if 'loss' in r],
    'held_out': [[r['step'], r[LOSS]] for r in logged if LOSS in r],
  }


@dataclasses.dataclass(frozen=True)
class Timing:
  """The time to decode, measured on the devices that are here.

  Attributes:
    size: of the scale's models.
    num_kv_heads: of the decoder.
    lengths: of inputs and targets.
    batch_size: of all devices.
  """

  size: str
  num_kv_heads: int
  lengths: tuple[int, int] = (512, 128)
  batch_size: int = 32

  kind = 'timing'

  @property
  def name(self) -> str:
    source, target = self.lengths
    return (
      f'{self.kind}/{self.size}/{self.num_kv_heads}/{source}/{target}/'
      f'{self.batch_size}'
    )

  def jobs(self, scale: Scale) -> list[Job]:
    output = f'{scale.work_dir}/{self.name}.jsonl'
    source, target = self.lengths
    return [
      Job(
        'time',
        (scale.models[self.size].gin_file, 'gin_configs/runs/time.gin'),
        {
          'NUM_KV_HEADS': self.num_kv_heads,
          'TASK_FEATURE_LENGTHS': str({'inputs': source, 'targets': target}),
          'BATCH_SIZE': self.batch_size,
          'PARAM_DTYPE': 'float32',
          'MESH_DATA': 1,
          'REPEATS': 7,
        },
        done=output,
        options=(f'--output={output}',),
      )
    ]

  def numbers(self, scale: Scale) -> dict[str, Any]:
    """Returns what `gqa-flax time` measured."""
    path = pathlib.Path(scale.work_dir, f'{self.name}.jsonl')
    return {'measurement': records.read(path)[-1]}
