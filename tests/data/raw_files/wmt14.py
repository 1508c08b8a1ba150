"""Parallel sentences as statmt.org publishes them.

Training and validation files have a sentence a line, the same line of two
files; the test set is in SGML.
"""

import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

NAME = 'wmt14_translate/de-en:1.0.0'
STATMT = 'http://www.statmt.org/wmt'

# The corpora of the training split: where they are, and below, without suffix.
TRAIN = {
  STATMT + '13/training-parallel-europarl-v7.tgz': (
    'training/europarl-v7.de-en'
  ),
  STATMT + '13/training-parallel-commoncrawl.tgz': 'commoncrawl.de-en',
  STATMT + '14/training-parallel-nc-v9.tgz': (
    'training/news-commentary-v9.de-en'
  ),
}
DEV = 'http://data.statmt.org/wmt19/translation-task/dev.tgz'

SGML = """\
<{kind} setid="newstest2014" srclang="any">
<doc sysid="ref" docid="invented" genre="news" origlang="de">
<p>
{segments}
</p>
</doc>
</{kind}>
"""

# Pairs that TFDS keeps as they are, carriage return, entity and spaces too.
ODD = [
  ('„Größe“ zählt – £5 {oder} mehr\xa0…', '“Size” matters: £5 \\ or <more>…'),
  (' Ein\rWort. ', 'One\rword .'),
  ('Fish &amp; Chips', 'Fish &amp; chips ~'),
]
# TFDS passes over pairs of which one half is empty.
HALVES = [('', '(Applause)'), ('(Beifall)', ''), ('', '')]


def _regular(prose: Prose, index: int) -> tuple[str, str]:
  """Returns a sentence and its word-by-word mirror: no one speaks this."""
  english = ' '.join(prose.document(index)[:12])
  return ' '.join(word[::-1] for word in english.split()), english


def _write_lines(path: pathlib.Path, pairs: list[tuple[str, str]]) -> None:
  for language, lines in zip(('de', 'en'), zip(*pairs)):
    text = ''.join(f'{line}\n' for line in lines)
    write_text(path.with_name(f'{path.name}.{language}'), text)


def _write_sgml(folder: pathlib.Path, pairs: list[tuple[str, str]]) -> None:
  for kind, name, lines in zip(
    ('srcset', 'refset'), ('src.de', 'ref.en'), zip(*pairs)
  ):
    segments = '\n'.join(
      f'<seg id="{i}">{line}</seg>' for i, line in enumerate(lines, 1)
    )
    text = SGML.format(kind=kind, segments=segments)
    write_text(folder / f'newstest2014-deen-{name}.sgm', text)


def write(folder: pathlib.Path) -> RawFiles:
  """Writes the three training corpora and the validation and test sets."""
  prose = Prose(NAME)
  train = []
  downloads = {DEV: folder / 'dev'}
  for i, (address, path) in enumerate(TRAIN.items()):
    downloads[address] = folder / f'train_{i}'
    pairs = [_regular(prose, j) for j in range(COUNTS['train'] // 3)] + [ODD[i]]
    _write_lines(folder / f'train_{i}' / path, [*pairs, HALVES[i]])
    train += pairs
  dev = folder / 'dev' / 'dev'
  validation = [_regular(prose, i) for i in range(COUNTS['validation'])]
  _write_lines(dev / 'newstest2013', validation)
  test = [_regular(prose, i) for i in range(COUNTS['test'])] + [ODD[2]]
  _write_sgml(dev, test)
  examples = {
    split: [{'de': german, 'en': english} for german, english in pairs]
    for split, pairs in (
      ('train', train),
      ('validation', validation),
      ('test', test),
    )
  }
  return RawFiles(NAME, examples, downloads, num_shards=3)
