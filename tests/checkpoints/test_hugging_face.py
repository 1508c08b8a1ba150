"""Folders of Hugging Face T5, against transformers and safetensors."""

import dataclasses
import json
import os
import pickle
import re
import shutil
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: the extra hf')

import safetensors.numpy
import safetensors.torch
import torch
import transformers
from flax import traverse_util

from gqa_flax.checkpoints import (
  hugging_face,
  hugging_face_config,
  hugging_face_write,
  safetensors_files,
)
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.checkpoints.names import EMBEDDING_COPIES
from gqa_flax.model.layers import GatedMlp
from gqa_flax.model.network import Transformer

T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}
KINDS = {'t5_1_1': {}, 't5_1_0': T5_1_0}
UNUSED = (
  'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
)


def random_params(config, seed=0):
  """Random numbers for which logits are far from 0 and from each other."""
  rng = np.random.default_rng(seed)
  params = {}
  for name, shape in parameter_shapes(config).items():
    x = rng.normal(size=shape).astype(np.float32)
    if name.endswith('scale'):
      x = 1 + 0.3 * x
    elif name.endswith('kernel'):
      x *= 1.3 / shape[0] ** 0.5
    params[name] = x.astype(np.float32)
  return params


def lazy(params):
  return {name: LazyArray.of(x) for name, x in params.items()}


def export(folder, config, params, **kwargs):
  """Writes our parameters; returns the folder."""
  hugging_face_write.write_checkpoint(
    folder, 11, config, lazy(params), **kwargs
  )
  return folder


@pytest.fixture
def config_of(tiny_config):
  return lambda **fields: dataclasses.replace(tiny_config, **fields)


@pytest.fixture
def compare(make_batch, logits_of):
  """Asserts that ours and theirs compute the same logits."""

  def run(config, params, theirs):
    batch = make_batch(config)
    tree = traverse_util.unflatten_dict(params, sep='/')
    ours = np.asarray(logits_of(Transformer(config), tree, batch))
    source = torch.tensor(batch['encoder_input_tokens'], dtype=torch.long)
    with torch.no_grad():
      expected = theirs.eval()(
        input_ids=source,
        attention_mask=source > 0,
        decoder_input_ids=torch.tensor(
          batch['decoder_input_tokens'], dtype=torch.long
        ),
      ).logits.numpy()
    real = batch['decoder_target_tokens'] > 0
    assert np.std(expected[real]) > 0.5
    np.testing.assert_allclose(ours[real], expected[real], atol=1e-4, rtol=0)

  return run


def read(stored):
  return {name: array.read() for name, array in stored.params.items()}


def load(folder, **kwargs):
  return transformers.T5ForConditionalGeneration.from_pretrained(
    folder, **kwargs
  )


def edit_config(folder, **fields):
  path = folder / 'config.json'
  edited = json.loads(path.read_text()) | fields
  edited = {name: x for name, x in edited.items() if x is not None}
  path.write_text(json.dumps(edited))


def edit_arrays(folder, edit):
  """Rewrites model.safetensors by the safetensors library."""
  path = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(path)
  edit(arrays)
  safetensors.numpy.save_file(arrays, path, metadata={'format': 'pt'})


def theirs_only(folder, config, seed=1):
  """Writes a folder without any code of ours, as the public ones are."""
  tied = config.logits_via_embedding
  gated = len(config.mlp_activations) == 2
  fields = {
    'vocab_size': config.vocab_size,
    'd_model': config.emb_dim,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'feed_forward_proj': 'gated-gelu' if gated else 'relu',
  }
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(**fields)
  )
  generator = torch.Generator().manual_seed(seed)
  arrays = {}
  for name, x in model.state_dict().items():
    if 'embed_tokens' in name or (tied and name == 'lm_head.weight'):
      continue
    random = torch.randn(x.shape, generator=generator)
    if 'layer_norm' in name:
      random = 1 + 0.3 * random
    elif name not in ('shared.weight',) and 'bias' not in name:
      random *= 1.3 / x.shape[1] ** 0.5
    arrays[name] = random
  folder.mkdir()
  # As on the Hub: T5.1.0's file does not say that it is tied.
  fields |= {'model_type': 't5'} | (
    {} if tied else {'tie_word_embeddings': False}
  )
  (folder / 'config.json').write_text(json.dumps(fields))
  safetensors.torch.save_file(
    arrays, folder / 'model.safetensors', metadata={'format': 'pt'}
  )
  return arrays


