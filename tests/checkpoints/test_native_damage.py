"""Damaged checkpoints of ours are recognised, and only those."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gqa_flax.checkpoints import native, orbax_items
from gqa_flax.training import optimizer


class Position:
  """An iterator, of which only the position matters."""

  def __init__(self, number=0, arguments='these'):
    self.number, self.arguments = number, arguments

  def save(self, directory):
    text = json.dumps([self.number, self.arguments])
    (directory / 'position').write_text(text)

  def restore(self, directory):
    number, arguments = json.loads((directory / 'position').read_text())
    if arguments != self.arguments:
      raise ValueError(f'written with {arguments}')
    self.number = number


@pytest.fixture(scope='session')
def opt_state(tiny_params):
  adafactor = optimizer.adafactor(min_dim_size_to_factor=16)
  grads = jax.tree.map(jnp.cos, tiny_params)
  return adafactor.update(grads, adafactor.init(tiny_params), tiny_params)[1]


@pytest.fixture(scope='session')
def whole(tiny_config, tiny_params, opt_state, tmp_path_factory):
  """A folder with the steps 3 and 7."""
  folder = tmp_path_factory.mktemp('whole')
  with native.checkpoint_manager(folder) as manager:
    for step in (3, 7):
      native.save(
        manager,
        native.Checkpoint(step, tiny_params, tiny_config),
        opt_state=opt_state,
        data=Position(step),
      )
  return folder


@pytest.fixture
def folder(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'model')


@pytest.fixture
def resume(folder, opt_state):
  """Reads all there is of the newest whole checkpoint."""

  def resume(opt_state=opt_state, data=None):
    data = data or Position()
    with native.checkpoint_manager(folder) as manager:

      def read(step):
        checkpoint = native.restore(folder / f'checkpoint_{step}')
        state = native.restore_training(
          manager, step, opt_state=opt_state, data=data
        )
        return checkpoint, state, data.number

      return native.restore_latest_whole(manager, read)

  return resume


def names_in(folder):
  return sorted(p.name for p in folder.iterdir())


def arrays_of(folder, item):
  """Files that are read, the largest first.

  Of the parameters that is one of values. The optimizer's are small enough to
  stand in the nodes of the database's tree, whose root all reading begins at;
  of the other nodes some are left over from writing.
  """
  read = {'params': '**/d/*', 'optimizer': 'd/*', 'model': 'metadata'}
  files = list((folder / item).glob(read[item]))
  return sorted(files, key=lambda p: -p.stat().st_size)


@pytest.mark.slow
def test_the_newest_is_taken(resume, folder, tiny_params, opt_state):
  checkpoint, state, position = resume()
  assert (checkpoint.step, position) == (7, 7)
  jax.tree.map(np.testing.assert_array_equal, checkpoint.params, tiny_params)
  jax.tree.map(np.testing.assert_array_equal, state, opt_state)
  assert names_in(folder) == ['checkpoint_3', 'checkpoint_7']


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 4
  file.write_bytes(content)


def truncate(file):
  content = file.read_bytes()
  file.write_bytes(content[: len(content) // 2])


def empty(file):
  file.write_bytes(b'')


def remove(file):
  file.unlink()


@pytest.mark.parametrize('change', [flip, truncate, empty, remove])
@pytest.mark.parametrize('item', ['params', 'optimizer', 'model', 'data'])
def test_a_damaged_file_sets_the_newest_aside(resume, folder, item, change):
  if item == 'data':
    change(folder / 'checkpoint_7' / 'data' / 'position')
  else:
    change(arrays_of(folder / 'checkpoint_7', item)[0])
  with pytest.warns(UserWarning, match='7 is damaged.*corrupt_checkpoint_7'):
    checkpoint, _, position = resume()
  assert (checkpoint.step, position) == (3, 3)
  assert names_in(folder) == ['checkpoint_3', 'corrupt_checkpoint_7']
  assert native.step_of(native.locate(folder)) == 3


@pytest.mark.parametrize('change', [truncate, empty, remove])
@pytest.mark.parametrize('item', ['params', 'optimizer'])
def test_names_that_are_not_to_be_read(resume, folder, item, change):
  change(folder / 'checkpoint_7' / item / '_METADATA')
  with pytest.warns(UserWarning, match='checkpoint_7 is damaged'):
    assert resume()[0].step == 3


@pytest.mark.parametrize('item', ['params', 'optimizer', 'model', 'data'])
def test_a_missing_item_sets_the_newest_aside(resume, folder, item):
  shutil.rmtree(folder / 'checkpoint_7' / item)
  with pytest.warns(UserWarning, match='checkpoint_7 is damaged'):
    assert resume()[0].step == 3


def test_an_empty_newest_folder_is_set_aside(resume, folder):
  (folder / 'checkpoint_9').mkdir()
  with pytest.warns(UserWarning, match='checkpoint_9 is damaged'):
    assert resume()[0].step == 7


@pytest.mark.parametrize('seed', range(6))
def test_a_bit_flipped_anywhere_is_seen_or_harmless(
  resume, folder, seed, tiny_params, opt_state
):
  """Files have bytes that nobody reads; what is read must be as written."""
  rng = random.Random(seed)
  item = ['params', 'optimizer'][seed % 2]
  files = (folder / 'checkpoint_7' / item).rglob('*')
  file = rng.choice(sorted(path for path in files if path.is_file()))
  content = bytearray(file.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  file.write_bytes(content)
  try:
    # By its name: of a folder, the newest whole one would be read.
    checkpoint = native.restore(folder / 'checkpoint_7')
    state = native.restore_optimizer(folder / 'checkpoint_7', opt_state)
  except native.CorruptCheckpointError:
    return
  jax.tree.map(np.testing.assert_array_equal, checkpoint.params, tiny_params)
  jax.tree.map(np.testing.assert_array_equal, state, opt_state)


@pytest.mark.parametrize('item', ['params', 'optimizer'])
def test_values_that_were_changed_by_hand_are_seen(
  folder, item, tiny_params, tiny_config, opt_state
):
  """A whole item of other values, as no decompressor can notice."""
  other = jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1), tiny_params)
  state = jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1), opt_state)
  with native.checkpoint_manager(folder.parent / 'other') as manager:
    changed = native.Checkpoint(7, other, tiny_config)
    native.save(manager, changed, opt_state=state)
  shutil.rmtree(folder / 'checkpoint_7' / item)
  shutil.move(
    folder.parent / 'other' / 'checkpoint_7' / item, folder / 'checkpoint_7'
  )
  with pytest.raises(
    native.CorruptCheckpointError, match=f'{item}/ has changed since'
  ):
    native.restore(folder)
    native.restore_optimizer(folder, opt_state)


def test_if_none_is_whole_it_says_so(resume, folder):
  for step in (3, 7):
    shutil.rmtree(folder / f'checkpoint_{step}' / 'params')
  with (
    pytest.warns(UserWarning, match='is damaged'),
    pytest.raises(native.CorruptCheckpointError, match='No checkpoint in'),
  ):
    resume()


def test_no_checkpoint_is_no_damage(tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    assert native.restore_latest_whole(manager, lambda step: step) is None


def test_damage_after_damage_is_set_aside_again(resume, folder, whole):
  shutil.rmtree(folder / 'checkpoint_7' / 'params')
  with pytest.warns(UserWarning, match='checkpoint_7 is damaged'):
    resume()
  shutil.copytree(whole / 'checkpoint_7', folder / 'checkpoint_7')
  shutil.rmtree(folder / 'checkpoint_7' / 'optimizer')
  with pytest.warns(UserWarning, match='checkpoint_7 is damaged'):
    assert resume()[0].step == 3
  assert names_in(folder) == ['checkpoint_3', 'corrupt_checkpoint_7']
  assert 'params' in names_in(folder / 'corrupt_checkpoint_7')


def test_another_optimizer_is_no_damage(resume, folder, tiny_params):
  adam = optax.adam(1e-3).init(tiny_params)
  other = optimizer.adafactor().init(tiny_params)
  for state in (adam, other):
    with pytest.raises(ValueError, match='not of the configured') as caught:
      resume(opt_state=state)
    assert not isinstance(caught.value, native.CorruptCheckpointError)
  assert names_in(folder) == ['checkpoint_3', 'checkpoint_7']


def test_another_dtype_is_no_damage(resume, folder, opt_state):
  state = jax.tree.map(lambda x: x.astype(jnp.bfloat16), opt_state)
  with pytest.raises(ValueError, match='but bfloat16 is configured') as caught:
    resume(opt_state=state)
  assert not isinstance(caught.value, native.CorruptCheckpointError)


def test_other_data_is_no_damage(resume, folder):
  with pytest.raises(ValueError, match='written with these') as caught:
    resume(data=Position(arguments='others'))
  assert not isinstance(caught.value, native.CorruptCheckpointError)
  assert names_in(folder) == ['checkpoint_3', 'checkpoint_7']


@pytest.mark.parametrize(
  'error',
  [
    PermissionError('Permission denied'),
    OSError(5, 'Input/output error'),
    MemoryError(),
    ValueError('UNAVAILABLE: the bucket does not answer'),
    ValueError('PERMISSION_DENIED: Error opening local file'),
  ],
)
def test_what_may_pass_is_no_damage(resume, folder, monkeypatch, error):
  def fails(*args, **kwargs):
    raise error

  monkeypatch.setattr(orbax_items, 'read_arrays', fails)
  with pytest.raises(type(error)) as caught:
    resume()
  assert caught.value is error
  assert names_in(folder) == ['checkpoint_3', 'checkpoint_7']


def test_without_checksums_it_is_read_as_before(folder, resume):
  """As older versions wrote it."""
  file = folder / 'checkpoint_7' / 'model' / 'metadata'
  model = json.loads(file.read_text())
  old = {name: model[name] for name in ('config', 'step')}
  file.write_text(json.dumps(old))
  (folder / 'checkpoint_7' / 'data' / '_FILES.json').unlink()
  assert resume()[0].step == 7
