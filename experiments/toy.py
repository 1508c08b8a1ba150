"""The method of the GQA paper on real text, in minutes, on a CPU.

The multi-head checkpoint of results/pretraining, a small T5.1.1, is converted
to grouped-query and multi-query attention, uptrained for a moment, fine-tuned
on introduction -> description, decoded greedily and scored: what Figure 4 and
Table 1 of the paper do, in miniature. The report says what comes of their
claims.

  python -m experiments.toy
  python -m experiments.toy --gin.UPTRAIN_STEPS=600 --gin.WORK_DIR=runs/longer

All settings stand in gin_configs/toy.gin. Stages that are done are not done
again: an interrupted run continues, and another one after that only rebuilds
the report. Hardware: two CPU cores, six minutes.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import seqio

from experiments import baselines, toy_report
from experiments.stages import Stages, check_settings, share_compiled
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


def toy(
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
  share_compiled(work)
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
  stages = Stages(work, seed, lambda name: print(f'== {name}', file=sys.stderr))
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

    stages.run(f'convert/{slug(variant)}', conversion, about(variant))

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

    stages.run(f'uptrain/{slug(variant)}', uptraining, about(variant))

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

    stages.run(f'finetune/{slug(variant)}', finetuning, about(variant))

  predictions = {
    variant.name: records.read(
      work / 'finetune' / slug(variant) / 'test' / 'predictions.jsonl'
    )
    for variant in (mha, gqa, mqa)
  }
  toy_report.write(results_dir, stages.records, predictions)
  print(f'The report is {results_dir}/report.md')


def about(variant: Variant) -> dict[str, Any]:
  """Returns what a record says of a variant."""
  return dataclasses.asdict(variant)


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
  """Runs the toy as gin_configs/toy.gin and bindings say."""
  # Operations this small are not worth sharing between threads: two
  # data-parallel devices of one thread each take less time a step than one
  # device of two threads. Nor is what runs for seconds worth compiling
  # thoroughly. XLA reads this when the first array is made.
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=2 '
    '--xla_cpu_multi_thread_eigen=false '
    '--xla_llvm_disable_expensive_passes=true',
  )
  argv = ['--gin_file=gin_configs/toy.gin', *sys.argv[1:]]
  return cli.run_function('experiments.toy', 'toy', argv)


if __name__ == '__main__':
  interrupts.install()
  sys.exit(main())
