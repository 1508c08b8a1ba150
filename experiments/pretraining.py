"""The multi-head checkpoints that the laptop's study begins with.

The paper begins with public T5.1.1 checkpoints. Those are too large for a
laptop, so a small T5.1.1 with 8 heads is pre-trained here by the same recipe,
on all embedded prose, and kept in results/pretraining with its vocabulary: the
toy and every experiment at `--scale laptop` convert that one. Beside it a
smaller model, as T5-Large is beside T5-XXL, is pre-trained in the same way.

  pip install -e '.[study]'
  python -m experiments.pretraining
  python -m experiments.pretraining --size laptop_small

What is interrupted goes on. Hardware: two CPU cores, an hour and a quarter, and
half an hour for the smaller model.
"""

import argparse
import pathlib
import sys

from experiments.study import grid
from experiments.study.cells import FromScratch
from experiments.study.jobs import Job
from experiments.study.results import Found
from experiments.study.scales import LAPTOP
from gqa_flax.data import embedded, user_cache, verses
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import markdown_table, paragraph

FOLDER = pathlib.Path('results/pretraining')
VOCABULARY = FOLDER / 'vocabulary.model'
NUM_PIECES = 4000


def write_vocabulary():
  """Trains the vocabulary on the prose and the summaries of the train split."""
  lines = embedded.training_texts()
  for verse in verses.verses('train'):
    lines += [verse.english, verse.german]
  model = embedded.train_vocabulary(lines, NUM_PIECES)
  user_cache.write_whole(VOCABULARY, model)


def of_size(size: str) -> FromScratch:
  """Returns the pre-training of a model of the study."""
  heads = LAPTOP.models[size].num_heads
  return FromScratch(size, heads, LAPTOP.pretraining_steps)


def export(cell: FromScratch) -> Job:
  """Returns the job that writes the checkpoint where the study looks for it."""
  model = LAPTOP.models[cell.size]
  return Job(
    'convert',
    ('gin_configs/runs/convert.gin',),
    {
      'INPUT': f'{LAPTOP.work_dir}/{cell.name}',
      'OUTPUT': model.checkpoint,
      'NUM_KV_HEADS': model.num_heads,
      # As the public T5.1.1 are, with Adafactor's statistics; but two bytes a
      # parameter.
      'OUTPUT_FORMAT': 't5x_legacy',
      'OUTPUT_DTYPE': 'bfloat16',
      'OPTIMIZER_STATE': 'carry',
    },
    done=f'{model.checkpoint}/conversion.json',
  )


def main() -> int:
  """Pre-trains what is missing, and exports it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', choices=LAPTOP.models, default='laptop')
  parser.add_argument('--dry_run', action='store_true', help='print the jobs')
  args = parser.parse_args()
  cell = of_size(args.size)
  job = export(cell)
  if args.dry_run:
    print('\n\n'.join(map(str, [*cell.jobs(LAPTOP), job])))
    return 0
  if not VOCABULARY.exists():
    write_vocabulary()
  study = grid.Grid(LAPTOP)
  study.run([cell])
  if cell.name not in study.found():
    return 1
  job.run(pathlib.Path(LAPTOP.work_dir, 'logs', 'export.log'))
  report(study.found(), FOLDER)
  print(LAPTOP.models[args.size].checkpoint)
  return 0


def report(found: Found, folder: pathlib.Path):
  """Writes report.md and losses.png and .svg, of what has been pre-trained."""
  records = {
    size: found[of_size(size).name]
    for size in LAPTOP.models
    if of_size(size).name in found
  }
  if not records:
    return
  rows = [
    (
      LAPTOP.models[size].gin_file,
      LAPTOP.models[size].num_heads,
      record['held_out'][-1][0],
      record['losses'][-1][1],
      record['held_out'][-1][1],
    )
    for size, record in records.items()
  ]
  header = ('model', 'heads', 'steps', 'training loss', 'held-out loss')
  figure, axes = plots.new()
  for (size, record), color in zip(records.items(), plots.COLORS):
    axes.plot(*zip(*record['losses']), color=color, linewidth=0.9, label=size)
    axes.plot(*zip(*record['held_out']), 'o', color=color, markersize=4)
  axes.set_xlabel('step')
  axes.set_ylabel('nats a token')
  axes.set_title('Training loss (line) and held-out loss (dots)', fontsize=11)
  axes.legend(fontsize=8, frameon=False)
  plots.save(figure, folder / 'losses.png')
  text = '\n'.join(
    [
      "# Pre-training at the laptop's scale\n",
      _ABOUT,
      markdown_table(header, rows),
      '![Losses by step](losses.png)\n',
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


_ABOUT = paragraph(
  """The multi-head checkpoints that every experiment at the laptop's scale
  begins with, as the paper's begin with the public T5.1.1: span corruption of
  embedded prose (gin_configs/tasks/prose_span_corruption.gin), made by
  `python -m experiments.pretraining`. They are kept in `checkpoint` and
  `checkpoint_small`, in T5X's format and bfloat16, with Adafactor's statistics.
  Losses are nats a target token, sentinels among them; the operative
  configuration, the git revision and the devices stand in the records of
  `../study`."""
)


if __name__ == '__main__':
  sys.exit(main())
