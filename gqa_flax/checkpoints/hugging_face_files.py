"""The files of a Hugging Face model: JSON, and arrays in one file or shards."""

import importlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from gqa_flax.checkpoints import json_files, safetensors_files
from gqa_flax.checkpoints.arrays import LazyArray

# In the order in which transformers looks for them.
_SINGLE_FILES = ('model.safetensors', 'pytorch_model.bin')
# What transformers reads besides, and what another folder of the same model
# should have, too.
COMPANIONS = (
  'spiece.model',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'generation_config.json',
)
_SUFFIXES = ('.safetensors', '.bin')
_FILE_NAME = re.compile(r'[\w-][\w. -]*', re.ASCII)
# What torch says of a pickle that would call more than what makes arrays.
_CODE = re.compile(r'GLOBAL (\S+)')


def open_arrays(path) -> dict[str, LazyArray]:
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


def companions(path) -> dict[str, epath.Path]:
  """Returns the files of `COMPANIONS` that a folder has, by name."""
  return {name: path / name for name in COMPANIONS if (path / name).is_file()}


def write_arrays(path, arrays: Mapping[str, LazyArray], max_shard_bytes):
  """Writes model.safetensors, or shards of it and their index."""
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
  write_json(
    path / _index_name(name),
    {'metadata': {'total_size': total}, 'weight_map': weight_map},
  )


def read_json(path) -> dict[str, Any]:
  """Returns a JSON object; says which file is missing or damaged."""
  try:
    return json_files.parse(path.read_bytes())
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{path.parent} has no {path.name}; give the folder of a whole Hugging '
      'Face model.'
    ) from error
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be read: {error}; copy or download it again.'
    ) from error


def write_json(path, fields):
  """Writes a JSON object, a field a line."""
  path.write_text(json.dumps(fields, indent=2) + '\n')


def _open_shards(path, index) -> dict[str, LazyArray]:
  weight_map = read_json(index).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map:
    raise ValueError(
      f'{index} says weight_map {weight_map!r:.200}, where files by the names '
      'of their arrays are expected; copy or download it again.'
    )
  for name, file in weight_map.items():
    # Only files of the model's own folder are read.
    is_name = isinstance(file, str) and _FILE_NAME.fullmatch(file)
    if not is_name or not file.endswith(_SUFFIXES):
      raise ValueError(
        f'{index} says that {name} is in {file!r:.200}, where the name of a '
        f'file in {path} is expected; download the index again, from whom you '
        'trust.'
      )
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
  options = {'map_location': 'cpu', 'weights_only': True}
  try:
    with warnings.catch_warnings(action='ignore', category=UserWarning):
      try:
        tensors = torch.load(str(path), mmap=True, **options)
      except (RuntimeError, OSError):
        # Files from before torch 1.6 and on gs:// cannot be mapped.
        with path.open('rb') as file:
          tensors = torch.load(file, **options)
  except (OSError, MemoryError):
    raise
  except Exception as error:
    # Not in torch's words: they say how to run such code.
    raise _unreadable(path, error) from None
  if not isinstance(tensors, dict) or not all(
    isinstance(name, str) for name in tensors
  ):
    raise ValueError(
      f'{path} holds a {type(tensors).__name__} that is not of arrays by name; '
      'give the state_dict of a model.'
    )
  arrays = {}
  for name, tensor in tensors.items():
    is_array = torch.is_tensor(tensor) and tensor.layout == torch.strided
    if not is_array or not tensor.is_floating_point():
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


def _unreadable(path, error) -> ValueError:
  """Returns what is wrong with a file that torch could not read."""
  if isinstance(error, pickle.UnpicklingError):
    code = _CODE.search(str(error))
    what = f'code ({code[1]})' if code else 'code or other things than arrays'
    return ValueError(
      f'{path} holds {what}; it is refused, and nothing in it was run: give '
      'the model as model.safetensors, from a source that you trust.'
    )
  return ValueError(
    f'{path} is truncated, damaged, or not a file of arrays; copy or download '
    'it again.'
  )


def _index_name(name) -> str:
  return f'{name}.index.json'
