"""Which mesh axes divide which logical axis: one table, and how it is read."""

from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gqa_flax.partitioning.mesh import DATA, FSDP, MODEL, mesh_axis_size

# Of parameters, `embed` is divided; activations are whole along it, as what
# divides their batch is the same axis.
RULES: dict[str, tuple[str, ...]] = {
  'batch': (DATA, FSDP),
  'cache_batch': (DATA, FSDP, MODEL),
  'embed': (FSDP,),
  'heads': (MODEL,),
  'kv_heads': (MODEL,),
  'mlp': (MODEL,),
  'vocab': (MODEL,),
}


def partition_spec(
  axes: Sequence[str | None], sizes: Sequence[int], mesh
) -> PartitionSpec:
  """Returns where an array goes.

  An axis that the devices do not divide stays whole on each of them: so a
  single key/value head is copied to every part of `model`, as in section 2.2
  of the paper. A mesh axis of another name divides nothing, and neither does
  one that the mesh lacks; see `mesh.mesh_axis_size`.

  Args:
    axes: the logical name of each dimension; None is never divided.
    sizes: what must be divisible: the dimension's length, or the number of
      heads where a dimension joins heads and their width.
    mesh: a Mesh or an AbstractMesh.
  """
  entries: list[tuple[str, ...] | None] = []
  used: set[str] = set()
  for axis, size in zip(axes, sizes, strict=True):
    names, parts = [], 1
    for name in RULES[axis] if axis else ():
      axis_size = mesh_axis_size(mesh, name)
      parts *= axis_size
      if name not in used and axis_size > 1 and size % parts == 0:
        names.append(name)
      elif axis_size > 1:
        names = []  # half a batch on each device helps nobody
        break
    used.update(names)
    entries.append(tuple(names) or None)
  return PartitionSpec(*entries)


def constrain(
  x: jax.Array, *axes: str | None, sizes: Sequence[int] | None = None
) -> jax.Array:
  """Tells the compiler where an activation goes.

  Nothing is said where no mesh was chosen with `jax.set_mesh`, or one whose
  axes are Explicit or Manual: there the caller divides arrays.

  Args:
    x: an array.
    *axes: the logical name of each of its dimensions.
    sizes: as in `partition_spec`; None is x's shape.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.are_all_axes_auto:
    return x
  spec = partition_spec(axes, sizes or x.shape, mesh)
  return jax.lax.with_sharding_constraint(x, spec)


def replicate(x: jax.Array) -> jax.Array:
  """Tells the compiler that every device, of every host, needs all of it."""
  return constrain(x, *(None,) * x.ndim)


def replicated(mesh) -> NamedSharding:
  """The sharding of what is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())
