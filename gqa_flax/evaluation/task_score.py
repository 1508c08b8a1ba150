"""Decodes a split and scores it."""

import collections
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gqa_flax.config import check_integer
from gqa_flax.data import reading, skipping, tasks, vocabulary
from gqa_flax.data.examples import read_examples
from gqa_flax.evaluation import bootstrap, decoding, metrics, predictions
from gqa_flax.evaluation.partial import Partial
from gqa_flax.inference import EOS_ID
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning import hosts
from gqa_flax.runtime import status
from gqa_flax.training import checks


class TaskScore:
  """An evaluator: decodes a split and scores it with the task's metric.

  A task registered with seqio that names none of `evaluation.metrics` is
  scored by its own `metric_fns` on what its `postprocess_fn` makes of the
  texts; then there are no scores of single examples, and no intervals.

  Examples that the task cannot use are no part of the scores; the record of a
  whole split says how many there were, and what they lack.

  Attributes:
    split: as given.
    predictions: one dict for each example of the last call: index, inputs,
      target (or the list of accepted answers), prediction; then 'scores' (in
      percent) and 'statistics' (see `metrics.Metric`), and the lengths as of
      `predictions.example_lengths`.
    lengths: those of all examples, see `predictions.summarize_lengths`.
    vocab_size: how many token ids the vocabularies of the task have.
  """

  def __init__(
    self,
    task: reading.TaskOrMixture,
    split: str,
    sequence_length: Mapping[str, int],
    batch_size: int,
    decode: Callable = greedy_decode,
    metric: str | None = None,
    num_examples: int | None = None,
    use_cached: bool = False,
  ):
    """Reads the examples; warns on stderr of targets beyond the metric.

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
      use_cached: whether to read the task's cache; see `data.caching`.

    Raises:
      ValueError: the task has no metric and none is given, or there is no such
        metric, or no such split, or a number is out of range.
    """
    check_integer('BATCH_SIZE', batch_size, 1)
    if num_examples is not None:
      check_integer('NUM_EXAMPLES', num_examples, 1)
    for name in ('inputs', 'targets'):
      check_integer(
        f'TASK_FEATURE_LENGTHS[{name!r}]', sequence_length.get(name), 1
      )
    self._metric_name = metric or tasks.metric_name(task.name)
    if self._metric_name is not None:
      self._metric = metrics.get(self._metric_name)
    elif not getattr(task, 'predict_metric_fns', None):
      raise ValueError(
        f'Task {task.name!r} has no metric to score its text with; set '
        f'TaskScore.metric to one of {list(metrics.METRICS)}, or evaluate its '
        'loss with ValidationLoss.'
      )
    self.split = split
    self.predictions: list[dict[str, Any]] = []
    self.lengths: dict[str, dict[str, float]] = {}
    self._statistics: np.ndarray | None = None
    self._task = task
    self._vocabulary = task.output_features['targets'].vocabulary
    self.vocab_size = vocabulary.size_of(task)
    self._limits = dict(sequence_length)
    self._batch_size = batch_size
    self._decode = decode
    with skipping.collected() as skipped:
      self._examples = read_examples(
        task, split, sequence_length['inputs'], num_examples, use_cached
      )
    # Of some of the examples only, what was read ahead would count.
    self._skipped = collections.Counter(
      skipped.values() if num_examples is None else ()
    )
    if self._metric_name is not None:
      self._warn_of_unmeasured()

  def __call__(
    self, model: Transformer, params, partial: Partial | None = None
  ) -> dict[str, float]:
    """Returns {'<split>/<metric>': percent}.

    Args:
      model: a Transformer.
      params: its parameters.
      partial: what was decoded before; see `decoding.decode_tokens`.

    Raises:
      ValueError: if the model has fewer token ids than the vocabulary.
    """
    checks.check_vocabularies([self], model.config)
    tokens = decoding.decode_tokens(
      model,
      params,
      self._examples,
      self._limits,
      self._batch_size,
      self._decode,
      partial,
      # In a training, whose own bar is shown, there is none to write to.
      name=f'decoding {self.split}' if partial else '',
    )
    texts = [decoding.to_text(row, self._vocabulary) for row in tokens]
    self.predictions = [
      {
        'index': i,
        'inputs': self._text_of(example, 'inputs'),
        'target': self._references(example),
        'prediction': texts[i],
        **self._example_lengths(example, tokens[i]),
      }
      for i, example in enumerate(self._examples)
    ]
    scores = self._scores() if self._metric_name else self._task_scores(texts)
    self.lengths = predictions.summarize_lengths(self.predictions)
    return self._named(scores)

  @functools.cached_property
  def metric_names(self) -> tuple[str, ...]:
    """What a call returns numbers for, known before anything is decoded.

    The task's own `metric_fns` tell it of targets that are all predicted.
    """
    if self._metric_name is not None:
      return tuple(self._named(dict.fromkeys(self._metric.keys)))
    texts = [self._text_of(example, 'targets') for example in self._examples]
    return tuple(self._named(self._task_scores(texts)))

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What decides the scores besides the model, for JSON."""
    digest = hashlib.sha256()
    for example in self._examples:
      digest.update(np.asarray([*example['inputs'], 0], np.int32).tobytes())
      digest.update(json.dumps(self._references(example)).encode())
    return {
      'task': self._task.name,
      'split': self.split,
      'sequence_length': self._limits,
      'batch_size': self._batch_size,
      'decode': decoding.describe(self._decode),
      'vocab_size': self.vocab_size,
      'num_examples': len(self._examples),
      'metric': self._metric_name,
      'examples': digest.hexdigest(),
    }

  @property
  def intervals(self) -> dict[str, list[float]]:
    """95% bootstrap intervals of the last call's scores, by their names."""
    if self._statistics is None:
      return {}
    ends = bootstrap.interval([self._statistics], self._metric.scores)
    return self._named(dict(zip(self._metric.keys, ends.T.tolist())))

  @property
  def record(self) -> dict[str, Any]:
    """What scores.json says besides the scores."""
    return {
      'task': self._task.name,
      'split': self.split,
      'metric': self._metric_name,
      'num_examples': len(self._examples),
      **({'skipped': dict(self._skipped)} if self._skipped else {}),
      'intervals': self.intervals,
      'bootstrap': {
        'confidence': bootstrap.CONFIDENCE,
        'num_resamples': bootstrap.NUM_RESAMPLES,
        'seed': bootstrap.SEED,
      },
      'lengths': self.lengths,
    }

  def _warn_of_unmeasured(self):
    """Says on stderr how many targets the metric cannot measure."""
    num_targets = len(self._examples)
    num_unmeasured = sum(
      self._metric.blind(self._references(e)) for e in self._examples
    )
    if num_unmeasured and hosts.is_primary():
      status.say(
        f'Warning: the metric {self._metric_name!r} counts '
        f'{self._metric.sees}, but {num_unmeasured:,} of {num_targets:,} '
        f'targets ({num_unmeasured / num_targets:.1%}) of '
        f'{self._task.name}/{self.split} have mostly others, or none: even a '
        'perfect prediction may score 0 on them. Texts of any script can be '
        "scored by METRIC = 'chrf' (evaluate.TaskScore.metric = 'chrf')."
      )

  def _scores(self) -> dict[str, float]:
    """Scores with a metric of ours, each example too."""
    self._statistics = self._metric.statistics(
      [p['target'] for p in self.predictions],
      [p['prediction'] for p in self.predictions],
    )
    by_example = self._metric.example_scores(self._statistics)
    for i, prediction in enumerate(self.predictions):
      prediction['scores'] = dict(
        zip(self._metric.keys, by_example[i].tolist())
      )
      prediction['statistics'] = self._statistics[i].tolist()
    return self._metric.corpus_scores(self._statistics)

  def _task_scores(self, texts: Sequence[str]) -> dict[str, float]:
    """Scores as seqio does; of what is reported, numbers are kept."""
    postprocess = self._task.postprocess_fn
    targets = [
      postprocess(self._text_of(e, 'targets'), example=e, is_target=True)
      for e in self._examples
    ]
    answers = [
      postprocess(text, example=e, is_target=False)
      for text, e in zip(texts, self._examples, strict=True)
    ]
    scores = {}
    for metric_fn in self._task.predict_metric_fns:
      for name, value in metric_fn(targets, answers).items():
        # seqio.metrics.Scalar has its number in `value`.
        number = np.asarray(getattr(value, 'value', value))
        if number.ndim == 0 and np.issubdtype(number.dtype, np.number):
          scores[name] = float(number)
    return scores

  def _example_lengths(self, example, row: Sequence[int]) -> dict[str, Any]:
    return predictions.example_lengths(
      int(example['uncut_inputs_length']),
      len(example['targets']),
      len(row),
      limits=self._limits,
      ended=EOS_ID in row,
    )

  def _references(self, example) -> str | list[str]:
    """Returns the text to score against: all answers, where there are any."""
    answers = example.get('answers')
    if np.ndim(answers) == 1:
      return [_text(answer) for answer in answers]
    return self._text_of(example, 'targets')

  def _text_of(self, example, name: str) -> str:
    """Returns a text, from its tokens where the task does not keep it."""
    if f'{name}_pretokenized' in example:
      return _text(example[f'{name}_pretokenized'])
    feature = self._task.output_features[name]
    return decoding.to_text(example[name].tolist(), feature.vocabulary)

  def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f'{self.split}/{name}': value for name, value in values.items()}


def _text(value) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)
