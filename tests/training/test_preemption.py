import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from gqa_flax.training import preemption


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def test_signal_is_remembered_and_the_handler_given_back():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.listening() as preempted:
    assert not preempted(1)
    assert not preempted.requested
    terminate()
    assert preempted.requested
    assert preempted(2)
    terminate()
    assert preempted(3)
  assert signal.getsignal(signal.SIGTERM) is before
  # A later run of this process starts afresh.
  with preemption.listening() as preempted:
    assert not preempted(1)


def test_handler_is_given_back_after_an_exception():
  seen = []
  own = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
  try:
    with pytest.raises(KeyError), preemption.listening():
      raise KeyError
    terminate()
    assert seen == [1]
  finally:
    signal.signal(signal.SIGTERM, own)


def test_other_threads_leave_the_handler_alone():
  before = signal.getsignal(signal.SIGTERM)
  seen = []

  def work():
    with preemption.listening() as preempted:
      seen.append((signal.getsignal(signal.SIGTERM), preempted(1)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(before, False)]


def test_exception_says_what_was_saved_and_how_to_go_on():
  error = preemption.Preempted(120, 'models/xxl')
  assert 'saved step 120 in models/xxl; start the same command again' in str(
    error
  )
  assert (error.step, error.directory) == (120, 'models/xxl')


WORKER = """
import sys, time
import jax
from gqa_flax.partitioning import hosts
from gqa_flax.training import preemption

index, port = int(sys.argv[1]), sys.argv[2]
hosts.initialize(f'localhost:{port}', 2, index)
with preemption.listening() as preempted:
  for step in range(1, 3000):
    # Nothing keeps the processes in step here: the second is far slower.
    time.sleep(0.01 * (1 + 3 * index))
    assert not preempted.requested
    if step == 10:
      print('going', flush=True)
    if preempted(step):
      assert preempted.requested
      print(step, flush=True)
      sys.exit(preemption.EXIT_STATUS)
"""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize('victim, signals', [(0, 1), (1, 3)])
def test_signal_to_one_process_stops_both_at_one_step(victim, signals):
  with socket.socket() as sock:
    sock.bind(('localhost', 0))
    port = sock.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', WORKER, str(i), str(port)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )
    for i in range(2)
  ]
  try:
    for process in processes:
      assert process.stdout.readline() == 'going\n'
    for _ in range(signals):
      processes[victim].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [p.returncode for p in processes] == [preemption.EXIT_STATUS] * 2, (
    outputs
  )
  (first, _), (second, _) = outputs
  assert int(first) == int(second)
