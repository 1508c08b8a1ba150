"""`gqa-flax time`: what it prints, keeps and refuses."""

import argparse
import dataclasses
import json

import pytest

from gqa_flax import cli
from gqa_flax.cli import times
from gqa_flax.timing import estimate, measure, tpu_compile
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.cost import Cost

GIN = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin_file=gin_configs/attention/gqa_2.gin',
  '--gin_file=gin_configs/runs/time.gin',
]


def fail(capsys, *argv):
  """Returns what a command says that fails."""
  status = cli.main(['time', *GIN, *argv])
  captured = capsys.readouterr()
  assert status and not captured.out
  return status, captured.err


@pytest.mark.slow
def test_measured_on_the_devices_that_are_here(capsys, tmp_path):
  output = tmp_path / 'records.jsonl'
  argv = [
    *GIN,
    '--gin.MESH_MODEL=2',
    '--gin.BATCH_SIZE=8',
    '--gin.REPEATS=2',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
    f'--output={output}',
  ]
  assert cli.main(['time', *argv]) == 0
  out = capsys.readouterr().out
  assert 'GQA-2 (2 of 8 key/value heads, width 128), 8/4 tokens on cpu' in out
  rows = [line for line in out.splitlines() if line.startswith('4 x 1 x 2')]
  assert [row.split()[5] for row in rows] == ['heads', 'batch']
  records = [json.loads(line) for line in output.read_text().splitlines()]
  assert [r['measurement']['mesh'] for r in records] == [[4, 1, 2]] * 2
  least = min(
    8
    * (
      r['measurement']['encode']['median']
      + r['measurement']['decode']['median']
    )
    / 8
    for r in records
  )
  assert f'The least: {times_digits(least)} s' in out
  assert records[0]['provenance']['num_devices'] == 8
  assert 'REPEATS = ' in records[0]['gin']


def times_digits(x):
  from gqa_flax.timing.spread import digits

  return digits(x)


def pretend_compile(decoding, where, mesh, programs, log=None):
  """A compiler for which dividing more is slower, and 16 a chip fit."""
  made = Cost(slice=where.name, mesh=mesh, fits=True)
  if 'encode' in programs:
    return {'encode': dataclasses.replace(made, cycles=1e6)}
  if decoding.batch_size > 128:
    return {'decode': dataclasses.replace(made, fits=False)}
  slow = 2.0 if decoding.config.cache_sharding == 'batch' else 1.0
  step = dataclasses.replace(
    made, cycles=slow * mesh[2] * CHIPS['v4'].clock / 1e3
  )
  return {
    'decode': dataclasses.replace(
      step, cycles=decoding.target_length * step.cycles, argument_bytes=2**30
    ),
    'step': step,
  }


def test_estimated_for_a_slice_that_is_not_here(capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(tpu_compile, 'compile_decoding', pretend_compile)
  output = tmp_path / 'records.jsonl'
  argv = [*GIN, '--target=v4-16', f'--output={output}']
  assert cli.main(['time', *argv]) == 0
  out = capsys.readouterr().out
  assert out.startswith('GQA-2 (2 of 8 key/value heads, width 128), 2048/512')
  (row,) = (line for line in out.splitlines() if line.startswith('8 x 1 x 1'))
  cells = row.split()
  # Sixteen a chip, and a step of a millisecond.
  assert cells[5:8] == ['heads', '16', '1.0'] and cells[10] == '1.00'
  assert 'The best mesh: 8 x 1 x 1, the cache divided by heads, ' in out
  assert 'Nothing was run.' in out
  records = [json.loads(line) for line in output.read_text().splitlines()]
  assert len(records) == 7 and records[0]['slice'] == 'v4:2x2x2'
  assert records[0]['provenance']['device_kind'] == 'v4'


def test_a_model_that_fits_no_mesh_is_one_sentence(capsys, monkeypatch):
  monkeypatch.setattr(estimate, 'could_fit', lambda *_: False)
  status, err = fail(capsys, '--target=v4-16', '--gin.MESH_MODEL=8')
  assert status == 2 and err == (
    'gqa-flax time: The model fits on no mesh of v4:2x2x2 that was tried (data '
    'x fsdp x model: 1 x 1 x 8, 1 x 1 x 8); take a larger slice, a smaller '
    'BATCH_SIZE, shorter lengths or fewer key/value heads.\n'
  )


@pytest.mark.parametrize(
  ('argv', 'sentence'),
  [
    (['--target=v4-17'], "--target: There is no TPU slice 'v4-17'; give"),
    (['--target=v4-16', '--trace_dir=x'], 'There is nothing to trace'),
    (['--target=v4-16', '--gin.MESH_DATA=3'], 'No mesh of data=3'),
    (['--trace_dir='], '--trace_dir names no folder; give one,'),
    (['--target='], "--target: There is no TPU slice ''; give"),
    (['--gin.REPEATS=0'], 'REPEATS is 0; give an integer of at least 1.'),
    (['--gin.REPEATS=2.5'], 'REPEATS is 2.5; give'),
    (['--gin.REPEATS=many'], "REPEATS is 'many'; give"),
    (['--output='], "--output: '' cannot be written (Is a directory);"),
    (['--output=tests'], "--output: 'tests' cannot be written (Is a dir"),
    (['--output=README.md/x'], "--output: 'README.md/x' cannot be written ("),
  ],
)
def test_mistakes_are_one_sentence(capsys, monkeypatch, argv, sentence):
  forbid_compiling(monkeypatch)
  _, err = fail(capsys, *argv)
  assert sentence in err and err.count('\n') == 1


@pytest.mark.parametrize('where', [[], ['--target=v4-16']])
@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *(('BATCH_SIZE', value) for value in ('0', '-4', '1.5', "'auto'")),
    *(
      ('TASK_FEATURE_LENGTHS', value)
      for value in (
        *("{'inputs': 0, 'targets': 8}", "{'inputs': 8, 'targets': 0}"),
        *("{'inputs': 8}", "{'inputs': 8, 'targets': 1.5}", '32', 'None'),
      )
    ),
  ],
)
def test_sizes_that_cannot_be_are_named(
  capsys, monkeypatch, where, name, value
):
  forbid_compiling(monkeypatch)
  _, err = fail(capsys, *where, f'--gin.{name}={value}')
  assert err.startswith(f'gqa-flax time: --gin.{name} is {value}; give ')
  assert 'at least 1' in err and err.count('\n') == 1


def forbid_compiling(monkeypatch):
  def compile(*_, **__):
    raise AssertionError('It was compiled.')

  monkeypatch.setattr(measure, '_compile', compile)
  monkeypatch.setattr(tpu_compile, 'compile_decoding', compile)


def test_the_output_is_tried_and_left_as_it_was(tmp_path):
  kept, new = tmp_path / 'kept', tmp_path / 'new' / 'records.jsonl'
  kept.write_text('{}\n')
  link = tmp_path / 'link'
  link.symlink_to(new)
  for output in (kept, new, link):
    times._check_output(argparse.Namespace(output=str(output)))
  assert kept.read_text() == '{}\n' and not new.exists() and link.is_symlink()


def test_it_is_told_what_is_missing(capsys, monkeypatch):
  monkeypatch.setattr(tpu_compile, 'available', lambda: False)
  with pytest.raises(RuntimeError, match="pip install 'gqa_flax.tpu-compile"):
    tpu_compile.topology_devices(
      times._target(
        type('Arguments', (), {'target': 'v4-16', 'trace_dir': None})
      )
    )
