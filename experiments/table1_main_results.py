"""Table 1, the column of times: T_infer of the paper's four models.

The paper: seconds a sample and chip on eight TPU v4, 2048/512 tokens, the
largest batch up to 32 a chip that fits, and the partitioning that suits each
model: MHA-Large 0.37, MHA-XXL 1.51, MQA-XXL 0.24, GQA-8-XXL 0.28.

  python -m experiments.table1_main_results --scale paper
  python -m experiments.table1_main_results --report

The first compiles the models' decoding for eight TPU v4 that are not here and
estimates the time; it shares its records with experiments.figure6_num_groups,
and goes on where it stopped. The second redraws results/table1_main_results
from results/decode_times/records.jsonl alone. (The columns of quality are not
here yet.)

Hardware: a CPU with 8 GB of memory; some 30 programs of one to two minutes on
one core. Needs `pip install -e '.[tpu-compile]'`.
"""

import pathlib
import sys

from experiments import decode_report, decode_times
from experiments.decode_times import Cell

# By size and number of key/value heads, in the paper's order.
MODELS = (('large', 16), ('xxl', 64), ('xxl', 1), ('xxl', 8))
RESULTS = pathlib.Path('results/table1_main_results')


def todo() -> list[Cell]:
  """Returns what is compiled."""
  return [cell for model in MODELS for cell in decode_times.cells(*model)]


def report(records: pathlib.Path, folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = decode_times.read(records, todo())
  best = {
    model: chosen
    for model in MODELS
    if (chosen := decode_times.best(found.values(), *model))
  }
  paper = decode_report.paper_values('table1_seconds_a_sample')
  folder.mkdir(parents=True, exist_ok=True)
  text = decode_report.table1(best, found, paper, todo())
  (folder / 'report.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
  sys.exit(decode_times.main(__doc__, todo, report, RESULTS))
