"""One command on the GPU nodes of a SLURM cluster, requeued when it has to be.

  python -m experiments.launch.slurm --name=uptrain --nodes=4 \\
    --gpus_per_node=8 --time=24:00:00 --dry_run \\
    -- gqa-flax train --gin_file=...

SLURM sends SIGTERM to the job's processes before the time is over or when
another job takes the nodes; they save and end with 75, and the batch script
puts the job back into the queue.
"""

import shlex
import sys

from experiments.launch import common


def main(argv=None) -> int:
  parser = common.make_parser('One command on the GPU nodes of a cluster.')
  parser.add_argument('--nodes', type=int, required=True)
  parser.add_argument('--gpus_per_node', type=int, required=True)
  parser.add_argument(
    '--tasks_per_node',
    type=int,
    default=1,
    help='1: a process with all GPUs of its node; else one with one GPU each',
  )
  parser.add_argument('--cpus_per_task', type=int, default=8)
  parser.add_argument('--time', default='24:00:00', help='of one attempt')
  parser.add_argument(
    '--grace_seconds', type=int, default=300, help='to save in, after SIGTERM'
  )
  parser.add_argument(
    '--sbatch',
    action='append',
    default=[],
    metavar='OPTION',
    help='another option of sbatch, as in --sbatch=--partition=gpu',
  )
  arguments, command = common.parse(parser, argv)
  if arguments.tasks_per_node not in (1, arguments.gpus_per_node):
    parser.error(
      f'--tasks_per_node is {arguments.tasks_per_node}; give 1, or a task for '
      f'each of the {arguments.gpus_per_node} GPUs.'
    )
  script = common.here_document('sbatch', batch_script(arguments, command))
  return common.run(script, arguments.dry_run)


def batch_script(arguments, command: list[str]) -> str:
  """Returns the script that sbatch reads."""
  options = [
    f'--job-name={arguments.name}',
    f'--nodes={arguments.nodes}',
    f'--ntasks-per-node={arguments.tasks_per_node}',
    f'--gpus-per-node={arguments.gpus_per_node}',
    f'--cpus-per-task={arguments.cpus_per_task}',
    f'--time={arguments.time}',
    f'--output={arguments.name}-%j.log',
    '--open-mode=append',
    '--requeue',
    f'--signal=TERM@{arguments.grace_seconds}',
    *arguments.sbatch,
  ]
  again = '|'.join(map(str, common.RESTART_STATUSES))
  lines = ['#!/bin/bash']
  lines += [f'#SBATCH {option}' for option in options]
  lines += [
    '# This shell has to outlive its processes to put the job back.',
    "trap ':' TERM",
    # srun does not take this option over from sbatch.
    'srun --kill-on-bad-exit=1 '
    f'--cpus-per-task={arguments.cpus_per_task} {shlex.join(command)}',
    'status=$?',
    f'case $status in {again})',
    f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {arguments.max_restarts} ]',
    '  then scontrol requeue "$SLURM_JOB_ID"',
    '  fi ;;',
    'esac',
    'exit $status',
  ]
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  sys.exit(main())
