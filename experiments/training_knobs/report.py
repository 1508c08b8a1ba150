"""report.md and the plot, from the records alone."""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from experiments.training_knobs import cells, plots, summary
from experiments.training_knobs.summary import (
  Plan,
  Program,
  Spread,
  Start,
  Timing,
)
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph
from gqa_flax.timing.chips import CHIPS

_GIB = 2**30
_CHIP = CHIPS['v4']


def write(folder: pathlib.Path):
  """Writes report.md and memory_and_time.png.

  Raises:
    SystemExit: there are no records to report on.
  """
  path = folder / 'records.jsonl'
  found = records.read(path)
  if not found:
    raise SystemExit(
      f'{path} has no records: run `python -m experiments.training_knobs`.'
    )
  programs = summary.programs(found)
  plans = summary.plans(found)
  timings, starts = summary.timings(found), summary.starts(found)
  pages = summary.pages(found)
  if programs:
    plots.bytes_and_seconds(folder / 'memory_and_time.png', programs)
  sections = (
    '# What the memory and speed knobs cost and save\n',
    _defaults(programs, plans, timings, starts, pages),
    _programs(programs),
    _plans(plans),
    _timings(timings),
    _starts(starts),
  )
  text = '\n'.join(section for section in sections if section)
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _defaults(programs, plans, timings, starts, pages) -> str:
  """Says which default follows for each knob, of those that were measured."""
  items = [
    _remat_default(programs, plans),
    _microbatches_default(programs),
    _dtype_default(programs, timings),
    _donation_default(programs, timings),
    _cache_default(starts),
    _pages_default(pages),
  ]
  said = [paragraph(item) for item in items if item]
  return '## Defaults\n\n' + ''.join(f'- {item}' for item in said)


def _remat_default(programs: Sequence[Program], plans: Sequence[Plan]) -> str:
  costs = {
    remat: summary.get(programs, remat=remat, microbatches=1, dtype='bfloat16')
    for remat in cells.REMAT
  }
  if None in costs.values():
    return ''
  none = costs['none']
  slower = ', '.join(
    f"'{remat}' {p.seconds / none.seconds - 1:.0%} more time for "
    f'{p.cost.temporary_bytes / none.cost.temporary_bytes:.0%} of the memory'
    for remat, p in costs.items()
    if remat != 'none'
  )
  needed = ', '.join(
    f'{job} {size} on {cells.PLAN_CHIPS[size]} chips {remat!r}'
    for (job, size), remat in _policies(plans).items()
    if remat != 'none'
  )
  return f"""REMAT_POLICY = 'none' where it fits, as in runs/train.gin: by the
    compiler's estimate it is the fastest, and against it {slower}. By the plan,
    which the compiler's temporaries are compared with below, these jobs of the
    paper need another on TPU v4: {needed or 'none'}."""


def _policies(plans: Sequence[Plan]) -> dict[tuple[str, str], str]:
  """Returns the first policy that fits, by job and size."""
  limit = summary.USABLE * _CHIP.hbm_bytes
  fitting: dict[tuple[str, str], str] = {}
  for plan in plans:
    key = plan.job, plan.size
    fitting.setdefault(key, 'none of them')
    if plan.total_bytes <= limit and fitting[key] == 'none of them':
      fitting[key] = plan.remat
  return fitting


def _microbatches_default(programs: Sequence[Program]) -> str:
  parts = [
    summary.get(programs, remat='full', microbatches=n, dtype='bfloat16')
    for n in cells.MICROBATCHES
  ]
  if None in parts:
    return ''
  one, *more = parts
  kept = summary.get(programs, remat='none', microbatches=4, dtype='bfloat16')
  first = ''
  if kept is not None:
    first = f"""They come before another remat policy, where parameters are not
      divided: 'none' in 4 parts takes {kept.cost.total_bytes / _GIB:.1f} GiB
      and {kept.seconds:.3f} s, 'full' in one
      {one.cost.total_bytes / _GIB:.1f} GiB and {one.seconds:.3f} s."""
  told = ', '.join(
    f'{p.knobs.microbatches} parts {p.cost.temporary_bytes / _GIB:.1f} GiB of '
    f'temporaries and {p.seconds:.3f} s'
    for p in more
  )
  return f"""MICROBATCHES = 1 where it fits: with remat 'full' one part needs
    {one.cost.temporary_bytes / _GIB:.1f} GiB of temporaries and
    {one.seconds:.3f} s, {told}. {first} One chip exchanges nothing; where
    parameters are divided, each part gathers them again."""


