"""What two processes write one reads, and the other way round."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gqa_flax.checkpoints import native

# Run by each process: reads what one process wrote, writes it anew, and then
# cannot read the newest of its own, at least process 1 cannot.
WORKER = """
import json, os, sys, warnings
import jax, numpy as np
address, index, read, write = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from gqa_flax.checkpoints import native, orbax_items
from gqa_flax.checkpoints.architecture import abstract_params

class Position:
  def __init__(self, number):
    self.number = number
  def path(self, folder):
    return folder / f'position-{index}'
  def save(self, folder):
    self.path(folder).write_text(str(self.number))
  def restore(self, folder):
    self.number = int(self.path(folder).read_text())

def sharding(x):
  split = x.ndim and x.shape[0] % 4 == 0
  return NamedSharding(mesh, PartitionSpec('fsdp' if split else None))

mesh = Mesh(np.array(jax.devices()), ('fsdp',))
assert mesh.size == 4
found = native.restore(
  read, lambda config: jax.tree.map(sharding, abstract_params(config))
)
target = {'v': jax.ShapeDtypeStruct(
  (8, 3), np.float32, sharding=NamedSharding(mesh, PartitionSpec('fsdp'))
)}
state = native.restore_optimizer(read, target)
position = Position(10 + int(index))
manager = native.checkpoint_manager(write, keep=2, background=True)
for step in (6, 7, 8):
  native.save(
    manager,
    native.Checkpoint(step, found.params, found.config),
    opt_state=state,
    data=position,
  )
  position.number += 2
native.wait(manager)
if index == '1':
  # What process 0 reads is whole.
  read_arrays = orbax_items.read_arrays
  def damaged(stores, wanted):
    if any('checkpoint_8' in x.kvstore.url for x in stores.values()):
      raise ValueError('DATA_LOSS')
    return read_arrays(stores, wanted)
  orbax_items.read_arrays = damaged
multihost_utils.sync_global_devices('damaged')

def read_step(step):
  native.restore(
    f'{write}/checkpoint_{step}',
    jax.tree.map(sharding, abstract_params(found.config)),
  )
  native.restore_training(manager, step, opt_state=target, data=position)
  return step

with warnings.catch_warnings(record=True) as caught:
  step = native.restore_latest_whole(manager, read_step)
manager.close()
ours = [x for x in caught if 'damaged' in str(x.message)]
print(json.dumps([step, position.number, len(ours)]))
"""


@pytest.fixture
def written(tiny_config, tiny_params, tmp_path):
  folder = tmp_path / 'one'
  mesh = Mesh(np.array(jax.devices()), ('fsdp',))
  values = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  there = NamedSharding(mesh, PartitionSpec('fsdp'))
  with native.checkpoint_manager(folder) as manager:
    native.save(
      manager,
      native.Checkpoint(5, tiny_params, tiny_config),
      opt_state={'v': jax.device_put(values, there)},
    )
  return folder, values


@pytest.mark.alone
def test_two_processes_and_one(
  written, tiny_config, tiny_params, tmp_path, free_port
):
  folder, values = written
  address = f'localhost:{free_port()}'
  arguments = [str(folder), str(tmp_path / 'two')]
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2 '
    '--xla_backend_optimization_level=0',
  }
  workers = [
    subprocess.Popen(
      [sys.executable, '-c', WORKER, address, str(index), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )
    for index in range(2)
  ]
  try:
    outputs = [worker.communicate(timeout=120) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  for worker, (_, errors) in zip(workers, outputs):
    assert worker.returncode == 0, errors
  # Both went back to step 7, each to its own position; one of them warned.
  results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
  assert results == [[7, 12, 1], [7, 13, 0]]
  assert sorted(p.name for p in (tmp_path / 'two').iterdir()) == [
    'checkpoint_7',
    'corrupt_checkpoint_8',
  ]
  restored = native.restore(tmp_path / 'two')
  assert (restored.step, restored.config) == (7, tiny_config)
  jax.tree.map(np.testing.assert_array_equal, restored.params, tiny_params)
  state = native.restore_optimizer(tmp_path / 'two', {'v': values})
  np.testing.assert_array_equal(state['v'], values)
