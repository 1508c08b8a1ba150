"""XLA's options for programs, by the devices that run them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Since 0.10.2 XLA hands a CPU's products to YNNPACK, and the sums beside them.
# By this it is told what to hand over. In decoding, where products have few
# rows, nothing: Eigen takes less time for them. In training products alone: the
# sums that the gradients of softmax and of the position bias are made of take
# YNNPACK much longer than XLA.
_YNNPACK = 'xla_cpu_experimental_ynn_fusion_type'
_CPU = {
  'decoding': {_YNNPACK: ''},
  'training': {_YNNPACK: 'LIBRARY_FUSION_TYPE_DOT'},
}


@functools.cache
def options(program: str, platform: str) -> dict[str, str | bool]:
  """Returns the `compiler_options` of a program.

  There are none where the devices are no CPUs, or XLA knows no such option.

  Args:
    program: 'decoding' or 'training'.
    platform: of the devices.
  """
  if platform != 'cpu':
    return {}
  found: dict[str, str | bool] = {**_CPU[program]}
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=found)
  except jax.errors.JaxRuntimeError:
    return {}
  return found


class DecodingJit:
  """`jax.jit` of a function, compiled with `options` for decoding.

  Called by what is itself being compiled, it becomes a part of that, and is
  compiled as that is.

  Args:
    function: what to compile.
    **arguments: of `jax.jit`.
  """

  def __init__(self, function: Callable, **arguments):
    functools.update_wrapper(self, function)
    self._inside = jax.jit(function, **arguments)
    self._arguments = arguments

  def __call__(self, *given):
    # While anything is being compiled, new arrays are tracers, too.
    leaves = jax.tree.leaves((given, jnp.zeros(())))
    traced = any(isinstance(x, jax.core.Tracer) for x in leaves)
    return (self._inside if traced else self._outside)(*given)

  def lower(self, *given):
    """Returns what `jax.jit(...).lower` does."""
    return self._outside.lower(*given)

  @functools.cached_property
  def _outside(self):
    # Not before it is called: this looks for the devices.
    return jax.jit(
      self.__wrapped__,
      compiler_options=options('decoding', jax.default_backend()),
      **self._arguments,
    )
