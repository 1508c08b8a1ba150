"""Checkpoint folders that are damaged, of another model, or hostile."""

import json
import pathlib
import pickle
import shutil

import pytest

CONFIG = 'config.json'
INDEX = 'model.safetensors.index.json'


@pytest.fixture
def copied(world, tmp_path):
  """Returns a function that copies a checkpoint to be spoilt."""

  def copied(format: str) -> pathlib.Path:
    return shutil.copytree(vars(world)[format], tmp_path / 'copy')

  return copied


def _edit(path: pathlib.Path, **changes):
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('num_heads', 'eight', "'eight'"),
    ('num_heads', True, 'True'),
    ('num_heads', 16.0, '16.0'),
    ('num_heads', 0, '0'),
    ('num_heads', -8, '-8'),
    ('num_heads', None, 'None'),
    ('num_heads', [8], '[8]'),
    ('num_heads', {'n': 8}, "{'n': 8}"),
    ('num_heads', 7, '7'),
    ('d_kv', 'wide', "'wide'"),
    ('d_kv', 0, '0'),
    ('d_kv', 1.5, '1.5'),
    ('d_model', 'wide', "'wide'"),
    ('d_model', 129, '129'),
    ('d_ff', None, 'None'),
    ('num_layers', 'two', "'two'"),
    ('num_layers', 3, '3'),
    ('num_decoder_layers', '2', "'2'"),
    ('vocab_size', 'all', "'all'"),
    ('vocab_size', 0, '0'),
    ('vocab_size', 10**9, '1000000000'),
    ('model_type', 'bart', "'bart'"),
    ('model_type', 5, '5'),
    ('model_type', None, 'None'),
    ('feed_forward_proj', 5, '5'),
    ('feed_forward_proj', 'gated-swiglu', 'gated-swiglu'),
    ('feed_forward_proj', None, 'None'),
    ('layer_norm_epsilon', 'small', 'small'),
    ('layer_norm_epsilon', 1e-5, '1e-05'),
    ('relative_attention_num_buckets', 16, '16'),
    ('relative_attention_max_distance', None, 'None'),
    ('tie_word_embeddings', 'maybe', 'maybe'),
    ('eos_token_id', 2, '2'),
    ('eos_token_id', [1, 2], '[1, 2]'),
    ('eos_token_id', 'one', "'one'"),
    ('pad_token_id', 1, '1'),
    ('decoder_start_token_id', 5, '5'),
    ('gqa_flax', 5, '5'),
    ('gqa_flax', {'num_kv_heads': 3}, '3'),
    ('gqa_flax', {'num_kv_heads': 'all'}, 'all'),
    ('gqa_flax', {'step': 'last'}, 'last'),
    ('gqa_flax', {'step': -7}, '-7'),
    ('gqa_flax', {'num_kv_heads': 2}, '2'),
  ],
)
def test_a_field_of_config_json(refused, copied, field, value, said):
  _edit(copied('hugging_face') / CONFIG, **{field: value})
  refused('convert', '--gin.INPUT=copy', 'copy/config.json', field, said)


@pytest.mark.parametrize(
  ('content', 'fragments'),
  [
    (b'', ()),
    (b'{', ()),
    (b'[]', ()),
    (b'5', ()),
    (b'null', ()),
    (b'"text"', ()),
    (b'\xff\xfe', ('UTF-8',)),
    (b'[' * 100_000, ('nested',)),
    (b'{"num_heads": NaN}', ('num_heads',)),
  ],
)
@pytest.mark.parametrize('file', [CONFIG, INDEX])
def test_json_of_hugging_face(refused, copied, file, content, fragments):
  folder = copied('hugging_face')
  if file == INDEX:
    (folder / 'model.safetensors').unlink()
  (folder / file).write_bytes(content)
  # An index has no such field to be wrong.
  refused(
    'convert',
    '--gin.INPUT=copy',
    f'copy/{file}',
    *(fragments if file == CONFIG or b'num_heads' not in content else ()),
  )


