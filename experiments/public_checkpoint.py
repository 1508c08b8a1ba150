"""A public checkpoint, converted, uptrained and fine-tuned.

The paper's claim: uptrained MQA keeps most of the multi-head model's quality
and GQA nearly all of it; GQA is usable as soon as it is converted, MQA needs
uptraining to be; the mean of the heads is the best way to make one of many.

  python -m experiments.public_checkpoint
  python -m experiments.public_checkpoint --report

flan-t5-small (77 M parameters, 6 heads) as MHA and converted to three, two and
one key/value heads by the mean and by our `aligned` and `subspace`, fine-tuned
on two tasks with three seeds: introduction to short description, and English
verses to German. Uptraining by span corruption of prose takes 0, 100 and 400
steps; an alpha of 0.0004 of the million that the checkpoint was pre-trained
for.

The scripts of Table 1 and of Figures 4 and 5 run their part of it with
`--scale public`; the report is the same.

Hardware: two CPU cores; a fine-tuning takes minutes, all of it six hours or
more, and an interrupted run continues. Needs `pip install -e '.[study]'`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping

from experiments.study import command, results
from experiments.study.cells import FineTuning, Timing, Uptraining
from experiments.study.claims import NO_NUMBER, Claim
from experiments.study.command import Script
from experiments.study.results import Found
from experiments.study.scales import PUBLIC_CHECKPOINT as SCALE
from experiments.study.scales import Scale
from experiments.study.spread import Seeds
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph
from gqa_flax.timing.measure import Measurement
from gqa_flax.timing.spread import digits

RESULTS = pathlib.Path('results/public_checkpoint')
SIZE = 'public'
METHODS = ('mean', 'aligned', 'subspace')
MULTI_HEAD = (6, 'none')
MODELS = (MULTI_HEAD, *((K, method) for K in (3, 2, 1) for method in METHODS))
# Uptrained as well: these, for so many steps of a million.
UPTRAINED = (MULTI_HEAD, (2, 'mean'), (1, 'mean'), (1, 'subspace'))
ALPHAS = (0.0001, 0.0004)
# Percentage of the multi-head score from which a model counts as usable.
USABLE = 90
# A model at an alpha: its number of key/value heads, its method, alpha.
Model = tuple[int, str, float]


def cells(scale: Scale) -> list:
  """Returns the grid."""
  timed = [Timing(SIZE, K, (96, 16), 16) for K in (6, 3, 2, 1)]
  # What is only converted answers two of the three questions, and comes first.
  tuned = [
    FineTuning(_start(model, seed), task, model[2])
    for is_uptrained in (False, True)
    for seed in scale.seeds
    for model in _models()
    if bool(model[2]) == is_uptrained
    for task in scale.tasks
  ]
  return [*timed, *tuned]


def _models() -> list[Model]:
  return [
    *((*model, 0.0) for model in MODELS),
    *((*model, alpha) for alpha in ALPHAS for model in UPTRAINED),
  ]


def _model(cell: FineTuning) -> Model:
  return cell.start.num_kv_heads, cell.start.method, cell.alpha


def _start(model: Model, seed: int) -> Uptraining:
  K, method, alpha = model
  return Uptraining(SIZE, K, method, seed, ALPHAS[-1] if alpha else 0.0)


def scores(found: Found, metrics: Mapping[str, str]) -> dict[Model, Seeds]:
  """Returns the mean score of tasks by model, where all seeds are there.

  Args:
    found: the records.
    metrics: by task.
  """
  by_model = {}
  for model in _models():
    starts = [_start(model, seed) for seed in SCALE.seeds]
    by_task = [
      [record['scores'][f'{SCALE.split}/{metric}'] for record in records]
      for task, metric in metrics.items()
      if (records := results.fine_tunings(found, starts, task, model[2]))
    ]
    if len(by_task) == len(metrics):
      means = [sum(values) / len(values) for values in zip(*by_task)]
      by_model[model] = Seeds.of(means)
  return by_model


COLUMNS = {
  f'{name}, {metric}': {name: metric}
  for name, task in SCALE.tasks.items()
  for metric in (task.metric, *task.also)
}
_AVERAGE = {name: task.metric for name, task in SCALE.tasks.items()}


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, scores.csv and scores.png and .svg."""
  columns = {name: scores(found, metrics) for name, metrics in COLUMNS.items()}
  average = scores(found, _AVERAGE)
  multi_head = average.get((*MULTI_HEAD, 0.0))
  rows = []
  for model in _models():
    shown = [
      column[model].shown(2) if model in column else ''
      for column in (average, *columns.values())
    ]
    kept = ''
    if multi_head and model in average:
      kept = _kept(average[model], multi_head).shown(1)
    if any(shown):
      rows.append((*_name(model), *shown, kept))
  csv = csv_table(
    ('num_kv_heads', 'method', 'alpha', 'score', 'seed', 'value'),
    [
      (*model, name, seed, value)
      for name, column in columns.items()
      for model, seeds in column.items()
      for seed, value in zip(SCALE.seeds, seeds.values, strict=True)
    ],
  )
  (folder / 'scores.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'scores.png', average)
  text = '\n'.join(
    [
      '# A public checkpoint, converted and fine-tuned\n',
      _ABOUT,
      markdown_table(('model', 'alpha', 'average', *COLUMNS, '% of MHA'), rows),
      '![Score by model and by uptraining](scores.png)\n',
      _times(found),
      '## What the paper claims\n',
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _name(model: Model) -> tuple[str, str]:
  K, method, alpha = model
  attention = SCALE.models[SIZE].attention(K)
  name = attention if method == 'none' else f'{attention}, {method}'
  return name, f'{alpha:g}'


_ABOUT = paragraph(
  f"""flan-t5-small, converted, uptrained by span corruption for a share alpha
  of a million steps, and fine-tuned with the paper's recipe but fewer steps;
  the checkpoint of the best validation score, decoded greedily and scored on
  the test split: mean and 95% interval over {len(SCALE.seeds)} seeds, by
  Student's t. The average is of ROUGE-1 and BLEU. The last column is the
  percentage of the average of MHA without uptraining."""
)


def _plot(path: pathlib.Path, average: Mapping[Model, Seeds]):
  """Draws scores after conversion and, once there are any, uptraining."""
  is_uptrained = any(alpha for _, _, alpha in average)
  figure, ((converted, *rest),) = plots.panels(
    1, 2 if is_uptrained else 1, 9.5 if is_uptrained else 6.5, 4.4
  )
  shown = [model for model in _models() if not model[2] and model in average]
  converted.barh(
    [_name(model)[0] for model in shown],
    [average[model].mean for model in shown],
    xerr=[average[model].half_width for model in shown],
    capsize=2,
    color=[_COLORS[model[0]] for model in shown],
  )
  converted.invert_yaxis()
  converted.set_title('converted and fine-tuned', fontsize=11)
  converted.set_xlabel('average of ROUGE-1 and BLEU')
  for panel in rest:
    _plot_uptrained(panel, average)
    figure.legend(
      *panel.get_legend_handles_labels(),
      loc='lower center',
      ncols=5,
      fontsize=9,
      frameon=False,
    )
  plots.save(figure, path, rect=(0, 0.07 * is_uptrained, 1, 1))


def _plot_uptrained(panel, average: Mapping[Model, Seeds]):
  for K, method in UPTRAINED:
    points = {
      alpha: average[K, method, alpha]
      for alpha in (0.0, *ALPHAS)
      if (K, method, alpha) in average
    }
    panel.errorbar(
      [alpha * SCALE.pretraining_steps for alpha in points],
      [seeds.mean for seeds in points.values()],
      yerr=[seeds.half_width for seeds in points.values()],
      capsize=3,
      marker='.',
      color=_COLORS[K],
      linestyle=_STYLES[method],
      label=_name((K, method, 0.0))[0],
    )
  panel.set_title('uptrained, then fine-tuned', fontsize=11)
  panel.set_xlabel('steps of uptraining')


_COLORS = {
  6: '#444444',
  3: plots.COLORS[2],
  2: plots.COLORS[0],
  1: plots.COLORS[1],
}
_STYLES = {'none': '--', 'mean': '-', 'subspace': ':'}


def _times(found: Found) -> str:
  rows = []
  for cell in cells(SCALE):
    if cell.kind == Timing.kind and cell.name in found:
      measured = found[cell.name]['measurement']['measurement']
      time = Measurement.from_dict(measured)
      name = SCALE.models[SIZE].attention(cell.num_kv_heads)
      rows.append((name, digits(1e3 * time.seconds_a_sample)))
  if not rows:
    return ''
  return markdown_table(('model', 'ms per sample on this CPU'), rows)


def _kept(model: Seeds, multi_head: Seeds) -> Seeds:
  """Returns the percentage of the multi-head score, seed by seed."""
  pairs = zip(model.values, multi_head.values, strict=True)
  return Seeds.of([100 * (own / all_heads) for own, all_heads in pairs])


def claims(found: Found) -> list[Claim]:
  """Returns the three answers, each with its interval."""
  average = scores(found, _AVERAGE)
  multi_head = average.get((*MULTI_HEAD, 0.0))
  if not multi_head:
    return []
  made = []
  for K in (3, 2, 1):
    name = SCALE.models[SIZE].attention(K)
    mean, subspace = (average.get((K, m, 0.0)) for m in ('mean', 'subspace'))
    for method, seeds in (('mean', mean), ('subspace', subspace)):
      if seeds:
        made.append(_usable(name, method, _kept(seeds, multi_head)))
    made += [
      Claim.of_gap(
        f'{name} by subspace, not uptrained, scores above the mean uptrained '
        f'to alpha {alpha:g}',
        subspace.minus(average[K, 'mean', alpha]),
        'points',
        places=2,
      )
      for alpha in ALPHAS
      if subspace and (K, 'mean', alpha) in average
    ]
  return made


def _usable(name: str, method: str, kept: Seeds) -> Claim:
  above = Seeds.of([percent - USABLE for percent in kept.values])
  return Claim(
    f'{name} by {method} is usable at once: without uptraining it keeps at '
    f"least {USABLE}% of MHA's score",
    f'{kept.mean:.1f}%',
    above.verdict,
    # Of MQA it says the contrary.
    paper=NO_NUMBER if name.startswith('GQA') and method == 'mean' else '',
    interval=kept.interval(1),
    joint='; it keeps ',
  )


def prepare():
  """Writes the checkpoint and its vocabulary, unless they are there."""
  from experiments.real_checkpoint import checkpoint

  checkpoint.write(SCALE.models[SIZE].checkpoint)


SCRIPT = Script(
  __doc__,
  RESULTS,
  cells,
  report,
  claims,
  scales=(SCALE,),
  prepare=prepare,
)


def _part(wanted: Callable[[Model], bool], timed: bool = False) -> Script:
  """Returns the script that runs a part of the cells; the report is of all."""

  def chosen(scale: Scale) -> list:
    return [
      cell
      for cell in cells(scale)
      if (timed if cell.kind == Timing.kind else wanted(_model(cell)))
    ]

  return dataclasses.replace(SCRIPT, cells=chosen)


# The parts that are Figures 4 and 5 and Table 1, for their `--scale public`.
FIGURE4 = _part(lambda model: model[0] <= 2 and model[2] == 0)
FIGURE5 = _part(lambda model: model[:2] in UPTRAINED)
TABLE1 = _part(lambda model: model[1] in ('none', 'mean'), timed=True)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
