"""Where arrays lie on the devices; the only room that names a mesh axis.

mesh     the axes `data`, `fsdp` and `model`, and the devices along them
rules    which of them divide which logical axis: the one table
params   parameters and optimizer state, by their names
batches  rows on each host, batches over all
cache    the decoding cache: over heads, or over the batch
hosts    how processes find each other
"""

from gqa_flax.partitioning.batches import (
  batch_sharding,
  own_rows,
  shard_batch,
  spread_batch,
)
from gqa_flax.partitioning.cache import (
  cache_layout,
  constrain_beside_cache,
  constrain_cache,
)
from gqa_flax.partitioning.mesh import (
  MeshShape,
  abstract_mesh,
  current_mesh,
  data_parallel_mesh,
  make_mesh,
)
from gqa_flax.partitioning.params import param_shardings, state_shardings
from gqa_flax.partitioning.rules import (
  constrain,
  partition_spec,
  replicate,
  replicated,
)

__all__ = [
  'MeshShape',
  'abstract_mesh',
  'batch_sharding',
  'cache_layout',
  'constrain',
  'constrain_beside_cache',
  'constrain_cache',
  'current_mesh',
  'data_parallel_mesh',
  'make_mesh',
  'own_rows',
  'param_shardings',
  'partition_spec',
  'replicate',
  'replicated',
  'shard_batch',
  'spread_batch',
  'state_shardings',
]
