"""Conversion on disk: between all formats, whole or not at all."""

import errno
import hashlib
import json
import os
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from gqa_flax import convert_params
from gqa_flax.checkpoints import formats, native
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.conversion import report, slots, statistics
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.conversion.plan import Conversion
from gqa_flax.runtime.owner import NAME as OWNER
from gqa_flax.runtime.owner import FolderInUseError, Owner

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures/t5x_tiny'
LEGACY = FIXTURES / 'legacy'
KEY = 'decoder/layers_1/self_attention/key/kernel'
HEAD = 'decoder/logits_dense/kernel'


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep='/')


@pytest.fixture
def source(tiny_config, tiny_params, tmp_path):
  folder = tmp_path / 'mha'
  with native.checkpoint_manager(folder) as manager:
    native.save(manager, native.Checkpoint(5, tiny_params, tiny_config))
  return str(folder)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  """One checkpoint, step 3, in every format."""
  params, config = formats.load_params(LEGACY)
  folders = {'t5x': FIXTURES / 'orbax', 't5x_legacy': LEGACY}
  for format in ('native', 'hugging_face'):
    folders[format] = tmp_path_factory.mktemp('source') / format
    formats.save_params(folders[format], params, config, format, step=3)
  return folders


def outcome(output):
  """What lies under a folder and beside it, of a conversion into it."""
  return sorted(
    str(path.relative_to(output.parent))
    for path in output.parent.glob(f'{output.name}*/**/*')
    if path.is_file()
  ) + sorted(x.name for x in output.parent.glob(f'{output.name}.*'))


def assert_nothing_there(output):
  assert outcome(output) == []
  with pytest.raises(FileNotFoundError):
    formats.open_checkpoint(output)


def assert_whole(output, num_kv_heads=2):
  """The converted fixture, its record, and nothing else."""
  params, config = formats.load_params(LEGACY)
  params, _ = convert_params(params, config, num_kv_heads, 'mean')
  found, config = formats.load_params(output)
  assert config.num_kv_heads == num_kv_heads
  jax.tree.map(np.testing.assert_array_equal, found, params)
  record = json.loads((output / 'conversion.json').read_text())
  assert record['num_kv_heads'] == {'from': 4, 'to': num_kv_heads}
  assert [x.name for x in output.parent.glob(f'{output.name}.*')] == []
  assert not [x for x in output.rglob('*') if 'tmp' in x.name]


def test_converts_as_the_function_does(
  source, tiny_config, tiny_params, tmp_path, monkeypatch
):
  output = tmp_path / 'mqa'
  # Records name the source as it was given, not where the machine has it.
  monkeypatch.chdir(pathlib.Path(source).parent)
  source = pathlib.Path(source).name
  path = convert_checkpoint(
    input=source, output=str(output), num_kv_heads=1, method='random', seed=3
  )
  assert path == str(output / 'checkpoint_5')
  restored = native.restore(output)
  params, config = convert_params(tiny_params, tiny_config, 1, 'random', seed=3)
  assert (restored.step, restored.config) == (5, config)
  jax.tree.map(np.testing.assert_array_equal, restored.params, params)
  record = json.loads((output / 'conversion.json').read_text())
  expected = {
    'source': f'{source}/checkpoint_5',
    'input_format': 'native',
    'output_format': 'native',
    'output_dtype': 'float32',
    'step': 5,
    'method': 'random',
    'seed': 3,
    'num_kv_heads': {'from': 8, 'to': 1},
    'permute_heads': False,
    'optimizer_state': 'reset',
    'statistics': None,
    'config': config.to_dict(),
    'kept': {},
    'head_order': {},
    'skipped': {},
  }
  assert {key: record.get(key) for key in expected} == expected


