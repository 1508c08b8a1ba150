"""The safetensors format, read and written some rows at a time.

A file is eight bytes (the header's length, little-endian), a JSON header that
gives every array's dtype, shape and place, and the arrays, without gaps. The
`safetensors` package maps files into memory; this one seeks and reads, which
works on gs:// and s3:// as well and holds no more than what is asked for.

https://huggingface.co/docs/safetensors (format) is the source.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from gqa_flax.checkpoints import json_files
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.runtime import interrupts

_DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
_WRITTEN_BYTES = 16 * 2**20


def open_file(path) -> dict[str, LazyArray]:
  """Reads the header; the arrays stay in the file.

  Returns:
    The arrays, in the file's own dtypes, in the order of their places.

  Raises:
    ValueError: if the file is truncated, is no safetensors file or holds
      another dtype than float64, float32, float16 and bfloat16.
  """
  path = epath.Path(path)
  header, start = _read_header(path)
  arrays = {}
  end = 0
  for name, entry in header:
    dtype = _DTYPES.get(entry['dtype'])
    if dtype is None:
      raise ValueError(
        f'{name} in {path} has dtype {entry["dtype"]}, which is not one of '
        f'{list(_DTYPES)}; give a checkpoint that is not quantized.'
      )
    shape = tuple(entry['shape'])
    begin, stop = entry['data_offsets']
    if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
      raise _damaged(
        path, f'{name} of shape {shape} lies at bytes {begin} to {stop}'
      )
    arrays[name] = _lazy(path, name, shape, dtype, start + begin)
    end = stop
  size = path.stat().length
  if size != start + end:
    raise _damaged(path, f'it has {size} bytes instead of {start + end}')
  return arrays


def write_file(path, arrays: Mapping[str, LazyArray]):
  """Writes arrays in the order given, slab by slab.

  Args:
    path: of the file, overwritten if it exists.
    arrays: of dtype float64, float32, float16 or bfloat16.
  """
  # transformers refuses files that do not say that they are PyTorch's.
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for name, array in arrays.items():
    begin, end = end, end + num_bytes(array)
    header[name] = {
      'dtype': _CODES[array.dtype],
      'shape': array.shape,
      'data_offsets': (begin, end),
    }
  text = json.dumps(header).encode()
  # Arrays begin at a multiple of eight bytes.
  text += b' ' * (-len(text) % 8)
  with epath.Path(path).open('wb') as file:
    file.write(len(text).to_bytes(8, 'little'))
    file.write(text)
    for array in arrays.values():
      for start, stop in array.slabs():
        interrupts.check()
        rows = LazyArray.of(array.read_rows(start, stop))
        for i, j in rows.slabs(_WRITTEN_BYTES):
          file.write(rows.read_rows(i, j).tobytes())


def num_bytes(array: LazyArray) -> int:
  """Returns the size of the whole array."""
  return math.prod(array.shape) * array.dtype.itemsize


def _read_header(path) -> tuple[list[tuple[str, dict]], int]:
  """Returns the arrays' entries by place, and where the first array begins."""
  size = path.stat().length
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
      raise _damaged(
        path, f'it has {size} bytes and announces a header of {length}'
      )
    text = file.read(length)
  try:
    header = json_files.parse(text)
  except ValueError as error:
    raise _damaged(path, f'in its header, {error}') from error
  header.pop('__metadata__', None)
  for name, entry in header.items():
    if not _is_entry(entry):
      raise _damaged(path, f'its header says of {name} {entry!r:.200}')
  entries = sorted(header.items(), key=lambda item: item[1]['data_offsets'])
  return entries, 8 + length


def _is_entry(entry) -> bool:
  if not isinstance(entry, dict) or not isinstance(entry.get('dtype'), str):
    return False
  shape, place = entry.get('shape'), entry.get('data_offsets')
  return (
    isinstance(shape, list)
    and isinstance(place, list)
    and len(place) == 2
    and all(json_files.is_integer(n, least=0) for n in [*shape, *place])
  )


def _lazy(path, name, shape, dtype, offset) -> LazyArray:
  row_shape = shape[1:]
  row_bytes = math.prod(row_shape) * dtype.itemsize

  def read_rows(start, stop):
    with path.open('rb') as file:
      file.seek(offset + start * row_bytes)
      data = file.read((stop - start) * row_bytes)
    if len(data) != (stop - start) * row_bytes:
      raise _damaged(path, f'{name} ends after {len(data)} bytes')
    return np.frombuffer(data, dtype).reshape(stop - start, *row_shape)

  return LazyArray(shape, dtype, read_rows)


def _damaged(path, what) -> ValueError:
  return ValueError(
    f'{path} is truncated or no safetensors file ({what}); copy or download '
    'it again.'
  )
