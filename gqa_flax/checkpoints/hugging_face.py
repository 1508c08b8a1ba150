"""Hugging Face's T5: a folder of config.json and arrays, read and written.

Hugging Face has no grouped T5, so that a grouped model is written with each
key/value head repeated: `T5ForConditionalGeneration` then computes the same
logits, and reading the folder here gives the grouped model back.
"""

import dataclasses
import importlib
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from gqa_flax.checkpoints import safetensors_files
from gqa_flax.checkpoints.architecture import check_shapes, infer_config
from gqa_flax.checkpoints.arrays import LazyArray, StoredCheckpoint
from gqa_flax.checkpoints.names import (
  EMBEDDING_COPIES,
  SKIPPED,
  from_hugging_face,
  to_hugging_face,
)
from gqa_flax.config import T5Config
from gqa_flax.model.layers import MAX_DISTANCE, NUM_BUCKETS, RMSNorm

FORMAT = 'hugging_face'
# As save_pretrained has it for most of its versions.
MAX_SHARD_BYTES = 5 * 10**9
# In the order in which transformers looks for them.
_SINGLE_FILES = ('model.safetensors', 'pytorch_model.bin')
_CONFIG = 'config.json'
_OURS = 'gqa_flax'
_SHARED = 'shared.weight'
_HEAD = 'lm_head.weight'

_SIZES = {
  'vocab_size': 'vocab_size',
  'd_model': 'emb_dim',
  'd_kv': 'head_dim',
  'd_ff': 'mlp_dim',
  'num_layers': 'num_encoder_layers',
  'num_decoder_layers': 'num_decoder_layers',
  'num_heads': 'num_heads',
}
# What our model has built in.
_FIXED = {
  'layer_norm_epsilon': RMSNorm.epsilon,
  'relative_attention_num_buckets': NUM_BUCKETS,
  'relative_attention_max_distance': MAX_DISTANCE,
}
# transformers' own, for what a config.json leaves out.
_DEFAULTS = {
  **_FIXED,
  'model_type': 't5',
  'vocab_size': 32128,
  'd_model': 512,
  'd_kv': 64,
  'd_ff': 2048,
  'num_layers': 6,
  'num_decoder_layers': None,
  'num_heads': 8,
  'feed_forward_proj': 'relu',
  'tie_word_embeddings': True,
}
# Their 'gelu' is the exact one; ours and 'gelu_new' are the approximation.
_ACTIVATIONS = {
  'gelu_new': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
  'tanh': 'tanh',
}
_FEED_FORWARD = {
  ('gelu', 'linear'): 'gated-gelu',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
  ('tanh', 'linear'): 'gated-tanh',
  ('gelu',): 'gelu_new',
  ('relu',): 'relu',
  ('silu',): 'silu',
  ('tanh',): 'tanh',
}


def open_checkpoint(path) -> StoredCheckpoint:
  """Opens a folder that `save_pretrained` or `write_checkpoint` wrote.

  Transposed arrays are read whole, the embedding some rows at a time. Of a
  grouped model's repeated heads one is read, after comparing it to the others.

  Args:
    path: a folder with config.json and model.safetensors or
      pytorch_model.bin, whole or in shards with an index. The latter needs
      torch.

  Returns:
    A checkpoint without optimizer state; its step is 0 unless gqa_flax wrote
    the folder.

  Raises:
    FileNotFoundError: if one of these files is missing.
    ValueError: if the arrays are damaged, incomplete, or contradict
      config.json, or if config.json describes what T5Config cannot.
    ImportError: if torch is needed and missing.
  """
  path = epath.Path(path)
  fields = _read_config(path)
  activations = _activations(fields, path)
  num_kv_heads, step = _read_ours(fields, path)
  arrays, skipped = _settle_head(_open_arrays(path), fields, path)
  params = {}
  unknown = []
  for theirs, array in arrays.items():
    found = from_hugging_face(theirs)
    if found is not None:
      ours, is_transposed = found
      params[ours] = _transposed(array) if is_transposed else array
    elif theirs in SKIPPED:
      skipped[theirs] = SKIPPED[theirs]
    else:
      unknown.append(theirs)
  if unknown:
    more = f' and {len(unknown) - 4} more' if len(unknown) > 4 else ''
    raise ValueError(
      f'{path} holds {", ".join(sorted(unknown)[:4])}{more}, which are not '
      'part of T5ForConditionalGeneration; give a T5.1.0 or T5.1.1 model.'
    )
  if num_kv_heads < fields['num_heads']:
    for name in filter(_is_grouped, params):
      params[name] = _collapsed(params[name], fields, num_kv_heads, name, path)
  shapes = {name: array.shape for name, array in params.items()}
  config = infer_config(shapes, path, vocab_size=fields['vocab_size'])
  _check_sizes(config, fields, activations, path)
  return StoredCheckpoint(
    format=FORMAT,
    path=str(path),
    step=step,
    config=dataclasses.replace(config, mlp_activations=activations),
    params={name: array.astype(np.float32) for name, array in params.items()},
    skipped=skipped,
  )


