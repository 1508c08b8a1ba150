import json
import random
import subprocess
import sys

import pytest

from gqa_flax.training import goodput
from gqa_flax.training.goodput import CATEGORIES, Goodput, summary, table


class Clock:
  """A clock of whole seconds, whose sums are exact."""

  def __init__(self):
    self.time = 1_000_000.0

  def __call__(self):
    return self.time

  def pass_(self, seconds):
    self.time += seconds


def test_every_second_belongs_to_one_category(tmp_path):
  clock = Clock()
  timer = Goodput(tmp_path, 0, now=clock, start=clock.time - 7)
  clock.pass_(1)
  with timer('compilation'):
    clock.pass_(20)
  clock.pass_(2)
  for step in range(1, 4):
    with timer('input'):
      clock.pass_(3)
    with timer('step'):
      clock.pass_(5)
    clock.pass_(1)
    timer.record(step)
  with timer('checkpoint'):
    clock.pass_(11)
  with timer('evaluation'):
    clock.pass_(13)
  timer.record(3, finished=True)

  result = summary(tmp_path)
  assert result['seconds'] == {
    # Up to the first step, between the clocks.
    'startup': 7 + 1 + 2,
    'compilation': 20,
    'input': 9,
    'step': 15,
    'checkpoint': 11,
    'evaluation': 13,
    'other': 3,
    'lost': 0,
    'down': 0,
  }
  assert result['wall_seconds'] == 81
  assert result['goodput'] == 15 / 81
  assert (result['steps_done'], result['steps_lost']) == (3, 0)
  assert (result['attempts'], result['restarts']) == (1, 0)


def test_inner_clocks_take_their_time_from_outer_ones(tmp_path):
  clock = Clock()
  timer = Goodput(tmp_path, 0, now=clock, start=clock.time)
  with timer('evaluation'):
    clock.pass_(1)
    with timer('compilation'):
      clock.pass_(10)
      with timer('input'):
        clock.pass_(100)
      timer.record(0)
      clock.pass_(1000)
    with pytest.raises(KeyError), timer('input'):
      clock.pass_(10_000)
      raise KeyError
    clock.pass_(100_000)
  timer.record(0)
  seconds = summary(tmp_path)['seconds']
  assert seconds['evaluation'] == 100_001
  assert seconds['compilation'] == 1010
  assert seconds['input'] == 10_100
  assert sum(seconds.values()) == 111_111


@pytest.mark.parametrize('seed', range(30))
def test_restarts_add_up_as_an_oracle_says(tmp_path, seed):
  """Restarts anywhere: the oracle keeps a book of single steps."""
  rng = random.Random(seed)
  clock = Clock()
  very_start = last_sign = clock.time
  # Seconds of every step that the state of the moment descends from.
  kept, lost, down = {}, [], 0
  for _ in range(rng.randint(1, 6)):
    first = rng.randint(0, max(kept, default=0))
    lost += [s for step, s in kept.items() if step > first]
    kept = {step: s for step, s in kept.items() if step <= first}
    start = clock.time
    down += start - last_sign
    clock.pass_(rng.randint(0, 50))
    timer = Goodput(tmp_path, first, now=clock, start=start)
    last_sign = clock.time

    for _ in range(rng.randint(0, 5)):
      # Within one record the oracle's steps last equally long.
      seconds = rng.randint(1, 9)
      steps = range(first + 1, first + rng.randint(1, 4) + 1)
      for _ in steps:
        with timer('input'):
          clock.pass_(rng.randint(0, 3))
        with timer('step'):
          clock.pass_(seconds)
        clock.pass_(rng.randint(0, 2))
      if rng.random() < 0.2:
        break  # Killed before it was recorded: nobody knows of these steps.
      timer.record(steps[-1])
      last_sign, first = clock.time, steps[-1]
      kept |= dict.fromkeys(steps, seconds)
    clock.pass_(rng.randint(0, 20))

  result = summary(tmp_path)
  seconds = result['seconds']
  assert seconds['step'] == pytest.approx(sum(kept.values()), abs=1e-9)
  assert seconds['lost'] == pytest.approx(sum(lost), abs=1e-9)
  assert seconds['down'] == down
  assert result['steps_lost'] == len(lost)
  assert result['steps_done'] == len(kept) + len(lost)
  wall = last_sign - very_start
  assert result['wall_seconds'] == pytest.approx(wall, abs=1e-9)
  assert sum(seconds.values()) == pytest.approx(wall, abs=1e-9)
  assert sum(result['shares'].values()) == pytest.approx(1)


