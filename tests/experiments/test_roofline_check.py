"""The roofline's seconds by hand, and the report of a made-up record."""

import json

import pytest

from experiments import roofline_check
from experiments.roofline_check import Point
from gqa_flax.timing import roofline

SPEED = {'bytes': 1e10, 'flops': 1e11}


def test_bounds_are_the_longer_of_bytes_and_flops():
  config = roofline_check.configs()['base', 12]
  S, T = roofline_check.LENGTHS
  found = roofline_check.bounds(config, SPEED)
  widths = {'param_width': 4, 'value_width': 4}
  encode = roofline.encode(config, roofline_check.BATCH, S, **widths)
  step = roofline.decode_step(config, roofline_check.BATCH, S, T, **widths)
  assert found['encode'] == pytest.approx(encode.flops / 1e11)
  assert found['steps'] == pytest.approx(T * step.bytes / 1e10)


def test_five_sizes_with_all_and_with_one_key_value_head():
  models = roofline_check.configs()
  assert len({name for name, _ in models}) == 5 and len(models) == 10
  assert all(config.num_kv_heads == K for (_, K), config in models.items())


def test_correlation_is_of_logarithms():
  bounds = (0.01, 0.1, 1.0, 10.0)
  line = [Point('', '', '', x, 3 * x**0.5) for x in bounds]
  assert roofline_check.correlation(line) == pytest.approx(1.0)
  ups = [Point('', '', '', x, y) for x, y in zip(bounds, (1, 10, 10, 1))]
  assert roofline_check.correlation(ups) == pytest.approx(0.0)


def test_the_report_is_of_the_last_record_and_always_the_same(tmp_path):
  rows = []
  for (name, K), config in roofline_check.configs().items():
    bound = roofline_check.bounds(config, SPEED)
    seconds = {phase: 2 * x for phase, x in bound.items()}
    rows.append({'size': name, 'num_kv_heads': K, 'seconds': seconds})
  record = {
    'processor': 'a processor',
    'speed': SPEED,
    'speed_after': SPEED,
    'batch_size': 8,
    'lengths': [256, 32],
    'rows': rows,
  }
  text = json.dumps({'rows': []}) + '\n' + json.dumps(record) + '\n'
  (tmp_path / 'records.jsonl').write_text(text)
  roofline_check.report(tmp_path)
  report = (tmp_path / 'report.md').read_text()
  assert 'all together 1.000' in report
  assert 'encode 2.00 to 2.00' in report and '(10.0 GB/s' in report
  lines = [line for line in report.splitlines() if '| 2.00 |' in line]
  assert len(lines) == 30
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  roofline_check.report(tmp_path)
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