def write_checkpoint(
  path,
  step: int,
  config: T5Config,
  params: Mapping[str, LazyArray],
  *,
  source: str = '',
  method: str | None = None,
  on_slab: Callable[[str, int, np.ndarray], None] | None = None,
  max_shard_bytes: int = MAX_SHARD_BYTES,
):
  """Writes a folder that `T5ForConditionalGeneration.from_pretrained` reads.

  Arrays are float32. One array is in memory at a time. An error leaves the
  folder half-written: give a temporary name and rename it.

  Args:
    path: of the folder, which must not exist.
    step: steps since the very first of pre-training.
    config: of the model. Its key/value heads are repeated num_heads /
      num_kv_heads times.
    params: by T5X name.
    source: where the parameters come from, for the model card.
    method: by which they were converted, for the model card.
    on_slab: called with the T5X name, the first row and the rows of each part
      of an array that is about to be written, before transposition and
      repetition, in the order of the rows. What it raises is passed on.
    max_shard_bytes: arrays go to a further file beyond that.

  Raises:
    ValueError: if params do not fit config, or Hugging Face's T5 has no such
      MLP.
  """
  feed_forward = _FEED_FORWARD.get(config.mlp_activations)
  if feed_forward is None:
    raise ValueError(
      f'T5Config.mlp_activations is {config.mlp_activations}, which Hugging '
      f'Face T5 cannot compute; it can {list(_FEED_FORWARD)}.'
    )
  check_shapes({n: a.shape for n, a in params.items()}, config, 'The model')
  path = epath.Path(path)
  path.mkdir()
  arrays = {}
  for name, array in params.items():
    theirs, is_transposed = to_hugging_face(name)
    array = array.astype(np.float32)
    if on_slab is not None:
      array = _observed(array, name, on_slab)
    if _is_grouped(name):
      array = _repeated(array, config)
    arrays[theirs] = _transposed(array) if is_transposed else array
  _write_arrays(path, arrays, max_shard_bytes)
  tied = config.logits_via_embedding
  _write_json(
    path / _CONFIG,
    {
      'architectures': ['T5ForConditionalGeneration'],
      'model_type': 't5',
      **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
      **_FIXED,
      'dropout_rate': config.dropout_rate,
      'feed_forward_proj': feed_forward,
      # transformers 4 reads the first; 5 puts True in its place whatever it
      # is, and by the second decides if the head is T5.1.0's.
      'tie_word_embeddings': tied,
      'scale_decoder_outputs': tied,
      'is_encoder_decoder': True,
      'use_cache': True,
      **_SPECIAL_TOKENS,
      _OURS: {'num_kv_heads': config.num_kv_heads, 'step': step},
    },
  )
  _write_json(path / 'generation_config.json', _SPECIAL_TOKENS)
  (path / 'README.md').write_text(_model_card(config, step, source, method))


_SPECIAL_TOKENS = {
  'decoder_start_token_id': 0,
  'eos_token_id': 1,
  'pad_token_id': 0,
}


def _read_config(path) -> dict[str, Any]:
  fields = {**_DEFAULTS, **_read_json(path / _CONFIG)}
  if fields['num_decoder_layers'] is None:
    fields['num_decoder_layers'] = fields['num_layers']
  if fields['model_type'] != 't5':
    raise ValueError(
      f'{path / _CONFIG} says model_type {fields["model_type"]!r}; give a '
      "model of type 't5'."
    )
  for name, value in _FIXED.items():
    if fields[name] != value:
      raise ValueError(
        f'{path / _CONFIG} says {name} {fields[name]}, but gqa_flax computes '
        f'{value} alone; give a model trained with that.'
      )
  return fields


