"""The plots of the study."""

import numpy as np

from gqa_flax.reporting import plots

_COLORS = {
  'mean': '#8a8f98',
  'first': '#c9ccd1',
  'random': '#e3b7a0',
  'aligned': '#7fa8d9',
  'aligned, broad text': '#4f86c6',
  'subspace, narrow text': '#6fbf8b',
  'subspace, broad text': '#1f7a45',
}


def before_uptraining(path, table):
  """Draws the loss of each conversion against the number of heads."""
  kinds = list(table.tokens)
  figure, panels = plots.panels(1, len(kinds), 11, 4.2)
  axes = panels[0]
  for ax, kind in zip(axes, kinds):
    for name, color in _COLORS.items():
      method, _, text = name.partition(', ')
      calibration = text.removesuffix(' text') or None
      heads, points = [], []
      for n in sorted({key[2] for key in table.losses} - {6}):
        seeds = [
          table.per_token(key, kind)
          for key in table.losses
          if key[:3] == (method, calibration, n)
        ]
        if seeds:
          heads.append(n)
          points.append(np.mean(seeds, axis=0))
      if not points:
        continue
      middle, low, high = np.asarray(points).T
      ax.errorbar(
        heads,
        middle,
        yerr=[middle - low, high - middle],
        marker='o',
        markersize=4,
        capsize=2,
        color=color,
        label=name,
      )
    multi_head = table.per_token(('multi-head', None, 6, 0), kind)[0]
    ax.axhline(multi_head, color='#222222', linestyle='--', linewidth=1)
    ax.set_title(kind)
    ax.set_xlabel('key/value heads, of 6')
    ax.set_xticks([1, 2, 3])
  axes[0].set_ylabel('cross-entropy, nats a token')
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='lower center', ncols=4, fontsize=8, frameon=False
  )
  figure.suptitle('Before uptraining (dashed: multi-head)', fontsize=11)
  plots.save(figure, path, rect=(0, 0.1, 1, 1))


def uptraining(path, curves):
  """Draws the loss over the steps of uptraining, one line a seed."""
  heads = sorted({cell['num_kv_heads'] for cell in curves}, reverse=True)
  figure, panels = plots.panels(1, len(heads), 9, 4, sharey=True)
  axes = panels[0]
  for ax, n in zip(axes, heads):
    for cell in curves:
      if cell['num_kv_heads'] != n:
        continue
      name = cell['method']
      if cell['calibration']:
        name = f'{name}, {cell["calibration"]} text'
      steps, losses = zip(*cell['curve'])
      ax.plot(
        steps,
        losses,
        color=_COLORS[name],
        linewidth=1.5,
        label=name if cell['seed'] == 0 else None,
      )
    ax.set_title(f'{n} key/value head{"s" if n > 1 else ""}, of 6')
    ax.set_xlabel('steps of uptraining')
  axes[0].set_ylabel('span corruption, nats a token')
  axes[0].legend(fontsize=8, frameon=False)
  plots.save(figure, path)