def test_torn_line_costs_only_itself(tmp_path):
  clock = Clock()
  timer = Goodput(tmp_path, 0, now=clock, start=clock.time)
  with timer('step'):
    clock.pass_(10)
  timer.record(10)
  file = tmp_path / goodput.GOODPUT_FILE
  whole = file.read_text()
  for length in range(1, len(whole.splitlines()[1])):
    file.write_text(whole + whole.splitlines()[1][:length])
    clock.time += 100
    again = Goodput(tmp_path, 4, now=clock, start=clock.time - 3)
    with again('step'):
      clock.pass_(5)
    again.record(9)
    result = summary(tmp_path)
    assert result['attempts'] == 2
    assert result['steps_lost'] == 6
    assert result['seconds']['startup'] == 3
    assert result['seconds']['step'] == 4 + 5
    assert result['seconds']['lost'] == 6


def test_pause_after_the_end_of_a_run_is_no_loss(tmp_path):
  clock = Clock()
  for first, finished in ((0, True), (5, False), (10, True)):
    timer = Goodput(tmp_path, first, now=clock, start=clock.time)
    with timer('step'):
      clock.pass_(5)
    timer.record(first + 5, finished=finished)
    clock.pass_(100)
  result = summary(tmp_path)
  assert result['seconds']['down'] == 100
  assert result['goodput'] == 15 / 115


def test_clocks_of_two_hosts_may_differ(tmp_path):
  clock = Clock()
  Goodput(tmp_path, 0, now=clock, start=clock.time)
  Goodput(tmp_path, 0, now=clock, start=clock.time - 60).record(0)
  assert summary(tmp_path)['seconds']['down'] == 0


def test_only_the_writer_writes(tmp_path):
  timer = Goodput(tmp_path, 0, writes=False)
  timer.record(1)
  assert not list(tmp_path.iterdir())
  with pytest.raises(FileNotFoundError, match='no training has run'):
    summary(tmp_path)


def test_unknown_category_is_named(tmp_path):
  timer = Goodput(tmp_path, 0)
  with pytest.raises(ValueError, match="'stepp'.*'?step"), timer('stepp'):
    pass


def test_table_tells_each_category_and_its_share(tmp_path):
  clock = Clock()
  timer = Goodput(tmp_path, 0, now=clock, start=clock.time - 1000)
  with timer('step'):
    clock.pass_(3000)
  timer.record(1500)
  lines = table(summary(tmp_path)).splitlines()
  assert lines[0] == (
    'Goodput 75.0% of 4,000.0 s in 1 attempt: 1,500 steps, 0 of them lost to '
    'restarts'
  )
  assert lines[1].split() == ['startup', '1,000.0', 's', '25.0%']
  assert len({len(line) for line in lines[1:]}) == 1
  assert len(lines) == 1 + len(CATEGORIES) + 2


def test_imports_of_the_process_count_once_and_jax_is_not_among_them(tmp_path):
  code = """
import sys, time
time.sleep(0.5)
from gqa_flax.training import goodput
for _ in range(2):
  goodput.Goodput(sys.argv[1], 0).record(0)
assert 'jax' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code, tmp_path], check=True)
  text = (tmp_path / goodput.GOODPUT_FILE).read_text()
  first, _, second, _ = map(json.loads, text.splitlines())
  assert first['seconds']['startup'] >= 0.5
  assert second['start'] >= first['time']
