import signal
import subprocess
import sys
import time

import pytest

from gqa_flax.training import watchdog
from gqa_flax.training.preemption import EXIT_STATUS


def run(code):
  program = (
    f'import threading, time\nfrom gqa_flax.training import watchdog\n{code}'
  )
  return subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=120
  )


def test_hang_ends_the_process_and_shows_where_it_hung():
  result = run("""
def wait_for_a_peer():
  time.sleep(3600)

def innocent():
  time.sleep(3600)

threading.Thread(target=innocent, daemon=True).start()
with watchdog.Watchdog(0.5) as dog:
  dog.beat()
  wait_for_a_peer()
""")
  assert result.returncode == EXIT_STATUS
  sentence, _, stacks = result.stderr.partition('\n')
  assert sentence.startswith('No progress for 0.5 seconds: process ')
  # The line of time.sleep(3600) in each of the two functions.
  assert 'line 5 in wait_for_a_peer' in stacks
  assert 'line 8 in innocent' in stacks


def test_beats_from_anywhere_keep_it_alive():
  # Ten times the limit in all, in naps far below it.
  result = run("""
with watchdog.Watchdog(2) as dog:
  for i in range(40):
    time.sleep(0.1)
    watchdog.beat() if i % 2 else dog.beat()
print('alive')
""")
  assert (result.returncode, result.stdout) == (0, 'alive\n')


@pytest.mark.parametrize('seconds', [None, 0])
def test_no_limit_no_end(seconds):
  result = run(f"""
with watchdog.Watchdog({seconds}) as dog:
  dog.beat()
  assert threading.active_count() == 1
""")
  assert result.returncode == 0, result.stderr


def test_nothing_watches_after_the_context_or_an_exception():
  result = run("""
try:
  with watchdog.Watchdog(0.3):
    raise KeyError
except KeyError:
  pass
time.sleep(1)
watchdog.beat()
print('alive')
""")
  assert (result.returncode, result.stdout) == (0, 'alive\n')


def test_process_that_was_stopped_is_not_ended(tmp_path):
  """A machine suspended for longer than the limit goes on where it was."""
  process = subprocess.Popen(
    [
      sys.executable,
      '-c',
      """
import time
from gqa_flax.training import watchdog
with watchdog.Watchdog(3) as dog:
  print('going', flush=True)
  for i in range(60):
    time.sleep(0.05)
    if i % 10 == 9:
      dog.beat()
""",
    ],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'going\n'
  process.send_signal(signal.SIGSTOP)
  time.sleep(4)
  process.send_signal(signal.SIGCONT)
  assert process.wait(60) == 0
  process.stdout.close()


def test_beat_without_a_watchdog_does_nothing():
  watchdog.beat()


def test_inner_watchdog_gives_way_to_the_outer_one():
  with watchdog.Watchdog(None) as outer:
    with watchdog.Watchdog(None) as inner:
      watchdog.beat()
    watchdog.beat()
    watchdog.beat()
  assert (inner._beats, outer._beats) == (1, 2)


def test_negative_limit_is_refused():
  with pytest.raises(ValueError, match='-1 seconds'):
    watchdog.Watchdog(-1)
