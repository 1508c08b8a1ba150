"""What a command says after Ctrl-C: what is saved, and how to continue.

The sentences come from what is on disk, since the command may have been
interrupted anywhere. They are made while another thread may hold any lock, so
that nothing is imported for them: gin files are read as text, and only local
folders are listed.
"""

import pathlib
from collections.abc import Callable

from gqa_flax.cli import started

AGAIN = 'Interrupted. Run the same command again to continue.'


def sentence(args) -> str:
  """Returns what to say of the command with these arguments."""
  describe = _SENTENCES.get(args.run.__name__)
  return describe(args) if describe else 'Interrupted.'


def _train(args) -> str:
  folder = started.value(args, 'MODEL_DIR')
  if args.dry_run:
    return 'Interrupted.'
  if folder is None:
    return AGAIN
  if '://' in str(folder):
    return (
      'Interrupted. Run the same command again to continue from the newest '
      f'checkpoint in {folder}, if one was saved.'
    )
  steps = [
    int(path.name.removeprefix('checkpoint_'))
    for path in pathlib.Path(str(folder)).glob('checkpoint_*')
    if path.name.removeprefix('checkpoint_').isdigit()
  ]
  if not steps:
    return (
      f'Interrupted before a checkpoint was saved in {folder}. Run the same '
      'command again to start over.'
    )
  return (
    f'Interrupted; the last checkpoint saved in {folder} is checkpoint_'
    f'{max(steps)}. Run the same command again to continue from there.'
  )


def _convert(args) -> str:
  output = started.value(args, 'OUTPUT')
  if output is None or '://' in str(output):
    return f'Interrupted. {_START_OVER}'
  folder = pathlib.Path(str(output))
  unfinished = [
    *folder.parent.glob(f'{folder.name}.incomplete'),
    *folder.glob('checkpoint_*.incomplete'),
    *folder.glob('checkpoint_*.orbax-checkpoint-tmp*'),
  ]
  if unfinished:
    return (
      f'Interrupted; {unfinished[0]} is unfinished. Run the same command again '
      'to replace it.'
    )
  if any(folder.glob('checkpoint_*')) or (folder / 'config.json').exists():
    return f'Interrupted; the checkpoint in {folder} is complete.'
  return f'Interrupted; nothing was written to {folder}. {_START_OVER}'


def _evaluate(args) -> str:
  output = started.value(args, 'OUTPUT_DIR')
  if output is None or '://' in str(output):
    return AGAIN
  folder = pathlib.Path(str(output))
  name = 'predictions.partial.jsonl'
  if (folder / name).exists() or any(folder.glob(f'*/{name}')):
    return (
      f'Interrupted; what was decoded is kept in {folder}. Run the same '
      'command again to continue.'
    )
  return f'Interrupted before anything was decoded into {folder}. {_START_OVER}'


def _infer(args) -> str:
  return f'Interrupted; no predictions were written. {_START_OVER}'


def _prepare(args) -> str:
  return (
    'Interrupted; files that were downloaded completely are kept. Run the same '
    'command again to continue.'
  )


_START_OVER = 'Run the same command again to start over.'
_SENTENCES: dict[str, Callable[..., str]] = {
  'train': _train,
  'convert': _convert,
  'evaluate': _evaluate,
  'infer': _infer,
  'prepare': _prepare,
}
