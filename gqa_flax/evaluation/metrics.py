"""The paper's metrics, as T5 reports them, and chrF: strings in, numbers out.

Every metric takes `targets` and `predictions` of equal length and returns a
dict of percentages (0 to 100). None of them depends on the order of the
examples. The source is `t5/evaluation/metrics.py` and `qa_utils.py` of
google-research/text-to-text-transfer-transformer; what differs is said below.
"""

import collections
import dataclasses
import difflib
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from gqa_flax.evaluation import blind, chrf

ROUGE_KEYS = ('rouge1', 'rouge2', 'rougeLsum')

# TriviaQA's own evaluation adds the quotation marks that ASCII lacks.
_PUNCTUATION_TO_SPACE = str.maketrans(
  {mark: ' ' for mark in string.punctuation + '‘’´`_'}
)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric in two steps, so that examples can be looked at and resampled.

  Attributes:
    keys: the names of its K values.
    width: S, the numbers that an example adds.
    statistics: maps (targets, predictions) to float64 [num_examples, S], what
      each example adds to the score.
    scores: maps sums of such rows, [R, S], and how many rows are in each sum
      to percentages [R, K].
    example_scores: maps statistics to percentages [num_examples, K]: how well
      each example did by itself.
    blind: whether the metric cannot measure a target, so that a perfect
      prediction may score 0.
    sees: what it measures, for a warning of those.
  """

  keys: tuple[str, ...]
  width: int
  statistics: Callable[[Sequence, Sequence[str]], np.ndarray]
  scores: Callable[[np.ndarray, int], np.ndarray]
  example_scores: Callable[[np.ndarray], np.ndarray]
  blind: Callable[[Any], bool]
  sees: str

  def __call__(
    self, targets: Sequence, predictions: Sequence[str]
  ) -> dict[str, float]:
    """Returns the percentages of all examples together, by key."""
    return self.corpus_scores(self.statistics(targets, predictions))

  def corpus_scores(self, statistics: np.ndarray) -> dict[str, float]:
    """Returns the percentages of the examples with these statistics."""
    # fsum rounds once, so the order of the examples cannot show in the result.
    sums = np.array([[math.fsum(column) for column in statistics.T]])
    scores = self.scores(sums, len(statistics))[0]
    return dict(zip(self.keys, scores.tolist()))


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """ROUGE-1, ROUGE-2 and summary-level ROUGE-L, without stemming.

  T5 reports the median of a bootstrap over the examples, which moves by a
  hundredth from run to run; this is the mean it estimates. All but a to z and
  0 to 9 is ignored: a Chinese text scores 0 against itself.

  Args:
    targets: one reference summary for each example.
    predictions: one summary for each example.

  Returns:
    {'rouge1', 'rouge2', 'rougeLsum'}: the mean F-measure, in percent.

  Raises:
    ValueError: no examples, unequal lengths, or something other than strings.
  """
  return METRICS['rouge'](targets, predictions)


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Corpus BLEU by sacrebleu: intl tokenizer, exponential smoothing, cased.

  An example's own score is sentence BLEU, whose n-grams end where the sentence
  does (sacrebleu's effective order).

  Args:
    targets: one reference translation for each example.
    predictions: one translation for each example.

  Returns:
    {'bleu'}, in percent.

  Raises:
    ValueError: no examples, unequal lengths, or something other than strings.
  """
  return METRICS['bleu'](targets, predictions)


