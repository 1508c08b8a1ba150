"""How decoding is compiled: with options of XLA's for products of few rows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Since 0.10.2 XLA hands a CPU's products to YNNPACK, where those of few rows,
# which decoding is made of, take longer than in Eigen. It hands over what is
# named here: nothing.
_CPU: dict[str, str | bool] = {'xla_cpu_experimental_ynn_fusion_type': ''}


@functools.cache
def options() -> dict[str, str | bool]:
  """Returns the `compiler_options` of decoding programs on these devices.

  There are none where the devices are no CPUs, or XLA knows no such option.
  """
  if jax.default_backend() != 'cpu':
    return {}
  try:
    jax.jit(lambda: 0).lower().compile(compiler_options=_CPU)
  except jax.errors.JaxRuntimeError:
    return {}
  return _CPU


class DecodingJit:
  """`jax.jit` of a function, compiled with `options`.

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
    # Not before it is called: `options` looks for the devices.
    return jax.jit(
      self.__wrapped__, compiler_options=options(), **self._arguments
    )
