"""The one door to all formats: which is which, and there and back again."""

import dataclasses
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gqa_flax.checkpoints import architecture, formats
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.runtime import interrupts

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny'


@pytest.fixture(scope='module')
def numbered(tiny_config):
  """Parameters that are exact in every dtype, and all different."""
  rng = np.random.default_rng(0)
  flat = {
    name: rng.integers(-9, 9, shape).astype(np.float32)
    for name, shape in architecture.parameter_shapes(tiny_config).items()
  }
  return traverse_util.unflatten_dict(flat, sep='/')


def assert_equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize('given', [True, False])
@pytest.mark.parametrize('format', ['t5x', 't5x_legacy'])
@pytest.mark.parametrize('folder', ['', 'checkpoint_3'])
def test_t5x_s_checkpoints_are_recognised(golden, format, folder, given):
  path = FIXTURES / {'t5x': 'orbax', 't5x_legacy': 'legacy'}[format] / folder
  opened = formats.open_checkpoint(path, format if given else None)
  assert (opened.format, opened.step) == (format, 3)
  assert pathlib.Path(opened.path).name == 'checkpoint_3'
  params, config = formats.load_params(path, format if given else None)
  assert config == opened.config
  assert_equal(params, golden.tree('adafactor/params'))


@pytest.mark.parametrize('num_kv_heads', [8, 2])
@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('format', formats.WRITABLE)
def test_there_and_back_again(
  tiny_config, numbered, format, num_kv_heads, tied, tmp_path
):
  config = dataclasses.replace(
    tiny_config, num_kv_heads=num_kv_heads, logits_via_embedding=tied
  )
  params = jax.tree.map(lambda x: x, numbered)
  for layer in ('layers_0', 'layers_1'):
    for kind in ('self_attention', 'encoder_decoder_attention'):
      for name in ('key', 'value'):
        kernel = params['decoder'][layer][kind][name]
        kernel['kernel'] = kernel['kernel'][:, : 4 * num_kv_heads]
  if tied:
    del params['decoder']['logits_dense']
  path = formats.save_params(tmp_path / 'out', params, config, format, step=7)
  for place in (tmp_path / 'out', path):
    opened = formats.open_checkpoint(place)
    assert (opened.format, opened.step) == (format, 7)
    found, found_config = formats.load_params(place, format)
    assert_equal(found, params)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(found))
    # T5X's files hold arrays alone, and no rate of dropout.
    assert dataclasses.replace(found_config, dropout_rate=0.0) == config
  assert opened.slots is None or format == 't5x_legacy'


@pytest.mark.parametrize('format', formats.WRITABLE)
def test_parameters_of_other_dtypes_are_stored_as_float32(
  tiny_config, numbered, format, tmp_path
):
  low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), numbered)
  formats.save_params(tmp_path / 'out', low, tiny_config, format, step=1)
  found, _ = formats.load_params(tmp_path / 'out')
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(found))
  assert_equal(found, numbered)


def test_the_latest_step_is_taken(tiny_config, numbered, tmp_path):
  for step in (9, 10, 2):
    params = jax.tree.map(lambda x, step=step: x + step, numbered)
    formats.save_params(
      tmp_path / f'{step}', params, tiny_config, 't5x_legacy', step=step
    )
    shutil.move(tmp_path / f'{step}' / f'checkpoint_{step}', tmp_path)
  # By number, not by name; and only what is named so.
  (tmp_path / 'checkpoint_11.incomplete').mkdir()
  (tmp_path / 'checkpoint_final').mkdir()
  opened = formats.open_checkpoint(tmp_path)
  assert (opened.step, pathlib.Path(opened.path).name) == (10, 'checkpoint_10')
  params, _ = formats.load_params(tmp_path)
  assert_equal(params, jax.tree.map(lambda x: x + 10, numbered))
  params, _ = formats.load_params(tmp_path / 'checkpoint_9')
  assert_equal(params, jax.tree.map(lambda x: x + 9, numbered))


@pytest.mark.parametrize(
  'format, hint',
  [
    ('natve', "Did you mean 'native'"),
    ('t5x_legcy', "Did you mean 't5x_legacy'"),
    ('huggingface', "Did you mean 'hugging_face'"),
    ('gguf', r"'hugging_face'\]\.$"),
  ],
)
def test_a_format_that_does_not_exist(
  tiny_config, numbered, tmp_path, format, hint
):
  message = f'no checkpoint format {format!r} here; choose one of .*{hint}'
  with pytest.raises(ValueError, match=message):
    formats.open_checkpoint(FIXTURES / 'legacy', format)
  with pytest.raises(ValueError, match=message):
    formats.save_params(tmp_path / 'out', numbered, tiny_config, format, step=1)
  assert not (tmp_path / 'out').exists()