@pytest.mark.parametrize('output_format', formats.WRITABLE)
@pytest.mark.parametrize('input_format', formats.READABLE)
def test_from_every_format_to_every_other(
  sources, input_format, output_format, tmp_path
):
  output = tmp_path / 'out'
  source = sources[input_format]
  path = convert_checkpoint(
    input=str(source),
    output=str(output),
    num_kv_heads=2,
    method='mean',
    input_format=input_format,
    output_format=output_format,
  )
  assert_whole(output)
  opened = formats.open_checkpoint(path)
  assert (opened.format, opened.step) == (output_format, 3)
  params, config = formats.load_params(source)
  expected = convert_params(params, config, 2, 'mean')[1].to_dict()
  # T5X's files do not know it, Hugging Face's do.
  assert opened.config.to_dict() | {'dropout_rate': 0} == (
    expected | {'dropout_rate': 0}
  )
  record = json.loads((output / 'conversion.json').read_text())
  assert record['input_format'] == input_format
  old = flatten(params)
  assert record['arrays'].keys() == old.keys()
  for name, array in opened.params.items():
    entry = record['arrays'][name]
    # Of the values as they lie in the output, whatever way they lie there.
    digest = hashlib.sha256(np.ascontiguousarray(array.read()).tobytes())
    assert entry['sha256'] == digest.hexdigest(), name
    assert entry['shape'] == list(array.shape)
    assert entry['from_shape'] == list(old[name].shape)
    pooled = entry['shape'] != entry['from_shape']
    assert entry['action'] == ('pooled' if pooled else 'copied')


def test_an_identity_is_what_t5x_wrote_byte_for_byte(tmp_path):
  convert_checkpoint(
    input=str(LEGACY),
    output=str(tmp_path / 'out'),
    num_kv_heads=4,
    output_format='t5x_legacy',
    optimizer_state='carry',
  )

  def files(folder):
    return {
      path.relative_to(folder): path
      for path in folder.rglob('*')
      if path.is_file()
    }

  old = files(LEGACY / 'checkpoint_3')
  new = files(tmp_path / 'out' / 'checkpoint_3')
  assert new.keys() == old.keys()
  for name, path in old.items():
    if name.name == '.zarray':
      # Metadata may be spelt in another order.
      assert json.loads(new[name].read_text()) == json.loads(path.read_text())
    else:
      assert new[name].read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize('output_format', ['native', 't5x_legacy'])
@pytest.mark.parametrize('input_format', ['t5x', 't5x_legacy'])
def test_statistics_of_adafactor_are_carried(
  input_format, output_format, sources, tmp_path
):
  source = formats.open_checkpoint(sources[input_format])
  path = convert_checkpoint(
    input=source.path,
    output=str(tmp_path / 'out'),
    num_kv_heads=2,
    method='aligned',
    output_format=output_format,
    optimizer_state='carry',
    permute_heads=True,
  )
  opened = formats.open_checkpoint(path)
  conversion = Conversion(
    source.params, source.config, 2, 'aligned', permute_heads=True
  )
  shapes = {name: x.shape for name, x in source.params.items()}
  expected = slots.carry(conversion, source.slots, shapes)
  assert opened.slots.keys() == expected.keys()
  for name, slot in expected.items():
    values = slot.read()
    assert values.any()
    np.testing.assert_allclose(
      opened.slots[name].read(), values, rtol=1e-5, err_msg=name
    )
  assert opened.step == 3


@pytest.mark.parametrize(
  'output_format, found', [('native', None), ('t5x_legacy', 0)]
)
def test_a_reset_leaves_no_statistics(output_format, found, tmp_path):
  path = convert_checkpoint(
    input=str(LEGACY),
    output=str(tmp_path / 'out'),
    num_kv_heads=2,
    output_format=output_format,
  )
  slots = formats.open_checkpoint(path).slots
  if found is None:
    assert slots is None
  else:
    assert not any(slot.read().any() for slot in slots.values())


@pytest.mark.parametrize('output_format', ['t5x_legacy', 'hugging_face'])
def test_bfloat16_halves_the_files_and_rounds(output_format, tmp_path):
  for dtype in ('float32', 'bfloat16'):
    convert(tmp_path / dtype, output_format, output_dtype=dtype)
  exact, rounded = (
    formats.open_checkpoint(tmp_path / dtype)
    for dtype in ('float32', 'bfloat16')
  )
  weights = {
    't5x_legacy': f'checkpoint_*/target.{KEY.replace("/", ".")}/0.0',
    'hugging_face': 'model.safetensors',
  }[output_format]
  sizes = [
    next((tmp_path / dtype).glob(weights)).stat().st_size
    for dtype in ('float32', 'bfloat16')
  ]
  assert sizes[1] < 0.6 * sizes[0]
  record = json.loads((tmp_path / 'bfloat16/conversion.json').read_text())
  for name, array in exact.params.items():
    wanted = array.read().astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded.params[name].read(), wanted)
    digest = hashlib.sha256(np.ascontiguousarray(wanted).tobytes())
    assert record['arrays'][name]['sha256'] == digest.hexdigest()
  for name, slot in (exact.slots or {}).items():
    np.testing.assert_array_equal(rounded.slots[name].read(), slot.read())


