"""Settings of a conversion that are out of range, or would be ignored."""

import pathlib

import pytest

from gqa_flax import convert_params
from gqa_flax.checkpoints import formats
from gqa_flax.conversion.convert import convert_checkpoint

LEGACY = pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny/legacy'


def convert(output, **options):
  arguments = {'input': str(LEGACY), 'num_kv_heads': 2, **options}
  return convert_checkpoint(output=str(output), **arguments)


@pytest.mark.parametrize(
  'options, message',
  [
    *(
      ({'num_kv_heads': x}, 'num_kv_heads is .*; give an integer of at least 1')
      for x in ('two', 0, -1, True, 2.0, None, [2])
    ),
    *(
      ({'seed': x}, 'RANDOM_SEED is .*; give an integer of at least 0')
      for x in (-1, 0.5, 'abc', None, True)
    ),
    *(
      (
        {'calibration_tokens': x, 'method': 'aligned'},
        'CALIBRATION_TOKENS is .*; give an integer of at least 1',
      )
      for x in (0, -5, 'many', 1e4)
    ),
    *(
      ({'permute_heads': x}, 'PERMUTE_HEADS is .*; give True or False')
      for x in ('maybe', 1, None)
    ),
    *(
      (
        {'calibration_task': 'text', 'method': x},
        "CALIBRATION_TASK is 'text', but the method .* 'aligned' or 'subspace'",
      )
      for x in ('mean', 'first', 'random')
    ),
    ({'statistics': 'f.npz'}, "STATISTICS is 'f.npz', but the method 'mean'"),
    (
      {'calibration_task': 'text', 'method': 'subspace'},
      "task 'text' has no batches; give calibration_batches, too",
    ),
    ({'output_dtype': 'int8'}, "'int8'; choose an OUTPUT_DTYPE of float32"),
    ({'output_dtype': None}, 'None; choose an OUTPUT_DTYPE of float32'),
    ({'optimizer_state': True}, 'OPTIMIZER_STATE is True; choose reset'),
    ({'method': None}, 'no conversion method None; choose one of'),
  ],
)
def test_a_setting_that_is_wrong_is_named(tmp_path, options, message):
  with pytest.raises(ValueError, match=message):
    convert(tmp_path / 'out', **options)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('num_kv_heads', [True, 2.0, 'two'])
def test_heads_in_memory_are_counted_alike(num_kv_heads):
  params, config = formats.load_params(LEGACY)
  with pytest.raises(ValueError, match='num_kv_heads is .*; give an integer'):
    convert_params(params, config, num_kv_heads, 'mean')


def test_statistics_that_are_nowhere_are_not_done_without(tmp_path):
  file = tmp_path / 'statistcs.npz'
  with pytest.raises(
    FileNotFoundError, match=f'no STATISTICS file {file}, nor'
  ):
    convert(tmp_path / 'out', method='aligned', statistics=str(file))
  assert not list(tmp_path.iterdir())


def test_statistics_in_a_folder_are_not_read(tmp_path):
  options = {'method': 'aligned', 'statistics': str(tmp_path)}
  with pytest.raises(ValueError, match=f'file {tmp_path} cannot be read .Is a'):
    convert(tmp_path / 'out', **options)
  assert not list(tmp_path.iterdir())


def test_where_statistics_cannot_be_written_none_are_collected(tmp_path):
  (tmp_path / 'file').write_text('')
  file = tmp_path / 'file' / 'statistics.npz'

  def batches():
    raise AssertionError('the text was read')

  with pytest.raises(ValueError, match=f'file {file} cannot be written'):
    convert(
      tmp_path / 'out',
      method='subspace',
      statistics=str(file),
      calibration_task='text',
      calibration_batches=batches,
    )
  assert [x.name for x in tmp_path.iterdir()] == ['file']
