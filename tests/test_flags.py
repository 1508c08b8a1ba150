"""The command line that a newcomer tries: no gin, hyphens, unknown flags."""

import argparse
import importlib.metadata
import subprocess
import sys

import pytest

from gqa_flax import cli
from gqa_flax.cli import flags
from gqa_flax.cli.settings import SETTINGS

CONVERT = '--gin_file=gin_configs/runs/convert.gin'
# Four heads, at step 3.
T5X_LEGACY = 'tests/fixtures/t5x_tiny/legacy'


def refusal(capsys, *argv):
  """Returns the one sentence with which a command line is refused."""
  try:
    status = cli.main(argv)
  except SystemExit as exit_:
    status = exit_.code
  captured = capsys.readouterr()
  assert status == 2
  assert captured.out == ''
  assert captured.err.count('\n') == 1, captured.err
  return captured.err


@pytest.mark.parametrize(
  ('argument', 'rewritten'),
  [
    ('--dry-run', '--dry_run'),
    ('--dry_run', '--dry_run'),
    ('--num-kv-heads=2', '--num_kv_heads=2'),
    ('--output=a-b--c', '--output=a-b--c'),
    ('--gin-file=runs/my-run.gin', '--gin_file=runs/my-run.gin'),
    ('--gin.PREFIX=a-b', '--gin_bindings=PREFIX=a-b'),
    ('--pipeline-options=--runner=X', '--pipeline_options=--runner=X'),
    ('qwen2.5-32b', 'qwen2.5-32b'),
    ('-h', '-h'),
  ],
)
def test_flags_may_have_hyphens(argument, rewritten):
  assert flags.rewrite([argument]) == [rewritten]


def parsers(parser=None):
  """Yields the parsers of all commands."""
  parser = parser or cli._parser()
  yield parser
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for command in action.choices.values():
        yield from parsers(command)


def test_every_flag_can_be_written_with_hyphens():
  found = [
    option
    for parser in parsers()
    for option in parser._option_string_actions
    if '_' in option
  ]
  assert {'--dry_run', '--num_kv_heads', '--tfds_data_dir'} <= {*found}
  for option in found:
    assert flags.rewrite([option.replace('_', '-')]) == [option]
  # Or else the rewriting would hide it.
  assert not [
    option
    for parser in parsers()
    for option in parser._option_string_actions
    if '-' in option.lstrip('-')
  ]


def test_a_dry_run_with_a_hyphen_is_one(capsys):
  argv = ['train', '--gin_file=gin_configs/models/mini.gin']
  argv += ['--gin_file=gin_configs/runs/pretrain.gin']
  assert cli.main([*argv, '--dry_run']) == 0
  wanted = capsys.readouterr().out
  assert 'TRAIN_STEPS' in wanted
  assert cli.main([*argv, '--dry-run']) == 0
  assert capsys.readouterr().out == wanted


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (
      ['train', '--num_kv_heads=2'],
      'gqa-flax train: there is no flag --num_kv_heads; did you mean '
      '--gin.NUM_KV_HEADS=2?\n',
    ),
    (['train', '--Num-KV-Heads', '2'], 'mean --gin.NUM_KV_HEADS=2?'),
    (['train', '--num_kv_heads', '--debug'], 'mean --gin.NUM_KV_HEADS=...?'),
    (['train', '--train_step=9'], 'mean --gin.TRAIN_STEPS=9?'),
    (['evaluate', '--split=test'], 'mean --gin.SPLIT=test?'),
    (['time', '--batch_size', '8'], 'mean --gin.BATCH_SIZE=8?'),
    (['data', 'check', 'arxiv', '--prefix=a: '], 'mean --gin.PREFIX=a: ?'),
    (
      ['convert', 'a', '--output_format', 'hugging_face', 'b'],
      'mean --gin.OUTPUT_FORMAT=hugging_face?',
    ),
    (['convert', 'a', 'b', '--metod=first'], 'mean --method=first?'),
    (['train', '--dry_rum'], 'did you mean --dry_run?'),
    (['cost', 'xxl', '--num_heads=2'], 'mean --num_kv_heads=2 or'),
    # cost reads no gin files, and train does not convert.
    (['cost', 'xxl', '--repeats=2'], '`gqa-flax cost --help` lists'),
    (['train', '--output_dtype=x'], 'there is no flag --output_dtype'),
    (['train', '--xyz'], '`gqa-flax train --help` lists what there is.'),
    (['report', 'page.html'], "no place for the argument 'page.html'; `gqa"),
  ],
)
def test_unknown_flags_are_told_from_what_they_may_mean(capsys, argv, said):
  assert said in refusal(capsys, *argv)


@pytest.mark.parametrize('name', ['BATCH_SIZE', 'RANDOM_SEED', 'MESH_DATA'])
def test_a_setting_as_a_flag_of_a_script_is_pointed_out(capsys, name):
  with pytest.raises(SystemExit):
    cli.run_function('experiments.quickstart', 'x', [f'--{name.lower()}=1'])
  assert f'did you mean --gin.{name}=1?' in capsys.readouterr().err
  assert name in SETTINGS


