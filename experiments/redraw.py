"""Makes every table, plot and report anew, from the records alone.

  python -m experiments.redraw
  gqa-flax report

The first writes over what is derived in results/ and leaves records as they
are: the same records give the same bytes. The second puts all reports on one
page.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping

from experiments import (
  appendix_a_stability,
  conversion_scale,
  figure3_tradeoff,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  kv_cache,
  overview,
  pretraining,
  public_checkpoint,
  roofline_check,
  table1_main_results,
  toy_report,
)
from experiments.fault_injection import report as fault_injection
from experiments.input_pipeline import report as input_pipeline
from experiments.low_precision import report as low_precision
from experiments.peers import report as peers
from experiments.quickstart import report as quickstart
from experiments.real_checkpoint import report as real_checkpoint
from experiments.scale import report as scale
from experiments.study import command
from experiments.study.grid import Grid
from experiments.study.scales import LAPTOP, PUBLIC_CHECKPOINT
from experiments.training_knobs import report as training_knobs

# What writes a folder's report from the records in it; a study that has not run
# has no folder.
REPORTS: Mapping[str, Callable[[pathlib.Path], None]] = {
  'conversion': conversion_scale.report,
  'fault_injection': fault_injection.write,
  'input_pipeline': input_pipeline.write,
  'kv_cache': kv_cache.report,
  'low_precision': low_precision.write,
  'peers': peers.write,
  'quickstart': quickstart.redraw,
  'real_checkpoint': real_checkpoint.write,
  'roofline_check': roofline_check.report,
  'scale': scale.write,
  'toy': toy_report.redraw,
  'training_knobs': training_knobs.write,
}
# These have their records in results/study and, for times that are estimated,
# in results/decode_times.
STUDY = (
  table1_main_results,
  figure3_tradeoff,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  appendix_a_stability,
  public_checkpoint,
)


def redraw(results: pathlib.Path):
  """Writes all that is derived from a folder of records."""
  for name, report in REPORTS.items():
    if (results / name).exists():
      report(results / name)
  records = results / 'study' / 'records.jsonl'
  found = {
    scale.name: Grid(scale, records).found()
    for scale in (LAPTOP, PUBLIC_CHECKPOINT)
  }
  pretraining.report(found['laptop'], results / 'pretraining')
  times = results / 'decode_times' / 'records.jsonl'
  scripts = [module.SCRIPT for module in STUDY]
  for script in scripts:
    folder = results / script.results_dir.name
    command.redraw(script, found[script.scales[0].name], times, folder)
  overview.write(results, scripts, found, times)


def main() -> int:
  """Redraws everything."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--results', default='results', type=pathlib.Path)
  redraw(parser.parse_args().results)
  return 0


if __name__ == '__main__':
  sys.exit(main())
