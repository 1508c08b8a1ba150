"""Over what a decoding cache is divided: its heads, or its batch."""

import jax

from gqa_flax.partitioning.mesh import MODEL, mesh_axis_size
from gqa_flax.partitioning.rules import constrain, partition_spec

AUTO, HEADS, BATCH = LAYOUTS = ('auto', 'heads', 'batch')

_AXES = {
  HEADS: ('batch', 'kv_heads', None, None),
  BATCH: ('cache_batch', None, None, None),
}


def cache_layout(layout: str, batch_size: int, num_kv_heads: int, mesh) -> str:
  """Returns HEADS or BATCH, for the parts of `model`.

  'auto' divides heads where there are enough for every part. Where there are
  not, all parts would hold copies of one head; then the batch is divided over
  `model` as well, if it has the rows (Pope et al. 2022, section 3.3).

  Args:
    layout: one of LAYOUTS; what is not 'auto' is returned as it is.
    batch_size: sequences decoded together.
    num_kv_heads: K.
    mesh: a Mesh or an AbstractMesh.
  """
  if layout != AUTO:
    return layout
  heads_divide = num_kv_heads % mesh_axis_size(mesh, MODEL) == 0
  batch = partition_spec(('cache_batch',), (batch_size,), mesh)[0] or ()
  return BATCH if not heads_divide and MODEL in batch else HEADS


def constrain_cache(x_BKSH: jax.Array, layout: str) -> jax.Array:
  """Puts keys or values of a cache, [B, K, S, H], where they are kept."""
  chosen = _chosen(layout, *x_BKSH.shape[:2])
  return constrain(x_BKSH, *_AXES[chosen]) if chosen else x_BKSH


def constrain_beside_cache(
  x_BTX: jax.Array, layout: str, num_kv_heads: int
) -> jax.Array:
  """Puts what is divided by heads, [B, T, heads * H], beside its cache.

  Queries, what they read, new keys and values are small where the cache is
  large: they travel, and it does not. Heads are joined meanwhile: a chip would
  have to rearrange what travels in rows of one head's width.
  """
  if _chosen(layout, x_BTX.shape[0], num_kv_heads) != BATCH:
    return x_BTX
  return constrain(x_BTX, 'cache_batch', None, None)


def _chosen(layout, batch_size, num_kv_heads) -> str | None:
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return None
  return cache_layout(layout, batch_size, num_kv_heads, mesh)
