"""One door to all formats: recognize, open, write whole or not at all.

native         ours: <path>/checkpoint_<step>/, Orbax
t5x            T5X's Orbax checkpoints: checkpoint_<step>/state/ (read only)
t5x_legacy     T5X's earlier ones: checkpoint_<step>/checkpoint and zarr
hugging_face   a folder with config.json and safetensors or torch files
"""

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from flax import traverse_util

from gqa_flax.checkpoints import (
  folders,
  hub,
  hugging_face,
  hugging_face_config,
  hugging_face_write,
  native,
  t5x,
  t5x_orbax,
  t5x_write,
)
from gqa_flax.checkpoints.architecture import GATED, PLAIN, check_shapes
from gqa_flax.checkpoints.arrays import DTYPES, LazyArray, StoredCheckpoint
from gqa_flax.checkpoints.folders import PREFIX, recognize
from gqa_flax.checkpoints.native_manager import CheckpointWriteError, full_disk
from gqa_flax.checkpoints.native_reading import means_damage
from gqa_flax.config import T5Config

__all__ = [
  'READABLE',
  'WRITABLE',
  'check_destination',
  'check_dtype',
  'check_format',
  'load_params',
  'open_checkpoint',
  'recognize',
  'save_params',
  'write_checkpoint',
]

_OPENERS = {
  'native': native.open_checkpoint,
  't5x': t5x_orbax.open_orbax,
  't5x_legacy': t5x.open_legacy,
  'hugging_face': hugging_face.open_checkpoint,
}
READABLE = tuple(_OPENERS)
WRITABLE = ('native', 't5x_legacy', 'hugging_face')

OnSlab = Callable[[str, int, np.ndarray], None]


def open_checkpoint(
  path, format: str | None = None, *, optimizer: bool = True
) -> StoredCheckpoint:
  """Opens a checkpoint of any format; reads names, shapes and little else.

  Args:
    path: a checkpoint, or a folder with checkpoint_<step> folders, of which
      the newest whole one is taken; local or on gs:// or s3://. Or a model on
      the Hugging Face Hub: hf://ID, or its ID where there is no such folder,
      with @REVISION if need be.
    format: of `READABLE`; None recognizes it by the files there.
    optimizer: whether to open the optimizer's state, too; False reads a
      checkpoint of which only the parameters are there.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ImportError: if reading it needs a library that is not installed.
    ValueError: if it is of no known format, or not whole.
  """
  if format is not None:
    check_format(format, READABLE)

  def read(folder):
    found = folders.format_of(folder)
    if found is None:
      raise FileNotFoundError(
        f'There is no checkpoint at {folder}: none of the files by which '
        f'{list(READABLE)} are known; give a checkpoint folder.'
      )
    if format is not None and found != format:
      raise folders.MismatchError(
        f'{folder} looks like {found!r}, not like {format!r}; leave out '
        'INPUT_FORMAT, or give another folder.'
      )
    opened = _OPENERS[found](folder, optimizer=optimizer)
    # As it was given: what is published should not tell where this machine
    # keeps it.
    name = hub.name_of(folder)
    step = hub.published_step(name) if opened.step is None else opened.step
    return dataclasses.replace(opened, path=name or str(folder), step=step)

  return folders.read_newest(
    folders.checkpoints_at(path),
    read,
    lambda error: not isinstance(error, ImportError) and means_damage(error),
  )


