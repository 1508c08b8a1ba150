"""T5X's legacy checkpoints, against one that T5X wrote."""

import json
import pathlib
import re
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore as ts
from flax import serialization

from gqa_flax.checkpoints import (
  adafactor_state,
  scanned,
  t5x,
  t5x_write,
  zarr,
)
from gqa_flax.checkpoints.arrays import LazyArray

FIXTURE = (
  pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny/legacy/checkpoint_3'
)
KEY = 'decoder/layers_1/self_attention/key/kernel'
KEY_FOLDER = f'target.{KEY.replace("/", ".")}'


@pytest.fixture(scope='module')
def opened():
  return t5x.open_legacy(FIXTURE)


@pytest.fixture(scope='module')
def trained(golden):
  """The parameters that the fixture holds, as T5X's golden values have them."""
  return golden.flat('adafactor/params')


@pytest.fixture
def folder(tmp_path):
  return shutil.copytree(FIXTURE, tmp_path / 'checkpoint_3')


def lazy(params):
  return {name: LazyArray.of(x) for name, x in params.items()}


def read_zarr(folder):
  kvstore = {'driver': 'file', 'path': f'{folder}/'}
  return (
    ts.open({'driver': 'zarr', 'kvstore': kvstore}).result().read().result()
  )


def edit_index(folder, edit):
  """Lets `edit` change the index: it gets {'state': …, 'target': …}."""
  file = folder / 'checkpoint'
  index = serialization.msgpack_restore(file.read_bytes())
  index = edit(index['optimizer']) or index
  file.write_bytes(serialization.msgpack_serialize(index, in_place=True))


def key_leaf(tree):
  return tree['target']['decoder']['layers_1']['self_attention']['key']


def replace_array(folder, array, **metadata):
  shutil.rmtree(folder / KEY_FOLDER)
  spec = {
    'driver': 'zarr',
    'kvstore': {'driver': 'file', 'path': f'{folder / KEY_FOLDER}/'},
    'metadata': {'shape': array.shape, 'chunks': (16, 8), **metadata},
    'dtype': array.dtype.name,
  }
  ts.open(spec, create=True).result().write(array).result()


def assert_holds(checkpoint, params):
  assert checkpoint.params.keys() == params.keys()
  for name, array in checkpoint.params.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.read(), params[name], err_msg=name)


def test_a_checkpoint_of_t5x_opens_exactly(opened, golden, trained):
  assert_holds(opened, trained)
  assert (opened.format, opened.step) == ('t5x_legacy', 3)
  assert opened.path == str(FIXTURE)
  # Dropout is no matter of a checkpoint.
  sizes = opened.config.to_dict() | {'dropout_rate': 0.0}
  assert sizes == golden.config.to_dict()
  assert not opened.skipped
  # All is too small to be factored.
  assert opened.slots.keys() == {f'{name}/v' for name in trained}
  for name, array in opened.slots.items():
    stored = read_zarr(FIXTURE / f'state.param_states.{name.replace("/", ".")}')
    assert stored.any()
    np.testing.assert_array_equal(array.read(), stored)
    np.testing.assert_array_equal(array.read_rows(1, 3), stored[1:3])


def test_what_is_written_is_what_t5x_wrote(opened, tmp_path):
  path = tmp_path / 'new'
  t5x_write.write_legacy(path, 3, opened.params, opened.slots)
  files = {x.relative_to(path) for x in path.rglob('*')}
  assert files == {x.relative_to(FIXTURE) for x in FIXTURE.rglob('*')}
  index = (path / 'checkpoint').read_bytes()
  assert index == (FIXTURE / 'checkpoint').read_bytes()
  for metadata in FIXTURE.glob('*/.zarray'):
    name = metadata.parent.name
    written = json.loads((path / name / '.zarray').read_text())
    assert written == json.loads(metadata.read_text())
    np.testing.assert_array_equal(
      read_zarr(path / name), read_zarr(FIXTURE / name)
    )


