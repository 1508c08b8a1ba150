"""Table 1: quality and time of the paper's four models.

The paper: T5-Large and T5-XXL with multi-head attention, and T5-XXL uptrained
as MQA and as GQA-8, fine-tuned on seven tasks; average score on the dev splits
and T_infer, seconds a sample and chip on eight TPU v4 (2048/512 tokens, the
largest batch up to 32 a chip that fits, the partitioning that suits each):
MHA-Large 46.0 and 0.37 s, MHA-XXL 47.2 and 1.51, MQA-XXL 46.6 and 0.24,
GQA-8-XXL 47.1 and 0.28.

  python -m experiments.table1_main_results
  python -m experiments.table1_main_results --scale paper --only times
  python -m experiments.table1_main_results --scale paper --dry_run
  python -m experiments.table1_main_results --report
  python -m experiments.table1_main_results --scale public

The first fine-tunes the laptop's models on two tasks with three seeds, and
times their decoding here (laptop.md). The second compiles the decoding of the
paper's models for eight TPU v4 that are not here and estimates the time
(report.md); it shares its records with experiments.figure6_num_groups. The
third prints the jobs of the whole table at the paper's size, with what they
take. The last runs the table's part of experiments.public_checkpoint.

Hardware: two CPU cores; an hour and a half after figure5's cells, which it
begins with. The estimates: 8 GB of memory, some 30 programs of one to two
minutes on one core, and `pip install -e '.[tpu-compile]'`.
"""

import pathlib
import sys
from collections.abc import Mapping

from experiments import paper_values, pretraining, public_checkpoint
from experiments.decode_times import claims as decode_claims
from experiments.decode_times import programs
from experiments.decode_times import report as decode_report
from experiments.decode_times.cells import Cell, fastest, on_every_mesh
from experiments.decode_times.tables import CLOSE
from experiments.study import command
from experiments.study.cells import ALPHA, FineTuning, Timing
from experiments.study.claims import Claim, verdict
from experiments.study.results import Found
from experiments.study.scales import LAPTOP, Scale
from experiments.study.spread import Seeds
from experiments.study.table1 import LAPTOP_MODELS, Row, alpha_of, rows, starts
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph
from gqa_flax.timing.spread import digits

RESULTS = pathlib.Path('results/table1_main_results')
# By size and number of key/value heads, in the paper's order.
MODELS = (('large', 16), ('xxl', 64), ('xxl', 1), ('xxl', 8))


def cells(scale: Scale) -> list:
  """Returns the grid."""
  models = MODELS if scale.name == 'paper' else LAPTOP_MODELS
  tuned = [
    FineTuning(start, task, alpha_of(start.method))
    for seed in scale.seeds
    for model in models
    for start in starts(scale, *model)
    if start.seed == seed
    for task in scale.tasks
  ]
  timed = [] if scale.name == 'paper' else [Timing(*model) for model in models]
  return [*timed, *tuned]


def estimates() -> list[Cell]:
  """Returns what is compiled."""
  return [cell for model in MODELS for cell in on_every_mesh(*model)]


