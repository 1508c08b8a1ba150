"""The plot of seconds, side by side."""

import pathlib
from collections.abc import Sequence

from experiments.peers.summary import Run
from gqa_flax.reporting import plots

_COLORS = {'transformers': '#c9ccd1', 'gqa_flax': '#2f5d9b'}
_TITLES = {
  'decoding': 'Greedy decoding: seconds a batch',
  'training': 'Training step with Adafactor: seconds',
}


def seconds_bars(path: pathlib.Path, runs: Sequence[Run]):
  """Draws a panel a run: medians, quartiles, and how many times as fast."""
  rows = [len(run.names()) for run in runs]
  height = 0.5 * sum(rows) + 1.3 * len(runs)
  figure, panels = plots.panels(len(runs), 1, 8.5, height, height_ratios=rows)
  for run, axes in zip(runs, panels[:, 0]):
    _panel(axes, run)
  plots.save(figure, path)


def _panel(axes, run: Run):
  names = run.names()
  spreads = [run.seconds(name) for name in names]
  medians = [spread.median for spread in spreads]
  reach = [
    [spread.median - spread.low for spread in spreads],
    [spread.high - spread.median for spread in spreads],
  ]
  libraries = [run.record['contestants'][name]['library'] for name in names]
  axes.barh(
    range(len(names)),
    medians,
    0.65,
    xerr=reach,
    color=[_COLORS[library] for library in libraries],
    error_kw={'ecolor': '#444444', 'elinewidth': 1, 'capsize': 3},
  )
  widest = max(spread.high for spread in spreads)
  for y, (name, library, spread) in enumerate(zip(names, libraries, spreads)):
    text = f'{spread.median:.2f} s'
    if library == 'gqa_flax':
      text += f', {run.ratio(name).of_medians:.2f} times as fast'
    axes.text(spread.high + 0.015 * widest, y, text, va='center', fontsize=8)
  record = run.record
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set_xlim(0, 1.4 * widest)
  axes.set_xlabel('seconds: median and quartiles')
  axes.set_title(
    f'{_TITLES[run.what]} ({record["size"]}, batch {record["batch_size"]}, '
    f'{record["source_length"]} / {record["target_length"]} tokens)',
    fontsize=11,
  )
