"""Figure 5: how much uptraining it takes.

The paper's claim: T5-XXL as GQA-8 is usable as soon as it is converted, MQA
needs uptraining to be, and both gain from 5% with little more from 10% (the
mean score of CNN/DailyMail, Multi-News and TriviaQA; second-hand readings of
the plot, at alpha = 0: GQA-8 about 56.7, MQA about 53.9; at 0.05 by Table 1:
MHA 57.5, GQA-8 57.4, MQA 56.9).

  python -m experiments.figure5_uptraining_proportion
  python -m experiments.figure5_uptraining_proportion --scale paper --dry_run
  python -m experiments.figure5_uptraining_proportion --report
  python -m experiments.figure5_uptraining_proportion --scale public

At the laptop's scale: alpha from 0 to 0.1 for MQA and GQA-2, by the mean and by
our subspace, and for the multi-head model trained as much longer, with three
seeds each, by the loss on held-out prose; and the share of uptraining that
subspace saves.

Hardware: two CPU cores, an hour and three quarters. `--scale paper` begins from
the public T5-XXL and fine-tunes on the paper's three tasks at five alphas, on
64 TPU v4. `--scale public` runs the figure's part of
experiments.public_checkpoint.
"""

import pathlib
import sys

from experiments import paper_values, public_checkpoint
from experiments.figure4_checkpoint_conversion import PAPER_TASKS
from experiments.study import command, results
from experiments.study.cells import ALPHA, FineTuning, Uptraining
from experiments.study.claims import NO_NUMBER, Claim, verdict
from experiments.study.results import LONGEST, Found
from experiments.study.scales import LAPTOP, Scale
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph

RESULTS = pathlib.Path('results/figure5_uptraining_proportion')
MODELS = results.UPTRAINED_LONGEST
MULTI_HEAD = (8, 'none')
SHOWN = (0.0, 0.02, 0.05, 0.08, 0.1)
PAPER_MODELS = ((64, 'none'), (8, 'mean'), (1, 'mean'))
PAPER_ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1)


def cells(scale: Scale) -> list:
  """Returns the grid."""
  if scale.name == 'paper':
    return [
      FineTuning(Uptraining('xxl', K, method, alpha=0.1), task, alpha)
      for K, method in PAPER_MODELS
      for alpha in PAPER_ALPHAS
      for task in PAPER_TASKS
    ]
  by_model = [
    results.uptrainings(scale, 'laptop', K, method) for K, method in MODELS
  ]
  # A seed of all before the next.
  return [cell for seeds in zip(*by_model) for cell in seeds]


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, losses.csv and proportion.png and .svg."""
  curves = _curves(found)
  rows = [
    (name(*model), *(curve[a].shown() for a in SHOWN))
    for model, curve in curves.items()
  ]
  csv = csv_table(
    ('num_kv_heads', 'method', 'alpha', 'seed', 'cross_entropy'),
    [
      (*model, alpha, seed, value)
      for model, curve in curves.items()
      for alpha, seeds in curve.items()
      for seed, value in zip(LAPTOP.seeds, seeds.values, strict=True)
    ],
  )
  (folder / 'losses.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'proportion.png', curves)
  text = '\n'.join(
    [
      '# Figure 5: how much uptraining\n',
      _ABOUT,
      markdown_table(('model', *(f'alpha {a:g}' for a in SHOWN)), rows),
      '![Loss by the share of uptraining](proportion.png)\n',
      _RIGHT_PANEL,
      '## What the paper claims\n',
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _curves(found: Found):
  return {
    model: curve
    for model in MODELS
    if (
      curve := results.losses(
        found, results.uptrainings(LAPTOP, 'laptop', *model)
      )
    )
  }


def name(num_kv_heads: int, method: str) -> str:
  """Returns what a model of the laptop's study is called."""
  attention = LAPTOP.models['laptop'].attention(num_kv_heads)
  return attention if method == 'none' else f'{attention}, {method}'


_ABOUT = paragraph(
  """Cross-entropy on held-out prose, nats a target token of span corruption:
  the model of ../pretraining, converted and uptrained for a share alpha of its
  12,000 steps; mean and 95% interval over three seeds of the data's order, by
  Student's t, and without one where a conversion draws nothing. All keep
  Adafactor's statistics. Our subspace has an easy model here, whose attentions
  have few directions: ../real_checkpoint/report.md is the better witness. At
  the laptop's scale, on a CPU: nothing here is a number of the paper's."""
)


_RIGHT_PANEL = paragraph(
  """Right: the differences to the multi-head model, seed by seed, so that the
  order of the data, which moves all models alike, cancels; from alpha 0.01
  on."""
)


def claims(found: Found) -> list[Claim]:
  """Returns what becomes of the paper's claim at the laptop's scale."""
  curves = _curves(found)
  saved = [_saves(curves, K) for K in (2, 1) if _has_both(curves, K)]
  compared = (MULTI_HEAD, (2, 'mean'), (1, 'mean'))
  if not {*compared} <= curves.keys():
    return saved
  mha, gqa, mqa = (curves[model] for model in compared)
  return [
    *(_better(alpha, mha, gqa, mqa) for alpha in (0.0, ALPHA, LONGEST)),
    _usable(mha, gqa, mqa),
    _flattens('GQA-2', gqa),
    _flattens('MQA', mqa),
    *saved,
  ]


