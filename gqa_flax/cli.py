"""`gqa-flax train | convert | evaluate | infer`, on gin files and bindings.

The only file that knows gin. Gin files say `from __gin__ import
dynamic_registration` and import what they configure, so that the library
carries no decorators.
"""

import argparse
import ast
import difflib
import importlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import gin
from etils import epath

GIN_CONFIGS = 'gin_configs'


class UsageError(Exception):
  """The command line or a gin file cannot be run as it is."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  argv = _rewrite_gin_bindings(sys.argv[1:] if argv is None else argv)
  args = _parser().parse_args(argv)
  return _run(args.run, args, f'gqa-flax {args.command}')


def _run(run: Callable, args, name: str) -> int:
  """Runs, and turns an error into one sentence and an exit status."""
  try:
    run(args)
  except BrokenPipeError:
    sys.stdout = None  # whoever read us has gone; nothing is left to flush
    return 0
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  except Exception as error:
    if args.debug:
      raise
    print(f'{name}: {_one_sentence(error)}', file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1
  return 0


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
  parser = argparse.ArgumentParser(prog=name)
  _add_gin_arguments(parser)
  args = parser.parse_args(_rewrite_gin_bindings(argv))

  def run(args):
    _parse_gin(args)
    if not args.dry_run:
      _call(module, name)()

  return _run(run, args, name)


def train(args):
  """Trains as configured: `training.loop.train`."""
  _parse_gin(args)
  if args.dry_run:
    return
  run_dir = _macro('MODEL_DIR')
  _write_provenance(run_dir, 'train')
  _call('gqa_flax.training.loop', 'train')()
  _write_provenance(run_dir, 'train')


def convert(args):
  """Converts as configured: `conversion.convert.convert_checkpoint`."""
  _parse_gin(args)
  if args.dry_run:
    return
  path = _call('gqa_flax.conversion.convert', 'convert_checkpoint')()
  output = _macro('OUTPUT')
  _write_provenance(output, 'convert')
  from gqa_flax.conversion import convert as convert_lib
  from gqa_flax.conversion import report

  record = json.loads((epath.Path(output) / convert_lib.RECORD).read_text())
  print(report.table(record))
  print(path)


def evaluate(args):
  """Evaluates as configured: `evaluation.evaluate.evaluate`."""
  _parse_gin(args)
  if args.dry_run:
    return
  scores = _call('gqa_flax.evaluation.evaluate', 'evaluate')()
  _write_provenance(_macro('OUTPUT_DIR'), 'evaluate')
  print(json.dumps(scores, indent=2))


def infer(args):
  """Decodes lines of text: `evaluation.evaluate.infer`."""
  _parse_gin(args)
  if args.dry_run:
    return
  if args.input not in (None, '-') and not os.path.exists(args.input):
    raise UsageError(f'There is no input file {args.input}; check --input.')
  texts_to_texts = _call('gqa_flax.evaluation.evaluate', 'infer')()
  if args.input in (None, '-'):
    lines = sys.stdin.read().splitlines()
  else:
    lines = pathlib.Path(args.input).read_text().splitlines()
  text = ''.join(f'{line}\n' for line in texts_to_texts(lines))
  if args.output in (None, '-'):
    sys.stdout.write(text)
    sys.stdout.flush()
  else:
    temporary = pathlib.Path(f'{args.output}.tmp')
    temporary.write_text(text)
    temporary.replace(args.output)


_EXAMPLES = {
  train: """\
examples:
  # Pre-train the mini model on Wikipedia introductions, multi-head.
  gqa-flax train --gin_file=gin_configs/models/mini.gin \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin \\
    --gin_file=gin_configs/runs/pretrain.gin \\
    --gin.MODEL_DIR=/tmp/mha --gin.TRAIN_STEPS=1000

  # Uptrain a converted checkpoint: it goes on from the checkpoint's step.
  gqa-flax train --gin_file=gin_configs/models/mini.gin \\
    --gin_file=gin_configs/attention/gqa_2.gin \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin \\
    --gin_file=gin_configs/runs/uptrain.gin \\
    --gin.MODEL_DIR=/tmp/uptrained --gin.TRAIN_STEPS=1050 \\
    --gin.INITIAL_CHECKPOINT_PATH=/tmp/gqa_2

