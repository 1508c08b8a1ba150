"""Plots, drawn from numbers alone: PNG and SVG, the same bytes every time."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')  # no screen is needed

import matplotlib.pyplot as plt

# The colors of a plot's series, in their order.
COLORS = ('#2f5d9b', '#b3502e', '#1f7a45', '#7a5195', '#c99a2e', '#444444')


def new(width: float = 7.0, height: float = 4.5):
  """Returns a figure and its axes, in inches, without upper and right lines."""
  figure, axes = panels(1, 1, width, height)
  return figure, axes[0, 0]


def panels(rows: int, columns: int, width: float, height: float, **options):
  """Returns a figure and an array of axes, as `new`; options of subplots."""
  figure, axes = plt.subplots(
    rows, columns, figsize=(width, height), squeeze=False, **options
  )
  for panel in axes.flat:
    panel.spines[['top', 'right']].set_visible(False)
  return figure, axes


def save(figure, path, rect=None):
  """Writes a figure as PNG, and beside it as SVG, and closes it.

  Args:
    figure: of matplotlib.
    path: of the PNG.
    rect: the part of the figure that the axes fill; None is all.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.tight_layout(rect=rect)
  # Without dates and version numbers, which change the file and nothing to see;
  # and with names that are no random numbers.
  figure.savefig(path, dpi=150, metadata={'Software': None})
  with matplotlib.rc_context({'svg.hashsalt': path.name}):
    figure.savefig(
      path.with_suffix('.svg'), metadata={'Date': None, 'Creator': None}
    )
  plt.close(figure)


# Of bars that stand in pairs.
_PAIR = ('#b8c4d6', '#2f5d9b')


def paired_bars(
  path,
  labels: Sequence[str],
  series: Mapping[str, Sequence[float]],
  *,
  lines: Mapping[str, float],
  title: str,
  xlabel: str,
):
  """Draws horizontal bars, one a label and series, and vertical lines.

  Args:
    path: of the PNG, see `save`.
    labels: from top to bottom.
    series: at most two, name to one number a label, nan for no bar; a bar
      without its pair stands on the tick.
    lines: name to where a dashed line stands, for what bars compare with.
    title: above the plot.
    xlabel: quantity and unit.
  """
  figure, axes = new(7.5, 0.6 * len(labels) + 1.8)
  height = 0.8 / len(series)
  drawn = [
    [i for i, x in enumerate(pair) if not math.isnan(x)]
    for pair in zip(*series.values(), strict=True)
  ]
  for i, (name, values) in enumerate(series.items()):
    ticks = [y for y, pair in enumerate(drawn) if i in pair]
    bars = axes.barh(
      [
        y + (drawn[y].index(i) - (len(drawn[y]) - 1) / 2) * height
        for y in ticks
      ],
      [values[y] for y in ticks],
      height,
      label=name,
      color=_PAIR[i],
    )
    axes.bar_label(bars, fmt='%.2f', padding=3, fontsize=8)
  for i, (name, x) in enumerate(lines.items()):
    style = ('--', ':')[i % 2]
    axes.axvline(x, color='#444444', linestyle=style, linewidth=1, label=name)
  axes.set_yticks(range(len(labels)), labels)
  axes.invert_yaxis()
  axes.set_xlabel(xlabel)
  axes.set_title(title, fontsize=11)
  axes.margins(x=0.1)
  figure.legend(loc='lower center', ncols=4, fontsize=8, frameon=False)
  save(figure, path, rect=(0, 0.07, 1, 1))
