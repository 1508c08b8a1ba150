"""The jobs against the paper's, resuming, and the report of made-up records."""

import json

import pytest

from experiments.scale import __main__ as experiment
from experiments.scale import jobs, report, summary
from gqa_flax.timing import tpu_compile
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.cost import Cost


def test_the_jobs_are_the_papers():
  uptraining, tuning = (
    jobs.candidates(job, 'v4:4x4x4')[0].step() for job in jobs.JOBS
  )
  for step in uptraining, tuning:
    config = step.config
    assert (config.num_heads, config.num_kv_heads) == (64, 8)
    assert (config.emb_dim, config.mlp_dim, config.vocab_size) == (
      *(4096, 10240),
      32128,
    )
    assert (config.num_encoder_layers, config.num_decoder_layers) == (24, 24)
    assert config.dtype == 'bfloat16'
  lengths = (uptraining.source_length, uptraining.target_length)
  assert (uptraining.batch_size, *lengths) == (2048, 512, 114)
  assert uptraining.packed and uptraining.config.dropout_rate == 0
  lengths = (tuning.source_length, tuning.target_length)
  assert (tuning.batch_size, *lengths) == (128, 2048, 512)
  assert not tuning.packed and tuning.config.dropout_rate == 0.1


def test_candidates_use_every_chip_and_divide_every_part_of_the_batch():
  seen = set()
  for candidates in jobs.cells():
    assert candidates
    for cell in candidates:
      data, fsdp, model = cell.mesh
      assert data * fsdp * model == Slice.parse(cell.slice).num_chips
      rows = jobs.JOBS[cell.job]['batch_size'] // cell.microbatches
      assert rows % (data * fsdp) == 0
      assert 8 % model == 0  # key/value heads are divided, not copied
      seen.add((cell.job, cell.slice))
  assert len(seen) == len(jobs.JOBS) * len(jobs.SLICES)


def cost(where='v4:4x4x4', mesh=(4, 16, 1), core=1.0, sent=0.0, **fields):
  """A made-up cost: seconds of cores and of exchanges."""
  chip = Slice.parse(where).chip
  common = {
    'slice': where,
    'mesh': mesh,
    'fits': True,
    'compile_seconds': 300.0,
    'compile_peak_bytes': 9_000_000_000,
    'argument_bytes': 2**31,
    'output_bytes': 2**31,
    'alias_bytes': 2**31,
    'temporary_bytes': 2**34,
    'flops': 0.5 * core * chip.peak_flops,
    'cycles': core * chip.clock,
    'collectives': {
      'all-gather': {
        'count': 7,
        'bytes': 2e9,
        'sent_bytes': sent * chip.ici_bandwidth,
      }
    },
  }
  return Cost(**common | fields)


class Compiler:
  """Stands in for the compiler; steps of one part do not fit, if so told."""

  def __init__(self, monkeypatch, too_large=(), broken=()):
    self.calls, self.too_large, self.broken = [], too_large, broken
    monkeypatch.setattr(tpu_compile, 'compile_train_step', self)
    monkeypatch.setattr(tpu_compile, 'version', lambda: '0.0')

  def __call__(self, step, where, mesh, log):
    self.calls.append((where.name, step.microbatches))
    if where.name in self.broken:
      raise RuntimeError('Compiling ended with status 1')
    fits = (where.name, step.microbatches) not in self.too_large
    return cost(where.name, mesh, fits=fits, over_bytes=None if fits else 2**30)


def run(path, slices):
  todo = jobs.cells(slices, ['uptraining'])
  experiment.run(path, todo, 'xxl', None)


def test_parts_are_tried_until_a_step_fits_and_done_ones_never_again(
  tmp_path, monkeypatch
):
  path = tmp_path / 'records.jsonl'
  compiler = Compiler(monkeypatch, too_large={('v4:4x4x4', 1)})
  run(path, ['v4:4x4x4', 'v4:8x8x8'])
  expected = [('v4:4x4x4', 1), ('v4:4x4x4', 2), ('v4:8x8x8', 1)]
  assert compiler.calls == expected
  run(path, ['v4:4x4x4', 'v4:8x8x8', 'v4:4x4x8'])
  assert compiler.calls == [*expected, ('v4:4x4x8', 1)]
  found = [json.loads(line) for line in path.read_text().splitlines()]
  assert [record['cost']['fits'] for record in found] == [False, *[True] * 3]
  assert found[0]['provenance']['num_devices'] == 64
  assert found[0]['provenance']['libtpu'] == '0.0'
  assert found[0]['step']['config']['num_kv_heads'] == 8


