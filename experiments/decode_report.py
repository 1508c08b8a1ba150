"""Reports on estimated decoding: Figure 6 and Table 1's column of times."""

import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.decode_times import Cell, Found
from gqa_flax.reporting.tables import markdown_table, paragraph
from gqa_flax.timing.estimate import PHASES
from gqa_flax.timing.spread import digits

PAPER = pathlib.Path('results/paper_values.json')
_GIB = 2**30
# An estimate counts as the paper's within this share of it.
CLOSE = 0.25
# K of T5.1.1-XXL, sequences a chip; a decode step, without exchanges, is to
# take no more than so many times its bound, or so many seconds.
STEP_TARGETS = (
  ('GQA-8', 8, 32, 'times', 1.25),
  ('MQA', 1, 32, 'times', 1.6),
  ('MHA', 64, 16, 'seconds', 0.043),
)


def paper_values(name: str) -> Mapping[str, Any]:
  """Returns the paper's numbers by name, and how they are known."""
  return json.loads(PAPER.read_text(encoding='utf-8'))[name]


def figure6(
  best: Mapping[int, Found],
  found: Mapping[Cell, Found],
  paper,
  cells: Sequence[Cell],
):
  """Returns the report of Figure 6.

  Args:
    best: by number of key/value heads.
    found: all records by cell.
    paper: of `paper_values`.
    cells: what is to be compiled.
  """
  rows = []
  for K, chosen in best.items():
    reading = paper['values'].get(str(K))
    rows.append(
      _row(f'{K}', chosen, reading and sum(reading) / 2, _reading(reading))
    )
  return _text(
    [
      '# Figure 6: the time to decode by key/value heads\n',
      _about(found),
      _missing(found, cells),
      f'The paper: {paper["how"]}.\n',
      '![Seconds a sample by key/value heads](time.png)\n',
      markdown_table(('key/value heads', *_HEADER), rows),
      _shape(best, paper),
      _by_table1(best.values()),
      _encoder(best.values()),
      '## A decode step against its bound\n',
      _steps(found),
      _LEGEND,
      '## Phases of the best meshes\n',
      _phases(best.values()),
      '## All meshes\n',
      _all(found, 'xxl'),
    ]
  )


def table1(
  best: Mapping[tuple, Found],
  found: Mapping[Cell, Found],
  paper,
  cells: Sequence[Cell],
):
  """Returns the report of Table 1's times.

  Args:
    best: by size and number of key/value heads.
    found: all records by cell.
    paper: of `paper_values`.
    cells: what is to be compiled.
  """
  values = paper['values']
  rows = [
    _row(f.cell.model, f, values[f.cell.model], f'{values[f.cell.model]:.2f}')
    for f in best.values()
  ]
  return _text(
    [
      "# Table 1: the paper's T_infer, estimated\n",
      _about(found),
      _missing(found, cells),
      f'The paper: {paper["how"]}.\n',
      markdown_table(('model', *_HEADER), rows),
      _ratios(best, values),
      _encoder(best.values()),
      _LEGEND,
      '## Phases of the best meshes\n',
      _phases(best.values()),
      '## All meshes of MHA-Large\n',
      _all(found, 'large'),
      'Those of XXL are in ../figure6_num_groups/report.md.\n',
    ]
  )


def _text(parts: Iterable[str]) -> str:
  """Joins the parts that say something."""
  return '\n'.join(part for part in parts if part)


_HEADER = (
  *('paper, s', 'estimate, s', 'ratio', 'within 25%', 'cores alone, s'),
  *('bound, s', 'batch a chip', 'data x fsdp x model', 'cache divided by'),
  'GiB a chip',
)


def _row(name: str, f: Found, value: float | None, shown: str) -> tuple:
  e = f.estimate
  ratio = f.seconds / value if value else None
  return (
    name,
    shown,
    digits(f.seconds),
    f'{ratio:.2f}' if ratio else '',
    ('yes' if abs(ratio - 1) <= CLOSE else 'no') if ratio else '',
    digits(e.a_sample(e.core_seconds())),
    digits(e.a_sample(e.bound_seconds())),
    f'{e.batch_per_chip:g}',
    ' x '.join(map(str, f.cell.mesh)),
    f.cell.cache_sharding if f.cell.mesh[2] > 1 else '',
    f'{e.total_bytes / _GIB:.1f}',
  )


