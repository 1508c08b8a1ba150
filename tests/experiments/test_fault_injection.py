"""A few kills for real, and a comparison that must see a single bit."""

import json
import pathlib
import types

import numpy as np
import pytest

from experiments.fault_injection import (
  compare,
  inject,
  job,
  plots,
  report,
  schedule,
)
from gqa_flax.checkpoints import native
from gqa_flax.reporting import records


def _save(folder, step, params, config, opt_state):
  with native.checkpoint_manager(str(folder)) as manager:
    checkpoint = native.Checkpoint(step, params, config)
    native.save(manager, checkpoint, opt_state=opt_state)
  return folder / f'{native.PREFIX}_{step}'


def _flip_one_bit(tree, name):
  changed = {**tree, name: np.array(tree[name])}
  changed[name].reshape(-1).view(np.uint8)[5] ^= 1
  return changed


@pytest.fixture
def small(tiny_config, make_params):
  params = make_params(tiny_config)
  state = {'count': np.int32(7), 'v': np.linspace(0, 1, 6, dtype='float32')}
  return tiny_config, params, state


def test_equal_checkpoints_do_not_differ(tmp_path, small):
  config, params, state = small
  one = _save(tmp_path / 'a', 3, params, config, state)
  two = _save(tmp_path / 'b', 3, params, config, state)
  assert compare.checkpoints(one, two) == {}


def test_one_bit_of_a_parameter_is_seen(tmp_path, small):
  config, params, state = small
  one = _save(tmp_path / 'a', 3, params, config, state)
  changed = {**params}
  changed['token_embedder'] = _flip_one_bit(
    params['token_embedder'], 'embedding'
  )
  two = _save(tmp_path / 'b', 3, changed, config, state)
  differ = compare.checkpoints(one, two)
  assert differ == {'params': ['token_embedder/embedding']}


def test_one_bit_of_the_optimizer_and_the_step_are_seen(tmp_path, small):
  config, params, state = small
  one = _save(tmp_path / 'a', 3, params, config, state)
  two = _save(tmp_path / 'b', 4, params, config, _flip_one_bit(state, 'v'))
  differ = compare.checkpoints(one, two)
  assert differ == {'optimizer': ['v'], 'step': ['3', '4']}


def test_zero_and_minus_zero_differ():
  assert not compare.same_bits(np.float32([0.0]), np.float32([-0.0]))
  assert not compare.same_bits(np.zeros(2, 'int32'), np.zeros(2, 'float32'))


def _kill(**changes):
  kill = {
    'kill': 0,
    'seed': 0,
    'victims': [0],
    'drawn': {'phase': 'steps'},
    'time': 30.0,
    'seconds_after_start': 20.0,
    'joined': True,
    'ended_before': None,
    'step': 7,
    'latest_checkpoint': 5,
    'temporary': [],
    'survivor_status': -6,
    'survivor_seconds': 0.1,
    'survivor_in_time': True,
    'latest_after': 5,
    'corrupt': [],
    'losses_equal': True,
    'went_on_from': 5,
  }
  return {**kill, **changes}


