"""The report and the plots, from the records alone."""

import pathlib

from experiments.scale import plots, summary
from experiments.scale.jobs import JOBS, SLICES
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table

_GIB = 2**30


def write(folder: pathlib.Path):
  """Writes report.md and the plots of a folder's records."""
  found = records.read(folder / 'records.jsonl')
  programs = summary.programs(found)
  parts = [
    "# How far the paper's jobs scale\n",
    _introduction(found),
    '## The largest slice at which the step still scales\n',
    _rule(),
    *(
      _statement(programs, job, generation)
      for job in JOBS
      for generation in _generations(programs, job)
      if len(summary.series(programs, job, generation)) > 1
    ),
    _missing(programs),
    '![Estimated seconds a step by chips](step_seconds.png)\n',
    '## Time of a step\n',
    _times(programs),
    _reading_times(),
    '## Memory of a chip\n',
    _memory(programs),
    '## Exchanges of one step, by one chip\n',
    _exchanges(programs),
    '## Every program\n',
    _all(programs),
  ]
  (folder / 'report.md').write_text('\n'.join(parts), encoding='utf-8')
  plots.step_seconds(folder / 'step_seconds.png', programs)


def _introduction(found) -> str:
  versions = found[-1]['provenance']['versions'] if found else {}
  libtpu = found[-1]['provenance']['libtpu'] if found else None
  sizes = ', '.join(dict.fromkeys(r['size'] for r in found))
  return (
    f'T5.1.1-{sizes.upper()} with GQA-8 and the whole training step: forward '
    'and backward pass, Adafactor, donated float32 state, bfloat16 '
    'activations. Uptraining has 2048 packed rows of 512/114 tokens and no '
    'dropout, fine-tuning 128 rows of 2048/512 and dropout 0.1. Nothing here '
    "was run: the TPU's own compiler compiled it for slices that were not "
    f'there (jax {versions.get("jax")}, libtpu {libtpu}), and what it says of '
    'its program was read off. Made by `python -m experiments.scale`; '
    '`--report` redraws it from the records.\n'
  )


def _rule() -> str:
  return (
    'The rule: against the smallest slice of its generation, a chip gets at '
    f'least {summary.MIN_EFFICIENCY:.0%} as much done, with exchanges counted '
    'after computation as if nothing overlapped; what bounds exchanges is '
    'below what bounds computation; and both hold for every smaller slice '
    'too.\n'
  )


def _statement(programs, job, generation) -> str:
  line = summary.series(programs, job, generation)
  largest = summary.largest_that_scales(programs, job, generation)
  if largest is None:
    return f'- {job} on {generation}: no slice satisfies the rule.\n'
  text = (
    f'- {job} on {generation}: **{largest.cost.num_chips} chips** '
    f'({largest.cost.slice})'
  )
  if largest is not line[0]:
    text += (
      f', where a chip gets {summary.efficiency(largest, line[0], False):.0%} '
      f'as much done as on {line[0].cost.num_chips} '
      f'({summary.efficiency(largest, line[0]):.0%} if exchanges are hidden)'
    )
  following = [p for p in line if p.cost.num_chips > largest.cost.num_chips]
  if not following:
    text += '; it is the largest that was compiled'
  third = [
    p for p in line if 3 * p.cost.collective_seconds >= p.cost.compute_seconds
  ]
  if third and third[0].cost.num_chips <= largest.cost.num_chips:
    cost = third[0].cost
    text += (
      '. This rests on exchanges over all links: if they had a third, they '
      f'would take {3 * cost.collective_seconds:.2f} s on {cost.num_chips} '
      f'chips beside {cost.compute_seconds:.2f} s of computation, and that '
      'slice would not scale'
    )
  if line[0].microbatches > 1:
    text += (
      f'. On {line[0].cost.num_chips} chips the step needs '
      f'{line[0].microbatches} microbatches and gathers kernels for each, '
      'which flatters what is compared with it'
    )
  if not following:
    return f'{text}.\n'
  other = following[0]
  return (
    f'{text}. At {other.cost.num_chips} chips it is '
    f'{summary.efficiency(other, line[0], False):.0%}, and exchanges take at '
    f'least {other.cost.collective_seconds:.2f} s beside '
    f'{other.cost.compute_seconds:.2f} s of computation.\n'
  )


def _missing(programs) -> str:
  done = {(p.job, p.cost.slice) for p in summary.best(programs)}
  tried = {(p.job, p.cost.slice) for p in programs} - done
  lines = []
  for cells, text in (
    (tried, 'In no layout that was tried does this fit'),
    (
      {(job, where) for where in SLICES for job in JOBS} - done - tried,
      'Not compiled yet',
    ),
  ):
    names = sorted(f'{job} on {where}' for job, where in cells)
    if names:
      lines.append(f'{text}: {", ".join(names)}.\n')
  return '\n'.join(lines)


