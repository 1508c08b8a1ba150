"""The plot of bytes a chip against estimated seconds a step."""

import pathlib
from collections.abc import Sequence

from experiments.training_knobs.summary import USABLE, Program
from gqa_flax.reporting import plots

_COLORS = {'none': '#b3502e', 'dots': '#2f5d9b', 'full': '#1f7a45'}
_MARKERS = {'bfloat16': 'o', 'float32': 's'}
_GIB = 2**30


def bytes_and_seconds(path: pathlib.Path, programs: Sequence[Program]):
  """Draws a point a program, labelled; lines join the numbers of parts."""
  figure, axes = plots.new(8.5, 5.5)
  fitting = [p for p in programs if p.cost.fits]
  for remat, color in _COLORS.items():
    for dtype, marker in _MARKERS.items():
      line = [
        p for p in fitting if (p.knobs.remat, p.knobs.dtype) == (remat, dtype)
      ]
      if line:
        axes.plot(
          [p.cost.total_bytes / _GIB for p in line],
          [p.seconds for p in line],
          marker=marker,
          color=color,
          linestyle='-' if dtype == 'bfloat16' else ':',
          label=f'remat {remat}, {dtype}',
        )
  for p in fitting:
    axes.annotate(
      f'{p.knobs.microbatches}',
      (p.cost.total_bytes / _GIB, p.seconds),
      xytext=(5, 5),
      textcoords='offset points',
      fontsize=9,
    )
  if fitting:
    limit = USABLE * fitting[0].cost.chip.hbm_bytes / _GIB
    axes.axvline(limit, color='#8a8f98', linestyle='--', linewidth=1)
    axes.text(
      limit,
      0.02,
      f'{USABLE:.0%} of a chip ',
      transform=axes.get_xaxis_transform(),
      ha='right',
      fontsize=8,
    )
  axes.set_xlim(left=0)
  axes.set_ylim(0, 1.1 * max((p.seconds for p in fitting), default=1))
  axes.margins(0.08)
  axes.set_xlabel('memory of a chip, GiB')
  axes.set_ylabel('estimated seconds a step')
  axes.set_title('By remat policy; at each point, the microbatches')
  axes.legend(fontsize=8, frameon=False)
  plots.save(figure, path)
