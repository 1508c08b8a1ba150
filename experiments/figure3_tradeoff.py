"""Figure 3: quality against time.

The paper's claim: uptrained MQA is both better and faster than MHA-Large, and
GQA-8 comes close to MHA-XXL at almost MQA's speed. The figure plots Table 1's
average score over its T_infer.

  python -m experiments.figure3_tradeoff
  python -m experiments.figure3_tradeoff --report

It has no cells of its own: what it plots are Table 1's
(experiments.table1_main_results), at the laptop's scale, by their scores and by
their losses; and, in a panel apart, the paper's printed values
(results/paper_values.json).

Hardware: as Table 1.
"""

import pathlib
import sys
from collections.abc import Sequence

from matplotlib.patches import Patch

from experiments import paper_values, table1_main_results
from experiments.study import command, table1
from experiments.study.claims import Claim
from experiments.study.results import Found
from experiments.study.spread import Seeds
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph
from gqa_flax.timing.spread import digits

RESULTS = pathlib.Path('results/figure3_tradeoff')
cells = table1_main_results.cells


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, tradeoff.csv and tradeoff.png and .svg."""
  points = [
    (row.name, row.time.seconds_a_sample, row.average, row.loss)
    for row in table1.rows(found)
    if row.time and row.average and row.loss
  ]
  csv = csv_table(
    (
      *('model', 'seconds_a_sample', 'average', 'half_width'),
      *('nats_a_token', 'nats_half_width'),
    ),
    [
      (name, time, *(x for s in seeds for x in (s.mean, s.half_width)))
      for name, time, *seeds in points
    ],
  )
  (folder / 'tradeoff.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'tradeoff.png', points)
  text = '\n'.join(
    [
      '# Figure 3: quality against time\n',
      _ABOUT,
      '![Quality over seconds a sample](tradeoff.png)\n',
      markdown_table(
        ('model', 's a sample', 'average score', 'average loss'),
        [
          (name, digits(time), score.shown(2), loss.shown())
          for name, time, score, loss in points
        ],
      ),
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


def claims(found: Found) -> list[Claim]:
  """Returns nothing that Table 1 does not say."""
  return []


_ABOUT = paragraph(
  """Left: the paper's printed values, T5-Large and T5-XXL on eight TPU v4.
  Beside them the models of ../table1_main_results/laptop.md on this CPU: the
  average score of two tasks, and the average loss of the validation split's
  targets, with 95% intervals over three seeds. Up and to the left is better
  everywhere, for the axis of the loss is turned over; the paper's axes and ours
  have nothing to do with each other."""
)


def _plot(path, points):
  figure, ((paper, scores, losses),) = plots.panels(1, 3, 10.5, 4.4)
  times = paper_values.read('table1_seconds_a_sample')['values']
  averages = paper_values.read('table1_average')['values']
  _draw(paper, [(times[x], Seeds.of([averages[x]])) for x in times])
  paper.set_title("the paper's, printed", fontsize=11)
  paper.set_xlabel('seconds a sample and TPU v4')
  paper.set_ylabel('average score of seven tasks')
  _draw(scores, [(time, score) for _, time, score, _ in points])
  scores.set_title('ours, laptop: scores', fontsize=11)
  scores.set_ylabel('average score of two tasks')
  _draw(losses, [(time, loss) for _, time, _, loss in points])
  losses.set_title('ours, laptop: loss', fontsize=11)
  losses.set_ylabel(
    'average loss of two tasks, nats a token\n(axis inverted: up is better)'
  )
  losses.invert_yaxis()
  for panel in (scores, losses):
    panel.set_xlabel('seconds a sample on this CPU')
  # Below the panels, and of patches, so that nothing of it looks like a point.
  ours = [name for name, *_ in points] or [''] * len(times)
  figure.legend(
    handles=[
      Patch(color=color, label=f'{theirs} (ours: {own})' if own else theirs)
      for theirs, own, color in zip(times, ours, plots.COLORS)
    ],
    loc='lower center',
    ncols=4,
    fontsize=9,
    frameon=False,
  )
  plots.save(figure, path, rect=(0, 0.07, 1, 1))


def _draw(axes, points: Sequence[tuple[float, Seeds]]):
  """Draws models where their time and quality are."""
  for (time, seeds), color, marker in zip(points, plots.COLORS, 'osD^'):
    axes.errorbar(
      time,
      seeds.mean,
      yerr=seeds.half_width,
      fmt=marker,
      capsize=3,
      color=color,
    )
  axes.margins(x=0.2, y=0.2)


SCRIPT = command.Script(__doc__, RESULTS, cells, report, claims)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
