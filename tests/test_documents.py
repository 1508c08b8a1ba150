"""Documents: links lead somewhere, and numbers come from records.

Documents in results/ are made of records (tests/experiments/test_redraw.py).
The others may quote only what is listed here with where it comes from.
"""

import pathlib
import re

import pytest

from experiments.study.cells import ALPHA
from gqa_flax.data import catalogue
from gqa_flax.reporting import records

DOCUMENTS = sorted(
  path
  for pattern in ('*.md', 'experiments/**/*.md')
  for path in pathlib.Path().glob(pattern)
)
# A number, in digits or as a word, and the unit of something measured.
QUANTITY = re.compile(
  r"""(?<![\w.])
  (\d[\d,]*(?:\.\d+)?
   |half\ an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)
  (?:\s|-)?
  (%|(?:percent|ms|seconds?|minutes?|hours?|days?|nats|[KMGT]i?B)\b
   |times\ (?:as|the)\b)""",
  re.VERBOSE | re.IGNORECASE,
)


def quantities(text: str) -> set[tuple[str, str]]:
  """Returns the numbers with their units, outside of commands."""
  prose = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
  return {match.groups() for match in QUANTITY.finditer(prose)}


def minutes(experiment: str) -> float:
  done = records.read(f'results/{experiment}/records.jsonl')
  return sum(record['seconds'] for record in done) / 60


def sources() -> set[tuple[str, str]]:
  """Returns what documents may say."""
  sizes = {
    data_set.download_bytes
    for data_set in catalogue.DATA_SETS.values()
    if data_set.download_bytes
  }
  quoted = {(f'{size / 1e9:.1f}', 'GB') for size in sizes}
  quoted.add((f'{ALPHA * 100:g}', '%'))
  if minutes('quickstart') < 10:
    quoted.add(('ten', 'minutes'))
  if minutes('toy') < 6:
    quoted.add(('six', 'minutes'))
  return quoted


@pytest.mark.parametrize('path', DOCUMENTS, ids=str)
def test_every_measured_number_is_in_a_record(path):
  assert quantities(path.read_text(encoding='utf-8')) <= sources()


@pytest.mark.parametrize(
  'path', [*DOCUMENTS, *sorted(pathlib.Path('results').rglob('*.md'))], ids=str
)
def test_every_link_leads_to_a_file(path):
  targets = re.findall(r'\]\(([^)#]+)', path.read_text(encoding='utf-8'))
  local = [target for target in targets if '://' not in target]
  assert not [x for x in local if not (path.parent / x).exists()]


def test_numbers_are_found():
  text = (
    'It is 1.5 times as fast, in six minutes, 12% and 3.1 GB.\n```\n7 ms\n```'
  )
  assert quantities(text) == {
    ('1.5', 'times as'),
    ('six', 'minutes'),
    ('12', '%'),
    ('3.1', 'GB'),
  }