def write_checkpoint(
  path,
  format: str,
  step: int,
  config: T5Config,
  params: Mapping[str, LazyArray],
  slots: Mapping[str, LazyArray] | None = None,
  *,
  count: int | None = None,
  source: str = '',
  companions: Mapping[str, epath.Path] | None = None,
  method: str | None = None,
  dtype: str = 'float32',
  on_slab: OnSlab | None = None,
  on_written: Callable[[epath.Path], None] = lambda folder: None,
) -> str:
  """Writes a checkpoint, slab by slab; it appears whole, by a rename.

  Args:
    path: gets checkpoint_<step>/, or, if the format is 'hugging_face', is the
      folder that is written.
    format: of `WRITABLE`.
    step: steps since the very first of pre-training.
    config: the architecture.
    params: float32, by T5X name.
    slots: Adafactor's statistics, as in StoredCheckpoint; None writes none,
      except that T5X's format asks for zeros. Hugging Face's has no place for
      them.
    count: Adafactor's count of steps; None is the step. T5X's format has one
      number for both.
    source: where the parameters come from, for the model card.
    companions: files for a folder of Hugging Face's format, by name, as in
      StoredCheckpoint; other formats have no place for them.
    method: how they were converted, for the model card.
    dtype: of the parameters on disk, of `DTYPES`; ours knows float32 alone.
    on_slab: called with (name, start, rows in float32) before rows are written,
      from several threads; what it raises leaves nothing written.
    on_written: called when all is written and the checkpoint is about to
      appear, with the folder that `path` is or becomes.

  Returns:
    The path of the checkpoint.

  Raises:
    FileExistsError: if there is one already.
    CheckpointWriteError: if there is no space left on the device.
    ValueError: if the parameters are not those of `config`, or the format is
      not written in the dtype or cannot carry the config.
  """
  check_format(format, WRITABLE)
  check_dtype(dtype, format)
  check_config(config, format)
  folder = check_destination(path, format)
  check_shapes({n: x.shape for n, x in params.items()}, config, 'the result')
  if format == 'native':
    with (
      _explained(folder),
      _gone_if_empty(folder),
      native.checkpoint_manager(folder) as manager,
    ):
      native.save_lazy(
        manager,
        step,
        config,
        params,
        slots,
        on_slab,
        count=count,
        on_written=lambda: on_written(folder),
      )
    return str(folder / f'{PREFIX}_{step}')
  if format == 't5x_legacy':
    if slots is not None and count not in (None, step):
      raise ValueError(
        f"Adafactor has counted {count} steps of the checkpoint's {step}, and "
        "T5X's format keeps one number for both; set OPTIMIZER_STATE = reset, "
        'or OUTPUT_FORMAT = native.'
      )
    target = folder / f'{PREFIX}_{step}'
    params = {name: x.astype(DTYPES[dtype]) for name, x in params.items()}
    with (
      _explained(folder),
      _gone_if_empty(folder),
      _appearing(target) as temporary,
    ):
      t5x_write.write_legacy(temporary, step, params, slots, _wide(on_slab))
      on_written(folder)
    return str(target)
  with _explained(folder), _appearing(folder) as temporary:
    hugging_face_write.write_checkpoint(
      temporary,
      step,
      config,
      params,
      source=source,
      companions=companions or {},
      method=method,
      dtype=dtype,
      on_slab=on_slab,
    )
    on_written(temporary)
  return str(folder)


def load_params(path, format: str | None = None):
  """Reads the parameters of a checkpoint of any format.

  Args:
    path: a checkpoint, or a folder with checkpoint_<step> folders, of which
      the newest whole one is read; local or on gs:// or s3://.
    format: 'native', 't5x', 't5x_legacy' or 'hugging_face'; None recognizes it
      by the files there.

  Returns:
    params: tree of float32 NumPy arrays, named as T5X names them.
    config: T5Config.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is of no known format, or not whole.
  """
  stored = open_checkpoint(path, format, optimizer=False)
  flat = {name: array.read() for name, array in stored.params.items()}
  return traverse_util.unflatten_dict(flat, sep='/'), stored.config


