"""Reads Hugging Face's T5: a folder of config.json and arrays."""

import dataclasses

import numpy as np
from etils import epath

from gqa_flax.checkpoints.architecture import infer_config
from gqa_flax.checkpoints.arrays import StoredCheckpoint
from gqa_flax.checkpoints.hugging_face_arrays import (
  collapsed,
  equal,
  is_grouped,
  transposed,
)
from gqa_flax.checkpoints.hugging_face_config import (
  FILE,
  activations,
  check_sizes,
  read_config,
  read_ours,
)
from gqa_flax.checkpoints.hugging_face_files import companions, open_arrays
from gqa_flax.checkpoints.names import (
  EMBEDDING_COPIES,
  SKIPPED,
  from_hugging_face,
)

_SHARED = 'shared.weight'
_HEAD = 'lm_head.weight'


def open_checkpoint(path, *, optimizer: bool = False) -> StoredCheckpoint:
  """Opens a folder that `save_pretrained` or `write_checkpoint` wrote.

  Transposed arrays are read whole, the embedding some rows at a time. Of a
  grouped model's repeated heads one is read, after comparing it to the others.

  Args:
    path: a folder with config.json and model.safetensors or
      pytorch_model.bin, whole or in shards with an index. The latter needs
      torch.
    optimizer: makes no difference, since the format has no optimizer state.

  Returns:
    A checkpoint without optimizer state; its step is None unless gqa_flax
    wrote the folder.

  Raises:
    FileNotFoundError: if one of these files is missing.
    ValueError: if the arrays are damaged, incomplete, or contradict
      config.json, or if config.json describes what T5Config cannot.
    ImportError: if torch is needed and missing.
  """
  path = epath.Path(path)
  fields = read_config(path)
  mlp_activations = activations(fields, path)
  num_heads, head_dim = fields['num_heads'], fields['d_kv']
  num_kv_heads, step = read_ours(fields, path)
  arrays, skipped = _settle_head(open_arrays(path), fields, path)
  params = {}
  unknown = []
  for theirs, array in arrays.items():
    found = from_hugging_face(theirs)
    if found is not None:
      ours, is_transposed = found
      params[ours] = transposed(array) if is_transposed else array
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
  if num_kv_heads < num_heads:
    for name in filter(is_grouped, params):
      params[name] = collapsed(
        params[name], num_heads, num_kv_heads, head_dim, f'{name} in {path}'
      )
  shapes = {name: array.shape for name, array in params.items()}
  config = infer_config(shapes, path, vocab_size=fields['vocab_size'])
  check_sizes(config, fields, mlp_activations, path)
  return StoredCheckpoint(
    format='hugging_face',
    path=str(path),
    step=step,
    config=dataclasses.replace(config, mlp_activations=mlp_activations),
    params={name: array.astype(np.float32) for name, array in params.items()},
    skipped=skipped,
    model_type=fields['model_type'],
    companions=companions(path),
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
    if not equal(head, shared):
      raise ValueError(
        f'{path / FILE} says tie_word_embeddings {is_tied} with scaled '
        f'decoder outputs, which is T5.1.0, but {_HEAD} differs from {_SHARED} '
        'as in T5.1.1; for T5.1.1 set tie_word_embeddings and '
        f'scale_decoder_outputs to false, for T5.1.0 remove {_HEAD}.'
      )
    del arrays[_HEAD]
    skipped[_HEAD] = 'equal to the shared embedding, to which it is tied'
  return arrays, skipped