def test_the_own_format_is_float32(tmp_path):
  with pytest.raises(ValueError, match="'bfloat16'; choose an OUTPUT_DTYPE"):
    convert(tmp_path / 'out', 'native', output_dtype='bfloat16')
  assert not list(tmp_path.iterdir())


# Whole or not at all


def convert(output, output_format='native', **options):
  arguments = {'input': str(LEGACY), 'num_kv_heads': 2, **options}
  return convert_checkpoint(
    output=str(output), output_format=output_format, **arguments
  )


@pytest.mark.parametrize('output_format', formats.WRITABLE)
@pytest.mark.parametrize('when', ['begun', 'half', 'recorded'])
def test_what_fails_leaves_nothing_and_may_be_started_again(
  monkeypatch, tmp_path, output_format, when
):
  output = tmp_path / 'new' / 'out'
  original = report.Audit.__call__
  seen = []

  def fail(*arguments):
    seen.append(arguments[1])
    if len(seen) > {'begun': 0, 'half': 20}[when]:
      raise FloatingPointError('planted')
    return original(*arguments)

  def fail_at_once(*arguments):
    seen.append(True)
    raise FloatingPointError('planted')

  with monkeypatch.context() as patch:
    if when == 'recorded':
      patch.setattr(report, 'record', fail_at_once)
    else:
      patch.setattr(report.Audit, '__call__', fail)
    with pytest.raises(FloatingPointError, match='planted'):
      convert(output, output_format)
  assert seen
  assert_nothing_there(output)
  convert(output, output_format)
  assert_whole(output)


def part_of_a_folder(output, format):
  """As a rename that never came leaves it."""
  if format == 'hugging_face':
    left = output.with_name('out.incomplete')
  elif format == 't5x_legacy':
    left = output / 'checkpoint_3.incomplete'
  else:
    left = output / 'checkpoint_3.orbax-checkpoint-tmp'
  left.mkdir(parents=True)
  (left / 'part').write_bytes(b'half')


def a_record_without_a_checkpoint(output, format):
  part_of_a_folder(output, format)
  if format != 'hugging_face':
    (output / 'conversion.json').write_text('{}')


def half_a_record(output, format):
  part_of_a_folder(output, format)
  if format != 'hugging_face':
    (output / 'conversion.json.tmp').write_text('{')


@pytest.mark.parametrize('output_format', formats.WRITABLE)
@pytest.mark.parametrize(
  'leave', [part_of_a_folder, a_record_without_a_checkpoint, half_a_record]
)
def test_what_was_killed_may_be_started_again(leave, tmp_path, output_format):
  output = tmp_path / 'out'
  leave(output, output_format)
  convert(output, output_format)
  assert_whole(output)


@pytest.mark.parametrize('output_format', formats.WRITABLE)
def test_two_conversions_into_one_output_do_not_meet(tmp_path, output_format):
  """The second is refused, and leaves alone what the first has begun."""
  output = tmp_path / 'out'
  begun = tmp_path / 'out.incomplete' / 'file'
  begun.parent.mkdir()
  begun.write_text('half')
  options = {
    'input': LEGACY,
    'output': str(output),
    'num_kv_heads': 2,
    'output_format': output_format,
  }
  with Owner(output, 'OUTPUT', beside=True):
    with pytest.raises(
      FolderInUseError, match=rf'OUTPUT {output} is in use by process \d+ on'
    ):
      convert_checkpoint(**options)
    assert begun.read_text() == 'half'
    record = (tmp_path / f'out{OWNER}').read_text()
  # What a killed one leaves blocks nobody.
  (tmp_path / f'out{OWNER}').write_text(record)
  convert_checkpoint(**options)
  assert formats.open_checkpoint(output).config.num_kv_heads == 2
  assert not (tmp_path / f'out{OWNER}').exists()


@pytest.mark.parametrize('output_format', ['native', 't5x_legacy'])
def test_what_stands_beside_survives_a_failure(
  tmp_path, output_format, monkeypatch
):
  output = tmp_path / 'out'
  (output / 'checkpoint_3.old').mkdir(parents=True)
  (output / 'notes').mkdir()

  def fail(*_):
    raise FloatingPointError('planted')

  monkeypatch.setattr(report, 'record', fail)
  with pytest.raises(FloatingPointError):
    convert(output, output_format)
  assert {path.name for path in output.iterdir()} == {
    'checkpoint_3.old',
    'notes',
  }


