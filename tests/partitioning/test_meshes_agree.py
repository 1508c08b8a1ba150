"""Any mesh trains the same losses and decodes the same tokens."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from gqa_flax import partitioning
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning.mesh import MeshShape
from gqa_flax.training import optimizer
from gqa_flax.training.state import new_state, step_function

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


@functools.cache
def train_and_decode(config, sizes, make_batch, layouts=('auto',)):
  """Returns 20 losses, and tokens decoded with each layout of the cache."""
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = partitioning.make_mesh(MeshShape(*sizes), devices=devices)
  adafactor = optimizer.adafactor(8)
  with jax.set_mesh(mesh):
    state = new_state(config, adafactor, 0, mesh)
    step = step_function(
      state,
      model=Transformer(config),
      optimizer=adafactor,
      learning_rate=optimizer.constant_schedule(1e-2),
      loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
    )
    losses = []
    for i in range(20):
      batch = make_batch(config, batch=16, seed=i)
      state, metrics = step(
        state, partitioning.shard_batch(batch, mesh), jax.random.key(1)
      )
      metrics = jax.device_get(metrics)
      losses.append((metrics.cross_entropy + metrics.z_loss) / metrics.tokens)
    inputs = make_batch(config, batch=16, seed=99)['encoder_input_tokens']
    inputs = partitioning.spread_batch({'x': inputs}, mesh)['x']
    tokens = {}
    for layout in layouts:
      model = Transformer(dataclasses.replace(config, cache_sharding=layout))
      decoded = greedy_decode(model, state.params, inputs, 6)
      tokens[layout] = np.asarray(decoded)
  return np.array(losses), tokens


@pytest.mark.slow
@pytest.mark.parametrize('sizes', MESHES)
@pytest.mark.parametrize('kv_heads', [8, 2, 1])
def test_losses_and_tokens(kv_heads, sizes, tiny_config, make_batch):
  config = dataclasses.replace(
    tiny_config, num_kv_heads=kv_heads, dropout_rate=0.1
  )
  losses, tokens = train_and_decode(config, (1, 1, 1), make_batch)
  layouts = ('auto', 'heads', 'batch') if sizes == (2, 2, 2) else ('auto',)
  others, other_tokens = train_and_decode(config, sizes, make_batch, layouts)
  np.testing.assert_allclose(others, losses, rtol=1e-5)
  assert len(np.unique(losses)) == 20
  for layout in layouts:
    np.testing.assert_array_equal(other_tokens[layout], tokens['auto'])
  assert len(np.unique(tokens['auto'])) > 2
