"""The other layouts in which T5X stores a T5.1.1, read as the plain one.

t5x/examples/scalable_t5 may scan over its layers: then one array,
`encoder/encoder/mlp/wi_0/kernel` (in its first versions `encoder/layers/…`),
holds all layers of a stack, by default on axis 1. Its attention kernels keep
their heads apart, [embed, heads, kv] and [heads, kv, embed], and every layer
has its own relative bias, where our T5.1.1 has one for a whole stack.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gqa_flax.checkpoints import zarr
from gqa_flax.checkpoints.arrays import LazyArray

_STACKED = re.compile(r'(encoder|decoder)/(?:\1|layers)/(.+)')
_HEADS = re.compile(r'.*attention/(query|key|value|out)/kernel')
_LAYER_BIAS = re.compile(
  r'(encoder|decoder)/layers_\d+/(?:relpos_bias|relative_posemb)/rel_embedding'
)


def lazy_params(stores: Mapping[str, Any], where) -> dict[str, LazyArray]:
  """Wraps opened arrays, in whichever layout, as parameters by T5X name.

  Args:
    stores: by name; TensorStores or NumPy arrays, of at least one axis.
    where: the checkpoint's path, for the errors.

  Raises:
    ValueError: as `unstack` does, and if the layers of a stack have different
      relative biases.
  """
  params = {}
  for name, store in unstack(stores, where).items():
    if isinstance(store, np.ndarray):
      array = LazyArray.of(store)
    else:
      array = zarr.lazy(store, name, where)
    kernel = _HEADS.fullmatch(name)
    if kernel is not None:
      array = _join_heads(array, first=kernel.group(1) == 'out')
    params[name] = array
  return _share_bias(params, where)


def unstack(stores: Mapping[str, Any], where) -> dict[str, Any]:
  """Cuts the arrays of scanned stacks into views of single layers.

  Args:
    stores: by name; TensorStores or NumPy arrays.
    where: the checkpoint's path, for the errors.

  Returns:
    The same kind of arrays, of which `<stack>/layers_<i>/…` are views of what
    held all layers; all others as they were.

  Raises:
    ValueError: if the arrays of a stack agree on no number of layers.
  """
  out = {}
  stacks: dict[str, dict[str, Any]] = {}
  for name, store in stores.items():
    match = _STACKED.fullmatch(name)
    if match is None:
      out[name] = store
    else:
      stacks.setdefault(match.group(1), {})[match.group(2)] = store
  for stack, arrays in stacks.items():
    axis = _layer_axis([x.shape for x in arrays.values()])
    if axis is None:
      shown = '; '.join(f'{k} {tuple(x.shape)}' for k, x in arrays.items())
      raise ValueError(
        f'The scanned arrays of the {stack} in {where} agree on no number of '
        f'layers, neither on axis 1 nor on axis 0 ({shown}); give a whole '
        'checkpoint.'
      )
    for name, store in arrays.items():
      for layer in range(store.shape[axis]):
        index = (slice(None),) * axis + (layer,)
        out[f'{stack}/layers_{layer}/{name}'] = store[index]
  return out


def _layer_axis(shapes) -> int | None:
  """Returns T5X's axis 1 if all shapes agree there, else 0 if they do there."""
  for axis in (1, 0):
    sizes = {shape[axis] if axis < len(shape) else None for shape in shapes}
    if len(sizes) == 1 and None not in sizes:
      return axis
  return None


def _join_heads(array: LazyArray, *, first: bool) -> LazyArray:
  """Joins two of three axes: the first two, or else the last two."""
  if len(array.shape) != 3:
    return array
  a, b, c = array.shape
  read_rows = array.read_rows
  if not first:
    return dataclasses.replace(
      array,
      shape=(a, b * c),
      read_rows=lambda start, stop: read_rows(start, stop).reshape(-1, b * c),
    )

  def read_joined(start, stop):
    outer = start // b
    rows = read_rows(outer, -(-stop // b)).reshape(-1, c)
    return rows[start - outer * b : stop - outer * b]

  return LazyArray((a * b, c), array.dtype, read_joined, array.row_step * b)


def _share_bias(params, where):
  """Returns the parameters with one relative bias a stack."""
  out = dict(params)
  for stack in ('encoder', 'decoder'):
    names = [
      name
      for name in params
      if (match := _LAYER_BIAS.fullmatch(name)) and match.group(1) == stack
    ]
    if not names:
      continue
    first, *others = [out.pop(name) for name in names]
    table = first.read()
    if not all(np.array_equal(table, other.read()) for other in others):
      raise ValueError(
        f'Every layer of the {stack} in {where} has its own relative bias, '
        'where T5.1.1 has one for a whole stack; that is another '
        'architecture (umT5, scalable_t5): give a T5.1.1 checkpoint.'
      )
    out[f'{stack}/relpos_bias/rel_embedding'] = first
  return out