def _reading(reading: Sequence[float] | None) -> str:
  if not reading:
    return ''
  low, high = reading
  return f'{low:.2f}' if low == high else f'{low:.1f} to {high:.1f}'


def _about(found: Mapping[Cell, Found]) -> str:
  first = next(iter(found.values()))
  versions = first.provenance['versions']
  return paragraph(f"""
    Seconds a sample and chip: the encoder, filling the cross-attention's cache
    and 512 greedy steps for one batch, times eight chips, over its samples.
    Nothing here was run: the TPU's own compiler compiled the functions that
    decode for {first.cell.slice}, eight TPU v4 that were not there (jax
    {versions['jax']}, libtpu {first.provenance['libtpu']}), with bfloat16
    parameters, for every mesh without fsdp and both ways of dividing the cache,
    each with the largest batch up to 32 a chip that fits by the compiler's
    memory analysis. A row is the mesh of the least time.""")


def _missing(found: Mapping[Cell, Found], cells: Sequence[Cell]) -> str:
  """Returns which cells are not compiled yet, if any."""
  missing = [cell for cell in cells if cell not in found]
  if not missing:
    return ''
  by_mesh: dict[str, list[str]] = {}
  for cell in missing:
    mesh = f'{" x ".join(map(str, cell.mesh))} by {cell.cache_sharding}'
    by_mesh.setdefault(mesh, []).append(cell.model)
  listed = '; '.join(
    f'{", ".join(models)} on {mesh}' for mesh, models in by_mesh.items()
  )
  return paragraph(
    f'Not compiled yet, {len(missing)} of {len(cells)} cells: {listed}.'
  )


def _encoder(best: Iterable[Found]) -> str:
  """Returns what the encoder has to do with the distance to the paper."""
  lines = []
  for f in best:
    e = f.estimate
    scale = e.num_chips / e.decoding.batch_size
    own, bound = (
      scale * e.seconds()['encode'],
      scale * e.bound_seconds()['encode'],
    )
    lines.append(
      f'{f.cell.model} {own / f.seconds:.0%} of {digits(f.seconds)} s (without '
      f'what is above its bound: {digits(f.seconds - own + bound)} s)'
    )
  return paragraph(f"""
    The share of the encoder, which computes its logits of 2048 x 2048 positions
    twice, so that none lie in memory: {'; '.join(lines)}.""")


def _shape(best: Mapping[int, Found], paper) -> str:
  """Returns what the figure's order and shape come to."""
  if 1 not in best:
    return ''
  times = [chosen.seconds for chosen in best.values()]
  rising = all(a <= b for a, b in itertools.pairwise(times))
  values = paper['values']
  lines = [
    f'More key/value heads {"never" if rising else "do not always"} take '
    f'{"less" if rising else "more"} time.'
  ]
  for K, chosen in best.items():
    if K == 1 or str(K) not in values:
      continue
    low, high = (x / values['1'][0] for x in values[str(K)])
    theirs = f'{low:.2f}' if low == high else f'{low:.1f} to {high:.1f}'
    lines.append(
      f'{K} take {chosen.seconds / times[0]:.2f} times as long as 1 (paper: '
      f'{theirs}).'
    )
  return paragraph(' '.join(lines))


def _by_table1(best: Iterable[Found]) -> str:
  """Returns how far the models that Table 1 has too are from its times."""
  values = paper_values('table1_seconds_a_sample')['values']
  lines = [
    f'{f.cell.model} {values[f.cell.model]:.2f} s, of which the estimate is '
    f'{f.seconds / values[f.cell.model]:.2f}'
    for f in best
    if f.cell.model in values
  ]
  return paragraph(
    'Some of the models are in Table 1 too, where the paper has printed other '
    f'times than its plot shows: {"; ".join(lines)}.'
  )


def _ratios(best: Mapping[tuple, Found], values: Mapping[str, float]) -> str:
  """Returns how the models compare with each other, here and in the paper."""
  by_model = {f.cell.model: f.seconds for f in best.values()}
  if len(by_model) < len(values):
    return ''
  base = 'MHA-XXL'
  parts = [
    f'{by_model[base] / seconds:.1f} times as fast as {base} is {name} (paper: '
    f'{values[base] / values[name]:.1f})'
    for name, seconds in by_model.items()
    if name != base
  ]
  return paragraph('; '.join(parts) + '.')


