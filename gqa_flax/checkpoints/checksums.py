"""Checksums of arrays, the same on every mesh and number of hosts.

The sum of an array's bits, 32 at a time and each times an odd number that its
place in the array gives, wraps around at 2**32. Sums of integers do not depend
on their order, so the devices add up what they hold; and no odd number makes a
flipped bit vanish.
"""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


def compute(tree) -> dict[str, int]:
  """Returns the checksum of every array, by its name in the tree.

  Every process must call it, if arrays lie on devices of several.

  Args:
    tree: of JAX or NumPy arrays of numbers or booleans.

  Returns:
    Numbers below 2**32, by the names of the leaves, joined by '/'.
  """
  leaves = ocp.tree.to_flat_dict(tree, sep='/')
  groups: dict[frozenset, dict] = {}  # one program takes one set of devices
  for name, leaf in leaves.items():
    devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
    groups.setdefault(frozenset(devices), {})[name] = leaf
  # Two programs in flight over virtual devices can wait for each other.
  jax.block_until_ready(tree)
  sums: dict[str, int] = {}
  for group in groups.values():
    found = jax.device_get(_checksums(list(group.values())))
    sums.update((name, int(x)) for name, x in zip(group, found))
  return {name: sums[name] for name in leaves}


@jax.jit
def _checksums(arrays):
  return [_checksum(x) for x in arrays]


def _checksum(x):
  words = _words(x)
  index = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    index += place * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  weight = np.uint32(2) * index + np.uint32(1)
  return jnp.sum(words * weight, dtype=jnp.uint32)


def _words(x):
  """Returns the bits of x as uint32; 64 of them make two."""
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  bits = 8 * x.dtype.itemsize
  unsigned = jnp.dtype(f'uint{min(bits, 32)}')
  return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
