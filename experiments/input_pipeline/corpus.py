"""Data sets as large as a measurement needs, of documents as long as published.

Introductions of the embedded Wikipedia corpus are joined until a document has
its length, so that the tokenizer sees real English prose; they come round again
when all have been used. Lengths are log-normal around the means of `SHAPES`.
TFDS writes the records by the builders' own information. English stands in for
WMT's German, too.
"""

import dataclasses
import math
import os
import pathlib
import random
from collections.abc import Callable, Iterator, Mapping

import tensorflow_datasets as tfds

from gqa_flax.data import catalogue, embedded

NUM_SHARDS = 8
# The splits that are not read; a cache is written of all that a task has.
_REST = {'validation': 2, 'val': 2, 'test': 2}
_SPREAD = 0.5  # standard deviation of the logarithm of a length


class Prose:
  """Gives prose by the number of words, the same for the same seed."""

  def __init__(self, seed: str):
    """Starts with the articles in an order of the seed's."""
    self._random = random.Random(seed)
    articles = list(embedded.articles('train'))
    self._random.shuffle(articles)
    self._words = [
      word for article in articles for word in article.extract.split()
    ]
    self._next = 0

  def exactly(self, num_words: int) -> str:
    """Returns so many words, and goes on behind them."""
    words: list[str] = []
    while len(words) < num_words:
      start = self._next % len(self._words)
      words += self._words[start : start + num_words - len(words)]
      self._next = start + num_words
    return ' '.join(words)

  def about(self, mean_words: float) -> str:
    """Returns as many words as a draw around the mean, one at least."""
    # The mean of a log-normal is half its variance above the median.
    center = math.log(mean_words) - _SPREAD**2 / 2
    drawn = self._random.lognormvariate(center, _SPREAD)
    return self.exactly(max(1, round(drawn)))


def _cnn_dailymail(prose: Prose, identity: str) -> dict:
  return {
    'article': prose.about(780),
    'highlights': '\n'.join(prose.about(14) for _ in range(4)),
    'id': identity,
    'publisher': 'cnn',
  }


def _arxiv(prose: Prose, identity: str) -> dict:
  del identity
  return {
    'article': prose.about(5500),
    'abstract': f' {prose.about(200)}',
    'section_names': '\n'.join(prose.about(3) for _ in range(6)),
  }


def _wmt(prose: Prose, identity: str) -> dict:
  del identity
  return {'en': prose.about(25), 'de': prose.about(25)}


def _trivia_qa(prose: Prose, identity: str) -> dict:
  """Two pages of Wikipedia, which are read, and two results, which are not."""
  answer = prose.exactly(2)
  return {
    'question': prose.about(14),
    'question_id': identity,
    'question_source': 'http://quiz.example/',
    'entity_pages': {
      'doc_source': ['TagMe'] * 2,
      'filename': [f'{identity}_{i}.txt' for i in range(2)],
      'title': [prose.exactly(2) for _ in range(2)],
      'wiki_context': [prose.about(5000) for _ in range(2)],
    },
    'search_results': {
      'description': [prose.about(20) for _ in range(2)],
      'filename': [f'{identity}_{i}.txt' for i in range(2)],
      'rank': [0, 1],
      'title': [prose.exactly(5) for _ in range(2)],
      'url': [f'http://pages.example/{identity}/{i}' for i in range(2)],
      'search_context': [prose.about(2500) for _ in range(2)],
    },
    'answer': {
      'aliases': [prose.exactly(2) for _ in range(8)],
      'normalized_aliases': [prose.exactly(2) for _ in range(8)],
      'matched_wiki_entity_name': '',
      'normalized_matched_wiki_entity_name': '',
      'normalized_value': answer.lower(),
      'type': 'WikipediaEntity',
      'value': answer,
    },
  }


def _c4(prose: Prose, identity: str) -> dict:
  text = prose.about(400)
  return {
    'text': text,
    'url': f'https://pages.example/{identity}',
    'content-type': 'text/plain',
    'content-length': str(len(text)),
    'timestamp': '2019-04-18T12:00:00Z',
  }


@dataclasses.dataclass(frozen=True)
class Shape:
  """A task as the paper has it, and what its data set looks like here.

  Attributes:
    lengths: the paper's, in tokens.
    pack: as the run's gin file has it.
    example: makes an example for TFDS.
    num_measured: examples of an epoch whose rate is measured.
    num_long: examples of an epoch in which a position is saved late,
    late_step: after as many batches.
  """

  lengths: Mapping[str, int]
  pack: bool
  example: Callable[[Prose, str], dict]
  num_measured: int
  num_long: int
  late_step: int


def _lengths(inputs: int, targets: int) -> dict[str, int]:
  return {'inputs': inputs, 'targets': targets}


SHAPES: Mapping[str, Shape] = {
  'cnn_dailymail': Shape(
    _lengths(512, 256), False, _cnn_dailymail, 512, 6_000, 400
  ),
  'arxiv': Shape(_lengths(2048, 512), False, _arxiv, 96, 4_000, 150),
  'wmt14_en_de': Shape(_lengths(512, 256), False, _wmt, 2_560, 16_000, 1_500),
  'trivia_qa': Shape(_lengths(2048, 32), False, _trivia_qa, 96, 4_000, 150),
  'c4_span_corruption': Shape(_lengths(512, 114), True, _c4, 1_024, 8_000, 600),
}


def write(
  data_dir: str | os.PathLike,
  task_name: str,
  num_examples: int,
  num_shards: int = NUM_SHARDS,
) -> None:
  """Writes the data set of a task into TFDS's folder, unless it is there.

  Args:
    data_dir: TFDS's folder.
    task_name: in `SHAPES`.
    num_examples: of the split 'train'; other splits have two.
    num_shards: of the split 'train'.
  """
  published = catalogue.DATA_SETS[task_name]
  builder = tfds.builder(published.tfds_name, data_dir=data_dir)
  folder = pathlib.Path(builder.data_path)
  if (folder / 'dataset_info.json').exists():
    return
  folder.mkdir(parents=True, exist_ok=True)
  writer = tfds.core.SequentialWriter(
    builder.info, max_examples_per_shard=-(-num_examples // num_shards)
  )
  writer.initialize_splits(list(published.examples))
  prose = Prose(task_name)
  for split in published.examples:
    count = num_examples if split == 'train' else _REST[split]
    writer.add_examples({split: _examples(prose, task_name, split, count)})
  writer.close_all()


def _examples(
  prose: Prose, task_name: str, split: str, count: int
) -> Iterator[dict]:
  make = SHAPES[task_name].example
  return (make(prose, f'{split}_{i}') for i in range(count))
