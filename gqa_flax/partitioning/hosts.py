"""One program on many hosts: joining them, and knowing which one this is."""

import importlib.util
import os
import sys
from typing import Any, NoReturn

import jax

# What srun, and not sbatch, sets: the shell of a batch script must not wait
# for peers that nobody starts.
_SLURM_STEP = (
  'SLURM_JOB_ID',
  'SLURM_STEP_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_LOCALID',
)
_SIGNS_OF_A_LOST_PEER = (
  'Gloo',
  'NCCL',
  'Connection closed by peer',
  'coordination service',
  'CoordinationService',
  'heartbeat timeout',
  # Of Orbax, at the barriers of a save that a process did not live to reach.
  'Timed out while waiting for',
)


def initialize(
  coordinator_address: str | None = None,
  process_count: int | None = None,
  process_index: int | None = None,
  heartbeat_seconds: int = 100,
):
  """Joins the processes of a job; call it before anything uses a device.

  With all of the first three arguments, these processes are joined. With none,
  the processes that SLURM (`srun`), Open MPI, a TPU pod or GKE has started
  together, which `jax.distributed` then asks for their number and addresses;
  where there is no sign of these, this is one process and nothing happens.

  Each process sends heartbeats to a service in process 0. A process that dies
  or hangs is noticed heartbeat_seconds after its last one, and every other
  process is then ended with SIGABRT; when process 0 dies, at once. A
  collective may raise before that: see `lost_peer` and `leave`. A hang that
  goes on sending heartbeats is for `training.watchdog` to end.

  Args:
    coordinator_address: host:port of process 0, as all processes reach it.
    process_count: the number of processes, at least 1.
    process_index: of this one, from 0.
    heartbeat_seconds: how long a process may be silent.

  Raises:
    ValueError: if only some of the first three are given, or one is out of
      range.
    RuntimeError: if JAX is in use already, or has joined a job.
  """
  explicit = {
    '--coordinator_address': coordinator_address,
    '--process_count': process_count,
    '--process_index': process_index,
  }
  missing = [name for name, value in explicit.items() if value is None]
  method = None
  if not missing:
    _check(coordinator_address, process_count, process_index)
  elif len(missing) < len(explicit):
    given = [name for name in explicit if name not in missing]
    raise ValueError(
      f'{" and ".join(missing)} missing beside {" and ".join(given)}; give '
      'all three, or none on a TPU pod, on GKE, under srun or under mpirun.'
    )
  else:
    method = _launcher()
    if method is None:
      return
  _join(
    method,
    coordinator_address=coordinator_address,
    num_processes=process_count,
    process_id=process_index,
    heartbeat_timeout_seconds=heartbeat_seconds,
  )


def is_primary() -> bool:
  """Whether this is the process that writes logs, the first of the job."""
  return jax.process_index() == 0


def lost_peer(error: BaseException) -> bool:
  """Whether an exception says that another process of the job is gone.

  JAX has no type for it: on CPU it comes as a ValueError from Gloo, on GPU as a
  runtime error from NCCL.
  """
  return jax.process_count() > 1 and any(
    sign in str(error) for sign in _SIGNS_OF_A_LOST_PEER
  )


def leave(status: int) -> NoReturn:
  """Ends this process of a job at once, after an error of its own or a peer's.

  The usual exit waits until all processes have come to theirs, minutes long
  when they wait in a collective for this one.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _check(coordinator_address, process_count, process_index):
  host, _, port = coordinator_address.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ValueError(
      f'--coordinator_address is {coordinator_address!r}; give host:port of '
      'process 0, as in 10.0.0.1:8476.'
    )
  if process_count < 1:
    raise ValueError(
      f'--process_count is {process_count}; give the number of processes, at '
      'least 1.'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'--process_index is {process_index}, but {process_count} processes are '
      f'numbered from 0 to {process_count - 1}; give each its own number.'
    )


def _join(method: str | None, **arguments):
  """Calls jax.distributed.initialize, and says its errors in our words."""
  if jax.distributed.is_initialized():
    raise RuntimeError(
      'This process has joined a job already; call hosts.initialize once.'
    )
  try:
    jax.distributed.initialize(
      local_device_ids=_local_device_ids(method),
      cluster_detection_method=method,
      **arguments,
    )
  except ValueError as error:
    if method is None:
      raise
    raise ValueError(
      f'The environment tells of several {method} processes, but JAX cannot '
      f'find them ({error}); give --coordinator_address, --process_count and '
      '--process_index.'
    ) from error
  except RuntimeError as error:
    if 'must be called before' not in str(error):
      raise
    raise RuntimeError(
      'JAX is in use already, so this process can join no other; call '
      'hosts.initialize before anything asks for a device.'
    ) from error


def _launcher() -> str | None:
  """Returns JAX's name for what started several processes here, or None."""
  environ = os.environ
  if 'OMPI_MCA_orte_hnp_uri' in environ:
    several = int(environ.get('OMPI_COMM_WORLD_SIZE', 1)) > 1
    return 'ompi' if several else None
  if all(name in environ for name in _SLURM_STEP):
    return 'slurm' if int(environ['SLURM_NTASKS']) > 1 else None
  # Some versions of JAX make these when imported, where mypy cannot see them.
  options: Any = jax.config
  if options.jax_platforms == 'cpu':
    return None
  workers = environ.get(
    'TPU_PROCESS_ADDRESSES', environ.get('TPU_WORKER_HOSTNAMES', '')
  )
  slices = int(environ.get('MEGASCALE_NUM_SLICES') or 1)
  if workers and (',' in workers or slices > 1):
    return 'gketpu'
  if not workers and _on_tpu_vm():
    return 'gcetpu'
  return None


def _on_tpu_vm() -> bool:
  """Whether this is a TPU VM, whose metadata server knows its workers."""
  # JAX, when imported, looks at the PCI bus and sets the variable where there
  # is no TPU chip; GKE, which has no such metadata, sets it as well.
  return (
    importlib.util.find_spec('libtpu') is not None
    and 'TPU_SKIP_MDS_QUERY' not in os.environ
  )


def _local_device_ids(method: str | None) -> list[int] | None:
  """Returns the GPUs of this process: None for JAX's choice, [] for all.

  JAX gives each process of SLURM and Open MPI one GPU, which leaves the others
  of a host idle where only one process runs there.
  """
  environ = os.environ
  if 'JAX_LOCAL_DEVICE_IDS' in environ:
    return None
  if method == 'slurm':
    # Nodes may differ in their number of tasks, as in '2(x3),1'.
    alone = environ.get('SLURM_STEP_TASKS_PER_NODE', '').split('(')[0] == '1'
    return [] if alone else None
  if method == 'ompi':
    alone = environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1'
    return [] if alone else None
  return []
