"""How Orbax writes and reads the items of our own checkpoints."""

import contextlib
import json
import zlib
from collections.abc import Callable, Mapping, MutableSequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from gqa_flax.checkpoints import (
  adafactor_state,
  json_files,
  orbax_items,
  zarr,
)
from gqa_flax.checkpoints.arrays import LazyArray

PARAMS, MODEL, OPTIMIZER, DATA = 'params', 'model', 'optimizer', 'data'
# In the data's folder: size and checksum of each file of all processes.
FILES = '_FILES.json'


class Writing:
  """Waits for a part of a checkpoint; what it raises is kept to be seen."""

  def __init__(self, future, failures: MutableSequence[BaseException]):
    self._future, self._failures = future, failures

  def result(self, timeout=None):
    try:
      return self._future.result(timeout)
    except BaseException as error:
      self._failures.append(error)
      raise

  def cancel(self):
    return self._future.cancel()


class Log:
  """What a manager's handlers are writing, and what failed of it."""

  def __init__(self):
    self.writing: list[Writing] = []
    self.failures: list[BaseException] = []

  def note(self, futures) -> list[Writing]:
    noted = [Writing(x, self.failures) for x in futures or ()]
    self.writing.extend(noted)
    return noted

  def wait(self):
    """Waits till nothing is written any more, whatever comes of it."""
    for future in list(self.writing):
      with contextlib.suppress(Exception):
        future.result()

  def clear(self):
    self.writing.clear()
    self.failures.clear()


class IteratorSave(ocp.args.CheckpointArgs):
  """Saves an iterator's position with `iterator.save(directory)`."""

  def __init__(self, iterator):
    self.iterator = iterator


class IteratorRestore(IteratorSave):
  """Moves an iterator to a position with `iterator.restore(directory)`."""


class IteratorHandler(ocp.CheckpointHandler):
  """Lets Orbax write iterators' positions, of every process its own."""

  def save(self, directory: epath.Path, args: IteratorSave):
    args.iterator.save(directory)

  def restore(self, directory: epath.Path, args: IteratorRestore):
    args.iterator.restore(directory)
    return args.iterator

  def finalize(self, directory: epath.Path):
    # Called by one process, when all have written.
    files = {p.name: _summary(p) for p in sorted(directory.iterdir())}
    (directory / FILES).write_text(json.dumps(files))


def changed_files(directory: epath.Path) -> list[str]:
  """Returns which files of positions are missing or not as they were written.

  Raises:
    FileNotFoundError: if the folder is not there.
    ValueError: if the list of files is damaged.
  """
  if not (directory / FILES).exists():
    list(directory.iterdir())  # written before there were lists
    return []
  files = json_files.parse((directory / FILES).read_bytes())
  if outside := [name for name in files if epath.Path(name).name != name]:
    raise ValueError(f'{FILES} names {outside[0]!r}, which is not a file there')
  return [
    name
    for name, summary in files.items()
    if not (directory / name).exists() or _summary(directory / name) != summary
  ]


def _summary(file: epath.Path) -> list[int]:
  content = file.read_bytes()
  return [len(content), zlib.crc32(content)]


class JsonHandler(ocp.JsonCheckpointHandler):
  """Orbax's own handler of JSON, which notes what fails."""

  def __init__(self, log: Log | None = None):
    super().__init__()
    self._log = log or Log()

  async def async_save(self, directory, *args, **kwargs):
    futures = await super().async_save(directory, *args, **kwargs)
    return self._log.note(futures)

  @classmethod
  def typestr(cls) -> str:
    return ocp.JsonCheckpointHandler.typestr()


class WriterSave(ocp.args.CheckpointArgs):
  """Saves a tree by calling `write(directory)`, which writes a whole item."""

  def __init__(self, write: Callable[[epath.Path], None]):
    self.write = write