def _dtype_default(programs, timings) -> str:
  said = []
  pair = [
    summary.get(programs, remat='full', microbatches=1, dtype=dtype)
    for dtype in ('float32', 'bfloat16')
  ]
  if None not in pair:
    wide, narrow = pair
    said.append(
      f'on TPU bfloat16 takes {narrow.seconds / wide.seconds:.0%} of the time '
      f'and {narrow.cost.temporary_bytes / wide.cost.temporary_bytes:.0%} of '
      "the temporaries of float32, with remat 'full'"
    )
  pair = [
    summary.get(timings, remat='none', microbatches=1, dtype=dtype)
    for dtype in ('float32', 'bfloat16')
  ]
  if None not in pair:
    wide, narrow = pair
    share = _share(narrow.spread, wide.spread)
    said.append(f'on this CPU bfloat16 takes {share} of the time of float32')
  return f'dtype: {"; ".join(said)}.' if said else ''


def _donation_default(programs, timings) -> str:
  program = summary.get(programs, remat='none', microbatches=1)
  if program is None:
    return ''
  text = f"""The state is always donated: that saves
    {program.cost.alias_bytes / _GIB:.2f} GiB a chip"""
  pair = [
    summary.get(
      timings, remat='none', microbatches=1, dtype='float32', donated=donated
    )
    for donated in (True, False)
  ]
  if None not in pair:
    share = _share(*(timing.spread for timing in pair))
    text += f', and a step takes {share} of the time on this CPU'
  return text + '.'


def _share(a: Spread, b: Spread) -> str:
  """Returns one's time over the other's, and whether the repeats overlap."""
  text = f'{a.median / b.median:.0%}'
  if a.low <= b.high and b.low <= a.high:
    text += ' (no difference: the repeats overlap)'
  return text


def _cache_default(starts: Mapping[str, Start]) -> str:
  if not {'off', 'cold', 'warm'} <= starts.keys():
    return ''
  seconds = {
    cache: summary.Spread.of(start.first_step).median
    for cache, start in starts.items()
  }
  return f"""COMPILATION_CACHE = None, as a folder must be chosen; it pays from
    the first restart on. From the start of the process to the end of its first
    step: {seconds['off']:.1f} s without a cache, {seconds['cold']:.1f} s while
    one is filled, {seconds['warm']:.1f} s with a full one."""


def _pages_default(pages: Mapping[str, Spread]) -> str:
  if pages.keys() != cells.PAGES.keys():
    return ''
  small, huge, kept = (pages[kind] for kind in ('small', 'huge', 'kept'))
  (variable, value), *_ = cells.PAGES['huge'].items()
  return f"""{variable}={value} on a CPU, as in the Makefile and in the jobs of
    the laptop's study, as the C library reads it before anything else runs: a
    step of the laptop's model takes {huge.times(1000)} ms with huge pages of
    memory and {small.times(1000)} ms without, {_share(huge, small)}. With huge
    pages that the process keeps whatever is freed
    ({cells.PAGES['kept'][variable]}) it takes {kept.times(1000)} ms,
    {_share(kept, huge)}; what they do for T5.1.1-Small is in
    ../peers/report.md."""


