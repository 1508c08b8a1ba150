"""The plan of a run: numbers that can be counted by hand, or measured."""

import dataclasses

import jax
import numpy as np
import pytest

from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.partitioning.mesh import MeshShape
from gqa_flax.training import optimizer, plan
from gqa_flax.training.state import new_state

LENGTHS = {'inputs': 7, 'targets': 5}


@pytest.mark.parametrize('sizes', [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_bytes_of_a_device_are_those_that_it_holds(sizes, tiny_config):
  config = dataclasses.replace(tiny_config, num_kv_heads=2)
  planned = plan.plan(
    config=config,
    batch_size=16,
    sequence_length=LENGTHS,
    mesh=MeshShape(*sizes),
  )
  mesh = partitioning.make_mesh(MeshShape(*sizes))
  state = new_state(config, optimizer.adafactor(), 0, mesh)
  device = jax.devices()[3]

  def held(tree):
    return sum(
      shard.data.nbytes
      for x in jax.tree.leaves(tree)
      for shard in x.addressable_shards
      if shard.device == device
    )

  assert planned['bytes']['parameters'] == held(state.params)
  assert planned['bytes']['optimizer'] == held(state.opt_state)
  assert planned['parameters'] == sum(
    x.size for x in jax.tree.leaves(state.params)
  )
  assert tuple(planned['mesh'].values()) == sizes


def test_activations_grow_with_rows_and_shrink_with_remat(tiny_config):
  def kept(rows, **changes):
    config = dataclasses.replace(tiny_config, **changes)
    return plan.activation_bytes(config, rows, LENGTHS)

  assert kept(8) == pytest.approx(2 * kept(4), rel=0.02)
  assert kept(4, remat_policy='full') < kept(4, remat_policy='dots') < kept(4)
  # Logits and their gradient are float32, whatever the activations are.
  assert 0.4 * kept(4) < kept(4, dtype='bfloat16') < kept(4)


def test_remat_keeps_the_input_of_each_layer(tiny_config):
  """One more layer in the decoder: its input, and the encoder's output once."""
  config = dataclasses.replace(tiny_config, remat_policy='full')
  more = dataclasses.replace(config, num_decoder_layers=3)
  rows = 3
  added = plan.activation_bytes(more, rows, LENGTHS) - plan.activation_bytes(
    config, rows, LENGTHS
  )
  assert added >= rows * 5 * config.emb_dim * 4
  assert added < 20 * rows * 7 * config.emb_dim * 4


def test_a_larger_machine_is_planned_for_without_it():
  planned = plan.plan(
    config=T5Config.t5_1_1('xxl', num_kv_heads=8, remat_policy='full'),
    batch_size=128,
    sequence_length={'inputs': 64, 'targets': 16},
    num_devices=512,
  )
  assert planned['mesh'] == {'data': 16, 'fsdp': 8, 'model': 4}
  text = plan.table(planned)
  assert '(512 devices)' in text and 'GiB' in text
  total = sum(planned['bytes'].values())
  assert np.isfinite(total) and total > planned['bytes']['parameters']
