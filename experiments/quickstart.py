"""The method of the GQA paper on real text, in minutes, on a CPU.

The multi-head checkpoint of results/pretraining, a small T5.1.1, is converted
to grouped-query and multi-query attention, uptrained for a moment, fine-tuned
on introduction -> description, decoded greedily and scored: what Figure 4 and
Table 1 of the paper do, in miniature. The report says what comes of their
claims.

  make quickstart                       # or, in an installed environment:
  python -m experiments.quickstart --gin.UPTRAIN_STEPS=600 \\
    --gin.WORK_DIR=runs/longer

All settings stand in gin_configs/quickstart.gin. Stages that are done are not
done again: what was interrupted goes on, and `make quickstart` after that only
rebuilds the report. Hardware: two CPU cores, six minutes.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import seqio

from experiments import baselines, quickstart_report
from gqa_flax import cli
from gqa_flax.checkpoints import native
from gqa_flax.checkpoints.formats import open_checkpoint
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.conversion.plan import CALIBRATED
from gqa_flax.data import batches
from gqa_flax.evaluation.evaluate import TaskScore, evaluate
from gqa_flax.model.network import Transformer
from gqa_flax.reporting import records
from gqa_flax.runtime import interrupts
from gqa_flax.training.validation import ValidationLoss


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way to convert the multi-head checkpoint."""

  name: str
  num_kv_heads: int
  method: str


@dataclasses.dataclass(frozen=True)
class TaskSettings:
  """A task, its lengths, and how many examples are evaluated at a time."""

  task: seqio.Task
  sequence_length: Mapping[str, int]
  batch_size: int

  def batches(self, split: str, num_examples: int | None = None):
    """Returns the batches of a split, for teacher-forced losses."""
    return batches.evaluation_batches(
      self.task,
      split,
      self.sequence_length,
      self.batch_size,
      num_examples=num_examples,
    )

  def score(self, split: str) -> TaskScore:
    """Returns the evaluator that decodes a split and scores it."""
    return TaskScore(self.task, split, self.sequence_length, self.batch_size)