def _write_run(folder, losses, attempts):
  folder.mkdir(exist_ok=True)
  lines = [json.dumps({'step': s, 'loss': x}) for s, x in losses.items()]
  (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"step": 9, "l')
  lines = [
    {'attempt': str(i), 'start': 0, 'time': 1, 'steps': s, 'seconds': {}}
    for i, s in enumerate(attempts)
  ]
  text = '\n'.join(json.dumps(line) for line in lines)
  (folder / 'goodput.jsonl').write_text(text)


def _failed(tmp_path, small, losses=None, kill=None, attempts=None):
  """Returns the checks that fail for two runs of eight steps."""
  config, params, state = small
  good = {step: 1 / step for step in range(1, 9)}
  for name in 'a', 'b':
    _save(tmp_path / name, 8, params, config, state)
  _write_run(tmp_path / 'a', good, [[0, 8]])
  attempts = attempts or [[0, 7], [5, 8]]
  _write_run(tmp_path / 'b', losses or good, attempts)
  kills = [_kill(**(kill or {}))]
  found = compare.runs(tmp_path / 'a', tmp_path / 'b', 8, kills)
  return [check for check, holds in found['checks'].items() if not holds]


def test_a_run_as_it_should_be_passes(tmp_path, small):
  assert _failed(tmp_path, small) == []


@pytest.mark.parametrize(
  ('changes', 'check'),
  [
    (
      {'losses': {s: 1 / s for s in range(1, 8)}},
      'losses of all steps equal',
    ),
    (
      {'losses': {s: 1 / s + 1e-15 * (s == 4) for s in range(1, 9)}},
      'losses of all steps equal',
    ),
    (
      {'kill': {'losses_equal': False}},
      'losses of steps that were lost equal',
    ),
    (
      {'kill': {'went_on_from': 0}},
      'every attempt went on from the latest checkpoint',
    ),
    (
      {'attempts': [[0, 7], [3, 8]]},
      'no step before a checkpoint was done again',
    ),
    (
      {'kill': {'corrupt': ['corrupt_checkpoint_5']}},
      'no checkpoint was torn',
    ),
    (
      {'kill': {'survivor_in_time': False}},
      'every survivor ended by itself',
    ),
    (
      {'kill': {'ended_before': [1, 1]}},
      'every attempt ran until it was killed',
    ),
  ],
)
def test_each_check_can_fail(tmp_path, small, changes, check):
  assert _failed(tmp_path, small, **changes) == [check]


def test_the_schedule_has_every_kind_and_leaves_steps_to_do():
  kills = schedule.draw(50, 5, seed=0)
  assert kills == schedule.draw(50, 5, seed=0)
  assert kills != schedule.draw(50, 5, seed=1)
  kinds = {(kill.victims, kill.phase) for kill in kills}
  assert len(kinds) == 2 * len(schedule.VICTIMS)
  most = sum(kill.steps for kill in kills if kill.phase == 'steps')
  assert schedule.train_steps(kills, 5) > most


def test_an_attempt_that_ends_by_itself_leaves_its_kill_to_the_next(
  tmp_path, monkeypatch
):
  """Also where the experiment was interrupted after the first two attempts."""
  kills = schedule.draw(4, 5, seed=0)
  ends = [None, [1, -6], None, None, [-6, 1], None]
  path = tmp_path / 'kills.jsonl'
  injector = inject._Injector(tmp_path, path, steps=20, seed=0)
  injector._first_logged = 1.0

  def strike(number, attempt, kill, before):
    assert kill == kills[number]
    records.append(path, _kill(kill=number, ended_before=before))
    return _kill(survivor_in_time=None)

  attempt = types.SimpleNamespace(start=0.0)
  monkeypatch.setattr(injector, '_start', lambda *args: attempt)
  monkeypatch.setattr(injector, '_until', lambda *args: ends.pop(0))
  monkeypatch.setattr(injector, '_strike', strike)
  injector.kill_all(kills[:1], 1.0, None)
  injector.kill_all(kills, 1.0, None)
  numbers = [kill['kill'] for kill in records.read(path)]
  assert numbers == [0, 1, 1, 2, 3, 3] and not ends


def test_a_listing_tells_whole_from_unfinished_and_damaged(tmp_path):
  assert job.listing(tmp_path / 'absent').latest is None
  names = ('checkpoint_5', 'checkpoint_10', 'corrupt_checkpoint_20')
  unfinished = 'checkpoint_15.orbax-checkpoint-tmp'
  for name in (*names, unfinished):
    (tmp_path / name).mkdir()
  found = job.listing(tmp_path)
  assert found.latest == 10
  assert found.temporary == (unfinished,)
  assert found.corrupt == ('corrupt_checkpoint_20',)


def test_the_report_shows_every_kill_and_what_differs(tmp_path):
  summary = {
    'seed': 0,
    'kills_planned': 50,
    'train_steps': 8,
    'checkpoint_every': 5,
    'heartbeat_seconds': 10,
    'equal': False,
    'checks': {'parameters equal to the bit': False},
    'attempts': [[0.0, 9.0, 0, 30.0, 7], [35.0, 45.0, 5, 50.0, 8]],
    'goodput': {
      'attempts': 2,
      'steps_done': 10,
      'steps_lost': 2,
      'seconds': {'step': 5.0},
      'shares': {'step': 0.1},
    },
    'provenance': {'cpus': 2},
  }
  records.append(tmp_path / 'records.jsonl', summary)
  unseen = {'step': None, 'survivor_status': None, 'survivor_in_time': None}
  ended = {'ended_before': [1, -6], 'survivor_in_time': None}
  kills = (
    _kill(),
    _kill(kill=1, victims=[1], **ended),
    _kill(kill=1, victims=[1], **unseen),
  )
  for kill in kills:
    records.append(tmp_path / 'kills.jsonl', kill)
  report.write(tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert 'SOMETHING DIFFERS' in text and '2 of 50 planned' in text
  assert '| 0 | process 0 | 20.0 | 7 | 5 | no | -6 | 0.1 | 5 |' in text
  assert '1 kills came before' in text
  assert '1 attempts ended by themselves' in text
  assert '| 1 | none |' in text and '| 1 | process 1 |' in text
  assert (tmp_path / 'steps.png').stat().st_size > 10_000


@pytest.mark.alone
@pytest.mark.slow
def test_three_kills_end_as_an_undisturbed_run(tmp_path):
  equal = inject.run(tmp_path / 'work', tmp_path / 'results', num_kills=3)
  kills = records.read(tmp_path / 'results' / 'kills.jsonl')
  (summary,) = records.read(tmp_path / 'results' / 'records.jsonl')
  assert equal, (summary['checks'], summary['differ'], kills)
  assert {tuple(kill['victims']) for kill in kills} == set(plots.WHO)
  assert pathlib.Path(tmp_path / 'work' / 'killed').is_dir()