def test_what_fails_leaves_no_record_and_is_tried_again(
  tmp_path, monkeypatch, capsys
):
  path = tmp_path / 'records.jsonl'
  Compiler(monkeypatch, broken={'v4:4x4x4'})
  run(path, ['v4:4x4x4', 'v4:8x8x8'])
  assert 'ended with status 1' in capsys.readouterr().err
  compiler = Compiler(monkeypatch)
  run(path, ['v4:4x4x4', 'v4:8x8x8'])
  assert compiler.calls == [('v4:4x4x4', 1)]


def program(where, core, sent=0.0, job='uptraining', parts=1, **fields):
  return summary.Program(
    *(job, 'xxl', 'full', parts, 2048 * 626, 1e15),
    cost(where, core=core, sent=sent, **fields),
  )


def test_efficiency_by_hand():
  small = program('v4:4x4x4', 1.0, 0.2)
  large = program('v4:8x8x8', 0.2, 0.1, mesh=(32, 16, 1))
  # 1 s on 64 chips is 0.125 s on 512, if nothing is lost.
  assert summary.efficiency(large, small) == pytest.approx(0.125 / 0.2)
  after = summary.efficiency(large, small, overlap=False)
  assert after == pytest.approx(1.2 / 8 / 0.3)


def test_the_largest_slice_stops_at_the_first_that_does_not_scale():
  meshes = {128: (8, 16, 1), 256: (16, 16, 1), 512: (32, 16, 1)}
  names = {128: 'v4:4x4x8', 256: 'v4:4x8x8', 512: 'v4:8x8x8'}

  def line(**seconds):
    found = [program('v4:4x4x4', 1.0, 0.1)]
    for chips, name in names.items():
      core, sent = seconds.get(f'on_{chips}', (64 / chips, 0.1 * 64 / chips))
      found.append(program(name, core, sent, mesh=meshes[chips]))
    return found

  def largest(**seconds):
    found = summary.largest_that_scales(line(**seconds), 'uptraining', 'v4')
    return found.cost.num_chips

  assert largest() == 512
  assert largest(on_512=(0.3, 0.1)) == 256
  # Efficient, but exchanges are bound above computation (half of the cores').
  assert largest(on_512=(0.125, 0.07)) == 256
  # 512 alone would do; 128 does not.
  assert largest(on_128=(1.2, 0.1)) == 64
  assert summary.largest_that_scales([], 'uptraining', 'v4') is None


def test_the_best_layout_fits_and_counts_its_exchanges():
  hidden = program('v4:4x4x4', 1.0, 0.9)
  plain = program('v4:4x4x4', 1.2, 0.1, parts=2)
  large = program('v4:4x4x4', 0.1, fits=False, parts=4)
  assert summary.best([hidden, plain, large]) == [plain]


def record(where, mesh, job, core, sent, **fields):
  step = jobs.Cell(job, where, mesh, 'full').step()
  return {
    'experiment': 'scale',
    **{'size': 'xxl', 'job': job, 'slice': where, 'mesh': mesh},
    **{'remat': 'full', 'microbatches': 1, 'step': step.to_dict()},
    'model_flops': 16.0 * 275e12,
    'cost': cost(where, mesh, core, sent, **fields).to_dict(),
    'provenance': {'versions': {'jax': '1.2'}, 'libtpu': '3.4'},
  }


def test_the_report_says_what_the_records_say(tmp_path):
  found = [
    record('v4:4x4x4', (4, 16, 1), 'uptraining', 1.0, 0.1),
    record('v4:8x8x8', (32, 16, 1), 'uptraining', 0.4, 0.1),
    record('v4:4x4x4', (4, 16, 1), 'fine-tuning', 1.0, 0.1),
    record('v4:8x8x8', (8, 16, 4), 'fine-tuning', 0.125, 0.0125),
    record(
      *('v5e:16x16', (16, 16, 1), 'uptraining', 1.0, 0.1),
      **{'fits': False, 'over_bytes': 3 * 2**29},
    ),
  ]
  path = tmp_path / 'records.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in found))
  report.write(tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert '- uptraining on v4: **64 chips** (v4:4x4x4)' in text
  assert 'At 512 chips it is 28%' in text  # 1.1 / 8 over 0.5
  assert '512 chips** (v4:8x8x8), where a chip gets 100% as' in text
  assert 'does this fit: uptraining on v5e:16x16.' in text
  assert 'Not compiled yet: fine-tuning on v4:4x4x8,' in text
  assert '1.5 GiB over' in text and 'jax 1.2, libtpu 3.4' in text
  # 16 seconds of one chip's peak, on 64 chips in 1.0 and 1.1 s.
  assert '| 25 | 23 |' in text
  assert (tmp_path / 'step_seconds.png').stat().st_size > 10_000
  again = text, (tmp_path / 'step_seconds.png').read_bytes()
  report.write(tmp_path)
  assert again == (
    (tmp_path / 'report.md').read_text(),
    (tmp_path / 'step_seconds.png').read_bytes(),
  )