def _activations(fields, path) -> tuple[str, ...]:
  """Returns mlp_activations, as transformers reads them."""
  kind, _, name = str(fields['feed_forward_proj']).rpartition('-')
  if (kind, name) == ('gated', 'gelu'):
    name = 'gelu_new'
  # Written by save_pretrained, and they win over feed_forward_proj.
  name = fields.get('dense_act_fn', name)
  is_gated = fields.get('is_gated_act', kind == 'gated')
  if name not in _ACTIVATIONS or kind not in ('', 'gated'):
    raise ValueError(
      f'{path / _CONFIG} says feed_forward_proj '
      f'{fields["feed_forward_proj"]!r}, that is activation {name!r}; '
      f'gqa_flax knows {list(_ACTIVATIONS)}, plain or gated.'
    )
  return (_ACTIVATIONS[name], *(('linear',) if is_gated else ()))


def _read_ours(fields, path) -> tuple[int, int]:
  """Returns num_kv_heads and the step."""
  ours = fields.get(_OURS, {})
  try:
    num_heads = fields['num_heads']
    num_kv_heads = int(ours.get('num_kv_heads', num_heads))
    step = int(ours.get('step', 0))
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path / _CONFIG} says {_OURS} {ours!r}; give num_kv_heads and step, '
      'or remove it.'
    ) from error
  if num_kv_heads < 1 or num_heads % num_kv_heads:
    raise ValueError(
      f'{path / _CONFIG} says {_OURS}.num_kv_heads {num_kv_heads}, which does '
      f'not divide num_heads {num_heads}; correct it.'
    )
  return num_kv_heads, step


def _check_sizes(config, fields, activations, path):
  wrong = [
    f'{theirs} {fields[theirs]} where the arrays have {getattr(config, ours)}'
    for theirs, ours in _SIZES.items()
    if fields[theirs] != getattr(config, ours)
  ]
  if len(activations) != len(config.mlp_activations):
    wrong.append(
      f'feed_forward_proj {fields["feed_forward_proj"]!r} where the MLP has '
      f'{len(config.mlp_activations)} input kernel(s)'
    )
  if wrong:
    raise ValueError(
      f'{path / _CONFIG} says {"; ".join(wrong)}; give the config.json and '
      'the arrays of one model.'
    )


def _settle_head(arrays, fields, path):
  """Decides by which head the file's model computes its logits.

  T5.1.0's head is the embedding, behind decoder outputs divided by
  sqrt(d_model); T5.1.1's is lm_head, without. transformers 4 chooses by
  tie_word_embeddings. transformers 5 sets that to True for all, and on saving
  leaves the choice to scale_decoder_outputs and to what is in the file.

  Returns:
    The arrays, with an lm_head if and only if the model is T5.1.1's, and what
    was left out, with the reason.
  """
  arrays = dict(arrays)
  skipped = {}
  for copy in EMBEDDING_COPIES:
    # Equal arrays may be stored under any one of their names.
    if copy in arrays and _SHARED not in arrays:
      arrays[_SHARED] = arrays.pop(copy)
  is_tied = fields['tie_word_embeddings']
  is_scaled = fields.get('scale_decoder_outputs', is_tied)
  shared, head = arrays.get(_SHARED), arrays.get(_HEAD)
  if shared is None:
    return arrays, skipped
  if head is None and not is_scaled:
    if not is_tied:
      raise ValueError(
        f'{path} has no {_HEAD}, but its config.json says '
        'tie_word_embeddings false; give the whole T5.1.1 model.'
      )
    arrays[_HEAD] = shared
  if head is not None and is_scaled:
    if not _equal(head, shared):
      raise ValueError(
        f'{path / _CONFIG} says tie_word_embeddings {is_tied} with scaled '
        f'decoder outputs, which is T5.1.0, but {_HEAD} differs from {_SHARED} '
        'as in T5.1.1; for T5.1.1 set tie_word_embeddings and '
        f'scale_decoder_outputs to false, for T5.1.0 remove {_HEAD}.'
      )
    del arrays[_HEAD]
    skipped[_HEAD] = 'equal to the shared embedding, to which it is tied'
  return arrays, skipped


def _open_arrays(path) -> dict[str, LazyArray]:
  """Returns all arrays, by Hugging Face's name, in the files' dtypes."""
  for name in _SINGLE_FILES:
    if (path / name).exists():
      return _open_file(path / name)
    if (path / _index_name(name)).exists():
      return _open_shards(path, path / _index_name(name))
  raise FileNotFoundError(
    f'{path} has none of {", ".join(_SINGLE_FILES)} and their '
    '.index.json; download the whole model.'
  )


