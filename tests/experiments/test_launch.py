import json
import os
import subprocess
import sys
import types

import pytest
import yaml

from experiments.launch import common, gke, slurm, tpu_vm
from gqa_flax.training.preemption import EXIT_STATUS

# What a shell, YAML or Kubernetes might take for its own.
NASTY = """--gin.A='it"s $(HOME) $HOME `x` \\ #: {a}, é'\nEND_OF_INPUT\n* """
COMMAND = ['gqa-flax', 'train', '--gin_file=a b.gin', NASTY, '--', '']

POD = ['--zone=z', '--type=v4-256']
JOB_SET = ['--tpu=v5p', '--topology=4x4x8', '--image=i']
NODES = ['--nodes=4', '--gpus_per_node=8']

# Notes its words and its input, and ends with the next status it was given.
RECORDER = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
call = {{'name': {name!r}, 'words': sys.argv[1:]}}
if {name!r} in ('kubectl', 'sbatch'):
  call['input'] = sys.stdin.read()
with (folder / 'calls').open('a') as file:
  file.write(json.dumps(call) + '\\n')
statuses = json.loads((folder / 'statuses').read_text())
status = statuses.get({name!r}, []).pop(0) if statuses.get({name!r}) else 0
(folder / 'statuses').write_text(json.dumps(statuses))
sys.exit(status)
"""
PROGRAMS = ('gcloud', 'xpk', 'kubectl', 'sbatch', 'srun', 'scontrol', 'sleep')


@pytest.fixture
def bash(tmp_path):
  """Runs bash where the programs of clusters only note what they are told."""
  for name in (*PROGRAMS, 'gqa-flax'):
    file = tmp_path / name
    file.write_text(
      RECORDER.format(python=sys.executable, folder=str(tmp_path), name=name)
    )
    file.chmod(0o755)

  def run(script, environ=None, **statuses):
    (tmp_path / 'calls').write_text('')
    statuses = {name.replace('_', '-'): x for name, x in statuses.items()}
    (tmp_path / 'statuses').write_text(json.dumps(statuses))
    path = f'{tmp_path}:{os.environ["PATH"]}'
    result = subprocess.run(
      ['bash', '-c', script],
      env={**os.environ, 'PATH': path, **(environ or {})},
      cwd=tmp_path,
      timeout=60,
    )
    lines = (tmp_path / 'calls').read_text().splitlines()
    return result.returncode, [
      types.SimpleNamespace(**json.loads(line)) for line in lines
    ]

  return run


def dry_run(capsys, launcher, options, command=COMMAND):
  arguments = ['--dry_run', '--name=n', *options, '--', *command]
  assert launcher.main(arguments) == 0
  return capsys.readouterr().out


def option(words, name):
  """Returns the value of --name=value."""
  (value,) = [w for w in words if w.startswith(f'--{name}=')]
  return value.partition('=')[2]


def test_statuses_hold_that_of_the_package():
  assert EXIT_STATUS in common.RESTART_STATUSES
  # Neither success nor a plain mistake is tried again.
  assert not {0, 1, 2} & set(common.RESTART_STATUSES)


@pytest.mark.parametrize('options', [[], ['--slices=2']])
def test_workers_of_a_pod_get_the_command_as_it_is(capsys, bash, options):
  _, (ssh,) = bash(dry_run(capsys, tpu_vm, [*POD, *options]))
  assert '--worker=all' in ssh.words
  assert ssh.words[:3] == ['compute', 'tpus', 'queued-resources'] or not options
  assert ('--node=all' in ssh.words) == bool(options)
  status, (program,) = bash(option(ssh.words, 'command'))
  assert (status, program.words) == (0, COMMAND[1:])


@pytest.mark.parametrize(
  'statuses, expected, times',
  [
    ([75, 134, 137, 0], 0, 4),
    ([75, 1, 0], 1, 2),
    ([2], 2, 1),
    ([75] * 9, 75, 4),
  ],
)
def test_workers_go_on_after_some_ends(capsys, bash, statuses, expected, times):
  _, (ssh,) = bash(dry_run(capsys, tpu_vm, [*POD, '--max_restarts=3']))
  status, calls = bash(option(ssh.words, 'command'), gqa_flax=statuses)
  assert status == expected
  assert sum(call.name == 'gqa-flax' for call in calls) == times


def test_pod_is_made_awaited_prepared_and_deleted_in_order(capsys, bash):
  script = dry_run(
    capsys,
    tpu_vm,
    [
      *POD,
      '--spot',
      '--steps=delete,create,wait,setup,run',
      "--setup=pip install 'gqa_flax[tpu]'",
      '--project=p',
    ],
  )
  # The fake gcloud prints no state: it is made to say ACTIVE the second time.
  states = (
    'n=0; gcloud() { command gcloud "$@"; [ $4 = describe ] || return 0; '
  )
  states += 'if [ -e seen ]; then echo ACTIVE; else touch seen; fi; }\n'
  status, calls = bash('cd "$(mktemp -d)"\n' + states + script)
  assert status == 0
  assert [c.words[3] if c.name == 'gcloud' else c.name for c in calls] == [
    'create',
    'describe',
    'sleep',
    'describe',
    'ssh',
    'ssh',
    'delete',
  ]
  assert all(
    '--zone=z' in c.words and '--project=p' in c.words
    for c in calls
    if c.name == 'gcloud'
  )
  assert option(calls[4].words, 'command') == "pip install 'gqa_flax[tpu]'"
  create = calls[0].words
  assert option(create, 'accelerator-type') == 'v4-256'
  assert option(create, 'node-id') == 'n'
  assert '--spot' in create


def test_pod_that_was_not_given_is_not_waited_for(capsys, bash):
  script = dry_run(capsys, tpu_vm, [*POD, '--steps=wait,run'])
  failed = 'gcloud() { command gcloud "$@"; echo FAILED; }\n'
  status, calls = bash(failed + script)
  assert status == 1
  assert len(calls) == 1


@pytest.mark.parametrize(
  'tpu_type, workers',
  [
    ('v4-8', 1),
    ('v4-256', 32),
    ('v5p-1024', 128),
    ('v5litepod-4', 1),
    ('v5litepod-8', 1),
    ('v5litepod-16', 4),
    ('v5litepod-256', 64),
    ('v6e-8', 1),
    ('v6e-1', 1),
  ],
)
def test_workers_of_a_pod_are_counted(capsys, tpu_type, workers):
  assert tpu_vm.count_workers(tpu_type) == workers
  script = dry_run(capsys, tpu_vm, ['--zone=z', f'--type={tpu_type}'])
  assert f'{workers} workers a slice' in script.splitlines()[0]


@pytest.mark.parametrize(
  'topology, pods, chips',
  [
    ('4x4x8', 32, 4),
    ('2x2x1', 1, 4),
    ('2x4', 1, 8),
    ('4x4', 4, 4),
    ('1x1', 1, 1),
  ],
)
def test_job_set_has_a_pod_a_host(capsys, bash, topology, pods, chips):
  options = ['--tpu=v5e', f'--topology={topology}', '--image=i', '--slices=3']
  _, (kubectl,) = bash(dry_run(capsys, gke, options))
  manifest = yaml.safe_load(kubectl.input)
  (replicated,) = manifest['spec']['replicatedJobs']
  job = replicated['template']['spec']
  (container,) = job['template']['spec']['containers']
  assert replicated['replicas'] == 3
  assert job['parallelism'] == job['completions'] == pods
  assert container['resources']['limits'] == {'google.com/tpu': chips}


def test_job_set_passes_the_command_and_restarts(capsys, bash):
  options = [*JOB_SET, '--queue=q', '--max_restarts=7', '--grace_seconds=90']
  _, (kubectl,) = bash(dry_run(capsys, gke, options))
  assert kubectl.words == ['apply', '-f', '-']
  manifest = yaml.safe_load(kubectl.input)
  assert manifest['metadata']['labels'] == {'kueue.x-k8s.io/queue-name': 'q'}
  policy = manifest['spec']['failurePolicy']
  assert policy['maxRestarts'] == 7
  assert policy['rules'][0]['onJobFailureReasons'] == ['PodFailurePolicy']
  job = manifest['spec']['replicatedJobs'][0]['template']['spec']
  (rule,) = job['podFailurePolicy']['rules']
  # Every other status fails the job for good, and only those restart it.
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes']['operator'] == 'NotIn'
  assert EXIT_STATUS in rule['onExitCodes']['values']
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] == 90
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
    'cloud.google.com/gke-tpu-topology': '4x4x8',
  }
  (container,) = pod['containers']
  # As Kubernetes reads it: $$ is a dollar sign, $(NAME) would be a variable.
  assert all('$' not in w.replace('$$', '') for w in container['command'])
  assert [w.replace('$$', '$') for w in container['command']] == COMMAND


def test_xpk_gets_the_command_and_restarts_on_75(capsys, bash):
  options = [*JOB_SET, '--slices=2', '--xpk', '--cluster=c']
  _, (xpk,) = bash(dry_run(capsys, gke, options))
  assert xpk.words[:2] == ['workload', 'create']
  assert option(xpk.words, 'tpu-type') == 'v5p-256'
  assert option(xpk.words, 'num-slices') == '2'
  assert option(xpk.words, 'restart-on-exit-codes') == f'{EXIT_STATUS}'
  _, (program,) = bash(option(xpk.words, 'command'))
  assert program.words == COMMAND[1:]


@pytest.mark.parametrize(
  'status, before, requeued',
  [(0, 0, False), (1, 0, False), (75, 0, True), (134, 2, True), (75, 3, False)],
)
def test_batch_script_requeues(capsys, bash, status, before, requeued):
  _, (sbatch,) = bash(dry_run(capsys, slurm, [*NODES, '--max_restarts=3']))
  ended, calls = bash(
    sbatch.input,
    {'SLURM_JOB_ID': '17', 'SLURM_RESTART_COUNT': f'{before}'},
    srun=[status],
  )
  assert ended == status
  assert calls[0].name == 'srun'
  assert calls[0].words[:2] == ['--kill-on-bad-exit=1', '--cpus-per-task=8']
  assert calls[0].words[2:] == COMMAND
  assert [c.words for c in calls[1:]] == [['requeue', '17']] * requeued


def test_batch_script_outlives_the_signal_of_its_processes(capsys, bash):
  _, (sbatch,) = bash(dry_run(capsys, slurm, NODES))
  signalled = sbatch.input.replace('\nsrun', '\nkill -TERM $$; srun')
  status, calls = bash(signalled, {'SLURM_JOB_ID': '17'}, srun=[75])
  assert status == 75
  assert [call.name for call in calls] == ['srun', 'scontrol']


def test_batch_script_asks_for_nodes_signal_and_requeue(capsys, bash):
  options = [*NODES, '--grace_seconds=90', '--sbatch=--partition=gpu']
  _, (sbatch,) = bash(dry_run(capsys, slurm, options))
  head = [w for w in sbatch.input.splitlines() if w.startswith('#SBATCH ')]
  wanted = {
    '#SBATCH --nodes=4',
    '#SBATCH --ntasks-per-node=1',
    '#SBATCH --gpus-per-node=8',
    '#SBATCH --requeue',
    '#SBATCH --signal=TERM@90',
    '#SBATCH --partition=gpu',
  }
  assert wanted <= set(head)
  assert sbatch.input.startswith('#!/bin/bash\n#SBATCH ')


def test_without_dry_run_the_same_is_run(monkeypatch, capfd, bash, tmp_path):
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  (tmp_path / 'calls').write_text('')
  (tmp_path / 'statuses').write_text('{"kubectl": [3]}')
  assert gke.main(['--name=n', *JOB_SET, '--', *COMMAND]) == 3
  told = json.loads((tmp_path / 'calls').read_text())['input']
  _, (kubectl,) = bash(dry_run(capfd, gke, JOB_SET))
  assert told == kubectl.input


@pytest.mark.parametrize(
  'launcher, options, message',
  [
    (tpu_vm, ['--zone=z', '--type=v9-4', '--', 'x'], '--type is v9-4'),
    (tpu_vm, [*POD, '--steps=run,fly', '--', 'x'], '--steps has fly'),
    (tpu_vm, [*POD, '--steps=setup', '--', 'x'], 'there is no --setup'),
    (tpu_vm, POD, 'there is no command'),
    (gke, [*JOB_SET, '--'], 'there is no command'),
    (gke, [*JOB_SET, '--topology=4*4', '--', 'x'], '--topology is 4'),
    (gke, [*JOB_SET, '--xpk', '--', 'x'], '--xpk needs --cluster'),
    (slurm, [*NODES, '--tasks_per_node=3', '--', 'x'], 'give 1, or a task'),
  ],
)
def test_mistakes_are_named(capsys, launcher, options, message):
  with pytest.raises(SystemExit) as error:
    launcher.main(['--dry_run', '--name=n', *options])
  assert error.value.code == 2
  assert message in capsys.readouterr().err
