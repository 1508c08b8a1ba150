"""Decodes a task's examples, scores them, and writes both."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
from etils import epath

from gqa_flax import partitioning
from gqa_flax.checkpoints import native
from gqa_flax.data import batches, tasks
from gqa_flax.evaluation import metrics
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer


class TaskScore:
  """An evaluator: decodes a split and scores it with the task's metric.

  Args:
    task: from `data.tasks.get_task`.
    split: such as 'validation'.
    sequence_length: {'inputs': S, 'targets': T}; T is how many tokens are
      decoded at most.
    batch_size: examples decoded together.
    decode: maps (model, params, encoder_input_tokens, max_decode_length) to
      tokens [batch, max_decode_length]; greedy as in the paper by default.
    metric: a key of `evaluation.metrics.METRICS`; None is the task's own.
    num_examples: how many of the split, from its beginning; None is all.

  Raises:
    ValueError: if the task names no metric and none is given.
  """

  def __init__(
    self,
    task: seqio.Task,
    split: str,
    sequence_length: Mapping[str, int],
    batch_size: int,
    decode: Callable = greedy_decode,
    metric: str | None = None,
    num_examples: int | None = None,
  ):
    self._metric = metric or tasks.metric_name(task.name)
    if self._metric is None:
      raise ValueError(
        f'Task {task.name!r} has no metric to score its text with; set '
        f'TaskScore.metric to one of {list(metrics.METRICS)}, or evaluate its '
        'loss with ValidationLoss.'
      )
    self._vocabulary = task.output_features['targets'].vocabulary
    self._lengths = sequence_length
    self._batch_size = batch_size
    self._decode = decode
    self._split = split
    self._examples = batches.examples(
      task, split, sequence_length['inputs'], num_examples
    )
    self.predictions: list[dict[str, Any]] = []

  def __call__(self, model: Transformer, params) -> dict[str, float]:
    """Returns {'<split>/<metric>': percent}; `predictions` holds the texts."""
    texts = self.decode_texts(model, params)
    targets = [_references(example) for example in self._examples]
    self.predictions = [
      {'inputs': _text(e['inputs_pretokenized']), 'target': t, 'prediction': p}
      for e, t, p in zip(self._examples, targets, texts, strict=True)
    ]
    scores = metrics.compute(self._metric, targets, texts)
    return {f'{self._split}/{name}': x for name, x in scores.items()}

  def decode_texts(self, model: Transformer, params) -> list[str]:
    """Returns the decoded text of every example, in order.

    Raises:
      ValueError: if the model has fewer token ids than the vocabulary.
    """
    return decode_texts(
      model,
      params,
      self._examples,
      self._vocabulary,
      self._lengths,
      self._batch_size,
      self._decode,
    )


def decode_texts(
  model, params, examples, vocabulary, sequence_length, batch_size, decode
) -> list[str]:
  """Decodes examples ({'inputs': token ids}) to texts, in order."""
  if vocabulary.vocab_size > model.config.vocab_size:
    raise ValueError(
      f'The vocabulary has {vocabulary.vocab_size} ids, but the model only '
      f'{model.config.vocab_size}; give the VOCABULARY it was trained with.'
    )
  mesh = partitioning.data_parallel_mesh()
  tokens: list[np.ndarray] = []
  for batch in batches.generation_batches(
    examples, sequence_length['inputs'], batch_size
  ):
    inputs = partitioning.spread_batch(batch, mesh)['encoder_input_tokens']
    decoded = decode(model, params, inputs, sequence_length['targets'])
    tokens.extend(np.asarray(jax.device_get(decoded)))
  return [
    vocabulary.decode([int(token) for token in row if token > 1])
    for row in tokens[: len(examples)]
  ]


def evaluate(
  *,
  checkpoint: str,
  evaluators: Sequence[Callable],
  output_dir: str,
) -> dict[str, float]:
  """Evaluates one checkpoint, and writes what came of it.

  Args:
    checkpoint: a folder that `checkpoints.native` reads.
    evaluators: `TaskScore`, `training.validation.ValidationLoss`, or anything
      that maps (model, params) to named numbers.
    output_dir: gets scores.json and, if an evaluator decodes, predictions.jsonl
      (inputs, target, prediction, one line an example).

  Returns:
    The scores of all evaluators.
  """
  restored = native.restore(checkpoint)
  model = Transformer(restored.config)
  scores: dict[str, float] = {}
  predictions: list[dict[str, Any]] = []
  for evaluator in evaluators:
    scores.update(evaluator(model, restored.params))
    predictions.extend(getattr(evaluator, 'predictions', []))
  output = epath.Path(output_dir)
  output.mkdir(parents=True, exist_ok=True)
  if predictions:
    lines = [json.dumps(p, ensure_ascii=False) + '\n' for p in predictions]
    _write_whole(output / 'predictions.jsonl', ''.join(lines))
  record = {'checkpoint': str(checkpoint), 'step': restored.step, **scores}
  _write_whole(output / 'scores.json', json.dumps(record, indent=2) + '\n')
  return scores


def infer(
  *,
  checkpoint: str,
  vocabulary: seqio.Vocabulary,
  sequence_length: Mapping[str, int],
  batch_size: int = 32,
  decode: Callable = greedy_decode,
  prefix: str = '',
) -> Callable[[Sequence[str]], list[str]]:
  """Loads a model, and returns a function from texts to texts.

  Args:
    checkpoint: a folder that `checkpoints.native` reads.
    vocabulary: that the model was trained with.
    sequence_length: {'inputs': S, 'targets': T}: longer inputs are cut.
    batch_size: texts decoded together.
    decode: see `TaskScore`.
    prefix: put before every input, such as 'summarize: '.
  """
  restored = native.restore(checkpoint)
  model = Transformer(restored.config)

  def texts_to_texts(texts: Sequence[str]) -> list[str]:
    length = sequence_length['inputs']
    examples = [
      {'inputs': [*vocabulary.encode(prefix + text)[: length - 1], 1]}
      for text in texts
    ]
    return decode_texts(
      model,
      restored.params,
      examples,
      vocabulary,
      sequence_length,
      batch_size,
      decode,
    )

  return texts_to_texts


def _references(example):
  """Returns the text to score against: the answers, where there are several."""
  answers = example.get('answers')
  if answers is not None:
    return [_text(answer) for answer in answers]
  return _text(example['targets_pretokenized'])


def _text(value) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _write_whole(path: epath.Path, text: str):
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)
