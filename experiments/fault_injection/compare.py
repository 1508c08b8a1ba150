"""Whether two runs are equal to the bit."""

import json
import pathlib
from typing import Any

from gqa_flax.checkpoints import native_items, native_reading, orbax_items
from gqa_flax.training import goodput

_ITEMS = (native_items.PARAMS, native_items.OPTIMIZER)


def checkpoints(
  reference: pathlib.Path, other: pathlib.Path
) -> dict[str, list[str]]:
  """Compares two checkpoint folders.

  Args:
    reference: a checkpoint_<step> folder.
    other: another.

  Returns:
    What differs, names of arrays by 'params' and 'optimizer', and both steps
    under 'step'; nothing where they are equal.
  """
  differ: dict[str, list[str]] = {}
  steps = [native_reading.read_model(x)['step'] for x in (reference, other)]
  if steps[0] != steps[1]:
    differ['step'] = [str(step) for step in steps]
  for item in _ITEMS:
    first = orbax_items.open_item(reference / item)
    second = orbax_items.open_item(other / item)
    names = sorted(first.keys() ^ second.keys())
    for name in sorted(first.keys() & second.keys()):
      if not same_bits(_read(first[name]), _read(second[name])):
        names.append(name)
    if names:
      differ[item] = names
  return differ


def _read(store):
  return store.read().result()


def same_bits(a, b) -> bool:
  """Whether two arrays are equal in type, shape and every bit."""
  same = a.dtype == b.dtype and a.shape == b.shape
  return same and a.tobytes() == b.tobytes()


def losses(model_dir: pathlib.Path, first: int = 0) -> dict[int, float]:
  """Reads the logged losses by step, of the steps after `first`."""
  file = model_dir / 'metrics.jsonl'
  lines = file.read_text().splitlines() if file.exists() else []
  found: dict[int, float] = {}
  for line in lines:
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue  # a kill has torn it
    if 'loss' in record and record['step'] > first:
      found[record['step']] = record['loss']
  return found


def runs(
  reference: pathlib.Path, other: pathlib.Path, train_steps: int, kills
) -> dict[str, Any]:
  """Compares two finished runs.

  Args:
    reference: the folder of the undisturbed one.
    other: of the one that was killed.
    train_steps: of both.
    kills: the records of all kills.

  Returns:
    {'checks': {what must hold: whether it does}, 'differ': see `checkpoints`,
    'goodput': its summary}.
  """
  name = f'checkpoint_{train_steps}'
  differ = checkpoints(reference / name, other / name)
  logged = [losses(folder) for folder in (reference, other)]
  spent = goodput.summary(other)
  whole = list(range(1, train_steps + 1))
  checks = {
    'parameters equal to the bit': 'params' not in differ,
    'optimizer state equal to the bit': 'optimizer' not in differ,
    'last step equal': 'step' not in differ,
    'losses of all steps equal': (
      logged[0] == logged[1] and sorted(logged[0]) == whole
    ),
    'losses of steps that were lost equal': all(
      kill['losses_equal'] for kill in kills
    ),
    'every attempt went on from the latest checkpoint': all(
      kill['went_on_from'] in (None, kill['latest_after'] or 0)
      and (kill['latest_after'] or 0) >= (kill['latest_checkpoint'] or 0)
      for kill in kills
    ),
    'no step before a checkpoint was done again': (
      spent['steps_done'] - spent['steps_lost'] == train_steps
      and spent['steps_lost'] <= _lost(kills)
    ),
    'no checkpoint was torn': not any(kill['corrupt'] for kill in kills),
    'every survivor ended by itself': all(
      kill['survivor_in_time'] is not False for kill in kills
    ),
    'every attempt ran until it was killed': not any(
      kill['ended_before'] for kill in kills
    ),
  }
  return {'checks': checks, 'differ': differ, 'goodput': spent}


def _lost(kills) -> int:
  """Counts the steps between a kill and the checkpoint before it."""
  return sum(
    max(0, kill['step'] - (kill['latest_after'] or 0))
    for kill in kills
    if kill['step'] is not None
  )
