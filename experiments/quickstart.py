"""The method of the GQA paper on real text, in minutes, on a CPU.

A small multi-head T5.1.1 is pre-trained on Wikipedia introductions, converted
to grouped-query and multi-query attention, uptrained for 5% of its steps,
fine-tuned on introduction -> description, decoded greedily and scored. The
paper's claims in miniature: mean pooling beats the first head beats random
heads (Figure 4), and the converted models come near multi-head quality
(Table 1).

  make quickstart                       # or, in an installed environment:
  python -m experiments.quickstart --gin.PRETRAIN_STEPS=4000

All settings stand in gin_configs/quickstart.gin. Stages that are done are not
done again: what was interrupted goes on, and `make quickstart` after that only
rebuilds the report. Hardware: two CPU cores.
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
from gqa_flax.config import T5Config
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.data import batches
from gqa_flax.evaluation.evaluate import TaskScore, evaluate
from gqa_flax.model.network import Transformer
from gqa_flax.reporting import records
from gqa_flax.training import progress
from gqa_flax.training.validation import ValidationLoss

BEST = 'validation/rouge1'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way to convert the multi-head checkpoint."""

  name: str
  num_kv_heads: int
  method: str | None


@dataclasses.dataclass(frozen=True)
class TaskSettings:
  """A task, its lengths, and how many examples are evaluated at a time."""

  task: seqio.Task
  sequence_length: Mapping[str, int]
  batch_size: int

  def batches(self, split: str):
    """Returns the batches of a split, for teacher-forced losses."""
    return list(
      batches.evaluation_batches(
        self.task, split, self.sequence_length, self.batch_size
      )
    )

  def score(self, split: str) -> TaskScore:
    """Returns the evaluator that decodes a split and scores it."""
    return TaskScore(self.task, split, self.sequence_length, self.batch_size)


def quickstart(
  *,
  config: T5Config,
  pretrain: Callable,
  finetune: Callable,
  pretrain_task: TaskSettings,
  finetune_task: TaskSettings,
  pretrain_steps: int,
  uptrain_proportion: float,
  finetune_steps: int,
  finetune_dropout_rate: float,
  work_dir: str,
  results_dir: str,
  seed: int,
):
  """Runs what is not done yet, then writes records, report and plot.

  Args:
    config: the multi-head model.
    pretrain: `training.loop.train` with data and schedule bound; also uptrains.
    finetune: the same for fine-tuning.
    pretrain_task: span corruption.
    finetune_task: summarization.
    pretrain_steps: steps of pre-training.
    uptrain_proportion: the paper's alpha, a share of pretrain_steps.
    finetune_steps: steps of fine-tuning.
    finetune_dropout_rate: pre-training and uptraining have none.
    work_dir: checkpoints and the records of finished stages.
    results_dir: gets records.jsonl, report.md, ablation.png and
      predictions.jsonl.
    seed: of initialisation, data order and random heads.
  """
  work = pathlib.Path(work_dir)
  # Models of one shape share what was compiled for the first of them.
  jax.config.update('jax_compilation_cache_dir', str(work / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  stages = Stages(work, seed)
  mha = Variant('MHA', config.num_heads, None)
  mqa = Variant('MQA, mean', 1, 'mean')
  gqa = Variant('GQA-2, mean', 2, 'mean')
  ablation = [
    mha,
    gqa,
    mqa,
    Variant('MQA, first', 1, 'first'),
    Variant('MQA, random', 1, 'random'),
  ]
  uptrained_steps = pretrain_steps + round(uptrain_proportion * pretrain_steps)
  held_out = pretrain_task.batches('validation')
  losses = [
    ValidationLoss(held_out),
    ValidationLoss(map(baselines.text_only, held_out), name='validation_text'),
  ]

  def baseline_scores():
    return {
      **baselines.unigram(pretrain_task.batches('train'), held_out),
      **baselines.trivial_summaries(finetune_task.task),
    }

  stages.run('baselines', baseline_scores)

  def pretraining():
    pretrain(
      model_dir=stages.folder('pretrain'),
      config=config,
      train_steps=pretrain_steps,
      seed=seed,
    )
    return score(stages.folder('pretrain'), losses)

  stages.run('pretrain', pretraining, variant=mha)

  for variant in ablation:
    folder = stages.folder(f'convert/{slug(variant)}')

    def conversion(variant=variant, folder=folder):
      if variant.method is None:
        return score(stages.folder('pretrain'), losses)
      if not pathlib.Path(folder, 'conversion.json').exists():
        convert_checkpoint(
          input=stages.folder('pretrain'),
          output=folder,
          num_kv_heads=variant.num_kv_heads,
          method=variant.method,
          seed=seed,
        )
      return score(folder, losses)

    stages.run(f'convert/{slug(variant)}', conversion, variant=variant)

    def uptraining(variant=variant, folder=folder):
      source = stages.folder('pretrain') if variant.method is None else folder
      uptrained = stages.folder(f'uptrain/{slug(variant)}')
      pretrain(
        model_dir=uptrained,
        config=dataclasses.replace(config, num_kv_heads=variant.num_kv_heads),
        initial_checkpoint=source,
        train_steps=uptrained_steps,
        seed=seed,
      )
      return score(uptrained, losses)

    stages.run(f'uptrain/{slug(variant)}', uptraining, variant=variant)

  for variant in (mha, gqa, mqa):

    def finetuning(variant=variant):
      folder = stages.folder(f'finetune/{slug(variant)}')
      finetune(
        model_dir=folder,
        config=dataclasses.replace(
          config,
          num_kv_heads=variant.num_kv_heads,
          dropout_rate=finetune_dropout_rate,
        ),
        initial_checkpoint=stages.folder(f'uptrain/{slug(variant)}'),
        train_steps=uptrained_steps + finetune_steps,
        evaluators=[finetune_task.score('validation')],
        keep_best=BEST,
        seed=seed,
      )
      logged = progress.records(folder)
      step = native.best_step({r['step']: r[BEST] for r in logged if BEST in r})
      scores = evaluate(
        checkpoint=f'{folder}/{native.PREFIX}_{step}',
        evaluators=[finetune_task.score('test')],
        output_dir=f'{folder}/test',
      )
      return {'step': step, **scores}

    stages.run(f'finetune/{slug(variant)}', finetuning, variant=variant)

  predictions = {
    variant.name: records.read(
      work / 'finetune' / slug(variant) / 'test' / 'predictions.jsonl'
    )
    for variant in (mha, gqa, mqa)
  }
  quickstart_report.write(results_dir, stages.records, predictions)
  print(f'The report is {results_dir}/report.md')


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
  numbers: dict[str, float] = {'step': restored.step}
  for evaluator in evaluators:
    numbers.update(evaluator(model, restored.params))
  return numbers


def main() -> int:
  """Runs the quickstart as gin_configs/quickstart.gin and bindings say."""
  # Operations this small are not worth sharing between threads: two
  # data-parallel devices of one thread each take less time a step than one
  # device of two threads. XLA reads this when the first array is made.
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=2 '
    '--xla_cpu_multi_thread_eigen=false',
  )
  argv = ['--gin_file=gin_configs/quickstart.gin', *sys.argv[1:]]
  return cli.run_function('experiments.quickstart', 'quickstart', argv)


if __name__ == '__main__':
  sys.exit(main())
