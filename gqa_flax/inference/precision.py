"""Parameters in fewer bytes, for inference: bfloat16, or int8 kernels."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gqa_flax.model import int8
from gqa_flax.model.cache import DecoderCache

FLOAT32, BFLOAT16, INT8 = PARAM_DTYPES = ('float32', 'bfloat16', 'int8')


@flax.struct.dataclass
class Int8Kernel:
  """A kernel of int8 numbers, each column with its own scale.

  Attributes:
    values: int8 [in, out].
    scale: float32 [out].
  """

  values: jax.Array
  scale: jax.Array

  @classmethod
  def of(cls, kernel: jax.Array) -> 'Int8Kernel':
    """Returns the nearest to a kernel [in, out]."""
    values, scale = int8.quantize(kernel.astype(jnp.float32), axis=0)
    return cls(values, scale[0])

  def array(self) -> jax.Array:
    """Returns the kernel, float32 [in, out]."""
    return int8.dequantize(self.values, self.scale[None])


def check_param_dtype(dtype: str):
  """Raises ValueError unless parameters can be prepared in a dtype."""
  if dtype not in PARAM_DTYPES:
    raise ValueError(
      f'param_dtype is {dtype!r}; set it (in gin, PARAM_DTYPE) to one of '
      f'{list(PARAM_DTYPES)}.'
    )


def prepare(params: Any, dtype: str) -> Any:
  """Returns parameters as inference is to keep them in memory.

  Args:
    params: as a Transformer takes them.
    dtype: 'float32' returns them as they are. 'bfloat16' rounds all of them.
      'int8' makes every kernel an `Int8Kernel` and rounds the rest, norms,
      position biases and the embedding, to bfloat16.

  Returns:
    What the functions of this room take; a Transformer takes `weights` of it.

  Raises:
    ValueError: if the dtype is unknown.
  """
  check_param_dtype(dtype)
  if dtype == FLOAT32:
    return params

  def smaller(path, x):
    if dtype == INT8 and jax.tree_util.keystr(path[-1:]) == "['kernel']":
      return Int8Kernel.of(x)
    return x.astype(jnp.bfloat16)

  return jax.tree_util.tree_map_with_path(smaller, params)


def weights(params: Any) -> Any:
  """Returns parameters as a Transformer takes them, from `prepare`'s.

  To be called where they are used, inside a compiled function: the conversion
  then is a part of the product that reads them. What is no `Int8Kernel` stays
  as it is.
  """
  return jax.tree.map(
    lambda x: x.array() if _is_int8(x) else x, params, is_leaf=_is_int8
  )


def in_step(params: Any, cache: DecoderCache) -> tuple[Any, DecoderCache]:
  """Returns `weights`, and the cache, for one step of a decoding loop.

  What is the same in every step, XLA computes before the loop: on a CPU, and
  where else it moves code so, all steps would read float32 copies of kernels,
  and of the encoder's keys and values, that lie beside the small ones. So these
  are tied to the position, which is another in every step.
  """
  decoder, position = _tie(
    params['decoder'], cache.position, (jnp.int8, jnp.bfloat16)
  )
  cross_attention, position = _tie(cache.cross_attention, position, (jnp.int8,))
  cache = dataclasses.replace(
    cache, cross_attention=cross_attention, position=position
  )
  return weights({**params, 'decoder': decoder}), cache


def _tie(tree, position, dtypes):
  """Returns both; XLA cannot know arrays of the dtypes before the position."""
  leaves, structure = jax.tree.flatten(tree)
  tied = [i for i, x in enumerate(leaves) if x.dtype in dtypes]
  if not tied:
    return tree, position
  position, *arrays = jax.lax.optimization_barrier(
    (position, *(leaves[i] for i in tied))
  )
  for i, x in zip(tied, arrays, strict=True):
    leaves[i] = x
  return jax.tree.unflatten(structure, leaves), position


def _is_int8(x) -> bool:
  return isinstance(x, Int8Kernel)
