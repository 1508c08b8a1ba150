import os
import signal
import subprocess
import sys

import jax
import pytest

from gqa_flax.partitioning import hosts

SLURM = {
  'SLURM_JOB_ID': '4096',
  'SLURM_STEP_NODELIST': 'localhost',
  'SLURM_NTASKS': '2',
  'SLURM_PROCID': '0',
  'SLURM_LOCALID': '0',
}
OMPI = {
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://127.0.0.1:34911',
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '0',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
BATCH_SHELL = {
  k: v for k, v in SLURM.items() if k not in ('SLURM_STEP_NODELIST',)
}
POD = {'TPU_WORKER_HOSTNAMES': 't1v-w-0,t1v-w-1', 'TPU_WORKER_ID': '1'}
SLICES = {'TPU_WORKER_HOSTNAMES': 'localhost', 'MEGASCALE_NUM_SLICES': '2'}


@pytest.fixture
def clean(monkeypatch):
  """An environment that tells of no cluster, on a platform that may be any."""
  for name in list(os.environ):
    if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_')):
      monkeypatch.delenv(name)
  # As JAX sets it, when imported, on a machine without TPUs.
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.delenv('JAX_LOCAL_DEVICE_IDS', raising=False)
  monkeypatch.setattr(type(jax.config), 'jax_platforms', None, raising=False)
  return monkeypatch


@pytest.fixture
def calls(clean):
  """Records what jax.distributed.initialize is given, and joins nobody."""
  calls = []
  clean.setattr(
    jax.distributed, 'initialize', lambda **kwargs: calls.append(kwargs)
  )
  return calls


def set_environment(monkeypatch, variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
  'variables',
  [
    {},
    BATCH_SHELL,
    {**SLURM, 'SLURM_NTASKS': '1'},
    {**OMPI, 'OMPI_COMM_WORLD_SIZE': '1'},
    {'TPU_WORKER_HOSTNAMES': 'localhost'},
    {'TPU_WORKER_HOSTNAMES': 'localhost', 'MEGASCALE_NUM_SLICES': '1'},
  ],
  ids=['laptop', 'sbatch', 'srun -n1', 'mpirun -n1', 'one host', 'one slice'],
)
def test_one_process_joins_nobody(calls, monkeypatch, variables):
  set_environment(monkeypatch, variables)
  hosts.initialize()
  assert calls == []


@pytest.mark.parametrize(
  'variables, method, device_ids',
  [
    (SLURM, 'slurm', None),
    ({**SLURM, 'SLURM_STEP_TASKS_PER_NODE': '1(x2)'}, 'slurm', []),
    ({**SLURM, 'SLURM_STEP_TASKS_PER_NODE': '8(x2)'}, 'slurm', None),
    ({**SLURM, 'SLURM_STEP_TASKS_PER_NODE': '10'}, 'slurm', None),
    (OMPI, 'ompi', None),
    ({**OMPI, 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, 'ompi', []),
    (POD, 'gketpu', []),
    (SLICES, 'gketpu', []),
  ],
)
def test_launchers_are_recognised(
  calls, monkeypatch, variables, method, device_ids
):
  set_environment(monkeypatch, variables)
  hosts.initialize(heartbeat_seconds=30)
  assert calls == [
    {
      'coordinator_address': None,
      'num_processes': None,
      'process_id': None,
      'local_device_ids': device_ids,
      'cluster_detection_method': method,
      'heartbeat_timeout_seconds': 30,
    }
  ]


def test_tpu_vm_is_recognised_by_its_chips(calls, monkeypatch):
  monkeypatch.delenv('TPU_SKIP_MDS_QUERY')
  monkeypatch.setattr(hosts.importlib.util, 'find_spec', lambda name: name)
  hosts.initialize()
  assert [call['cluster_detection_method'] for call in calls] == ['gcetpu']
  # The chips are there, but this program was told to leave them alone.
  monkeypatch.setattr(type(jax.config), 'jax_platforms', 'cpu')
  hosts.initialize()
  assert len(calls) == 1


def test_explicit_arguments_win_and_search_nowhere(calls, monkeypatch):
  set_environment(monkeypatch, SLURM)
  hosts.initialize('10.0.0.1:8476', 4, 3)
  (call,) = calls
  assert call['coordinator_address'] == '10.0.0.1:8476'
  assert (call['num_processes'], call['process_id']) == (4, 3)
  assert call['cluster_detection_method'] is None
  # With all four, JAX does not look for a cluster.
  assert call['local_device_ids'] == []
  monkeypatch.setenv('JAX_LOCAL_DEVICE_IDS', '2')
  hosts.initialize('10.0.0.1:8476', 4, 3)
  assert calls[1]['local_device_ids'] is None


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('h:1', None, 0), '^--process_count missing beside --coordinator_address'),
    ((None, 2, None), '--coordinator_address and --process_index missing'),
    (('h:1', 2, 2), '--process_index is 2.*numbered from 0 to 1'),
    (('h:1', 2, -1), '--process_index is -1'),
    (('h:1', 0, 0), '--process_count is 0'),
    (('h', 2, 0), "'h'; give host:port"),
    (('h:70000', 2, 0), "'h:70000'"),
    ((':80', 2, 0), "':80'"),
  ],
)
def test_mistakes_are_named(calls, arguments, message):
  with pytest.raises(ValueError, match=message):
    hosts.initialize(*arguments)
  assert calls == []


