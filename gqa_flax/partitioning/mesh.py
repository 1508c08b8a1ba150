"""The mesh of devices: how large its axes are, and which device goes where."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from gqa_flax.config import T5Config, divisors

DATA, FSDP, MODEL = AXES = ('data', 'fsdp', 'model')
AUTO = 'auto'
# JAX's default differs from version to version.
_AXIS_TYPES = (AxisType.Auto,) * len(AXES)

# Parameters, gradients and Adafactor's statistics of one parameter: the last
# two hold little for a matrix, but a float32 copy is made while updating.
_STATE_BYTES = 12
# What a device is taken to hold where it does not say: a TPU v5e's memory.
_DEVICE_BYTES = 16 * 2**30
# Beside the state, activations need room.
_STATE_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """How many devices an axis has; 'auto' leaves the number to `sizes`.

  Attributes:
    data: parts of the batch, each with whole parameters. Slices of a TPU that
      only the data-center network joins are along this axis.
    fsdp: parts of the batch, among which parameters and optimizer state are
      divided as well, and gathered layer by layer.
    model: parts of heads, MLP and vocabulary; they share a batch.
  """

  data: int | str = AUTO
  fsdp: int | str = AUTO
  model: int | str = AUTO

  def __post_init__(self):
    for name in AXES:
      size = getattr(self, name)
      if size != AUTO and (not isinstance(size, int) or size < 1):
        raise ValueError(
          f"MESH_{name.upper()} is {size!r}; set it to 'auto' or to an integer "
          'of 1 or more.'
        )

  def sizes(
    self,
    num_devices: int,
    *,
    num_slices: int = 1,
    batch_size: int | None = None,
    config: T5Config | None = None,
    num_params: int = 0,
    device_bytes: int | None = None,
  ) -> tuple[int, int, int]:
    """Returns the sizes of the axes.

    What is 'auto' becomes, in this order: `model` the smallest number that
    divides the query heads and leaves the batch enough rows for the rest;
    `fsdp` the smallest number with which the training state takes no more than
    some 40% of a device; `data` the rest.

    Args:
      num_devices: of all slices together.
      num_slices: of a TPU; they are along `data`.
      batch_size: rows of the global batch; None leaves it out of account.
      config: for the number of heads.
      num_params: of the model.
      device_bytes: memory of one device; None assumes 16 GiB.

    Raises:
      ValueError: if no mesh has these sizes.
    """
    shapes = [
      (rest // fsdp, fsdp, model)
      for model in self._choices(MODEL, num_devices)
      for rest in [num_devices // model]
      if batch_size is None or batch_size % rest == 0
      for fsdp in self._choices(FSDP, rest)
      if self.data in (AUTO, rest // fsdp) and rest // fsdp % num_slices == 0
    ]
    if config is not None and self.model == AUTO:
      shapes = [s for s in shapes if config.num_heads % s[2] == 0] or shapes
    if not shapes:
      rows = f' and {batch_size} rows a batch' if batch_size else ''
      slices = f' in {num_slices} slices' if num_slices > 1 else ''
      raise ValueError(
        f'No mesh of data={self.data}, fsdp={self.fsdp}, model={self.model} '
        f'fits {num_devices} devices{slices}{rows}: the product of the three '
        'must be the number of devices, data * fsdp must divide BATCH_SIZE, '
        'and data must be a multiple of the slices; set MESH_DATA, MESH_FSDP '
        "and MESH_MODEL so, or to 'auto'."
      )
    smallest_model = shapes[0][2]
    shapes = [s for s in shapes if s[2] == smallest_model]
    room = _STATE_SHARE * (device_bytes or _DEVICE_BYTES)

    def fits(shape):
      return num_params * _STATE_BYTES / (shape[1] * shape[2]) <= room

    return next(filter(fits, shapes), shapes[-1])

  def _choices(self, axis: str, limit: int) -> list[int]:
    size = getattr(self, axis)
    if size == AUTO:
      return divisors(limit)
    return [size] if limit % size == 0 else []


def make_mesh(
  shape: MeshShape | None = None,
  *,
  devices=None,
  config: T5Config | None = None,
  num_params: int = 0,
  batch_size: int | None = None,
) -> Mesh:
  """Lays the devices out as a mesh with the axes of `AXES`.

  Args:
    shape: None is pure data parallelism.
    devices: by default all, of all processes.
    config: see `MeshShape.sizes`.
    num_params: see `MeshShape.sizes`.
    batch_size: see `MeshShape.sizes`.

  Raises:
    ValueError: if the devices cannot be laid out so.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = MeshShape(fsdp=1, model=1) if shape is None else shape
  num_slices = len({getattr(d, 'slice_index', 0) or 0 for d in devices})
  sizes = shape.sizes(
    len(devices),
    num_slices=num_slices,
    batch_size=batch_size,
    config=config,
    num_params=num_params,
    device_bytes=_memory(devices[0]),
  )
  if num_slices > 1:
    data, fsdp, model = sizes
    array = mesh_utils.create_hybrid_device_mesh(
      (data // num_slices, fsdp, model), (num_slices, 1, 1), devices
    )
  elif devices[0].platform == 'tpu':
    array = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  else:
    array = np.asarray(devices).reshape(sizes)
  return Mesh(array, AXES, _AXIS_TYPES)


def abstract_mesh(sizes: Sequence[int]) -> AbstractMesh:
  """Returns a mesh of these sizes, in the order of `AXES`, without devices."""
  return AbstractMesh(tuple(sizes), AXES, _AXIS_TYPES)


def data_parallel_mesh(devices=None) -> Mesh:
  """Returns a mesh of the given devices, by default all, along `data`."""
  return make_mesh(devices=devices)


def current_mesh() -> Mesh:
  """Returns the mesh that `jax.set_mesh` chose, or else a data-parallel one."""
  mesh = jax.sharding.get_mesh()
  return data_parallel_mesh() if mesh.empty else mesh


def mesh_axis_size(mesh, name: str) -> int:
  """Returns how many parts a mesh axis divides arrays into.

  That is 1 where the mesh has no such axis, or one of another type than Auto:
  along an Explicit or a Manual axis the caller alone divides arrays.

  Args:
    mesh: a Mesh or an AbstractMesh, of these or any other axes.
    name: the axis.
  """
  return mesh.shape[name] if name in mesh.auto_axes else 1


def _memory(device) -> int | None:
  try:
    return (device.memory_stats() or {}).get('bytes_limit')
  except Exception:  # devices of a topology that is not here have no memory
    return None
