"""The roofline against the clock: five sizes of T5.1.1 on this machine's CPU.

Bytes and FLOPs of encoding, filling the cache and a decode step come from the
configuration alone (gqa_flax.timing.roofline). Here they are turned into
seconds by two measured figures of the machine, the speed of a large copy and of
a large matrix product, and compared with what the phases take by
gqa_flax.timing.measure: with MHA and MQA, so that the cache counts too.

  python -m experiments.roofline_check
  python -m experiments.roofline_check --report

The second redraws the report from the records in results/roofline_check/.

Hardware: two CPU cores, 8 GB of memory, no accelerator; five minutes on an idle
machine.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.config import T5Config
from gqa_flax.reporting import plots, records
from gqa_flax.reporting.tables import markdown_table, paragraph
from gqa_flax.timing import roofline
from gqa_flax.timing.kv_cache import attention_name
from gqa_flax.timing.spread import digits

RESULTS = pathlib.Path('results/roofline_check')
# Fields that differ from the named size.
SIZES: Mapping[str, tuple[str, Mapping[str, int]]] = {
  'mini': ('mini', {}),
  'half of small': (
    'small',
    {'num_encoder_layers': 4, 'num_decoder_layers': 4},
  ),
  'small': ('small', {}),
  'base': ('base', {}),
  'large': ('large', {}),
}
BATCH, LENGTHS = 8, (256, 32)
REPEATS = 5
PHASES = ('encode', 'fill_cache', 'steps')
# Of float32.
_WIDTHS = {'param_width': 4, 'value_width': 4}
_COPIED, _PRODUCT = 2**28, 2048


def configs() -> dict[tuple[str, int], T5Config]:
  """Returns the models by size and number of key/value heads."""
  found = {}
  for name, (size, changes) in SIZES.items():
    heads = T5Config.t5_1_1(size).num_heads
    for K in (heads, 1):
      found[name, K] = T5Config.t5_1_1(
        size,
        num_kv_heads=K,
        dropout_rate=0.0,
        cache_sharding='heads',
        **changes,
      )
  return found


def bounds(config: T5Config, speed: Mapping[str, float]) -> dict[str, float]:
  """Returns the seconds of each phase by the roofline.

  Args:
    config: the architecture.
    speed: 'bytes' and 'flops' of the machine, a second.
  """
  S, T = LENGTHS
  phases = {
    'encode': (1, roofline.encode(config, BATCH, S, **_WIDTHS)),
    'fill_cache': (1, roofline.cache_fill(config, BATCH, S, **_WIDTHS)),
    'steps': (T, roofline.decode_step(config, BATCH, S, T, **_WIDTHS)),
  }
  return {
    phase: times * max(work.bytes / speed['bytes'], work.flops / speed['flops'])
    for phase, (times, work) in phases.items()
  }


def measure_machine() -> dict[str, float]:
  """Returns bytes a second of a copy, and FLOP/s of a float32 product."""
  import jax
  import jax.numpy as jnp

  copy = jax.jit(lambda x: x + 1)
  product = jax.jit(jnp.matmul)
  x = jnp.zeros((_COPIED // 4,), jnp.float32)
  a = jnp.ones((_PRODUCT, _PRODUCT), jnp.float32)
  return {
    'bytes': 2 * _COPIED / _median(lambda: copy(x)),
    'flops': 2 * _PRODUCT**3 / _median(lambda: product(a, a)),
  }


def _median(call) -> float:
  import jax

  seconds = []
  for _ in range(REPEATS + 1):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - begin)
  return statistics.median(seconds[1:])


def run(path: pathlib.Path):
  """Measures all models, and appends one record of them."""
  import jax

  from gqa_flax import partitioning
  from gqa_flax.timing import measure

  speed = measure_machine()
  mesh = partitioning.make_mesh(devices=jax.devices()[:1])
  rows = []
  for (name, K), config in configs().items():
    found = measure.measure(
      config,
      LENGTHS,
      mesh,
      batch_size=BATCH,
      param_dtype='float32',
      repeats=REPEATS,
    )
    row = {'size': name, 'num_kv_heads': K, 'seconds': found.seconds()}
    rows.append(row)
    print(row, flush=True)
  records.append(
    path,
    {
      'experiment': 'roofline_check',
      'processor': records.processor(),
      'speed': speed,
      'speed_after': measure_machine(),
      'batch_size': BATCH,
      'lengths': [*LENGTHS],
      'rows': rows,
      'provenance': records.provenance('cpu', 1),
    },
  )


@dataclasses.dataclass(frozen=True)
class Point:
  """One phase of one model: seconds by the roofline, and measured."""

  size: str
  attention: str
  phase: str
  bound: float
  measured: float


def points(record: Mapping[str, Any]) -> list[Point]:
  """Returns the phases of all models of a record."""
  models = configs()
  found = []
  for row in record['rows']:
    config = models[row['size'], row['num_kv_heads']]
    bound = bounds(config, record['speed'])
    for phase in PHASES:
      seconds = row['seconds'][phase]
      name = attention_name(config)
      found.append(Point(row['size'], name, phase, bound[phase], seconds))
  return found


def correlation(points: Sequence[Point]) -> float:
  """Returns Pearson's, of the logarithms."""
  return statistics.correlation(
    [math.log(p.bound) for p in points], [math.log(p.measured) for p in points]
  )


