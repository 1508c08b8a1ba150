"""The multi-head checkpoints that the laptop's study begins with.

The paper begins with public T5.1.1 checkpoints. Those are too large for a
laptop, so a small T5.1.1 with 8 heads is pre-trained here by the same recipe,
on all embedded prose, and kept in results/pretraining with its vocabulary: the
quickstart and every experiment at `--scale laptop` convert that one. A smaller
model beside it, as T5-Large is beside T5-XXL, is pre-trained in the same way
and not kept.

  pip install -e '.[study]'
  python -m experiments.pretraining
  python -m experiments.pretraining --size laptop_small

What is interrupted goes on. Hardware: two CPU cores, an hour and a quarter, and
a quarter of an hour for the smaller model.
"""

import argparse
import pathlib
import sys

from experiments.study import grid
from experiments.study.cells import FromScratch
from experiments.study.jobs import Job
from experiments.study.scales import LAPTOP
from gqa_flax.data import embedded, user_cache, verses

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
      # Two bytes a parameter: what public checkpoints are often kept in.
      'OUTPUT_FORMAT': 'hugging_face',
      'OUTPUT_DTYPE': 'bfloat16',
    },
    done=f'{model.checkpoint}/config.json',
  )


def main() -> int:
  """Pre-trains what is missing, and exports it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', choices=LAPTOP.models, default='laptop')
  parser.add_argument('--dry_run', action='store_true', help='print the jobs')
  args = parser.parse_args()
  model = LAPTOP.models[args.size]
  cell = FromScratch(args.size, model.num_heads, LAPTOP.pretraining_steps)
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
  print(model.checkpoint)
  return 0


if __name__ == '__main__':
  sys.exit(main())
