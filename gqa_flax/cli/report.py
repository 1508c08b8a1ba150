"""`gqa-flax report`: all results as one page."""

import argparse

from gqa_flax.cli import text_files

_EXAMPLES = """\
example:
  gqa-flax report --results=results --output=results.html

The page holds every plot, and needs no other file. It begins with a table of
the claims in claims.jsonl, if the folder has one, followed by the reports in
the folder, which the scripts in experiments/ make from their records.
"""


def add_commands(commands):
  """Adds the command of this file to those of `gqa-flax`."""
  command = commands.add_parser(
    'report',
    help=report.__doc__,
    description=report.__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.set_defaults(run=report)
  add = command.add_argument
  add(
    '--results',
    default='results',
    help='a folder of reports; results by default',
  )
  add(
    '--output', default='results.html', help='the page; results.html by default'
  )
  add('--debug', action='store_true', help='show tracebacks')


def report(args):
  """Makes one self-contained HTML page of all reports."""
  from gqa_flax.reporting import page

  text_files.check_output(args.output)
  text_files.write(args.output, page.build(args.results))
  if args.output != '-':
    print(args.output)
