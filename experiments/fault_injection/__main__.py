"""Two processes killed at random moments end as an undisturbed run does.

Two real processes of four virtual CPU devices each train a small GQA-2 model
with dropout on a mesh of data, fsdp and model axes, once undisturbed and once
killed by SIGKILL again and again: process 0, process 1 and both in turn, at
moments drawn by a seed, some before the first step, most after so many steps
and some tenths of a second, so that they spread over the run and some fall into
the writing of a checkpoint. What survives must end by itself, and both are
started again. In the end parameters, optimizer state, step and the losses of
all steps must be equal to the bit, and no step but those since the last
checkpoint may have been done again.

  python -m experiments.fault_injection --kills=50
  python -m experiments.fault_injection --report

Every kill is a line of results/fault_injection/kills.jsonl, and so is an
attempt that ended by itself before its kill, which the next one gets instead.
With --work_dir an interrupted run goes on where it stopped. Exit status 1 if
anything differs.

Hardware: two CPU cores, 3 GB of memory; twenty minutes when they are idle.
Expect no difference, and a survivor to end ten seconds after process 1 has died
(the heartbeat given here; 100 s by default), and at once after process 0.
"""

import argparse
import pathlib
import sys
import tempfile

from experiments.fault_injection import inject


def main() -> int:
  """Kills, then reports; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--minutes', type=float, help='no kills after these')
  parser.add_argument('--work_dir', help='of the runs; temporary by default')
  parser.add_argument('--results_dir', default='results/fault_injection')
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args()
  results = pathlib.Path(args.results_dir)
  equal = True
  if not args.report:
    with tempfile.TemporaryDirectory(prefix='fault_injection_') as folder:
      work_dir = pathlib.Path(args.work_dir or folder).absolute()
      equal = inject.run(work_dir, results, args.kills, args.seed, args.minutes)
  from experiments.fault_injection import report

  report.write(results)
  return 0 if equal else 1


if __name__ == '__main__':
  sys.exit(main())
