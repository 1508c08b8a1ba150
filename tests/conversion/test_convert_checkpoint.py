"""Conversion on disk."""

import json

import jax
import numpy as np
import pytest

from gqa_flax import convert_params
from gqa_flax.checkpoints import native
from gqa_flax.conversion.convert import convert_checkpoint


@pytest.fixture
def source(tiny_config, tiny_params, tmp_path):
  folder = tmp_path / 'mha'
  with native.checkpoint_manager(folder) as manager:
    native.save(manager, native.Checkpoint(5, tiny_params, tiny_config))
  return str(folder)


def test_converts_as_the_function_does(
  source, tiny_config, tiny_params, tmp_path
):
  output = tmp_path / 'mqa'
  path = convert_checkpoint(
    input=source, output=str(output), num_kv_heads=1, method='random', seed=3
  )
  assert path == str(output / 'checkpoint_5')
  restored = native.restore(output)
  params, config = convert_params(tiny_params, tiny_config, 1, 'random', seed=3)
  assert (restored.step, restored.config) == (5, config)
  jax.tree.map(np.testing.assert_array_equal, restored.params, params)
  record = json.loads((output / 'conversion.json').read_text())
  assert record == {
    'source': source,
    'step': 5,
    'method': 'random',
    'seed': 3,
    'num_kv_heads': {'from': 8, 'to': 1},
  }


def test_an_output_in_use_is_refused_and_kept(source, tmp_path):
  output = str(tmp_path / 'out')
  arguments = {'input': source, 'output': output, 'num_kv_heads': 2}
  convert_checkpoint(**arguments, method='mean')
  with pytest.raises(FileExistsError, match='holds a checkpoint already'):
    convert_checkpoint(**arguments, method='first')
  record = json.loads((tmp_path / 'out' / 'conversion.json').read_text())
  assert record['method'] == 'mean'


def test_nothing_is_written_on_error(source, tmp_path):
  with pytest.raises(ValueError, match='does not divide'):
    convert_checkpoint(
      input=source, output=str(tmp_path / 'out'), num_kv_heads=3, method='mean'
    )
  assert not (tmp_path / 'out').exists()
