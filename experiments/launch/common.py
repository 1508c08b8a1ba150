"""What the launchers share: the command after `--`, and running or printing."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

# Ends after which the same command goes on from the last checkpoint: saved on
# SIGTERM or ended by the watchdog (75), ended by JAX because a peer is gone
# (SIGABRT), SIGKILL, and SIGTERM before the training had begun. Anything else,
# a mistake in the configuration for instance, would come again.
RESTART_STATUSES = (75, 134, 137, 143)


def make_parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the options of every launcher."""
  parser = argparse.ArgumentParser(
    description=description,
    usage='%(prog)s [options] -- gqa-flax COMMAND ...',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='print what would run, which bash can read, and run nothing',
  )
  parser.add_argument('--name', required=True, help='of the job')
  parser.add_argument(
    '--max_restarts',
    type=int,
    default=100,
    help=f'after an end with status {", ".join(map(str, RESTART_STATUSES))}',
  )
  return parser


def parse(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the launcher's options, and what follows the first `--`.

  Args:
    parser: see `make_parser`.
    argv: None takes those that Python was started with.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  split = argv.index('--') if '--' in argv else len(argv)
  arguments, command = parser.parse_args(argv[:split]), argv[split + 1 :]
  if not command:
    parser.error(
      'there is no command; put it after --, as in -- gqa-flax train '
      '--gin_file=gin_configs/runs/finetune.gin'
    )
  return arguments, command


def run(script: str, dry_run: bool) -> int:
  """Prints a bash script, or runs it and returns its status."""
  if dry_run:
    print(script, end='')
    return 0
  return subprocess.run(['bash', '-euo', 'pipefail', '-c', script]).returncode


def here_document(command: str, text: str) -> str:
  """Returns bash that gives a text, as it is, to the command's input."""
  mark = 'END_OF_INPUT'
  while mark in text:
    mark += '_'
  return f"{command} <<'{mark}'\n{text.rstrip()}\n{mark}\n"
