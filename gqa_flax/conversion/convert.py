"""A whole checkpoint, from multi-head to grouped-query attention."""

import json
from collections.abc import Callable, Iterable

import jax
from etils import epath
from flax import traverse_util

from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.architecture import check_shapes
from gqa_flax.checkpoints.arrays import LazyArray, StoredCheckpoint
from gqa_flax.config import T5Config, check_integer
from gqa_flax.conversion import report, slots, steps
from gqa_flax.conversion import statistics as statistics_lib
from gqa_flax.conversion.plan import (
  CALIBRATED,
  Conversion,
  check_conversion,
  check_method,
)
from gqa_flax.conversion.statistics import Statistics
from gqa_flax.runtime import status
from gqa_flax.runtime.owner import Owner

RECORD = 'conversion.json'


def convert_params(
  params,
  config: T5Config,
  num_kv_heads,
  method,
  seed=0,
  *,
  statistics: Statistics | None = None,
  permute_heads: bool = False,
):
  """Reduces the decoder's key and value heads, in memory.

  Args:
    params: a tree of parameters named as T5X names them, NumPy or JAX arrays;
      it is not changed.
    config: the architecture of `params`.
    num_kv_heads: key/value heads of the result, a divisor of
      config.num_kv_heads; if equal to it, nothing changes.
    method: 'mean', 'first' or 'random' (Ainslie et al. 2023, section 2.1), or
      'aligned' or 'subspace' (see `conversion.alignment`).
    seed: of the draws of 'random'.
    statistics: of the attentions' inputs, from `conversion.statistics.collect`:
      'subspace' needs them, 'aligned' may use them.
    permute_heads: whether heads that resemble each other share a group,
      instead of neighbors.

  Returns:
    params: the converted tree; arrays that do not change are the same objects.
    config: with the new num_kv_heads.

  Raises:
    ValueError: if the method is unknown, num_kv_heads does not divide the
      number that the checkpoint has, the tree does not match `config` (an
      encoder-only model, other sizes, already grouped), or the statistics are
      missing or of another model.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  check_conversion(config, num_kv_heads, method)
  shapes = {name: tuple(x.shape) for name, x in flat.items()}
  _check_not_grouped_already(shapes, config)
  check_shapes(shapes, config, 'The tree given')
  conversion = Conversion(
    {name: LazyArray.of(x) for name, x in flat.items()},
    config,
    num_kv_heads,
    method,
    seed=seed,
    statistics=statistics,
    permute_heads=permute_heads,
  )

  def converted(name, old):
    if conversion.action(name) == 'copied':
      return old
    new = conversion.array(name).read().astype(old.dtype)
    if isinstance(old, jax.Array):
      return jax.device_put(new, old.sharding)
    return new

  tree = {name: converted(name, x) for name, x in flat.items()}
  return traverse_util.unflatten_dict(tree, sep='/'), conversion.config


def convert_checkpoint(
  *,
  input: str,
  output: str,
  num_kv_heads: int,
  step: int | None = None,
  method: str = 'mean',
  seed: int = 0,
  input_format: str | None = None,
  output_format: str = 'native',
  output_dtype: str = 'float32',
  optimizer_state: str = 'reset',
  permute_heads: bool = False,
  calibration_task: str | None = None,
  calibration_batches: Callable[[], Iterable] | None = None,
  calibration_tokens: int = 65_536,
  statistics: str | None = None,
) -> str:
  """Converts a checkpoint from disk to disk, some rows of an array at a time.

  Memory does not grow with the number of layers, but for the statistics, which
  are [D, D] matrices of each layer, and for running the model where they are to
  be collected. The result appears whole or not at
  all; what was interrupted may simply be started again.

  Args:
    input: a checkpoint of any format that `checkpoints.formats` reads.
    output: gets checkpoint_<step>/ (the step stays) and conversion.json; of
      Hugging Face's format it is the folder itself.
    num_kv_heads: as in `convert_params`.
    step: steps of training since the first of pre-training, for a checkpoint
      that does not say; `checkpoints.published` lists those of published ones.
    method: as in `convert_params`.
    seed: as in `convert_params`.
    input_format: of `formats.READABLE`; None recognizes it.
    output_format: of `formats.WRITABLE`.
    output_dtype: 'float32' or, for Hugging Face's format, 'bfloat16'.
    optimizer_state: 'reset', or 'carry', which keeps Adafactor's statistics
      and rebuilds those of what changed (see `conversion.slots`).
    permute_heads: as in `convert_params`.
    calibration_task: name of a task whose text the statistics are collected
      on; None where they are not needed or already in a file.
    calibration_batches: gives that text, as `data.batches` yields it.
    calibration_tokens: how many target tokens of it to use.
    statistics: a file; read if it exists, written if they are collected.

  Returns:
    The path of the new checkpoint.

  Raises:
    FileExistsError: if there is a checkpoint in `output`.
    FileNotFoundError: if there is none in `input`.
    FolderInUseError: if another process writes to `output`.
    CheckpointWriteError: if there is no space left on the device.
    ValueError: if something does not fit: heads, formats, damaged arrays or
      such that are not finite; if an argument is out of range or would be
      ignored; if the step is not known. Nothing is written then.
  """
  _check_settings(
    method,
    seed,
    permute_heads,
    calibration_task,
    calibration_tokens,
    statistics,
  )
  steps.check_step(step)
  formats.check_format(output_format, formats.WRITABLE)
  formats.check_dtype(output_dtype, output_format)
  if optimizer_state not in ('reset', 'carry'):
    raise ValueError(
      f'OPTIMIZER_STATE is {optimizer_state!r}; choose reset or carry.'
    )
  carrying = optimizer_state == 'carry'
  source = formats.open_checkpoint(input, input_format, optimizer=carrying)
  if carrying:
    _check_carry(source, output_format)
  check_conversion(source.config, num_kv_heads, method)
  source = steps.settle(source, step)
  formats.check_config(source.config, output_format)
  formats.check_destination(output, output_format)
  with Owner(output, 'OUTPUT', beside=True):
    moments = _statistics(
      source,
      method,
      statistics,
      calibration_task,
      calibration_batches,
      calibration_tokens,
    )
    conversion = Conversion(
      source.params,
      source.config,
      num_kv_heads,
      method,
      seed=seed,
      statistics=moments,
      permute_heads=permute_heads,
      where=source.path,
    )
    audit = report.Audit(source.path)
    settings = {
      'method': method,
      'seed': seed,
      'permute_heads': permute_heads,
      'optimizer_state': optimizer_state,
      'output_format': output_format,
      'output_dtype': output_dtype,
    }

    def write_record(folder):
      # Before the checkpoint appears: one without the other is never seen.
      record = report.record(source, conversion, settings, audit)
      _write_json(folder / RECORD, record)

    shapes = {name: x.shape for name, x in source.params.items()}
    changed = num_kv_heads < source.config.num_kv_heads
    with status.phase(f'writing {output}'):
      return formats.write_checkpoint(
        output,
        output_format,
        source.step,
        conversion.config,
        {name: conversion.array(name) for name in source.params},
        slots.carry(conversion, source.slots, shapes) if carrying else None,
        count=source.count if carrying else None,
        source=source.path,
        companions=source.companions,
        method=method if changed else None,
        dtype=output_dtype,
        on_slab=audit,
        on_written=write_record,
      )


def _check_settings(
  method, seed, permute_heads, calibration_task, calibration_tokens, statistics
):
  """Raises ValueError for what is out of range, or would be ignored."""
  check_method(method)
  check_integer('RANDOM_SEED', seed, 0)
  check_integer('CALIBRATION_TOKENS', calibration_tokens, 1)
  if not isinstance(permute_heads, bool):
    raise ValueError(f'PERMUTE_HEADS is {permute_heads!r}; give True or False.')
  unused = {'CALIBRATION_TASK': calibration_task, 'STATISTICS': statistics}
  for name, value in unused.items():
    if value is not None and method not in CALIBRATED:
      raise ValueError(
        f'{name} is {value!r}, but the method {method!r} uses no statistics; '
        f'leave it out, or choose the CONVERSION_METHOD '
        f'{" or ".join(map(repr, CALIBRATED))}.'
      )


def _check_not_grouped_already(shapes, config: T5Config):
  """Says so where a config forgets that the heads are grouped."""
  key = shapes.get('decoder/layers_0/self_attention/key/kernel')
  if key is None:
    raise ValueError(
      'These parameters have no decoder attention '
      "('decoder/layers_0/self_attention/key/kernel'); only an encoder-decoder "
      'checkpoint can be converted to grouped-query attention.'
    )
  heads, rest = divmod(key[-1], config.head_dim)
  if key[0] == config.emb_dim and not rest and heads < config.num_kv_heads:
    raise ValueError(
      f'The tree given is already grouped to {heads} key/value heads: say '
      f'num_kv_heads={heads} in the config to group it further.'
    )


def _check_carry(source: StoredCheckpoint, output_format: str):
  if source.slots is None:
    raise ValueError(
      f'{source.path} holds no statistics of Adafactor to carry; set '
      'OPTIMIZER_STATE = reset.'
    )
  if output_format == 'hugging_face':
    raise ValueError(
      "Hugging Face's format has no place for an optimizer's state; set "
      'OPTIMIZER_STATE = reset, or OUTPUT_FORMAT = native.'
    )


def _statistics(source, method, path, task, batches, tokens):
  """Reads the statistics from a file, or collects them, or does without."""
  if method not in CALIBRATED:
    return None
  if path is not None and epath.Path(path).exists():
    found = statistics_lib.load(path)
    norm = source.params['encoder/encoder_norm/scale'].read()
    if found.model != statistics_lib.fingerprint(norm):
      raise ValueError(
        f'The statistics in {path} are of another checkpoint than '
        f'{source.path}; give another STATISTICS file.'
      )
    if task not in (None, found.source):
      raise ValueError(
        f'The statistics in {path} are of {found.source}, not of {task}; give '
        'another STATISTICS file, or no CALIBRATION_TASK.'
      )
    return found
  if task is None and path is not None:
    raise FileNotFoundError(
      f'There is no STATISTICS file {path}, nor a CALIBRATION_TASK to collect '
      'them on; give one of the two.'
    )
  if task is None:
    return None
  if batches is None:
    raise ValueError(
      f'The calibration task {task!r} has no batches; give '
      'calibration_batches, too.'
    )
  if path is not None:
    statistics_lib.check_writable(path)
  flat = {name: array.read() for name, array in source.params.items()}
  with status.phase(f'collecting statistics on {task}'):
    collected = statistics_lib.collect(
      traverse_util.unflatten_dict(flat, sep='/'),
      source.config,
      batches(),
      tokens,
      task,
    )
  if path is not None:
    statistics_lib.save(path, collected)
  return collected


def _write_json(path: epath.Path, value):
  temporary = path.with_name(f'{path.name}.tmp')
  try:
    temporary.write_text(json.dumps(value, indent=2) + '\n')
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
