"""What a model must beat: unigrams, and summaries that nobody learned."""

import collections
import re
from collections.abc import Iterable, Mapping

import numpy as np

from gqa_flax.data.examples import read_examples
from gqa_flax.evaluation import metrics

EOS_ID = 1
NUM_SENTINELS = 100
_ALL = 10_000  # more than a split has examples, and an example has tokens


def text_only(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns a span-corruption batch whose loss counts ordinary text alone.

  Sentinels come in a fixed order and EOS after the last of them, so that a
  model has them for nothing; without them the loss compares with unigrams.
  """
  tokens = batch['decoder_target_tokens']
  vocabulary = max(int(batch['decoder_target_tokens'].max()), NUM_SENTINELS)
  first_sentinel = vocabulary - NUM_SENTINELS + 1
  text = (tokens > EOS_ID) & (tokens < first_sentinel)
  weights = batch['decoder_loss_weights'] * text
  return {**batch, 'decoder_loss_weights': weights.astype(np.float32)}


def unigram(
  train: Iterable[Mapping[str, np.ndarray]],
  held_out: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, float]:
  """Returns the cross-entropy of held-out targets under train's unigrams.

  Args:
    train: batches whose targets are counted, one added to every count.
    held_out: batches whose targets are predicted.

  Returns:
    In nats a token: 'unigram/cross_entropy' over all target tokens, and
    'unigram_text/cross_entropy' over those of `text_only`, with counts of the
    same.
  """
  train, held_out = list(train), list(held_out)
  return {
    'unigram/cross_entropy': _unigram(train, held_out),
    'unigram_text/cross_entropy': _unigram(
      map(text_only, train), map(text_only, held_out)
    ),
  }


def _unigram(train, held_out) -> float:
  counted, predicted = _targets(train), _targets(held_out)
  size = 1 + max(counted.max(), predicted.max())
  counts = 1.0 + np.bincount(counted, minlength=size)
  return float(-np.log(counts / counts.sum())[predicted].mean())


def _targets(rows) -> np.ndarray:
  return np.concatenate(
    [b['decoder_target_tokens'][b['decoder_loss_weights'] > 0] for b in rows]
  )


def trivial_summaries(task, num_test: int = _ALL) -> dict[str, float]:
  """Returns the ROUGE-1 on the test split of summaries nobody learned.

  'first_words' are the introduction's first n words and 'common_words' the n
  most frequent words of the training descriptions, with the best n of each on
  the validation split; 'after_is_a' is a rule written by hand, and no trivial
  one: the words between "is a" and the next comma or clause.

  Args:
    task: summarization, of the embedded corpus.
    num_test: how many examples of the test split, from its beginning.
  """
  train, validation, test = (
    [_texts(example) for example in read_examples(task, split, _ALL, number)]
    for split, number in (
      ('train', _ALL),
      ('validation', _ALL),
      ('test', num_test),
    )
  )
  frequent = collections.Counter(
    word for _, target in train for word in target.lower().split()
  )
  common = [word for word, _ in frequent.most_common(20)]
  families = {
    'first_words': lambda n, text: ' '.join(text.split()[:n]),
    'common_words': lambda n, text: ' '.join(common[:n]),
    'after_is_a': _after_is_a,
  }

  def rouge1(family, n, examples):
    summaries = [family(n, text) for text, _ in examples]
    targets = [target for _, target in examples]
    return metrics.rouge(targets, summaries)['rouge1']

  scores = {}
  for name, family in families.items():
    best = max(range(2, 21), key=lambda n: rouge1(family, n, validation))
    scores[f'{name}/words'] = best
    scores[f'{name}/rouge1'] = rouge1(family, best, test)
  return scores


def _after_is_a(n: int, text: str) -> str:
  verb = re.search(r'\b(?:is|was|are|were|refers to)(?: an?| the)?\s', text)
  clause = text[verb.end() :] if verb else text
  clause = re.split(r'[.,;]| that | which | who ', clause)[0]
  return ' '.join(clause.split()[:n])


def _texts(example) -> tuple[str, str]:
  source = example['inputs_pretokenized'].decode()
  return (
    source.removeprefix('summarize: '),
    example['targets_pretokenized'].decode(),
  )
