"""What a path means: which checkpoint, of which format, or what else it is."""

import pathlib
import shutil

import huggingface_hub.constants
import jax
import numpy as np
import pytest

from gqa_flax.checkpoints import folders, formats, native
from gqa_flax.training import optimizer

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny'


@pytest.fixture(scope='module')
def opt_state(tiny_params):
  return optimizer.adafactor().init(tiny_params)


@pytest.fixture(scope='module')
def ours(tiny_config, tiny_params, opt_state, tmp_path_factory):
  """A folder with the steps 3 and 5."""
  folder = tmp_path_factory.mktemp('ours')
  with native.checkpoint_manager(folder) as manager:
    for step in (3, 5):
      checkpoint = native.Checkpoint(step, tiny_params, tiny_config)
      native.save(manager, checkpoint, opt_state=opt_state)
  return folder


@pytest.fixture(scope='module')
def sources(tiny_config, tiny_params, ours, tmp_path_factory):
  """A checkpoint_3 folder of every format."""
  folder = tmp_path_factory.mktemp('hugging_face')
  formats.save_params(
    folder / 'm', tiny_params, tiny_config, 'hugging_face', step=0
  )
  return {
    'native': ours / 'checkpoint_3',
    't5x': FIXTURES / 'orbax' / 'checkpoint_3',
    't5x_legacy': FIXTURES / 'legacy' / 'checkpoint_3',
    'hugging_face': folder / 'm',
  }


@pytest.mark.parametrize(
  'name, step',
  [
    ('checkpoint_0', 0),
    ('checkpoint_1050000', 1050000),
    ('checkpoint_007', None),
    ('checkpoint_', None),
    ('checkpoint_-1', None),
    ('checkpoint_²', None),
    ('checkpoint_٣', None),
    ('checkpoint_3.incomplete', None),
    ('corrupt_checkpoint_3', None),
    ('checkpoint-3', None),
  ],
)
def test_the_step_in_a_name(name, step):
  assert folders.step_of(pathlib.Path('/some/where') / name) == step


def half_copy(source, target):
  """Copies the first half of all files, in the order of their names."""
  files = sorted(path for path in source.rglob('*') if path.is_file())
  for file in files[: len(files) // 2]:
    copy = target / file.relative_to(source)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)


def begun_copy(source, target):
  """Makes the folder, and nothing in it yet."""
  target.mkdir()


def copy_of_the_marker(source, target):
  """Copies that alone by which a format is recognized."""
  target.mkdir()
  marker = folders.MARKERS[folders.recognize(source)]
  if (source / marker).is_dir():
    shutil.copytree(source / marker, target / marker)
    for file in sorted((target / marker).rglob('*'))[1:]:
      if file.is_file() and 'metadata' not in file.name:
        file.unlink()
  else:
    shutil.copy(source / marker, target / marker)


@pytest.mark.parametrize('copy', [half_copy, begun_copy, copy_of_the_marker])
@pytest.mark.parametrize('format', formats.READABLE)
def test_the_newest_whole_one_is_opened(sources, format, copy, tmp_path):
  shutil.copytree(sources[format], tmp_path / 'checkpoint_3')
  copy(sources[format], tmp_path / 'checkpoint_5')
  with pytest.warns(
    UserWarning, match=r'Reading .*checkpoint_3, .*passed over: checkpoint_5 \('
  ):
    opened = formats.open_checkpoint(tmp_path)
  assert opened.path == str(tmp_path / 'checkpoint_3')
  wanted = formats.open_checkpoint(sources[format])
  for name, array in wanted.params.items():
    np.testing.assert_array_equal(opened.params[name].read(), array.read())
  # What is named is not replaced by another.
  with pytest.raises((ValueError, FileNotFoundError), match='checkpoint_5'):
    formats.open_checkpoint(tmp_path / 'checkpoint_5')


def test_all_that_is_passed_over_is_named(sources, tmp_path):
  shutil.copytree(sources['t5x_legacy'], tmp_path / 'checkpoint_3')
  begun_copy(None, tmp_path / 'checkpoint_10')
  half_copy(sources['t5x_legacy'], tmp_path / 'checkpoint_9')
  with pytest.warns(
    UserWarning,
    match=r'over: checkpoint_10 \(.*none of.*\); checkpoint_9 \(.*not a whole',
  ):
    params, _ = formats.load_params(tmp_path)
  wanted, _ = formats.load_params(sources['t5x_legacy'])
  jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_if_none_is_whole_it_is_said_of_the_newest(sources, tmp_path):
  for step in (3, 5):
    half_copy(sources['t5x_legacy'], tmp_path / f'checkpoint_{step}')
  with pytest.raises(ValueError, match='checkpoint_5 is not a whole'):
    formats.open_checkpoint(tmp_path)


