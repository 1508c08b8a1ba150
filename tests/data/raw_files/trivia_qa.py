"""Questions as nlp.cs.washington.edu/triviaqa publishes them, with evidence.

The questions with pages of Wikipedia and those with pages of the web are in
different files, and some are in both. The verified ones are in files of their
own as well, which TFDS adds to the validation split.
"""

import json
import pathlib

from .prose import COUNTS, Prose, RawFiles, write_text

NAME = 'trivia_qa/rc:1.1.0'
ADDRESS = 'http://nlp.cs.washington.edu/triviaqa/data/triviaqa-rc.tar.gz'

FILES = {
  'train': ['web-train.json', 'wikipedia-train.json'],
  'validation': [
    'web-dev.json',
    'wikipedia-dev.json',
    'verified-web-dev.json',
    'verified-wikipedia-dev.json',
  ],
  'test': [
    'web-test-without-answers.json',
    'wikipedia-test-without-answers.json',
  ],
}
UNKNOWN = {
  'aliases': [],
  'normalized_aliases': [],
  'matched_wiki_entity_name': '<unk>',
  'normalized_matched_wiki_entity_name': '<unk>',
  'normalized_value': '<unk>',
  'type': '',
  'value': '<unk>',
}


class Questions:
  """Makes questions, raw and as TFDS yields them, and writes evidence."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._prose = Prose(NAME)

  def make(
    self,
    identity: str,
    pages: int = 1,
    results: int = 1,
    aliases: tuple[str, ...] = (),
    answered: bool = True,
  ) -> tuple[dict, dict]:
    """Returns a question as it is in the files, and as TFDS yields it."""
    number = self._prose.sentence().split()[4]
    value = f'The Bell-Ringers of №{number}'
    question = f'Which “ringers”, {number} in all,\nwon the {identity} prize?'
    raw_pages, pages = self._pages(identity, pages, value)
    raw_results, results = self._results(identity, results, value)
    raw = {
      'EntityPages': raw_pages,
      'Question': f' {question} ',
      'QuestionId': identity,
      'QuestionSource': 'http://quiz.example/',
      'SearchResults': raw_results,
    }
    answer = UNKNOWN
    if answered:
      answer = self._answer(value, aliases)
      raw['Answer'] = {
        'Aliases': [f'{alias} ' for alias in answer['aliases']],
        # TFDS looks for 'MatchedWikiEntryName', which no file has.
        'MatchedWikiEntityName': value,
        'NormalizedAliases': answer['normalized_aliases'],
        'NormalizedMatchedWikiEntityName': value.lower(),
        'NormalizedValue': answer['normalized_value'],
        'Type': answer['type'],
        'Value': value,
      }
    return raw, {
      'question': question,
      'question_id': identity,
      'question_source': 'http://quiz.example/',
      'entity_pages': pages,
      'search_results': results,
      'answer': answer,
    }

  def _answer(self, value, aliases):
    aliases = [value, *aliases]
    normalized = [alias.lower().replace('-', ' ') for alias in aliases]
    return {
      'aliases': aliases,
      'normalized_aliases': normalized,
      'matched_wiki_entity_name': '',
      'normalized_matched_wiki_entity_name': '',
      'normalized_value': normalized[0],
      'type': 'WikipediaEntity',
      'value': value,
    }

  def _evidence(self, name, value, length):
    text = '\n\n'.join([*self._prose.document(length), f'{value} won.'])
    write_text(self._folder / 'evidence' / name, f'\n{text}\n\n')
    return text

  def _pages(self, identity, number, value):
    """Returns pages of Wikipedia, two without evidence among the raw."""
    raw = [
      {
        'DocSource': 'TagMe' if i % 2 else 'Search',
        'Filename': f'{identity}_Ünïcode_{i}.txt',
        'Title': f'{identity} (prize), part {i} ',
      }
      for i in range(number)
    ]
    texts = [
      self._evidence(f'wikipedia/{page["Filename"]}', value, i + number)
      for i, page in enumerate(raw)
    ]
    kept = {
      'doc_source': [page['DocSource'] for page in raw],
      'filename': [page['Filename'] for page in raw],
      'title': [page['Title'].strip() for page in raw],
      'wiki_context': texts,
    }
    lost = {'DocSource': 'TagMe', 'Filename': 'lost.txt', 'Title': 'Lost'}
    nameless = {'DocSource': 'TagMe', 'Title': 'Nameless'}
    return [lost, *raw, nameless] if number else [], kept

  def _results(self, identity, number, value):
    """Returns results of a web search, one without evidence among the raw."""
    raw = [
      {
        'Description': f'About {identity} …',
        'DisplayUrl': 'bells.example/…',
        'Filename': f'{i:02}/{i:02}_{identity}.txt',
        'Rank': 3 * i,
        'Title': f'Result {i}',
        'Url': f'http://bells.example/{identity}/{i}',
      }
      for i in range(number)
    ]
    kept = {
      'description': [result['Description'] for result in raw],
      'filename': [result['Filename'] for result in raw],
      'rank': [result['Rank'] for result in raw],
      'title': [result['Title'] for result in raw],
      'url': [result['Url'] for result in raw],
      'search_context': [
        self._evidence(f'web/{result["Filename"]}', value, i)
        for i, result in enumerate(raw)
      ],
    }
    return [*raw, {'Rank': 99, 'Title': 'Nameless'}] if number else [], kept


def _dump(name: str, questions: list[dict]) -> str:
  """Returns JSON indented as published, on which the builder relies."""
  domain = 'Wikipedia' if 'wikipedia' in name else 'Web'
  table = {
    'Data': questions,
    'Domain': domain,
    'VerifiedEval': name.startswith('verified'),
    'Version': 1.0,
  }
  return json.dumps(table, indent=4, ensure_ascii=False) + '\n'


def write(folder: pathlib.Path) -> RawFiles:
  """Writes the files of questions and the evidence."""
  questions = Questions(folder)
  examples = {}
  for split, names in FILES.items():
    answered = split != 'test'
    made = {}
    for i in range(COUNTS[split]):
      identity = f'{split}_{i}'
      # With and without pages, results and aliases, in all combinations.
      made[identity] = questions.make(
        identity,
        pages=(1, 0, 3)[i % 3],
        results=(0, 2)[i // 3 % 2],
        aliases=('Bell ringers', 'Ringers, the', 'Glöckner')[: i % 4],
        answered=answered,
      )
    examples[split] = []
    pairs = list(made.values())
    for name in names:
      half = pairs[:-2] if 'wikipedia' in name else pairs[-4:]
      chosen = half[:2] if 'verified' in name else half
      raw = [question for question, _ in chosen]
      write_text(folder / 'qa' / name, _dump(name, raw))
      examples[split] += [example for _, example in chosen]
  return RawFiles(NAME, examples, {ADDRESS: folder})
