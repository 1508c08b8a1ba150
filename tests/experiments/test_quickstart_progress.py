"""One bar for all stages: the share done, and the time left."""

import pytest

from experiments.quickstart.progress import Progress

STAGES = {'read': 60.0, 'train': 180.0, 'decode': 60.0}


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def test_the_time_left_is_what_the_rest_is_expected_to_take(clock):
  progress = Progress(STAGES, clock=clock)
  assert progress.seconds_left == 300
  progress.start('read')
  clock.now = 60
  progress.start('train')
  assert progress.seconds_left == pytest.approx(240)
  clock.now = 150
  progress.part(0.5)
  assert progress.seconds_left == pytest.approx(150)
  progress.start('decode')
  clock.now = 300
  progress.finish()
  assert progress.seconds_left == 0


def test_on_a_slow_machine_the_rest_takes_longer(clock):
  progress = Progress(STAGES, clock=clock)
  progress.start('read')
  clock.now = 180  # three times as long as expected
  progress.start('train')
  # 60 s are trusted beside: (180 + 60) / (60 + 60) times 240 s.
  assert progress.seconds_left == pytest.approx(480)


def test_stages_of_an_earlier_run_are_done_and_tell_nothing_of_the_pace(clock):
  progress = Progress(STAGES, done={'read', 'train'}, clock=clock)
  assert progress.seconds_left == 60
  progress.start('decode')
  clock.now = 30
  progress.part(0.5)
  assert progress.seconds_left == pytest.approx(30)


def test_a_log_gets_a_line_now_and_then(clock, capsys):
  progress = Progress(STAGES, clock=clock)
  progress.start('read', 'reading')
  for second in range(1, 60):
    clock.now = second
    progress.part(second / 60, f'row {second}')
  progress.say('A result.')
  shown = capsys.readouterr()
  assert shown.out == 'A result.\n'
  lines = shown.err.splitlines()
  assert lines == [
    '  0%, 5 min left: reading',
    '  7%, 5 min left: reading, row 20',
    ' 13%, 4 min left: reading, row 40',
  ]


def test_a_part_never_goes_back(clock):
  progress = Progress(STAGES, clock=clock)
  progress.start('train')
  progress.part(0.5)
  left = progress.seconds_left
  progress.part(0.1)
  assert progress.seconds_left == left
