"""How Orbax writes and reads the items of our own checkpoints."""

import asyncio
from collections.abc import Callable, Mapping

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from gqa_flax.checkpoints import adafactor_state, orbax_items
from gqa_flax.checkpoints.arrays import LazyArray


class IteratorSave(ocp.args.CheckpointArgs):
  """Saves an iterator's position with `iterator.save(directory)`."""

  def __init__(self, iterator):
    self.iterator = iterator


class IteratorRestore(IteratorSave):
  """Moves an iterator to a position with `iterator.restore(directory)`."""


class IteratorHandler(ocp.CheckpointHandler):
  """Lets Orbax write an iterator's position inside a checkpoint."""

  def save(self, directory: epath.Path, args: IteratorSave):
    args.iterator.save(directory)

  def restore(self, directory: epath.Path, args: IteratorRestore):
    args.iterator.restore(directory)
    return args.iterator


class WriterSave(ocp.args.CheckpointArgs):
  """Saves a tree by calling `write(directory)`, which writes a whole item."""

  def __init__(self, write: Callable[[epath.Path], None]):
    self.write = write


class TreeHandler(ocp.StandardCheckpointHandler):
  """Orbax's own handler of trees, which takes a writer besides."""

  async def async_save(self, directory, *args, **kwargs):
    save = kwargs.get('args')
    if not isinstance(save, WriterSave):
      return await super().async_save(directory, *args, **kwargs)
    # Till Orbax has made the directory, which it does in the background.
    ocp.future.CommitFutureAwaitingContractedSignals(asyncio.sleep(0)).result()
    # At once: Orbax would log a traceback of what fails in the background.
    save.write(directory)
    return []

  def finalize(self, directory: epath.Path):
    # What `write_item` wrote is whole; the rest lies in parts, to be merged.
    if not (directory / 'manifest.ocdbt').exists():
      super().finalize(directory)

  @classmethod
  def typestr(cls) -> str:
    # Others shall read these items as what they are.
    return ocp.StandardCheckpointHandler.typestr()


def lazy_items(
  step: int,
  params: Mapping[str, LazyArray],
  slots: Mapping[str, LazyArray] | None,
  on_slab: Callable[[str, int, np.ndarray], None] | None,
) -> dict[str, WriterSave]:
  """Returns what saves params/ and, if there are slots, optimizer/.

  Raises:
    ValueError: if the slots do not fit the parameters.
  """
  failed = []

  def writer(arrays, on_slab, **options):
    def write(directory):
      # Orbax hears of a failure only when it has begun all items.
      if not failed:
        failed.append(True)
        orbax_items.write_item(directory, arrays, on_slab=on_slab, **options)
        failed.clear()

    return WriterSave(write)

  def on_slot_slab(name, start, rows):
    slot = adafactor_state.slot_name(name)
    if slot in slots:
      on_slab(slot, start, rows)

  items = {'params': writer(params, on_slab)}
  if slots is not None:
    shapes = {name: x.shape for name, x in params.items()}
    adafactor_state.check_slots(slots, shapes, 'what is to be saved')
    items['optimizer'] = writer(
      adafactor_state.state_arrays(slots, params),
      on_slab and on_slot_slab,
      scalars={adafactor_state.COUNT: np.int32(step)},
      empty=adafactor_state.EMPTY,
    )
  return items


def handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Returns the handler of each item and of each kind of arguments."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  for name in ('params', 'optimizer'):
    handler = TreeHandler()
    for args in (ocp.args.StandardSave, ocp.args.StandardRestore, WriterSave):
      registry.add(name, args, handler)
  json_handler = ocp.JsonCheckpointHandler()
  registry.add('model', ocp.args.JsonSave, json_handler)
  registry.add('model', ocp.args.JsonRestore, json_handler)
  iterator_handler = IteratorHandler()
  registry.add('data', IteratorSave, iterator_handler)
  registry.add('data', IteratorRestore, iterator_handler)
  return registry