def test_bfloat16_is_kept(trained, tmp_path):
  rounded = {k: x.astype(jnp.bfloat16) for k, x in trained.items()}
  path = tmp_path / 'new'
  t5x_write.write_legacy(path, 3, lazy(rounded), None)
  metadata = json.loads((path / KEY_FOLDER / '.zarray').read_text())
  assert metadata['dtype'] == 'bfloat16'
  expected = {k: x.astype(np.float32) for k, x in rounded.items()}
  assert_holds(t5x.open_legacy(path), expected)


def test_bfloat16_as_uint16_of_old_files(folder, trained):
  rounded = trained[KEY].astype(jnp.bfloat16)
  replace_array(folder, rounded.view(np.uint16))

  def edit(tree):
    key_leaf(tree)['kernel']['dtype'] = 'bfloat16'

  edit_index(folder, edit)
  expected = trained | {KEY: rounded.astype(np.float32)}
  assert_holds(t5x.open_legacy(folder), expected)


def test_zstd_and_other_chunks(folder, trained):
  replace_array(folder, trained[KEY], compressor={'id': 'zstd', 'level': 1})
  assert_holds(t5x.open_legacy(folder), trained)


@pytest.mark.parametrize(
  'spec',
  [
    {
      'kvstore': {
        'driver': 'gcs',
        'bucket': 't5x-dummy-bucket',
        'path': f'{KEY_FOLDER}/',
      }
    },
    {'kvstore': {'driver': 'gfile', 'path': f'/cns/of/old/{KEY_FOLDER}'}},
    {'kvstore': {'driver': 'file'}, 'path': KEY_FOLDER},
  ],
  ids=['gcs', 'absolute', 'old_tensorstore'],
)
def test_paths_of_an_index_are_relative_to_it(folder, trained, spec):
  edit_index(folder, lambda tree: key_leaf(tree)['kernel'].update(spec))
  assert_holds(t5x.open_legacy(folder), trained)


def test_inline_arrays(folder, trained):
  shutil.rmtree(folder / KEY_FOLDER)

  def edit(tree):
    key_leaf(tree)['kernel'] = trained[KEY]

  edit_index(folder, edit)
  assert_holds(t5x.open_legacy(folder), trained)


def test_what_is_no_parameter_is_skipped_with_a_reason(folder, trained):
  def edit(tree):
    states = tree['state']['param_states']['token_embedder']['embedding']
    states['m'] = trained['token_embedder/embedding']
    tree['flax_mutables'] = {'cache': np.ones(2)}
    # Without version and 'optimizer'.
    return tree

  edit_index(folder, edit)
  checkpoint = t5x.open_legacy(folder)
  assert_holds(checkpoint, trained)
  assert checkpoint.skipped.keys() == {
    'flax_mutables',
    'state/param_states/token_embedder/embedding/m',
  }
  assert all(checkpoint.skipped.values())


def test_no_optimizer_state(folder, trained):
  edit_index(folder, lambda tree: tree['state'].pop('param_states') and None)
  checkpoint = t5x.open_legacy(folder)
  assert_holds(checkpoint, trained)
  assert (checkpoint.slots, checkpoint.step) == (None, 3)


def test_parameters_alone_are_read_without_the_optimizer_state(folder, trained):
  for array in folder.glob('state.*'):
    shutil.rmtree(array)
  checkpoint = t5x.open_legacy(folder, optimizer=False)
  assert_holds(checkpoint, trained)
  assert (checkpoint.slots, checkpoint.count, checkpoint.step) == (None, 0, 3)
  with pytest.raises(
    ValueError, match='v has no state.* Or set OPTIMIZER_STATE = reset'
  ):
    t5x.open_legacy(folder)


def test_without_a_step_it_is_that_of_the_folder(folder):
  edit_index(folder, lambda tree: {'version': 3, 'target': tree['target']})
  assert t5x.open_legacy(folder).step == 3