# Reading


@pytest.mark.parametrize('kind', KINDS)
def test_read_logits(config_of, compare, tmp_path, kind):
  config = config_of(**KINDS[kind])
  arrays = theirs_only(tmp_path / 'm', config)
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  assert stored.format == 'hugging_face'
  assert (stored.step, stored.slots, stored.skipped) == (None, None, {})
  assert stored.config.architecture() == config.architecture()
  assert {x.dtype for x in stored.params.values()} == {np.dtype('float32')}
  theirs = load(tmp_path / 'm')
  tied = config.logits_via_embedding
  head = arrays['shared.weight' if tied else 'lm_head.weight']
  assert torch.equal(theirs.lm_head.weight, head)
  compare(config, read(stored), theirs)


@pytest.mark.parametrize('kind', KINDS)
def test_read_what_transformers_saves(config_of, compare, tmp_path, kind):
  config = config_of(**KINDS[kind])
  theirs_only(tmp_path / 'm', config)
  theirs = load(tmp_path / 'm')
  theirs.save_pretrained(tmp_path / 'saved', max_shard_size='5KB')
  assert (tmp_path / 'saved' / 'model.safetensors.index.json').exists()
  stored = hugging_face.open_checkpoint(tmp_path / 'saved')
  assert stored.config.architecture() == config.architecture()
  compare(config, read(stored), theirs)


def test_read_a_head_that_transformers_5_tied(config_of, compare, tmp_path):
  """T5.1.1 made from its config: the embedding is the head, unscaled."""
  config = config_of()
  theirs_only(tmp_path / 'm', config)
  edit_arrays(tmp_path / 'm', lambda arrays: arrays.pop('lm_head.weight'))
  theirs = load(tmp_path / 'm')
  theirs.save_pretrained(tmp_path / 'saved')
  stored = hugging_face.open_checkpoint(tmp_path / 'saved')
  assert not stored.config.logits_via_embedding
  compare(config, read(stored), theirs)


def test_read_copies_of_the_embedding(config_of, tmp_path):
  """As pytorch_model.bin files of old versions hold them."""
  arrays = theirs_only(tmp_path / 'm', config_of(**T5_1_0))
  expected = read(hugging_face.open_checkpoint(tmp_path / 'm'))
  copies = dict.fromkeys(
    [*EMBEDDING_COPIES, 'lm_head.weight'], arrays['shared.weight']
  )
  (tmp_path / 'm' / 'model.safetensors').unlink()
  torch.save(
    {**arrays, **copies, UNUSED: torch.ones(32, 8)},
    tmp_path / 'm' / 'pytorch_model.bin',
  )
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  assert stored.skipped.keys() == {*copies, UNUSED}
  assert 'unused' in stored.skipped[UNUSED]
  assert stored.config.logits_via_embedding
  jax.tree.map(np.testing.assert_array_equal, read(stored), expected)


def test_read_the_embedding_under_another_name(config_of, tmp_path):
  theirs_only(tmp_path / 'm', config_of())
  expected = read(hugging_face.open_checkpoint(tmp_path / 'm'))

  def rename(arrays):
    arrays[EMBEDDING_COPIES[1]] = arrays.pop('shared.weight')

  edit_arrays(tmp_path / 'm', rename)
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  jax.tree.map(np.testing.assert_array_equal, read(stored), expected)


