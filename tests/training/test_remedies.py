"""Every remedy that a message of training gives, followed."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tensorflow as tf

from gqa_flax.checkpoints import native
from gqa_flax.data.iterator import BatchIterator
from gqa_flax.training import loop, optimizer, progress


class Draws(BatchIterator):
  """Batches drawn by TensorFlow, which remember what was read of them."""

  def __init__(self, seed=0, batch_size=8, num_shards=None, position='restore'):
    def stream(index, number):
      def row(i):
        key = tf.stack([tf.constant(seed, tf.int64), i * number + index])
        draw = tf.random.stateless_uniform([12], key, 2, 64, tf.int32)
        return {
          'encoder_input_tokens': draw[:7],
          'decoder_input_tokens': tf.pad(draw[7:-1], [[1, 0]]),
          'decoder_target_tokens': draw[7:],
          'decoder_loss_weights': tf.ones([5], tf.int32),
        }

      rows = tf.data.Dataset.range(10**6).map(row)
      return rows.batch(batch_size // number)

    arguments = {'batch_size': batch_size, 'seed': seed}
    arguments |= {'task': 'draws', 'split': 'train'}
    super().__init__(stream, arguments, num_shards, position=position)
    self.read = []

  def __next__(self):
    batch = super().__next__()
    self.read.append(batch['encoder_input_tokens'][0].tolist())
    return batch


def train(folder, config, train_steps=4, data=None, **kwargs):
  """Trains, and returns the state and what was read."""
  data = Draws(**(data or {}))
  state = loop.train(
    **{
      'model_dir': str(folder),
      'config': config,
      'train_data': data,
      'train_steps': train_steps,
      'learning_rate': optimizer.constant_schedule(1e-3),
      'checkpoint_every': 2,
      'log_every': 1,
      **kwargs,
    }
  )
  assert int(state.step) == train_steps
  return state, data.read


def blow_up(step):
  """A rate whose update of step 3 is infinite, so that step 4's loss is."""
  return jax.numpy.where(step < 2, 1e-3, np.inf).astype(np.float32)


@pytest.fixture(scope='module')
def failed(tiny_config, tmp_path_factory):
  """A run that ended at step 4 with a checkpoint of step 2, and its advice."""
  folder = tmp_path_factory.mktemp('failed') / 'run'
  with pytest.raises(FloatingPointError) as caught:
    train(folder, tiny_config, 6, learning_rate=blow_up)
  assert [p.name for p in folder.glob('checkpoint_*')] == ['checkpoint_2']
  return folder, str(caught.value)


@pytest.fixture
def folder(failed, tmp_path):
  shutil.copytree(failed[0], tmp_path / 'run')
  return tmp_path / 'run'


@pytest.mark.slow
def test_another_seed_after_a_loss_that_is_not_finite(
  failed, folder, tiny_config, capsys
):
  """A new order of batches, said in one line; the next restart continues it."""
  assert 'with another RANDOM_SEED' in failed[1]
  _, new = train(folder, tiny_config, 4, {'seed': 1})
  lines = capsys.readouterr().err.splitlines()
  (line,) = [line for line in lines if 'RANDOM_SEED' in line]
  assert line.startswith('Warning: RANDOM_SEED is not that of the position in')
  assert 'a new order, which starts from its beginning' in line
  _, continued = train(folder, tiny_config, 5, {'seed': 1})
  assert 'RANDOM_SEED' not in capsys.readouterr().err
  expected = Draws(seed=1)
  for _ in range(3):
    next(expected)
  assert new + continued == expected.read
  assert new[0] != next_of(Draws(seed=0))


def next_of(data):
  next(data)
  return data.read[0]