def test_what_may_pass_is_not_passed_over(sources, tmp_path, monkeypatch):
  for step in (3, 5):
    shutil.copytree(sources['t5x'], tmp_path / f'checkpoint_{step}')

  def fails(*args, **kwargs):
    raise ValueError('PERMISSION_DENIED: Error reading local file')

  monkeypatch.setitem(formats._OPENERS, 't5x', fails)
  with pytest.raises(ValueError, match='PERMISSION_DENIED'):
    formats.open_checkpoint(tmp_path)


@pytest.mark.parametrize('lost', ['params', 'params/_METADATA', 'model', ''])
def test_ours_all_readers_take_the_same(ours, opt_state, lost, tmp_path):
  folder = shutil.copytree(ours, tmp_path / 'run')
  path = folder / 'checkpoint_5' / lost
  if path.is_dir():
    shutil.rmtree(path)
    (folder / 'checkpoint_5').mkdir(exist_ok=True)
  else:
    path.unlink()
  with pytest.warns(UserWarning, match='passed over: checkpoint_5'):
    assert native.locate(folder) == folder / 'checkpoint_3'
    assert native.restore(folder).step == 3
    native.read_config(folder)
    native.restore_optimizer(folder, opt_state)
  with pytest.raises(native.CorruptCheckpointError, match='5 is damaged'):
    native.restore(folder / 'checkpoint_5')


def test_a_lost_optimizer_state_matters_where_it_is_wanted(
  ours, opt_state, tmp_path
):
  folder = shutil.copytree(ours, tmp_path / 'run')
  shutil.rmtree(folder / 'checkpoint_5' / 'optimizer')
  assert native.restore(folder).step == 5
  assert formats.load_params(folder)[1] == native.read_config(folder)
  with pytest.warns(UserWarning, match=r'checkpoint_5 \(.*optimizer/ is miss'):
    found = native.locate(folder, optimizer=True)
  assert native.step_of(found) == 3


@pytest.mark.parametrize('format', formats.READABLE)
def test_the_format_of_a_folder(sources, format, tmp_path):
  assert formats.recognize(sources[format]) == format
  shutil.copytree(sources[format], tmp_path / 'steps' / 'checkpoint_3')
  (tmp_path / 'steps' / 'checkpoint_5').mkdir()
  assert formats.recognize(tmp_path / 'steps') == format
  assert formats.recognize(str(tmp_path / 'steps')) == format


@pytest.mark.parametrize('path', ['', 'google/t5-v1_1-small', '/proc/version'])
def test_what_has_no_format(path, tmp_path):
  assert formats.recognize(path) is None
  assert formats.recognize(tmp_path) is None


@pytest.mark.parametrize('format', ['t5x', 't5x_legacy', 'hugging_face'])
@pytest.mark.parametrize(
  'read', [native.restore, native.read_config, native.locate]
)
def test_other_formats_are_named_with_their_remedy(sources, format, read):
  path = sources[format]
  with pytest.raises(
    ValueError,
    match=f"in the format '{format}', .*gqa-flax convert {path} DIR --num_kv",
  ):
    read(path)


@pytest.mark.parametrize(
  'path, message',
  [
    (
      '',
      r"checkpoint to read is empty \(''\); give a checkpoint_<step> folder",
    ),
    (
      'google/t5-v1_1-small',
      'no folder google/t5-v1_1-small, and the model google/t5-v1_1-small '
      'could .*`hf download google/t5-v1_1-small --local-dir DIR`',
    ),
    ('hf://google/mt5-base', 'hf download google/mt5-base --local-dir'),
    (
      'https://huggingface.co/google/flan-t5-xl',
      'hf download google/flan-t5-xl --local-dir',
    ),
    ('{tmp}/absent', 'no checkpoint at {tmp}/absent: no such folder'),
    ('{tmp}/file', 'no checkpoint at {tmp}/file: it is a file'),
    ('{tmp}', 'no checkpoint at {tmp}: '),
    (20240101, 'no checkpoint at 20240101: no such folder'),
  ],
)
@pytest.mark.parametrize(
  'read',
  [
    native.restore,
    native.read_config,
    lambda path: native.restore_optimizer(path, {}),
    formats.open_checkpoint,
    formats.load_params,
  ],
)
def test_what_is_not_a_checkpoint(read, path, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  constants = huggingface_hub.constants
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  (tmp_path / 'file').write_text('nothing')
  with pytest.raises(FileNotFoundError, match=message.format(tmp=tmp_path)):
    read(path if path == 20240101 else path.format(tmp=tmp_path))


def test_other_urls_are_no_paths():
  with pytest.raises(ValueError, match='^ftp://x/y is neither a local path'):
    formats.open_checkpoint('ftp://x/y')


def test_a_relative_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  with pytest.raises(FileNotFoundError, match='at runs/mha: no such folder'):
    formats.open_checkpoint('runs/mha')