def save_params(
  path, params, config: T5Config, format='native', *, step: int
) -> str:
  """Writes parameters as a checkpoint of a format.

  To publish a folder of the format 'hugging_face', log in and call
  `huggingface_hub.upload_folder(repo_id=ID, folder_path=path)`.

  Args:
    path: gets checkpoint_<step>/, or, if the format is 'hugging_face', is the
      folder that is written.
    params: tree of arrays, named as T5X names them.
    config: their architecture.
    format: 'native', 't5x_legacy' or 'hugging_face'.
    step: steps since the first of pre-training; the learning rate of further
      training depends on it.

  Returns:
    The path of the checkpoint.

  Raises:
    FileExistsError: if there is one already.
    CheckpointWriteError: if there is no space left on the device.
    ValueError: if the parameters are not those of `config`, or the format
      cannot carry them.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  arrays = {n: LazyArray.of(x).astype(np.float32) for n, x in flat.items()}
  return write_checkpoint(path, format, step, config, arrays)


def check_destination(path, format: str) -> epath.Path:
  """Returns the path, made absolute; raises FileExistsError if it is taken."""
  folder = folders.as_path(path)
  if '://' not in str(path):
    folder = folder.absolute()
  if folder.exists() and not folder.is_dir():
    raise FileExistsError(f'OUTPUT={path} is a file; give a folder.')
  if format == 'hugging_face':
    taken = folder.exists() and any(folder.iterdir())
  else:
    taken = folder.exists() and bool(
      folders.steps_in(folder) or recognize(folder)
    )
  if taken:
    raise FileExistsError(
      f'OUTPUT={path} holds a checkpoint already; give an OUTPUT that does not.'
    )
  return folder


def _wide(on_slab: OnSlab | None) -> OnSlab | None:
  """Returns what is called with float32 rows, whatever is written."""
  if on_slab is None:
    return None
  return lambda name, start, rows: on_slab(
    name, start, rows.astype(np.float32, copy=False)
  )


def check_dtype(dtype: str, format: str):
  """Raises ValueError if the format is not written in the dtype."""
  known = ('float32',) if format == 'native' else tuple(DTYPES)
  if dtype not in known:
    raise ValueError(
      f'The format {format!r} is not written in {dtype!r}; choose an '
      f'OUTPUT_DTYPE of {", ".join(known)}.'
    )


def check_config(config: T5Config, format: str):
  """Raises ValueError if the format cannot carry what the model computes."""
  if format == 'hugging_face':
    hugging_face_config.feed_forward(config)
  if format == 't5x_legacy' and config.mlp_activations not in (GATED, PLAIN):
    raise ValueError(
      f"T5Config.mlp_activations is {config.mlp_activations}, which T5X's "
      f'format does not carry, so that it would be read as {GATED} or {PLAIN}; '
      "set OUTPUT_FORMAT = 'native' or 'hugging_face'."
    )


def check_format(format: str, known):
  """Raises ValueError unless the format is one of the known."""
  if format not in known:
    near = difflib.get_close_matches(str(format), known, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'There is no checkpoint format {format!r} here; choose one of '
      f'{list(known)}.{hint}'
    )


@contextlib.contextmanager
def _explained(folder: epath.Path):
  """Says in one sentence that a disk is full, whoever noticed."""
  try:
    yield
  except Exception as error:
    if (reason := full_disk(error)) is None:
      raise
    raise CheckpointWriteError(
      f'The checkpoint could not be written to {folder} ({reason}), and none '
      'of it was kept; make room there or give another OUTPUT, and start again.'
    ) from error


@contextlib.contextmanager
def _gone_if_empty(folder: epath.Path):
  """Removes a folder that was made for what then failed."""
  existed = folder.exists()
  try:
    yield
  except BaseException:
    if not existed and folder.exists() and not any(folder.iterdir()):
      folder.rmdir()
    raise


@contextlib.contextmanager
def _appearing(target: epath.Path):
  """Gives a folder to write that becomes `target` when all went well."""
  temporary = target.with_name(f'{target.name}.incomplete')
  if temporary.exists():
    temporary.rmtree()  # of a conversion that was interrupted
  temporary.parent.mkdir(parents=True, exist_ok=True)
  try:
    yield temporary
    if target.exists():
      target.rmdir()  # empty, or this raises
    temporary.rename(target)
  except BaseException:
    if temporary.exists():
      temporary.rmtree()
    raise
