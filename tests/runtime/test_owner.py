"""One process writes to a folder; what a dead one leaves blocks nobody."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from gqa_flax.runtime import owner
from gqa_flax.runtime.owner import FolderInUseError, Owner

_HOLD = """
import sys
from gqa_flax.runtime.owner import Owner
with Owner(sys.argv[1], 'MODEL_DIR'):
  print('mine', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def hold():
  """Starts processes that own a folder until their input ends."""
  started = []

  def start(folder):
    process = subprocess.Popen(
      [sys.executable, '-c', _HOLD, str(folder)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=pathlib.Path(__file__).parents[2],
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(owner, 'REFRESH_SECONDS', 0.02)
  monkeypatch.setattr(owner, 'WATCH_SECONDS', 0.5)
  monkeypatch.setattr(owner, '_SETTLE_SECONDS', 0.05)


@pytest.fixture
def without_locks(monkeypatch):
  def flock(file, operation):
    raise OSError('this file system has no locks')

  monkeypatch.setattr(owner.fcntl, 'flock', flock)


def forge(folder, age=0.0, **changes):
  """Writes the record of another machine."""
  folder.mkdir(exist_ok=True)
  record = {
    'host': 'pod-7',
    'machine': 'another boot',
    'process': 1,
    'started': 1_000_000_000,
    'token': 'theirs',
    'refreshed': time.time() - age,
    **changes,
  }
  (folder / owner.NAME).write_text(json.dumps(record))


def test_the_second_process_is_refused_with_the_first_ones_name(hold, tmp_path):
  folder = tmp_path / 'run'
  first = hold(folder)
  assert first.stdout.readline() == 'mine\n'
  second = hold(folder)
  assert second.wait(60) == 1
  said = second.stderr.read()
  assert f'MODEL_DIR {folder} is in use by process {first.pid} on' in said
  assert f'{socket.gethostname()}, which started at 20' in said
  first.communicate('')
  assert not folder.exists()  # nothing was written there
  third = hold(folder)
  assert third.stdout.readline() == 'mine\n'


def test_a_killed_owner_blocks_nobody(hold, tmp_path, capsys):
  first = hold(tmp_path)
  assert first.stdout.readline() == 'mine\n'
  first.send_signal(signal.SIGKILL)
  first.wait(60)
  left = json.loads((tmp_path / owner.NAME).read_text())
  assert left['process'] == first.pid
  with Owner(tmp_path, 'MODEL_DIR'):
    taken = json.loads((tmp_path / owner.NAME).read_text())
    assert taken['process'] == os.getpid()
  assert os.listdir(tmp_path) == []
  assert capsys.readouterr().err == ''  # nor does it make anybody wait


def test_the_record_goes_with_its_owner_and_what_was_written_stays(tmp_path):
  with pytest.raises(KeyError), Owner(tmp_path / 'run', 'MODEL_DIR'):
    (tmp_path / 'run' / 'metrics').write_text('1')
    raise KeyError
  assert os.listdir(tmp_path / 'run') == ['metrics']


def test_an_output_that_is_yet_to_appear_has_its_record_beside_it(tmp_path):
  output = tmp_path / 'new' / 'out'
  with Owner(output, 'OUTPUT', beside=True):
    assert os.listdir(output.parent) == [f'out{owner.NAME}']
    with pytest.raises(FolderInUseError, match=f'OUTPUT {output} is in use'):
      with Owner(output, 'OUTPUT', beside=True):
        raise AssertionError
    (output.parent / 'out.incomplete').mkdir()
    (output.parent / 'out.incomplete').rename(output)
  assert os.listdir(output.parent) == ['out']


def test_only_one_process_of_a_job_owns(tmp_path):
  with Owner(tmp_path, 'MODEL_DIR'):
    with Owner(tmp_path, 'MODEL_DIR', owns=False) as other:
      other.check()
    assert os.listdir(tmp_path) == [owner.NAME]


def test_a_stale_record_of_another_machine_is_taken_over(tmp_path, capsys):
  forge(tmp_path, age=owner.STALE_SECONDS + 1)
  with Owner(tmp_path, 'MODEL_DIR'):
    pass
  assert os.listdir(tmp_path) == []
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('locks', ['locks', 'no locks'])
def test_a_recent_record_is_watched_and_taken_over_if_nothing_happens(
  locks, tmp_path, quick, request, capsys
):
  if locks == 'no locks':
    request.getfixturevalue('without_locks')
  forge(tmp_path)
  with Owner(tmp_path, 'MODEL_DIR') as mine:
    record = json.loads((tmp_path / owner.NAME).read_text())
    assert record['process'] == os.getpid()
    mine.check()
  assert os.listdir(tmp_path) == []
  said = capsys.readouterr().err
  assert 'process 1 on pod-7, which started at 2001-09-09 01:46:40 UTC' in said
  assert f'remove {tmp_path / owner.NAME} to continue at once' in said


@pytest.mark.parametrize('locks', ['locks', 'no locks'])
def test_a_record_that_is_refreshed_is_of_a_living_owner(
  locks, tmp_path, quick, request
):
  if locks == 'no locks':
    request.getfixturevalue('without_locks')
  forge(tmp_path)
  timer = threading.Timer(0.2, forge, [tmp_path])
  timer.start()
  with pytest.raises(
    FolderInUseError, match=r'process 1 on pod-7, .*give another MODEL_DIR\.$'
  ):
    with Owner(tmp_path, 'MODEL_DIR'):
      raise AssertionError
  timer.join()
  record = json.loads((tmp_path / owner.NAME).read_text())
  assert record['token'] == 'theirs'


def test_a_record_is_removed_to_continue_at_once(tmp_path, quick, monkeypatch):
  """As the message says; the new record and its lock are then of one file."""
  monkeypatch.setattr(owner, 'WATCH_SECONDS', 60.0)
  forge(tmp_path)
  threading.Timer(0.3, (tmp_path / owner.NAME).unlink).start()
  with Owner(tmp_path, 'MODEL_DIR'):
    with pytest.raises(FolderInUseError, match=f'process {os.getpid()} on'):
      with Owner(tmp_path, 'MODEL_DIR'):
        raise AssertionError


def test_owners_without_locks_refuse_each_other(tmp_path, quick, without_locks):
  with Owner(tmp_path, 'MODEL_DIR') as first:
    with pytest.raises(FolderInUseError, match=f'process {os.getpid()} on'):
      with Owner(tmp_path, 'MODEL_DIR'):
        raise AssertionError
    first.check()
  assert os.listdir(tmp_path) == []


def test_an_owner_hears_that_another_has_taken_over(
  tmp_path, quick, without_locks
):
  with Owner(tmp_path, 'MODEL_DIR') as mine:
    forge(tmp_path)
    deadline = time.monotonic() + 20
    with pytest.raises(FolderInUseError, match='process 1 on pod-7'):
      while time.monotonic() < deadline:
        mine.check()
        time.sleep(0.01)
  # Whose record it is, is not ours to remove.
  assert os.listdir(tmp_path) == [owner.NAME]


@pytest.mark.parametrize('text', ['', '{', '[]', '{"host": "a"}'])
def test_a_record_that_was_not_written_whole_blocks_nobody(text, tmp_path):
  (tmp_path / owner.NAME).write_text(text)
  with Owner(tmp_path, 'MODEL_DIR'):
    pass
  assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  for path in ('/proc/nothing', tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(
      OSError, match=rf'^MODEL_DIR {path} cannot be written \(.*another MODEL'
    ):
      with Owner(path, 'MODEL_DIR'):
        raise AssertionError


def test_owning_a_folder_loads_no_jax():
  code = 'import sys, gqa_flax.runtime.owner; assert "jax" not in sys.modules'
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', code], check=True, cwd=root)
