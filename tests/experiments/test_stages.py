"""Stages: done once, and what is done belongs to its settings."""

import pytest

from experiments import stages

SETTINGS = {'UPTRAIN_STEPS': 36, 'UPTRAIN_LENGTHS': {'inputs': 64}}


def test_stages_of_other_settings_are_not_taken_for_done(tmp_path):
  work = tmp_path / 'work'
  stages.check_settings(work, SETTINGS)
  stages.check_settings(work, SETTINGS)
  other = SETTINGS | {'UPTRAIN_STEPS': 600}
  with pytest.raises(
    ValueError, match=r'\(UPTRAIN_STEPS is 36 there and 600 here\).*WORK_DIR'
  ):
    stages.check_settings(work, other)
  # What the message advises.
  stages.check_settings(tmp_path / 'another', other)
  stages.check_settings(work, SETTINGS)


def test_a_stage_runs_until_it_has_a_record_and_never_again(tmp_path):
  started, calls = [], []

  def stage():
    calls.append(None)
    if len(calls) == 1:
      raise KeyboardInterrupt
    return {'loss': 1.5}

  def run():
    found = stages.Stages(tmp_path, 7, started.append)
    record = found.run('train/mha', stage, {'name': 'MHA'})
    assert found.records == [record]
    return record

  with pytest.raises(KeyboardInterrupt):
    run()
  assert not stages.Stages(tmp_path, 7, started.append).done('train/mha')
  record = run()
  assert (record['stage'], record['name']) == ('train/mha', 'MHA')
  assert (record['loss'], record['provenance']['seed']) == (1.5, 7)
  assert run() == record
  assert stages.Stages(tmp_path, 7, started.append).done('train/mha')
  assert started == ['train/mha'] * 2
  assert len(calls) == 2