@pytest.mark.parametrize('kind', ['zip', 'before torch 1.6', 'shards'])
def test_read_pytorch_model(config_of, tmp_path, kind):
  arrays = theirs_only(tmp_path / 'm', config_of())
  expected = read(hugging_face.open_checkpoint(tmp_path / 'm'))
  folder = tmp_path / 'm'
  (folder / 'model.safetensors').unlink()
  arrays = {name: x.double() for name, x in arrays.items()}
  if kind == 'shards':
    files = ['pytorch_model-1.bin', 'pytorch_model-2.bin']
    weight_map = {n: files[i % 2] for i, n in enumerate(arrays)}
    for file in files:
      shard = {n: x for n, x in arrays.items() if weight_map[n] == file}
      torch.save(shard, folder / file)
    index = json.dumps({'weight_map': weight_map})
    (folder / 'pytorch_model.bin.index.json').write_text(index)
  else:
    torch.save(
      arrays,
      folder / 'pytorch_model.bin',
      _use_new_zipfile_serialization=kind == 'zip',
    )
  stored = hugging_face.open_checkpoint(folder)
  jax.tree.map(np.testing.assert_array_equal, read(stored), expected)


def test_read_bfloat16(config_of, compare, tmp_path):
  config = config_of()
  arrays = theirs_only(tmp_path / 'm', config)
  safetensors.torch.save_file(
    {name: x.bfloat16() for name, x in arrays.items()},
    tmp_path / 'm' / 'model.safetensors',
    metadata={'format': 'pt'},
  )
  params = read(hugging_face.open_checkpoint(tmp_path / 'm'))
  np.testing.assert_array_equal(
    params['decoder/logits_dense/kernel'],
    arrays['lm_head.weight'].bfloat16().float().numpy().T,
  )
  compare(config, params, load(tmp_path / 'm', dtype=torch.float32))


# Writing


@pytest.mark.slow
@pytest.mark.parametrize(
  'kind,num_kv_heads',
  [('t5_1_1', 1), ('t5_1_1', 2), ('t5_1_1', 8), ('t5_1_0', 2)],
)
def test_written_logits(config_of, compare, tmp_path, kind, num_kv_heads):
  config = config_of(**KINDS[kind], num_kv_heads=num_kv_heads)
  params = random_params(config)
  export(tmp_path / 'm', config, params)
  theirs, info = load(tmp_path / 'm', output_loading_info=True)
  assert not any(info.values()), info
  compare(config, params, theirs)
  # And back, exactly.
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  assert stored.step == 11
  assert stored.config.architecture() == config.architecture()
  jax.tree.map(np.testing.assert_array_equal, read(stored), params)


