"""Figure 3: quality against time.

The paper's claim: uptrained MQA is both better and faster than MHA-Large, and
GQA-8 comes close to MHA-XXL at almost MQA's speed. The figure plots Table 1's
average score over its T_infer.

  python -m experiments.figure3_tradeoff
  python -m experiments.figure3_tradeoff --report

It has no cells of its own: what it plots are Table 1's
(experiments.table1_main_results), at the laptop's scale; and, in a panel apart,
the paper's printed values (results/paper_values.json).

Hardware: as Table 1.
"""

import pathlib
import sys

from experiments import paper_values, table1_main_results
from experiments.study import command
from experiments.study.results import Found
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph
from gqa_flax.timing.spread import digits

RESULTS = pathlib.Path('results/figure3_tradeoff')
cells = table1_main_results.cells


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, tradeoff.csv and tradeoff.png and .svg."""
  rows = [
    row for row in table1_main_results.rows(found) if row.time and row.average
  ]
  points = [(row.name, row.time.seconds_a_sample, row.average) for row in rows]
  csv = csv_table(
    ('model', 'seconds_a_sample', 'average', 'half_width'),
    [(name, time, s.mean, s.half_width) for name, time, s in points],
  )
  (folder / 'tradeoff.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'tradeoff.png', points)
  text = '\n'.join(
    [
      '# Figure 3: quality against time\n',
      _ABOUT,
      '![Average score over seconds a sample](tradeoff.png)\n',
      markdown_table(
        ('model', 's a sample', 'average'),
        [(name, digits(time), s.shown(2)) for name, time, s in points],
      ),
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


def claims(found: Found) -> list[str]:
  """Returns nothing that Table 1 does not say."""
  return []


_ABOUT = paragraph(
  """Left: the paper's printed values, T5-Large and T5-XXL on eight TPU v4.
  Right: the models of ../table1_main_results/laptop.md on this CPU, the average
  of two tasks with its 95% interval over three seeds. Up and to the left is
  better in both; the axes have nothing to do with each other."""
)


def _plot(path, points):
  figure, axes = plots.new(9.0, 4.0)
  axes.remove()
  left, right = figure.subplots(1, 2)
  times = paper_values.read('table1_seconds_a_sample')['values']
  averages = paper_values.read('table1_average')['values']
  for name, time in times.items():
    left.plot(time, averages[name], 'o', color='#444444')
    left.annotate(name, (time, averages[name]), (5, 4), fontsize=8, **_OFFSET)
  left.set_title("the paper's, printed", fontsize=10)
  left.set_xlabel('seconds a sample and TPU v4')
  left.set_ylabel('average of seven tasks')
  for name, time, seeds in points:
    right.errorbar(
      time,
      seeds.mean,
      yerr=seeds.half_width,
      fmt='o',
      capsize=3,
      color=plots.COLORS[0],
    )
    right.annotate(name, (time, seeds.mean), (5, 4), fontsize=8, **_OFFSET)
  right.set_title("ours, at the laptop's scale", fontsize=10)
  right.set_xlabel('seconds a sample on this CPU')
  right.set_ylabel('average of two tasks')
  for panel in (left, right):
    panel.spines[['top', 'right']].set_visible(False)
    panel.margins(x=0.2, y=0.2)
  plots.save(figure, path)


_OFFSET = {'textcoords': 'offset points'}


SCRIPT = command.Script(__doc__, RESULTS, cells, report, claims)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
