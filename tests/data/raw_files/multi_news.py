"""Clusters of news as huggingface.co/datasets/alexfabbri/multi_news has them.

One cluster a line, its summary on the same line of another file; new lines
within a line are spelled NEWLINE_CHAR, and five bars part the documents.
"""

import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

NAME = 'multi_news:2.1.0'
ADDRESS = (
  'https://huggingface.co/datasets/alexfabbri/multi_news/resolve/main/data/'
)
FILES = {'train': 'train', 'validation': 'val', 'test': 'test'}

# A line of documents and one of the summary; then what TFDS makes of them.
ODD = [
  (
    'The ferry sank. NEWLINE_CHAR NEWLINE_CHAR “Café” adrift. ||||| It floats ',
    ' – The ferry sank, then floated {twice}.',
    'The ferry sank. \n \n “Café” adrift. ||||| It floats',
    '– The ferry sank, then floated {twice}.',
  ),
  (
    'One document,\xa0no bars.NEWLINE_CHAREnd \\',
    '– Summaries keep NEWLINE_CHAR as it is.',
    'One document,\xa0no bars.\nEnd \\',
    '– Summaries keep NEWLINE_CHAR as it is.',
  ),
  ('', '– No document at all.', '', '– No document at all.'),
  (
    '||||| First is empty. ||||| ||||| Last is as well. |||||',
    '– Bars ||||| in <the> summary.',
    '||||| First is empty. ||||| ||||| Last is as well. |||||',
    '– Bars ||||| in <the> summary.',
  ),
]


def _regular(prose: Prose, index: int) -> tuple[str, str, str, str]:
  documents = [prose.document(index + i) for i in range(2 + index % 3)]
  summary = '– ' + ' '.join(prose.sentences(2 + index % 4))
  source = ' ||||| '.join(' NEWLINE_CHAR '.join(lines) for lines in documents)
  expected = ' ||||| '.join(' \n '.join(lines) for lines in documents)
  return source, summary, expected, summary


def write(folder: pathlib.Path) -> RawFiles:
  """Writes the lines of documents and of summaries."""
  prose = Prose(NAME)
  examples = {}
  downloads = {}
  for split, name in FILES.items():
    clusters = ODD if split == 'train' else []
    clusters = [*clusters, *(_regular(prose, i) for i in range(COUNTS[split]))]
    sources, targets, documents, summaries = zip(*clusters)
    for file, lines in (
      (f'{name}.src.cleaned', sources),
      (f'{name}.tgt', targets),
    ):
      text = ''.join(f'{line}\n' for line in lines)
      downloads[ADDRESS + file] = write_text(folder / file, text)
    examples[split] = [
      {'document': document, 'summary': summary}
      for document, summary in zip(documents, summaries)
    ]
  return RawFiles(NAME, examples, downloads)