def test_t5x_s_orbax_is_not_written(tiny_config, numbered, tmp_path):
  with pytest.raises(ValueError, match="no checkpoint format 't5x' here"):
    formats.save_params(tmp_path / 'out', numbered, tiny_config, 't5x', step=1)


@pytest.mark.parametrize('given', ['native', 't5x', 'hugging_face'])
def test_another_format_than_the_files_say(given):
  with pytest.raises(
    ValueError,
    match=f"legacy/checkpoint_3 looks like 't5x_legacy', not .*{given}",
  ):
    formats.open_checkpoint(FIXTURES / 'legacy', given)


@pytest.mark.parametrize('format', [None, *formats.READABLE])
def test_no_checkpoint(tmp_path, format):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'steps' / 'checkpoint_4').mkdir(parents=True)
  (tmp_path / 'file').write_text('nothing')
  for name, where, reason in (
    ('empty', 'empty', 'none of'),
    ('absent', 'absent', 'no such folder'),
    ('steps', 'steps/checkpoint_4', 'none of'),
    ('file', 'file', 'it is a file'),
    ('absent/checkpoint_3', 'absent/checkpoint_3', 'no such folder'),
  ):
    with pytest.raises(
      FileNotFoundError, match=f'checkpoint at {tmp_path}/{where}: {reason}'
    ):
      formats.open_checkpoint(tmp_path / name, format)


@pytest.mark.parametrize('format', formats.WRITABLE)
def test_what_is_there_is_not_overwritten(
  tiny_config, numbered, format, tmp_path
):
  formats.save_params(tmp_path / 'out', numbered, tiny_config, format, step=1)
  other = jax.tree.map(lambda x: x + 1, numbered)
  with pytest.raises(FileExistsError, match='out holds a checkpoint already'):
    formats.save_params(tmp_path / 'out', other, tiny_config, format, step=2)
  assert_equal(formats.load_params(tmp_path / 'out')[0], numbered)
  assert [x.name for x in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('format', formats.WRITABLE)
def test_parameters_of_another_architecture_are_not_written(
  tiny_config, numbered, format, tmp_path
):
  config = dataclasses.replace(tiny_config, num_decoder_layers=1, mlp_dim=32)
  with pytest.raises(
    ValueError, match=r'the result is not .*layers_1.* is not a parameter'
  ):
    formats.save_params(tmp_path / 'out', numbered, config, format, step=1)
  assert not (tmp_path / 'out').exists()


def test_parameters_without_a_step_are_not_saved(
  tiny_config, numbered, tmp_path
):
  with pytest.raises(TypeError, match='step'):
    formats.save_params(tmp_path / 'out', numbered, tiny_config)
  assert not (tmp_path / 'out').exists()


def test_activations_that_t5x_does_not_carry_are_not_written(
  tiny_config, numbered, tmp_path
):
  config = dataclasses.replace(tiny_config, mlp_activations=('silu', 'linear'))
  arguments = (tmp_path / 'out', numbered, config)
  with pytest.raises(
    ValueError, match=r"is \('silu', 'linear'\), which T5X's .*OUTPUT_FORMAT"
  ):
    formats.save_params(*arguments, 't5x_legacy', step=1)
  assert not (tmp_path / 'out').exists()
  # What the message advises.
  for format in ('native', 'hugging_face'):
    path = formats.save_params(
      tmp_path / format, *arguments[1:], format, step=1
    )
    assert formats.load_params(path)[1].mlp_activations == ('silu', 'linear')


def test_names_are_those_of_the_tree(tiny_config, numbered, tmp_path):
  path = formats.save_params(tmp_path / 'out', numbered, tiny_config, step=1)
  flat = traverse_util.flatten_dict(numbered, sep='/')
  assert formats.open_checkpoint(path).params.keys() == flat.keys()


@pytest.mark.parametrize('format', formats.WRITABLE)
def test_an_interrupted_checkpoint_leaves_nothing(
  tiny_config, numbered, format, tmp_path, monkeypatch
):
  """Ctrl-C comes with the first rows; the writing ends after some chunks."""

  def press(name, start, rows):
    monkeypatch.setattr(interrupts._interrupts, '_requested', True)

  flat = traverse_util.flatten_dict(numbered, sep='/')
  arrays = {name: LazyArray.of(x) for name, x in flat.items()}
  with pytest.raises(KeyboardInterrupt):
    formats.write_checkpoint(
      tmp_path / 'new', format, 3, tiny_config, arrays, on_slab=press
    )
  assert list(tmp_path.iterdir()) == []