@pytest.mark.parametrize('output_format', formats.WRITABLE)
def test_an_output_in_use_is_refused_and_kept(tmp_path, output_format):
  output = tmp_path / 'out'
  convert(output, output_format)
  before = outcome(output)
  with pytest.raises(FileExistsError, match='out holds a checkpoint already'):
    convert(output, output_format, method='first')
  assert outcome(output) == before
  assert_whole(output)


# Damaged sources. The messages of all that opening finds are tested with
# the formats; here, that each stops a conversion before anything is there.


def array_of(folder, name):
  kvstore = {
    'driver': 'file',
    'path': f'{folder}/target.{name.replace("/", ".")}/',
  }
  return ts.open({'driver': 'zarr', 'kvstore': kvstore}).result()


def poison(name, value):
  def damage(folder):
    array_of(folder, name)[1, 2].write(value).result()

  return damage


def truncate_chunk(folder):
  chunk = folder / f'target.{KEY.replace("/", ".")}/0.0'
  chunk.write_bytes(chunk.read_bytes()[:100])


def lose_array(folder):
  shutil.rmtree(folder / f'target.{KEY.replace("/", ".")}')


def edit(change):
  def damage(folder):
    file = folder / 'checkpoint'
    index = serialization.msgpack_restore(file.read_bytes())
    change(index['optimizer']['target'])
    file.write_bytes(serialization.msgpack_serialize(index, in_place=True))

  return damage


def add_array(target):
  target['decoder']['adapter'] = {'kernel': np.ones((3, 2), np.float32)}


def reshape_array(target):
  key = target['decoder']['layers_1']['self_attention']['key']
  key['kernel'] = np.ones((32, 48), np.float32)


def shorten_vocabulary(target):
  target['decoder']['logits_dense']['kernel'] = np.ones((32, 120), np.float32)


@pytest.mark.parametrize(
  'method, output_format', [('mean', 'native'), ('aligned', 't5x_legacy')]
)
@pytest.mark.parametrize(
  'damage, message',
  [
    (poison(KEY, np.nan), rf'{KEY} .*NaN or inf.*; the checkpoint is dam'),
    (
      poison(KEY.replace('key', 'query'), np.inf),
      'layers_1/self_attention/query/kernel .*NaN or inf.*; the checkpoint',
    ),
    (poison(HEAD, -np.inf), rf'{HEAD} of .* has 1 value.* rows 0 to 31; the'),
    (truncate_chunk, f'{KEY} in .* cannot be read .*truncated'),
    (lose_array, f'not a whole checkpoint: {KEY} has no .*kernel/.zarray'),
    (edit(add_array), 'decoder/adapter/kernel is not a parameter'),
    (edit(reshape_array), rf'{KEY} has shape \(32, 48\) instead of \(32, 32\)'),
    (edit(shorten_vocabulary), r'128 rows but an output head .* for 120 ids'),
  ],
  ids=['nan', 'inf', 'inf_copied', 'chunk', 'lost', 'extra', 'shape', 'vocab'],
)
def test_a_damaged_checkpoint_is_not_converted(
  damage, message, method, output_format, tmp_path
):
  folder = shutil.copytree(LEGACY / 'checkpoint_3', tmp_path / 'checkpoint_3')
  damage(folder)
  output = tmp_path / 'out'
  with pytest.raises(ValueError, match=message) as error:
    convert(output, output_format, input=str(folder), method=method)
  assert str(folder) in str(error.value)
  assert_nothing_there(output)


@pytest.mark.filterwarnings('ignore:overflow')
def test_overflow_is_no_number_either(tmp_path):
  """Finite heads whose mean is not are caught as they are written."""
  folder = shutil.copytree(LEGACY / 'checkpoint_3', tmp_path / 'checkpoint_3')
  array = array_of(folder, KEY)
  array.write(np.full(array.shape, 3e38, np.float32)).result()
  with pytest.raises(ValueError, match=rf'{KEY} of .* has 512 value'):
    convert(tmp_path / 'out', input=str(folder))
  assert_nothing_there(tmp_path / 'out')