@pytest.mark.parametrize(
  ('weight_map', 'said'),
  [
    (5, '5'),
    (None, 'weight_map'),
    ([], 'weight_map'),
    ({}, 'weight_map'),
    ({'shared.weight': 5}, '5'),
    ({'shared.weight': None}, 'None'),
    ({'shared.weight': ['a']}, "['a']"),
    ({'shared.weight': ''}, 'shared.weight'),
    ({'shared.weight': '.'}, '.'),
    ({'shared.weight': '../outside.safetensors'}, '../outside.safetensors'),
    ({'shared.weight': 'a/../../outside.safetensors'}, '../../outside'),
    ({'shared.weight': '$outside'}, '$outside'),
    ({'shared.weight': 'not_there.safetensors'}, 'not_there.safetensors'),
    ({'shared.weight': 'config.json'}, 'config.json'),
  ],
)
def test_the_map_of_shards(refused, copied, tmp_path, weight_map, said):
  folder = copied('hugging_face')
  outside = tmp_path / 'outside.safetensors'
  (folder / 'model.safetensors').rename(outside)
  text = json.dumps({'weight_map': weight_map})
  (folder / INDEX).write_text(text.replace('$outside', str(outside)))
  refused(
    'convert', '--gin.INPUT=copy', INDEX, said.replace('$outside', str(outside))
  )


@pytest.mark.parametrize(
  'spoil',
  [
    lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'abc'),
    lambda path: path.write_bytes(path.read_bytes()[:-100]),
    lambda path: path.write_bytes(path.read_bytes() + b'more'),
    lambda path: path.write_bytes(b'\xff' * 8 + path.read_bytes()[8:]),
    lambda path: path.write_bytes(
      path.read_bytes()[:8] + b'[' + path.read_bytes()[9:]
    ),
    lambda path: path.write_bytes(
      (200_000).to_bytes(8, 'little') + b'[' * 200_000
    ),
    lambda path: path.write_bytes(
      path.read_bytes().replace(b'"F32"', b'"I8" ', 1)
    ),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: path.unlink(),
  ],
  ids=[
    *('empty', 'short', 'cut', 'longer', 'long_header', 'no_json', 'nested'),
    *('quantized', 'folder', 'missing'),
  ],
)
def test_safetensors(refused, copied, spoil):
  spoil(copied('hugging_face') / 'model.safetensors')
  refused('convert', '--gin.INPUT=copy', 'copy', 'model.safetensors')


class _Code:
  """Runs a command where it is unpickled."""

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path('it_ran'),)


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (pickle.dumps(_Code()), 'code'),
    (b'', 'pytorch_model.bin'),
    (b'PK\x03\x04 and no more', 'pytorch_model.bin'),
    (b'text', 'pytorch_model.bin'),
    (pickle.dumps({'shared.weight': 5}), 'shared.weight'),
    (pickle.dumps([1, 2]), 'pytorch_model.bin'),
  ],
  ids=['code', 'empty', 'cut_zip', 'text', 'number', 'list'],
)
def test_pickles(refused, copied, tmp_path, content, said):
  folder = copied('hugging_face')
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(content)
  refused('convert', '--gin.INPUT=copy', 'pytorch_model.bin', said)
  assert not (tmp_path / 'it_ran').exists()


def test_no_advice_to_load_code(run, copied):
  folder = copied('hugging_face')
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(_Code()))
  err = run('convert', '--gin.INPUT=copy').err
  assert 'weights_only' not in err
  assert 'allowlist' not in err


def _first(folder, pattern) -> pathlib.Path:
  return min(path for path in folder.rglob(pattern) if path.is_file())


def _cut(path: pathlib.Path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What is done to a copy, by the format; a name in it that must be said.
DAMAGE = {
  'native': {
    'no_params': lambda c: shutil.rmtree(c / 'checkpoint_7/params'),
    'no_model': lambda c: shutil.rmtree(c / 'checkpoint_7/model'),
    'cut_model': lambda c: _cut(_first(c / 'checkpoint_7/model', '*')),
    'empty_model': lambda c: _first(c / 'checkpoint_7/model', '*').write_text(
      ''
    ),
    'list_model': lambda c: _first(c / 'checkpoint_7/model', '*').write_text(
      '[]'
    ),
    'nested_model': lambda c: _first(c / 'checkpoint_7/model', '*').write_text(
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
