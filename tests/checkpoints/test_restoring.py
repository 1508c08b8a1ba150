"""Checkpoints of any format onto devices."""

import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import partitioning
from gqa_flax.checkpoints import formats, native, restoring
from gqa_flax.checkpoints.architecture import abstract_params

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny'
FORMATS = {
  't5x': FIXTURES / 'orbax',
  't5x_legacy': FIXTURES / 'legacy' / 'checkpoint_3',
}


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  """The same parameters in every format, at step 3."""
  folder = tmp_path_factory.mktemp('formats')
  params, config = formats.load_params(FORMATS['t5x_legacy'])
  for format in ('native', 'hugging_face'):
    formats.save_params(folder / format, params, config, format, step=3)
  return {
    **FORMATS,
    'native': folder / 'native',
    'hugging_face': folder / 'hugging_face',
  }


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


@pytest.mark.parametrize('format', formats.READABLE)
def test_every_format_gives_the_same(paths, format):
  wanted, config = formats.load_params(paths[format])
  found = restoring.find(paths[format])
  assert (found.config, found.step) == (config, 3)
  restored = restoring.restore(found)
  assert (restored.config, restored.step) == (config, 3)
  assert flat(restored.params).keys() == flat(wanted).keys()
  for name, array in flat(restored.params).items():
    assert array.dtype == np.float32
    assert len(array.sharding.device_set) == 8 and array.is_fully_replicated
    np.testing.assert_array_equal(array, flat(wanted)[name], err_msg=name)


@pytest.mark.parametrize('format', formats.READABLE)
def test_arrays_are_placed_as_asked(paths, format):
  wanted, config = formats.load_params(paths[format])
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(data=2, model=4), config=config
  )

  def shardings(config):
    return partitioning.param_shardings(abstract_params(config), config, mesh)

  restored = restoring.restore(restoring.find(paths[format]), shardings)
  placed = jax.tree.map(lambda x: x.sharding, restored.params)
  assert placed == shardings(config)
  assert not all(x.is_fully_replicated for x in jax.tree.leaves(placed))
  for name, array in flat(restored.params).items():
    np.testing.assert_array_equal(array, flat(wanted)[name], err_msg=name)


def test_what_is_not_finite_is_refused(paths, tmp_path):
  params, config = formats.load_params(paths['hugging_face'])
  kernel = params['encoder']['layers_0']['mlp']['wo']['kernel'].copy()
  kernel[1, 2] = np.nan
  params['encoder']['layers_0']['mlp']['wo']['kernel'] = kernel
  formats.save_params(tmp_path / 'hf', params, config, 'hugging_face', step=3)
  with pytest.raises(ValueError, match='mlp/wo/kernel .*has 1 value.* NaN'):
    restoring.restore(restoring.find(tmp_path / 'hf'))


def test_the_optimizers_state_is_for_our_own_format(paths):
  with pytest.raises(ValueError, match="is 't5x_legacy', from .* convert"):
    restoring.find(paths['t5x_legacy'], optimizer=True)
  found = restoring.find(paths['native'], optimizer=True)
  assert found.folder == native.locate(paths['native'])


@pytest.mark.parametrize('path', ['', '{tmp}/nothing', '{tmp}'])
def test_what_is_no_checkpoint(path, tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint at|is empty'):
    restoring.find(path.format(tmp=tmp_path))
