"""Tables of estimated decoding: rows of models, steps, phases and meshes."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.decode_times.cells import Cell, Found
from gqa_flax.reporting.tables import markdown_table
from gqa_flax.timing.estimate import PHASES
from gqa_flax.timing.spread import digits

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
HEADER = (
  *('paper, s', 'estimate, s', 'ratio', 'within 25%', 'cores alone, s'),
  *('bound, s', 'batch a chip', 'data x fsdp x model', 'cache divided by'),
  'GiB a chip',
)


def row(name: str, f: Found, value: float | None, shown: str) -> tuple:
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


def steps(found: Mapping[Cell, Found]) -> str:
  """Returns a table of decode steps beside their bounds and targets."""
  header = (
    *('XXL', 'a step, cores, ms', 'bound, ms', 'ratio', 'target', 'reached'),
    *('bound of the mesh, ms', 'ratio', 'exchanges, ms'),
    *('data x fsdp x model', 'cache divided by'),
  )
  return markdown_table(header, step_rows(found))


def step_rows(found: Mapping[Cell, Found]) -> list[tuple]:
  """Returns the rows of `steps`."""
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
    chosen = min(own, key=lambda f: f.estimate.step_seconds)
    e = chosen.estimate
    step = e.step_seconds
    bound = e.bound_seconds()['steps'] / e.decoding.target_length
    mesh_bound = e.mesh_bound_step_seconds()
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
        digits(1e3 * mesh_bound),
        f'{step / mesh_bound:.2f}',
        digits(1e3 * e.step.collective_seconds),
        ' x '.join(map(str, chosen.cell.mesh)),
        chosen.cell.cache_sharding,
      )
    )
  return rows


def phases(chosen: Iterable[Found]) -> str:
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


def all_meshes(found: Mapping[Cell, Found], size: str) -> str:
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
        digits(1e3 * e.step_seconds),
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


def reading(ends: Sequence[float] | None) -> str:
  """Returns a reading of a plot, a number or from the least to the most."""
  if not ends:
    return ''
  low, high = ends
  return f'{low:.2f}' if low == high else f'{low:.1f} to {high:.1f}'
