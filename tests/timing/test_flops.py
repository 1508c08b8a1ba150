"""The closed form against a count of the products in the model itself."""

import dataclasses
import math

import jax
import pytest

from gqa_flax.model.network import Transformer
from gqa_flax.timing.flops import forward_flops, training_flops
from gqa_flax.training.step import loss_and_metrics

BATCH, SOURCE, TARGET = 3, 7, 5


def products(jaxpr) -> int:
  """Returns the FLOPs of all matrix products of a traced function."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      inner = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    inside = [*equation.params.values()]
    if equation.params.get('branches_platforms'):  # the last is all others'
      inside = equation.params['branches'][-1:]
    for value in jax.tree.leaves(inside, is_leaf=lambda x: hasattr(x, 'eqns')):
      if hasattr(value, 'eqns'):
        total += products(value)
      elif hasattr(value, 'jaxpr'):
        total += products(value.jaxpr)
  return total


@pytest.fixture(params=[1, 2, 8])
def config(request, tiny_config):
  """All sizes differ, the layers of the two stacks too."""
  return dataclasses.replace(tiny_config, num_kv_heads=request.param)


def test_forward_and_training_are_what_the_model_multiplies(
  config, make_params, make_batch
):
  model, params = Transformer(config), make_params(config)
  batch = make_batch(config, BATCH, SOURCE, TARGET)

  def loss(params):
    return loss_and_metrics(model, params, batch)[0]

  forward = products(jax.make_jaxpr(loss)(params).jaxpr)
  both = products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  sizes = BATCH, SOURCE, TARGET
  assert forward_flops(config, *sizes) == forward > 0
  assert training_flops(config, *sizes) == both == 3 * forward


def test_six_flops_a_parameter_and_token_where_attention_is_small(tiny_config):
  config = dataclasses.replace(
    tiny_config, emb_dim=2048, mlp_dim=4096, vocab_size=128
  )
  # Of the two stacks, with as many positions in either.
  D, N, H = config.emb_dim, config.num_heads, config.head_dim
  attention = 4 * D * N * H
  mlp = 3 * D * config.mlp_dim
  layers = (attention + mlp) + 2 * (2 * attention + mlp)
  tokens = 4 * 16
  expected = 6 * tokens * (layers + D * config.vocab_size)
  found = training_flops(config, 4, 16, 16)
  assert expected <= found < 1.01 * expected


def test_it_grows_as_the_batch(tiny_config):
  assert training_flops(tiny_config, 6, 9, 4) == 3 * training_flops(
    tiny_config, 2, 9, 4
  )