Run the same command again after a stop: it goes on from the last checkpoint.
""",
  convert: """\
examples:
  # By the mean, as in the paper; the input may be T5X's or Hugging Face's.
  gqa-flax convert --gin_file=gin_configs/runs/convert.gin \\
    --gin.INPUT=/tmp/mha --gin.OUTPUT=/tmp/gqa_2 \\
    --gin.NUM_KV_HEADS=2 --gin.CONVERSION_METHOD=mean

  # Keeping the function, calibrated on the text of a task.
  gqa-flax convert --gin_file=gin_configs/runs/convert.gin \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin \\
    --gin.INPUT=/tmp/mha --gin.OUTPUT=/tmp/gqa_2_subspace \\
    --gin.NUM_KV_HEADS=2 --gin.CONVERSION_METHOD=subspace \\
    --gin.CALIBRATION_TASK=wikipedia_span_corruption

  # For transformers: heads are repeated, logits stay.
  gqa-flax convert --gin_file=gin_configs/runs/convert.gin \\
    --gin.INPUT=/tmp/gqa_2 --gin.OUTPUT=/tmp/gqa_2_hf \\
    --gin.NUM_KV_HEADS=2 --gin.OUTPUT_FORMAT=hugging_face
""",
  evaluate: """\
example:
  gqa-flax evaluate --gin_file=gin_configs/tasks/wikipedia_summarization.gin \\
    --gin_file=gin_configs/runs/evaluate.gin \\
    --gin.CHECKPOINT=/tmp/finetuned --gin.OUTPUT_DIR=/tmp/scores
""",
  infer: """\
example:
  echo 'The Danube is the second-longest river in Europe.' | gqa-flax infer \\
    --gin_file=gin_configs/tasks/wikipedia_summarization.gin \\
    --gin_file=gin_configs/runs/infer.gin --gin.CHECKPOINT=/tmp/finetuned
""",
}

_DESCRIPTION = """\
Grouped-query attention from multi-head T5.1.1 checkpoints (Ainslie et al.
2023). Every command reads gin files; later files and --gin.NAME=value bindings
win. `gqa-flax COMMAND --help` shows examples.
"""


def _parser() -> argparse.ArgumentParser:
  raw = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(
    prog='gqa-flax', description=_DESCRIPTION, formatter_class=raw
  )
  commands = parser.add_subparsers(dest='command', required=True)
  for run, examples in _EXAMPLES.items():
    command = commands.add_parser(
      run.__name__,
      help=run.__doc__,
      description=run.__doc__,
      epilog=examples,
      formatter_class=raw,
    )
    command.set_defaults(run=run)
    _add_gin_arguments(command)
    if run is infer:
      add = command.add_argument
      add('--input', help='a file of lines; standard input by default')
      add('--output', help='a file; standard output by default')
  return parser


def _add_gin_arguments(parser: argparse.ArgumentParser):
  add = parser.add_argument
  add('--gin_file', action='append', default=[], help='may be repeated')
  add('--gin_search_paths', default='', help='folders, comma-separated')
  add(
    '--gin_bindings',
    action='append',
    default=[],
    metavar='NAME=value',
    help='also written --gin.NAME=value',
  )
  add('--dry_run', action='store_true', help='print the configuration, stop')
  add('--debug', action='store_true', help='show tracebacks')


def _rewrite_gin_bindings(argv: Sequence[str]) -> list[str]:
  """Turns T5X's `--gin.NAME=value` into `--gin_bindings=NAME=value`."""
  return [
    f'--gin_bindings={arg[6:]}' if arg.startswith('--gin.') else arg
    for arg in argv
  ]


