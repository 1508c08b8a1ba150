"""`gqa-flax COMMAND`: one command a job, on gin files and bindings.

flags       the command line as it is typed
gin_config  reads gin files; the only file that knows gin
shorthand   convert INPUT OUTPUT, without gin
jobs        train, convert, evaluate, infer
data        data list, data check, data prepare
scores      compare, average
cost        cost: memory, bytes and FLOPs from a config alone
times       time: decoding, measured here or estimated for TPUs
report      report: all results as one page
started     what a command says first
interrupted what a command says after Ctrl-C
text_files  lines read and texts written, by infer and report
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from gqa_flax.cli import flags, gin_config, interrupted, started
from gqa_flax.cli.gin_config import UsageError
from gqa_flax.runtime import interrupts, quiet
from gqa_flax.runtime import status as progress

__all__ = ['UsageError', 'console', 'main', 'run_function']

# Of sysexits.h: what schedulers may start again.
_RESTART = 75
# What has ended by then says nothing but its result.
_FIRST_LINE_SECONDS = 0.3

_DESCRIPTION = """\
Grouped-query attention from multi-head T5.1.1 checkpoints (Ainslie et al.
2023). Commands that compute read gin files; later files and --gin.NAME=value
bindings win. `gqa-flax COMMAND --help` shows examples, and each setting with
its type and default.
"""


def console() -> int:
  """Runs one command as a program of its own.

  Ctrl-C ends it at once, and standard error tells what it does.
  """
  interrupts.install()
  quiet.prepare()
  progress.begin()
  status = main()
  if status == interrupts.EXIT_STATUS:
    interrupts.leave()
  return status


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  argv = flags.rewrite(sys.argv[1:] if argv is None else argv)
  args = _parser().parse_args(argv)
  name = f'gqa-flax {args.command}'
  interrupts.describe(lambda: f'{name}: {interrupted.sentence(args)}')
  if getattr(args, 'process_index', None):
    progress.end()  # the first process of a job speaks for all
  return _run(args.run, args, name)


def _run(run: Callable, args, name: str) -> int:
  """Runs, and turns an error into one sentence and an exit status."""
  progress.name(name)
  try:
    with progress.phase(lambda: started.sentence(args), _FIRST_LINE_SECONDS):
      run(args)
    interrupts.check()
  except BrokenPipeError:
    sys.stdout = None  # whoever read us has gone; nothing is left to flush
    return 0
  except KeyboardInterrupt:
    return _end_interrupted()
  except Exception as error:
    progress.close_bars()
    if interrupts.requested():
      # Peers that were interrupted as well, for instance, are lost.
      return _end_interrupted()
    status = _status(error)
    if args.debug and status != _RESTART:
      raise
    print(f'{name}: {gin_config.one_sentence(error)}', file=sys.stderr)
    if not getattr(error, 'orderly', False):
      _leave_others(status)
    return status
  return 0


def _end_interrupted() -> int:
  """Says so, and leaves the other processes of a job."""
  interrupts.tell()
  _leave_others(interrupts.EXIT_STATUS)
  return interrupts.EXIT_STATUS


def _status(error: Exception) -> int:
  """Returns the exit status; schedulers may start `_RESTART` again."""
  if isinstance(error, UsageError):
    return 2
  hosts = sys.modules.get('gqa_flax.partitioning.hosts')
  if hosts is not None and hosts.lost_peer(error):
    return _RESTART
  return getattr(error, 'exit_status', 1)


def _leave_others(status: int):
  """Ends at once where other processes may wait for this one.

  An orderly end waits for the others, who may be waiting in a computation that
  this process has left.
  """
  # Only a job that has loaded JAX can have joined others.
  jax = sys.modules.get('jax')
  if jax is not None and jax.distributed.is_initialized():
    from gqa_flax.partitioning import hosts

    hosts.leave(status)


def run_function(module: str, name: str, argv: Sequence[str]) -> int:
  """Calls any function as gin files and bindings configure it.

  For the scripts in experiments/, which do not know gin.

  Args:
    module: where the function is; a name, since the script that is being run
      goes by another (`__main__`) than the one gin files import.
    name: of the function.
    argv: --gin_file, --gin.NAME=value, --dry_run, --debug.

  Returns:
    The exit status.
  """
  parser = flags.Parser(prog=name)
  gin_config.add_arguments(parser)
  args = parser.parse_args(flags.rewrite(argv))
  args.command = name

  interrupts.describe(lambda: f'{name}: {interrupted.AGAIN}')

  def run(args):
    gin_config.parse(args)
    if not args.dry_run:
      gin_config.call(module, name)()

  return _run(run, args, name)


def _parser() -> argparse.ArgumentParser:
  # Here, so that `console` takes over Ctrl-C before they are loaded.
  from gqa_flax.cli import cost, data, jobs, report, scores, times

  raw = argparse.RawDescriptionHelpFormatter
  parser = flags.Parser(
    prog='gqa-flax', description=_DESCRIPTION, formatter_class=raw
  )
  parser.add_argument('--version', action=flags.Version)
  commands = parser.add_subparsers(dest='command', required=True)
  for module in (jobs, data, scores, cost, times, report):
    module.add_commands(commands)
  return parser