def _steps(found: Mapping[Cell, Found]) -> str:
  rows = []
  for name, K, batch, kind, limit in STEP_TARGETS:
    own = [
      f
      for f in found.values()
      if (f.cell.size, f.cell.num_kv_heads) == ('xxl', K)
      and f.estimate
      and f.estimate.batch_per_chip == batch
    ]
    if not own:
      continue
    chosen = min(own, key=lambda f: f.estimate.step.core_seconds)
    e = chosen.estimate
    step = e.step.core_seconds
    bound = e.bound_seconds()['steps'] / e.decoding.target_length
    reached = step / bound <= limit if kind == 'times' else step <= limit
    target = f'{limit:g} x' if kind == 'times' else f'{1e3 * limit:g} ms'
    rows.append(
      (
        f'{name}, {batch} a chip',
        digits(1e3 * step),
        digits(1e3 * bound),
        f'{step / bound:.2f}',
        target,
        'yes' if reached else '**no**',
        digits(1e3 * e.step.collective_seconds),
        ' x '.join(map(str, chosen.cell.mesh)),
        chosen.cell.cache_sharding,
      )
    )
  header = (
    *('XXL', 'a step, cores, ms', 'bound, ms', 'ratio', 'target', 'reached'),
    *('exchanges, ms', 'data x fsdp x model', 'cache divided by'),
  )
  return markdown_table(header, rows)


_LEGEND = paragraph("""
  *Cores*: the compiler's `estimated_cycles` at the chip's clock, loops counted
  by their trips, without exchanges and without waiting for copies that run
  beside; it prices matrix products fairly and streams through memory at some
  2.5 times what the bandwidth allows (v4). *Exchanges*: the bytes that a chip
  sends in rings over all its links at once; the latency of each, and that a
  group along one axis of the torus has a third of the links, are not counted.
  *Estimate*: cores and exchanges, one after the other. *Bound*: the longer of
  FLOPs at the published peak and bytes at full bandwidth, phase by phase,
  divided evenly over the chips; no program is faster.""")


def _phases(chosen: Iterable[Found]) -> str:
  header = ['model']
  for phase in PHASES:
    name = phase.replace('_', ' ')
    header += [f'{name}: cores, s', 'exchanges, s', 'bound, s']
  rows = []
  for f in chosen:
    e = f.estimate
    scale = e.num_chips / e.decoding.batch_size
    columns = e.core_seconds(), e.exchange_seconds(), e.bound_seconds()
    cells = [
      digits(scale * column[phase]) for phase in PHASES for column in columns
    ]
    rows.append((f.cell.model, *cells))
  return markdown_table(header, rows)


def _all(found: Mapping[Cell, Found], size: str) -> str:
  own = [f for f in found.values() if f.cell.size == size]
  own.sort(
    key=lambda f: (f.cell.num_kv_heads, -f.cell.mesh[2], f.cell.cache_sharding)
  )
  rows = []
  for f in own:
    mesh = ' x '.join(map(str, f.cell.mesh))
    e = f.estimate
    if e is None:
      rows.append(
        (f.cell.model, mesh, f.cell.cache_sharding, *('none fits',) * 6)
      )
      continue
    kinds = sorted(e.step.collectives.items())
    rows.append(
      (
        f.cell.model,
        mesh,
        f.cell.cache_sharding,
        f'{e.batch_per_chip:g}',
        f'{e.total_bytes / _GIB:.1f}',
        digits(1e3 * e.step.core_seconds),
        digits(1e3 * e.step.collective_seconds),
        ', '.join(
          f'{kind} {k["count"]} ({k["sent_bytes"] / 1e6:.1f} MB)'
          for kind, k in kinds
        ),
        digits(f.seconds),
      )
    )
  header = (
    *('model', 'data x fsdp x model', 'cache divided by', 'batch a chip'),
    *('GiB a chip', 'a step, cores, ms', 'exchanges, ms'),
    *('sent by a chip in a step', 'a sample a chip, s'),
  )
  return markdown_table(header, rows)
