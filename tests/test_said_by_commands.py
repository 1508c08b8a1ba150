"""What each command says on standard error, in a process of its own.

Nothing but its own lines and its progress bar, whatever libraries log; what
they are told about that in this process is not told there.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from gqa_flax.checkpoints import native

TASK = [
  '--gin_file=gin_configs/tasks/own_files.gin',
  '--gin.INPUTS={text}',
  '--gin.TARGETS={summary}',
  '--gin.VOCABULARY=@seqio.ByteVocabulary()',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
  "--gin.FILES={'train': '$rows', 'validation': '$rows'}",
]
RUNS = '--gin_file=gin_configs/runs'
MODEL = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin.VOCAB_SIZE=384',
  '--gin.config.T5Config.num_encoder_layers=1',
  '--gin.config.T5Config.num_decoder_layers=1',
]
BATCH = '--gin.BATCH_SIZE=8'
EVALUATION = [*TASK, f'{RUNS}/evaluate.gin', BATCH, '--gin.CHECKPOINT=$model']
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}"
# Those that load TensorFlow, or compile for TPUs, take ten seconds and more.
QUICK = {
  'cost': ['cost', 'small'],
  'report': ['report', '--output=$tmp/page.html'],
  'data list': ['data', 'list', '--tfds_data_dir=$tmp'],
  'convert': [
    *('convert', f'{RUNS}/convert.gin', '--gin.INPUT=$model'),
    *('--gin.OUTPUT=$tmp/converted', '--gin.NUM_KV_HEADS=2'),
  ],
  'time': ['time', *MODEL, f'{RUNS}/time.gin', BATCH, LENGTHS],
}
SLOW = {
  'train': [
    *('train', *MODEL, *TASK, f'{RUNS}/pretrain.gin', BATCH),
    *('--gin.MODEL_DIR=$tmp/run', '--gin.TRAIN_STEPS=2'),
  ],
  'infer': [
    *('infer', *TASK, f'{RUNS}/infer.gin', '--gin.CHECKPOINT=$model'),
    '--input=$lines',
  ],
  'data check': ['data', 'check', 'own_files', *TASK],
  'estimate': [
    *('time', *MODEL, f'{RUNS}/time.gin', LENGTHS, '--target=v5e-8'),
    *('--gin.BATCH_SIZE=8', '--gin.MESH_DATA=8'),
  ],
}


@pytest.fixture(scope='module')
def world(tmp_path_factory, tiny_config, make_params):
  """Returns what `$name` stands for: a checkpoint and a file of rows."""
  folder = tmp_path_factory.mktemp('world')
  config = tiny_config.__class__(
    **{**vars(tiny_config), 'vocab_size': 384, 'num_kv_heads': 8}
  )
  with native.checkpoint_manager(folder / 'model') as manager:
    native.save(manager, native.Checkpoint(3, make_params(config), config))
  rows = [{'text': f'row {i}', 'summary': f'sum {i}'} for i in range(20)]
  (folder / 'rows.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  (folder / 'lines.txt').write_text('one\ntwo\n')
  return {
    '$model': folder / 'model',
    '$rows': folder / 'rows.jsonl',
    '$lines': folder / 'lines.txt',
  }


def run(argv, paths):
  """Runs a command as a user does, and returns its two streams."""
  for name, path in paths.items():
    argv = [arg.replace(name, str(path)) for arg in argv]
  # Nothing that these tests, or an earlier import, have set.
  hidden = re.compile('JAX_|XLA_|TF_|TPU_')
  result = subprocess.run(
    [sys.executable, '-m', 'gqa_flax.cli', *argv],
    env={k: v for k, v in os.environ.items() if not hidden.match(k)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  check(result.stderr, argv[0])
  return result.stdout, result.stderr


def check(said, command):
  own = re.compile(rf'gqa-flax {command}: |.*\d+%\|.*\| \d+/\d+ \[')
  assert [x for x in said.splitlines() if not own.match(x)] == []


@pytest.mark.parametrize('name', QUICK)
def test_a_command_speaks_for_itself(name, world, tmp_path):
  out, _ = run(QUICK[name], {**world, '$tmp': tmp_path})
  assert out


@pytest.mark.slow
@pytest.mark.parametrize('name', SLOW)
def test_a_slow_command_speaks_for_itself(name, world, tmp_path):
  out, said = run(SLOW[name], {**world, '$tmp': tmp_path})
  assert out and said.startswith(f'gqa-flax {SLOW[name][0]}: ')
  if name == 'train':
    assert '2/2 [' in said
    assert f'checkpoint                {tmp_path}/run/checkpoint_2\n' in out
    assert 'tensorboard --logdir=' in out.splitlines()[-1]
  if name == 'estimate':
    assert 'compiling 1 of 1: 8 x 1 x 1 (data x fsdp x model)' in said
    assert '(the last took ' in said.splitlines()[-1]


@pytest.mark.slow
def test_evaluations_and_what_compares_them_speak_for_themselves(
  world, tmp_path
):
  folders = [str(tmp_path / name) for name in ('a', 'b')]
  for folder in folders:
    out, said = run(
      [*map(str, ['evaluate', *EVALUATION]), f'--gin.OUTPUT_DIR={folder}'],
      world,
    )
    assert said.startswith('gqa-flax evaluate: evaluating ')
    assert '95% interval' in out and 'cut: 0 inputs' in out
    assert pathlib.Path(out.splitlines()[-1]).exists()
  for command in ('compare', 'average'):
    out, _ = run([command, *folders], {})
    assert out