def _open_shards(path, index) -> dict[str, LazyArray]:
  weight_map = _read_json(index).get('weight_map')
  if not isinstance(weight_map, dict):
    raise ValueError(f'{index} has no weight_map; copy or download it again.')
  arrays = {}
  for file in dict.fromkeys(weight_map.values()):
    shard = path / file
    if not shard.exists():
      raise FileNotFoundError(
        f'{path} has no {file}, which {index.name} names; copy or download '
        'the shard.'
      )
    opened = _open_file(shard)
    named = {name for name, other in weight_map.items() if other == file}
    if differ := sorted(named ^ opened.keys()):
      where = 'the index' if differ[0] in named else 'the shard'
      raise ValueError(
        f'{differ[0]} stands in {where} alone: {index.name} and {file} in '
        f'{path} disagree; copy or download both again.'
      )
    arrays |= opened
  return arrays


def _open_file(path) -> dict[str, LazyArray]:
  if path.name.endswith('.safetensors'):
    return safetensors_files.open_file(path)
  return _open_pickle(path)


def _open_pickle(path) -> dict[str, LazyArray]:
  """Reads a pytorch_model.bin; only its arrays are unpickled."""
  try:
    # By name: the package must not depend on torch.
    torch = importlib.import_module('torch')
  except ImportError as error:
    raise ImportError(
      f'{path} can only be read with torch, which is not installed; install '
      'it, or save the model as model.safetensors.'
    ) from error
  try:
    try:
      tensors = torch.load(
        str(path), map_location='cpu', weights_only=True, mmap=True
      )
    except (RuntimeError, OSError):
      # Files from before torch 1.6 and on gs:// cannot be mapped.
      with path.open('rb') as file:
        tensors = torch.load(file, map_location='cpu', weights_only=True)
  except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
    reason = str(error).strip().partition('\n')[0][:200]
    raise ValueError(
      f'{path} is truncated or not a file of arrays alone ({reason}); copy or '
      'download it again.'
    ) from error
  arrays = {}
  for name, tensor in tensors.items():
    if not torch.is_tensor(tensor) or not tensor.is_floating_point():
      raise ValueError(
        f'{name} in {path} is no array of floating-point numbers; give a '
        'checkpoint that is not quantized.'
      )

    def read_rows(start, stop, tensor=tensor):
      rows = tensor[start:stop].to(torch.float32).contiguous()
      return rows.detach().numpy()

    shape = tuple(tensor.shape)
    arrays[name] = LazyArray(shape, np.dtype(np.float32), read_rows)
  return arrays


def _write_arrays(path, arrays: Mapping[str, LazyArray], max_shard_bytes):
  shards = [{}]
  size = 0
  for name, array in arrays.items():
    num_bytes = safetensors_files.num_bytes(array)
    if shards[-1] and size + num_bytes > max_shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = array
    size += num_bytes
  name = _SINGLE_FILES[0]
  if len(shards) == 1:
    safetensors_files.write_file(path / name, arrays)
    return
  weight_map = {}
  for i, shard in enumerate(shards):
    file = f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
    safetensors_files.write_file(path / file, shard)
    weight_map |= dict.fromkeys(shard, file)
  total = sum(map(safetensors_files.num_bytes, arrays.values()))
  _write_json(
    path / _index_name(name),
    {'metadata': {'total_size': total}, 'weight_map': weight_map},
  )


def _index_name(name) -> str:
  return f'{name}.index.json'


def _read_json(path) -> dict[str, Any]:
  try:
    fields = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{path.parent} has no {path.name}; give the folder of a whole Hugging '
      'Face model.'
    ) from error
  except ValueError as error:
    raise ValueError(
      f'{path} is no JSON ({error}); copy or download it again.'
    ) from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} holds no JSON object; download it again.')
  return fields


def _write_json(path, fields):
  path.write_text(json.dumps(fields, indent=2) + '\n')


def _is_grouped(name) -> bool:
  """Whether a kernel has num_kv_heads heads."""
  return name.startswith('decoder/') and name.endswith(
    ('attention/key/kernel', 'attention/value/kernel')
  )


def _transposed(array: LazyArray) -> LazyArray:
  """Returns the transpose, of which every row needs the whole array."""
  if len(array.shape) != 2:
    return array  # check_shapes reports it.

  def read_rows(start, stop):
    rows = np.empty((stop - start, array.shape[0]), array.dtype)
    for i, j in array.slabs():
      rows[:, i:j] = array.read_rows(i, j)[:, start:stop].T
    return rows

  shape = array.shape[::-1]
  return LazyArray(shape, array.dtype, read_rows, row_step=max(1, shape[0]))


