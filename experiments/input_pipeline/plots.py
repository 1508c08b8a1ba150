"""The plot of where the time goes."""

import pathlib
from collections.abc import Sequence

from experiments.input_pipeline.summary import Task
from gqa_flax.reporting import plots

LABELS = {
  'read': 'records read and parsed',
  'text': 'to text',
  'tokenize': 'tokenized',
  'features': 'cut, EOS; spans corrupted',
  'rows': 'shuffled, packed or padded',
  'batches': 'batches, to NumPy',
}
_COLORS = ('#8a8f98', '#c9ccd1', '#2f5d9b', '#7fa8d9', '#1f7a45', '#e3b7a0')


def stage_bars(path: pathlib.Path, tasks: Sequence[Task]):
  """Draws a bar of one core's time a task, and its microseconds a row."""
  figure, axes = plots.new(8.5, 0.6 * len(tasks) + 1.8)
  left = [0.0] * len(tasks)
  for (stage, label), color in zip(LABELS.items(), _COLORS):
    widths = [100 * task.shares()[stage] for task in tasks]
    bars = axes.barh(range(len(tasks)), widths, 0.6, left, color=color)
    bars.set_label(label)
    texts = [f'{width:.0f}' if width >= 4 else '' for width in widths]
    dark = stage in ('tokenize', 'rows')
    axes.bar_label(
      bars,
      texts,
      label_type='center',
      fontsize=8,
      color='white' if dark else 'black',
    )
    left = [start + width for start, width in zip(left, widths)]
  for y, task in enumerate(tasks):
    microseconds = 1e6 * task.cores_needed(1)
    axes.text(101, y, f'{microseconds:,.0f} µs a row', va='center', fontsize=8)
  axes.set_yticks(range(len(tasks)), [task.name for task in tasks])
  axes.invert_yaxis()
  axes.set_xlim(0, 118)
  axes.set_xticks(range(0, 101, 20))
  axes.set_xlabel('percent of the time on one core')
  axes.set_title('Where the input pipeline spends its time', fontsize=11)
  figure.legend(loc='lower center', ncols=3, fontsize=8, frameon=False)
  plots.save(figure, path, rect=(0, 0.14, 1, 1))