@pytest.mark.parametrize('kind', KINDS)
def test_the_cards_lines_load_the_model(
  config_of, compare, tmp_path, monkeypatch, kind
):
  config = config_of(**KINDS[kind], num_kv_heads=2)
  params = random_params(config)
  export(tmp_path / 'm', config, params, source='gs://t5', method='mean')
  card = (tmp_path / 'm' / 'README.md').read_text()
  for fact in ('gs://t5', 'mean', '2 key/value heads', 'stands here 4 times'):
    assert fact in card
  assert 'is lost in this form' in card
  (lines,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
  monkeypatch.chdir(tmp_path / 'm')
  names = {}
  exec(lines, names)
  theirs = names['model']
  compare(config, params, theirs)
  # Neither the next call of theirs nor saving may tie the head.
  theirs.tie_weights()
  compare(config, params, theirs)
  theirs.save_pretrained(tmp_path / 'saved')
  compare(config, params, load(tmp_path / 'saved'))


def test_the_card_of_a_multi_head_model_says_nothing_of_repeating(
  config_of, tmp_path
):
  config = config_of()
  export(tmp_path / 'm', config, random_params(config))
  assert 'repeat' not in (tmp_path / 'm' / 'README.md').read_text()


def test_written_shards(config_of, compare, tmp_path):
  config = config_of(num_kv_heads=2)
  params = random_params(config)
  export(tmp_path / 'm', config, params, max_shard_bytes=5000)
  files = sorted(p.name for p in (tmp_path / 'm').glob('*.safetensors'))
  assert len(files) > 3
  assert files[0] == f'model-00001-of-{len(files):05}.safetensors'
  sizes = {
    file: sum(
      x.nbytes
      for x in safetensors.numpy.load_file(tmp_path / 'm' / file).values()
    )
    for file in files
  }
  assert max(sizes.values()) <= 5000
  index = json.loads(
    (tmp_path / 'm' / 'model.safetensors.index.json').read_text()
  )
  assert index['metadata']['total_size'] == sum(sizes.values())
  compare(config, params, load(tmp_path / 'm'))
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  jax.tree.map(np.testing.assert_array_equal, read(stored), params)


def test_slabs_are_shown_in_order(config_of, tmp_path, monkeypatch):
  """In slabs of a few rows, the same is written and every row is shown."""
  monkeypatch.setattr(LazyArray.slabs, '__defaults__', (200,))
  config = config_of(num_kv_heads=2)
  params = random_params(config)
  seen = {}

  def on_slab(name, start, rows):
    assert start == sum(map(len, seen.setdefault(name, [])))
    seen[name].append(np.array(rows))

  export(tmp_path / 'm', config, params, on_slab=on_slab)
  assert len(seen['decoder/layers_0/self_attention/key/kernel']) > 1
  assert len(seen['token_embedder/embedding']) > 1
  joined = {name: np.concatenate(rows) for name, rows in seen.items()}
  jax.tree.map(np.testing.assert_array_equal, joined, params)
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  jax.tree.map(np.testing.assert_array_equal, read(stored), params)


def test_what_a_slab_raises_is_passed_on(config_of, tmp_path):
  config = config_of()

  def on_slab(name, start, rows):
    raise ArithmeticError(name)

  with pytest.raises(ArithmeticError):
    export(tmp_path / 'm', config, random_params(config), on_slab=on_slab)


def test_params_of_another_config_are_not_written(config_of, tmp_path):
  with pytest.raises(ValueError, match=r'self_attention/key/kernel has shape'):
    export(
      tmp_path / 'm', config_of(num_kv_heads=2), random_params(config_of())
    )
  assert not (tmp_path / 'm').exists()


def test_an_mlp_that_transformers_lacks(config_of, tmp_path):
  config = config_of(mlp_activations=('linear', 'gelu'))
  with pytest.raises(ValueError, match='mlp_activations is'):
    export(tmp_path / 'm', config, random_params(config))


@pytest.mark.parametrize(
  'activations', sorted(hugging_face_config.FEED_FORWARD), ids='-'.join
)
def test_activations(config_of, tmp_path, activations):
  config = config_of(mlp_activations=activations)
  params = random_params(config)
  export(tmp_path / 'm', config, params)
  x = 3 * np.random.default_rng(0).normal(size=(2, 3, config.emb_dim))
  x = x.astype(np.float32)
  theirs = load(tmp_path / 'm').encoder.block[0].layer[1].DenseReluDense
  with torch.no_grad():
    expected = theirs.eval()(torch.tensor(x)).numpy()
  stored = hugging_face.open_checkpoint(tmp_path / 'm')
  assert stored.config.mlp_activations == activations
  tree = traverse_util.unflatten_dict(read(stored), sep='/')
  mlp = GatedMlp(config.mlp_dim, activations, 0.0, np.float32)
  ours = mlp.apply({'params': tree['encoder']['layers_0']['mlp']}, x)
  assert np.std(expected) > 0.5
  np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)


# Errors


def pop(name):
  return lambda arrays: arrays.pop(name)


def put(name, shape):
  return lambda arrays: arrays.update({name: np.ones(shape, np.float32)})


def config_is(**fields):
  return lambda folder: edit_config(folder, **fields)


def arrays_are(edit):
  return lambda folder: edit_arrays(folder, edit)


def truncate(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1])


