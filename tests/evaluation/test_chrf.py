"""chrF, and what the other metrics cannot measure."""

import random

import numpy as np
import pytest
import sacrebleu

from gqa_flax.evaluation import bootstrap, metrics

CHINESE = '东京是日本的首都。'
HINDI = 'नई दिल्ली भारत की राजधानी है'
TEXTS = [
  '',
  ' ',
  'a',
  'ab',
  'a b c d e f g h',
  'The end .',
  'the end.\n The end',
  CHINESE,
  CHINESE + '2020',
  HINDI,
  'zürich',
  'zu\u0308rich',
  'a' * 30,
]


def pairs(texts):
  return [(a, b) for a in texts for b in texts]


def test_every_sentence_has_sacrebleus_score():
  chrf = metrics.get('chrf')
  targets, predictions = zip(*pairs(TEXTS))
  found = chrf.example_scores(chrf.statistics(targets, predictions))[:, 0]
  theirs = sacrebleu.CHRF()
  expected = [
    theirs.sentence_score(prediction, [target]).score
    for target, prediction in zip(targets, predictions)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert sum(0 < score < 99 for score in expected) > 20


@pytest.mark.parametrize('seed', range(3))
def test_a_corpus_has_sacrebleus_score(seed):
  rng = random.Random(seed)
  chosen = rng.sample(pairs(TEXTS), 20)
  targets, predictions = map(list, zip(*chosen))
  expected = sacrebleu.corpus_chrf(predictions, [targets]).score
  assert metrics.get('chrf')(targets, predictions) == {
    'chrf': pytest.approx(expected, rel=1e-12)
  }


def test_resampling_gives_the_scores_of_the_drawn_examples():
  chrf = metrics.get('chrf')
  targets, predictions = map(list, zip(*pairs(TEXTS[4:9])))
  rows = chrf.statistics(targets, predictions)
  drawn = np.random.default_rng(0).integers(len(rows), size=(3, len(rows)))
  expected = [
    sacrebleu.corpus_chrf(
      [predictions[i] for i in draw], [[targets[i] for i in draw]]
    ).score
    for draw in drawn
  ]
  found = chrf.scores(rows[drawn].sum(axis=1), len(rows))
  assert found[:, 0] == pytest.approx(expected)
  low, high = bootstrap.interval([rows], chrf.scores, num_resamples=50)[:, 0]
  assert low < chrf(targets, predictions)['chrf'] < high


@pytest.mark.parametrize('text', [CHINESE, HINDI])
def test_a_text_that_rouge_cannot_read_has_100_chrf_against_itself(text):
  assert set(metrics.rouge([text], [text]).values()) == {0}
  assert metrics.get('chrf')([text], [text]) == {'chrf': pytest.approx(100)}


@pytest.mark.parametrize(
  'name, target, is_blind',
  [
    ('rouge', CHINESE, True),
    ('rouge', HINDI, True),
    ('rouge', CHINESE + ' 2020', True),
    ('rouge', 'Это столица', True),
    ('rouge', '...', True),
    ('rouge', '', True),
    ('rouge', 'Zürich', False),
    ('rouge', 'Đà Nẵng is in Vietnam', False),
    ('rouge', '42', False),
    ('bleu', CHINESE, True),
    ('bleu', 'กรุงเทพมหานคร', True),
    ('bleu', ' ', True),
    ('bleu', HINDI, False),
    ('bleu', 'Это столица', False),
    ('bleu', '서울은 한국의 수도이다', False),
    ('bleu', '!', False),
    ('trivia_qa', ['The', 'a'], True),
    ('trivia_qa', ['!?'], True),
    ('trivia_qa', ['The', 'The Who'], False),
    ('trivia_qa', ['东京'], False),
    ('chrf', '', True),
    ('chrf', CHINESE, False),
  ],
)
def test_what_a_metric_cannot_measure(name, target, is_blind):
  assert metrics.get(name).blind(target) == is_blind


def test_a_corpus_in_which_bleu_is_blind_scores_0_against_itself():
  """One word a sentence has no bigram."""
  texts = ['东京是日本的首都', '巴黎是法国的首都']
  assert metrics.bleu(texts, texts) == {'bleu': 0}
  assert metrics.trivia_qa([['The']], ['The'])['f1'] == 0
