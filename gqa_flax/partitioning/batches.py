"""From rows of numpy arrays on each host to batches over all devices."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gqa_flax.partitioning.mesh import mesh_axis_size
from gqa_flax.partitioning.rules import RULES, partition_spec


def batch_sharding(mesh: Mesh, num_rows: int) -> NamedSharding:
  """The sharding of a batch; whole everywhere if its rows do not divide."""
  return NamedSharding(mesh, partition_spec(('batch',), (num_rows,), mesh))


def own_rows(
  mesh: Mesh, num_rows: int, process: int | None = None
) -> np.ndarray:
  """Returns which rows of a global batch a process feeds, ascending.

  Where `model` reaches over several processes, they feed the same rows.

  Args:
    mesh: over which devices.
    num_rows: of the global batch.
    process: its index; None is this one.
  """
  process = jax.process_index() if process is None else process
  sharding = batch_sharding(mesh, num_rows)
  indices: Mapping[Any, Any] = sharding.devices_indices_map((num_rows,))
  rows = np.arange(num_rows)
  own = [
    rows[index]
    for device, index in indices.items()
    if device.process_index == process
  ]
  return np.unique(np.concatenate(own))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, num_rows=None):
  """Puts a batch on the devices, its rows split over `data` and `fsdp`.

  Args:
    batch: a dict of arrays [rows, ...]: those of `own_rows`.
    mesh: over which devices.
    num_rows: of the global batch; None if the batch has them all.

  Returns:
    A dict of arrays [num_rows, ...].

  Raises:
    ValueError: if the rows do not divide evenly.
  """
  rows = num_rows or max(len(x) for x in batch.values())
  parts = math.prod(mesh_axis_size(mesh, axis) for axis in RULES['batch'])
  if rows % parts:
    raise ValueError(
      f'A batch of {rows} examples cannot be split over {parts} devices; set '
      f'BATCH_SIZE to a multiple of {parts}.'
    )
  return _put(batch, mesh, num_rows)


def spread_batch(batch: Mapping[str, np.ndarray], mesh: Mesh):
  """Like `shard_batch`, but what cannot be split goes whole to every device.

  For evaluation, where the last few examples count and their number does not.
  Every process gives all rows.
  """
  return _put(batch, mesh, None)


def _put(batch, mesh, num_rows):
  own = None if num_rows is None else own_rows(mesh, num_rows)

  def put(x):
    rows = len(x) if num_rows is None else num_rows
    sharding = batch_sharding(mesh, rows)

    def part(index):
      if own is None:
        return x[index]
      first, stop, _ = index[0].indices(rows)
      start = int(np.searchsorted(own, first))
      return x[start : start + stop - first][(slice(None), *index[1:])]

    return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

  return {name: put(np.asarray(x)) for name, x in batch.items()}
