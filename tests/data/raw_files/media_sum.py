"""Interviews as github.com/zcgzcgzcg1/MediaSum publishes them.

Users download two files by hand: all interviews, and the identities of those
in each split, of which the second is named 'val'.
"""

import json
import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

NAME = 'media_sum:1.0.0'
SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}

# Interviews with what else TFDS puts into them.
ODD = [
  (
    {
      'id': 'NPR-odd-1',
      'program': 'Überall',
      'date': '2031-02-30',
      'url': 'https://radio.example/1',
      'title': 'A Title That TFDS Leaves Out',
      'summary': 'Two hosts, “one” café.\nNobody paid {yet}. ',
      'utt': [' Bon soir…', '', 'And\nnow: the bill.'],
      'speaker': ['RENÉE O’HARA, host', 'Mr. X (through translator)', 'O’HARA'],
    },
    {},
  ),
  (
    {
      'id': 'CNN-odd-2',
      'summary': 'Keys are missing.',
      'utt': ['Hello?'],
      'speaker': ['UNIDENTIFIED MALE'],
    },
    {'program': '', 'date': '', 'url': ''},
  ),
  (
    {
      'id': 'CNN-odd-3',
      'program': 'Silence',
      'date': '',
      'url': 'https://radio.example/3',
      'summary': '',
      'utt': [],
      'speaker': [],
    },
    {},
  ),
  (  # As in the sample with which TFDS tests its builder.
    {
      'id': 'CNN-odd-4',
      'program': 'Three and Two',
      'date': '2031-03-01',
      'url': 'https://radio.example/4',
      'summary': 'A speaker is missing.',
      'utt': ['One.', 'Two.', 'Three.'],
      'speaker': ['FIRST', 'SECOND'],
    },
    {},
  ),
]


def _regular(prose: Prose, identity: str, index: int) -> dict:
  utterances = prose.document(index)
  speakers = ('ANN LEE, HOST', 'DR. NO', 'UNIDENTIFIED FEMALE')
  return {
    'id': identity,
    'program': f'Programme {index % 3}',
    'date': f'2031-1-{index + 1}',
    'url': f'https://radio.example/{identity}',
    'summary': ' '.join(prose.sentences(1 + index % 4)),
    'utt': utterances,
    'speaker': [speakers[i % 3] for i, _ in enumerate(utterances)],
  }


def write(folder: pathlib.Path) -> RawFiles:
  """Writes the interviews and the lists of the splits."""
  prose = Prose(NAME)
  examples = {}
  raw = []
  for split, counted in SPLITS.items():
    odd = ODD if split == 'train' else []
    regular = [
      _regular(prose, f'{split.upper()}-{i}', i) for i in range(COUNTS[counted])
    ]
    raw += [interview for interview, _ in odd] + regular
    examples[split] = regular + [
      {k: x for k, x in (interview | missing).items() if k != 'title'}
      for interview, missing in odd
    ]
  raw.append(_regular(prose, 'IN-NO-SPLIT', 0))
  lists = {
    split: [example['id'] for example in found] + ['NOT-PUBLISHED']
    for split, found in examples.items()
  }
  for name, table in (
    ('news_dialogue.json', raw),
    ('train_val_test_split.json', lists),
  ):
    write_text(folder / name, json.dumps(table, indent=2))
  return RawFiles(NAME, examples, manual_dir=folder)
