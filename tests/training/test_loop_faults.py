"""What the loop does when it is stopped, damaged, or fed nonsense."""

import os
import signal

import jax
import numpy as np
import pytest

from gqa_flax.checkpoints import native
from gqa_flax.runtime import interrupts
from gqa_flax.training import preemption, progress


def checkpoints(folder):
  return sorted(path.name for path in folder.glob('*checkpoint_*'))


def assert_identical(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_sigterm_saves_the_step_and_the_same_command_goes_on(run, tmp_path):
  whole = run('whole', 5)

  def terminate(position):
    if position == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(preemption.Preempted, match='saved step 3 in .*stopped'):
    run('stopped', 5, before=terminate, checkpoint_every=100)
  assert checkpoints(tmp_path / 'stopped') == ['checkpoint_3']
  stopped = run('stopped', 5, checkpoint_every=100)
  assert_identical(whole.params, stopped.params)
  assert_identical(whole.opt_state, stopped.opt_state)


@pytest.mark.slow
def test_ctrl_c_ends_the_step_and_the_same_command_goes_on(
  run, tmp_path, monkeypatch
):
  """What is being written is written whole; nothing more is."""
  whole = run('whole', 5)

  with monkeypatch.context() as pressed:

    def press(position):
      if position == 3:
        pressed.setattr(interrupts._interrupts, '_requested', True)

    with pytest.raises(KeyboardInterrupt):
      run('interrupted', 5, before=press)
  assert checkpoints(tmp_path / 'interrupted') == ['checkpoint_2']
  interrupted = run('interrupted', 5)
  assert_identical(whole.params, interrupted.params)
  assert_identical(whole.opt_state, interrupted.opt_state)


@pytest.mark.slow
def test_an_evaluation_that_was_cut_short_is_made_up_for(run, tmp_path):
  """The checkpoint is there before: nothing trained is lost with it."""
  calls = []

  def evaluator(model, params):
    calls.append(float(jax.tree.leaves(params)[0].sum()))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return {'score': -calls[-1]}

  with pytest.raises(KeyboardInterrupt):
    run('cut', 6, evaluators=[evaluator], keep_best='score', keep=10)
  assert 'checkpoint_4' in checkpoints(tmp_path / 'cut')
  run('cut', 6, evaluators=[evaluator], keep_best='score', keep=10)
  scored = [
    r['step'] for r in progress.records(tmp_path / 'cut') if 'score' in r
  ]
  assert scored == [2, 4, 6]
  # The parameters of step 4, twice.
  assert calls[1] == calls[2]
  run('cut', 6, evaluators=[evaluator], keep_best='score', keep=10)
  assert len(calls) == 4


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside(run, tmp_path):
  whole = run('whole', 6)
  run('damaged', 4)
  newest = tmp_path / 'damaged' / 'checkpoint_4'
  for file in (newest / 'params').rglob('d/*'):
    file.write_bytes(file.read_bytes()[:-40])
  with pytest.warns(UserWarning, match='checkpoint_4'):
    damaged = run('damaged', 6)
  assert_identical(whole.params, damaged.params)
  names = checkpoints(tmp_path / 'damaged')
  assert any(n.endswith('checkpoint_4') and n != 'checkpoint_4' for n in names)


@pytest.mark.slow
@pytest.mark.parametrize('microbatches', [1, 2])
def test_a_batch_that_gives_nothing_finite_is_skipped(
  run, tmp_path, make_batch, tiny_config, counting_batches, microbatches
):
  """Step 3 would divide by zero tokens; its batch alone leaves no trace."""

  class Hole(counting_batches):
    def __next__(self):
      batch = super().__next__()
      if self.position == 3:
        batch['decoder_loss_weights'] = 0 * batch['decoder_loss_weights']
      return batch

  state = run(
    'hole',
    4,
    train_data=Hole(make_batch, tiny_config),
    log_every=4,
    checkpoint_every=4,
    non_finite='skip',
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
    microbatches=microbatches,
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert int(state.step) == 4
  # The optimizer has not counted it either.
  assert int(state.opt_state[0].count) == 3
  (record,) = progress.records(tmp_path / 'hole')
  assert record['skipped_steps'] == 1 and np.isfinite(record['loss'])


@pytest.mark.slow
def test_when_every_step_is_skipped_the_run_stops(run, tmp_path):
  def learning_rate(step):
    return jax.numpy.float32(np.inf)

  with pytest.raises(FloatingPointError, match='Steps 1 to 2 were all skipped'):
    run('inf', 4, learning_rate=learning_rate, non_finite='skip', log_every=2)
  assert checkpoints(tmp_path / 'inf') == []


def test_what_to_do_about_nonsense_is_checked(run):
  with pytest.raises(ValueError, match="NON_FINITE is 'ignore'; give 'stop'"):
    run('ignored', 2, non_finite='ignore')


def test_the_time_of_a_run_is_accounted_for(run, tmp_path, capsys):
  run('timed', 4)
  told = capsys.readouterr().out
  assert 'goodput' in told.lower() and 'compilation' in told
  with native.checkpoint_manager(tmp_path / 'timed') as manager:
    assert manager.all_steps() == [2, 4]