def report_estimates(records: pathlib.Path, folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = programs.read(records, estimates())
  best, paper = _best(found), paper_values.read('table1_seconds_a_sample')
  folder.mkdir(parents=True, exist_ok=True)
  text = decode_report.table1(best, found, paper, estimates())
  (folder / 'report.md').write_text(text, encoding='utf-8')


def estimate_claims(records: pathlib.Path) -> list[Claim]:
  """Returns what the estimates say of the paper's times."""
  paper = paper_values.read('table1_seconds_a_sample')
  best = _best(programs.read(records, estimates()))
  return decode_claims.table1(best, paper['values'])


def _best(found):
  return {
    model: chosen
    for model in MODELS
    if (chosen := fastest(found.values(), *model))
  }


def report(found: Found, folder: pathlib.Path):
  """Writes laptop.md and laptop.csv from the records alone."""
  table = rows(found)
  header = (
    *('model', 's a sample', 'average score'),
    *(f'{name}, {task.metric}' for name, task in LAPTOP.tasks.items()),
    'average loss',
    *(f'{name}, nats a token' for name in LAPTOP.tasks),
  )
  shown = [
    (
      row.name,
      digits(row.time.seconds_a_sample) if row.time else '',
      *_shown(row.average, row.scores, 2),
      *_shown(row.loss, row.losses, 3),
    )
    for row in table
  ]
  csv = csv_table(
    ('model', 'task', 'metric', 'seed', 'score', 'nats_a_token'),
    [
      (row.name, task, LAPTOP.tasks[task].metric, *numbers)
      for row in table
      for task in row.scores
      for numbers in zip(
        LAPTOP.seeds,
        row.scores[task].values,
        row.losses[task].values,
        strict=True,
      )
    ],
  )
  (folder / 'laptop.csv').write_text(csv, encoding='utf-8')
  text = '\n'.join(
    [
      "# Table 1, at the laptop's scale\n",
      _about(found, table),
      markdown_table(header, shown),
      '## What the paper claims\n',
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'laptop.md').write_text(text, encoding='utf-8')


def _shown(average: Seeds | None, by_task: dict[str, Seeds], places: int):
  """Returns the cells of an average and of all tasks."""
  numbers = [average, *(by_task.get(task) for task in LAPTOP.tasks)]
  return [seeds.shown(places) if seeds else '' for seeds in numbers]


def _about(found: Found, table) -> str:
  return paragraph(
    f"""The model of ../pretraining and a smaller one beside it, both multi-head
    and as they are, and the first converted by the mean and uptrained for
    {ALPHA:.0%}; fine-tuned on two tasks, the checkpoint of the best
    validation score, decoded greedily and scored on the test split: mean
    and 95% interval over {len(LAPTOP.seeds)} seeds, by Student's t. Models so
    small, tuned for so few steps, score near the bottom of both scales, BLEU
    above all, and little is left for one to be better in. So the loss stands
    beside the scores: the cross-entropy of the validation split's targets when
    fine-tuning ends, the lower the better. Differences are taken seed by seed,
    for seeds share the order of the data. {_beginning(found)} {_timing(table)}
    Nothing here is a number of the paper's, whose times are estimated in
    report.md."""
  )


def _beginning(found: Found) -> str:
  names = [pretraining.of_size(size).name for size in LAPTOP.models]
  if not found.keys() >= {*names}:
    return ''
  large, small = (found[name]['held_out'][-1][1] for name in names)
  return (
    f'Both were pre-trained for as many steps, to a held-out loss of '
    f'{large:.2f} and, the smaller, of {small:.2f} (../pretraining/report.md).'
  )


def _timing(table) -> str:
  timed = [row.time for row in table if row.time]
  if not timed:
    return ''
  decoding = timed[0].decoding
  return (
    f'The time is that of {decoding.batch_size} sequences of '
    f'{decoding.source_length} tokens and {decoding.target_length} steps on '
    f'one {timed[0].device.upper()}, the median of {timed[0].repeats} repeats.'
  )


# The better and the worse of two models, by the paper's averages.
_ORDER = (
  ('MHA', 'small MHA'),
  ('GQA-2', 'small MHA'),
  ('MQA', 'small MHA'),
  ('GQA-2', 'MQA'),
  ('MHA', 'GQA-2'),
)
# What the paper's models are called.
_PAPERS = {
  'small MHA': 'MHA-Large',
  'MHA': 'MHA-XXL',
  'MQA': 'MQA-XXL',
  'GQA-2': 'GQA-8-XXL',
}


def claims(found: Found) -> list[Claim]:
  """Returns what becomes of the paper's claims at the laptop's scale."""
  table = {row.name: row for row in rows(found)}
  papers = paper_values.read('table1_average')['values']
  scores, losses = [], []
  for better, worse in _ORDER:
    a, b = table[better], table[worse]
    if a.average and b.average and a.loss and b.loss:
      gap = papers[_PAPERS[better]] - papers[_PAPERS[worse]]
      scores.append(
        Claim.of_gap(
          f'{better} scores above {worse}',
          a.average.minus(b.average),
          'points',
          places=2,
          paper=f'{gap:.1f} points',
        )
      )
      losses.append(
        Claim.of_gap(
          f"{better}'s loss is below that of {worse}",
          b.loss.minus(a.loss),
          'nats',
        )
      )
  return [*scores, *losses, *_times(table)]


def _times(table: Mapping[str, Row]) -> list[Claim]:
  times = {name: row.time for name, row in table.items() if row.time}
  if len(times) < len(table):
    return []
  values = paper_values.read('table1_seconds_a_sample')['values']
  papers = {name: values[theirs] for name, theirs in _PAPERS.items()}
  mha, mqa, gqa = (times[m].decode.median for m in ('MHA', 'MQA', 'GQA-2'))
  ratio = times['MQA'].seconds_a_sample / times['small MHA'].seconds_a_sample
  return [
    Claim(
      'without the encoder, which they share, MQA decodes faster than MHA',
      f'{mha / mqa:.2f} times as fast',
      verdict(mqa < mha),
      paper=f'{papers["MHA"] / papers["MQA"]:.2f} with the encoder',
      joint='; it is ',
    ),
    Claim(
      f'GQA-2 takes at most {1 + CLOSE:g} times as long as MQA, without the '
      'encoder',
      f'{gqa / mqa:.2f} times as long',
      verdict(gqa <= (1 + CLOSE) * mqa),
      paper=f'{papers["GQA-2"] / papers["MQA"]:.2f} with the encoder',
      joint='; it takes ',
    ),
    decode_claims.faster(
      'MQA', 'small MHA', ratio, papers['MQA'] / papers['small MHA']
    ),
  ]


ESTIMATES = command.Estimates(estimates, report_estimates, estimate_claims)
SCRIPT = command.Script(
  __doc__,
  RESULTS,
  cells,
  report,
  claims,
  ESTIMATES,
  elsewhere={'public': public_checkpoint.TABLE1},
)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
