"""Arrays in TensorStore's zarr driver, in folders or in an OCDBT database."""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from gqa_flax.checkpoints.arrays import SLAB_BYTES, LazyArray, reason
from gqa_flax.runtime import interrupts

# What `write_arrays` holds at a time, unless a single slab is larger.
_IN_FLIGHT_BYTES = 8 * SLAB_BYTES
# Between two looks for Ctrl-C.
_CHECK_SECONDS = 0.1


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
  return lazy(open_store(spec, name, where), name, where)


def open_store(spec: dict[str, Any], name: str, where) -> ts.TensorStore:
  """Opens one array as `open_array` does, for more than reading its rows."""
  try:
    return ts.open(spec, open=True, read=True).result()
  except ValueError as error:
    raise ValueError(
      f'{name} in {where} cannot be opened ({reason(error)}); the '
      'checkpoint is incomplete: copy or download it again.'
    ) from error


def lazy(store, name: str, where) -> LazyArray:
  """Wraps an open TensorStore of at least one axis; see `open_array`."""

  def read_rows(start, stop):
    try:
      return np.ascontiguousarray(store[start:stop].read().result())
    except ValueError as error:
      raise ValueError(
        f'{name} in {where} cannot be read ({reason(error)}); the '
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


def write_arrays(
  arrays: Mapping[str, LazyArray],
  create: Callable[[str, LazyArray], ts.TensorStore],
  on_slab: Callable[[str, int, np.ndarray], None] | None = None,
  threads: int | None = None,
):
  """Writes arrays slab by slab, several arrays at a time.

  A slab covers whole chunks of what it is written to, so that no chunk is
  written twice, and half a gigabyte of slabs is held at a time: more only
  where one row of chunks is larger by itself.

  Args:
    arrays: by name.
    create: gives the empty store to write an array to, of the array's shape;
      called from several threads.
    on_slab: called with (name, start row, rows) before a slab is written; row
      by row within an array, but for several arrays at once. What it raises
      ends the writing.
    threads: how many arrays to write at a time.

  Raises:
    The first exception of `create`, `read_rows`, `on_slab` or a write, when
    the slabs then in work have ended.
  """
  budget = _Budget(_IN_FLIGHT_BYTES)

  def write(name, array):
    store = create(name, array)
    chunk = store.chunk_layout.write_chunk.shape
    # Multiples of the source's rows as well, that nothing is decoded twice.
    rows = math.lcm(max(1, (chunk and chunk[0]) or 1), array.row_step)
    rows = min(rows, array.shape[0])
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    for start, stop in dataclasses.replace(array, row_step=rows).slabs(
      SLAB_BYTES
    ):
      with budget.hold((stop - start) * row_bytes):
        slab = array.read_rows(start, stop)
        if on_slab is not None:
          on_slab(name, start, slab)
        # Not copied: nothing changes the slab after this.
        store[start:stop].write(
          slab, can_reference_source_data_indefinitely=True
        ).result()
        del slab

  def write_or_close(name, array):
    try:
      write(name, array)
    except BaseException as error:
      # Here and not where the futures are awaited: by then this thread, or
      # another, would have begun the next array.
      budget.close(error)
      raise

  threads = threads or min(16, 2 * (os.cpu_count() or 1))
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    # The largest first, that none is left to be written alone at the end.
    names = sorted(arrays, key=lambda name: -np.prod(arrays[name].shape))
    futures = [
      pool.submit(write_or_close, name, arrays[name]) for name in names
    ]
    try:
      interrupts.check()
      pending = {*futures}
      while pending and budget.error is None:
        _, pending = concurrent.futures.wait(
          pending, _CHECK_SECONDS, concurrent.futures.FIRST_EXCEPTION
        )
        interrupts.check()
    except BaseException as error:
      budget.close(error)
    pool.shutdown(wait=True, cancel_futures=True)
  if budget.error is not None:
    raise budget.error


class _Budget:
  """Lets threads hold some bytes in all, or one of them more by itself."""

  def __init__(self, limit: int):
    self._free = self._limit = limit
    self.error: BaseException | None = None
    self._changed = threading.Condition()

  def close(self, error: BaseException):
    """Lets nobody hold any more, and keeps the first error that says why."""
    with self._changed:
      self.error = self.error or error
      self._changed.notify_all()

  @contextlib.contextmanager
  def hold(self, size: int):
    size = min(size, self._limit)
    with self._changed:
      self._changed.wait_for(lambda: self.error or self._free >= size)
      if self.error:
        raise concurrent.futures.CancelledError
      self._free -= size
    try:
      yield
    finally:
      with self._changed:
        self._free += size
        self._changed.notify_all()
