"""`gqa-flax cost`: what it prints, refuses, and does not load."""

import json
import subprocess
import sys

import pytest

from gqa_flax import cli
from gqa_flax.config import SIZES
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.geometries import GEOMETRIES


def lines(capsys, *argv):
  """Returns what a command prints."""
  assert cli.main(['cost', *argv]) == 0
  return capsys.readouterr().out.splitlines()


def row(lines, start):
  """Returns the cells of the one row that begins so."""
  (line,) = (line for line in lines if line.startswith(f'{start}  '))
  return line.removeprefix(start).split()


def test_eight_of_forty_heads_with_the_arithmetic(capsys):
  out = lines(capsys, 'qwen2.5-32b')
  assert out[0] == (
    'qwen2.5-32b: 32,763,876,352 parameters, 40 query heads, 8 key/value heads'
  )
  assert (
    '  GQA-8: 2 x 64 x 8 x 128 x 2 = 262,144 bytes; 8/40 = 20% of MHA' in out
  )
  assert row(out, 'GQA-8') == [
    *('8', '32,763,876,352', '262,144', '1,073.7', '274.88', '20%', '194')
  ]
  assert row(out, 'MHA')[2:] == [
    '1,310,720',
    '5,368.7',
    '1,374.39',
    '100%',
    '37',
  ]
  assert row(out, 'MQA')[-2:] == ['2.5%', '1,568']
  assert (
    'GQA-8: 256 sequences do not fit beside the parameters; at most 194 do.'
    in out
  )


def test_the_papers_model_and_set_up_are_the_default(capsys):
  out = lines(capsys, 'xxl')
  assert out[1].startswith('256 sequences of 2,048 + 512 positions')
  assert row(out, 'decode step, GQA-8') == [
    *('2.75', '42.0', '65.5', '1.25', '4.37', 'memory')
  ]
  # 5,278 TFLOP on eight chips of 275 TFLOP/s.
  assert row(out, 'encode')[3:] == ['2,398.9', '1.44', 'compute']
  assert lines(capsys, 't5_1_1_xxl') == lines(capsys, 'T5-v1_1-XXL') == out


def test_json_holds_the_same(capsys):
  argv = ['xxl', '--num_kv_heads', '16', '4', '--num_kv_heads=32']
  argv += ['--source_length=100', '--target_length=28', '--batch_size=10']
  argv += ['--chip=v5p', '--num_chips=2', '--json']
  found = json.loads('\n'.join(lines(capsys, *argv)))
  assert (found['batch_size'], found['lengths']) == (10, [100, 28])
  assert [c['num_kv_heads'] for c in found['caches']] == [64, 32, 16, 4, 1]
  phases = {phase['phase']: phase for phase in found['phases']}
  names = [f'GQA-{K}' for K in (32, 16, 4)]
  assert list(phases) == [
    'encode',
    *(
      f'{phase}, {name}'
      for name in ('MHA', *names, 'MQA')
      for phase in ('cache fill', 'decode step')
    ),
  ]
  step = phases['decode step, GQA-16']
  chip = CHIPS['v5p']
  assert step['memory_seconds'] == step['bytes'] / (2 * chip.hbm_bandwidth)
  assert step['compute_seconds'] == step['flops'] / (2 * chip.peak_flops)
  cache = found['caches'][2]
  assert cache['token_bytes'] == 2 * 24 * 16 * 64 * 2
  assert cache['sequence_bytes'] == 128 * cache['token_bytes']
  assert cache['batch_bytes'] == 10 * cache['sequence_bytes']


def test_parameters_that_do_not_fit_are_told(capsys):
  out = lines(capsys, 'llama-3-70b', '--num_chips=4', '--length=8192')
  assert out[1].startswith('128 sequences of 8,192 positions')
  assert row(out, 'GQA-8')[-1] == '0'
  assert 'GQA-8: the parameters alone, 141.1 GB, do not fit the chips.' in out


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (
      ['qwen2-32b'],
      "There is no model 'qwen2-32b' here; the nearest: qwen2.5-32b",
    ),
    (['xxxl'], "There is no model 'xxxl' here; the nearest: xxl, xl"),
    (['xxl', '--chip=v5'], "There is no chip 'v5' here; the nearest: v5p, v5e"),
    (
      ['xxl', '--num_kv_heads', '8', '3'],
      '--num_kv_heads 3 does not divide the 64 query heads of xxl; choose of '
      '[1, 2, 4, 8, 16, 32, 64].',
    ),
    (['xxl', '--num_kv_heads', '0'], '--num_kv_heads 0 does not divide'),
    (['xxl', '--batch_size=0'], '--batch_size is 0; give 1 or more.'),
    (['xxl', '--num_chips=-1'], '--num_chips is -1; give 1 or more.'),
    (['xxl', '--source_length=0'], '--source_length is 0; give 1 or more.'),
    (
      ['xxl', '--length=5'],
      '--length does not apply to xxl; give --source_length and '
      '--target_length.',
    ),
    (
      ['llama-2-7b', '--target_length=5'],
      '--target_length does not apply to llama-2-7b; give --length.',
    ),
  ],
)
def test_what_cannot_be_is_one_sentence(capsys, argv, message):
  assert cli.main(['cost', *argv]) == 2
  captured = capsys.readouterr()
  assert captured.out == ''
  assert captured.err.startswith(f'gqa-flax cost: {message}')
  assert captured.err.count('\n') == 1


def test_it_loads_neither_jax_nor_tensorflow():
  code = (
    'import sys\n'
    'from gqa_flax import cli\n'
    "assert cli.main(['cost', 'xxl']) == 0\n"
    "heavy = {'jax', 'flax', 'numpy.random', 'seqio', 'tensorflow'}\n"
    'assert not heavy & set(sys.modules), heavy & set(sys.modules)\n'
  )
  subprocess.run(
    [sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL
  )


def test_help_names_every_model(capsys):
  with pytest.raises(SystemExit):
    cli.main(['cost', '--help'])
  words = capsys.readouterr().out.replace(',', ' ').replace('.\n', ' ')
  words = words.replace('(', ' ').replace(')', ' ').split()
  assert {*SIZES, *GEOMETRIES} <= {*words}
