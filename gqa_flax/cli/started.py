"""What a command says first: what it is about to do.

Of settings, that is what the files and bindings say as text.
"""

from collections.abc import Callable

from gqa_flax.cli import gin_config, gin_text


def sentence(args) -> str:
  """Returns what the command with these arguments does."""
  if getattr(args, 'dry_run', False):
    return 'reading the configuration'
  run = getattr(args, 'run', None)
  describe = _SENTENCES.get(getattr(run, '__name__', ''))
  return describe(args) if describe else 'running'


def value(args, name: str) -> str | None:
  """Returns a setting, or None if it has none that can be read."""
  try:
    text = gin_text.read(
      args.gin_file,
      args.gin_bindings,
      gin_config.search_paths(args.gin_search_paths),
    )
  except gin_text.UsageError:
    return None
  return text.value(name)


def _train(args) -> str:
  task, steps = value(args, 'MIXTURE_OR_TASK_NAME'), value(args, 'TRAIN_STEPS')
  return (
    f'training on {task} up to step {_number(steps)} in '
    f'{value(args, "MODEL_DIR")}'
  )


def _convert(args) -> str:
  return (
    f'converting {value(args, "INPUT")} to '
    f'{value(args, "NUM_KV_HEADS")} key/value heads in {value(args, "OUTPUT")}'
  )


def _evaluate(args) -> str:
  task, split = value(args, 'MIXTURE_OR_TASK_NAME'), value(args, 'SPLIT')
  return f'evaluating {value(args, "CHECKPOINT")} on {task} ({split})'


def _infer(args) -> str:
  return f'decoding with {value(args, "CHECKPOINT")}'


def _time(args) -> str:
  if args.target is None:
    return 'timing on the devices of this machine'
  return f'compiling for {args.target}; a program takes one to three minutes'


def _number(steps) -> str:
  return f'{steps:,}' if isinstance(steps, int) else f'{steps}'


_SENTENCES: dict[str, Callable[..., str]] = {
  'train': _train,
  'convert': _convert,
  'evaluate': _evaluate,
  'infer': _infer,
  'time': _time,
  'check': lambda args: f'checking {args.task}',
  'prepare': lambda args: f'preparing {args.task}',
  'list_': lambda args: 'looking for data sets',
  'compare': lambda args: f'comparing {args.a} and {args.b}',
  'average': lambda args: f'averaging {len(args.runs)} evaluations',
  'report': lambda args: f'building a page of {args.results}',
  'cost': lambda args: f'adding up {args.model}',
}
