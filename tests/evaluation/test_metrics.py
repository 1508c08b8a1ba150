"""Metrics against values worked out by hand and against the libraries."""

import random
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from gqa_flax.evaluation import metrics

SENTENCES = [
  'the cat sat on the mat . it purred .',
  'Ein Haus ist wunderbar , sagte sie .',
  'résumé of naïve café owners in Zürich',
  'line one\nline two\nline three',
  'a b c d e f g',
]
GARBLED = [
  'on the mat sat a cat . purred it .',
  'Das Haus ist schön , sagte er .',
  'resume of naive cafe owners in Zürich',
  'line two\nline one',
  '',
]
ANSWERS = [['Paris', 'City of Light'], ['Zürich'], ['the 1960s', '1960']]


# ROUGE


def test_rouge_by_hand():
  # Target 4 words, prediction 3, of which 'cat' and 'sat' are shared:
  # P = 2/3, R = 2/4, F = 4/7. Bigrams: 3 against 2, 'cat sat' is shared:
  # P = 1/2, R = 1/3, F = 2/5. The longest common subsequence is 'cat sat'.
  scores = metrics.rouge(['the cat sat down'], ['cat sat up'])
  assert scores == pytest.approx(
    {'rouge1': 400 / 7, 'rouge2': 40.0, 'rougeLsum': 400 / 7}
  )


def test_rouge_is_the_plain_mean_of_the_examples():
  # 100 for the first; for the second P = R = 1/2, so F = 50, and no bigram.
  scores = metrics.rouge(['a b', 'c d'], ['a b', 'c x'])
  assert scores == pytest.approx(
    {'rouge1': 75.0, 'rouge2': 50.0, 'rougeLsum': 75.0}
  )


def test_rouge_does_not_stem():
  # With stemming both words would be 'run'.
  assert metrics.rouge(['runs'], ['running'])['rouge1'] == 0


def test_rouge_lsum_takes_space_dot_space_for_the_end_of_a_sentence():
  # Two sentences in the other order: by sentence every word is found, in one
  # line only one of the two halves is a common subsequence.
  target, prediction = 'a b . c d', 'c d . a b'
  assert metrics.rouge([target], [prediction])['rougeLsum'] == 100
  # The prediction is cut too: each of its sentences is found in the target.
  assert metrics.rouge(['a b c d'], [prediction])['rougeLsum'] == 100
  # Without the spaces there is one line: LCS 2 of 4.
  target, prediction = 'a b. c d', 'c d. a b'
  assert metrics.rouge([target], [prediction])['rougeLsum'] == 50


def test_rouge_lsum_keeps_new_lines_that_are_there():
  assert metrics.rouge(['a b\nc d'], ['c d\na b'])['rougeLsum'] == 100


def test_rouge_of_an_empty_prediction_is_zero():
  assert metrics.rouge(['a b'], ['']) == {
    'rouge1': 0,
    'rouge2': 0,
    'rougeLsum': 0,
  }


def test_rouge_agrees_with_rouge_score():
  scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeLsum'])
  expected = {'rouge1': 0.0, 'rouge2': 0.0, 'rougeLsum': 0.0}
  for target, prediction in zip(SENTENCES, GARBLED, strict=True):
    score = scorer.score(
      target.replace(' . ', ' .\n'), prediction.replace(' . ', ' .\n')
    )
    for key in expected:
      expected[key] += 100 * score[key].fmeasure / len(SENTENCES)
  assert metrics.rouge(SENTENCES, GARBLED) == pytest.approx(expected, rel=1e-12)


# BLEU


def test_bleu_by_hand():
  # Five words against five, all but the last shared: precisions 4/5, 3/4, 2/3
  # and 1/2, no brevity penalty; their product is 1/5, to the power 1/4.
  score = metrics.bleu(['a b c d e'], ['a b c d x'])['bleu']
  assert score == pytest.approx(100 * 0.2**0.25)


def test_bleu_brevity_penalty_by_hand():
  # Every n-gram is found, 4 words for 5: exp(1 - 5/4).
  score = metrics.bleu(['a b c d e'], ['a b c d'])['bleu']
  assert score == pytest.approx(77.8800783071, rel=1e-9)


