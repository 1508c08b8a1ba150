"""How the study's cells and jobs are run, recorded, stopped and told."""

import dataclasses
import os
import sys
import threading
import time

import pytest

from experiments import figure5_uptraining_proportion
from experiments.study import command, grid
from experiments.study.cells import FineTuning, Timing, Uptraining
from experiments.study.jobs import Job, JobError
from experiments.study.scales import LAPTOP, PAPER
from experiments.training_knobs.cells import PAGES
from gqa_flax.reporting import records


class Counted:
  """A cell whose only job writes a file, or fails so many times."""

  kind = 'counted'

  def __init__(self, folder, name='counted/0', failures=0):
    self.folder, self.name, self.failures = folder, name, failures
    self.runs = 0

  def jobs(self, scale):
    return [self]

  # As a job, too.
  command, arguments = 'train', ['train']

  @property
  def done(self):
    return str(self.folder / 'done')

  def run(self, log):
    self.runs += 1
    if self.runs <= self.failures:
      raise JobError('gqa-flax train ended with status 1')
    (self.folder / 'train.gin').write_text('A = 1\n')
    (self.folder / 'train_provenance.json').write_text('{"device": "cpu"}')

  def numbers(self, scale):
    return {'answer': 42}


def test_a_cell_is_run_once_and_its_record_says_how(tmp_path):
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  cell = Counted(tmp_path)
  study.run([cell])
  study.run([cell])
  assert cell.runs == 1
  (record,) = records.read(tmp_path / 'records.jsonl')
  assert record['seconds'] >= 0
  del record['seconds']
  assert record == {
    'scale': 'laptop',
    'cell': 'counted/0',
    'status': 'done',
    'answer': 42,
    'parallel': 1,
    'jobs': [
      {
        'arguments': ['train'],
        'gin': 'A = 1\n',
        'provenance': {'device': 'cpu'},
      }
    ],
  }
  assert study.found() == {'counted/0': study.found()['counted/0']}
  # The same cell of the other scale is another.
  assert grid.Grid(PAPER, tmp_path / 'records.jsonl').missing([cell]) == [cell]


@pytest.mark.parametrize('keeps', [True, False])
def test_fine_tuned_checkpoints_stay_where_the_scale_says(tmp_path, keeps):
  class Scored(FineTuning):
    def jobs(self, scale):
      return []

    def numbers(self, scale):
      return {'scores': {}}

  scale = dataclasses.replace(
    LAPTOP, work_dir=str(tmp_path), keeps_finetuned=keeps
  )
  cell = Scored(Uptraining('laptop', 1, 'mean'), 'verse_translation')
  folder = tmp_path / cell.name
  (folder / 'checkpoint_5' / 'model').mkdir(parents=True)
  (folder / 'test').mkdir()
  study = grid.Grid(scale, tmp_path / 'records.jsonl')
  study.run([cell])
  assert (folder / 'checkpoint_5').exists() == keeps
  assert (folder / 'test').exists() and study.found()


def test_what_fails_is_recorded_and_tried_again(tmp_path, capsys):
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  failing = Counted(tmp_path, failures=1)
  after = Counted(tmp_path, 'counted/1')
  study.run([failing, after])
  assert [*study.found()] == ['counted/1']
  assert 'status 1' in capsys.readouterr().err
  study.run([failing, after])
  statuses = [r['status'] for r in records.read(tmp_path / 'records.jsonl')]
  assert statuses == ['failed', 'done', 'done']
  assert (failing.runs, after.runs) == (2, 1)


def test_what_is_done_is_recorded_anew_when_asked(tmp_path):
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  cell = Counted(tmp_path)
  study.run([cell])
  cell.numbers = lambda scale: {'answer': 43}
  study.run([cell])
  assert study.found()[cell.name]['answer'] == 42
  study.run([cell], again=True)
  assert study.found()[cell.name]['answer'] == 43
  answers = [r['answer'] for r in records.read(tmp_path / 'records.jsonl')]
  assert answers == [42, 43]


def test_what_is_told_to_stop_leaves_no_record(tmp_path):
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  stopped, after = Counted(tmp_path), Counted(tmp_path, 'counted/1')

  def stop(log):
    raise JobError('gqa-flax train ended with status 75', preempted=True)

  stopped.run = stop
  study.run([stopped, after])
  assert after.runs == 0 and not records.read(tmp_path / 'records.jsonl')


