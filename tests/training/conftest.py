"""A run of the loop on a tiny model, and the batches it is fed."""

import dataclasses
import pathlib

import numpy as np
import pytest

from gqa_flax.training import loop, optimizer


class CountingBatches:
  """Endless batches drawn from their number, which is the position.

  What shall happen before a batch is given by `before`, a function of its
  number.
  """

  batch_size = 8

  def __init__(self, make_batch, config, before=lambda position: None):
    self.make_batch, self.config, self.before = make_batch, config, before
    self.position = 0

  def __iter__(self):
    return self

  def __next__(self):
    self.position += 1
    self.before(self.position)
    return self.make_batch(self.config, batch=8, seed=self.position)

  def assign(self, rows, num_processes, process):
    assert (num_processes, process) == (1, 0)
    np.testing.assert_array_equal(rows(8, 0), np.arange(8))

  def save(self, directory):
    pathlib.Path(directory, 'position').write_text(str(self.position))

  def restore(self, directory):
    self.position = int(pathlib.Path(directory, 'position').read_text())


@pytest.fixture(scope='session')
def counting_batches():
  return CountingBatches


@pytest.fixture
def run(tiny_config, make_batch, tmp_path):
  """Trains up to a step, in a folder of the name given."""
  config = dataclasses.replace(tiny_config, dropout_rate=0.1)

  def run(name, train_steps, before=lambda position: None, **kwargs):
    arguments = {
      'model_dir': str(tmp_path / name),
      'config': config,
      'train_data': CountingBatches(make_batch, config, before),
      'train_steps': train_steps,
      'learning_rate': optimizer.rsqrt_schedule(100),
      'checkpoint_every': 2,
      'evaluate_every': 2,
      'log_every': 1,
      **kwargs,
    }
    return loop.train(**arguments)

  return run