def quickstart(
  *,
  checkpoint: str,
  uptrain: Callable,
  finetune: Callable,
  uptrain_task: TaskSettings,
  finetune_task: TaskSettings,
  uptrain_steps: int,
  finetune_steps: int,
  held_out_examples: int,
  calibration_tokens: int,
  work_dir: str,
  results_dir: str,
  seed: int,
):
  """Runs what is not done yet, then writes records, report and plot.

  Args:
    checkpoint: multi-head.
    uptrain: `training.loop.train` with data and schedule bound.
    finetune: the same for fine-tuning.
    uptrain_task: span corruption.
    finetune_task: summarization.
    uptrain_steps: steps of uptraining.
    finetune_steps: steps of fine-tuning.
    held_out_examples: of span corruption, for losses.
    calibration_tokens: that `subspace` is calibrated on.
    work_dir: checkpoints and the records of finished stages.
    results_dir: gets records.jsonl, report.md, ablation.png and
      predictions.jsonl.
    seed: of data order and random heads.
  """
  work = pathlib.Path(work_dir)
  # Models of one shape share what was compiled for the first of them.
  jax.config.update('jax_compilation_cache_dir', str(work / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  check_settings(
    work,
    {
      'CHECKPOINT': checkpoint,
      'UPTRAIN_STEPS': uptrain_steps,
      'FINETUNE_STEPS': finetune_steps,
      'RANDOM_SEED': seed,
      'held_out_examples': held_out_examples,
      'calibration_tokens': calibration_tokens,
      'UPTRAIN_LENGTHS': dict(uptrain_task.sequence_length),
      'FINETUNE_LENGTHS': dict(finetune_task.sequence_length),
    },
  )
  stages = Stages(work, seed)
  stored = open_checkpoint(checkpoint)
  # What trains for a moment learns more without.
  config = dataclasses.replace(stored.config, dropout_rate=0.0)
  mha = Variant('MHA', config.num_heads, 'mean')
  gqa = Variant('GQA-2, mean', 2, 'mean')
  mqa = Variant('MQA, mean', 1, 'mean')
  ablation = [
    mha,
    gqa,
    mqa,
    *(Variant(f'MQA, {m}', 1, m) for m in ('first', 'random', 'subspace')),
  ]
  uptrained_step = stored.step + uptrain_steps
  held_out = list(uptrain_task.batches('validation', held_out_examples))
  loss = ValidationLoss(held_out)
  text_loss = ValidationLoss(
    map(baselines.text_only, held_out), name='validation_text'
  )

  def baseline_scores():
    return {
      **baselines.unigram(uptrain_task.batches('train'), held_out),
      **baselines.trivial_summaries(finetune_task.task),
    }

  stages.run('baselines', baseline_scores)

  for variant in ablation:

    def conversion(variant=variant):
      folder = stages.folder(f'convert/{slug(variant)}')
      if not pathlib.Path(folder, 'conversion.json').exists():
        calibration: dict[str, Any] = {}
        if variant.method in CALIBRATED:
          calibration = {
            'calibration_task': uptrain_task.task.name,
            'calibration_batches': lambda: uptrain_task.batches('train'),
            'calibration_tokens': calibration_tokens,
          }
        convert_checkpoint(
          input=checkpoint,
          output=folder,
          num_kv_heads=variant.num_kv_heads,
          method=variant.method,
          seed=seed,
          optimizer_state='carry',
          **calibration,
        )
      return score(folder, [loss, text_loss] if variant == mha else [loss])

    stages.run(f'convert/{slug(variant)}', conversion, variant=variant)

  # As in the paper's Table 1, the multi-head model is fine-tuned as it is.
  for variant in (gqa, mqa):

    def uptraining(variant=variant):
      folder = stages.folder(f'uptrain/{slug(variant)}')
      uptrain(
        model_dir=folder,
        config=dataclasses.replace(config, num_kv_heads=variant.num_kv_heads),
        initial_checkpoint=stages.folder(f'convert/{slug(variant)}'),
        train_steps=uptrained_step,
        seed=seed,
      )
      return score(folder, [loss])

    stages.run(f'uptrain/{slug(variant)}', uptraining, variant=variant)

  for variant in (mha, gqa, mqa):

    def finetuning(variant=variant):
      folder = stages.folder(f'finetune/{slug(variant)}')
      before = 'convert' if variant == mha else 'uptrain'
      first_step = stored.step if variant == mha else uptrained_step
      finetune(
        model_dir=folder,
        config=dataclasses.replace(config, num_kv_heads=variant.num_kv_heads),
        initial_checkpoint=stages.folder(f'{before}/{slug(variant)}'),
        train_steps=first_step + finetune_steps,
        seed=seed,
      )
      scores = evaluate(
        checkpoint=folder,
        evaluators=[finetune_task.score('test')],
        output_dir=f'{folder}/test',
      )
      return {'step': first_step + finetune_steps, **scores}

    stages.run(f'finetune/{slug(variant)}', finetuning, variant=variant)

  predictions = {
    variant.name: records.read(
      work / 'finetune' / slug(variant) / 'test' / 'predictions.jsonl'
    )
    for variant in (mha, gqa, mqa)
  }
  quickstart_report.write(results_dir, stages.records, predictions)
  print(f'The report is {results_dir}/report.md')


def check_settings(work: pathlib.Path, settings: Mapping[str, Any]):
  """Keeps the settings of a work_dir, whose stages are run once.

  Raises:
    ValueError: if stages in it were run with other settings.
  """
  path = work / 'settings.json'
  if path.exists():
    found = json.loads(path.read_text())
    differing = [
      f'{name} is {found.get(name)!r} there and {value!r} here'
      for name, value in settings.items()
      if found.get(name) != value
    ]
    if differing:
      raise ValueError(
        f'{work} holds a quickstart with other settings '
        f'({"; ".join(differing)}), whose stages would be taken for done; give '
        'another WORK_DIR.'
      )
  work.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(json.dumps(settings, indent=2) + '\n')
  temporary.replace(path)


class Stages:
  """Runs each stage once, and keeps its record beside its checkpoints."""

  def __init__(self, work_dir: pathlib.Path, seed: int):
    self._work_dir = work_dir
    device = jax.devices()[0]
    self._provenance = {
      'seed': seed,
      **records.provenance(device.device_kind, jax.device_count()),
    }
    self.records: list[dict[str, Any]] = []

  def folder(self, name: str) -> str:
    """Returns where a stage keeps its checkpoints."""
    return str(self._work_dir / name)

  def run(self, name: str, stage: Callable, variant: Variant | None = None):
    """Runs a stage unless its record exists; keeps its numbers and time."""
    path = self._work_dir / name / 'record.json'
    if not path.exists():
      print(f'== {name}', file=sys.stderr, flush=True)
      start = time.monotonic()
      numbers = stage()
      record = {
        'stage': name,
        **(dataclasses.asdict(variant) if variant else {}),
        **numbers,
        'seconds': round(time.monotonic() - start, 1),
        'provenance': self._provenance,
      }
      path.parent.mkdir(parents=True, exist_ok=True)
      temporary = path.with_suffix('.tmp')
      temporary.write_text(json.dumps(record))
      temporary.replace(path)
    self.records.append(json.loads(path.read_text()))


def slug(variant: Variant) -> str:
  """Returns the variant's name as a folder's name."""
  return variant.name.lower().replace(', ', '_').replace('-', '_')


def score(checkpoint: str, evaluators: Iterable[Callable]) -> dict[str, float]:
  """Returns the numbers of some evaluators on a checkpoint."""
  restored = native.restore(checkpoint)
  model = Transformer(restored.config)
  numbers: dict[str, float] = {
    'step': restored.step,
    'parameters': sum(x.size for x in jax.tree.leaves(restored.params)),
  }
  for evaluator in evaluators:
    numbers.update(evaluator(model, restored.params))
  return numbers


def main() -> int:
  """Runs the quickstart as gin_configs/quickstart.gin and bindings say."""
  # Operations this small are not worth sharing between threads: two
  # data-parallel devices of one thread each take less time a step than one
  # device of two threads. What takes seconds to run is not worth compiling
  # thoroughly, either. XLA reads this when the first array is made.
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=2 '
    '--xla_cpu_multi_thread_eigen=false '
    '--xla_llvm_disable_expensive_passes=true',
  )
  argv = ['--gin_file=gin_configs/quickstart.gin', *sys.argv[1:]]
  return cli.run_function('experiments.quickstart', 'quickstart', argv)


if __name__ == '__main__':
  interrupts.install()
  sys.exit(main())
