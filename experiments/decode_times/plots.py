"""The plot of Figure 6: estimated seconds a sample by key/value heads."""

import pathlib
from collections.abc import Mapping

from experiments.decode_times.cells import Found
from gqa_flax.reporting import plots


def plot(path: pathlib.Path, best: Mapping[int, Found], paper):
  """Draws seconds a sample over key/value heads, both axes logarithmic."""
  figure, axes = plots.new(7, 4.5)
  heads = [*best]
  lines = {
    'estimate, exchanges after computation': [f.seconds for f in best.values()],
    'estimate, cores alone': [
      f.estimate.a_sample(f.estimate.core_seconds()) for f in best.values()
    ],
    'bound: peak FLOPs or full bandwidth': [
      f.estimate.a_sample(f.estimate.bound_seconds()) for f in best.values()
    ],
  }
  styles = (
    ('#b3502e', '-', 'o'),
    ('#2f5d9b', '-', 's'),
    ('#444444', '--', '.'),
  )
  for (name, values), (color, style, marker) in zip(lines.items(), styles):
    axes.plot(
      heads, values, color=color, linestyle=style, marker=marker, label=name
    )
  readings = {int(K): value for K, value in paper['values'].items()}
  middles = [(low + high) / 2 for low, high in readings.values()]
  axes.errorbar(
    [*readings],
    middles,
    yerr=[(high - low) / 2 for low, high in readings.values()],
    color='#1f7a45',
    marker='D',
    linestyle=':',
    capsize=3,
    label='paper, read off its plot',
  )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  axes.set_xticks(heads, [str(K) for K in heads])
  ticks = (0.1, 0.2, 0.5, 1, 2)
  axes.set_yticks(ticks, [f'{t:g}' for t in ticks])
  axes.minorticks_off()
  axes.set_xlabel('key/value heads')
  axes.set_ylabel('seconds a sample and chip')
  axes.set_title('T5.1.1-XXL, 2048/512 tokens, 8 TPU v4', fontsize=11)
  axes.legend(fontsize=8, frameon=False)
  plots.save(figure, path)
