"""Invented text, the same on every machine, and what raw files hold."""

import dataclasses
import pathlib
import random
from collections.abc import Mapping, Sequence

# How many regular examples a split has, beside the odd ones.
COUNTS = {'train': 12, 'validation': 5, 'test': 5}

# Sentences of a document, in turn: from a line to several hundred words.
LENGTHS = (3, 1, 7, 60, 12)

ADJECTIVES = ('grey', 'naïve', 'seven-sided', 'Zürich-born', 'late')
NOUNS = ('harbour', 'clerk', 'lantern', 'café', 'orchestra', 'beekeeper')
VERBS = ('counted', 'painted', 'lost', '“repaired”', 'forgot', 'sold')
THINGS = ('umbrellas', 'maps', 'bells', 'letters', '€', 'half-melons')
PLACES = (
  'in the rain',
  'before breakfast',
  'without a word',
  'at the mayor’s request',
  'near the old mill (again)',
)


@dataclasses.dataclass(frozen=True)
class RawFiles:
  """The raw files of a data set as published, unpacked, and what they hold.

  Attributes:
    name: of the TFDS builder, with its configuration and version.
    examples: of each split, as TFDS yields them, but in plain Python: strings,
      lists and dicts. The order is that of the files, not that of TFDS.
    downloads: from an address that the builder asks for to the path of what
      lies there, unpacked if it is an archive.
    manual_dir: holds what users must download by hand; None if nothing.
    num_shards: in how many files TFDS should write each split; None leaves the
      choice to TFDS, which takes one.
  """

  name: str
  examples: Mapping[str, Sequence[Mapping[str, object]]]
  downloads: Mapping[str, pathlib.Path] = dataclasses.field(
    default_factory=dict
  )
  manual_dir: pathlib.Path | None = None
  num_shards: int | None = None


class Prose:
  """Makes sentences of which no two are the same."""

  def __init__(self, seed: str):
    self._random = random.Random(seed)
    self._count = 0

  def sentence(self) -> str:
    self._count += 1
    adjective, noun, verb, things, place = (
      self._random.choice(words)
      for words in (ADJECTIVES, NOUNS, VERBS, THINGS, PLACES)
    )
    return f'The {adjective} {noun} {verb} {self._count} {things} {place}.'

  def sentences(self, number: int) -> list[str]:
    return [self.sentence() for _ in range(number)]

  def document(self, index: int) -> list[str]:
    """Returns the sentences of a document; how many depends on its index."""
    return self.sentences(LENGTHS[index % len(LENGTHS)])


def write_text(path: pathlib.Path, text: str) -> pathlib.Path:
  """Writes UTF-8, new lines as they are, making the folder if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode())
  return path
