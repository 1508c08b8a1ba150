"""Adafactor's statistics: optax's tree <-> T5X's slots, by name.

T5X keeps v_row, v_col, v and m of a parameter side by side, optax one tree of
parameters for each of v_row, v_col and v. Both factor alike, and both put an
array of shape (1,) where a statistic is not kept.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gqa_flax.checkpoints.arrays import LazyArray, listed

# As Orbax stores the state of `training.optimizer.adafactor()`: a chain whose
# first element is optax's FactoredState and whose others hold nothing.
COUNT = '0/count'
EMPTY = ('1', '2', '3')
SLOTS = ('v_row', 'v_col', 'v')


def is_adafactor(names: Iterable[str], params: Iterable[str]) -> bool:
  """Whether an optimizer's stored names are those of Adafactor's state."""
  return set(names) == {
    COUNT,
    *(f'0/{kind}/{param}' for kind in SLOTS for param in params),
  }


def slots_of(stored: Mapping[str, Any]) -> dict[str, Any]:
  """Returns T5X's slots of optax's state, without placeholders.

  Args:
    stored: anything with a shape, by the name under which Orbax stores it;
      `is_adafactor` must hold.

  Returns:
    The same by the parameter's name and '/v_row', '/v_col' or '/v'.
  """
  return without_placeholders(
    {slot_name(name): x for name, x in stored.items() if name != COUNT}
  )


def slot_name(stored: str) -> str:
  """Returns T5X's name of a statistic that Orbax stores by another."""
  _, kind, param = stored.split('/', 2)
  return f'{param}/{kind}'


def without_placeholders(slots: Mapping[str, Any]) -> dict[str, Any]:
  """Keeps v_row and v_col of what is factored, and v of what is not."""
  kept = {}
  for name, array in slots.items():
    param, _, kind = name.rpartition('/')
    row = slots.get(f'{param}/v_row')
    factored = row is not None and tuple(row.shape) != (1,)
    if kind in SLOTS and (kind != 'v') == factored:
      kept[name] = array
  return kept


def check_slots(slots: Mapping[str, Any], shapes: Mapping[str, Any], where):
  """Raises ValueError unless every parameter has slots of fitting shapes.

  Args:
    slots: as `slots_of` returns them; none at all is right, too.
    shapes: of the parameters, by name.
    where: the checkpoint's path, for the error.
  """
  problems = []
  found = dict(slots)
  for param, shape in shapes.items() if slots else ():
    row, col, v = (
      None if x is None else tuple(x.shape)
      for x in (found.pop(f'{param}/{kind}', None) for kind in SLOTS)
    )
    if v is not None:
      fits = v == tuple(shape) and row is None and col is None
    elif row is None or col is None:
      problems.append(f'{param} has none, or one of two')
      continue
    else:
      fits = any(
        row == tuple(np.delete(shape, a)) and col == tuple(np.delete(shape, b))
        for a in range(len(shape))
        for b in range(len(shape))
        if a != b
      )
    if not fits:
      problems.append(
        f'{param} of shape {tuple(shape)} has v {v}, v_row {row}, v_col {col}'
      )
  problems.extend(f'{name} belongs to no parameter' for name in found)
  if problems:
    raise ValueError(
      f"Adafactor's statistics in {where} do not fit its parameters: "
      f'{listed(problems)}. Give a checkpoint whose '
      'arrays agree.'
    )


def slot_shapes(shape, min_dim_size_to_factor=128):
  """Returns the shapes of Adafactor's statistics of one parameter, by slot."""
  if len(shape) >= 2:
    by_size = np.argsort(shape)
    second, largest = int(by_size[-2]), int(by_size[-1])
    if shape[second] >= min_dim_size_to_factor:
      return {
        'v_row': tuple(np.delete(shape, largest).tolist()),
        'v_col': tuple(np.delete(shape, second).tolist()),
      }
  return {'v': tuple(shape)}


def state_arrays(
  slots: Mapping[str, LazyArray], params: Iterable[str]
) -> dict[str, LazyArray]:
  """Returns what Orbax stores of optax's state, but for COUNT and EMPTY.

  Args:
    slots: as `slots_of` returns them.
    params: names of all parameters; `check_slots` must hold.
  """
  placeholder = LazyArray.of(np.zeros(1, np.float32))
  return {
    f'0/{kind}/{param}': slots.get(f'{param}/{kind}', placeholder)
    for kind in SLOTS
    for param in params
  }
