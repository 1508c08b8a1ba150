"""Arrays in TensorStore's zarr driver, in folders or in an OCDBT database."""

from typing import Any

import numpy as np
import tensorstore as ts

from gqa_flax.checkpoints.arrays import SLAB_BYTES, LazyArray


def open_array(spec: dict[str, Any], name: str, where) -> LazyArray:
  """Opens one array; only its metadata is read now.

  Args:
    spec: of TensorStore, absolute.
    name: of the array, for the errors.
    where: the checkpoint's path, for the errors.

  Raises:
    ValueError: if the array is missing or its metadata cannot be read; later,
      from `read_rows`, if its data cannot.
  """
  try:
    store = ts.open(spec, open=True, read=True).result()
  except ValueError as error:
    raise ValueError(
      f'{name} in {where} cannot be opened ({_first_line(error)}); the '
      'checkpoint is incomplete: copy or download it again.'
    ) from error
  return lazy(store, name, where)


def lazy(store, name: str, where) -> LazyArray:
  """Wraps an open TensorStore of at least one axis; see `open_array`."""

  def read_rows(start, stop):
    try:
      return np.ascontiguousarray(store[start:stop].read().result())
    except ValueError as error:
      raise ValueError(
        f'{name} in {where} cannot be read ({_first_line(error)}); the '
        'checkpoint is truncated or damaged: copy or download it again.'
      ) from error

  chunk = store.chunk_layout.read_chunk.shape
  row_step = min((chunk and chunk[0]) or 1, store.shape[0])
  dtype = np.dtype(store.dtype.numpy_dtype)
  return LazyArray(tuple(store.shape), dtype, read_rows, max(1, row_step))


def chunk_shape(shape, itemsize: int) -> tuple[int, ...]:
  """Returns the shape itself, or as few whole rows as hold SLAB_BYTES."""
  row_bytes = itemsize * int(np.prod(shape[1:]))
  rows = max(1, min(shape[0], SLAB_BYTES // max(1, row_bytes)))
  return (rows, *shape[1:])


def _first_line(error) -> str:
  return str(error).splitlines()[0][:300]
