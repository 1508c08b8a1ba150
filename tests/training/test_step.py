"""Losses, gradients and Adafactor against T5X; properties of a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import Transformer, partitioning
from gqa_flax.training import losses, optimizer
from gqa_flax.training.step import TrainState, loss_and_metrics, train_step


def start(params, transformation):
  params = jax.tree.map(jnp.asarray, params)
  return TrainState(jnp.int32(0), params, transformation.init(params))


def compiled_step(model, transformation, **kwargs):
  arguments = {
    'learning_rate': optimizer.constant_schedule(1e-3),
    'loss_normalizing_factor': 'NUM_REAL_TARGET_TOKENS',
    **kwargs,
  }
  return jax.jit(
    functools.partial(
      train_step, model=model, optimizer=transformation, **arguments
    )
  )


def assert_trees_close(actual, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected
  )


def test_loss_and_every_gradient_equal_t5x(golden):
  @jax.jit
  def loss_and_gradients(params):
    return jax.value_and_grad(
      lambda p: loss_and_metrics(golden.model, p, golden.batch)[0]
    )(params)

  loss, gradients = loss_and_gradients(golden.params)
  np.testing.assert_allclose(loss, golden['loss_sum_with_z_loss'], rtol=1e-5)
  # Relative to the largest entry of each array: entries near zero are sums
  # that cancel, and hold rounding errors alone.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-5 * np.abs(b).max()
    ),
    gradients,
    golden.tree('grads'),
  )


def test_log_likelihoods_equal_t5x(golden, logits_of):
  logits = logits_of(golden.model, golden.params, golden.batch)
  loss, _ = losses.cross_entropy_with_z_loss(
    logits, golden.batch['decoder_target_tokens'], z_loss=0.0
  )
  real = golden.batch['decoder_target_tokens'] > 0
  scores = -jnp.sum(loss * real.astype(np.float32), axis=1)
  np.testing.assert_allclose(scores, golden['scores'], rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'min_dim_size_to_factor'),
  [('adafactor', 128), ('adafactor_min16', 16)],
)
def test_three_adafactor_steps_equal_t5x(golden, name, min_dim_size_to_factor):
  transformation = optimizer.adafactor(min_dim_size_to_factor)
  state = start(golden.params, transformation)
  step = compiled_step(golden.model, transformation)
  for expected_loss in golden[f'{name}/losses']:
    state, metrics = step(state, golden.batch, None)
    loss = (metrics.cross_entropy + metrics.z_loss) / metrics.tokens
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  assert int(state.step) == 3
  expected = golden.tree(f'{name}/params')
  assert_trees_close(state.params, expected, atol=1e-5, rtol=0)


def test_microbatches_change_nothing(golden):
  transformation = optimizer.adafactor()
  whole, halves = (
    compiled_step(golden.model, transformation, microbatches=m)(
      start(golden.params, transformation), golden.batch, None
    )
    for m in (1, 2)
  )
  assert_trees_close(whole[0].params, halves[0].params, atol=1e-6)
  assert_trees_close(whole[1], halves[1], rtol=1e-6)


@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_one_device_equals_eight(
  tiny_config, make_params, make_batch, num_kv_heads
):
  config = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  transformation = optimizer.adafactor()
  step = compiled_step(Transformer(config), transformation)
  batch = make_batch(config, batch=16)
  results = []
  for count in (1, 8):
    mesh = partitioning.data_parallel_mesh(jax.devices()[:count])
    state = jax.device_put(
      start(make_params(config), transformation), partitioning.replicated(mesh)
    )
    for _ in range(2):
      state, metrics = step(state, partitioning.shard_batch(batch, mesh), None)
    results.append(jax.device_get((state.params, metrics)))
  assert_trees_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_a_batch_that_devices_cannot_share_is_refused(tiny_config, make_batch):
  mesh = partitioning.data_parallel_mesh()
  with pytest.raises(ValueError, match='12 examples cannot be split over 8'):
    partitioning.shard_batch(make_batch(tiny_config, batch=12), mesh)


def test_dropout_follows_seed_and_step(tiny_config, tiny_params, make_batch):
  config = dataclasses.replace(tiny_config, dropout_rate=0.5)
  transformation = optimizer.adafactor()
  step = compiled_step(Transformer(config), transformation)
  batch = make_batch(config)
  state = start(tiny_params, transformation)

  def loss(state, seed):
    return float(step(state, batch, jax.random.key(seed))[1].cross_entropy)

  later = TrainState(jnp.int32(1), state.params, state.opt_state)
  assert loss(state, 0) == loss(state, 0)
  assert len({loss(state, 0), loss(state, 1), loss(later, 0)}) == 3


def test_cross_entropy_and_z_loss_by_hand():
  logits = jnp.log(jnp.asarray([[[1.0, 2.0, 5.0]]]))  # sums to 8
  loss, z = losses.cross_entropy_with_z_loss(
    logits, jnp.asarray([[1]]), z_loss=0.1
  )
  assert float(z[0, 0]) == pytest.approx(0.1 * np.log(8) ** 2)
  assert float(loss[0, 0]) == pytest.approx(np.log(8 / 2) + float(z[0, 0]))


@pytest.mark.parametrize(
  ('factor', 'expected'),
  [
    (None, 1),
    (233472.0, 233472),
    ('NUM_REAL_TARGET_TOKENS', 5),
    ('NUM_TOTAL_TARGET_TOKENS', 8),
    ('AVERAGE_PER_SEQUENCE', [[8], [2]]),
  ],
)
def test_loss_normalizers_by_hand(factor, expected):
  weights = jnp.asarray([[1.0, 1, 1, 1], [1, 0, 0, 0]])
  batch = {'decoder_loss_weights': weights}
  np.testing.assert_array_equal(losses.loss_normalizer(batch, factor), expected)


def test_unknown_loss_normalizer_is_refused():
  batch = {'decoder_loss_weights': jnp.ones((1, 1))}
  with pytest.raises(ValueError, match="'TOKENS'; set it to a positive"):
    losses.loss_normalizer(batch, 'TOKENS')


def test_schedules():
  rsqrt = optimizer.rsqrt_schedule()
  for step, rate in ((0, 0.01), (10_000, 0.01), (1_000_000, 0.001)):
    assert float(rsqrt(jnp.int32(step))) == pytest.approx(rate)
  assert float(optimizer.constant_schedule(1e-3)(5)) == pytest.approx(1e-3)


def test_step_donates_its_state(tiny_config, tiny_params, make_batch):
  """A donated state is updated in place: the old buffers are gone."""
  transformation = optimizer.adafactor()
  arguments = {
    'model': Transformer(tiny_config),
    'optimizer': transformation,
    'learning_rate': optimizer.constant_schedule(1e-3),
  }
  step = jax.jit(functools.partial(train_step, **arguments), donate_argnums=0)
  state = start(jax.tree.map(jnp.copy, tiny_params), transformation)
  step(state, make_batch(tiny_config), None)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
