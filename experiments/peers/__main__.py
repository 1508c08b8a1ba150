"""Our decoding and our training step beside those of transformers on torch.

On a CPU, with the same weights and the same number of threads: greedy decoding
of T5.1.1-small to a forced length, of our multi-head model and of what it
converts to with two key/value heads and with one; and a training step with
Adafactor. All take turns in one process. Before anything is timed, tokens,
logits and losses are compared: a run fails if the two do not compute the same.

  python -m experiments.peers --what decoding
  python -m experiments.peers --what training --pages kept
  python -m experiments.peers --what decoding --target_length=32 --repeats=3
  python -m experiments.peers --report

Both libraries have huge pages of memory, and by the second the process keeps
them (experiments/training_knobs): a training step asks for gigabytes anew. The
last redraws the report from the records, which are one JSON line a run in
results/peers/. Targets are for the default sizes; a run of others is told of
beside them.

Hardware: two CPU cores, 8 GB of memory, and nothing else running, for some
twenty minutes: where others took more than a tenth of the processors, the
report leaves the targets undecided.
Needs `pip install -e '.[hf]'`, for torch and transformers, and a C++ compiler
for torch.compile; without one say `--variants sdpa eager`.
"""

import argparse
import os
import pathlib
import sys
import time

from experiments.peers import machine
from experiments.training_knobs.cells import PAGES
from gqa_flax.reporting import records

WHAT = ('decoding', 'training')
VARIANTS = ('sdpa', 'eager', 'compiled')


def run(path, args: argparse.Namespace):
  """Measures what was asked for, and appends a record for each."""
  processors = machine.pin(args.threads)
  # From here on: these load JAX and torch.
  from experiments.peers import decoding, models, training

  machine.limit_torch(args.threads)
  sizes = (args.size, args.batch_size, args.source_length)
  todo = []
  if 'decoding' in args.what:
    todo.append((decoding, models.Cell(*sizes, args.target_length)))
  if 'training' in args.what:
    for rate in args.dropout_rates:
      cell = models.Cell(*sizes, args.training_target_length, rate)
      todo.append((training, cell))
  for module, cell in todo:
    what = module.__name__.rpartition('.')[2]
    print(f'{what}: {cell}', flush=True)
    begin = time.monotonic()
    found = module.run(cell, args.repeats, args.variants)
    record = {
      'experiment': 'peers',
      'what': what,
      **models.common(cell),
      'threads': args.threads,
      'processors': len(processors),
      'repeats': args.repeats,
      **found,
      'run_seconds': round(time.monotonic() - begin, 1),
      'machine': machine.describe(),
      'provenance': records.provenance('cpu', 1),
    }
    records.append(path, record)


def parse(arguments=None) -> argparse.Namespace:
  """Returns what the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--what', nargs='+', default=WHAT, choices=WHAT)
  parser.add_argument('--size', default='small')
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--source_length', type=int, default=512)
  parser.add_argument('--target_length', type=int, default=128)
  parser.add_argument('--training_target_length', type=int, default=114)
  parser.add_argument(
    '--dropout_rates', nargs='+', type=float, default=(0.0, 0.1)
  )
  parser.add_argument(
    '--variants',
    nargs='+',
    default=VARIANTS,
    choices=VARIANTS,
    help='of transformers: attentions, or the first by torch.compile; the '
    'fastest is compared with',
  )
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--pages', default='huge', choices=PAGES)
  parser.add_argument(
    '--results_dir', default='results/peers', type=pathlib.Path
  )
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args(arguments)
  if args.repeats < 1:
    parser.error(f'--repeats={args.repeats}: give 1 or more.')
  return args


def set_pages(kind: str):
  """Begins this program again, unless it has these pages of memory.

  The C library reads how to take memory before Python begins.

  Args:
    kind: of `PAGES`.
  """
  others = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  wanted = {**others, **PAGES[kind]}
  if wanted != dict(os.environ):
    command = [sys.executable, '-m', 'experiments.peers', *sys.argv[1:]]
    os.execve(sys.executable, command, wanted)


def main() -> int:
  """Measures, then reports."""
  args = parse()
  if not args.report:
    set_pages(args.pages)
    run(args.results_dir / 'records.jsonl', args)
  from experiments.peers import report

  report.write(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