@pytest.mark.skipif(
  not hasattr(os, 'sched_getaffinity') or len(os.sched_getaffinity(0)) < 2,
  reason='needs a system that holds threads to cores, and two of them',
)
def test_cells_in_parallel_meet_on_cores_of_their_own(tmp_path):
  shares = grid.shares_of_cores(2)
  meeting, cores, order = threading.Barrier(2, timeout=30), [], []

  def run(name):
    def wait(log):
      if name != 'alone':
        meeting.wait()
        cores.append(os.sched_getaffinity(0))
      order.append(name)

    return wait

  cells = [Counted(tmp_path / name, name) for name in ('a', 'b', 'alone')]
  for cell in cells:
    cell.run = run(cell.name)
  cells[2].kind = Timing.kind
  before = os.sched_getaffinity(0)
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  study.run(cells, shares)
  assert order[0] == 'alone' and {*order} == {'a', 'b', 'alone'}
  assert not cores[0] & cores[1] and {*cores[0], *cores[1]} <= before
  assert os.sched_getaffinity(0) == before
  assert {r['cell']: r['parallel'] for r in study.found().values()} == {
    'alone': 1,
    'a': 2,
    'b': 2,
  }


def test_a_job_of_two_cells_is_run_once(tmp_path):
  running = threading.Lock()

  def run(log):
    assert running.acquire(blocking=False)
    time.sleep(0.05)
    running.release()

  cells = [Counted(tmp_path, name) for name in ('a', 'b')]
  for cell in cells:
    cell.run = run
  study = grid.Grid(LAPTOP, tmp_path / 'records.jsonl')
  study.run(cells, [None, None])
  assert {*study.found()} == {'a', 'b'}


@pytest.mark.parametrize('number', ['0', '100000', 'two'])
def test_no_more_cells_in_parallel_than_cores(number, capsys):
  script = figure5_uptraining_proportion.SCRIPT
  with pytest.raises(SystemExit):
    command.main(script, ['--list', f'--parallel={number}'])
  assert '--parallel' in capsys.readouterr().err


def test_a_job_is_a_command_for_the_shell(tmp_path, monkeypatch):
  job = Job(
    'train',
    ('a.gin', 'b.gin'),
    {'TRAIN_STEPS': 3, 'TASK_FEATURE_LENGTHS': "{'inputs': 4}"},
    done=str(tmp_path / 'done'),
  )
  assert str(job).split(' \\\n  ') == [
    'gqa-flax',
    'train',
    '--gin_file=a.gin',
    '--gin_file=b.gin',
    '--gin.TRAIN_STEPS=3',
    """'--gin.TASK_FEATURE_LENGTHS={'"'"'inputs'"'"': 4}'""",
  ]
  script = tmp_path / 'python'
  script.write_text('#!/bin/sh\necho "$@"\necho no such file >&2\nexit 3\n')
  script.chmod(0o755)
  monkeypatch.setattr(sys, 'executable', str(script))
  with pytest.raises(JobError, match='status 3: no such file') as caught:
    job.run(tmp_path / 'logs' / 'log')
  assert not caught.value.preempted
  log = (tmp_path / 'logs' / 'log').read_text()
  assert '-m gqa_flax.cli train --gin_file=a.gin' in log
  assert not job.is_done
  # What the command itself says counts, not what libraries say after it.
  sentence = 'gqa-flax train: It is saved.'
  script.write_text(f'#!/bin/sh\necho {sentence}\necho a warning\nexit 75\n')
  with pytest.raises(JobError, match=f'status 75: {sentence}') as caught:
    job.run(tmp_path / 'logs' / 'log')
  assert caught.value.preempted
  # Before it listens, a signal ends it at once.
  script.write_text('#!/bin/sh\nkill -TERM $$\n')
  with pytest.raises(JobError, match='status -15') as caught:
    job.run(tmp_path / 'logs' / 'log')
  assert caught.value.preempted
  # Ctrl-C, which the whole group of processes gets.
  script.write_text('#!/bin/sh\nexit 130\n')
  with pytest.raises(JobError, match='status 130') as caught:
    job.run(tmp_path / 'logs' / 'log')
  assert caught.value.preempted
  script.write_text('#!/bin/sh\n')
  job.run(tmp_path / 'logs' / 'log')
  assert job.is_done
  log = (tmp_path / 'logs' / 'log').read_text()
  job.run(tmp_path / 'logs' / 'log')
  assert (tmp_path / 'logs' / 'log').read_text() == log


@pytest.mark.parametrize('own', [None, 'glibc.malloc.check=1'])
def test_a_job_has_huge_pages_unless_the_caller_chose(
  tmp_path, monkeypatch, own
):
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  if own:
    monkeypatch.setenv('GLIBC_TUNABLES', own)
  script = tmp_path / 'python'
  script.write_text('#!/bin/sh\necho "pages: $GLIBC_TUNABLES"\n')
  script.chmod(0o755)
  monkeypatch.setattr(sys, 'executable', str(script))
  Job('train', (), {}, done=str(tmp_path / 'done')).run(tmp_path / 'log')
  expected = own or PAGES['huge']['GLIBC_TUNABLES']
  assert f'pages: {expected}\n' in (tmp_path / 'log').read_text()
