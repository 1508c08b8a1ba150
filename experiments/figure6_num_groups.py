"""Figure 6: the time to decode against the number of key/value heads.

The paper's claim: going from one key/value head (MQA) to eight costs little
time, and more cost more and more; T5-XXL, 2048/512 tokens, on TPU v4. Readings
of its plot, in seconds a sample and chip (results/paper_values.json): 0.49 for
1, 0.51 for 8, 0.59 for 16, 0.80 for 32, 2.0 to 2.5 for 64.

  python -m experiments.figure6_num_groups --scale paper
  python -m experiments.figure6_num_groups --report

The first compiles T5.1.1-XXL with 1, 4, 8, 16, 32 and 64 key/value heads for
eight TPU v4 that are not here, for every mesh and both ways of dividing the
cache, each with the largest batch up to 32 a chip that fits, and estimates the
time. It goes on where it stopped. The second redraws results/figure6_num_groups
from results/decode_times/records.jsonl alone.

Hardware: a CPU with 8 GB of memory; some 60 programs of one to two minutes on
one core. Needs `pip install -e '.[tpu-compile]'`.
"""

import pathlib
import sys

from experiments import decode_plot, decode_report, decode_times
from experiments.decode_times import Cell

NUM_KV_HEADS = (1, 4, 8, 16, 32, 64)
SIZE = 'xxl'
RESULTS = pathlib.Path('results/figure6_num_groups')
# What T5X's multi-head attention fits, for which a target is set.
FIXED_BATCH = Cell(SIZE, 64, (1, 1, 8), 'heads', batch_per_chip=16)


def todo() -> list[Cell]:
  """Returns what is compiled, the likeliest best first."""
  cells = [cell for K in NUM_KV_HEADS for cell in decode_times.cells(SIZE, K)]
  return [FIXED_BATCH, *sorted(cells, key=lambda cell: -cell.mesh[2])]


def report(records: pathlib.Path, folder: pathlib.Path):
  """Writes report.md and time.png from the records alone."""
  found = decode_times.read(records, todo())
  best = {
    K: chosen
    for K in NUM_KV_HEADS
    if (chosen := decode_times.best(found.values(), SIZE, K))
  }
  paper = decode_report.paper_values('figure6_seconds_a_sample')
  folder.mkdir(parents=True, exist_ok=True)
  decode_plot.plot(folder / 'time.png', best, paper)
  text = decode_report.figure6(best, found, paper, todo())
  (folder / 'report.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
  sys.exit(decode_times.main(__doc__, todo, report, RESULTS))
