"""What stands between our arrays and theirs: order of axes, number of heads."""

import dataclasses

import numpy as np

from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.checkpoints.hugging_face_config import OURS
from gqa_flax.config import T5Config


def is_grouped(name) -> bool:
  """Whether a kernel has num_kv_heads heads."""
  return name.startswith('decoder/') and name.endswith(
    ('attention/key/kernel', 'attention/value/kernel')
  )


def transposed(array: LazyArray) -> LazyArray:
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


def repeated(array: LazyArray, config: T5Config) -> LazyArray:
  """Returns [D, N*H] from [D, K*H]: query head n reads head n // (N/K)."""
  K, H = config.num_kv_heads, config.head_dim
  groups = config.num_heads // K

  def read_rows(start, stop):
    rows = array.read_rows(start, stop).reshape(-1, K, H)
    return np.repeat(rows, groups, axis=1).reshape(-1, K * groups * H)

  shape = array.shape[0], K * groups * H
  return dataclasses.replace(array, shape=shape, read_rows=read_rows)


def collapsed(array: LazyArray, N, K, H, where) -> LazyArray:
  """Undoes `repeated`; `read_rows` compares the heads."""
  if len(array.shape) != 2 or array.shape[1] != N * H:
    return array  # check_shapes reports it.

  def read_rows(start, stop):
    rows = array.read_rows(start, stop).reshape(-1, K, N // K, H)
    if (rows != rows[:, :, :1]).any():
      raise ValueError(
        f'{where} has {N} heads that are not {K} repeated, as its '
        f'config.json says ({OURS}.num_kv_heads); if the model was trained '
        f'on since, remove {OURS} from config.json and convert it again.'
      )
    return np.ascontiguousarray(rows[:, :, 0]).reshape(-1, K * H)

  shape = array.shape[0], K * H
  return dataclasses.replace(array, shape=shape, read_rows=read_rows)


def observed(array: LazyArray, name, on_slab) -> LazyArray:
  """Returns the same array, which calls on_slab(name, start, rows)."""

  def read_rows(start, stop):
    rows = array.read_rows(start, stop)
    on_slab(name, start, rows)
    return rows

  return dataclasses.replace(array, read_rows=read_rows)


def equal(one: LazyArray, other: LazyArray) -> bool:
  """Compares two arrays, some rows at a time."""
  return one.shape == other.shape and all(
    np.array_equal(one.read_rows(i, j), other.read_rows(i, j))
    for i, j in one.slabs()
  )