def _better(alpha: float, mha, gqa, mqa) -> Claim:
  behind = [model[alpha].minus(mha[alpha]).shown() for model in (gqa, mqa)]
  values = paper_values.read('figure5_average')['values'].get(f'{alpha:g}')
  paper = values and f'{values["GQA-8-XXL"] - values["MQA-XXL"]:.1f} points'
  return Claim.of_gap(
    f'at alpha {alpha:g}, GQA-2 is better than MQA',
    mqa[alpha].minus(gqa[alpha]),
    'nats',
    paper=paper or '',
    note='Behind the multi-head model that is trained as much longer are GQA-2 '
    f'by {behind[0]} and MQA by {behind[1]}.',
  )


def _usable(mha, gqa, mqa) -> Claim:
  few, many = (model[0.0].minus(mha[0.0]).mean for model in (gqa, mqa))
  values = paper_values.read('figure5_average')['values']
  papers_few, papers_many = (
    values['0.05']['MHA-XXL'] - values['0'][model]
    for model in ('GQA-8-XXL', 'MQA-XXL')
  )
  return Claim(
    'GQA-2 is usable as soon as it is converted: it has lost less than half of '
    'what MQA has',
    f'{few / many:.0%}',
    verdict(few < many / 2),
    paper=f'{papers_few / papers_many:.0%}',
    joint='; it has lost ',
  )


def _flattens(title: str, curve) -> Claim:
  first, second = (
    curve[a].minus(curve[b]) for a, b in ((0.0, ALPHA), (ALPHA, LONGEST))
  )
  return Claim.of_gap(
    f'{title} gains more from the first {ALPHA:.0%} than from the next',
    first.minus(second),
    'nats',
    paper=NO_NUMBER,
    note=f'The gains are {first.shown()} and {second.shown()}.',
  )


def _has_both(curves, num_kv_heads: int) -> bool:
  return {(num_kv_heads, m) for m in ('mean', 'subspace')} <= curves.keys()


def _saves(curves, num_kv_heads: int) -> Claim:
  mean, subspace = (curves[num_kv_heads, m] for m in ('mean', 'subspace'))
  reached = [
    results.reached_at(
      {alpha: seeds.values[i] for alpha, seeds in subspace.items()}, level
    )
    for i, level in enumerate(mean[ALPHA].values)
  ]
  claim = (
    f'for {name(num_kv_heads, "none")}, our subspace needs less uptraining to '
    f'reach the loss that mean has at alpha {ALPHA:g}'
  )
  if any(alpha is None for alpha in reached):
    never = f'not reached by alpha {LONGEST:g}'
    return Claim(claim, never, verdict(False), joint='; it is ')
  return Claim(
    claim,
    f'{", ".join(f"{1 - alpha / ALPHA:.0%}" for alpha in reached)} less',
    verdict(max(reached) < ALPHA),
    joint='; it needs ',
    note=f'It is there at alpha {", ".join(f"{a:.4f}" for a in reached)}, seed '
    'by seed, on straight lines between evaluations.',
  )


def _plot(path, curves):
  """Draws the losses; beside them what they are behind the multi-head model.

  Not at alpha 0 as well, next to which all that comes later is a flat line.
  """
  figure, (panels,) = plots.panels(1, 2, 10.5, 4.2)
  losses, behind = panels
  for model, curve in curves.items():
    _draw(losses, model, curve)
    if MULTI_HEAD in curves and model != MULTI_HEAD:
      multi_head = curves[MULTI_HEAD]
      gaps = {a: curve[a].minus(multi_head[a]) for a in curve if a > 0}
      _draw(behind, model, gaps)
  behind.axhline(
    0, color=results.COLORS[8], linestyle=_STYLES['none'], linewidth=1
  )
  losses.set_ylabel('cross-entropy, nats a token')
  behind.set_ylabel('nats behind MHA that is trained as much longer')
  for panel in panels:
    panel.set_xlabel('share of uptraining, alpha')
  if curves:
    losses.legend(fontsize=8, frameon=False)
  plots.save(figure, path)


_STYLES = {'none': '--', 'mean': '-', 'subspace': ':'}


def _draw(axes, model, curve):
  """Draws means over alpha, and bands of their intervals."""
  K, method = model
  alphas = [*curve]
  means = [seeds.mean for seeds in curve.values()]
  widths = [seeds.half_width for seeds in curve.values()]
  axes.plot(
    alphas,
    means,
    linestyle=_STYLES[method],
    marker='.',
    color=results.COLORS[K],
    label=name(K, method),
  )
  axes.fill_between(
    alphas,
    [m - w for m, w in zip(means, widths)],
    [m + w for m, w in zip(means, widths)],
    color=results.COLORS[K],
    alpha=0.15,
    linewidth=0,
  )


SCRIPT = command.Script(
  __doc__,
  RESULTS,
  cells,
  report,
  claims,
  elsewhere={'public': public_checkpoint.FIGURE5},
)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
