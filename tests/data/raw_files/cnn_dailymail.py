"""Stories as github.com/abisee/cnn-dailymail reads them: one file a story.

A story's file is named by the SHA-1 of its web address, and the address stands
in the list of its split.
"""

import hashlib
import itertools
import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

NAME = 'cnn_dailymail:3.4.0'
DRIVE = 'https://drive.google.com/uc?export=download&id='
LISTS = (
  'https://raw.githubusercontent.com/abisee/cnn-dailymail/master/url_lists/'
)
FOLDERS = {'cnn': 'cnn/stories', 'dm': 'dailymail/stories'}

# Story, article, highlights. Lines without an end get a full stop, but not
# where '@highlight' occurs; what follows a highlight is a highlight as well.
ODD = [
  (
    'HARBOUR CITY (CNN) -- The bridge opened  twice\n\n'
    '  Photo: a “bridge”\n\n'
    'It closed at nine .\n\n\n'
    'See the @highlight box\n\n'
    '@highlight\n\nNEW: Bridge opened twice\n\n'
    '@highlight\n\nIt closed… why?\n\nNobody asked (yet)',
    'HARBOUR CITY (CNN) -- The bridge opened  twice. Photo: a “bridge” '
    'It closed at nine . See the @highlight box',
    'NEW: Bridge opened twice.\nIt closed… why?\nNobody asked (yet)',
  ),
  (
    'By\nA. N. Author\n‘Quite so’\nÜber-tram № 5 costs £3\xa0million 🚋\n'
    '@highlight\n\nTram costs {£3} \\ <million>~',
    'By. A. N. Author. ‘Quite so’ Über-tram № 5 costs £3\xa0million 🚋.',
    'Tram costs {£3} \\ <million>~.',
  ),
]

# The builder passes over stories of which one half is missing.
HALVES = ['\n\n@highlight\n\nNo story here', 'No highlights here .\n']


def _story(article: list[str], highlights: list[str]) -> str:
  marked = itertools.chain(*(('@highlight', line) for line in highlights))
  return '\n\n'.join([*article, *marked]) + '\n'


def write(folder: pathlib.Path) -> RawFiles:
  """Writes the stories and the lists of addresses."""
  prose = Prose(NAME)
  numbers = itertools.count()
  examples = {split: [] for split in COUNTS}
  addresses = {split: [] for split in COUNTS}

  def add(text, split=None):
    """Writes a story and returns its publisher and identity."""
    number = next(numbers)
    publisher = 'cnn' if number % 2 else 'dm'
    address = f'http://web.archive.org/web/http://{publisher}.example/{number}'
    if split:
      addresses[split].append(address)
    identity = hashlib.sha1(address.encode()).hexdigest()
    path = folder / publisher / FOLDERS[publisher] / f'{identity}.story'
    write_text(path, text)
    return publisher, identity

  def expect(split, text, article, highlights):
    publisher, identity = add(text, split)
    examples[split].append(
      {
        'article': article,
        'highlights': highlights,
        'publisher': publisher,
        'id': identity,
      }
    )

  for split, count in COUNTS.items():
    for story in ODD if split == 'train' else []:
      expect(split, *story)
    for i in range(count):
      article, highlights = prose.document(i), prose.sentences(1 + i % 4)
      text = _story(article, highlights)
      expect(split, text, ' '.join(article), '\n'.join(highlights))
    for text in HALVES:
      add(text, split)
    addresses[split].append('http://web.archive.org/web/http://gone.example/')
  add(_story(['In no list.'], ['In no list.']))

  downloads = {
    DRIVE + '0BwmD_VLjROrfTHk4NFg2SndKcjQ': folder / 'cnn',
    DRIVE + '0BwmD_VLjROrfM1BxdkxVaTY2bWs': folder / 'dm',
  }
  for split, lines in addresses.items():
    name = f'all_{"val" if split == "validation" else split}.txt'
    path = write_text(folder / name, '\n'.join(lines) + '\n')
    downloads[LISTS + name] = path
  return RawFiles(NAME, examples, downloads, num_shards=3)
