"""Checkpoints of ours and of T5X that are damaged or of another format."""

import pathlib
import shutil

import pytest


@pytest.fixture
def copied(world, tmp_path):
  """Returns a function that copies a checkpoint to be spoilt."""

  def copied(format: str) -> pathlib.Path:
    return shutil.copytree(vars(world)[format], tmp_path / 'copy')

  return copied


def _first(folder, pattern) -> pathlib.Path:
  return min(path for path in folder.rglob(pattern) if path.is_file())


def _cut(path: pathlib.Path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What is done to a copy, by its format.
DAMAGE = {
  'native': {
    'no_params': lambda c: shutil.rmtree(c / 'checkpoint_7/params'),
    'no_model': lambda c: shutil.rmtree(c / 'checkpoint_7/model'),
    'cut_model': lambda c: _cut(c / 'checkpoint_7/model/metadata'),
    'empty_model': lambda c: (c / 'checkpoint_7/model/metadata').write_text(''),
    'list_model': lambda c: (c / 'checkpoint_7/model/metadata').write_text(
      '[]'
    ),
    'nested_model': lambda c: (c / 'checkpoint_7/model/metadata').write_text(
      '[' * 100_000
    ),
    'empty': lambda c: (
      shutil.rmtree(c / 'checkpoint_7'),
      (c / 'checkpoint_7').mkdir(),
    ),
    'a_file': lambda c: (
      shutil.rmtree(c / 'checkpoint_7'),
      (c / 'checkpoint_7').touch(),
    ),
    'cut_array': lambda c: _cut(
      max(
        (p for p in (c / 'checkpoint_7/params').rglob('*') if p.is_file()),
        key=lambda p: p.stat().st_size,
      )
    ),
    'other_bytes': lambda c: max(
      (p for p in (c / 'checkpoint_7/params').rglob('*') if p.is_file()),
      key=lambda p: p.stat().st_size,
    ).write_bytes(b'\0' * 100),
    'all_files_empty': lambda c: [
      p.write_bytes(b'') for p in c.rglob('*') if p.is_file()
    ],
  },
  't5x_legacy': {
    'no_index': lambda c: (c / 'checkpoint_3/checkpoint').unlink(),
    'empty_index': lambda c: (c / 'checkpoint_3/checkpoint').write_bytes(b''),
    'text_index': lambda c: (c / 'checkpoint_3/checkpoint').write_bytes(
      b'hello'
    ),
    'list_index': lambda c: (c / 'checkpoint_3/checkpoint').write_bytes(
      b'\x91\x01'
    ),
    'tensorflow': lambda c: (c / 'checkpoint_3/checkpoint').write_bytes(
      b'model_checkpoint_path: "model.ckpt-1000000"\n'
    ),
    'cut_index': lambda c: _cut(c / 'checkpoint_3/checkpoint'),
    'no_array': lambda c: shutil.rmtree(
      min((c / 'checkpoint_3').glob('target.*'))
    ),
    'no_chunk': lambda c: _first(c / 'checkpoint_3', '0.0').unlink(),
    'cut_chunk': lambda c: _cut(_first(c / 'checkpoint_3', 'target*/0.0')),
    'text_zarray': lambda c: _first(
      c / 'checkpoint_3', 'target*/.zarray'
    ).write_text('hello'),
    'list_zarray': lambda c: _first(
      c / 'checkpoint_3', 'target*/.zarray'
    ).write_text('[]'),
    'a_file': lambda c: (
      shutil.rmtree(c / 'checkpoint_3'),
      (c / 'checkpoint_3').touch(),
    ),
    'index_alone': lambda c: [
      shutil.rmtree(p) for p in (c / 'checkpoint_3').iterdir() if p.is_dir()
    ],
  },
  't5x': {
    'no_state': lambda c: shutil.rmtree(c / 'checkpoint_3/state'),
    'empty_state': lambda c: (
      shutil.rmtree(c / 'checkpoint_3/state'),
      (c / 'checkpoint_3/state').mkdir(),
    ),
    'no_metadata': lambda c: (c / 'checkpoint_3/state/_METADATA').unlink(),
    'text_metadata': lambda c: (c / 'checkpoint_3/state/_METADATA').write_text(
      'hello'
    ),
    'list_metadata': lambda c: (c / 'checkpoint_3/state/_METADATA').write_text(
      '[]'
    ),
    'nested_metadata': lambda c: (
      c / 'checkpoint_3/state/_METADATA'
    ).write_text('[' * 100_000),
    'no_manifest': lambda c: [p.unlink() for p in c.rglob('manifest.ocdbt')],
    'cut_manifest': lambda c: [_cut(p) for p in c.rglob('manifest.ocdbt')],
    'cut_data': lambda c: [_cut(p) for p in c.rglob('d/*') if p.is_file()],
    'no_data': lambda c: [p.unlink() for p in c.rglob('d/*')],
  },
}


@pytest.mark.parametrize(
  ('format', 'damage'),
  [(format, damage) for format, all_ in DAMAGE.items() for damage in all_],
)
def test_a_damaged_checkpoint_is_not_converted(refused, copied, format, damage):
  DAMAGE[format][damage](copied(format))
  heads = '--gin.NUM_KV_HEADS=2'
  refused('convert', ['--gin.INPUT=copy', heads], 'copy')


@pytest.mark.parametrize('damage', DAMAGE['native'])
@pytest.mark.parametrize('command', ['evaluate', 'infer', 'finetune'])
def test_a_damaged_checkpoint_is_not_used(refused, copied, command, damage):
  DAMAGE['native'][damage](copied('native'))
  name = 'CHECKPOINT'
  if command == 'finetune':
    name = 'INITIAL_CHECKPOINT_PATH'
  refused(command, f'--gin.{name}=copy', 'copy')


@pytest.mark.parametrize('format', ['native', 't5x', 't5x_legacy'])
@pytest.mark.parametrize(
  'name', ['native', 't5x', 't5x_legacy', 'hugging_face']
)
def test_a_format_that_it_is_not(refused, format, name):
  if name == format:
    name = 'hugging_face'
  refused(
    'convert',
    [f'--gin.INPUT=${format}', f'--gin.INPUT_FORMAT={name}'],
    *('INPUT_FORMAT', name, format, f'${format}'),
  )
