"""The GQA paper's method on a public checkpoint, in minutes, on a CPU.

flan-t5-small, as the package traceforge-title-model carries it, is converted
from 6 key/value heads to 2 and to 1, by the paper's mean and by `subspace`, a
method of ours, and fine-tuned on introduction -> description (Wikipedia): what
Figure 4 and Table 1 of the paper do, without the uptraining in between. The
report compares what the models write, before and after.

  make quickstart                       # or, in an installed environment:
  python -m experiments.quickstart
  python -m experiments.quickstart --gin.FINETUNE_STEPS=300 \\
    --gin.WORK_DIR=runs/longer

All settings stand in gin_configs/quickstart.gin. Stages that are done are not
done again: an interrupted run continues, and another one after that only
rebuilds the report. Needs the extra `quickstart` of the package and 3 GB in
WORK_DIR. Hardware: two CPU cores, some eight minutes where they are quiet.
"""

import sys

from gqa_flax import cli
from gqa_flax.runtime import interrupts


def main() -> int:
  """Runs the quickstart as gin_configs/quickstart.gin and bindings say."""
  argv = ['--gin_file=gin_configs/quickstart.gin', *sys.argv[1:]]
  if not {'--help', '-h'} & {*argv}:
    print(
      'Converts flan-t5-small to grouped-query and multi-query attention, '
      'fine-tunes the multi-head and multi-query models, and compares.',
      flush=True,
    )
  return cli.run_function('experiments.quickstart.run', 'quickstart', argv)


if __name__ == '__main__':
  interrupts.install()
  status = main()
  if status == interrupts.EXIT_STATUS:
    interrupts.leave()
  sys.exit(status)