@pytest.mark.parametrize(
  'shape', [(128, 256), (256, 128), (128, 128), (127, 300), (300,)]
)
def test_initial_slots_are_those_of_optax(shape):
  state = jax.eval_shape(
    optax.scale_by_factored_rms().init, {'x': jnp.zeros(shape)}
  )
  kept = {k: getattr(state, k)['x'].shape for k in ('v_row', 'v_col', 'v')}
  expected = {k: s for k, s in kept.items() if s != (1,)}
  assert adafactor_state.slot_shapes(shape) == expected


def test_slots_are_completed_with_zeros(tmp_path):
  params = {
    'a/kernel': np.ones((128, 256), np.float32),
    'b/kernel': np.ones((128, 256), np.float32),
  }
  given = {
    'b/kernel/v_row': np.full(128, 2, np.float32),
    'b/kernel/v_col': np.full(256, 3, np.float32),
  }
  path = tmp_path / 'new'
  t5x_write.write_legacy(path, 7, lazy(params), lazy(given))
  index = serialization.msgpack_restore((path / 'checkpoint').read_bytes())
  state = index['optimizer']['state']
  assert state['step'] == 7
  for name, (row, col) in {'a': (0, 0), 'b': (2, 3)}.items():
    slots = state['param_states'][name]['kernel']
    assert list(slots) == ['m', 'v', 'v_col', 'v_row']
    for placeholder in (slots['m'], slots['v']):
      np.testing.assert_array_equal(placeholder, np.zeros(1, np.float32))
    start = path / f'state.param_states.{name}.kernel'
    np.testing.assert_array_equal(
      read_zarr(f'{start}.v_row'), np.full(128, row)
    )
    np.testing.assert_array_equal(
      read_zarr(f'{start}.v_col'), np.full(256, col)
    )
    # Zeros too are in files: a missing one is a lost one.
    assert (path / f'state.param_states.{name}.kernel.v_row' / '0').exists()


@pytest.mark.parametrize(
  'slots, message',
  [
    ({'c/v': (4,)}, 'c/v'),
    ({'a/v': (5,)}, r'a of shape \(4, 3\) has v \(5,\)'),
    ({'a/v_row': (4,)}, 'a has'),
  ],
)
def test_slots_must_fit(slots, message, tmp_path):
  params = {'a': np.ones((4, 3), np.float32)}
  slots = {name: np.ones(shape, np.float32) for name, shape in slots.items()}
  with pytest.raises(ValueError, match=f'new do not fit.*{message}'):
    t5x_write.write_legacy(tmp_path / 'new', 0, lazy(params), lazy(slots))
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  'shape, chunks',
  [
    ((32128, 4096), (4016, 4096)),
    ((4096, 10240), (4096, 2560)),
    ((10240, 4096), (2560, 4096)),
    ((4096, 4096), (4096, 4096)),
    ((8192, 8192), (4096, 4096)),
    ((32, 128), (32, 128)),
    ((7,), (7,)),
    # Half is still too much, a third is not.
    ((3 * 2**20, 12), (2**20, 12)),
  ],
)
def test_chunks_are_those_of_t5x(shape, chunks):
  # By hand: the first largest axis falls to its next divisor till 64 MiB fit.
  assert t5x_write.chunk_shape(shape, 4) == chunks


def stack(params, axis, inner, share_bias):
  """Returns the parameters as scalable_t5 has them under a scan."""
  out = {}
  for name, x in params.items():
    match = re.fullmatch(r'(encoder|decoder)/layers_0/(.+)', name)
    if match:
      layers = [params[name], params[name.replace('layers_0', 'layers_1')]]
      if '/out/' in name:
        layers = [x.reshape(4, 8, 32) for x in layers]
      elif 'attention/' in name:
        layers = [x.reshape(32, 4, 8) for x in layers]
      group = inner or match.group(1)
      out[f'{match.group(1)}/{group}/{match.group(2)}'] = np.stack(layers, axis)
    elif 'relpos_bias' in name and not share_bias:
      group = name.split('/')[0]
      inner_name = f'{group}/{inner or group}/relpos_bias/rel_embedding'
      out[inner_name] = np.stack([x, x], axis)
    elif 'layers_1' not in name:
      out[name] = x
  return out