def drift(arrays):
  arrays['decoder.block.1.layer.0.SelfAttention.k.weight'][4:8] += 1e-3


WO = 'decoder.block.1.layer.2.DenseReluDense.wo.weight'
DAMAGES = {
  'truncated': (truncate, 'model.safetensors is truncated .* bytes instead of'),
  'no header': (
    lambda folder: (folder / 'model.safetensors').write_bytes(b'x' * 40),
    'truncated or no safetensors file',
  ),
  'missing': (
    arrays_are(pop(WO)),
    'decoder/layers_1/mlp/wo/kernel is missing',
  ),
  'extra': (arrays_are(put('lm_head.bias', 3)), 'm holds lm_head.bias, which'),
  'shape': (
    arrays_are(put(WO, (16, 25))),
    r'layers_1/mlp/wo/kernel has shape \(25, 16\) instead of \(24, 16\)',
  ),
  'rank': (arrays_are(put(WO, 16)), 'layers_1/mlp/wo/kernel has shape'),
  'dtype': (
    arrays_are(lambda arrays: arrays.update({WO: np.ones((16, 24), np.int8)})),
    'has dtype I8, which is not',
  ),
  'vocab_size': (config_is(vocab_size=65), 'says vocab_size 65'),
  'num_heads': (
    config_is(num_heads=16),
    'num_heads 16 where the arrays have 8',
  ),
  'num_layers': (
    config_is(num_decoder_layers=3),
    'num_decoder_layers 3 where the arrays have 2',
  ),
  'd_model left out': (
    config_is(d_model=None),
    'd_model 512 where the arrays have 16',
  ),
  'ungated': (
    config_is(feed_forward_proj='relu'),
    'relu.* where the MLP has 2 input',
  ),
  'exact gelu': (
    config_is(dense_act_fn='gelu'),
    "is activation 'gelu'; gqa_flax knows",
  ),
  'epsilon': (
    config_is(layer_norm_epsilon=1e-5),
    'layer_norm_epsilon 1e-05, but gqa_flax computes 1e-06',
  ),
  'distance': (
    config_is(relative_attention_max_distance=64),
    'max_distance 64, but gqa_flax computes 128',
  ),
  'model_type': (config_is(model_type='umt5'), "model_type 'umt5'"),
  'tied, but with a head': (
    config_is(tie_word_embeddings=True, scale_decoder_outputs=None),
    'lm_head.weight differs from shared.weight',
  ),
  'untied, but without a head': (
    arrays_are(pop('lm_head.weight')),
    'has no lm_head.weight, but',
  ),
  'num_kv_heads': (
    config_is(gqa_flax={'num_kv_heads': 3}),
    'num_kv_heads 3, which does not divide num_heads 8',
  ),
  'gqa_flax': (config_is(gqa_flax=[2]), r'says gqa_flax \[2\]'),
  'no JSON': (
    lambda folder: (folder / 'config.json').write_text('{'),
    r'config.json cannot be read: there is no JSON \(',
  ),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damage_is_one_sentence(config_of, tmp_path, damage):
  config = config_of(num_kv_heads=2)
  folder = export(tmp_path / 'm', config, random_params(config))
  act, message = DAMAGES[damage]
  act(folder)
  with pytest.raises(ValueError, match=message) as error:
    hugging_face.open_checkpoint(folder)
  assert str(folder) in str(error.value)


def test_heads_that_drifted_apart(config_of, tmp_path):
  config = config_of(num_kv_heads=2)
  folder = export(tmp_path / 'm', config, random_params(config))
  edit_arrays(folder, drift)
  stored = hugging_face.open_checkpoint(folder)
  stored.params['decoder/layers_0/self_attention/key/kernel'].read()
  with pytest.raises(ValueError, match='layers_1/self_attention/key/kernel in'):
    stored.params['decoder/layers_1/self_attention/key/kernel'].read()


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_missing_file(config_of, tmp_path, name):
  config = config_of()
  folder = export(tmp_path / 'm', config, random_params(config))
  (folder / name).unlink()
  with pytest.raises(FileNotFoundError, match=f'm has no.* {name}'):
    hugging_face.open_checkpoint(folder)


@pytest.mark.parametrize('side', ['index', 'shard'])
def test_index_and_shard_disagree(config_of, tmp_path, side):
  config = config_of()
  folder = export(
    tmp_path / 'm', config, random_params(config), max_shard_bytes=5000
  )
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  if side == 'index':
    index['weight_map']['other.weight'] = index['weight_map']['shared.weight']
    name = 'other.weight'
  else:
    name = 'decoder.final_layer_norm.weight'
    del index['weight_map'][name]
  path.write_text(json.dumps(index))
  with pytest.raises(ValueError, match=f'{name} stands in the {side} alone'):
    hugging_face.open_checkpoint(folder)


def test_a_missing_shard(config_of, tmp_path):
  config = config_of()
  folder = export(
    tmp_path / 'm', config, random_params(config), max_shard_bytes=5000
  )
  shard = sorted(folder.glob('model-00002-*'))[0]
  shard.unlink()
  with pytest.raises(FileNotFoundError, match=f'm has no {shard.name}, which'):
    hugging_face.open_checkpoint(folder)


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'junk', 'integers'])
def test_a_damaged_pytorch_model(config_of, tmp_path, damage):
  arrays = theirs_only(tmp_path / 'm', config_of())
  folder = tmp_path / 'm'
  (folder / 'model.safetensors').unlink()
  path = folder / 'pytorch_model.bin'
  if damage == 'integers':
    arrays = {'shared.weight': torch.ones(3, 2, dtype=torch.int8)}
  torch.save(arrays, path)
  if damage == 'truncated':
    path.write_bytes(path.read_bytes()[:-1000])
  if damage == 'empty':
    path.write_bytes(b'')
  if damage == 'junk':
    path.write_bytes(b'junk' * 100)
  with pytest.raises(ValueError, match='pytorch_model.bin is'):
    hugging_face.open_checkpoint(folder)


