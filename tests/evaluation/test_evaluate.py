"""Decoding a task's examples to text and scoring them."""

import dataclasses
import json

import numpy as np
import pytest

from gqa_flax import T5Config, Transformer
from gqa_flax.checkpoints import native
from gqa_flax.data import embedded, tasks
from gqa_flax.evaluation.evaluate import TaskScore, evaluate, infer

LENGTHS = {'inputs': 24, 'targets': 12}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return embedded.vocabulary(600, cache_dir=tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='module')
def task(vocabulary):
  return tasks.get_task('wikipedia_summarization', vocabulary)


class Oracle:
  """Decodes the targets that it was given, in order."""

  def __init__(self, texts, vocabulary):
    self._rows = [[*vocabulary.encode(t), 1] for t in texts]

  def __call__(self, model, params, encoder_input_tokens, max_decode_length):
    tokens = np.zeros((len(encoder_input_tokens), 64), np.int32)
    for row in tokens[: len(self._rows)]:
      ids = self._rows.pop(0)
      row[: len(ids)] = ids
    return tokens


def test_perfect_predictions_score_100_across_batches(task, vocabulary):
  articles = [a for a in embedded.articles('validation') if a.description]
  targets = [a.description for a in articles[:7]]
  decoded = vocabulary.decode(vocabulary.encode(targets[0]))
  assert decoded == targets[0]
  score = TaskScore(
    task,
    'validation',
    LENGTHS,
    batch_size=3,
    decode=Oracle(targets, vocabulary),
    num_examples=7,
  )
  scores = score(Transformer(T5Config(vocab_size=704)), None)
  assert scores['validation/rouge1'] == pytest.approx(100, abs=1e-6)
  assert [p['target'] for p in score.predictions] == targets
  assert score.predictions[6]['inputs'] == f'summarize: {articles[6].extract}'


def test_a_task_without_a_metric_is_refused(vocabulary):
  spans = tasks.get_task('wikipedia_span_corruption', vocabulary)
  with pytest.raises(ValueError, match=r'no metric .*set TaskScore.metric'):
    TaskScore(spans, 'validation', LENGTHS, batch_size=2)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, tiny_config, make_params, vocabulary):
  config = dataclasses.replace(tiny_config, vocab_size=704, num_kv_heads=2)
  folder = tmp_path_factory.mktemp('model')
  with native.checkpoint_manager(folder) as manager:
    native.save(manager, native.Checkpoint(3, make_params(config), config))
  return str(folder)


def test_evaluate_writes_scores_and_predictions(checkpoint, task, tmp_path):
  score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=5)
  scores = evaluate(
    checkpoint=checkpoint,
    evaluators=[score, lambda model, params: {'heads': 2.0}],
    output_dir=str(tmp_path / 'out'),
  )
  written = json.loads((tmp_path / 'out' / 'scores.json').read_text())
  assert written == {'checkpoint': checkpoint, 'step': 3, **scores}
  assert scores['heads'] == 2.0
  lines = (tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == score.predictions
  assert len(lines) == 5


def test_infer_is_evaluation_without_a_task(checkpoint, task, vocabulary):
  score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=5)
  restored = native.restore(checkpoint)
  score(Transformer(restored.config), restored.params)
  texts_to_texts = infer(
    checkpoint=checkpoint,
    vocabulary=vocabulary,
    sequence_length=LENGTHS,
    batch_size=4,
  )
  assert texts_to_texts([p['inputs'] for p in score.predictions]) == [
    p['prediction'] for p in score.predictions
  ]


def test_another_vocabulary_is_refused(checkpoint, tmp_path):
  larger = embedded.vocabulary(800, cache_dir=tmp_path)
  with pytest.raises(ValueError, match='The vocabulary has 900 ids'):
    infer(checkpoint=checkpoint, vocabulary=larger, sequence_length=LENGTHS)(
      ['text']
    )
