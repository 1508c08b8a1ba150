"""`gqa-flax compare | average`: what evaluations say together."""

import argparse
import json

_EXAMPLES = """\
examples:
  # Is GQA-8 better than MQA on these examples, or was it luck?
  gqa-flax compare /tmp/mqa/scores /tmp/gqa_8/scores

  # Unstable models by the mean of three runs, as in the paper.
  gqa-flax average /tmp/mqa_1/scores /tmp/mqa_2/scores /tmp/mqa_3/scores
  gqa-flax compare /tmp/mqa_1/scores,/tmp/mqa_2/scores,/tmp/mqa_3/scores \\
    /tmp/gqa_8/scores

The folders are OUTPUT_DIRs of gqa-flax evaluate.
"""


def add_commands(commands):
  """Adds the commands of this file to those of `gqa-flax`."""
  for run in (compare, average):
    command = commands.add_parser(
      run.__name__,
      help=run.__doc__,
      description=run.__doc__,
      epilog=_EXAMPLES,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    if run is compare:
      add('a', metavar='A', help='a folder, or several runs, comma-separated')
      add('b', metavar='B', help='likewise')
      add(
        '--confidence',
        type=float,
        default=0.95,
        help='of the intervals; 0.95 by default',
      )
      add(
        '--num_resamples',
        type=int,
        default=1000,
        help='of the bootstrap; 1000 by default',
      )
      add('--seed', type=int, default=0, help='of the bootstrap; 0 by default')
    else:
      add('runs', metavar='RUN', nargs='+', help='a folder')
    add('--json', action='store_true', help='print JSON instead of a table')
    add('--debug', action='store_true', help='show tracebacks')


def compare(args):
  """Compares the predictions of two models on one task."""
  from gqa_flax.evaluation import compare as comparison

  _print(
    comparison.compare(
      args.a.split(','),
      args.b.split(','),
      confidence=args.confidence,
      num_resamples=args.num_resamples,
      seed=args.seed,
    ),
    args.json,
  )


def average(args):
  """Averages the scores of several runs, and shows their spread."""
  from gqa_flax.evaluation import average as averaging

  _print(averaging.average(args.runs), args.json)


def _print(result, as_json: bool):
  print(json.dumps(result.to_dict(), indent=2) if as_json else result.table())