class Malicious:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('protocol', ['zip', 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(config_of, tmp_path, protocol):
  arrays = theirs_only(tmp_path / 'm', config_of())
  folder = tmp_path / 'm'
  (folder / 'model.safetensors').unlink()
  path = folder / 'pytorch_model.bin'
  arrays['shared.weight'] = Malicious(tmp_path / 'was_run')
  if protocol == 'zip':
    torch.save(arrays, path)
  else:
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
  with pytest.raises(
    ValueError, match='pytorch_model.bin holds .*refused, and nothing in it was'
  ) as caught:
    hugging_face.open_checkpoint(folder)
  # Neither torch's advice to run it, nor a chained error that shows it.
  assert 'weights_only' not in str(caught.value)
  assert caught.value.__suppress_context__
  if protocol != 4:
    assert 'code (posix.system' in str(caught.value)
  assert not (tmp_path / 'was_run').exists()


@pytest.mark.parametrize(
  'content', [[1.0, 2.0], 3, {1: torch.ones(2, 2)}, torch.ones(2, 2)]
)
def test_a_pickle_of_something_else(config_of, tmp_path, content):
  theirs_only(tmp_path / 'm', config_of())
  (tmp_path / 'm' / 'model.safetensors').unlink()
  torch.save(content, tmp_path / 'm' / 'pytorch_model.bin')
  with pytest.raises(ValueError, match='not of arrays by name; give the state'):
    hugging_face.open_checkpoint(tmp_path / 'm')


@pytest.mark.parametrize(
  'file',
  [
    *(7, None, True, ['a'], {}, ''),
    *('../secret.safetensors', '/etc/passwd', 'a/b.safetensors', '..', '.'),
    *('..\\secret', 'file://x', 'gs://bucket/x'),
  ],
)
def test_an_index_names_files_of_its_folder_alone(config_of, tmp_path, file):
  config = config_of()
  folder = export(
    tmp_path / 'm', config, random_params(config), max_shard_bytes=5000
  )
  # There, so that it would be read.
  shard = next(folder.glob('model-00001-*'))
  shutil.copy(shard, tmp_path / 'secret.safetensors')
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  index['weight_map']['lm_head.weight'] = file
  path.write_text(json.dumps(index))
  message = f'{path} says that lm_head.weight is in {file!r}, where the name of'
  with pytest.raises(ValueError, match=re.escape(message)):
    hugging_face.open_checkpoint(folder)


def test_without_torch(config_of, tmp_path, monkeypatch):
  theirs_only(tmp_path / 'm', config_of())
  folder = tmp_path / 'm'
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ImportError, match='can only be read with torch'):
    hugging_face.open_checkpoint(folder)


# The format


def test_safetensors_agree_with_the_library(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    'f8': rng.normal(size=(5, 3)),
    'f4': rng.normal(size=(4, 2, 3)).astype(np.float32),
    'f2': rng.normal(size=7).astype(np.float16),
    'bf': rng.normal(size=(3, 3)).astype(ml_dtypes.bfloat16),
    'none': np.zeros((0, 2), np.float32),
  }
  safetensors_files.write_file(tmp_path / 'ours', lazy(arrays))
  theirs = safetensors.torch.load_file(tmp_path / 'ours')
  safetensors.torch.save_file(theirs, tmp_path / 'theirs')
  assert theirs.keys() == arrays.keys()
  for file in ('ours', 'theirs'):
    opened = safetensors_files.open_file(tmp_path / file)
    assert opened.keys() == arrays.keys()
    for name, x in arrays.items():
      assert opened[name].dtype == x.dtype
      np.testing.assert_array_equal(opened[name].read(), x)
      if len(x):
        np.testing.assert_array_equal(opened[name].read_rows(1, 3), x[1:3])
  for name, x in arrays.items():
    np.testing.assert_array_equal(
      theirs[name].double().numpy(), x.astype(np.float64)
    )


def test_safetensors_truncated_after_opening(tmp_path):
  path = tmp_path / 'file'
  safetensors_files.write_file(path, lazy({'x': np.ones((4, 4))}))
  array = safetensors_files.open_file(path)['x']
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(ValueError, match='x ends after 24 bytes'):
    array.read_rows(3, 4)


@pytest.mark.parametrize(
  'entry',
  [
    {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]},
    {'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': [2]},
    {'dtype': 'F32', 'shape': ['2'], 'data_offsets': [0, 8]},
    {'dtype': ['F32'], 'shape': [2], 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': [2.0], 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': [-1, -2], 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': [True, 2], 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': '2', 'data_offsets': [0, 8]},
    {'dtype': 'F32', 'shape': [2], 'data_offsets': [0.0, 8.0]},
    {'dtype': 'F32', 'shape': [2], 'data_offsets': ['0', '8']},
    {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8, 16]},
    {'dtype': 'F32', 'shape': [2], 'data_offsets': None},
    3,
    None,
  ],
)
def test_safetensors_with_a_wrong_entry(tmp_path, entry):
  header = json.dumps({'x': entry}).encode()
  path = tmp_path / 'file'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(8))
  with pytest.raises(ValueError, match='truncated or no safetensors file'):
    safetensors_files.open_file(path)


@pytest.mark.parametrize(
  'header, message',
  [
    (b'[1, 2]', 'a JSON list, not an object'),
    (b'[' * 100_000, 'nested too deeply'),
    (b'{"x": "\xff"}', 'the JSON is not UTF-8'),
    (b'null', 'a JSON null, not an object'),
  ],
)
def test_safetensors_with_a_wrong_header(tmp_path, header, message):
  path = tmp_path / 'file'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(8))
  with pytest.raises(
    ValueError, match=f'{path} is truncated or no safetensors.*{message}'
  ):
    safetensors_files.open_file(path)
