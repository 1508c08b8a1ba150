"""T5X's Orbax checkpoints: the fixture is what T5X wrote."""

import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from flax import traverse_util

from gqa_flax.checkpoints import t5x_orbax
from gqa_flax.config import T5Config


@pytest.fixture
def folder(request):
  fixtures = request.config.rootpath / 'tests' / 'fixtures'
  return fixtures / 't5x_tiny' / 'orbax' / 'checkpoint_3'


def save(tmp_path, tree):
  """Writes a tree where T5X does."""
  folder = tmp_path / 'checkpoint_3'
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(folder / 'state', tree)
  return folder


def zeros(shape):
  return np.zeros(shape, np.float32)


def test_the_parameters_are_t5x_s(folder, golden):
  checkpoint = t5x_orbax.open_orbax(folder)
  wanted = golden.flat('adafactor/params')
  assert checkpoint.params.keys() == wanted.keys()
  for name, array in checkpoint.params.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.read(), wanted[name], err_msg=name)
  assert checkpoint.format == 't5x'
  assert checkpoint.step == 3
  # The rate of dropout is none of the arrays' business.
  assert checkpoint.config.architecture() == golden.config.architecture()
  assert not checkpoint.skipped


def test_the_slots_are_those_of_the_legacy_checkpoint(folder):
  slots = t5x_orbax.open_orbax(folder).slots
  legacy = folder.parents[1] / 'legacy' / 'checkpoint_3'
  prefix = 'state.param_states.'
  names = [p.name for p in legacy.iterdir() if p.name.startswith(prefix)]
  assert len(slots) == len(names) > 0
  for name in names:
    spec = {'driver': 'file', 'path': f'{legacy}/{name}/'}
    wanted = ts.open({'driver': 'zarr', 'kvstore': spec}).result()
    slot = slots[name.removeprefix(prefix).replace('.', '/')]
    np.testing.assert_array_equal(slot.read(), wanted.read().result())
    assert np.abs(slot.read()).max() > 0


def test_bfloat16_without_an_optimizer(golden, tmp_path):
  half = {
    name: jnp.asarray(x, jnp.bfloat16)
    for name, x in golden.flat('params').items()
  }
  target = traverse_util.unflatten_dict(half, sep='/')
  folder = save(tmp_path, {'target': target, 'extra': np.ones(2)})
  checkpoint = t5x_orbax.open_orbax(folder)
  assert checkpoint.slots is None
  assert checkpoint.step is None
  assert list(checkpoint.skipped) == ['extra']
  for name, array in checkpoint.params.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(
      array.read(), np.asarray(half[name], np.float32)
    )


def test_factored_slots_and_momentum(tmp_path, make_params):
  config = T5Config(
    vocab_size=130,
    emb_dim=128,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
  )
  params = traverse_util.flatten_dict(make_params(config), sep='/')
  states = {}
  for name, x in params.items():
    factored = min(x.shape) >= 128 and x.ndim == 2
    states[f'{name}/m'] = zeros((1,))
    states[f'{name}/v'] = zeros((1,) if factored else x.shape)
    states[f'{name}/v_row'] = zeros((128,) if factored else (1,))
    states[f'{name}/v_col'] = zeros((130,) if factored else (1,))
  states['decoder/decoder_norm/scale/m'] = zeros((128,))
  tree = {
    'target': params,
    'state': {'step': np.int32(9), 'param_states': states},
  }
  flat = traverse_util.flatten_dict(tree, sep='/')
  nested = traverse_util.unflatten_dict(flat, sep='/')
  checkpoint = t5x_orbax.open_orbax(save(tmp_path, nested))
  embedding = 'token_embedder/embedding'
  assert checkpoint.step == 9
  assert {k for k in checkpoint.slots if embedding in k} == {
    f'{embedding}/v_row',
    f'{embedding}/v_col',
  }
  skipped = 'state/param_states/decoder/decoder_norm/scale/m'
  assert list(checkpoint.skipped) == [skipped]

  # One whose axes are swapped is not taken for the other.
  states[f'{embedding}/v_col'] = zeros((131,))
  flat = traverse_util.flatten_dict(tree, sep='/')
  nested = traverse_util.unflatten_dict(flat, sep='/')
  with pytest.raises(ValueError, match=r'do not fit.*embedding of shape'):
    t5x_orbax.open_orbax(save(tmp_path / 'swapped', nested))


def test_other_items_are_refused(tmp_path):
  with pytest.raises(ValueError, match='has no target/'):
    t5x_orbax.open_orbax(save(tmp_path, {'a': np.zeros(2)}))


@pytest.mark.parametrize('part', ['d', 'ocdbt.process_0/d'])
def test_truncated_data_is_one_sentence(folder, tmp_path, part):
  copy = tmp_path / 'checkpoint_3'
  shutil.copytree(folder, copy)
  files = sorted(
    (copy / 'state' / part).iterdir(), key=lambda p: -p.stat().st_size
  )
  files[0].write_bytes(files[0].read_bytes()[:1000])
  with pytest.raises(ValueError, match=r'copy or download it again') as caught:
    for array in t5x_orbax.open_orbax(copy).params.values():
      array.read()
  assert str(copy) in str(caught.value)


@pytest.mark.parametrize('part', ['d', 'ocdbt.process_0/d'])
def test_lost_files_are_one_sentence(folder, tmp_path, part):
  copy = tmp_path / 'checkpoint_3'
  shutil.copytree(folder, copy)
  shutil.rmtree(copy / 'state' / part)
  with pytest.raises(ValueError, match=r'copy or download it again') as caught:
    for array in t5x_orbax.open_orbax(copy).params.values():
      array.read()
  assert str(copy) in str(caught.value)
