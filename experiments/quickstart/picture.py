"""The quickstart's picture, from its records."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gqa_flax.reporting import plots

ROUGE = 'test/rouge1'
BASELINES = {
  'common_words': 'the {words} most common words',
  'first_words': 'the first {words} words',
  'after_is_a': 'a rule written by hand',
}
_SHORT = {
  'common_words': '{words} common\nwords',
  'first_words': 'first {words}\nwords',
  'after_is_a': 'rule\nby hand',
}

Record = Mapping[str, Any]


def models_of(stages, kind) -> list[Record]:
  """Returns the records of a kind of stage, one a model."""
  return [r for name, r in stages.items() if name.startswith(f'{kind}/')]


def baseline_name(stages, key, names=BASELINES) -> str:
  """Returns what a baseline is, with its number of words."""
  words = stages['baselines'][f'{key}/words']
  return names[key].format(words=words)


def draw(path, stages):
  """Draws ROUGE-1 of each model, and the baselines as lines."""
  before, after = models_of(stages, 'converted'), models_of(stages, 'finetuned')
  rank = {record['name']: i for i, record in enumerate(before)}
  paired = {record['name'] for record in after}
  figure, axes = plots.new(7.5, 4.6)
  for offset, rows, label, color in (
    (-0.2, before, 'converted', '#b8c4d6'),
    (0.2, after, 'fine-tuned', plots.COLORS[0]),
  ):
    scores = np.asarray([r[ROUGE] for r in rows])
    low, high = np.asarray([r['interval'] for r in rows]).T
    places = np.asarray(
      [rank[r['name']] + offset * (r['name'] in paired) for r in rows]
    )
    axes.barh(places, scores, 0.38, label=label, color=color)
    axes.errorbar(
      scores,
      places,
      xerr=[scores - low, high - scores],
      fmt='none',
      ecolor='#222222',
      elinewidth=1,
      capsize=2,
    )
    for place, score, end in zip(places, scores, high):
      axes.text(
        end + 0.6,
        place,
        f'{score:.1f}',
        va='center',
        fontsize=10,
        bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1},
      )
  for key in BASELINES:
    x = stages['baselines'][f'{key}/rouge1']
    axes.axvline(x, color='#444444', linestyle='--', linewidth=1, zorder=0)
    axes.text(
      x,
      1.01,
      f'{baseline_name(stages, key, _SHORT)}\n{x:.1f}',
      transform=axes.get_xaxis_transform(),
      ha='center',
      va='bottom',
      fontsize=9,
      color='#444444',
    )
  axes.set_yticks(range(len(before)), [r['name'] for r in before], fontsize=11)
  axes.invert_yaxis()
  axes.set_xlim(0, 60)
  axes.set_xlabel('ROUGE-1 (whiskers: 95% interval over articles)', fontsize=10)
  figure.legend(loc='lower right', ncols=2, fontsize=10, frameon=False)
  plots.save(figure, path, rect=(0, 0.05, 1, 1))