def _parse_gin(args):
  """Reads files, then bindings; with --dry_run prints what they amount to."""
  gin.clear_config()
  root = pathlib.Path(__file__).parent
  for folder in (root.parent, root, *args.gin_search_paths.split(',')):
    gin.add_config_file_search_path(str(folder))
  for path in args.gin_file:
    try:
      gin.parse_config_file(path)
    except OSError as error:
      raise UsageError(
        f'The gin file {path} cannot be read ({error.args[0]}); check '
        '--gin_file and --gin_search_paths.'
      ) from error
    except Exception as error:
      raise UsageError(_flatten(f'{path}: {error}')) from error
  known = _macros()
  for binding in args.gin_bindings:
    _bind(binding, known)
  missing = [n for n, value in _macros().items() if value == '%gin.REQUIRED']
  if missing and not args.dry_run:
    wanted = ' '.join(f'--gin.{name}=...' for name in missing)
    raise UsageError(f'These have no value yet: add {wanted}')
  if args.dry_run:
    print(gin.config_str())
  else:
    gin.finalize()


def _bind(binding: str, known):
  name, equals, value = binding.partition('=')
  if not equals:
    raise UsageError(f'--gin.{binding} binds nothing; write --gin.NAME=value.')
  if re.fullmatch('[A-Z][A-Z0-9_]*', name) and name not in known:
    near = difflib.get_close_matches(name, known, n=3) or sorted(known)
    raise UsageError(
      f'--gin.{name}: no gin file uses {name}; the nearest are '
      f'{", ".join(near)}.'
    )
  line = f'{name} = {_as_gin_value(value)}'
  try:
    try:
      gin.parse_config(line)
    except ValueError as error:
      # What no gin file has used yet is known by what they import.
      imports = re.findall('^(?:from|import) .*$', gin.config_str(), re.M)
      try:
        gin.parse_config([*imports, line])
      except Exception:
        raise error from None
  except Exception as error:
    first = _flatten(str(error).split('\n  In bindings')[0])
    raise UsageError(
      f'--gin.{binding}: {first} Check the name against --dry_run.'
    ) from error


def _as_gin_value(text: str) -> str:
  """Quotes what is neither a literal nor a reference: --gin.DIR=/tmp/x."""
  if text.startswith(('@', '%')):
    return text
  try:
    ast.literal_eval(text)
  except (SyntaxError, ValueError):
    nested = text.startswith(('[', '(', '{'))
    return text if nested else repr(text)
  return text


def _macros() -> dict[str, str]:
  lines = re.findall(r'^([A-Z][A-Z0-9_]*) = (.*)$', gin.config_str(), re.M)
  return dict(lines)


def _macro(name: str):
  value = gin.query_parameter(f'%{name}')
  if hasattr(value, 'scoped_configurable_fn'):
    raise UsageError(f'{name} must be a plain string for this command.')
  return value


def _call(module: str, name: str) -> Callable:
  """Returns a function of ours with its parameters bound by gin."""
  return gin.get_configurable(getattr(importlib.import_module(module), name))


def _write_provenance(directory: str, command: str):
  """Writes the configuration and the provenance beside a run's results."""
  import jax

  from gqa_flax.reporting import records

  folder = epath.Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  config = gin.operative_config_str() or gin.config_str()
  (folder / f'{command}.gin').write_text(config)
  device = jax.devices()[0]
  provenance = records.provenance(device.device_kind, jax.device_count())
  provenance['arguments'] = sys.argv[1:]
  text = json.dumps(provenance, indent=2) + '\n'
  (folder / f'{command}_provenance.json').write_text(text)


def _one_sentence(error: Exception) -> str:
  """Drops the lines that gin adds to an error about where it was called."""
  return _flatten(str(error).split('\n  In call to')[0]) or repr(error)


def _flatten(text: str) -> str:
  return ' '.join(text.split())


if __name__ == '__main__':
  sys.exit(main())