@pytest.mark.parametrize('axis', [1, 0])
@pytest.mark.parametrize('inner', [None, 'layers'])
def test_scanned_layers_are_unstacked(axis, inner, trained, tmp_path):
  share_bias = inner is not None
  stacked = stack(trained, axis, inner, share_bias)
  path = tmp_path / 'new'
  t5x_write.write_legacy(path, 3, lazy(stacked), None)
  checkpoint = t5x.open_legacy(path)
  assert_holds(checkpoint, trained)
  assert checkpoint.slots is None
  assert len(checkpoint.skipped) == len(stacked)
  for name, array in checkpoint.params.items():
    # From the middle of a head, too.
    stop = min(21, len(trained[name]))
    np.testing.assert_array_equal(
      array.read_rows(3, stop), trained[name][3:stop]
    )


def test_scanned_layers_are_not_read_when_opened(trained):
  name = 'decoder/decoder/self_attention/key/kernel'
  array = stack(trained, 1, None, True)[name]
  views = scanned.unstack({name: ts.array(array)}, 'here')
  assert views.keys() == {KEY.replace('1', '0'), KEY}
  assert isinstance(views[KEY], ts.TensorStore)
  np.testing.assert_array_equal(
    views[KEY].read().result().reshape(32, 32), trained[KEY]
  )


def test_a_bias_for_every_layer_is_another_architecture(trained):
  stacked = stack(trained, 1, None, False)
  stacked['decoder/decoder/relpos_bias/rel_embedding'][0, 1, 0] += 1
  with pytest.raises(ValueError, match='layer of the decoder in here has its'):
    scanned.lazy_params(stacked, 'here')


def test_scanned_layers_must_agree_on_their_number(trained):
  stacked = stack(trained, 1, None, True)
  name = 'decoder/decoder/mlp/wo/kernel'
  stacked[name] = np.concatenate([stacked[name]] * 2, 1)
  with pytest.raises(ValueError, match=r'no number of layers.*\(64, 4, 32\)'):
    scanned.unstack(stacked, 'here')


def lose_folder(folder):
  shutil.rmtree(folder / KEY_FOLDER)


def lose_many(folder):
  for kernel in folder.glob('target.*.kernel'):
    shutil.rmtree(kernel)


def lose_chunk(folder):
  (folder / KEY_FOLDER / '0.0').unlink()


def lose_slot_chunk(folder):
  (folder / f'state.param_states.{KEY.replace("/", ".")}.v' / '0.0').unlink()


def damage_metadata(folder):
  (folder / KEY_FOLDER / '.zarray').write_text('{')


