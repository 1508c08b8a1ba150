"""Figure 4: how to make one key/value head of many.

The paper's claim: for T5-Large converted to MQA and uptrained for 5% of the
pre-training steps, the mean of the heads is better than the first head, and
that better than a random one (the mean score of CNN/DailyMail, Multi-News and
TriviaQA; second-hand readings of the bars disagree, so the order alone is
safe).

  python -m experiments.figure4_checkpoint_conversion
  python -m experiments.figure4_checkpoint_conversion --scale paper --dry_run
  python -m experiments.figure4_checkpoint_conversion --report
  python -m experiments.figure4_checkpoint_conversion --scale public

At the laptop's scale the model of results/pretraining is converted to one and
to two key/value heads by these methods and by the two of our own, `aligned` and
`subspace`, with three seeds each, and the loss on held-out prose is measured
before, during and after uptraining. Cells are shared with
experiments.figure5_uptraining_proportion.

Hardware: two CPU cores, two and a half hours. `--scale paper` begins from the
public T5-Large and fine-tunes on the paper's three tasks, on 64 TPU v4.
`--scale public` runs the figure's part of experiments.public_checkpoint.
"""

import pathlib
import sys

from experiments import public_checkpoint
from experiments.study import command, results
from experiments.study.cells import ALPHA, FineTuning, Uptraining
from experiments.study.claims import NO_NUMBER, Claim
from experiments.study.results import Found
from experiments.study.scales import LAPTOP, Scale
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph

MODEL = LAPTOP.models['laptop']
RESULTS = pathlib.Path('results/figure4_checkpoint_conversion')
METHODS = ('mean', 'first', 'random', 'aligned', 'subspace')
PAPER_METHODS = METHODS[:3]
PAPER_TASKS = ('cnn_dailymail', 'multi_news', 'trivia_qa')
NUM_KV_HEADS = (1, 2)
SHOWN = (0.0, 0.01, 0.02, 0.05)


def cells(scale: Scale) -> list:
  """Returns the grid."""
  if scale.name == 'paper':
    return [
      FineTuning(Uptraining('large', 1, method), task)
      for method in PAPER_METHODS
      for task in PAPER_TASKS
    ]
  by_method = [
    results.uptrainings(scale, 'laptop', K, method)
    for K in NUM_KV_HEADS
    for method in METHODS
  ]
  multi_head = results.uptrainings(scale, 'laptop', 8, 'none')
  # A seed of all before the next.
  return [seeds[i] for i in range(3) for seeds in [multi_head, *by_method]]


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, losses.csv and conversion.png and .svg."""
  multi_head = _curve(found, 8, 'none')
  curves = _curves(found)
  header = ('key/value heads', 'method', *(f'alpha {a:g}' for a in SHOWN))
  rows = [
    (str(K), method, *(curve[a].shown() for a in SHOWN))
    for (K, method), curve in curves.items()
  ]
  if multi_head:
    rows.insert(0, ('8', 'multi-head', *(multi_head[a].shown() for a in SHOWN)))
  csv = csv_table(
    ('num_kv_heads', 'method', 'alpha', 'seed', 'cross_entropy'),
    [
      (K, method, alpha, seed, value)
      for (K, method), curve in curves.items()
      for alpha, seeds in curve.items()
      for seed, value in zip(LAPTOP.seeds, seeds.values, strict=True)
    ],
  )
  (folder / 'losses.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'conversion.png', curves, multi_head)
  text = '\n'.join(
    [
      '# Figure 4: how to convert\n',
      _ABOUT,
      markdown_table(header, rows),
      '![Loss by method](conversion.png)\n',
      '## What the paper claims\n',
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _curve(found: Found, num_kv_heads: int, method: str):
  cells = results.uptrainings(LAPTOP, 'laptop', num_kv_heads, method)
  return results.losses(found, cells)


def _curves(found: Found):
  return {
    (K, method): curve
    for K in NUM_KV_HEADS
    for method in METHODS
    if (curve := _curve(found, K, method))
  }


_ABOUT = paragraph(
  """Cross-entropy on held-out prose, nats a target token of span corruption:
  the model of ../pretraining, converted and uptrained for a share alpha of its
  12,000 steps; mean and 95% interval over three seeds of the data's order (and
  of the heads, where they are random), by Student's t. The multi-head model is
  trained as much longer; all keep Adafactor's statistics. The plot has the
  differences to it, seed by seed, so that the order of the data, which moves
  all models alike, cancels. There is no interval where a conversion draws
  nothing. Our methods have an easy model here, whose attentions have few
  directions: ../real_checkpoint/report.md is the better witness. At the
  laptop's scale, on a CPU: nothing here is a number of the paper's."""
)


# Better and worse, the first two by the paper.
_ORDER = (('mean', 'first'), ('first', 'random'), ('subspace', 'mean'))
# What the paper compares, by key/value heads, alpha and what is worse.
_OF_THE_PAPER = ((1, ALPHA, 'first'), (1, ALPHA, 'random'))


def claims(found: Found) -> list[Claim]:
  """Returns what becomes of the paper's claim at the laptop's scale."""
  curves = _curves(found)
  return [
    Claim.of_gap(
      f'at alpha {alpha:g}, {"our " if better == "subspace" else ""}{better} '
      f'is better than {worse} for {MODEL.attention(K)}',
      curves[K, worse][alpha].minus(curves[K, better][alpha]),
      'nats',
      paper=NO_NUMBER if (K, alpha, worse) in _OF_THE_PAPER else '',
    )
    for K in NUM_KV_HEADS
    for alpha in (0.0, ALPHA)
    for better, worse in _ORDER
    if {(K, better), (K, worse)} <= curves.keys()
  ]


def _plot(path, curves, multi_head):
  """Draws what each model is behind the multi-head one, before and after."""
  figure, (panels,) = plots.panels(1, 2, 9.0, 4.8, sharey=True)
  labels = [f'{MODEL.attention(K)}, {method}' for K, method in curves]
  for axes, alpha, title, places in (
    (panels[0], 0.0, 'converted', 2),
    (panels[1], ALPHA, f'uptrained for {ALPHA:.0%}', 3),
  ):
    if multi_head:
      gaps = [c[alpha].minus(multi_head[alpha]) for c in curves.values()]
      bars = axes.barh(
        range(len(gaps)),
        [gap.mean for gap in gaps],
        xerr=[gap.half_width for gap in gaps],
        capsize=2,
        color=[results.COLORS[K] for K, _ in curves],
      )
      axes.bar_label(bars, fmt=f'%.{places}f', padding=4, fontsize=9)
    axes.set_title(title, fontsize=11)
    axes.set_yticks(range(len(labels)), labels)
    axes.axvline(0, color=results.COLORS[8], linewidth=0.8)
    axes.margins(x=0.15)
    axes.set_xlabel('nats a token behind MHA')
  panels[0].invert_yaxis()
  plots.save(figure, path)


SCRIPT = command.Script(
  __doc__,
  RESULTS,
  cells,
  report,
  claims,
  elsewhere={'public': public_checkpoint.FIGURE4},
)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