class TreeHandler(ocp.StandardCheckpointHandler):
  """Orbax's own handler of trees, which takes a writer besides."""

  def __init__(self, log: Log | None = None):
    super().__init__()
    self._log = log or Log()

  async def async_save(self, directory, *args, **kwargs):
    save = kwargs.get('args')
    if not isinstance(save, WriterSave):
      futures = await super().async_save(directory, *args, **kwargs)
      return self._log.note(futures)
    # At once: Orbax would log a traceback of what fails in the background.
    if jax.process_index() == 0:
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
  params: Mapping[str, LazyArray],
  slots: Mapping[str, LazyArray] | None,
  count: int,
  on_slab: Callable[[str, int, np.ndarray], None] | None,
  on_written: Callable[[], None],
) -> dict[str, WriterSave]:
  """Returns what saves params/ and, if there are slots, optimizer/.

  Raises:
    ValueError: if the slots do not fit the parameters.
  """
  failed = []
  items: dict[str, WriterSave] = {}
  written = []

  def writer(arrays, on_slab, **options):
    def write(directory):
      # Orbax hears of a failure only when it has begun all items.
      if not failed:
        failed.append(True)
        orbax_items.write_item(directory, arrays, on_slab=on_slab, **options)
        written.append(directory)
        if len(written) == len(items):
          on_written()
        failed.clear()

    return WriterSave(write)

  def on_slot_slab(name, start, rows):
    slot = adafactor_state.slot_name(name)
    if slot in slots:
      on_slab(slot, start, rows)

  items[PARAMS] = writer(params, on_slab)
  if slots is not None:
    shapes = {name: x.shape for name, x in params.items()}
    adafactor_state.check_slots(slots, shapes, 'what is to be saved')
    items[OPTIMIZER] = writer(
      adafactor_state.state_arrays(slots, params),
      on_slab and on_slot_slab,
      scalars={adafactor_state.COUNT: np.int32(count)},
      empty=adafactor_state.EMPTY,
    )
  return items


def open_items(folder: epath.Path, optimizer: bool = True):
  """Opens what `lazy_items` or a training run saved.

  Args:
    folder: of the checkpoint.
    optimizer: whether to open the optimizer's state, too.

  Returns:
    Parameters, slots or None, Adafactor's count, and why there are no slots
    though there is a state, as in StoredCheckpoint.

  Raises:
    ValueError: if something is missing, or the slots do not fit.
  """
  params = _lazy(orbax_items.open_item(folder / PARAMS), folder)
  if not optimizer or not (folder / OPTIMIZER).exists():
    return params, None, 0, {}
  stores = orbax_items.open_item(folder / OPTIMIZER)
  if not adafactor_state.is_adafactor(stores, params):
    return params, None, 0, {OPTIMIZER: "not Adafactor's state"}
  slots = _lazy(adafactor_state.slots_of(stores), folder)
  shapes = {name: x.shape for name, x in params.items()}
  adafactor_state.check_slots(slots, shapes, folder)
  count = int(stores[adafactor_state.COUNT].read().result())
  return params, slots, count, {}


def handlers(
  log: Log | None = None,
) -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Returns the handler of each item and of each kind of arguments."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  for name in (PARAMS, OPTIMIZER):
    handler = TreeHandler(log)
    for args in (ocp.args.StandardSave, ocp.args.StandardRestore, WriterSave):
      registry.add(name, args, handler)
  json_handler = JsonHandler(log)
  registry.add(MODEL, ocp.args.JsonSave, json_handler)
  registry.add(MODEL, ocp.args.JsonRestore, json_handler)
  iterator_handler = IteratorHandler()
  registry.add(DATA, IteratorSave, iterator_handler)
  registry.add(DATA, IteratorRestore, iterator_handler)
  return registry


def _lazy(stores, where) -> dict[str, LazyArray]:
  return {
    name: zarr.lazy(store, name, where).astype(np.float32)
    for name, store in stores.items()
  }