def test_too_late_is_said():
  jax.devices()
  with pytest.raises(RuntimeError, match='JAX is in use already'):
    hosts.initialize('localhost:8476', 2, 0)


def test_environment_that_jax_cannot_follow_is_named(clean):
  """TPU workers without a TPU chip; JAX logs it, too."""
  set_environment(clean, POD)
  clean.setattr(
    jax.distributed, 'initialize', lambda **kwargs: raise_value_error()
  )
  with pytest.raises(ValueError, match='several gketpu processes.*give --co'):
    hosts.initialize()


def raise_value_error():
  raise ValueError('coordinator_address should be defined.')


def test_lost_peers_are_told_from_other_errors(monkeypatch):
  error = ValueError(
    'UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:1'
  )
  assert not hosts.lost_peer(error)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert hosts.lost_peer(error)
  barrier = OSError('Timed out while waiting for async_write_complete barrier.')
  assert hosts.lost_peer(barrier)
  assert not hosts.lost_peer(ValueError('The checkpoint has num_heads 8.'))


def test_leaving_flushes_and_skips_what_exits_wait_for():
  code = """
import atexit, sys, time
from gqa_flax.partitioning import hosts
atexit.register(time.sleep, 3600)
print('last words', end='')
hosts.leave(75)
"""
  result = subprocess.run(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, timeout=120
  )
  assert (result.returncode, result.stdout) == (75, b'last words')


WORKER = """
import os, sys, time
import jax, numpy as np
from gqa_flax.partitioning import hosts

arguments = eval(sys.argv[1])
hosts.initialize(*arguments, heartbeat_seconds=10)
index = jax.process_index()
assert (jax.process_count(), jax.local_device_count()) == (2, 2)
assert hosts.is_primary() == (index == 0)
mesh = jax.make_mesh((4,), ('x',))
sharding = jax.NamedSharding(mesh, jax.P('x'))
whole = jax.NamedSharding(mesh, jax.P())
x = jax.make_array_from_callback(
  (4,), sharding, lambda i: np.arange(4, dtype=np.float32)[i]
)
total = jax.jit(lambda x: x.sum(), out_shardings=whole)
print(float(total(x)), flush=True)
if sys.argv[2] == 'go on':
  try:
    while True:
      float(total(x))
  except Exception as error:
    hosts.leave(75 if hosts.lost_peer(error) else 1)
"""


def start(arguments, what, **variables):
  """Starts a worker of two CPU devices; returns it once it has summed."""
  environ = {k: v for k, v in os.environ.items() if 'XLA_FLAGS' not in k}
  environ |= {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    **variables,
  }
  return subprocess.Popen(
    [sys.executable, '-c', WORKER, repr(arguments), what],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environ,
  )


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['arguments', 'slurm', 'ompi'])
def test_two_processes_compute_together(launcher, free_port):
  port = free_port()
  processes = []
  for i in range(2):
    arguments, variables = (), {}
    if launcher == 'arguments':
      arguments = (f'localhost:{port}', 2, i)
    elif launcher == 'slurm':
      variables = {**SLURM, 'SLURM_PROCID': f'{i}', 'SLURM_LOCALID': f'{i}'}
    else:
      rank = f'{i}'
      variables = {
        **OMPI,
        'OMPI_COMM_WORLD_RANK': rank,
        'OMPI_COMM_WORLD_LOCAL_RANK': rank,
      }
    variables['JAX_COORDINATOR_PORT'] = f'{port}'
    processes.append(start(arguments, 'end', **variables))
  try:
    outputs = [process.communicate(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (out, err) in zip(processes, outputs):
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == '6.0'


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_survivor_of_a_killed_process_ends(victim, free_port):
  port = free_port()
  processes = [start((f'localhost:{port}', 2, i), 'go on') for i in range(2)]
  try:
    for process in processes:
      while process.stdout.readline() not in ('6.0\n', ''):
        pass
    processes[victim].kill()
    survivor = processes[1 - victim]
    survivor.communicate(timeout=120)
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  # Whichever comes first: the exception, or the service's verdict.
  assert survivor.returncode in (75, -signal.SIGABRT)
