"""Damaged native and T5X checkpoints, and wrong formats."""

import pathlib
import shutil

import pytest


def _remove(path: pathlib.Path):
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def _empty(path: pathlib.Path):
  _remove(path)
  path.mkdir()


def _file(path: pathlib.Path):
  _remove(path)
  path.touch()


def _cut(path: pathlib.Path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _write(content: bytes):
  return lambda path: path.write_bytes(content)


NESTED = 100_000 * b'['
# An action and the files of a copy that it is applied to, by format.
DAMAGE = {
  'native': {
    'no_params': (_remove, 'checkpoint_7/params'),
    'no_model': (_remove, 'checkpoint_7/model'),
    'empty_params': (_empty, 'checkpoint_7/params'),
    'empty_model': (_empty, 'checkpoint_7/model'),
    'cut_model': (_cut, 'checkpoint_7/model/metadata'),
    'blank_model': (_write(b''), 'checkpoint_7/model/metadata'),
    'list_model': (_write(b'[]'), 'checkpoint_7/model/metadata'),
    'object_model': (_write(b'{}'), 'checkpoint_7/model/metadata'),
    'nested_model': (_write(NESTED), 'checkpoint_7/model/metadata'),
    'not_utf_8_model': (_write(b'\xff'), 'checkpoint_7/model/metadata'),
    'empty': (_empty, 'checkpoint_7'),
    'file': (_file, 'checkpoint_7'),
    'cut_arrays': (_cut, 'checkpoint_7/params/d/*'),
    'no_arrays': (_remove, 'checkpoint_7/params/d/*'),
    'other_bytes': (_write(100 * b'\0'), 'checkpoint_7/params/d/*'),
    'cut_manifest': (_cut, 'checkpoint_7/params/manifest.ocdbt'),
    'nested_metadata': (_write(NESTED), 'checkpoint_7/params/_METADATA'),
  },
  't5x_legacy': {
    'no_index': (_remove, 'checkpoint_3/checkpoint'),
    'blank_index': (_write(b''), 'checkpoint_3/checkpoint'),
    'text_index': (_write(b'hello'), 'checkpoint_3/checkpoint'),
    'list_index': (_write(b'\x91\x01'), 'checkpoint_3/checkpoint'),
    'cut_index': (_cut, 'checkpoint_3/checkpoint'),
    'tensorflow': (
      _write(b'model_checkpoint_path: "model.ckpt-1000000"\n'),
      'checkpoint_3/checkpoint',
    ),
    'folder_index': (_empty, 'checkpoint_3/checkpoint'),
    'no_arrays': (_remove, 'checkpoint_3/target.*'),
    'no_chunks': (_remove, 'checkpoint_3/target.*/0.0'),
    'cut_chunks': (_cut, 'checkpoint_3/target.*/0.0'),
    'text_zarray': (_write(b'hello'), 'checkpoint_3/target.*/.zarray'),
    'list_zarray': (_write(b'[]'), 'checkpoint_3/target.*/.zarray'),
    'nested_zarray': (_write(NESTED), 'checkpoint_3/target.*/.zarray'),
    'empty': (_empty, 'checkpoint_3'),
    'file': (_file, 'checkpoint_3'),
  },
  't5x': {
    'no_state': (_remove, 'checkpoint_3/state'),
    'empty_state': (_empty, 'checkpoint_3/state'),
    'file_state': (_file, 'checkpoint_3/state'),
    'no_metadata': (_remove, 'checkpoint_3/state/_METADATA'),
    'text_metadata': (_write(b'hello'), 'checkpoint_3/state/_METADATA'),
    'list_metadata': (_write(b'[]'), 'checkpoint_3/state/_METADATA'),
    'object_metadata': (_write(b'{}'), 'checkpoint_3/state/_METADATA'),
    'nested_metadata': (_write(NESTED), 'checkpoint_3/state/_METADATA'),
    'not_utf_8_metadata': (_write(b'\xff'), 'checkpoint_3/state/_METADATA'),
    'no_manifests': (_remove, '**/manifest.ocdbt'),
    'cut_manifests': (_cut, '**/manifest.ocdbt'),
    'no_data': (_remove, '**/d/*'),
    'cut_data': (_cut, '**/d/*'),
  },
}


@pytest.fixture
def damaged(world, tmp_path):
  """Returns a function that makes a damaged copy of a checkpoint."""

  def damaged(format: str, damage: str):
    action, pattern = DAMAGE[format][damage]
    copy = shutil.copytree(vars(world)[format], tmp_path / 'copy')
    paths = sorted(copy.glob(pattern))
    assert paths
    for path in paths:
      action(path)

  return damaged


@pytest.mark.parametrize(
  ('format', 'damage'),
  [(format, damage) for format, all_ in DAMAGE.items() for damage in all_],
)
def test_a_damaged_checkpoint_is_not_converted(
  refused, damaged, format, damage
):
  damaged(format, damage)
  refused('convert', '--gin.INPUT=copy', 'copy')


@pytest.mark.slow
@pytest.mark.parametrize('damage', DAMAGE['native'])
@pytest.mark.parametrize('command', ['evaluate', 'infer', 'finetune'])
def test_a_damaged_checkpoint_is_not_used(refused, damaged, command, damage):
  damaged('native', damage)
  name = 'CHECKPOINT'
  if command == 'finetune':
    name = 'INITIAL_CHECKPOINT_PATH'
  refused(command, f'--gin.{name}=copy', 'copy')


FORMATS = ('native', 't5x', 't5x_legacy', 'hugging_face')


@pytest.mark.parametrize(
  ('format', 'other'),
  [(one, other) for one in FORMATS for other in FORMATS if one != other],
)
def test_a_format_that_it_is_not(refused, format, other):
  refused(
    'convert',
    [f'--gin.INPUT=${format}', f'--gin.INPUT_FORMAT={other}'],
    *('INPUT_FORMAT', other, format, f'${format}'),
  )
