"""Every program here is told to end where Python would lose the order."""

import os
import signal
import subprocess
import sys

import pytest

from gqa_flax.runtime import interrupts

# Works, apart from the interrupt, for an hour.
WORK = {
  'gc callback': """
def collected(phase, info):
  gc.callbacks.remove(collected)
  interrupt()
gc.callbacks.append(collected)
gc.collect()
time.sleep(3600)
""",
  'finalizer': """
class Thing:
  def __del__(self):
    interrupt()
Thing()
time.sleep(3600)
""",
  'weak reference': """
thing = {1}
reference = weakref.ref(thing, lambda _: interrupt())
del thing
time.sleep(3600)
""",
  'callback from C': """
CALLBACK = ctypes.CFUNCTYPE(None)
call = CALLBACK(interrupt)
call()
time.sleep(3600)
""",
  'bare except': """
try:
  interrupt()
  time.sleep(1)
except BaseException:
  pass
time.sleep(3600)
""",
  'long C code': """
threading.Timer(0.5, interrupt).start()
hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
""",
  'reading a pipe': """
threading.Timer(0.5, interrupt).start()
sys.stdin.read()
""",
  'import': """
class Finder:
  def find_spec(self, *_):
    sys.meta_path.remove(self)
    interrupt()
    time.sleep(3600)
sys.meta_path.insert(0, Finder())
import no_such_module
""",
  'end of the interpreter': """
threading.Thread(target=time.sleep, args=(3600,)).start()
threading.Timer(0.5, interrupt).start()
""",
  'exit handler': """
def last():
  interrupt()
  time.sleep(3600)
atexit.register(last)
""",
  'lock of standard output': """
reader, writer = os.pipe()
sys.stdout = os.fdopen(writer, 'w')
threading.Timer(0.5, interrupt).start()
sys.stdout.write('x' * 10**6)
""",
  'closed standard output': """
sys.stdout = None
interrupt()
time.sleep(3600)
""",
}

PROGRAM = """
import atexit, ctypes, gc, hashlib, os, signal, sys, threading, time, warnings
import weakref
from gqa_flax.runtime import interrupts

def interrupt():
  # To the process, as a terminal does: any thread may receive it.
  os.kill(os.getpid(), signal.SIGINT)

interrupts.install()
interrupts.describe(lambda: 'Nothing was saved.')
"""


@pytest.fixture(autouse=True)
def sigint_is_not_ignored():
  """Children inherit that it is, as in a shell script's background job."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, previous)


def run(work):
  # Standard input stays open, so that reading it waits.
  with subprocess.Popen(
    [sys.executable, '-c', PROGRAM + work],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      process.wait(120)
      return process.returncode, process.stdout.read(), process.stderr.read()
    finally:
      process.kill()


@pytest.mark.parametrize('where', WORK)
def test_the_process_ends_wherever_it_is_interrupted(where):
  assert run(WORK[where]) == (130, '', '\nNothing was saved.\n')


def test_nothing_that_can_be_swallowed_is_raised():
  """What `check` raises is raised by it alone."""
  status, out, err = run("""
interrupts.check()
interrupt()
for _ in range(1000):  # of bytecodes, between which a handler may run
  pass
print('the step has ended')
try:
  interrupts.check()
except KeyboardInterrupt:
  assert interrupts.requested()
  interrupts.tell()
  interrupts.leave()
""")
  assert (status, out) == (130, 'the step has ended\n')
  assert err == '\nNothing was saved.\n'


def test_who_does_not_check_again_is_ended():
  work = 'interrupts.check()\ninterrupt()\ntime.sleep(3600)'
  assert run(work) == (130, '', '\nNothing was saved.\n')


def test_a_second_interrupt_does_not_wait():
  status, _, err = run("""
interrupts._GRACE_SECONDS = 3600
interrupts.check()
interrupt()
time.sleep(0.5)
interrupt()
time.sleep(3600)
""")
  assert (status, err) == (130, '\nNothing was saved.\n')


def test_what_is_half_written_is_cleaned_up(tmp_path):
  (tmp_path / 'half').touch()
  (tmp_path / 'whole').touch()
  work = f"""
folder = {str(tmp_path)!r}
def fail():
  raise OSError
with interrupts.cleanup(lambda: os.unlink(folder + '/whole')):
  pass
with interrupts.cleanup(lambda: os.unlink(folder + '/half')):
  with interrupts.cleanup(fail):
    interrupt()
    time.sleep(3600)
"""
  assert run(work) == (130, '', '\nNothing was saved.\n')
  assert os.listdir(tmp_path) == ['whole']


def test_the_main_thread_does_not_end_during_a_cleanup(tmp_path):
  """It may fail for what is cleaned up, and be at its end before."""
  work = f"""
begun = threading.Event()
def clean():
  begun.set()
  time.sleep(0.5)
  open({str(tmp_path / 'clean')!r}, 'w').close()
with interrupts.cleanup(clean):
  interrupt()
  begun.wait()
interrupts.tell()
interrupts.leave()
"""
  assert run(work) == (130, '', '\nNothing was saved.\n')
  assert (tmp_path / 'clean').exists()


def test_a_cleanup_that_hangs_is_cut_short():
  work = """
with interrupts.cleanup(lambda: time.sleep(3600)):
  interrupt()
  time.sleep(3600)
"""
  assert run(work) == (130, '', '\nNothing was saved.\n')


def test_a_sentence_that_cannot_be_made_leaves_a_plain_one():
  work = """
interrupts.describe(lambda: 1 / 0)
interrupt()
time.sleep(3600)
"""
  assert run(work) == (130, '', '\nInterrupted.\n')


def test_nothing_is_said_after_the_sentence():
  work = """
from gqa_flax.runtime import status
status.begin()
status.name('late')
with interrupts.cleanup(lambda: status.tell('compiling')):
  interrupt()
  time.sleep(3600)
"""
  assert run(work) == (130, '', '\nNothing was saved.\n')


def test_buffered_output_is_written():
  work = "print('a row of a table')\ninterrupt()\ntime.sleep(3600)"
  assert run(work)[:2] == (130, 'a row of a table\n')


def test_other_signals_are_left_alone():
  work = """
signal.signal(signal.SIGTERM, lambda *_: print('SIGTERM'))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.5)
interrupts.check()
"""
  assert run(work) == (0, 'SIGTERM\n', '')


def test_ignored_stays_ignored():
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  work = "interrupt()\ninterrupts.check()\nprint('goes on')"
  assert run(work) == (0, 'goes on\n', '')


def test_a_forked_process_is_ended_alone():
  work = """
# From Python 3.12 on, of any process with threads.
warnings.simplefilter('ignore', DeprecationWarning)
child = os.fork()
if not child:
  interrupt()
  time.sleep(3600)
_, status = os.waitpid(child, 0)
print(os.WTERMSIG(status) == signal.SIGINT, interrupts.requested())
"""
  assert run(work) == (0, 'True False\n', '')


def test_without_a_program_nothing_is_taken_over():
  """A notebook or a test that calls `cli.main` keeps Python's own way."""
  before = signal.getsignal(signal.SIGINT)
  interrupts.check()
  assert not interrupts.requested()
  assert signal.getsignal(signal.SIGINT) is before
