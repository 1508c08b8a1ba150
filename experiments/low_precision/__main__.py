"""What parameters and caches in fewer bytes cost in quality.

A real checkpoint (see real_checkpoint/), multi-head and converted to two and to
one key/value head by `subspace`, decodes held-out translations and summaries in
float32, with bfloat16 parameters, with int8 kernels, with an int8 cache and
with both. Reference tokens are forced through the decoding cache, for the
cross-entropy and for the token that each step would have chosen; then all is
decoded greedily, and scored with BLEU or ROUGE.

  pip install -e '.[study]'
  python -m experiments.low_precision            # all cells that are missing
  python -m experiments.low_precision --report   # from the records alone

Every cell is one record in results/low_precision/records.jsonl; a run that is
stopped goes on with the next missing cell. Hardware: two CPU cores, some two
minutes a cell while others compute beside it.
"""

import argparse
import pathlib
import sys

from experiments.low_precision import report


def main() -> int:
  """Measures what is missing, then writes the report."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--results_dir', default='results/low_precision', type=pathlib.Path
  )
  parser.add_argument(
    '--work_dir', default='runs/low_precision', type=pathlib.Path
  )
  parser.add_argument('--report', action='store_true')
  args = parser.parse_args()
  if not args.report:
    # Here, as it wants the packages of the real checkpoint.
    from experiments.low_precision import measure

    measure.run(args.results_dir, args.work_dir)
  report.write(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