def truncate_index(folder):
  data = (folder / 'checkpoint').read_bytes()
  (folder / 'checkpoint').write_bytes(data[: len(data) // 2])


def tensorflow_index(folder):
  (folder / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-1"')


def empty_index(folder):
  edit_index(folder, lambda tree: {'version': 3, 'optimizer': {}})


def add_parameter(folder):
  def edit(tree):
    tree['target']['encoder']['extra'] = {'bias': np.ones(3, np.float32)}

  edit_index(folder, edit)


def reshape_parameter(folder):
  def edit(tree):
    key_leaf(tree)['kernel'] = np.ones((32, 16), np.float32)

  edit_index(folder, edit)


def contradict_index(folder):
  def edit(tree):
    key_leaf(tree)['kernel']['metadata']['shape'] = [32, 16]

  edit_index(folder, edit)


def change_key(**changes):
  def edit(tree):
    kernel = key_leaf(tree)['kernel']
    key_leaf(tree)['kernel'] = {**kernel, **changes}

  return lambda folder: edit_index(folder, edit)


def inline(value):
  def edit(tree):
    key_leaf(tree)['kernel'] = value

  return lambda folder: edit_index(folder, edit)


def change_state(**changes):
  return lambda folder: edit_index(
    folder, lambda tree: tree['state'].update(changes)
  )


def nest_deeply(folder):
  data = b'\x81\xa6target' + 1_000 * b'\x81\xa1a' + b'\x01'
  (folder / 'checkpoint').write_bytes(data)


@pytest.mark.parametrize(
  'damage, message',
  [
    (change_key(kvstore='target'), f'{KEY} has no path in the index'),
    (change_key(kvstore={'path': 7}), f'{KEY} has no path in the index'),
    (
      change_key(kvstore={'path': '../../etc/'}),
      f'{KEY} has no etc/.zarray',
    ),
    (change_key(kvstore={'path': '..'}), f'{KEY} has no ../.zarray'),
    (change_key(metadata=None), f'{KEY} has no shape in the index'),
    (change_key(metadata={}), f'{KEY} has no shape in the index'),
    (change_key(metadata={'shape': 32}), f'{KEY} has no shape in the index'),
    (
      change_key(metadata={'shape': ['a', None]}),
      f'{KEY} has no shape in the index',
    ),
    (
      change_key(metadata={'shape': [32.0, True]}),
      f'{KEY} has no shape in the index',
    ),
    (inline('text'), f'{KEY} has no shape in the index'),
    (inline([[1.0], [2.0, 3.0]]), f'{KEY} has no shape in the index'),
    (change_state(step='three'), "state/step is 'three'"),
    (change_state(step=3.5), 'state/step is 3.5'),
    (change_state(step=-3), 'state/step is -3'),
    (change_state(step={'a': 1}), 'state/step is'),
    (change_state(param_states=[1]), r'\[1\] stands where names'),
    (nest_deeply, 'too deeply|cannot be read as msgpack'),
    (
      lambda folder: (folder / 'checkpoint').write_bytes(b'\x93\x01\x02\x03'),
      'has no optimizer/target',
    ),
    (lose_folder, f'{KEY} has no {KEY_FOLDER}/.zarray. Copy or'),
    (lose_many, r'kernel/.zarray; and \d\d more. Copy or'),
    (lose_chunk, rf'{KEY} lacks 1 of its chunks \({KEY_FOLDER}/0.0\). Copy'),
    (lose_slot_chunk, rf'{KEY}/v lacks 1 of its chunks .*/0.0\). Copy'),
    (damage_metadata, f'{KEY} cannot be opened'),
    (truncate_index, 'checkpoint cannot be read as msgpack .*truncated'),
    (tensorflow_index, 'of a TensorFlow checkpoint; convert'),
    (empty_index, 'has no optimizer/target'),
    (add_parameter, 'encoder/extra/bias is not a parameter'),
    (reshape_parameter, rf'{KEY} has shape \(32, 16\) instead of \(32, 32\)'),
    (contradict_index, rf'{KEY} has shape \(32, 32\), but \(32, 16\) in'),
  ],
)
def test_a_damaged_checkpoint_is_not_opened(damage, message, folder):
  damage(folder)
  with pytest.raises(ValueError, match=message) as error:
    t5x.open_legacy(folder)
  assert str(folder) in str(error.value)


def test_no_checkpoint(tmp_path):
  with pytest.raises(FileNotFoundError, match='There is no .*/checkpoint;'):
    t5x.open_legacy(tmp_path)


def test_a_truncated_chunk_fails_when_read(folder):
  chunk = folder / KEY_FOLDER / '0.0'
  chunk.write_bytes(chunk.read_bytes()[:100])
  array = t5x.open_legacy(folder).params[KEY]
  with pytest.raises(ValueError, match=f'{KEY} in {folder} cannot be read'):
    array.read()


# zarr.write_arrays


def in_memory(chunk_rows):
  stores = {}

  def create(name, array):
    stores[name] = ts.open(
      {
        'driver': 'zarr',
        'kvstore': {'driver': 'memory'},
        'metadata': {'chunks': [chunk_rows, array.shape[1]]},
      },
      create=True,
      shape=array.shape,
      dtype=array.dtype.name,
    ).result()
    return stores[name]

  return stores, create


def test_arrays_are_written_in_slabs_of_whole_chunks(monkeypatch):
  # Two chunks of three rows to a slab, and not even one slab to the budget.
  monkeypatch.setattr(zarr, 'SLAB_BYTES', 7 * 5 * 4)
  monkeypatch.setattr(zarr, '_IN_FLIGHT_BYTES', 4)
  rng = np.random.default_rng(0)
  arrays = {f'{i}': rng.normal(size=(14, 5)).astype('f4') for i in range(6)}
  stores, create = in_memory(chunk_rows=3)
  slabs = {name: [] for name in arrays}
  zarr.write_arrays(
    lazy(arrays), create, lambda name, *slab: slabs[name].append(slab), 3
  )
  for name, array in arrays.items():
    np.testing.assert_array_equal(stores[name].read().result(), array)
    assert [start for start, _ in slabs[name]] == [0, 6, 12]
    np.testing.assert_array_equal(
      np.concatenate([rows for _, rows in slabs[name]]), array
    )


def test_no_more_than_the_budget_is_held(monkeypatch):
  monkeypatch.setattr(zarr, '_IN_FLIGHT_BYTES', 2 * 14 * 5 * 4)
  lock, held = threading.Lock(), []
  hold = zarr._Budget.hold
  now = 0

  class Counting(zarr._Budget):
    def hold(self, size):
      nonlocal now
      outer = hold(self, size)

      class Count:
        def __enter__(self):
          nonlocal now
          outer.__enter__()
          with lock:
            now += size
            held.append(now)

        def __exit__(self, *error):
          nonlocal now
          with lock:
            now -= size
          return outer.__exit__(*error)

      return Count()

  monkeypatch.setattr(zarr, '_Budget', Counting)
  arrays = {f'{i}': np.ones((14, 5), np.float32) for i in range(20)}
  zarr.write_arrays(lazy(arrays), in_memory(14)[1], threads=8)
  assert len(held) == 20
  assert max(held) <= 2 * 14 * 5 * 4


def test_the_first_exception_ends_the_writing(monkeypatch):
  monkeypatch.setattr(zarr, 'SLAB_BYTES', 5 * 4)
  arrays = {f'{i}': np.ones((500, 5), np.float32) for i in range(4)}
  begun, failing = threading.Event(), threading.Event()
  seen = []

  def on_slab(name, start, rows):
    seen.append(name)
    if name == '1' and start == 2:
      begun.wait(10)
      failing.set()
      raise RuntimeError('NaN in 1')
    # The other has begun, and goes on while the exception is on its way.
    if name == '0':
      begun.set()
      failing.wait(10)
      time.sleep(0.01)

  with pytest.raises(RuntimeError, match='NaN in 1'):
    zarr.write_arrays(lazy(arrays), in_memory(1)[1], on_slab, 2)
  assert set(seen) == {'0', '1'}
  assert len(seen) < 100


def test_nothing_is_indexed_when_writing_fails(trained, tmp_path):
  def on_slab(name, start, rows):
    if name == f'{KEY}/v':
      raise RuntimeError(name)

  with pytest.raises(RuntimeError, match=KEY):
    t5x_write.write_legacy(tmp_path / 'new', 3, lazy(trained), None, on_slab)
  assert not (tmp_path / 'new' / 'checkpoint').exists()
