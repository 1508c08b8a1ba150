"""Hugging Face checkpoints that are damaged, unsupported or hostile."""

import json
import pathlib
import pickle
import shutil

import pytest

CONFIG = 'config.json'
INDEX = 'model.safetensors.index.json'


@pytest.fixture
def folder(world, tmp_path):
  """A copy of a checkpoint to damage."""
  return shutil.copytree(world.hugging_face, tmp_path / 'copy')


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
    ('gqa_flax', {'num_kv_heads': 2, 'step': 3}, '2'),
  ],
)
def test_a_field_of_config_json(refused, folder, field, value, said):
  _edit(folder / CONFIG, **{field: value})
  refused('convert', '--gin.INPUT=copy', 'copy', 'config.json', field, said)


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
def test_json_of_hugging_face(refused, folder, file, content, fragments):
  if file == INDEX:
    (folder / 'model.safetensors').unlink()
  (folder / file).write_bytes(content)
  # An index has no such field.
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
def test_the_map_of_shards(refused, folder, tmp_path, weight_map, said):
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
def test_safetensors(refused, folder, spoil):
  spoil(folder / 'model.safetensors')
  refused('convert', '--gin.INPUT=copy', 'copy', 'model.safetensors')


class _Code:
  """Code that runs when it is unpickled."""

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path('it_ran'),)


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (pickle.dumps(_Code()), 'code'),
    (b'', 'pytorch_model.bin'),
    (b'PK\x03\x04 and no more', 'pytorch_model.bin'),
    (b'text', 'pytorch_model.bin'),
    (pickle.dumps({'shared.weight': 5}), 'pytorch_model.bin'),
    (pickle.dumps([1, 2]), 'pytorch_model.bin'),
  ],
  ids=['code', 'empty', 'cut_zip', 'text', 'number', 'list'],
)
def test_pickles(refused, folder, tmp_path, content, said):
  pytest.importorskip('torch')
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(content)
  refused('convert', '--gin.INPUT=copy', 'pytorch_model.bin', said)
  assert not (tmp_path / 'it_ran').exists()


def test_no_advice_to_load_code(run, folder):
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(_Code()))
  err = run('convert', '--gin.INPUT=copy').err
  assert 'weights_only' not in err
  assert 'allowlist' not in err
