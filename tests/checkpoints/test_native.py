"""Checkpoints of our own: what goes in comes out, or nothing does."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from gqa_flax.checkpoints import native
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.training import optimizer


@pytest.fixture
def checkpoint(tiny_config, tiny_params):
  return native.Checkpoint(7, tiny_params, tiny_config)


def test_round_trip(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint)
  for path in (tmp_path, tmp_path / 'checkpoint_7'):
    restored = native.restore(path)
    assert restored.step == 7
    assert restored.config == checkpoint.config
    jax.tree.map(
      np.testing.assert_array_equal, restored.params, checkpoint.params
    )


def test_the_latest_is_read(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    for step in (7, 10, 9):
      later = native.Checkpoint(step, checkpoint.params, checkpoint.config)
      native.save(manager, later)
  assert native.step_of(native.locate(tmp_path)) == 10


def test_unfinished_checkpoints_are_not_seen(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint)
  (tmp_path / 'checkpoint_9.orbax-checkpoint-tmp-0').mkdir()
  assert native.step_of(native.locate(tmp_path)) == 7


@pytest.mark.parametrize('name', ['absent', '', 'checkpoint_3'])
def test_no_checkpoint_is_one_sentence(tmp_path, name):
  with pytest.raises(FileNotFoundError, match='There is no checkpoint at'):
    native.restore(tmp_path / name)


def test_another_format_is_one_sentence(tmp_path):
  (tmp_path / 'checkpoint_3' / 'state').mkdir(parents=True)
  with pytest.raises(ValueError, match="in the format 't5x', .*gqa-flax conv"):
    native.restore(tmp_path)


def flat(params):
  return traverse_util.flatten_dict(params, sep='/')


def lazies(arrays):
  return {name: LazyArray.of(np.asarray(x)) for name, x in arrays.items()}


def assert_read(found, wanted):
  assert found.keys() == wanted.keys()
  for name, array in found.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.read(), wanted[name], err_msg=name)


@pytest.fixture
def opt_state(tiny_params):
  """Adafactor's state after a step, with some parameters factored."""
  adafactor = optimizer.adafactor(min_dim_size_to_factor=16)
  state = adafactor.init(tiny_params)
  grads = jax.tree.map(lambda x: x + jnp.cos(100 * x), tiny_params)
  return adafactor.update(grads, state, tiny_params)[1]


@pytest.fixture
def slots(opt_state):
  state = opt_state[0]
  rows, columns, whole = map(flat, (state.v_row, state.v_col, state.v))
  out = {}
  for name in rows:
    if rows[name].shape == (1,):
      out[f'{name}/v'] = whole[name]
    else:
      out[f'{name}/v_row'], out[f'{name}/v_col'] = rows[name], columns[name]
  return out


def test_what_orbax_saved_is_opened(checkpoint, opt_state, slots, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint, opt_state=opt_state)
  opened = native.open_checkpoint(tmp_path)
  assert opened.format == 'native'
  assert opened.path == str(tmp_path / 'checkpoint_7')
  assert opened.step == 7
  assert opened.config == checkpoint.config
  assert_read(opened.params, flat(checkpoint.params))
  kinds = [name.rpartition('/')[2] for name in opened.slots]
  assert {kind: kinds.count(kind) for kind in kinds}.keys() == {
    'v_row',
    'v_col',
    'v',
  }
  assert_read(opened.slots, slots)


def test_without_an_optimizer_there_are_no_slots(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint)
  assert native.open_checkpoint(tmp_path).slots is None
  with pytest.raises(ValueError, match='--gin.OPTIMIZER_STATE=carry'):
    native.restore_optimizer(tmp_path, {})


def test_another_optimizer_s_state_is_skipped(checkpoint, tmp_path):
  adam = optax.adam(1e-3).init(checkpoint.params)
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint, opt_state=adam)
  opened = native.open_checkpoint(tmp_path)
  assert opened.slots is None
  assert opened.skipped == {'optimizer': "not Adafactor's state"}
  adafactor = optimizer.adafactor().init(checkpoint.params)
  with pytest.raises(ValueError, match='not of the configured optimizer'):
    native.restore_optimizer(tmp_path, adafactor)


def test_a_differently_factored_state_is_refused(
  checkpoint, opt_state, tmp_path
):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint, opt_state=opt_state)
  adafactor = optimizer.adafactor().init(checkpoint.params)
  with pytest.raises(ValueError, match='not of the configured optimizer'):
    native.restore_optimizer(tmp_path, adafactor)