def _observed(array: LazyArray, name, on_slab) -> LazyArray:
  def read_rows(start, stop):
    rows = array.read_rows(start, stop)
    on_slab(name, start, rows)
    return rows

  return dataclasses.replace(array, read_rows=read_rows)


def _repeated(array: LazyArray, config: T5Config) -> LazyArray:
  """Returns [D, N*H] from [D, K*H]: query head n reads head n // (N/K)."""
  K, H = config.num_kv_heads, config.head_dim
  groups = config.num_heads // K

  def read_rows(start, stop):
    rows = array.read_rows(start, stop).reshape(-1, K, H)
    return np.repeat(rows, groups, axis=1).reshape(-1, K * groups * H)

  shape = array.shape[0], K * groups * H
  return dataclasses.replace(array, shape=shape, read_rows=read_rows)


def _collapsed(array: LazyArray, fields, K, name, path) -> LazyArray:
  """Undoes `_repeated`; `read_rows` compares the heads."""
  N, H = fields['num_heads'], fields['d_kv']
  if len(array.shape) != 2 or array.shape[1] != N * H:
    return array  # check_shapes reports it.

  def read_rows(start, stop):
    rows = array.read_rows(start, stop).reshape(-1, K, N // K, H)
    if (rows != rows[:, :, :1]).any():
      raise ValueError(
        f'{name} in {path} has {N} heads that are not {K} repeated, as its '
        f'config.json says ({_OURS}.num_kv_heads); if the model was trained '
        f'on since, remove {_OURS} from config.json and convert it again.'
      )
    return np.ascontiguousarray(rows[:, :, 0]).reshape(-1, K * H)

  shape = array.shape[0], K * H
  return dataclasses.replace(array, shape=shape, read_rows=read_rows)


def _equal(one: LazyArray, other: LazyArray) -> bool:
  return one.shape == other.shape and all(
    np.array_equal(one.read_rows(i, j), other.read_rows(i, j))
    for i, j in one.slabs()
  )


def _model_card(config: T5Config, step, source, method) -> str:
  K, N = config.num_kv_heads, config.num_heads
  kind = {N: 'multi-head', 1: 'multi-query'}.get(K, f'GQA-{K}')
  parts = [
    f"""---
library_name: transformers
tags:
- t5
- gqa_flax
---
# T5 with {kind} attention in the decoder

Written by gqa_flax, which reproduces "GQA: Training Generalized Multi-Query
Transformer Models from Multi-Head Checkpoints" (Ainslie et al., 2023).

- Source of the parameters: {source or 'not recorded'}
- Conversion: {method or 'none recorded'}
- Steps since the first of pre-training: {step}
- {N} query heads and {K} key/value heads of {config.head_dim}, width \
{config.emb_dim}, MLP {config.mlp_dim}, {config.num_encoder_layers} encoder \
and {config.num_decoder_layers} decoder layers, vocabulary \
{config.vocab_size}, float32
- Licence: that of the source, which gqa_flax does not know. Add it, and the
  attribution that it asks for, before you publish this folder.
- The tokenizer is the source's; it is not in this folder.
"""
  ]
  if K < N:
    parts.append(f"""
## Key/value heads are repeated here

transformers has no T5 with fewer key/value heads than query heads. For
compatibility each of the {K} key/value heads of the decoder's self-attention
and cross-attention stands here {N // K} times. The logits are those of the
grouped model, but **its saving of memory and time is lost in this form**:
parameters and decoding caches are as large as those of multi-head attention.
Training this form lets the repeated heads drift apart.

To have the {K} heads back, read this folder with `gqa-flax convert` or
`gqa_flax.load_params`: `{_OURS}` in config.json tells them the number.
""")
  parts.append("""
## Loading

```python
from transformers import T5ForConditionalGeneration

model = T5ForConditionalGeneration.from_pretrained('.')  # this folder
""")
  if config.logits_via_embedding:
    parts.append('```\n')
  else:
    parts.append("""\
# Keeps tie_weights() and resize_token_embeddings() from tying the head.
model.config.tie_word_embeddings = False
```

The output head is a matrix of its own. transformers 5 holds every T5 for tied,
finds on loading that the head is not, warns, and leaves it alone. It does tie
it, and computes other logits, if you build the model from its config and call
`load_state_dict`, or leave out the last line above and resize the embedding.
""")
  return ''.join(parts)