def report(folder: pathlib.Path):
  """Writes report.md and seconds.png from the last record."""
  record = records.read(folder / 'records.jsonl')[-1]
  found = points(record)
  speed, after = record['speed'], record['speed_after']
  by_phase = {phase: [p for p in found if p.phase == phase] for phase in PHASES}
  lines = [
    '# The roofline against the clock\n',
    paragraph(f"""
      Five sizes of T5.1.1 with multi-head and multi-query attention, float32,
      {record['batch_size']} sequences of {record['lengths'][0]} tokens and
      {record['lengths'][1]} decode steps, on one CPU ({record['processor']}).
      The roofline takes the longer of a phase's bytes and of its FLOPs, by the
      configuration alone, at the speed of a large copy
      ({speed['bytes'] / 1e9:.1f} GB/s, and {after['bytes'] / 1e9:.1f} at the
      end) and of a large product ({speed['flops'] / 1e9:.0f} GFLOP/s,
      {after['flops'] / 1e9:.0f} at the end), both measured here. A copy writes
      as much as it reads, and decode steps read: they may take less than this
      roofline. Measured are medians of {REPEATS} repeats.
      """),
    paragraph(
      'Correlation of the logarithms: '
      + ', '.join(
        f'{phase.replace("_", " ")} {correlation(own):.3f}'
        for phase, own in by_phase.items()
      )
      + f', all together {correlation(found):.3f}. Measured over roofline: '
      + ', '.join(
        f'{phase.replace("_", " ")} '
        f'{min(p.measured / p.bound for p in own):.2f} to '
        f'{max(p.measured / p.bound for p in own):.2f}'
        for phase, own in by_phase.items()
      )
      + '.'
    ),
    '![Measured seconds by the roofline](seconds.png)\n',
    markdown_table(
      ('size', 'attention', 'phase', 'roofline, s', 'measured, s', 'ratio'),
      [
        (
          p.size,
          p.attention,
          p.phase.replace('_', ' '),
          digits(p.bound),
          digits(p.measured),
          f'{p.measured / p.bound:.2f}',
        )
        for p in found
      ],
    ),
  ]
  (folder / 'report.md').write_text('\n'.join(lines), encoding='utf-8')
  _plot(folder / 'seconds.png', by_phase)


def _plot(path: pathlib.Path, by_phase: Mapping[str, Sequence[Point]]):
  figure, axes = plots.new(6, 5)
  styles = (('o', '#b3502e'), ('s', '#1f7a45'), ('D', '#2f5d9b'))
  for (phase, own), (marker, color) in zip(by_phase.items(), styles):
    axes.scatter(
      [p.bound for p in own],
      [p.measured for p in own],
      marker=marker,
      color=color,
      label=phase.replace('_', ' '),
    )
  values = [p.bound for own in by_phase.values() for p in own]
  ends = min(values), max(values)
  axes.plot(ends, ends, '--', color='#444444', linewidth=1, label='equal')
  axes.set_xscale('log')
  axes.set_yscale('log')
  axes.set_xlabel('seconds by the roofline')
  axes.set_ylabel('seconds measured')
  axes.legend(frameon=False)
  plots.save(figure, path)


def main() -> int:
  """Measures, then reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--results_dir', default=RESULTS, type=pathlib.Path)
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args()
  if not args.report:
    run(args.results_dir / 'records.jsonl')
  report(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
