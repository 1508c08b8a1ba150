"""What each memory and speed knob costs and saves, and which default follows.

REMAT_POLICY, MICROBATCHES, the activations' dtype, the donated state and
COMPILATION_CACHE, and pages of memory, in four parts:

- plan: the bytes of a device by `gqa-flax train --dry_run`, for the programs of
  the next part and for the paper's jobs.
- tpu: the whole training step of T5.1.1-Base with GQA-4, uptraining (256
  packed rows of 512/114 tokens), compiled for one TPU v4 chip on a machine
  without TPUs, for every remat policy and 1, 2 and 4 microbatches: bytes, the
  compiler's estimate of the time, FLOPs that are computed again.
- cpu: seconds a step on this machine, which take turns, of T5.1.1-Small with
  two layers a stack; and seconds from the start of `gqa-flax train` to its
  first finished step, without a compilation cache, with an empty one and with a
  full one.
- pages: seconds a step of the laptop's model on this machine with small pages
  of memory, with huge ones, and with huge ones that the process keeps.

  python -m experiments.training_knobs --part plan
  python -m experiments.training_knobs --part tpu
  python -m experiments.training_knobs --part cpu
  python -m experiments.training_knobs --part pages
  python -m experiments.training_knobs --report

Without --part all are done; the last redraws the report from the records.
These go to results/training_knobs/ as they come; a run that was interrupted
goes on where it stopped, and --new_run measures what is of this machine again.

Hardware: two CPU cores, no accelerator. The part for TPUs takes 6 GB of memory,
one core, and one to five minutes a program, half an hour in all, and needs
`pip install -e '.[tpu-compile]'`; the last two parts some ten minutes each and
4 GB, on a machine that does nothing else.
"""

import argparse
import pathlib
import sys

from experiments.training_knobs import cells, summary
from gqa_flax.reporting import records

REPEATS = 7
START_REPEATS = 4


def plan(path):
  """Plans everything, and appends what is news."""
  from experiments.training_knobs import compiled

  compiled.plan_programs(path, cells.tpu_model(), cells.ROWS, cells.PROGRAMS)
  compiled.plan_jobs(path, cells.plans())


def tpu(path, log_path: pathlib.Path):
  """Compiles what the records lack."""
  from experiments.training_knobs import compiled

  log_path.parent.mkdir(parents=True, exist_ok=True)
  with open(log_path, 'a', encoding='utf-8') as log:
    compiled.compile_programs(
      path, cells.tpu_model(), cells.ROWS, cells.PROGRAMS, log
    )


def cpu(path, repeats: int, start_repeats: int, run_number: int):
  """Times what the records lack of the run."""
  from experiments.training_knobs import measured, startup

  model = cells.cpu_model()
  startup.time_startups(path, cells.CACHES, start_repeats, run_number)
  measured.time_steps(
    path, model, cells.CPU_ROWS, cells.TIMINGS, repeats, run_number
  )


def main() -> int:
  """Compiles and measures, then reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parts = ('plan', 'tpu', 'cpu', 'pages')
  parser.add_argument('--part', choices=parts, help='default: all')
  parser.add_argument('--results_dir', default='results/training_knobs')
  parser.add_argument(
    '--log', default='runs/training_knobs.log', type=pathlib.Path
  )
  parser.add_argument('--repeats', type=int, default=REPEATS)
  parser.add_argument('--start_repeats', type=int, default=START_REPEATS)
  parser.add_argument('--new_run', action='store_true')
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args()
  results = pathlib.Path(args.results_dir)
  path = results / 'records.jsonl'
  chosen = [] if args.report else [args.part] if args.part else parts
  if 'plan' in chosen:
    plan(path)
  if 'tpu' in chosen:
    tpu(path, args.log)
  if 'cpu' in chosen:
    last = summary.last_run(records.read(path), 'startup', 'step')
    cpu(path, args.repeats, args.start_repeats, last + args.new_run)
  if 'pages' in chosen:
    from experiments.training_knobs import pages

    last = summary.last_run(records.read(path), 'pages')
    pages.time_pages(path, args.start_repeats, last + args.new_run)
  from experiments.training_knobs import report

  report.write(results)
  return 0


if __name__ == '__main__':
  sys.exit(main())