def _times(programs) -> str:
  header = (
    *('job', 'slice', 'chips', 'data x fsdp x model, remat'),
    *('compute bound, s', 'memory bound, s', 'exchange bound, s'),
    *('cores, s', 'step, s', 'step without overlap, s'),
    *('MFU, %', 'MFU without overlap, %', 'efficiency, %', 'tokens/s/chip'),
  )
  rows = []
  for p in summary.best(programs):
    line = summary.series(programs, p.job, p.slice.generation)
    cost = p.cost
    rows.append(
      (
        *(p.job, cost.slice, cost.num_chips, p.layout()),
        f'{cost.compute_seconds:.3f}',
        f'{cost.memory_seconds:.3f}',
        f'{cost.collective_seconds:.3f}',
        f'{cost.core_seconds:.3f}',
        f'{p.seconds():.3f}',
        f'{p.seconds(False):.3f}',
        f'{100 * p.utilisation():.0f}',
        f'{100 * p.utilisation(False):.0f}',
        f'{100 * summary.efficiency(p, line[0], False):.0f}',
        f'{p.tokens / p.seconds(False) / cost.num_chips:,.0f}',
      )
    )
  return markdown_table(header, rows)


def _reading_times() -> str:
  return (
    '\nAll of it is estimated, none measured. *Compute bound*: the matrix '
    "FLOPs of the program, recomputation included, at the chip's published "
    'peak. *Memory bound*: state and batch read, state written, and what the '
    'temporaries take written and read, once each. '
    '*Exchange bound*: the bytes a chip sends in rings, over all its links at '
    'once; a group along one axis of the torus can use a third of them. '
    "*Cores*: the compiler's `estimated_cycles` at the chip's clock, loops "
    'counted by their trips, without exchanges; it prices matrix products '
    'fairly (8192 cubed at 93% of the peak on v4, 88% on v5e, 90% on v5p) and '
    'streams through memory at 2.5 to 4 times what the bandwidth allows. '
    '*Step*: the longer of cores and exchanges, as if exchanges were hidden; '
    'without overlap, their sum. '
    '*MFU*: model FLOPs (three forward passes in closed form, nothing '
    'recomputed) over peak times the step. *Efficiency*: work a chip and '
    'second against the smallest slice of the generation, without overlap.\n'
  )


def _memory(programs) -> str:
  header = (
    *('job', 'slice', 'arguments, GiB', 'of them donated', 'temporaries'),
    *('code', 'in all', 'of HBM, GiB', '%', 'compiled in, s'),
  )
  rows = []
  for p in summary.best(programs):
    cost = p.cost
    hbm = cost.chip.hbm_bytes
    rows.append(
      (
        *(p.job, cost.slice, cost.argument_bytes / _GIB),
        *(cost.alias_bytes / _GIB, cost.temporary_bytes / _GIB),
        *(cost.code_bytes / _GIB, cost.total_bytes / _GIB, hbm // _GIB),
        f'{100 * cost.total_bytes / hbm:.0f}',
        round(cost.compile_seconds),
      )
    )
  return markdown_table(header, rows)


def _exchanges(programs) -> str:
  kinds = list(
    dict.fromkeys(k for p in summary.best(programs) for k in p.cost.collectives)
  )
  header = ('job', 'slice', *kinds, 'sent by a chip, GB')
  rows = []
  for p in summary.best(programs):
    found = p.cost.collectives
    rows.append(
      (
        *(p.job, p.cost.slice),
        *(
          f'{found[k]["count"]:,} ({found[k]["bytes"] / 1e9:,.1f} GB)'
          if k in found
          else ''
          for k in kinds
        ),
        sum(k['sent_bytes'] for k in found.values()) / 1e9,
      )
    )
  return markdown_table(header, rows)


def _all(programs) -> str:
  header = (
    *('job', 'slice', 'data x fsdp x model, remat', 'fits', 'GiB a chip'),
    *('matrix TFLOP a chip', 'model TFLOP a chip', 'step without overlap, s'),
    *('compiled in, s', 'peak of the compiler, GB'),
  )
  rows = []
  for p in programs:
    cost = p.cost
    fitting = (
      f'{cost.total_bytes / _GIB:.1f}',
      f'{cost.flops / 1e12:,.0f}',
      f'{p.model_flops / cost.num_chips / 1e12:,.0f}',
      f'{p.seconds(False):.3f}',
    )
    rows.append(
      (
        *(p.job, cost.slice, p.layout()),
        'yes' if cost.fits else _over(cost),
        *(fitting if cost.fits else ('',) * 4),
        round(cost.compile_seconds),
        f'{cost.compile_peak_bytes / 1e9:.1f}',
      )
    )
  return markdown_table(header, rows)


def _over(cost) -> str:
  if cost.over_bytes is None:
    return 'no'
  return f'{cost.over_bytes / _GIB:.1f} GiB over'


def _generations(programs, job) -> list[str]:
  return list(
    dict.fromkeys(p.slice.generation for p in programs if p.job == job)
  )
