"""Figures in files: PNG and SVG, the same bytes from the same numbers."""

import pathlib

import matplotlib

matplotlib.use('Agg')  # no screen is needed

import matplotlib.pyplot as plt

# The colors of a plot's series, in their order.
COLORS = ('#2f5d9b', '#b3502e', '#1f7a45', '#7a5195', '#c99a2e', '#444444')


def new(width: float = 7.0, height: float = 4.5):
  """Returns a figure and its axes, in inches, without upper and right lines."""
  figure, axes = plt.subplots(figsize=(width, height))
  axes.spines[['top', 'right']].set_visible(False)
  return figure, axes


def save(figure, path):
  """Writes a figure as PNG, and beside it as SVG, and closes it.

  Args:
    figure: of matplotlib.
    path: of the PNG.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.tight_layout()
  # Without dates and version numbers, which change the file and nothing to see;
  # and with names that are no random numbers.
  figure.savefig(path, dpi=150, metadata={'Software': None})
  with matplotlib.rc_context({'svg.hashsalt': path.name}):
    figure.savefig(
      path.with_suffix('.svg'), metadata={'Date': None, 'Creator': None}
    )
  plt.close(figure)
