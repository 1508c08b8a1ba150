"""The plot of a step's time by chips, with what bounds it."""

import pathlib
from collections.abc import Sequence

from experiments.scale import summary
from experiments.scale.jobs import JOBS
from gqa_flax.reporting import plots

_LINES = (
  ('step, exchanges after computation', '#b3502e', '-', 'o'),
  ('step, exchanges hidden', '#2f5d9b', '-', 's'),
  ('compute bound', '#444444', '--', '.'),
  ('exchange bound', '#1f7a45', ':', '^'),
  ('memory bound', '#8a8f98', '-.', '.'),
)
_OTHERS = {'v5e': ('#7fa8d9', 'D'), 'v5p': ('#e3b7a0', 'P')}


def step_seconds(path: pathlib.Path, programs: Sequence[summary.Program]):
  """Draws a panel a job: v4 as lines over chips, other chips as marks."""
  figure, rows = plots.panels(1, len(JOBS), 10.5, 5, sharex=True, sharey=True)
  panels = rows[0]
  for axes, job in zip(panels, JOBS):
    _panel(axes, job, programs)
  panels[0].set_ylabel('estimated seconds a step')
  handles = {
    label: handle
    for axes in panels
    for handle, label in zip(*axes.get_legend_handles_labels())
  }
  figure.legend(
    handles.values(),
    handles.keys(),
    loc='lower center',
    ncols=4,
    fontsize=8,
    frameon=False,
  )
  plots.save(figure, path, rect=(0, 0.1, 1, 1))


def _panel(axes, job, programs):
  line = summary.series(programs, job, 'v4')
  chips = [p.cost.num_chips for p in line]
  values = (
    [p.seconds(False) for p in line],
    [p.seconds() for p in line],
    [p.cost.compute_seconds for p in line],
    [p.cost.collective_seconds for p in line],
    [p.cost.memory_seconds for p in line],
  )
  for (label, color, style, marker), numbers in zip(_LINES, values):
    axes.plot(
      chips,
      numbers,
      linestyle=style,
      color=color,
      marker=marker,
      markersize=5,
      label=f'v4: {label}',
    )
  if line:
    ideal = [line[0].seconds(False) * chips[0] / n for n in chips]
    axes.plot(chips, ideal, color='#999999', zorder=0, label='v4: ideal')
  for generation, (color, marker) in _OTHERS.items():
    others = summary.series(programs, job, generation)
    if not others:
      continue
    axes.plot(
      [p.cost.num_chips for p in others],
      [p.seconds(False) for p in others],
      marker,
      color=color,
      markeredgecolor='#444444',
      label=f'{generation}: step, exchanges after computation',
    )
  ticks = sorted({p.cost.num_chips for p in programs})
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.set_xticks(ticks, [str(n) for n in ticks])
  axes.set_xlabel('chips')
  axes.set_title(f'{job}, T5.1.1-XXL, GQA-8', fontsize=11)
  axes.grid(axis='y', color='#eeeeee')
