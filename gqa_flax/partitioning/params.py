"""Where parameters and optimizer state go, by the names of parameters."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from gqa_flax.config import T5Config
from gqa_flax.partitioning.rules import partition_spec

# The last parts of a parameter's name, and the logical axes of its dimensions.
PARAM_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'token_embedder/embedding', ('vocab', 'embed')),
  (r'relpos_bias/rel_embedding', ('heads', None)),
  (r'attention/query/kernel', ('embed', 'heads')),
  (r'attention/(key|value)/kernel', ('embed', 'kv_heads')),
  (r'attention/out/kernel', ('heads', 'embed')),
  (r'mlp/wi(_\d+)?/kernel', ('embed', 'mlp')),
  (r'mlp/wo/kernel', ('mlp', 'embed')),
  (r'logits_dense/kernel', ('embed', 'vocab')),
  (r'scale', (None,)),
)


def param_axes(name: str) -> tuple[str | None, ...]:
  """Returns the logical axes of a parameter, by its name with slashes.

  An int8 kernel is two arrays: its values, and a scale for each column.

  Raises:
    ValueError: if no parameter of the model has such a name.
  """
  kernel, _, part = name.rpartition('/')
  if kernel.endswith('/kernel') and part == 'values':
    return param_axes(kernel)
  if kernel.endswith('/kernel') and part == 'scale':
    return param_axes(kernel)[-1:]
  for pattern, axes in PARAM_AXES:
    if re.search(f'{pattern}$', name):
      return axes
  raise ValueError(
    f'The parameter {name} has no line in partitioning.params.PARAM_AXES; add '
    'one with its logical axes.'
  )


def param_shardings(params: Any, config: T5Config, mesh) -> Any:
  """Returns the tree of NamedShardings of parameters.

  Args:
    params: tree of arrays or of their shapes.
    config: the architecture; kernels join heads and their width, and only
      whole heads are divided.
    mesh: a Mesh or an AbstractMesh.
  """

  def sharding(path, x):
    return NamedSharding(mesh, _spec(_names(path), x.shape, config, mesh))

  return jax.tree_util.tree_map_with_path(sharding, params)


def state_shardings(opt_state: Any, params: Any, config: T5Config, mesh) -> Any:
  """Returns the tree of NamedShardings of an optimizer's state.

  A statistic of a parameter's shape goes where the parameter goes; Adafactor's
  rows and columns go where the dimension goes that they keep.

  Args:
    opt_state: tree of arrays or of their shapes, as optax makes it.
    params: the parameters, or their shapes.
    config: the architecture.
    mesh: a Mesh or an AbstractMesh.
  """
  shapes = {
    _names(path): x.shape
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]
  }

  def sharding(path, x):
    names = _names(path)
    starts = (i for i in range(len(names)) if names[i:] in shapes)
    start = next(starts, None)
    spec = partition_spec((None,) * x.ndim, x.shape, mesh)
    if start is not None:
      shape = shapes[names[start:]]
      whole = _spec(names[start:], shape, config, mesh)
      kept = _kept_dimensions(names[:start], shape)
      if x.shape == shape:
        spec = whole
      elif x.shape == tuple(shape[i] for i in kept):
        spec = type(whole)(*(whole[i] for i in kept))
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, opt_state)


def _spec(names: tuple[str, ...], shape, config: T5Config, mesh):
  axes = param_axes('/'.join(names))
  kv_heads = config.num_kv_heads if 'decoder' in names else config.num_heads
  units = {'heads': config.num_heads, 'kv_heads': kv_heads}
  sizes = [units.get(axis, size) for axis, size in zip(axes, shape)]
  return partition_spec(axes, sizes, mesh)


def _kept_dimensions(names: tuple[str, ...], shape) -> list[int]:
  """Returns the dimensions that Adafactor's row or column statistics keep.

  As in optax: v_row is without the largest dimension, v_col without the next.
  """
  dropped = {'v_row': -1, 'v_col': -2}
  found = [dropped[name] for name in names if name in dropped]
  if not found or len(shape) < 2:
    return list(range(len(shape)))
  without = int(np.argsort(shape)[found[0]])
  return [i for i in range(len(shape)) if i != without]


def _names(path) -> tuple[str, ...]:
  """Returns a path in a tree as names: keys, indices and attributes alike."""
  return tuple(
    str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))))
    for k in path
  )
