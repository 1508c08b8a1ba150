"""One command on TPU slices of a GKE cluster, as a JobSet or through XPK.

  python -m experiments.launch.gke --name=uptrain --tpu=v5p --topology=4x4x8 \\
    --image=... --dry_run -- gqa-flax train --gin_file=...

GKE tells every pod of the others, and JAX reads it. A pod that ends with a
status of `common.RESTART_STATUSES` makes JobSet start all pods anew; any other
failure ends the job.
"""

import math
import re
import shlex
import sys

import yaml

from experiments.launch import common

_ACCELERATORS = {
  'v4': 'tpu-v4-podslice',
  'v5e': 'tpu-v5-lite-podslice',
  'v5p': 'tpu-v5p-slice',
  'v6e': 'tpu-v6e-slice',
}
# XPK's names count tensor cores for v4 and v5p, two a chip.
_XPK_TYPES = {
  'v4': ('v4', 2),
  'v5e': ('v5litepod', 1),
  'v5p': ('v5p', 2),
  'v6e': ('v6e', 1),
}


def main(argv=None) -> int:
  parser = common.make_parser('One command on TPU slices of a GKE cluster.')
  parser.add_argument('--tpu', required=True, choices=_ACCELERATORS)
  parser.add_argument('--topology', required=True, help='chips, as in 4x4x8')
  parser.add_argument('--slices', type=int, default=1, help='joined over DCN')
  parser.add_argument('--image', required=True, help='has gqa-flax in its PATH')
  parser.add_argument('--queue', help='a LocalQueue of Kueue')
  parser.add_argument(
    '--grace_seconds', type=int, default=300, help='to save in, after SIGTERM'
  )
  parser.add_argument('--xpk', action='store_true', help='through XPK')
  parser.add_argument('--cluster', help='with --xpk')
  arguments, command = common.parse(parser, argv)
  if not re.fullmatch(r'\d+(x\d+){1,2}', arguments.topology):
    parser.error(
      f'--topology is {arguments.topology}; give the chips along each axis, as '
      'in 4x4x8.'
    )
  if arguments.xpk and not arguments.cluster:
    parser.error('--xpk needs --cluster, the name of the cluster.')
  if arguments.xpk:
    script = xpk_command(arguments, command) + '\n'
  else:
    manifest = yaml.safe_dump(job_set(arguments, command), sort_keys=False)
    script = common.here_document('kubectl apply -f -', manifest)
  return common.run(script, arguments.dry_run)


def count_chips(topology: str) -> int:
  """Returns the number of chips of a slice, from a topology as in '4x4x8'."""
  return math.prod(map(int, topology.split('x')))


def count_pods(topology: str) -> tuple[int, int]:
  """Returns the number of hosts of a slice, and of chips on each."""
  chips = count_chips(topology)
  # Two by four is the one slice whose eight chips are on one host.
  per_host = 8 if topology == '2x4' else min(chips, 4)
  return chips // per_host, per_host


def xpk_command(arguments, command: list[str]) -> str:
  """Returns the command line of XPK that starts a workload."""
  prefix, cores = _XPK_TYPES[arguments.tpu]
  return shlex.join(
    [
      'xpk',
      'workload',
      'create',
      f'--cluster={arguments.cluster}',
      f'--workload={arguments.name}',
      f'--tpu-type={prefix}-{count_chips(arguments.topology) * cores}',
      f'--num-slices={arguments.slices}',
      f'--docker-image={arguments.image}',
      f'--max-restarts={arguments.max_restarts}',
      # XPK adds 42 and 127 to 255 itself.
      f'--restart-on-exit-codes={common.RESTART_STATUSES[0]}',
      f'--termination-grace-period-seconds={arguments.grace_seconds}',
      f'--command={shlex.join(command)}',
    ]
  )


def job_set(arguments, command: list[str]) -> dict:
  """Returns the manifest of a JobSet: one job a slice, one pod a host."""
  pods, chips = count_pods(arguments.topology)
  container = {
    'name': 'gqa-flax',
    'image': arguments.image,
    # Kubernetes replaces $(NAME) in these; $$ stands for the sign itself.
    'command': [word.replace('$', '$$') for word in command],
    'ports': [{'containerPort': 8471}, {'containerPort': 8080}],
    'resources': {'limits': {'google.com/tpu': chips}},
  }
  pod = {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': arguments.grace_seconds,
    'hostNetwork': True,
    'dnsPolicy': 'ClusterFirstWithHostNet',
    'nodeSelector': {
      'cloud.google.com/gke-tpu-accelerator': _ACCELERATORS[arguments.tpu],
      'cloud.google.com/gke-tpu-topology': arguments.topology,
    },
    'containers': [container],
  }
  ends_for_good = {
    'action': 'FailJob',
    'onExitCodes': {
      'containerName': container['name'],
      'operator': 'NotIn',
      'values': sorted(common.RESTART_STATUSES),
    },
  }
  job = {
    'parallelism': pods,
    'completions': pods,
    'completionMode': 'Indexed',
    # The pods of a slice start together or not at all: JobSet does it.
    'backoffLimit': 0,
    'podFailurePolicy': {'rules': [ends_for_good]},
    'template': {'spec': pod},
  }
  metadata = {
    'name': arguments.name,
    'annotations': {
      'alpha.jobset.sigs.k8s.io/exclusive-topology': (
        'cloud.google.com/gke-nodepool'
      )
    },
  }
  if arguments.queue:
    metadata['labels'] = {'kueue.x-k8s.io/queue-name': arguments.queue}
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': metadata,
    'spec': {
      'failurePolicy': {
        'maxRestarts': arguments.max_restarts,
        'rules': [
          {
            'action': 'FailJobSet',
            'onJobFailureReasons': ['PodFailurePolicy'],
          }
        ],
      },
      'replicatedJobs': [
        {
          'name': 'slice',
          'replicas': arguments.slices,
          'template': {'spec': job},
        }
      ],
    },
  }


if __name__ == '__main__':
  sys.exit(main())
