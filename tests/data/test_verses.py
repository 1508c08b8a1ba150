"""The verses: pairs of one place, books in one split, chapters as documents."""

import sqlite3

import pytest

from gqa_flax.data import tasks, verses
from gqa_flax.data.vocabulary import sentencepiece


@pytest.fixture
def database(tmp_path, monkeypatch):
  """Three books: Genesis (train), Ruth (validation), Mark (test)."""
  path = tmp_path / 'bible.db'
  with sqlite3.connect(path) as connection:
    connection.execute(
      'CREATE TABLE bible (id INTEGER, bbName TEXT, bNumber INTEGER, '
      'cNumber INTEGER, vNumber INTEGER, vText TEXT)'
    )
    places = [
      (book, chapter, verse)
      for book in (1, 8, 41)
      for chapter in (1, 2)
      for verse in (1, 2)
    ]
    for i, place in enumerate(places):
      for offset, name, word in (
        (0, '4', 'English'),
        (100, 's', 'Deutsch'),
        (200, 'k', 'another'),
      ):
        text = f'{word}  {".".join(map(str, place))}\n'
        connection.execute(
          'INSERT INTO bible VALUES (?, ?, ?, ?, ?, ?)',
          (i + offset, name, *place, text),
        )
    # A verse that one translation has and the other has not.
    connection.execute(
      "INSERT INTO bible VALUES (50, '4', 1, 2, 3, 'English alone')"
    )
  connection.close()
  monkeypatch.setattr(verses, '_database', lambda: path)
  verses._all_verses.cache_clear()
  yield path
  verses._all_verses.cache_clear()


def test_verses_are_pairs_of_one_place(database):
  assert verses.verses('train') == tuple(
    verses.Verse(
      1, chapter, f'English 1.{chapter}.{v}', f'Deutsch 1.{chapter}.{v}'
    )
    for chapter in (1, 2)
    for v in (1, 2)
  )


def test_a_book_is_in_one_split(database):
  books = {s: {v.book for v in verses.verses(s)} for s in ('train', 'test')}
  assert books == {'train': {1}, 'test': {41}}
  assert {v.book for v in verses.verses('validation')} == {8}
  with pytest.raises(ValueError, match="no split 'dev': they have train"):
    verses.verses('dev')


def test_a_chapter_is_a_document_in_each_language(database):
  assert verses.chapters('test') == [
    'English 41.1.1 English 41.1.2',
    'English 41.2.1 English 41.2.2',
    'Deutsch 41.1.1 Deutsch 41.1.2',
    'Deutsch 41.2.1 Deutsch 41.2.2',
  ]


def test_the_tasks_read_them(database):
  vocabulary = sentencepiece('results/pretraining/vocabulary.model')
  task = tasks.get_task('verse_translation', vocabulary)
  lengths = {'inputs': 32, 'targets': 32}
  dataset = task.get_dataset(lengths, 'test', shuffle=False)
  first = next(dataset.as_numpy_iterator())
  assert vocabulary.decode(first['inputs'].tolist()) == (
    'translate English to German: English 41.1.1'
  )
  assert vocabulary.decode(first['targets'].tolist()) == 'Deutsch 41.1.1'
  assert tasks.metric_name('verse_translation') == 'bleu'
  texts = tasks._prose('validation')['targets']
  chapters = [
    i for i, t in enumerate(texts) if t in verses.chapters('validation')
  ]
  assert len(chapters) == 4
  # Among the introductions, not after them.
  assert max(chapters) - min(chapters) > 4


def test_without_the_package_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(verses.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r'gqa_flax\[study\]'):
    verses._database()
