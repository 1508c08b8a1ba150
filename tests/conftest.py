"""Strict JAX, eight virtual CPU devices, and what many tests share."""

import functools
import os
import tempfile

# Before JAX is imported: it reads them once.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Shapes are tiny here: compiling is what takes the time.
    '--xla_backend_optimization_level=0',
  ]
)

# What one test compiled, another and the processes it starts read again.
os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

import atexit
import json
import pathlib
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer

atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], True)
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'


class Golden:
  """What T5X computed for a tiny T5.1.1; see fixtures/README.md."""

  def __init__(self):
    folder = FIXTURES / 't5x_tiny'
    self.config = T5Config(**json.loads((folder / 'config.json').read_text()))
    with np.load(folder / 'golden.npz') as arrays:
      self.arrays = dict(arrays)
    self.params = self.tree('params')
    self.batch = self.flat('batch')
    self.model = Transformer(self.config)

  def __getitem__(self, name):
    return self.arrays[name]

  def flat(self, prefix):
    """Returns the arrays below a prefix, without it."""
    start = f'{prefix}/'
    return {
      name.removeprefix(start): array
      for name, array in self.arrays.items()
      if name.startswith(start)
    }

  def tree(self, prefix):
    """Returns the arrays below a prefix as a nested dict."""
    return traverse_util.unflatten_dict(self.flat(prefix), sep='/')


@pytest.fixture(scope='session')
def golden():
  return Golden()


@pytest.fixture(scope='session')
def tiny_config():
  """Eight heads, so that K = 1, 2, 4 and 8 all differ."""
  return T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=8,
    head_dim=4,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=2,
    dropout_rate=0.0,
  )


@pytest.fixture(scope='session')
def tiny_params(tiny_config):
  return init_params(tiny_config)


@functools.cache
def init_params(config, seed=0):
  token = jnp.zeros((1, 1), jnp.int32)
  init = jax.jit(Transformer(config).init)
  return init(jax.random.key(seed), token, token, token)['params']


@functools.partial(jax.jit, static_argnames='model')
def compute_logits(model, params, batch):
  """Runs the model on what it takes of a batch; compiled once a shape."""
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}
  return model.apply({'params': params}, **inputs)


def random_batch(config, batch=4, source=7, target=5, seed=0):
  """Returns a batch with padding at the end of some rows."""
  rng = np.random.default_rng(seed)

  def tokens(length):
    x = rng.integers(2, config.vocab_size, (batch, length)).astype(np.int32)
    lengths = rng.integers(length // 2, length + 1, batch)
    return np.where(np.arange(length) < lengths[:, None], x, 0).astype(np.int32)

  targets = tokens(target)
  return {
    'encoder_input_tokens': tokens(source),
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.float32),
  }


@pytest.fixture(scope='session')
def make_params():
  return init_params


@pytest.fixture(scope='session')
def logits_of():
  return compute_logits


@pytest.fixture(scope='session')
def make_batch():
  return random_batch


def find_free_port():
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


@pytest.fixture(scope='session')
def free_port():
  return find_free_port