def test_bleu_exponential_smoothing_by_hand():
  # Words 4/4; bigrams 'a b' and 'c d', 2/3; no trigram of 2: the first zero
  # counts 1/2, so 1/4; no 4-gram of 1: the second counts 1/4, so 1/4.
  score = metrics.bleu(['c d a b'], ['a b c d'])['bleu']
  assert score == pytest.approx(100 * (2 / 3 / 16) ** 0.25)


def test_bleu_is_of_the_corpus_not_the_mean_of_sentences():
  # Counts add up before the division: 9/10 words, 7/8, 5/6, 3/4.
  score = metrics.bleu(['a b c d e', 'f g h i j'], ['a b c d e', 'f g h i x'])
  assert score['bleu'] == pytest.approx(
    100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25
  )


def test_bleu_intl_tokenizer_separates_unicode_punctuation():
  # The default tokenizer 13a leaves the German quotation marks on the words.
  target = 'sie sagte „ nein “ zu ihm'
  assert metrics.bleu([target], ['sie sagte „nein“ zu ihm'])[
    'bleu'
  ] == pytest.approx(100)
  assert (
    sacrebleu.corpus_bleu(
      ['sie sagte „nein“ zu ihm'], [[target]], tokenize='13a'
    ).score
    < 50
  )


def test_bleu_is_cased():
  assert metrics.bleu(['A B C D'], ['a b c d'])['bleu'] == 0


def test_bleu_does_not_take_a_space_before_the_full_stop_for_tokenized(caplog):
  metrics.bleu(['a b c d .'] * 200, ['a b c d .'] * 200)
  assert not caplog.records


def test_bleu_of_an_empty_prediction_is_zero():
  assert metrics.bleu(['a b c d'], ['']) == {'bleu': 0}


def test_bleu_agrees_with_sacrebleu():
  expected = sacrebleu.corpus_bleu(
    GARBLED, [SENTENCES], smooth_method='exp', tokenize='intl'
  )
  assert metrics.bleu(SENTENCES, GARBLED)['bleu'] == expected.score
  assert expected.score > 0


# TriviaQA


@pytest.mark.parametrize(
  ('answers', 'prediction', 'exact_match', 'f1'),
  [
    # Lower case, articles, punctuation and white space do not count.
    (['The  Beatles!'], 'beatles', 100, 100),
    (['a cat, an owl'], 'Cat  owl.', 100, 100),
    # Punctuation becomes a space, so these are two words, not one.
    (['Spider-Man'], 'spider man', 100, 100),
    (['Spider-Man'], 'spiderman', 0, 0),
    (['don‘t'], 'don´t', 100, 100),
    (['snake_case'], 'snake case', 100, 100),
    # An article is a word, not the beginning of one.
    (['Theodore'], 'odore', 0, 0),
    (['Anna'], 'the Anna', 100, 100),
    # An article that punctuation sets free is dropped too.
    (["l'a"], 'l', 100, 100),
    # White space of any kind.
    (['New York'], 'New\nYork\t', 100, 100),
    # Unicode letters stay, and case folds by lower().
    (['ZÜRICH'], 'zürich', 100, 100),
    (['Zürich'], 'Zurich', 0, 0),
    # One of two words: P = 1, R = 1/2, F1 = 2/3.
    (['Marie Curie'], 'Curie', 0, 200 / 3),
    # Words count as often as they stand on both sides: P = 1/2, R = 1/2.
    (['go go stop stop'], 'go go go run', 0, 50),
    # The best alias wins, and exact match and F1 choose for themselves.
    (['Marie Curie', 'Curie', 'M. Curie'], 'curie', 100, 100),
    (['Marie Curie', 'Pierre Curie Senior'], 'Curie', 0, 200 / 3),
    # Nothing predicted, and a prediction that normalizes to nothing.
    (['Paris'], '', 0, 0),
    (['Paris'], 'The ...', 0, 0),
    # The film "A" is nothing after normalization: T5 gives these two values.
    (['A'], 'the', 100, 0),
  ],
)
def test_trivia_qa_by_hand(answers, prediction, exact_match, f1):
  assert metrics.trivia_qa([answers], [prediction]) == pytest.approx(
    {'exact_match': exact_match, 'f1': f1}
  )


