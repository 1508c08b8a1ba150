"""Papers as github.com/armancohan/long-summarization publishes them.

One JSON object a line, both sets with the same keys; the sentences of an
abstract stand between tags, of which TFDS leaves the spaces.
"""

import functools
import json
import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

DRIVE = 'https://drive.google.com/uc?id={}&export=download'
ADDRESSES = {
  'arxiv': DRIVE.format('1b3rmCSIoh6VhD4HKWjI4HOW-cSwcwbeC'),
  'pubmed': DRIVE.format('1lvsqvsFi3W-pE1SqNZI0s8NR9rC1tsja'),
}
FILES = {'train': 'train.txt', 'validation': 'val.txt', 'test': 'test.txt'}

# Paragraphs of the article, of the abstract, and the names of the sections;
# then article and abstract as TFDS yields them.
ODD = [
  (
    ['we let @xmath0 be\nthe naïve map @xcite .', '', 'it forgets . \\'],
    ['<S> maps @xmath1 forget . </S>', '<S> “ why ” is open . </S>'],
    ['introduction', '\\i ) results'],
    'we let @xmath0 be\nthe naïve map @xcite .\n\nit forgets . \\',
    ' maps @xmath1 forget . \n “ why ” is open . ',
  ),
  (['no abstract at all .'], [], [], 'no abstract at all .', ''),
  ([], ['<S> no article . </S>'], [''], '', ' no article . '),
  (
    ['tags <S> in the article stay .'],
    ['one<S>paragraph</S> of { two } . </S> <S> sentences ~'],
    ['methods'],
    'tags <S> in the article stay .',
    'oneparagraph of { two } .   sentences ~',
  ),
]


def _regular(prose: Prose, index: int) -> tuple:
  article = [line.lower() for line in prose.document(index)]
  sentences = [line.lower() for line in prose.sentences(1 + index % 4)]
  tagged = [f'<S> {sentence} </S>' for sentence in sentences]
  abstract = '\n'.join(f' {sentence} ' for sentence in sentences)
  names = ['introduction', 'conclusions'][: 1 + index % 2]
  return article, tagged, names, '\n'.join(article), abstract


def write(folder: pathlib.Path, kind: str) -> RawFiles:
  """Writes the papers of one kind, 'arxiv' or 'pubmed'."""
  name = f'scientific_papers/{kind}:1.1.1'
  prose = Prose(name)
  examples = {}
  for split, count in COUNTS.items():
    papers = ODD if split == 'train' else []
    papers = [*papers, *(_regular(prose, i) for i in range(count))]
    lines = [
      json.dumps(
        {
          'article_id': f'{split}.{i}',
          'article_text': article,
          'abstract_text': abstract,
          'labels': None,
          'section_names': names,
          'sections': [article for _ in names],
        }
      )
      for i, (article, abstract, names, _, _) in enumerate(papers)
    ]
    path = folder / kind / f'{kind}-dataset' / FILES[split]
    write_text(path, '\n'.join(lines) + '\n')
    examples[split] = [
      {
        'article': article,
        'abstract': abstract,
        'section_names': '\n'.join(names),
      }
      for _, _, names, article, abstract in papers
    ]
  # The builder asks for both sets, whichever it makes.
  downloads = {url: folder / kind for kind, url in ADDRESSES.items()}
  num_shards = 3 if kind == 'arxiv' else None
  return RawFiles(name, examples, downloads, num_shards=num_shards)


WRITERS = {
  f'scientific_papers/{kind}:1.1.1': functools.partial(write, kind=kind)
  for kind in ADDRESSES
}
