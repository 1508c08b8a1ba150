"""What one example adds to a metric, and odd texts of every kind."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from gqa_flax.evaluation import metrics

ODD_TEXTS = [
  '',
  ' ',
  '\n',
  '.',
  ' . ',
  ' . . ',
  '...',
  'a',
  'the',
  'The end .',
  'the end . The end',
  'first line\nsecond line\n\nfourth line',
  'tabs\tand\u00a0no-break\u2003spaces',
  'zürich',  # composed
  'zu\u0308rich',  # the same, its accent apart
  '東京は日本の首都です。',
  "„quoted“ and “quoted” and 'quoted'",
  "l'été d’après, 1,000.50 € – 50%",
  '<extra_id_0> sentinel <extra_id_1>',
  'x ⁇ y \u200b z',
  'a b c d e f g h',
  'a b c d',
  'd c b a',
  'a ' * 60,
]


def random_texts(seed, size):
  rng = random.Random(seed)
  words = ['a', 'b', 'c', 'the', 'Ab', 'd.', '„x“', '東京', 'é', ' . ', '']
  return [
    ' '.join(rng.choice(words) for _ in range(rng.randrange(9)))
    for _ in range(size)
  ]


def corpus_bleu(targets, predictions):
  return sacrebleu.corpus_bleu(
    predictions, [targets], smooth_method='exp', tokenize='intl', force=True
  ).score


def pairs(texts):
  """All pairs of texts, as targets and predictions."""
  return [t for t in texts for _ in texts], [p for _ in texts for p in texts]


# ROUGE


@pytest.mark.parametrize(
  ('target', 'prediction', 'rouge1', 'rouge2', 'lsum'),
  [
    ('', '', 0, 0, 0),
    ('a', '', 0, 0, 0),
    ('', 'a', 0, 0, 0),
    # Nothing is left of either: rouge-score keeps a-z and 0-9.
    ('...', '!?', 0, 0, 0),
    ('東京', '東京', 0, 0, 0),
    # One word has no bigram.
    ('cat', 'Cat!', 100, 0, 100),
    # The accent splits a word in two, z and rich; apart it leaves zu and rich,
    # so that P = R = 1/2.
    ('zürich', 'ZÜRICH', 100, 100, 100),
    ('zürich', 'zu\u0308rich', 50, 0, 50),
    # Quotation marks and hyphens separate, articles count.
    ('„well-known“', 'well known', 100, 100, 100),
    ('the cat', 'cat', 200 / 3, 0, 200 / 3),
    # A sentinel is words too: extra, id, 0; P = 1/4, R = 1, F = 2/5.
    ('cat', '<extra_id_0> cat', 40, 0, 40),
    # Words count as often as on both sides: P = 2/4, R = 2/2.
    ('a a', 'a a a a', 200 / 3, 50, 200 / 3),
    # Sentences in the other order: 'b c' became 'd a', so 2 bigrams of 3; every
    # sentence is found, so Lsum is whole.
    ('a b . c d', 'c d . a b', 100, 200 / 3, 100),
    # White space of other kinds separates words; only new lines separate
    # sentences.
    ('a b\u00a0c\td', 'a b c d', 100, 100, 100),
    ('a b\n\nc d', 'c d a b', 100, 200 / 3, 100),
  ],
)
def test_rouge_of_odd_texts(target, prediction, rouge1, rouge2, lsum):
  assert metrics.rouge([target], [prediction]) == pytest.approx(
    {'rouge1': rouge1, 'rouge2': rouge2, 'rougeLsum': lsum}
  )


def test_rouge_statistics_are_rouge_scores_of_each_example():
  targets, predictions = pairs(ODD_TEXTS)
  statistics = metrics.get('rouge').statistics(targets, predictions)
  scorer = rouge_scorer.RougeScorer(metrics.ROUGE_KEYS)
  for row, target, prediction in zip(
    statistics, targets, predictions, strict=True
  ):
    expected = scorer.score(
      target.replace(' . ', ' .\n'), prediction.replace(' . ', ' .\n')
    )
    assert row.tolist() == [expected[k].fmeasure for k in metrics.ROUGE_KEYS]


# BLEU


def test_bleu_statistics_by_hand():
  # 'a b c a' against 'a b c d': 3 words of 4 (the second a is one too many),
  # 2 bigrams of 3, 1 trigram of 2, no 4-gram of 1; 4 words on each side.
  statistics = metrics.get('bleu').statistics(['a b c d'], ['a b c a'])
  assert statistics.tolist() == [[3, 2, 1, 0, 4, 3, 2, 1, 4, 4]]
  # A text of two words has neither trigrams nor 4-grams.
  statistics = metrics.get('bleu').statistics(['a b c'], ['a b'])
  assert statistics.tolist() == [[2, 1, 0, 0, 2, 1, 0, 0, 2, 3]]


def test_sentence_bleu_ends_its_ngrams_where_the_sentence_does():
  metric = metrics.get('bleu')
  statistics = metric.statistics(['a b c', 'a b'], ['a b', 'a b'])
  # Words 2/2 and bigrams 1/1 alone, with the penalty exp(1 - 3/2); and 100.
  np.testing.assert_allclose(
    metric.example_scores(statistics)[:, 0], [100 * np.exp(-0.5), 100]
  )
  # Corpus BLEU has four orders, and nothing stands for those that are missing.
  assert metric.corpus_scores(statistics) == {'bleu': 0}


@pytest.mark.parametrize('prediction', ODD_TEXTS)
def test_bleu_of_odd_texts_is_sacrebleus(prediction):
  for target in ODD_TEXTS:
    expected = corpus_bleu([target], [prediction])
    assert metrics.bleu([target], [prediction]) == {'bleu': expected}


@pytest.mark.parametrize('seed', range(8))
def test_bleu_of_summed_statistics_is_corpus_bleu_of_resampled_texts(seed):
  targets = random_texts(seed, 30)
  predictions = random_texts(seed + 100, 30)
  metric = metrics.get('bleu')
  statistics = metric.statistics(targets, predictions)
  rows = np.random.default_rng(seed).integers(30, size=(5, 30))
  expected = [
    corpus_bleu([targets[i] for i in row], [predictions[i] for i in row])
    for row in rows
  ]
  sums = statistics[rows].sum(axis=1)
  assert metric.scores(sums, 30)[:, 0].tolist() == expected
  assert metrics.bleu(targets, predictions)['bleu'] == corpus_bleu(
    targets, predictions
  )


# TriviaQA


@pytest.mark.parametrize(
  ('answers', 'prediction', 'exact_match', 'f1'),
  [
    # Nothing is left of the one, the other or both.
    (['Paris'], ' \n', 0, 0),
    (['The'], 'Paris', 0, 0),
    (['...'], '', 100, 0),
    (['the', 'Paris'], '!', 100, 0),
    # Quotation marks: ASCII's, and of the others ‘ and ’ only.
    (['“Heroes”'], '"Heroes"', 0, 0),
    (['‘Heroes’'], '"heroes"', 100, 100),
    # A composed and a decomposed accent are different letters.
    (['zürich'], 'zu\u0308rich', 0, 0),
    # No spaces, no words: one token.
    (['東京'], '東京', 100, 100),
    (['東京'], '東京都', 0, 0),
    # Upper case of one letter that lowers to two code points.
    (['İstanbul'], 'i\u0307stanbul', 100, 100),
    # ß has no other lower case.
    (['STRASSE'], 'straße', 0, 0),
    # Sentinels keep their words: P = 1/4, R = 1, F1 = 2/5.
    (['Paris'], '<extra_id_0> Paris', 0, 40),
    # A no-break space is white space; a zero-width one is a letter.
    (['New York'], 'New\u00a0York', 100, 100),
    (['New York'], 'New\u200bYork', 0, 0),
    # Numbers are strings.
    (['1,000'], '1000', 0, 0),
    (['1,000'], '1 000', 100, 100),
    # Articles within: 'dance of sugar' of 3, in both.
    (['Dance of the Sugar'], 'dance of a sugar', 100, 100),
    # French articles are words: P = 1/2, R = 1, F1 = 2/3.
    (['monde'], 'le monde', 0, 200 / 3),
    # F1 chooses its own answer: 2/3 of the second.
    (['x', 'Jean Monnet'], 'Monnet', 0, 200 / 3),
    # The same answer twice is one.
    (['Paris', 'Paris'], 'Paris', 100, 100),
  ],
)
def test_trivia_qa_of_odd_texts(answers, prediction, exact_match, f1):
  expected = {'exact_match': exact_match, 'f1': f1}
  assert metrics.trivia_qa([answers], [prediction]) == pytest.approx(expected)


def test_trivia_qa_statistics_are_of_each_example():
  # 'late 1960' against '1960': P = 1/2, R = 1, F1 = 2/3.
  statistics = metrics.get('trivia_qa').statistics(
    [['Paris'], ['Zürich'], ['the 1960s', '1960']],
    ['paris', 'Bern', 'late 1960'],
  )
  np.testing.assert_allclose(statistics, [[1, 1], [0, 0], [0, 2 / 3]])


# All of them


@pytest.mark.parametrize('name', metrics.METRICS)
def test_an_examples_own_score_is_that_of_a_corpus_of_it(name):
  targets, predictions = pairs(['a b c d e', 'a b c d x', 'a x c d'])
  if name == 'trivia_qa':
    targets = [[target] for target in targets]
  metric = metrics.get(name)
  by_example = metric.example_scores(metric.statistics(targets, predictions))
  for row, target, prediction in zip(
    by_example, targets, predictions, strict=True
  ):
    expected = list(metric([target], [prediction]).values())
    assert row.tolist() == pytest.approx(expected)


@pytest.mark.parametrize('name', ['rouge', 'trivia_qa'])
def test_the_score_is_the_mean_of_the_examples_own(name):
  targets, predictions = pairs(ODD_TEXTS[6:12])
  if name == 'trivia_qa':
    targets = [[target] for target in targets]
  metric = metrics.get(name)
  by_example = metric.example_scores(metric.statistics(targets, predictions))
  scores = list(metric(targets, predictions).values())
  assert by_example.mean(axis=0).tolist() == pytest.approx(scores)
  assert 0 < min(scores) < max(scores) < 100


def test_another_process_gets_the_same_bits():
  code = (
    'import json, sys\n'
    'from gqa_flax.evaluation import metrics\n'
    't, p = json.load(sys.stdin)\n'
    'print(json.dumps([metrics.rouge(t, p), metrics.bleu(t, p),'
    ' metrics.trivia_qa([[x] for x in t], p)]))'
  )
  data = pairs(ODD_TEXTS[5:16])
  outputs = {
    subprocess.run(
      [sys.executable, '-c', code],
      input=json.dumps(data),
      env={**os.environ, 'PYTHONHASHSEED': seed},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in ('1', '2')
  }
  here = [
    metrics.rouge(*data),
    metrics.bleu(*data),
    metrics.trivia_qa([[x] for x in data[0]], data[1]),
  ]
  assert [json.loads(output) for output in outputs] == [here]
