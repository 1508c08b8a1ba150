"""What a command says while it works, on a terminal and in a file."""

import os
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

from gqa_flax.runtime import status


@pytest.fixture
def speaking():
  status.begin()
  status.name('gqa-flax test')
  yield
  status.end()


def test_a_library_says_nothing(capsys):
  status.tell('training')
  with status.phase('reading', seconds=0):
    time.sleep(0.05)
  assert capsys.readouterr().err == ''


def test_a_phase_is_said_if_it_lasts(speaking, capsys):
  with status.phase('reading', seconds=60):
    pass
  with status.phase(lambda: 'compiling', seconds=0.01):
    time.sleep(0.2)
  assert capsys.readouterr().err == 'gqa-flax test: compiling\n'


def test_in_a_file_a_bar_is_a_line_at_a_time(capsys):
  bar = status.Bar('run', 8, initial=2, unit='step')
  bar.show(4, 'loss 1.5')
  bar.show(8, 'loss 1.2')
  bar.close()
  lines = capsys.readouterr().err.splitlines()
  assert [re.search(r'(\d)/8 .*loss (\d\.\d)', x).groups() for x in lines] == [
    ('4', '1.5'),
    ('8', '1.2'),
  ]


def test_a_bar_that_hurries_fills_no_file(capsys):
  bar = status.Bar('decoding', 1000, hurries=True)
  for done in range(1000):
    bar.show(done)
  bar.close()
  assert capsys.readouterr().err == ''


def test_only_one_process_shows_a_bar(capsys):
  bar = status.Bar('run', 8, shows=False)
  bar.show(4)
  bar.close()
  assert capsys.readouterr().err == ''


def on_terminal(code):
  """Returns what a program shows on a terminal, line by line."""
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 110))
  process = subprocess.Popen(
    [sys.executable, '-c', code], stdout=theirs, stderr=theirs
  )
  os.close(theirs)
  shown = b''
  try:
    while part := os.read(ours, 4096):
      shown += part
  except OSError:  # Linux: the other end is closed
    pass
  os.close(ours)
  process.wait()
  lines = shown.decode().replace('\r\n', '\n').split('\n')
  # Of a line that is rewritten, what remains is what comes last.
  rewritten = [line.rstrip('\r ').rsplit('\r', 1)[-1] for line in lines]
  return [line.rstrip() for line in rewritten]


@pytest.mark.parametrize(
  'bar, show',
  [('status.Bar("run", 8)', 'show(3)'), ('tqdm.tqdm(total=8)', 'update(3)')],
)
def test_an_error_has_a_line_of_its_own_after_a_bar(bar, show):
  lines = on_terminal(f"""
import sys, tqdm
from gqa_flax import cli
from gqa_flax.cli import report
from gqa_flax.runtime import status

def fail(args):
  '''Fails.'''
  global bar
  bar = {bar}
  bar.{show}
  raise ValueError('The disk is full.')

report.report = fail
sys.exit(cli.main(['report']))
""")
  assert 'gqa-flax report: The disk is full.' in lines
  assert any('3/8' in line for line in lines)


def test_a_warning_has_a_line_of_its_own_beside_a_bar():
  lines = on_terminal("""
from gqa_flax.runtime import status
bar = status.Bar('run', 8)
bar.show(3)
status.say('Warning: the learning rate is high.')
bar.show(5)
bar.close()
""")
  assert 'Warning: the learning rate is high.' in lines
  assert '5/8' in lines[-2]


def test_a_hang_has_a_line_of_its_own_after_a_bar():
  lines = on_terminal("""
import time
from gqa_flax.runtime import status
from gqa_flax.training import watchdog
bar = status.Bar('run', 8)
bar.show(3)
with watchdog.Watchdog(0.2):
  time.sleep(60)
""")
  assert any(line.startswith('No progress for 0.2 seconds') for line in lines)
