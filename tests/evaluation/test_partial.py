"""What is left of an evaluation that stopped."""

import pytest

from gqa_flax.evaluation import partial
from gqa_flax.evaluation.partial import Partial

HEADER = {'checkpoint': '/m', 'step': 3, 'sequence_length': {'inputs': 4}}
BATCHES = [[[5, 1], [6, 7, 1]], [[8], []], [[9, 9, 9, 9]]]


@pytest.fixture
def path(tmp_path):
  return tmp_path / partial.NAME


def write(path, batches=BATCHES, header=HEADER):
  file = Partial(path, header)
  for batch in batches:
    file.append(batch)
  return file


def test_whole_batches_come_back(path, capsys):
  write(path)
  assert Partial(path, HEADER).batches == BATCHES
  assert capsys.readouterr().err == ''


def test_every_batch_is_on_disk_as_soon_as_it_was_added(path):
  file = Partial(path, HEADER)
  for i, batch in enumerate(BATCHES):
    file.append(batch)
    assert Partial(path, HEADER).batches == BATCHES[: i + 1]


def test_nothing_is_written_before_the_first_batch(path):
  Partial(path, HEADER)
  assert not path.exists()
  Partial(path, HEADER).remove()


@pytest.mark.parametrize('torn', range(1, 30))
def test_a_torn_tail_is_dropped_and_written_again(path, torn):
  write(path)
  whole = path.read_bytes()
  path.write_bytes(whole[:-torn])
  file = Partial(path, HEADER)
  assert file.batches == BATCHES[:2]
  file.append(BATCHES[2])
  assert path.read_bytes() == whole


def test_a_last_line_without_its_new_line_is_torn_though_it_parses(path):
  write(path)
  path.write_bytes(path.read_bytes().removesuffix(b'\n'))
  assert Partial(path, HEADER).batches == BATCHES[:2]


def test_a_torn_header_leaves_nothing(path, capsys):
  write(path)
  path.write_bytes(path.read_bytes()[:20])
  file = write(path)
  assert file.batches == Partial(path, HEADER).batches == BATCHES
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'garbage', [b'\0' * 64 + b'\n', b'\xff\xfe\n', b'[[5, 1]\n', b'3\n', b'\n']
)
def test_what_follows_garbage_is_not_trusted(path, garbage):
  write(path)
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join([*lines[:2], garbage, *lines[2:]]))
  assert Partial(path, HEADER).batches == BATCHES[:1]


def test_lines_of_two_processes_are_told_apart(path):
  first, second = write(path, BATCHES[:1]), Partial(path, HEADER)
  first.append(BATCHES[1])
  second.append(BATCHES[1])  # anew, with what it had seen
  first.append(BATCHES[2])
  second.append(BATCHES[2])
  assert Partial(path, HEADER).batches == BATCHES


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('checkpoint', '/other', "checkpoint is '/m' there and '/other' here"),
    ('step', 4, 'step is 3 there and 4 here'),
    (
      'sequence_length',
      {'inputs': 5},
      "sequence_length is {'inputs': 4} there and {'inputs': 5} here",
    ),
  ],
)
def test_batches_of_another_evaluation_are_not_written_over(
  path, name, value, message
):
  write(path)
  before = path.read_bytes()
  with pytest.raises(FileExistsError) as error:
    Partial(path, {**HEADER, name: value})
  assert str(error.value) == (
    f'{path} holds another evaluation ({message}), which would be lost; give '
    'another OUTPUT_DIR.'
  )
  assert path.read_bytes() == before


def test_a_header_that_json_changes_is_still_its_own(path, capsys):
  header = {'lengths': (1, 2), 'by': {1: 'a'}}
  write(path, header=header)
  assert Partial(path, header).batches == BATCHES
  assert capsys.readouterr().err == ''


def test_removed(path):
  file = write(path)
  file.remove()
  assert list(path.parent.iterdir()) == []
