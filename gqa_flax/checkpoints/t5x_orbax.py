"""T5X's Orbax checkpoints, which it writes by default.

  checkpoint_<step>/
    state/   an Orbax item: target/<parameter>, state/step,
             state/param_states/<parameter>/{v_row, v_col, v, m}

Source: t5x/checkpoints.py (OrbaxCheckpointManagerInterface).
"""

import contextlib
from typing import Any

import numpy as np
from etils import epath

from gqa_flax.checkpoints import (
  adafactor_state,
  folders,
  orbax_items,
  scanned,
)
from gqa_flax.checkpoints.architecture import infer_config
from gqa_flax.checkpoints.arrays import LazyArray, StoredCheckpoint

ITEM = folders.MARKERS['t5x']

_PARAMS, _SLOTS, _STEP = 'target/', 'state/param_states/', 'state/step'


def open_orbax(path, *, optimizer: bool = True) -> StoredCheckpoint:
  """Opens a checkpoint of T5X with Orbax.

  Args:
    path: of the `checkpoint_<step>` folder, local or on gs://.
    optimizer: whether to open the optimizer's state, which may be missing
      otherwise.

  Returns:
    The checkpoint, of format 't5x'; nothing but metadata is read.

  Raises:
    ValueError: one sentence, if arrays or chunks are missing (they are
      listed), or if the arrays are not a T5.1.1.
  """
  folder = epath.Path(path)
  if optimizer:
    stores = orbax_items.open_item(folder / ITEM)
  else:
    stores = _open_params(folder / ITEM)
  param_stores = _below(_PARAMS, stores)
  if not param_stores:
    raise ValueError(
      f'{folder}/{ITEM} has no {_PARAMS}, where T5X keeps the parameters; give '
      'a checkpoint_<step> folder that T5X wrote.'
    )
  params = _lazy(param_stores, folder)
  shapes = {name: x.shape for name, x in params.items()}
  config = infer_config(shapes, folder)
  skipped = {
    name: 'neither a parameter nor a statistic of Adafactor'
    for name in stores
    if not name.startswith((_PARAMS, _SLOTS)) and name != _STEP
  }
  slot_stores = _below(_SLOTS, stores)
  kept = adafactor_state.without_placeholders(slot_stores)
  reason = 'not a statistic that Adafactor keeps of it'
  if {name: tuple(x.shape) for name, x in param_stores.items()} != shapes:
    reason = 'the statistics of scanned layers are of all layers together'
    kept = {}
  skipped.update(
    {
      f'{_SLOTS}{name}': reason
      for name, store in slot_stores.items()
      if name not in kept and tuple(store.shape) != (1,)
    }
  )
  slots = _lazy(kept, folder)
  adafactor_state.check_slots(slots, shapes, folder)
  step = _read_step(stores, folder)
  return StoredCheckpoint(
    format='t5x',
    path=str(path),
    step=step,
    config=config,
    params=params,
    slots=slots or None,
    count=step if slots else 0,
    skipped=skipped,
  )


def _open_params(item) -> dict[str, Any]:
  """Opens parameters, and the step if it is there."""
  stores = orbax_items.open_item(item, lambda name: name.startswith(_PARAMS))
  with contextlib.suppress(ValueError):
    stores |= orbax_items.open_item(item, lambda name: name == _STEP)
  return stores


def _below(prefix, stores) -> dict[str, Any]:
  return {
    name.removeprefix(prefix): store
    for name, store in stores.items()
    if name.startswith(prefix)
  }


def _lazy(stores, where) -> dict[str, LazyArray]:
  return {
    name: array.astype(np.float32)
    for name, array in scanned.lazy_params(stores, where).items()
  }


def _read_step(stores, where) -> int | None:
  if _STEP not in stores:
    return folders.step_of(where)
  try:
    return int(stores[_STEP].read().result())
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{_STEP} in {where} cannot be read; the checkpoint is truncated or '
      'damaged: copy or download it again.'
    ) from error
