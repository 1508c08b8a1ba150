"""Pooling the key or value heads of one kernel (Ainslie et al., section 2.1).

Every method maps a kernel [D, K, H] of K heads to [D, K', H] of fewer, where
new head k' replaces the K // K' consecutive heads from k' * (K // K').
"""

import zlib

import jax

from gqa_flax.model.attention import kernel_init


def mean(kernel_DKH, num_kv_heads, rng=None):
  """Averages the heads of each group: the paper's choice."""
  del rng
  return _groups(kernel_DKH, num_kv_heads).mean(axis=2)


def first(kernel_DKH, num_kv_heads, rng=None):
  """Keeps the first head of each group."""
  del rng
  return _groups(kernel_DKH, num_kv_heads)[:, :, 0]


def random(kernel_DKH, num_kv_heads, rng):
  """Draws new heads from the kernel's own initializer, forgetting the old."""
  D, _, H = kernel_DKH.shape
  kernel = kernel_init(1.0)(rng, (D, num_kv_heads * H), kernel_DKH.dtype)
  return kernel.reshape(D, num_kv_heads, H)


METHODS = {'mean': mean, 'first': first, 'random': random}


def _groups(kernel_DKH, num_kv_heads):
  D, K, H = kernel_DKH.shape
  return kernel_DKH.reshape(D, num_kv_heads, K // num_kv_heads, H)


def kernel_rng(seed: int, name: str) -> jax.Array:
  """Returns a PRNG key for one kernel, the same wherever it is converted.

  Args:
    seed: of the whole conversion.
    name: of the kernel, such as 'decoder/layers_0/self_attention/key/kernel'.
  """
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