def test_lazily_saved_is_restored(checkpoint, opt_state, slots, tmp_path):
  params, seen = flat(checkpoint.params), {}
  with native.checkpoint_manager(tmp_path) as manager:
    native.save_lazy(
      manager,
      7,
      checkpoint.config,
      lazies(params),
      lazies(slots),
      on_slab=lambda name, start, rows: seen.update({name: rows.shape}),
    )
    assert manager.latest_step() == 7
  assert seen == {k: x.shape for k, x in {**params, **slots}.items()}
  restored = native.restore(tmp_path)
  assert (restored.step, restored.config) == (7, checkpoint.config)
  jax.tree.map(
    np.testing.assert_array_equal, restored.params, checkpoint.params
  )
  state = native.restore_optimizer(
    tmp_path, jax.tree.map(jnp.zeros_like, opt_state)
  )
  assert int(state[0].count) == 7
  state = (state[0]._replace(count=opt_state[0].count), *state[1:])
  assert jax.tree.structure(state) == jax.tree.structure(opt_state)
  jax.tree.map(np.testing.assert_array_equal, state, opt_state)
  opened = native.open_checkpoint(tmp_path)
  assert_read(opened.params, flat(checkpoint.params))
  assert_read(opened.slots, slots)


def test_an_earlier_step_is_written_too(checkpoint, tmp_path):
  params = lazies(flat(checkpoint.params))
  with native.checkpoint_manager(tmp_path) as manager:
    native.save_lazy(manager, 7, checkpoint.config, params)
    native.save_lazy(manager, 5, checkpoint.config, params)
    with pytest.raises(ValueError, match='step 5 already exists'):
      native.save_lazy(manager, 5, checkpoint.config, params)
  assert native.open_checkpoint(tmp_path / 'checkpoint_5').step == 5


def test_both_ways_of_saving_look_alike(checkpoint, opt_state, slots, tmp_path):
  """To others, who read the metadata; only the times differ."""
  params = lazies(flat(checkpoint.params))
  with native.checkpoint_manager(tmp_path / 'a') as manager:
    native.save(manager, checkpoint, opt_state=opt_state)
  with native.checkpoint_manager(tmp_path / 'b') as manager:
    native.save_lazy(manager, 7, checkpoint.config, params, lazies(slots))
  folders = [tmp_path / name / 'checkpoint_7' for name in ('a', 'b')]
  metadata = [
    json.loads((folder / '_CHECKPOINT_METADATA').read_text())
    for folder in folders
  ]
  for m in metadata:
    del m['init_timestamp_nsecs'], m['commit_timestamp_nsecs']
  assert metadata[0] == metadata[1]
  names = [{p.name for p in folder.iterdir()} for folder in folders]
  assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize('item', ['params', 'optimizer'])
def test_a_save_that_fails_leaves_nothing(
  checkpoint, slots, tmp_path, item, caplog
):
  seen = []
  params = flat(checkpoint.params)

  def on_slab(name, start, slab):
    seen.append(name)
    if (name in slots) == (item == 'optimizer'):
      raise FloatingPointError(name)

  arguments = (checkpoint.config, lazies(params), lazies(slots))
  with native.checkpoint_manager(tmp_path) as manager:
    native.save_lazy(manager, 5, *arguments)
    with pytest.raises(FloatingPointError):
      native.save_lazy(manager, 7, *arguments, on_slab=on_slab)
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint_5']
    # Nor is the other item written after that, nor a traceback logged.
    assert item == 'params' or not params.keys() & seen
    assert 'Traceback' not in caplog.text
    # And the manager is not the worse for it.
    native.save_lazy(manager, 7, *arguments)
  assert native.restore(tmp_path).step == 7


def test_damage_is_one_sentence(checkpoint, tmp_path):
  params = lazies(flat(checkpoint.params))
  with native.checkpoint_manager(tmp_path) as manager:
    native.save_lazy(manager, 7, checkpoint.config, params)
  # The newest file holds the tree of the database.
  for file in (tmp_path / 'checkpoint_7' / 'params' / 'd').iterdir():
    file.write_bytes(file.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r'copy or download it again'):
    for array in native.open_checkpoint(tmp_path).params.values():
      array.read()


def test_arrays_that_contradict_the_config_are_refused(checkpoint, tmp_path):
  params = flat(checkpoint.params)
  params['encoder/encoder_norm/scale'] = jnp.ones(3)
  del params['decoder/logits_dense/kernel']
  with native.checkpoint_manager(tmp_path) as manager:
    native.save_lazy(manager, 7, checkpoint.config, lazies(params))
  with pytest.raises(
    ValueError, match=r'logits_dense/kernel is missing.*has shape \(3,\)'
  ):
    native.open_checkpoint(tmp_path)
