"""Pages as C4 has them: its Beam job, which reads the web, is left out."""

import pathlib

from .prose import COUNTS, Prose, RawFiles

NAME = 'c4/en:3.1.0'
ODD = ['Café – “one line”, no new line {here} \\ <there> ~.', 'x']


def write(folder: pathlib.Path) -> RawFiles:
  """Returns pages; there is nothing to write."""
  del folder
  prose = Prose(NAME)

  def page(text, address):
    return {
      'text': text,
      'url': f'https://pages.example/{address}',
      'content-type': 'text/plain',
      'content-length': str(len(text.encode())),
      'timestamp': '2031-04-18T12:00:00Z',
    }

  examples = {}
  for split in ('train', 'validation'):
    texts = ['\n'.join(prose.document(i)) for i in range(COUNTS[split])]
    texts += ODD if split == 'train' else []
    examples[split] = [page(x, f'{split}/{i}') for i, x in enumerate(texts)]
  return RawFiles(NAME, examples, num_shards=4)