@pytest.mark.parametrize(
  'options, message',
  [
    ({'num_kv_heads': 3}, '3 does not divide the 4 key/value heads'),
    ({'method': 'maen'}, "no conversion method 'maen'.*Did you mean 'mean'"),
    ({'method': 'subspace'}, "'subspace' needs statistics"),
    ({'output_format': 't5x'}, "no checkpoint format 't5x' here"),
    ({'input_format': 'natve'}, "format 'natve' here.* Did you mean 'native'"),
    ({'input_format': 't5x'}, "looks like 't5x_legacy', not like 't5x'"),
    ({'optimizer_state': 'keep'}, "OPTIMIZER_STATE is 'keep'; choose reset"),
    (
      {'optimizer_state': 'carry', 'output_format': 'hugging_face'},
      "Hugging Face's format has no place for an optimizer's state",
    ),
  ],
)
def test_what_does_not_fit_writes_nothing(options, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    convert(tmp_path / 'out', **options)
  assert_nothing_there(tmp_path / 'out')


def test_no_statistics_to_carry(source, tmp_path):
  with pytest.raises(ValueError, match='checkpoint_5 holds no statistics of A'):
    convert(tmp_path / 'out', input=source, optimizer_state='carry')
  assert_nothing_there(tmp_path / 'out')


# Calibration


@pytest.mark.slow
def test_statistics_are_collected_once(
  source, tiny_config, tiny_params, make_batch, tmp_path
):
  file = tmp_path / 'statistics.npz'
  called = []

  def batches():
    called.append(True)
    return [make_batch(tiny_config, seed=seed) for seed in range(3)]

  options = {
    'input': source,
    'method': 'subspace',
    'calibration_task': 'some_text',
    'calibration_batches': batches,
    'statistics': str(file),
  }
  convert(tmp_path / 'one', **options)
  assert called == [True] and file.exists()
  convert(tmp_path / 'two', **options)
  assert called == [True]
  one, two = (
    json.loads((tmp_path / name / 'conversion.json').read_text())
    for name in ('one', 'two')
  )
  assert one == two
  tokens = sum((x['decoder_target_tokens'] > 0).sum() for x in batches())
  assert one['statistics'] == {'source': 'some_text', 'tokens': tokens}
  assert len(one['kept']) == 4
  for layer in one['kept'].values():
    assert all(0.2 < kept < 1 for kept in layer.values())
  # As the function does, with the statistics of the file.
  params, _ = convert_params(
    tiny_params, tiny_config, 2, 'subspace', statistics=statistics.load(file)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    formats.load_params(tmp_path / 'one')[0],
    params,
  )


def test_statistics_of_another_checkpoint_or_text_are_refused(
  source, tiny_config, make_batch, tmp_path
):
  options = {
    'method': 'subspace',
    'calibration_batches': lambda: [make_batch(tiny_config)],
    'statistics': str(tmp_path / 'statistics.npz'),
  }
  convert(tmp_path / 'one', input=source, calibration_task='text', **options)
  with pytest.raises(ValueError, match='are of text, not of other'):
    convert(tmp_path / 'two', input=source, calibration_task='other', **options)
  with pytest.raises(ValueError, match='are of another checkpoint than'):
    convert(tmp_path / 'two', calibration_task='text', **options)
  assert_nothing_there(tmp_path / 'two')


def test_adafactors_own_count_goes_along(tmp_path):
  """It is not the step where an optimizer began anew on the way."""
  stored = formats.open_checkpoint(LEGACY)
  assert stored.count == 3
  formats.write_checkpoint(
    tmp_path / 'source',
    'native',
    1003,
    stored.config,
    stored.params,
    stored.slots,
    count=7,
  )
  options = {'input': str(tmp_path / 'source'), 'optimizer_state': 'carry'}
  convert(tmp_path / 'out', **options)
  carried = formats.open_checkpoint(tmp_path / 'out')
  assert (carried.step, carried.count) == (1003, 7)
  with pytest.raises(ValueError, match="counted 7 steps of the .*'s 1003"):
    convert(tmp_path / 'legacy', 't5x_legacy', **options)
  assert_nothing_there(tmp_path / 'legacy')


@pytest.mark.parametrize('method', ['mean', 'aligned'])
def test_statistics_of_adafactor_may_be_zero(tmp_path, method):
  """As `reset` leaves them in T5X's format."""
  convert(tmp_path / 'reset', 't5x_legacy', num_kv_heads=4)
  convert(
    tmp_path / 'out',
    input=str(tmp_path / 'reset'),
    method=method,
    optimizer_state='carry',
  )
  slots = formats.open_checkpoint(tmp_path / 'out').slots
  assert slots and all((x.read() == 0).all() for x in slots.values())


@pytest.mark.parametrize('method', ['first', 'random'])
def test_what_is_dropped_must_be_numbers_too(tmp_path, method):
  folder = shutil.copytree(LEGACY / 'checkpoint_3', tmp_path / 'checkpoint_3')
  array_of(folder, KEY)[1, 12].write(np.nan).result()  # of the second head
  with pytest.raises(ValueError, match=rf'{KEY} of .* has 1 value'):
    convert(tmp_path / 'out', input=str(folder), method=method)


def test_unchanged_heads_name_no_method(tmp_path):
  convert(tmp_path / 'gqa')
  convert(tmp_path / 'hf', 'hugging_face', input=str(tmp_path / 'gqa'))
  assert 'Conversion: none' in (tmp_path / 'hf' / 'README.md').read_text()
  record = json.loads((tmp_path / 'hf' / 'conversion.json').read_text())
  assert '2 key/value heads as before' in report.table(record)


def test_arrays_in_memory_are_not_needed_whole(monkeypatch, tmp_path):
  """Pooling reads some rows at a time, never an array at once."""
  monkeypatch.setattr('gqa_flax.checkpoints.zarr.SLAB_BYTES', 2048)
  monkeypatch.setattr('gqa_flax.checkpoints.arrays.SLAB_BYTES', 2048)
  source = tmp_path / 'source'
  params, config = formats.load_params(LEGACY / 'checkpoint_3')
  formats.save_params(source, params, config, step=0)  # in chunks of that size
  rows = []
  original = report.Audit.__call__

  def watch(self, name, start, slab):
    rows.append((name, start, slab.nbytes))
    return original(self, name, start, slab)

  monkeypatch.setattr(report.Audit, '__call__', watch)
  monkeypatch.setattr(LazyArray, 'read', None)
  convert(tmp_path / 'out', input=str(source))
  monkeypatch.undo()
  assert max(size for _, _, size in rows) <= 2048
  assert any(start for _, start, _ in rows)
  assert_whole(tmp_path / 'out')


# As TensorStore and the operating system have it.
FULL = (
  ValueError(
    'RESOURCE_EXHAUSTED: Error writing "decoder.logits_dense.kernel/0.0" in '
    'OCDBT database at local file "/x/": Failed writing: "/x/d/5b.__lock": '
    'Failed to write 785763 bytes to file 7: No space left on device '
    "[os_error_code='28']"
  ),
  OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
  OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
)


@pytest.mark.slow
@pytest.mark.parametrize('error', FULL, ids=['tensorstore', 'disk', 'quota'])
@pytest.mark.parametrize('output_format', formats.WRITABLE)
@pytest.mark.parametrize('when', ['arrays', 'record'])
def test_a_full_disk_is_one_sentence(
  monkeypatch, tmp_path, output_format, error, when
):
  output = tmp_path / 'out'
  path_type = type(epath.Path(output))
  write_text = path_type.write_text

  def half(path, text, *arguments):
    if path.name != 'conversion.json.tmp':
      return write_text(path, text, *arguments)
    write_text(path, text[: len(text) // 2])
    raise error

  def full(*arguments):
    raise error

  with monkeypatch.context() as patch:
    if when == 'record':
      patch.setattr(path_type, 'write_text', half)
    else:
      patch.setattr(report.Audit, '__call__', full)
    reason = 'disk quota exceeded' if 'quota' in str(error) else 'no space left'
    with pytest.raises(
      native.CheckpointWriteError, match=f'not be written to {output} .{reason}'
    ) as caught:
      convert(output, output_format)
  assert 'RESOURCE_EXHAUSTED' not in str(caught.value)
  assert_nothing_there(output)
  # What it advises: make room, and start again.
  convert(output, output_format)
  assert_whole(output)


def test_parameters_alone_are_converted_with_a_reset_state(tmp_path):
  source = tmp_path / 'source' / 'checkpoint_3'
  shutil.copytree(LEGACY / 'checkpoint_3', source)
  for array in source.glob('state.*'):
    shutil.rmtree(array)
  with pytest.raises(ValueError, match='Or set OPTIMIZER_STATE = reset'):
    convert(tmp_path / 'out', input=str(source), optimizer_state='carry')
  convert(tmp_path / 'out', input=str(source), optimizer_state='reset')
  assert_whole(tmp_path / 'out')
