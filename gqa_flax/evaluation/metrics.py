"""The paper's metrics, as T5 reports them: strings in, numbers out.

Every metric takes `targets` and `predictions` of equal length and returns a
dict of percentages (0 to 100). None of them depends on the order of the
examples. The source is `t5/evaluation/metrics.py` and `qa_utils.py` of
google-research/text-to-text-transfer-transformer; what differs is said below.
"""

import collections
import difflib
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence

import sacrebleu
from rouge_score import rouge_scorer

ROUGE_KEYS = ('rouge1', 'rouge2', 'rougeLsum')

# TriviaQA's own evaluation adds the quotation marks that ASCII lacks.
_PUNCTUATION_TO_SPACE = str.maketrans(
  {mark: ' ' for mark in string.punctuation + '‘’´`_'}
)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """ROUGE-1, ROUGE-2 and summary-level ROUGE-L, without stemming.

  T5 reports the median of a bootstrap over the examples, which moves by a
  hundredth from run to run; this is the mean it estimates.

  Args:
    targets: one reference summary for each example.
    predictions: one summary for each example.

  Returns:
    {'rouge1', 'rouge2', 'rougeLsum'}: the mean F-measure, in percent.

  Raises:
    ValueError: no examples, unequal lengths, or something other than strings.
  """
  _check_examples('rouge', targets, predictions)
  scorer = rouge_scorer.RougeScorer(ROUGE_KEYS, use_stemmer=False)
  scores = [
    scorer.score(_one_sentence_a_line(target), _one_sentence_a_line(prediction))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {
    key: _percent([score[key].fmeasure for score in scores])
    for key in ROUGE_KEYS
  }


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Corpus BLEU by sacrebleu: intl tokenizer, exponential smoothing, cased.

  Args:
    targets: one reference translation for each example.
    predictions: one translation for each example.

  Returns:
    {'bleu'}, in percent.

  Raises:
    ValueError: no examples, unequal lengths, or something other than strings.
  """
  _check_examples('bleu', targets, predictions)
  score = sacrebleu.corpus_bleu(
    list(predictions),
    [list(targets)],
    smooth_method='exp',
    tokenize='intl',
    # An untrained model writes ' .' at the end of its lines, which sacrebleu
    # takes for tokenized text and warns about; the score is the same.
    force=True,
  )
  return {'bleu': score.score}


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
  _check_lengths('trivia_qa', targets, predictions)
  _check_strings('trivia_qa', 'predictions', predictions)
  exact_match, f1 = [], []
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
    exact_match.append(float(guess in answers))
    f1.append(max(_token_f1(answer, guess) for answer in answers))
  return {'exact_match': _percent(exact_match), 'f1': _percent(f1)}


METRICS: Mapping[str, Callable[..., dict[str, float]]] = {
  'rouge': rouge,
  'bleu': bleu,
  'trivia_qa': trivia_qa,
}


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
  if name not in METRICS:
    nearest = difflib.get_close_matches(name, METRICS, cutoff=0.4)
    raise ValueError(
      f'There is no metric {name!r}; '
      + (f'did you mean {" or ".join(nearest)}? ' if nearest else '')
      + f'The metrics are {", ".join(METRICS)}.'
    )
  return METRICS[name](targets, predictions)


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


def _percent(values: Sequence[float]) -> float:
  # fsum rounds once, so the order of the examples cannot show in the result.
  return 100 * math.fsum(values) / len(values)


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
