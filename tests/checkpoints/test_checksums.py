"""Checksums: any bit counts, no mesh does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gqa_flax.checkpoints import checksums

DTYPES = ['float32', 'int32', 'bfloat16', 'bool', 'int8']


def array(dtype, shape=(8, 16)):
  x = np.random.default_rng(0).normal(size=shape) * 50
  return x.astype(jnp.dtype(dtype))


def of_words(words):
  """The definition, one word after another."""
  return sum((2 * i + 1) * int(w) for i, w in enumerate(words)) % 2**32


@pytest.mark.parametrize('dtype', DTYPES)
def test_it_is_the_weighted_sum_of_the_bits(dtype):
  x = array(dtype)
  words = x.reshape(-1).view(f'uint{8 * x.dtype.itemsize}')
  assert checksums.compute({'a': {'b': x}}) == {'a/b': of_words(words)}


def test_scalars_and_nothing():
  found = checksums.compute({'a': jnp.int32(5), 'b': jnp.zeros((0, 3))})
  assert found == {'a': 5, 'b': 0}


@pytest.mark.parametrize('shape', [(2, 2, 2), (1, 8, 1), (8, 1, 1), (1, 1, 8)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_it_is_the_same_on_every_mesh(shape, dtype):
  mesh = Mesh(np.reshape(jax.devices(), shape), ('data', 'fsdp', 'model'))
  x = array(dtype)
  for spec in ((), ('fsdp', 'model'), ('model', 'fsdp'), (('fsdp', 'data'),)):
    there = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    assert checksums.compute([there]) == checksums.compute([x])


def test_every_flipped_bit_and_every_exchange_shows():
  x = array('float32', (2, 3))
  whole = checksums.compute([x])
  for bit in range(8 * x.nbytes):
    changed = x.copy()
    changed.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
    assert checksums.compute([changed]) != whole
  assert checksums.compute([x[:, ::-1]]) != whole
  assert checksums.compute([x[::-1]]) != whole
