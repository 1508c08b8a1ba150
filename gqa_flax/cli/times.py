"""`gqa-flax time`: the time to decode, measured here or estimated for TPUs."""

import argparse
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from gqa_flax.cli import gin_config, output_paths

_EXAMPLES = """\
examples:
  # On the devices that are here.
  gqa-flax time --gin_file=gin_configs/models/small.gin \\
    --gin_file=gin_configs/attention/gqa_2.gin \\
    --gin_file=gin_configs/runs/time.gin \\
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 128}" \\
    --gin.BATCH_SIZE=8 --gin.PARAM_DTYPE=float32

  # On the paper's eight TPU v4, of which none is here.
  gqa-flax time --gin_file=gin_configs/models/xxl.gin \\
    --gin_file=gin_configs/attention/gqa_8.gin \\
    --gin_file=gin_configs/runs/time.gin --target=v4-16

A target is a slice by its name (v4-8, v4-16, v5e-8, v5p-8, v6e-8, ...; v4 and
v5p count two cores a chip) or by its shape (v4:2x2x2). It is compiled for by
the compiler for TPUs: pip install 'gqa_flax[tpu-compile]'. A program takes
one to three minutes.
"""

_RUN_FILE = 'gin_configs/runs/time.gin'


def add_commands(commands):
  """Adds the command of this file to those of `gqa-flax`."""
  command = commands.add_parser(
    'time',
    help=time.__doc__,
    description=time.__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.set_defaults(run=time)
  gin_config.add_arguments(command)
  gin_config.add_settings(command, 'time')
  add = command.add_argument
  add('--target', help='a TPU slice that is not here, such as v4-16')
  add('--trace_dir', help='for a trace of one batch, to be read with xprof')
  add('--output', help='a file, to which a JSON line is added for each mesh')


def time(args):
  """Times encoder, cache fill and decode steps, for each mesh."""
  where = _target(args)
  gin_config.parse(args)
  if args.dry_run:
    return
  _check_output(args)
  from gqa_flax.cli import time_report

  if where is None:
    rows = list(_keep(args, _measured(args)))
    print(time_report.measured(rows))
  else:
    rows = list(_keep(args, _estimated(where)))
    print(time_report.estimated(where, rows))


def _target(args):
  """Reads --target, and what goes with it, before JAX is loaded."""
  if args.trace_dir == '':
    raise gin_config.UsageError(
      '--trace_dir names no folder; give one, or leave it out.'
    )
  if args.trace_dir is not None:
    output_paths.require_folder(f'--trace_dir={args.trace_dir}', args.trace_dir)
  if args.target is None:
    return None
  if args.trace_dir:
    raise gin_config.UsageError(
      'There is nothing to trace on a slice that is not here; leave out '
      '--trace_dir, or --target.'
    )
  from gqa_flax.timing.chips import Slice

  try:
    return Slice.parse(args.target)
  except ValueError as error:
    raise gin_config.UsageError(f'--target: {error}') from error


def _check_output(args):
  """Refuses a file that cannot be written before anything is compiled."""
  if args.output is None:
    return
  path = pathlib.Path(args.output).resolve()  # a link stays
  try:
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
    if is_new:
      path.unlink()
  except OSError as error:
    raise gin_config.UsageError(
      f'--output: {args.output!r} cannot be written ({error.strerror}); give a '
      'file in a folder of yours.'
    ) from error


def _measured(args) -> Iterator[dict[str, Any]]:
  measure = gin_config.call('gqa_flax.timing.measure', 'measure_all', _RUN_FILE)
  for found in measure(trace_dir=args.trace_dir):
    yield {'what': 'measured', 'measurement': found.to_dict()}


def _estimated(where) -> Iterator[dict[str, Any]]:
  search = gin_config.call('gqa_flax.timing.estimate', 'search', _RUN_FILE)
  for mesh, layout, found in search(where):
    yield {
      'what': 'estimated',
      'slice': where.name,
      'mesh': [*mesh],
      'cache_sharding': layout,
      'estimate': found and found.to_dict(),
    }


def _keep(args, rows) -> Iterator[dict[str, Any]]:
  """Yields rows, and writes each as soon as it is there."""
  from gqa_flax.reporting import records

  for row in rows:
    if args.output:
      how = {
        'gin': gin_config.config_str(),
        'provenance': records.provenance(*_devices(row)),
      }
      records.append(args.output, {**row, **how})
    yield row


def _devices(row) -> tuple[str, int]:
  """Returns kind and number of the devices of a row."""
  if row['what'] == 'measured':
    found = row['measurement']
    return found['device'], math.prod(found['mesh'])
  return row['slice'].partition(':')[0], math.prod(row['mesh'])
