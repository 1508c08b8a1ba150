"""Plots, drawn from numbers alone and the same bytes every time."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')  # no screen is needed

import matplotlib.pyplot as plt

_COLORS = ('#b8c4d6', '#2f5d9b')


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
    path: a PNG file.
    labels: from top to bottom.
    series: at most two, name to one number a label.
    lines: name to where a dashed line stands, for what bars compare with.
    title: above the plot.
    xlabel: quantity and unit.
  """
  figure, axes = plt.subplots(figsize=(7.5, 0.6 * len(labels) + 1.8))
  height = 0.8 / len(series)
  for i, (name, values) in enumerate(series.items()):
    positions = [
      y + (i - (len(series) - 1) / 2) * height for y in range(len(labels))
    ]
    bars = axes.barh(positions, values, height, label=name, color=_COLORS[i])
    axes.bar_label(bars, fmt='%.2f', padding=3, fontsize=8)
  for i, (name, x) in enumerate(lines.items()):
    style = ('--', ':')[i % 2]
    axes.axvline(x, color='#444444', linestyle=style, linewidth=1, label=name)
  axes.set_yticks(range(len(labels)), labels)
  axes.invert_yaxis()
  axes.set_xlabel(xlabel)
  axes.set_title(title, fontsize=11)
  axes.margins(x=0.1)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(loc='lower center', ncols=4, fontsize=8, frameon=False)
  figure.tight_layout(rect=(0, 0.07, 1, 1))
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  # Without its version number, which changes the file and nothing to see.
  figure.savefig(path, dpi=150, metadata={'Software': None})
  plt.close(figure)
