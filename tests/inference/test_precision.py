"""Parameters in fewer bytes: what they are, and what is decoded with them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import (
  Greedy,
  Transformer,
  beam_search,
  partitioning,
  sample_decode,
)
from gqa_flax.inference import decode, precision
from gqa_flax.partitioning.mesh import MeshShape

LENGTH = 6


def kernel(shape=(64, 24), seed=0):
  """Returns a kernel whose columns are of very different magnitudes."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape) * 10 ** rng.uniform(-6, 3, shape[1])


def test_no_element_is_off_by_more_than_half_a_scale():
  exact = jnp.asarray(kernel(), jnp.float32)
  kept = precision.Int8Kernel.of(exact)
  assert (kept.values.dtype, kept.scale.dtype) == (jnp.int8, jnp.float32)
  np.testing.assert_allclose(
    kept.scale, np.abs(exact).max(axis=0) / 127, rtol=1e-6
  )
  values, scale = (np.asarray(x, np.float64) for x in (kept.values, kept.scale))
  error = np.abs(values * scale - np.asarray(exact, np.float64))
  # A quotient of up to 127 is rounded to 2**-24 of itself before.
  assert (error <= scale * (0.5 + 127 * 2**-24)).all()
  assert (error > 0.4 * scale).any()
  np.testing.assert_allclose(kept.array(), values * scale, rtol=2**-23)


def test_a_kernel_that_int8_can_say_is_kept_to_the_bit():
  """Whole multiples, to 127, of a power of two; and a column of zeros."""
  rng = np.random.default_rng(0)
  exact = rng.integers(-127, 128, (64, 24)).astype(np.float32)
  exact[3] = -127
  exact *= 2.0 ** rng.integers(-20, 20, 24)
  exact[:, 5] = 0
  found = precision.Int8Kernel.of(jnp.asarray(exact)).array()
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize(('dtype', 'width'), [('bfloat16', 2), ('int8', 1)])
def test_bytes_are_those_of_the_dtype(tiny_config, tiny_params, dtype, width):
  """Embedding, biases and norms have two bytes; a column's scale has four."""
  D, N, H, F, V = 16, 8, 4, 24, 64
  attention = 4 * D * N * H, 3 * N * H + D
  mlp = 3 * D * F, 2 * F + D
  kernels, columns = (
    3 * attention[i] + 2 * attention[i] + 3 * mlp[i] + (D * V, V)[i]
    for i in range(2)
  )
  rest = V * D + 2 * N * 32 + (2 + 2 * 3 + 2) * D
  params = precision.prepare(tiny_params, dtype)
  held = sum(x.nbytes for x in jax.tree.leaves(params))
  scales = 4 * columns if dtype == 'int8' else 0
  assert held == width * kernels + scales + 2 * rest
  assert jax.tree.map(jnp.shape, precision.weights(params)) == jax.tree.map(
    jnp.shape, tiny_params
  )


def test_float32_is_left_alone(tiny_params):
  prepared = precision.prepare(tiny_params, 'float32')
  for found in (prepared, precision.weights(prepared)):
    assert jax.tree.structure(found) == jax.tree.structure(tiny_params)
    for x, same in zip(jax.tree.leaves(found), jax.tree.leaves(tiny_params)):
      assert x is same


def test_an_unknown_dtype_is_one_sentence(tiny_params):
  message = r"param_dtype is 'int4'; .* PARAM_DTYPE.* \['float32', 'bfloat16',"
  with pytest.raises(ValueError, match=message):
    precision.prepare(tiny_params, 'int4')


def array_of(x):
  """Returns what was kept as a float32 array, by NumPy."""
  if isinstance(x, precision.Int8Kernel):
    return np.asarray(x.values).astype(np.float32) * np.asarray(x.scale)
  return np.asarray(x, np.float32)


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_tokens_are_those_of_the_arrays_put_in_by_hand(
  tiny_config, make_params, make_batch, dtype
):
  config = dataclasses.replace(tiny_config, num_kv_heads=2)
  model = Transformer(config)
  encoder_tokens = make_batch(config, batch=16)['encoder_input_tokens']
  prepared = precision.prepare(make_params(config), dtype)
  by_hand = jax.tree.map(
    array_of,
    prepared,
    is_leaf=lambda x: isinstance(x, precision.Int8Kernel),
  )
  found, expected = (
    sample_decode(model, params, encoder_tokens, LENGTH, Greedy())
    for params in (prepared, by_hand)
  )
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(found)) > 4
  (tokens, scores), (expected_tokens, expected_scores) = (
    beam_search(model, params, encoder_tokens, LENGTH, beam_size=3)
    for params in (prepared, by_hand)
  )
  np.testing.assert_array_equal(tokens, expected_tokens)
  np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_no_step_reads_what_was_converted_before_the_loop(
  tiny_config, make_params, dtype
):
  """What a compiled loop carries: no float32 kernel, no float32 encoding.

  Lengths are primes, so that arrays of the source show by their shape.
  """
  name = {'bfloat16': 'bf16', 'int8': 's8'}[dtype]
  config = dataclasses.replace(
    tiny_config, num_kv_heads=2, mlp_dim=23, cache_dtype='int8'
  )
  params = precision.prepare(make_params(config), dtype)
  lowered = decode._decode.lower(
    Transformer(config),
    13,
    Greedy(),
    True,
    params,
    jnp.ones((3, 11), jnp.int32),
    jax.random.key(0),
  )
  # The program's own loop: attention has others, of a group's queries.
  _, program = lowered.compile().as_text().split('\nENTRY ')
  loop = re.search(r'= \((.*?)\) while\(', program)
  found = set(re.findall(r'(\w+)\[([\d,]+)\]', loop.group(1)))
  for shape in ('16,23', '23,16', '16,64', '16,32', '32,16'):
    assert (name, shape) in found
    assert ('f32', shape) not in found
  encodings = {
    kind
    for kind, shape in found
    if np.prod([*map(int, shape.split(','))]) == 3 * 2 * 11 * 4
  }
  assert encodings == {'s8'}


@pytest.mark.slow
@pytest.mark.parametrize('num_kv_heads', [1, 2, 8])
def test_eight_devices_decode_the_same_tokens(
  tiny_config, make_params, make_batch, num_kv_heads
):
  """Kernels of int8 divided as they were, and either layout of the cache."""
  config = dataclasses.replace(
    tiny_config, num_kv_heads=num_kv_heads, cache_dtype='int8'
  )
  params = precision.prepare(make_params(config), 'int8')
  inputs = make_batch(config, batch=16)['encoder_input_tokens']
  expected = decode.greedy_decode(Transformer(config), params, inputs, LENGTH)
  mesh = partitioning.make_mesh(MeshShape(2, 2, 2))
  shardings = partitioning.param_shardings(params, config, mesh)
  with jax.set_mesh(mesh):
    divided = jax.device_put(params, shardings)
    wo = divided['decoder']['layers_0']['mlp']['wo']['kernel']
    assert not wo.values.sharding.is_fully_replicated
    inputs = partitioning.spread_batch({'x': inputs}, mesh)['x']
    for layout in ('heads', 'batch'):
      model = Transformer(dataclasses.replace(config, cache_sharding=layout))
      found = decode.greedy_decode(model, divided, inputs, LENGTH)
      np.testing.assert_array_equal(found, expected)
  assert len(np.unique(expected)) > 4
