"""Decoding and training are compiled with options of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import compilation, partitioning
from gqa_flax.compilation import DecodingJit
from gqa_flax.training.optimizer import adafactor
from gqa_flax.training.state import abstract_state, step_function

# Whole numbers, so that sums are the same in any order.
KERNEL = np.random.default_rng(0).integers(-9, 9, (64, 256)).astype(np.float32)
ROWS = np.ones((8, 64), np.float32)


@DecodingJit
def product(rows, kernel):
  return rows @ kernel


@pytest.fixture
def fresh_options():
  compilation.options.cache_clear()
  yield
  compilation.options.cache_clear()


def test_a_cpu_hands_no_product_of_decoding_to_ynnpack():
  plain = jax.jit(lambda rows, kernel: rows @ kernel)
  if 'ynn_fusion' not in plain.lower(ROWS, KERNEL).compile().as_text():
    pytest.skip('This XLA hands no product over.')
  assert 'ynn_fusion' not in product.lower(ROWS, KERNEL).compile().as_text()
  np.testing.assert_array_equal(product(ROWS, KERNEL), ROWS @ KERNEL)


@pytest.mark.parametrize('outer', [jax.jit, jax.vmap])
def test_inside_another_function_it_is_a_part_of_that(outer):
  rows = jnp.stack([ROWS, 2 * ROWS])
  doubled = outer(lambda rows: 2 * product(rows, KERNEL))(rows)
  np.testing.assert_array_equal(doubled, 2 * (rows @ KERNEL))


def test_inside_a_function_that_gives_it_constants_alone():
  found = jax.jit(lambda: product(ROWS, KERNEL))()
  np.testing.assert_array_equal(found, ROWS @ KERNEL)


@pytest.mark.parametrize('program', ['decoding', 'training'])
def test_no_options_for_other_devices(program):
  assert compilation.options(program, 'tpu') == {}


def test_no_options_that_xla_does_not_know(fresh_options, monkeypatch):
  options = {'decoding': {'xla_cpu_no_such_option': True}}
  monkeypatch.setattr(compilation, '_CPU', options)
  assert compilation.options('decoding', 'cpu') == {}


def test_training_hands_products_to_ynnpack_and_no_sums():
  options = compilation.options('training', 'cpu')

  def given(function, **arguments):
    compiled = jax.jit(function, **arguments).lower(KERNEL).compile()
    return 'ynn_fusion' in compiled.as_text()

  def summed(kernel):
    return jnp.sum(kernel, 0)

  if not given(summed):
    pytest.skip('This XLA hands no sum over.')
  assert not given(summed, compiler_options=options)
  assert given(lambda kernel: ROWS @ kernel, compiler_options=options)


def test_a_training_step_is_compiled_so(monkeypatch, tiny_config):
  asked = []

  def options(*given):
    asked.append(given)
    return {}

  monkeypatch.setattr(compilation, 'options', options)
  mesh = partitioning.make_mesh(devices=jax.devices()[:1])
  step_function(abstract_state(tiny_config, adafactor(), mesh))
  assert asked == [('training', 'cpu')]
