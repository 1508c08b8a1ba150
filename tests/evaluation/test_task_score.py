"""Decoding a task's examples to text and scoring them."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gqa_flax import T5Config, Transformer
from gqa_flax.data import embedded, tasks
from gqa_flax.evaluation import metrics, predictions
from gqa_flax.evaluation.evaluate import TaskScore, evaluate

LENGTHS = {'inputs': 24, 'targets': 12}


class Oracle:
  """Decodes the targets that it was given, in order."""

  def __init__(self, texts, vocabulary):
    self._rows = [[*vocabulary.encode(t), 1] for t in texts]

  def __call__(self, model, params, encoder_input_tokens, max_decode_length):
    tokens = np.zeros((len(encoder_input_tokens), 64), np.int32)
    for row in tokens[: len(self._rows)]:
      ids = self._rows.pop(0)[:64]
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


def test_a_mixture_keeps_no_texts_and_is_scored(task, vocabulary):
  articles = [a for a in embedded.articles('validation') if a.description]
  targets = [a.description for a in articles[:3]]
  mixture = seqio.MixtureRegistry.add('mixed', [task.name], default_rate=1)
  score = TaskScore(
    mixture,
    'validation',
    LENGTHS,
    batch_size=3,
    decode=Oracle(targets, vocabulary),
    metric='rouge',
    num_examples=3,
  )
  seqio.MixtureRegistry.remove('mixed')
  scores = score(Transformer(T5Config(vocab_size=704)), None)
  assert scores['validation/rouge1'] == pytest.approx(100, abs=1e-6)
  assert [p['target'] for p in score.predictions] == targets
  # As far as the model reads them.
  for article, prediction in zip(articles, score.predictions, strict=False):
    text = f'summarize: {article.extract}'
    assert text.startswith(prediction['inputs'][:-1])


def test_a_task_without_a_metric_is_refused(vocabulary):
  spans = tasks.get_task('wikipedia_span_corruption', vocabulary)
  with pytest.raises(ValueError, match=r'no metric .*set TaskScore.metric'):
    TaskScore(spans, 'validation', LENGTHS, batch_size=2)


@pytest.mark.parametrize(
  'name, argument',
  [
    *(('NUM_EXAMPLES', {'num_examples': x}) for x in (0, -1, 2.5, True, 'all')),
    *(('BATCH_SIZE', {'batch_size': x}) for x in (0, -4, '8', None)),
    ('TASK_FEATURE_LENGTHS', {'sequence_length': {'inputs': 24}}),
    ('TASK_FEATURE_LENGTHS', {'sequence_length': {**LENGTHS, 'inputs': 0}}),
  ],
)
def test_numbers_out_of_range_are_refused(task, name, argument):
  kwargs = {'sequence_length': LENGTHS, 'batch_size': 2, **argument}
  with pytest.raises(
    ValueError, match=f'{name}.* is .*; give an integer of at'
  ):
    TaskScore(task, 'validation', **kwargs)


def of_targets(name, targets, vocabulary):
  """Returns a task of one input and these targets, without a metric."""
  feature = seqio.Feature(vocabulary, add_eos=True)
  rows = {'inputs': ['x'] * len(targets), 'targets': targets}
  return seqio.Task(
    name,
    output_features={'inputs': feature, 'targets': feature},
    source=tasks.TextSource(lambda split: rows, ['test']),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
  )


CHINESE = ['东京是日本的首都。', '巴黎是法国的首都。', 'Rome', '2020年']


@pytest.mark.parametrize('metric', ['rouge', 'bleu'])
def test_targets_that_the_metric_cannot_measure_are_warned_of(capsys, metric):
  vocabulary = seqio.ByteVocabulary()
  task = of_targets('chinese', CHINESE, vocabulary)
  score = TaskScore(task, 'test', LENGTHS, 4, metric=metric)
  warning = capsys.readouterr().err
  assert warning.count('Warning: ') == 1
  assert f"the metric '{metric}' counts" in warning
  assert '2 of 4 targets (50.0%) of chinese/test have mostly others' in warning
  assert "METRIC = 'chrf'" in warning
  # What the message advises.
  score = TaskScore(
    task,
    'test',
    {'inputs': 24, 'targets': 64},
    4,
    Oracle(CHINESE, vocabulary),
    metric='chrf',
  )
  scores = score(Transformer(T5Config(vocab_size=384)), None)
  assert scores == {'test/chrf': pytest.approx(100)}
  assert score.intervals['test/chrf'] == pytest.approx([100, 100])
  assert capsys.readouterr().err == ''


def test_a_line_says_all_of_its_example(task, vocabulary):
  articles = [a for a in embedded.articles('validation') if a.description]
  targets = [a.description for a in articles[:4]]
  # All but the first are right; the first has a word of its own and no end.
  texts = [f'{targets[0]} {"z " * 99}', *targets[1:]]
  score = TaskScore(
    task,
    'validation',
    {'inputs': 24, 'targets': 64},
    batch_size=4,
    decode=Oracle(texts, vocabulary),
    num_examples=4,
  )
  scores = score(Transformer(T5Config(vocab_size=704)), None)
  for i, line in enumerate(score.predictions):
    inputs = f'summarize: {articles[i].extract}'
    size = 1 + len(vocabulary.encode(inputs))
    target_size = 1 + len(vocabulary.encode(targets[i]))
    assert line == {
      'index': i,
      'inputs': inputs,
      'target': targets[i],
      'prediction': line['prediction'],
      'inputs_tokens': size,
      'inputs_cut': size > 24,
      'target_tokens': target_size,
      'target_cut': False,
      'prediction_tokens': 64 if i == 0 else target_size,
      'prediction_cut': i == 0,
      'scores': line['scores'],
      'statistics': line['statistics'],
    }
    expected = metrics.rouge([targets[i]], [line['prediction']])
    assert line['scores'] == expected
  assert score.predictions[0]['prediction'].startswith(targets[0])
  assert score.predictions[1]['scores']['rouge1'] == pytest.approx(100)
  assert score.predictions[0]['inputs_tokens'] > 24
  summary = score.lengths
  assert summary == predictions.summarize_lengths(score.predictions)
  assert summary['prediction']['num_cut'] == 1
  low, high = score.intervals['validation/rouge1']
  assert low < scores['validation/rouge1'] < high
  # One example of four differs: it is drawn up to four times, or never.
  assert high == pytest.approx(100)


def test_a_task_of_the_users_own_is_scored_by_its_own_metrics(
  vocabulary, checkpoint, tmp_path
):
  feature = seqio.Feature(vocabulary, add_eos=True)
  rows = {'inputs': ['one', 'two', 'three'], 'targets': ['1', '2', '3']}
  seen = []

  def postprocess(text, example, is_target):
    assert example['inputs_pretokenized'] in (b'one', b'two', b'three')
    return int(text) * (1 if is_target else 10)

  def numbers(targets, predictions):
    seen.append((targets, predictions))
    return {
      'sum': np.float32(sum(predictions)),
      'scalar': seqio.metrics.Scalar(7),
      'text': seqio.metrics.Text('hidden'),
    }

  def of_scores(targets, scores):
    raise AssertionError('it is of log-likelihoods')

  task = seqio.Task(
    'my_own',
    output_features={'inputs': feature, 'targets': feature},
    source=tasks.TextSource(lambda split: rows, ['test']),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    postprocess_fn=postprocess,
    metric_fns=[numbers, of_scores],
  )
  score = TaskScore(
    task,
    'test',
    LENGTHS,
    batch_size=2,
    decode=Oracle(['4', '5', '6'], vocabulary),
  )
  # Known before anything is decoded, from targets that are all predicted.
  assert score.metric_names == ('test/sum', 'test/scalar')
  assert seen.pop() == ([1, 2, 3], [10, 20, 30])
  scores = evaluate(
    checkpoint=checkpoint, evaluators=[score], output_dir=str(tmp_path)
  )
  assert seen == [([1, 2, 3], [40, 50, 60])]
  assert scores == {'test/sum': 150.0, 'test/scalar': 7.0}
  written = predictions.read(tmp_path)
  assert written.record['metric'] is None
  assert written.record['intervals'] == {}
  first = written.predictions[0]
  assert (first['target'], first['prediction']) == ('1', '4')
  assert 'scores' not in first and 'statistics' not in first

  # A metric that is asked for goes before them.
  score = TaskScore(
    task,
    'test',
    LENGTHS,
    batch_size=4,
    decode=Oracle(['1', '2', '6'], vocabulary),
    metric='rouge',
  )
  scores = score(Transformer(T5Config(vocab_size=704)), None)
  assert score.metric_names == tuple(scores)
  assert scores['test/rouge1'] == pytest.approx(200 / 3)
  assert len(seen) == 1

  with pytest.raises(ValueError, match='There is no metric .rogue.; did you'):
    TaskScore(task, 'test', LENGTHS, batch_size=4, metric='rogue')


def test_several_accepted_answers_are_kept_as_a_list(vocabulary):
  feature = seqio.Feature(vocabulary, add_eos=True)
  rows = {'inputs': ['where'], 'targets': ['Paris'], 'answers': ['Rome']}

  def answers(dataset):
    return dataset.map(
      lambda x: {**x, 'answers': tf.stack([x['answers'], 'City of Light'])}
    )

  task = seqio.Task(
    'answers',
    output_features={'inputs': feature, 'targets': feature},
    source=tasks.TextSource(lambda split: rows, ['test']),
    preprocessors=[
      answers,
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
  )
  score = TaskScore(
    task,
    'test',
    LENGTHS,
    batch_size=1,
    decode=Oracle(['city light'], vocabulary),
    metric='trivia_qa',
  )
  # 'city light' against 'city of light': P = 1, R = 2/3, F1 = 4/5.
  scores = score(Transformer(T5Config(vocab_size=704)), None)
  assert scores == {'test/exact_match': 0, 'test/f1': pytest.approx(80)}
  (line,) = score.predictions
  assert line['target'] == ['Rome', 'City of Light']
  assert line['scores'] == {'exact_match': 0, 'f1': pytest.approx(80)}