def test_the_version_is_that_of_the_package_and_comes_at_once():
  code = (
    'import sys\n'
    'from gqa_flax import cli\n'
    'try:\n'
    "  cli.main(['--version'])\n"
    'finally:\n'
    "  slow = {'jax', 'numpy', 'tensorflow', 'seqio', 'huggingface_hub'}\n"
    '  assert not slow & {*sys.modules}, slow & {*sys.modules}\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout == f'gqa-flax {importlib.metadata.version("gqa_flax")}\n'
  assert done.stderr == ''


def converted(folder, *argv):
  """Returns what a conversion writes and prints, by file."""
  assert cli.main(['convert', *argv]) == 0
  names = ('model.safetensors', 'config.json', 'conversion.json')
  return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize('method', ['mean', 'first'])
def test_convert_without_gin_is_convert_with_gin(capsys, tmp_path, method):
  output = tmp_path / 'out'
  hugging_face = '--gin.OUTPUT_FORMAT=hugging_face'
  by_gin = converted(
    output,
    *(CONVERT, f'--gin.INPUT={T5X_LEGACY}', f'--gin.OUTPUT={output}'),
    *('--gin.NUM_KV_HEADS=2', '--gin.STEP=3', hugging_face),
    f'--gin.CONVERSION_METHOD={method}',
  )
  said = capsys.readouterr().out
  configured = (output / 'convert.gin').read_text()
  output.rename(tmp_path / 'by_gin')
  argv = [T5X_LEGACY, str(output), '--num-kv-heads=2', '--step=3', hugging_face]
  if method != 'mean':  # the default
    argv.append(f'--method={method}')
  assert converted(output, *argv) == by_gin
  assert capsys.readouterr().out == said
  assert (output / 'convert.gin').read_text() == configured


def test_files_and_bindings_go_with_arguments(capsys, tmp_path):
  mine = tmp_path / 'mine.gin'
  mine.write_text("OUTPUT_FORMAT = 't5x_legacy'\nNUM_KV_HEADS = 1\n")
  argv = ['convert', T5X_LEGACY, str(tmp_path / 'out'), f'--gin_file={mine}']
  argv += ['--gin.RANDOM_SEED=7', '--dry-run']
  assert cli.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  assert f"INPUT = '{T5X_LEGACY}'" in lines
  assert "OUTPUT_FORMAT = 't5x_legacy'" in lines
  assert 'NUM_KV_HEADS = 1' in lines and 'RANDOM_SEED = 7' in lines
  # An argument wins over a file, as a binding does.
  assert cli.main([*argv, '--num_kv_heads=2']) == 0
  assert 'NUM_KV_HEADS = 2' in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['a'], 'add OUTPUT --num_kv_heads=...'),
    (['a', 'b'], 'add --num_kv_heads=...'),
    (
      ['a', 'b', '--gin.INPUT=c', '--num_kv_heads=2'],
      "INPUT is 'a', and --gin.INPUT is given as well; leave out one",
    ),
    (
      ['a', 'b', '--num_kv_heads=2', '--gin.NUM_KV_HEADS=2'],
      '--num_kv_heads is 2, and --gin.NUM_KV_HEADS is given as well',
    ),
    (['', 'b', '--num_kv_heads=2'], "INPUT is ''; give a path"),
    (['a', 'b', 'c'], "no place for the argument 'c'"),
    (['a', '--num_kv_heads=2', 'b', 'c'], "no place for the argument 'c'"),
  ],
)
def test_arguments_of_convert_that_cannot_be(capsys, argv, said):
  assert said in refusal(capsys, 'convert', *argv)


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--num_kv_heads=0', "'0'; give an integer of at least 1"),
    ('--num_kv_heads=None', "'None'; give an integer of at least 1"),
    ('--method=maen', "(is 'mean' meant?)"),
    ('--step=1e6', "'1e6'; give an integer of at least 0, or None"),
  ],
)
def test_values_of_converts_flags_are_checked(capsys, flag, said):
  with pytest.raises(SystemExit) as exit_:
    cli.main(['convert', 'a', 'b', flag])
  assert exit_.value.code == 2
  assert said in capsys.readouterr().err


def test_a_folder_named_by_a_number_is_a_path(capsys):
  argv = ['convert', '20240101', '7', '--num_kv_heads=2', '--dry-run']
  assert cli.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "INPUT = '20240101'" in lines and "OUTPUT = '7'" in lines


@pytest.mark.parametrize('place', range(3))
def test_flags_stand_anywhere_between_the_arguments(capsys, place):
  argv = ['in', 'out']
  argv.insert(place, '--num_kv_heads=2')
  assert cli.main(['convert', *argv, '--dry-run']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "INPUT = 'in'" in lines and "OUTPUT = 'out'" in lines
