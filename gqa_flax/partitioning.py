"""Where arrays lie on the devices; the only file that names a mesh axis."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = 'data'


def data_parallel_mesh(devices=None) -> Mesh:
  """Returns a one-axis mesh over the given devices, by default all."""
  devices = jax.devices() if devices is None else devices
  return Mesh(np.asarray(devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of parameters and optimizer state: whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch, mesh: Mesh):
  """Puts a batch on the devices, its rows split evenly among them.

  Args:
    batch: a dict of arrays [batch, ...].
    mesh: as `data_parallel_mesh` makes it.

  Raises:
    ValueError: if the number of rows is no multiple of the number of devices.
  """
  if not _divides(batch, mesh):
    rows = max(x.shape[0] for x in batch.values())
    raise ValueError(
      f'A batch of {rows} examples cannot be split over {mesh.size} '
      f'devices; set BATCH_SIZE to a multiple of {mesh.size}.'
    )
  return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))


def spread_batch(batch, mesh: Mesh):
  """Like `shard_batch`, but what cannot be split goes whole to every device.

  For evaluation, where the last few examples count and their number does not.
  """
  if _divides(batch, mesh):
    return shard_batch(batch, mesh)
  return jax.device_put(batch, replicated(mesh))


def _divides(batch, mesh: Mesh) -> bool:
  return all(x.shape[0] % mesh.size == 0 for x in batch.values())
