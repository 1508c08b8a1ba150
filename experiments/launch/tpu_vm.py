"""One command on all workers of a TPU VM pod, made by a queued resource.

  python -m experiments.launch.tpu_vm --name=uptrain --zone=us-central2-b \\
    --type=v4-256 --steps=create,wait,run --dry_run \\
    -- gqa-flax train --gin_file=... --gin.MODEL_DIR="'gs://bucket/uptrain'"

Every worker runs the same command: JAX finds the others through the metadata
server. Each starts it again when it ends with a status that says so, and waits
for the others in `jax.distributed`.
"""

import shlex
import sys

from experiments.launch import common

STEPS = ('create', 'wait', 'setup', 'run', 'delete')
# Chips of a type `v4-256`: v4 and v5p count tensor cores, two a chip.
_CORES_PER_CHIP = {'v4': 2, 'v5p': 2, 'v5litepod': 1, 'v6e': 1}
_RUNTIMES = {
  'v4': 'tpu-ubuntu2204-base',
  'v5p': 'v2-alpha-tpuv5',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v6e': 'v2-alpha-tpuv6e',
}


def main(argv=None) -> int:
  parser = common.make_parser('One command on all workers of a TPU VM pod.')
  parser.add_argument('--zone', required=True)
  parser.add_argument('--project', help="if not gcloud's own")
  parser.add_argument('--type', required=True, help='as in v4-256')
  parser.add_argument('--slices', type=int, default=1, help='joined over DCN')
  parser.add_argument('--runtime_version', help="if not the type's usual one")
  parser.add_argument('--spot', action='store_true', help='may be preempted')
  parser.add_argument(
    '--setup', help='bash that each worker runs once, to install gqa-flax'
  )
  parser.add_argument(
    '--steps',
    default='run',
    help=f'comma-separated, of {", ".join(STEPS)} (default: %(default)s)',
  )
  arguments, command = common.parse(parser, argv)
  steps = arguments.steps.split(',')
  if unknown := set(steps) - set(STEPS):
    parser.error(
      f'--steps has {", ".join(sorted(unknown))}; give some of '
      f'{", ".join(STEPS)}.'
    )
  if 'setup' in steps and not arguments.setup:
    parser.error(
      '--steps has setup, but there is no --setup; give the bash that installs '
      'gqa-flax on a worker.'
    )
  try:
    hosts = count_workers(arguments.type)
  except ValueError as error:
    parser.error(str(error))
  lines = [f'# {arguments.slices} x {arguments.type}: {hosts} workers a slice']
  lines += [_STEP[step](arguments, command) for step in STEPS if step in steps]
  return common.run('\n'.join(lines) + '\n', arguments.dry_run)


def count_workers(tpu_type: str) -> int:
  """Returns the number of hosts of a slice, from a type as in 'v4-256'.

  Raises:
    ValueError: if it is no type of TPU known here.
  """
  generation, _, size = tpu_type.rpartition('-')
  if generation not in _CORES_PER_CHIP or not size.isdigit():
    raise ValueError(
      f'--type is {tpu_type}; give {", ".join(_CORES_PER_CHIP)} and a size, as '
      'in v4-256.'
    )
  chips = int(size) // _CORES_PER_CHIP[generation]
  if _CORES_PER_CHIP[generation] == 1 and chips == 8:
    return 1  # The one host with eight chips.
  return max(1, chips // 4)


def restarting(command: list[str], max_restarts: int) -> str:
  """Returns bash that runs a command until it ends for good."""
  again = '|'.join(map(str, common.RESTART_STATUSES))
  return (
    f'for attempt in $(seq 0 {max_restarts}); do\n'
    f'  {shlex.join(command)}\n'
    '  status=$?\n'
    f'  case $status in {again}) sleep 10 ;; *) exit $status ;; esac\n'
    'done\n'
    'exit $status'
  )


def _gcloud(arguments, *words) -> str:
  where = [f'--zone={arguments.zone}']
  if arguments.project:
    where.append(f'--project={arguments.project}')
  return shlex.join(['gcloud', 'compute', 'tpus', *words, *where])


def _create(arguments, command):
  generation = arguments.type.rpartition('-')[0]
  version = arguments.runtime_version or _RUNTIMES[generation]
  words = [f'--accelerator-type={arguments.type}']
  words.append(f'--runtime-version={version}')
  if arguments.slices == 1:
    words.append(f'--node-id={arguments.name}')
  else:
    words += [
      f'--node-prefix={arguments.name}',
      f'--node-count={arguments.slices}',
    ]
  if arguments.spot:
    words.append('--spot')
  return _gcloud(
    arguments, 'queued-resources', 'create', arguments.name, *words
  )


def _wait(arguments, command):
  describe = _gcloud(
    arguments,
    'queued-resources',
    'describe',
    arguments.name,
    '--format=value(state.state)',
  )
  return (
    f'until state=$({describe}); [ "$state" = ACTIVE ]; do\n'
    '  case $state in FAILED|SUSPEND*) echo "$state" >&2; exit 1 ;; esac\n'
    '  sleep 30\n'
    'done'
  )


def _on_all_workers(arguments, script):
  words = ['--worker=all', f'--command={script}']
  if arguments.slices == 1:
    return _gcloud(arguments, 'tpu-vm', 'ssh', arguments.name, *words)
  return _gcloud(
    arguments, 'queued-resources', 'ssh', arguments.name, '--node=all', *words
  )


def _setup(arguments, command):
  return _on_all_workers(arguments, arguments.setup)


def _run(arguments, command):
  script = restarting(command, arguments.max_restarts)
  return _on_all_workers(arguments, script)


def _delete(arguments, command):
  return _gcloud(
    arguments,
    'queued-resources',
    'delete',
    arguments.name,
    '--force',
    '--quiet',
  )


_STEP = {
  'create': _create,
  'wait': _wait,
  'setup': _setup,
  'run': _run,
  'delete': _delete,
}

if __name__ == '__main__':
  sys.exit(main())
