"""Models whose heads can be shared exactly, and text that never was."""

import numpy as np
import pytest
from flax import traverse_util

from gqa_flax.conversion.plan import ATTENTIONS
from gqa_flax.conversion.statistics import Moments, Statistics


def attentions_of(config):
  return [
    f'decoder/layers_{i}/{kind}'
    for i in range(config.num_decoder_layers)
    for kind in ATTENTIONS
  ]


def draw_statistics(config, seed=0):
  """Moments of inputs whose directions differ in size by a factor of ten."""
  rng = np.random.default_rng(seed)
  D = config.emb_dim

  def moments():
    x = rng.normal(size=(4 * D, D)) * np.geomspace(0.3, 3, D)
    x = x @ rng.normal(size=(D, D)) / D**0.5
    second = (x.T @ x / len(x)).astype(np.float32)
    mean = x.mean(axis=0)
    return Moments(second, second - np.outer(mean, mean).astype(np.float32))

  names = [*attentions_of(config), 'encoder']
  return Statistics({name: moments() for name in names}, 100)


def rotations(rng, number, H):
  return np.stack(
    [np.linalg.qr(rng.normal(size=(H, H)))[0] for _ in range(number)]
  )


def invertible(rng, number, H):
  values = rng.uniform(0.7, 1.4, (number, 1, H))
  return rotations(rng, number, H) * values @ rotations(rng, number, H)


def equal(rng, number, H):
  del rng
  return np.tile(np.eye(H), (number, 1, 1))


# What a method still shares without a loss.
TURNS = {
  'mean': equal,
  'first': equal,
  'aligned': rotations,
  'subspace': invertible,
}


def share(params, config, method, families_of, seed=0):
  """Returns params in which key and value heads of one family span one space.

  Args:
    params: of `config`.
    config: the architecture.
    method: of `TURNS`, which says how the heads of a family differ.
    families_of: gives each head's family, by the attention's name.
    seed: of the random choices.
  """
  rng = np.random.default_rng(seed)
  K, H, D = config.num_kv_heads, config.head_dim, config.emb_dim
  flat = traverse_util.flatten_dict(params, sep='/')
  for attention in attentions_of(config):
    families = np.asarray(families_of(attention))
    for projection in ('key', 'value'):
      ones = rng.normal(size=(families.max() + 1, D, H)) / D**0.5
      heads = ones[families] @ TURNS[method](rng, K, H)
      kernel = heads.transpose(1, 0, 2).reshape(D, K * H)
      flat[f'{attention}/{projection}/kernel'] = kernel.astype(np.float32)
  return traverse_util.unflatten_dict(flat, sep='/')


@pytest.fixture(scope='session')
def attentions(tiny_config):
  return attentions_of(tiny_config)


@pytest.fixture(scope='session')
def some_statistics():
  return draw_statistics


@pytest.fixture(scope='session')
def shareable():
  return share
