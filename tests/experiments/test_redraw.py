"""What is derived in results/ is what the records give, byte for byte."""

import pathlib
import shutil

import pytest

from experiments import redraw

RESULTS = pathlib.Path('results')
DERIVED = {'.md', '.csv', '.png', '.svg'}
# The one file of JSON lines that is no record.
CLAIMS = 'claims.jsonl'


def derived(results):
  """Returns the files that a command makes of the records."""
  return {
    path.relative_to(results): path
    for path in results.rglob('*')
    if (path.suffix in DERIVED or path.name == CLAIMS)
    and 'checkpoint' not in path.parts
  }


@pytest.fixture(scope='module')
def redrawn(tmp_path_factory):
  """A copy of results/ without what is derived, in which it is made anew."""
  folder = tmp_path_factory.mktemp('redraw') / 'results'
  shutil.copytree(RESULTS, folder)
  for path in derived(folder).values():
    path.unlink()
  redraw.redraw(folder)
  return folder


@pytest.mark.slow
def test_no_derived_file_is_missing_or_new(redrawn):
  assert derived(redrawn).keys() == derived(RESULTS).keys()
  assert len(derived(RESULTS)) > 20


@pytest.mark.parametrize('name', sorted(derived(RESULTS)), ids=str)
def test_a_derived_file_is_restored_byte_for_byte(redrawn, name):
  assert (redrawn / name).read_bytes() == (RESULTS / name).read_bytes()
