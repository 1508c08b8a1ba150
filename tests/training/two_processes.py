"""One of two processes that train and decode; `test_many_hosts` starts them.

Arguments: the coordinator's address, how many processes, the index of this one,
and the folder of the run. The result goes to <folder>/<name>.npz.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

from gqa_flax import partitioning
from gqa_flax.checkpoints import native
from gqa_flax.config import T5Config
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning import hosts
from gqa_flax.training import loop, optimizer

CONFIG = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=8,
  head_dim=4,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=2,
  dropout_rate=0.1,
)


class Rows:
  """Batches drawn from their number; each process feeds its own rows."""

  batch_size = 16

  def __init__(self):
    self.position = 0

  def __iter__(self):
    return self

  def assign(self, rows, num_processes, process):
    self.rows = rows(self.batch_size, process)
    self.writes = process == 0

  def __next__(self):
    self.position += 1
    rng = np.random.default_rng(self.position)
    tokens = rng.integers(2, 64, (16, 12)).astype(np.int32)
    targets = tokens[self.rows, 7:]
    return {
      'encoder_input_tokens': tokens[self.rows, :7],
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_target_tokens': targets,
      'decoder_loss_weights': np.ones_like(targets),
    }

  def save(self, directory):
    if self.writes:
      pathlib.Path(directory, 'position').write_text(str(self.position))

  def restore(self, directory):
    self.position = int(pathlib.Path(directory, 'position').read_text())


def train_and_decode(folder, kv_heads, sizes, steps):
  """Trains to a step, decodes, and returns losses by step and tokens."""
  config = dataclasses.replace(CONFIG, num_kv_heads=kv_heads)
  data = Rows()
  shape = partitioning.MeshShape(*sizes)
  state = loop.train(
    model_dir=str(folder),
    config=config,
    train_data=data,
    train_steps=steps,
    learning_rate=optimizer.constant_schedule(0.1),
    optimizer=optimizer.adafactor(8),
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
    log_every=1,
    checkpoint_every=10,
    mesh=shape,
  )
  mesh = partitioning.make_mesh(shape)
  inputs = np.random.default_rng(0).integers(2, 64, (16, 7)).astype(np.int32)
  with jax.set_mesh(mesh):
    placed = partitioning.spread_batch({'x': inputs}, mesh)['x']
    tokens = greedy_decode(Transformer(config), state.params, placed, 6)
    return np.asarray(jax.device_get(tokens))


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return np.array([json.loads(line)['loss'] for line in lines])


def final(folder, step):
  """Returns the arrays of a checkpoint, on the devices of this process."""
  params = native.restore(folder / f'checkpoint_{step}').params
  return [np.asarray(x) for x in jax.tree.leaves(params)]


if __name__ == '__main__':
  address, count, index, root, jobs = sys.argv[1:]
  hosts.initialize(address, int(count), int(index))
  for name, kv_heads, sizes, steps in json.loads(jobs):
    tokens = train_and_decode(pathlib.Path(root, name), kv_heads, sizes, steps)
    if hosts.is_primary():
      np.save(pathlib.Path(root, f'{name}.npy'), tokens)
