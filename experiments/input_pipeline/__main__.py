"""How fast the input pipeline is, where its time goes, and how it resumes.

For five tasks at the paper's lengths, on data sets of documents as long as the
published ones (real English prose, joined; see corpus.py): examples a second of
the pipeline, stage upon stage up to `train_batches`, on one core and on all;
the same from seqio's cached form; what SentencePiece alone would take; and the
saved position: its size, the seconds to save and to restore it early and late
in an epoch, beside those of going there from the beginning. The repeats of all
tasks, stages and cores take turns. That the batch after a restore is the very
next one is checked in every run.

  python -m experiments.input_pipeline --vocabulary_file=<T5's model>
  python -m experiments.input_pipeline --report

The second redraws the report from the records. Without a file the vocabulary is
the embedded one of 4,000 pieces. Records go to results/input_pipeline/; a run
that was interrupted goes on where it stopped, and --new_run begins another,
which the report then tells of.

Hardware: two CPU cores, 2.1 GB of memory, 0.5 GB on the disk; six minutes.
Expect tokenization to be most of the time for long documents, and less than two
cores in all for one step a second of any of the paper's batches.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile

from experiments.input_pipeline.workers import Workers
from gqa_flax.reporting import records

TASKS = (
  'cnn_dailymail',
  'arxiv',
  'wmt14_en_de',
  'trivia_qa',
  'c4_span_corruption',
)
REPEATS = 5
POSITION_REPEATS = 3


def cells(names, repeats, position_repeats):
  """Yields (what, task, cores, repeat) of all that is measured, in order."""
  for name in names:
    yield 'data', name, 'all', 0
  for repeat in range(repeats):
    for name in names:
      yield 'tokenizer', name, 'one', repeat
      yield 'rates', name, 'one', repeat
      yield 'rates', name, 'all', repeat
  for repeat in range(position_repeats):
    for name in names:
      yield 'position', name, 'all', repeat


_FUNCTIONS = {
  'data': ('measured', 'describe'),
  'tokenizer': ('measured', 'tokenizer'),
  'rates': ('measured', 'rates'),
  'position': ('long', 'position'),
}


def run(path, todo, vocabulary_file: str | None, run_number: int):
  """Measures the cells that the run lacks, and appends a record for each."""
  common = {
    'experiment': 'input_pipeline',
    'run': run_number,
    'vocabulary_sha256': _sha256(vocabulary_file),
    'processor': records.processor(),
  }
  done = {
    tuple(record[key] for key in ('what', 'task', 'cores', 'repeat'))
    for record in records.read(path)
    if all(record[key] == value for key, value in common.items())
  }
  with tempfile.TemporaryDirectory(prefix='input_pipeline_') as folder:
    workers = Workers(pathlib.Path(folder))
    try:
      for what, name, cores, repeat in todo:
        # Always: the data lies in a folder of this call's own.
        if (what, name, cores, repeat) in done and what != 'data':
          continue
        data, function = _FUNCTIONS[what]
        load = os.getloadavg()[0]
        found = workers.call(cores, data, function, name, vocabulary_file)
        if (what, name, cores, repeat) in done:
          continue
        record = {
          **common,
          'what': what,
          'task': name,
          'cores': cores,
          'repeat': repeat,
          **found,
          'load': round(load, 2),
          'provenance': records.provenance('cpu', os.cpu_count() or 1),
        }
        records.append(path, record)
        print(what, name, cores, repeat, f'load {load:.1f}', flush=True)
    finally:
      workers.close()


def _sha256(vocabulary_file: str | None) -> str | None:
  """Returns what tells vocabularies apart; None is the embedded one."""
  if vocabulary_file is None:
    return None
  content = pathlib.Path(vocabulary_file).read_bytes()
  return hashlib.sha256(content).hexdigest()


def main() -> int:
  """Measures, then reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--vocabulary_file', help="T5's SentencePiece model")
  parser.add_argument('--results_dir', default='results/input_pipeline')
  parser.add_argument('--tasks', nargs='+', default=TASKS, choices=TASKS)
  parser.add_argument('--repeats', type=int, default=REPEATS)
  parser.add_argument('--position_repeats', type=int, default=POSITION_REPEATS)
  parser.add_argument('--new_run', action='store_true')
  parser.add_argument('--report', action='store_true', help='report alone')
  args = parser.parse_args()
  results = pathlib.Path(args.results_dir)
  path = results / 'records.jsonl'
  if not args.report:
    last = max((record['run'] for record in records.read(path)), default=1)
    number = last + 1 if args.new_run else last
    todo = cells(args.tasks, args.repeats, args.position_repeats)
    run(path, todo, args.vocabulary_file, number)
  from experiments.input_pipeline import report

  report.write(results)
  return 0


if __name__ == '__main__':
  sys.exit(main())