def test_trivia_qa_is_the_mean_of_the_examples():
  # Exact, F1 0, and 'late 1960' against '1960': P = 1/2, R = 1, F1 = 2/3.
  scores = metrics.trivia_qa(ANSWERS, ['city of light', 'Bern', 'late 1960'])
  assert scores == pytest.approx(
    {'exact_match': 100 / 3, 'f1': (100 + 0 + 200 / 3) / 3}
  )


# All of them


@pytest.mark.parametrize('name', ['rouge', 'bleu'])
def test_identical_strings_score_100(name):
  for value in metrics.compute(name, SENTENCES, SENTENCES).values():
    assert value == pytest.approx(100, abs=1e-9)


def test_identical_answers_score_100():
  scores = metrics.trivia_qa(ANSWERS, [answers[-1] for answers in ANSWERS])
  assert scores == {'exact_match': 100, 'f1': 100}


@pytest.mark.parametrize('name', ['rouge', 'bleu', 'trivia_qa'])
def test_the_order_of_the_examples_does_not_matter(name):
  targets = SENTENCES * 3
  if name == 'trivia_qa':
    targets = [[target, target[:9]] for target in targets]
  pairs = list(
    zip(targets, GARBLED + SENTENCES[::-1] + GARBLED[::-1], strict=True)
  )
  expected = metrics.compute(name, *zip(*pairs, strict=True))
  for seed in range(5):
    random.Random(seed).shuffle(pairs)
    assert metrics.compute(name, *zip(*pairs, strict=True)) == expected


def test_compute_finds_every_metric():
  assert metrics.compute('bleu', ['a b'], ['a c']) == metrics.bleu(
    ['a b'], ['a c']
  )
  assert metrics.compute('rouge', ['a b'], ['a c']) == metrics.rouge(
    ['a b'], ['a c']
  )
  assert metrics.compute('trivia_qa', [['a b']], ['b c']) == metrics.trivia_qa(
    [['a b']], ['b c']
  )


@pytest.mark.parametrize('name', ['rouge', 'bleu', 'trivia_qa'])
def test_unequal_lengths_name_both(name):
  with pytest.raises(ValueError, match=f'{name}: 2 targets but 1 predictions'):
    metrics.compute(name, [['x'], ['y']], ['x'])


@pytest.mark.parametrize('name', ['rouge', 'bleu', 'trivia_qa'])
def test_no_examples(name):
  with pytest.raises(ValueError, match=f'{name}: no examples to score'):
    metrics.compute(name, [], [])


@pytest.mark.parametrize(
  ('name', 'targets', 'predictions', 'message'),
  [
    ('rouge', [['a']], ['a'], r"targets\[0\] is \['a'\], a list, but must"),
    ('bleu', ['a'], [b'a'], r"predictions\[0\] is b'a', a bytes, but must"),
    ('rouge', 'ab', 'ab', "targets is the single string 'ab'"),
    ('trivia_qa', ['Paris'], ['P'], r"targets\[0\] is 'Paris', but must be a"),
    ('trivia_qa', [['x'], []], ['x', 'y'], r'targets\[1\] is \[\], but must'),
    ('trivia_qa', [[b'x']], ['x'], r"targets\[0\]\[0\] is b'x', a bytes"),
    ('trivia_qa', [['x']], [None], r'predictions\[0\] is None, a NoneType'),
  ],
)
def test_what_is_not_strings_is_rejected(name, targets, predictions, message):
  with pytest.raises(ValueError, match=f'{name}: {message}'):
    metrics.compute(name, targets, predictions)


def test_an_unknown_metric_gets_the_nearest_names():
  with pytest.raises(ValueError, match=r"no metric 'rogue'; .* rouge\?"):
    metrics.compute('rogue', ['a'], ['a'])
  with pytest.raises(
    ValueError, match='metrics are rouge, bleu, chrf, trivia_qa'
  ):
    metrics.compute('xyz', ['a'], ['a'])


def test_metrics_load_neither_jax_nor_tensorflow():
  # In a fresh interpreter: here conftest.py has imported JAX already.
  code = (
    'import sys, gqa_flax.evaluation.metrics;'
    'print([m for m in ("jax", "tensorflow", "seqio") if m in sys.modules])'
  )
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert loaded.stdout.strip() == '[]'