def _programs(programs: Sequence[Program]) -> str:
  if not programs:
    return ''
  rows = [
    (
      p.knobs.label(),
      p.knobs.dtype,
      f'{p.cost.total_bytes / _GIB:.1f}' if p.cost.fits else 'does not fit',
      f'{p.cost.temporary_bytes / _GIB:.1f}',
      f'{p.seconds:.3f}',
      f'{p.recomputed:.0%}',
      f'{p.planned_temporaries / _GIB:.1f}',
      f'{p.ratio:.2f}',
    )
    for p in programs
  ]
  header = (
    *('remat, microbatches', 'dtype', 'GiB a chip', 'temporaries, GiB'),
    *('estimated s a step', 'FLOPs computed again'),
    *('temporaries by the plan, GiB', 'compiler / plan'),
  )
  ratios = [p.ratio for p in programs]
  text = f"""
    T5.1.1-Base with GQA-4 and {cells.LAYERS} layers a stack, {cells.ROWS}
    packed rows of 512/114 tokens on one TPU v4 chip: compiled, not run. The
    estimate is the compiler's, see ../scale/report.md. The plan is what
    `gqa-flax train --dry_run` prints: gradients, activations and what is
    computed again, together. The compiler needs {min(ratios):.2f} to
    {max(ratios):.2f} times as much; below 1, not all of it is alive at once."""
  return (
    '## Compiled for a TPU\n\n'
    + paragraph(text)
    + '\n![Memory and time](memory_and_time.png)\n\n'
    + markdown_table(header, rows)
  )


def _plans(plans: Sequence[Plan]) -> str:
  if not plans:
    return ''
  totals: dict[tuple[str, str], list[str]] = defaultdict(list)
  for plan in plans:
    totals[plan.job, plan.size].append(f'{plan.total_bytes / _GIB:.1f}')
  fitting = _policies(plans)
  rows = [
    (job, size, cells.PLAN_CHIPS[size], *gib, fitting[job, size])
    for (job, size), gib in totals.items()
  ]
  header = ('job', 'size', 'chips', *cells.REMAT, 'first that fits')
  text = f"""
    GiB a chip by `gqa-flax train --dry_run` on the mesh that 'auto' chooses,
    for the paper's jobs in bfloat16, and the first policy with which
    {summary.USABLE:.0%} of a TPU v4 suffice. The plan leaves out kernels that
    are gathered: where memory is left, the compiler gathers them layers ahead,
    see the temporaries of XXL in ../scale/report.md."""
  return (
    "## The paper's jobs, by the plan\n\n"
    + paragraph(text)
    + '\n'
    + markdown_table(header, rows)
  )


def _timings(timings: Sequence[Timing]) -> str:
  if not timings:
    return ''
  rows = [
    (
      t.knobs.label(),
      t.knobs.dtype,
      f'{t.spread.median:.3f} ({t.spread.low:.3f} to {t.spread.high:.3f})',
    )
    for t in timings
  ]
  lengths = '/'.join(map(str, cells.CPU_LENGTHS.values()))
  text = f"""
    T5.1.1-Small with GQA-2 and {cells.CPU_LAYERS} layers a stack,
    {cells.CPU_ROWS} rows of {lengths} tokens; the cells take turns, and each
    number is the median, lowest and highest of {len(timings[0].seconds)}
    repeats."""
  header = ('remat, microbatches', 'dtype', 's a step')
  return (
    '## Measured on a CPU\n\n'
    + paragraph(text)
    + '\n'
    + markdown_table(header, rows)
  )


def _starts(starts: Mapping[str, Start]) -> str:
  if not starts:
    return ''
  rows = []
  for cache, start in starts.items():
    first = summary.Spread.of(start.first_step)
    compilation = summary.Spread.of(start.compilation)
    rows.append(
      (
        cache,
        f'{first.median:.1f} ({first.low:.1f} to {first.high:.1f})',
        f'{compilation.median:.1f}',
        f'{start.cache_bytes / 2**20:.1f}',
      )
    )
  header = ('cache', 's to the first step', 'of them compiling', 'MiB')
  return '## The compilation cache\n\n' + markdown_table(header, rows)