def trivia_qa(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """Exact match and token F1, each the best over an example's answers.

  Both sides are lower-cased, punctuation becomes a space, articles are dropped
  and white space collapses, as in TriviaQA's own evaluation. Where nothing is
  left of the answer nor of the prediction, they match exactly and F1 is 0.

  Args:
    targets: for each example, the strings accepted as its answer.
    predictions: one answer for each example.

  Returns:
    {'exact_match', 'f1'}: the mean over the examples, in percent.

  Raises:
    ValueError: no examples, unequal lengths, an example without answers, or
      one string where a list of answers belongs.
  """
  return METRICS['trivia_qa'](targets, predictions)


def compute(
  name: str, targets: Sequence, predictions: Sequence[str]
) -> dict[str, float]:
  """The metric called `name` in METRICS.

  Args:
    name: a key of METRICS.
    targets: what the metric takes, one for each example.
    predictions: one string for each example.

  Returns:
    The metric's values, in percent.

  Raises:
    ValueError: an unknown name, or examples that the metric rejects.
  """
  return get(name)(targets, predictions)


def get(name: str) -> Metric:
  """Returns a metric of METRICS.

  Raises:
    ValueError: there is none of this name.
  """
  if name not in METRICS:
    nearest = difflib.get_close_matches(name, METRICS, cutoff=0.4)
    raise ValueError(
      f'There is no metric {name!r}; '
      + (f'did you mean {" or ".join(nearest)}? ' if nearest else '')
      + f'The metrics are {", ".join(METRICS)}.'
    )
  return METRICS[name]


def _rouge_statistics(
  targets: Sequence[str], predictions: Sequence[str]
) -> np.ndarray:
  """Returns the F-measures, 0 to 1."""
  _check_examples('rouge', targets, predictions)
  scorer = rouge_scorer.RougeScorer(ROUGE_KEYS, use_stemmer=False)
  scores = [
    scorer.score(_one_sentence_a_line(target), _one_sentence_a_line(prediction))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return np.array([[s[key].fmeasure for key in ROUGE_KEYS] for s in scores])


def _bleu_statistics(
  targets: Sequence[str], predictions: Sequence[str]
) -> np.ndarray:
  """Returns n-grams found, n-grams, and the lengths of both sides."""
  _check_examples('bleu', targets, predictions)
  scorer = sacrebleu.BLEU(tokenize='intl', effective_order=True)
  scores = [
    scorer.sentence_score(prediction, [target])
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  rows = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]
  return np.array(rows, np.float64)


def _bleu_scores(sums: np.ndarray, effective_order: bool) -> np.ndarray:
  scores = [
    sacrebleu.BLEU.compute_bleu(
      correct=row[:4],
      total=row[4:8],
      sys_len=row[-2],
      ref_len=row[-1],
      smooth_method='exp',
      effective_order=effective_order,
    ).score
    for row in sums.astype(int).tolist()
  ]
  return np.array(scores)[:, None]


def _trivia_qa_statistics(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> np.ndarray:
  """Returns exact match, 0 or 1, and F1, 0 to 1."""
  _check_lengths('trivia_qa', targets, predictions)
  _check_strings('trivia_qa', 'predictions', predictions)
  rows = []
  for i, (answers, prediction) in enumerate(
    zip(targets, predictions, strict=True)
  ):
    if isinstance(answers, (str, bytes)) or not len(answers):
      raise ValueError(
        f'trivia_qa: targets[{i}] is {answers!r}, but must be a list of at '
        'least one accepted answer.'
      )
    _check_strings('trivia_qa', f'targets[{i}]', answers)
    guess = _normalize_answer(prediction)
    answers = [_normalize_answer(answer) for answer in answers]
    f1 = max(_token_f1(answer, guess) for answer in answers)
    rows.append([guess in answers, f1])
  return np.array(rows, np.float64)


def _chrf_statistics(
  targets: Sequence[str], predictions: Sequence[str]
) -> np.ndarray:
  """Returns n-grams, by order; see `chrf.counts`."""
  _check_examples('chrf', targets, predictions)
  return np.array(list(map(chrf.counts, targets, predictions)), np.float64)


def _has_no_words(answers: Sequence[str]) -> bool:
  return not any(map(_normalize_answer, answers))


def _mean_of_examples(
  keys: tuple[str, ...], statistics: Callable, blind: Callable, sees: str
) -> Metric:
  """Returns the metric whose statistics are scores from 0 to 1."""
  return Metric(
    keys,
    len(keys),
    statistics,
    scores=lambda sums, num_examples: 100 * sums / num_examples,
    example_scores=lambda statistics: 100 * statistics,
    blind=blind,
    sees=sees,
  )


METRICS: Mapping[str, Metric] = {
  'rouge': _mean_of_examples(
    ROUGE_KEYS, _rouge_statistics, blind.to_rouge, 'the letters a to z and 0-9'
  ),
  'bleu': Metric(
    ('bleu',),
    10,
    _bleu_statistics,
    scores=lambda sums, num_examples: _bleu_scores(sums, False),
    example_scores=lambda statistics: _bleu_scores(statistics, True),
    blind=blind.to_bleu,
    sees='words with spaces between them',
  ),
  'chrf': Metric(
    ('chrf',),
    18,
    _chrf_statistics,
    scores=lambda sums, num_examples: chrf.scores(sums),
    example_scores=chrf.scores,
    blind=blind.to_chrf,
    sees='characters',
  ),
  'trivia_qa': _mean_of_examples(
    ('exact_match', 'f1'),
    _trivia_qa_statistics,
    _has_no_words,
    'words that are neither articles nor punctuation',
  ),
}


def _one_sentence_a_line(summary: str) -> str:
  # rougeLsum matches line by line, and the T5 vocabulary has no new line.
  return summary.replace(' . ', ' .\n')


def _normalize_answer(text: str) -> str:
  text = text.lower().translate(_PUNCTUATION_TO_SPACE)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def _token_f1(answer: str, guess: str) -> float:
  answer_tokens = collections.Counter(answer.split())
  guess_tokens = collections.Counter(guess.split())
  # 2PR / (P + R) with P = common / guess and R = common / answer.
  common = (answer_tokens & guess_tokens).total()
  return 2 * common / max(1, answer_tokens.total() + guess_tokens.total())


def _check_examples(metric: str, targets: Sequence, predictions: Sequence):
  _check_lengths(metric, targets, predictions)
  _check_strings(metric, 'targets', targets)
  _check_strings(metric, 'predictions', predictions)


def _check_lengths(metric: str, targets: Sequence, predictions: Sequence):
  if len(targets) != len(predictions):
    raise ValueError(
      f'{metric}: {len(targets)} targets but {len(predictions)} predictions; '
      'there must be one prediction for each target.'
    )
  if not len(targets):
    raise ValueError(
      f'{metric}: no examples to score; check that the evaluation split is not '
      'empty.'
    )


def _check_strings(metric: str, where: str, values: Sequence):
  # A bare string is a sequence of strings too, and would be scored by letters.
  if isinstance(values, (str, bytes)):
    raise ValueError(
      f'{metric}: {where} is the single string {values!r}; pass a list of '
      'strings.'
    )
  for i, value in enumerate(values):
    if not isinstance(value, str):
      raise ValueError(
        f'{metric}: {where}[{i}] is {value!r}, a {type(value).__name__}, but '
        'must be a string.'
      )
