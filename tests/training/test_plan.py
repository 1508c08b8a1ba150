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


@pytest.mark.slow
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


def test_without_remat_products_and_exponentials_are_kept(tiny_config):
  """One layer more, counted by hand; what is elementwise is not kept."""
  config = dataclasses.replace(tiny_config, num_kv_heads=2)
  B, S, T = 3, LENGTHS['inputs'], LENGTHS['targets']
  D, F = config.emb_dim, config.mlp_dim
  heads, kv_heads = 8 * config.head_dim, 2 * config.head_dim
  mlp = 2 * F + D  # of a position: wi_0, wi_1, wo
  encoder = S * (3 * heads + heads + D) + 8 * S * S + S * mlp
  decoder = (
    T * (heads + 2 * kv_heads + heads + D)
    + 8 * T * T
    + (T * heads + 2 * S * kv_heads + T * heads + T * D)
    + 8 * T * S
    + T * mlp
  )
  kept = plan.activation_bytes(config, B, LENGTHS)
  for stack, expected in (('encoder', encoder), ('decoder', decoder)):
    name = f'num_{stack}_layers'
    more = dataclasses.replace(config, **{name: getattr(config, name) + 1})
    added = plan.activation_bytes(more, B, LENGTHS) - kept
    assert added == 4 * B * expected, stack


def test_remat_computes_again_what_a_layer_does_not_keep(tiny_config):
  rows, S = 3, LENGTHS['inputs']

  def recomputed(policy):
    config = dataclasses.replace(tiny_config, remat_policy=policy)
    return plan.recomputed_bytes(config, rows, LENGTHS)

  assert recomputed('none') == 0
  # Products without batch dimensions are kept by 'dots': what is left are the
  # weights of attention, and what they read.
  weights = 4 * rows * 8 * S * S
  assert weights < recomputed('dots') < recomputed('full')


@pytest.mark.slow
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