@pytest.mark.slow
def test_a_lower_learning_rate_from_the_last_checkpoint(
  failed, folder, tiny_config
):
  assert 'with a lower learning rate' in failed[1]
  train(folder, tiny_config, 6)
  logged = {r['step']: r['loss'] for r in progress.records(folder)}
  assert [*logged] == [1, 2, 3, 4, 5, 6]
  assert np.isfinite([*logged.values()]).all()


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out(failed, folder, tiny_config):
  """Step 3 has an infinite update, and is alone in its record."""
  assert "with NON_FINITE = 'skip'" in failed[1]

  def once(step):
    return jax.numpy.where(step == 2, np.inf, 1e-3).astype(np.float32)

  options = {'learning_rate': once, 'non_finite': 'skip'}
  state, _ = train(folder, tiny_config, 6, **options)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  logged = {r['step']: r.get('skipped_steps') for r in progress.records(folder)}
  assert logged == {1: None, 2: None, 4: 1, 5: None, 6: None}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('then', 'now', 'name'),
  [
    ({}, {'batch_size': 16}, 'batch_size'),
    ({'num_shards': 2}, {'num_shards': 4}, 'DATA_SHARDS'),
  ],
)
def test_batches_of_other_settings_are_refused_until_they_are_reset(
  then, now, name, tiny_config, tmp_path, capsys
):
  folder = tmp_path / 'run'
  train(folder, tiny_config, 2, then)
  with pytest.raises(ValueError, match=f"{name}.*set DATA_POSITION = 'reset'"):
    train(folder, tiny_config, 4, now)
  reset = {**now, 'position': 'reset'}
  _, new = train(folder, tiny_config, 4, reset)
  assert "As DATA_POSITION is 'reset', they do" in capsys.readouterr().err
  # Left as it is, it does not read the first batches again at every restart.
  _, continued = train(folder, tiny_config, 5, reset)
  assert 'DATA_POSITION' not in capsys.readouterr().err
  expected = Draws(**now)
  for _ in range(3):
    next(expected)
  assert new + continued == expected.read


def test_a_checkpoint_without_a_position_begins_another_run(
  tmp_path, tiny_config, make_params
):
  """A converted one, for instance, put where the run's own are."""
  params = make_params(tiny_config)
  opt_state = optimizer.adafactor().init(params)
  with native.checkpoint_manager(tmp_path / 'run') as manager:
    checkpoint = native.Checkpoint(2, params, tiny_config)
    native.save(manager, checkpoint, opt_state=opt_state)
  with pytest.raises(
    ValueError, match=r'as INITIAL_CHECKPOINT_PATH of a run in an empty MODEL_D'
  ):
    train(tmp_path / 'run', tiny_config, 4)
  initial = str(tmp_path / 'run')
  train(tmp_path / 'new', tiny_config, 4, initial_checkpoint=initial)


@pytest.mark.slow
def test_an_optimizer_state_that_is_missing_is_reset(
  tmp_path, tiny_config, make_params
):
  with native.checkpoint_manager(tmp_path / 'bare') as manager:
    params = make_params(tiny_config)
    native.save(manager, native.Checkpoint(2, params, tiny_config))
  arguments = {'initial_checkpoint': str(tmp_path / 'bare')}
  with pytest.raises(ValueError, match="set OPTIMIZER_STATE = 'reset'"):
    train(
      tmp_path / 'new', tiny_config, 4, initial_optimizer='carry', **arguments
    )
  train(
    tmp_path / 'new', tiny_config, 4, initial_optimizer='reset', **arguments
  )


def test_when_every_checkpoint_is_damaged(folder, tmp_path, tiny_config):
  elsewhere = tmp_path / 'checkpoint_2'
  shutil.copytree(folder / elsewhere.name, elsewhere)
  for file in (folder / 'checkpoint_2' / 'params').rglob('d/*'):
    file.write_bytes(file.read_bytes()[:-40])
  with pytest.warns(UserWarning, match='It is now corrupt_checkpoint_2'):
    with pytest.raises(
      native.CorruptCheckpointError, match='copy one from elsewhere, or start'
    ):
      train(folder, tiny_config, 3)
  # Nor does it start over by itself when the job is restarted.
  with pytest.raises(
    native.CorruptCheckpointError, match='corrupt_checkpoint_2 .*copy one from'
  ):
    train(folder, tiny_config, 3)
  shutil.copytree(elsewhere, folder / 'checkpoint_2')
  train(folder, tiny_config, 3)
  assert [r['step'] for r in progress.records(folder)] == [1, 2, 3]
  train(tmp_path / 'empty', tiny_config, 1)


def test_another_architecture_is_configured_as_the_checkpoint_is(
  folder, tmp_path, tiny_config
):
  initial = {'initial_checkpoint': str(folder)}
  grouped = dataclasses.replace(tiny_config, num_kv_heads=2)
  with pytest.raises(ValueError, match='configure the model as the checkpoint'):
    train(tmp_path / 'new', grouped, 3, **initial)
  train(tmp_path / 'new', tiny_config, 3, **initial)
