"""What is wrong with a run, said as early as it can be known."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from gqa_flax.config import T5Config, check_integer
from gqa_flax.training.step import all_finite

_all_finite = jax.jit(all_finite)


def check_settings(
  *,
  paths: dict[str, Any],
  counts: dict[str, int | None],
  batch_size: int,
  microbatches: int,
):
  """Checks what needs neither data nor devices.

  Args:
    paths: by the names of their settings; None is a path that is not wanted.
    counts: integers of 1 or more, by the names of their settings; None is one
      without a limit.
    batch_size: rows of the global batch.
    microbatches: into how many parts it is divided.

  Raises:
    ValueError: if one of them is out of range.
  """
  for name, path in paths.items():
    if path is not None and not _is_path(path):
      raise ValueError(f'{name} is {path!r}; give the path of a folder.')
  for name, count in counts.items():
    if count is not None:
      check_integer(name, count, 1)
  check_integer('MICROBATCHES', microbatches, 1)
  if batch_size % microbatches:
    raise ValueError(
      f'MICROBATCHES is {microbatches}, which does not divide BATCH_SIZE = '
      f'{batch_size}; give one of its divisors.'
    )


def check_vocabularies(sources: Iterable[Any], config: T5Config):
  """Checks that the model has a row for every token id.

  Args:
    sources: batches and evaluators; those with a `vocab_size` are looked at.
    config: the architecture.

  Raises:
    ValueError: if one of them has more token ids than the model.
  """
  for source in sources:
    vocab_size = getattr(source, 'vocab_size', None) or 0
    if vocab_size > config.vocab_size:
      raise ValueError(
        f'The data needs {vocab_size} token ids, but the model has only '
        f'{config.vocab_size}; set T5Config.vocab_size to at least '
        f'{vocab_size}, or give the VOCABULARY that the model was trained with.'
      )


def check_keep_best(keep_best: str | None, evaluators: Sequence[Any]):
  """Checks that some evaluator gives the score by which the best is kept.

  Args:
    keep_best: the name of a metric, or None.
    evaluators: of the run. One without `metric_names` may give any; for that
      `check_found` is called after the first evaluation.

  Raises:
    ValueError: if there is no such metric.
  """
  if all(hasattr(evaluator, 'metric_names') for evaluator in evaluators):
    names = [name for e in evaluators for name in e.metric_names]
    check_found(keep_best, names)


def best_mode(metric: str | None) -> str:
  """Returns 'min' for a loss, of which the lowest is the best, else 'max'."""
  name = (metric or '').rpartition('/')[2]
  return 'min' if name in ('cross_entropy', 'loss') else 'max'


def check_found(keep_best: str | None, names: Iterable[str]):
  """Raises ValueError unless keep_best is None or one of the names."""
  names = sorted(names)
  if keep_best is not None and keep_best not in names:
    remedy = (
      f'choose one of {", ".join(names)}, or None'
      if names
      else 'give evaluators, or None'
    )
    raise ValueError(
      f'KEEP_BEST is {keep_best!r}, which no evaluator of this run gives; '
      f'{remedy}.'
    )


def check_steps(
  first_step: int,
  train_steps: int,
  *,
  model_dir,
  initial_checkpoint,
  continues: bool,
  evaluates: bool,
):
  """Checks that there is something to train, or that it has been trained.

  Args:
    first_step: where this attempt begins.
    train_steps: where it is to end.
    model_dir: of the run.
    initial_checkpoint: of the run; may be None.
    continues: whether model_dir held a checkpoint.
    evaluates: whether the first state is evaluated, which may be all that is
      wanted.

  Raises:
    ValueError: if the run begins behind its end, or trains nothing.
  """
  if first_step > train_steps and continues:
    raise ValueError(
      f'{model_dir} has a checkpoint of step {first_step}, beyond TRAIN_STEPS '
      f'= {train_steps}; give TRAIN_STEPS = {first_step} or more, or another '
      'MODEL_DIR.'
    )
  done = continues or evaluates
  if first_step > train_steps or (first_step == train_steps and not done):
    raise ValueError(
      f'The training starts at step {first_step}, that of '
      f'{initial_checkpoint}, and TRAIN_STEPS = {train_steps} leaves nothing '
      f'to train: TRAIN_STEPS counts from the first step of pre-training; give '
      f'more than {first_step}.'
    )


def make_cache_folder(path: str | None):
  """Makes the folder of the compilation cache, if one is wanted.

  Raises:
    ValueError: if it cannot be made or written.
  """
  if path is None:
    return
  reason = 'permission denied'
  try:
    epath.Path(path).mkdir(parents=True, exist_ok=True)
    writable = '://' in str(path) or os.access(path, os.W_OK)
  except OSError as error:
    reason, writable = error.strerror or str(error), False
  if not writable:
    raise ValueError(
      f'COMPILATION_CACHE {path} cannot be written ({reason}); give a folder '
      'that can, or None.'
    )


def check_tokens(batch: Mapping[str, Any], config: T5Config):
  """Raises ValueError if a batch holds a token id beyond the vocabulary."""
  largest = max(
    batch[name].max()
    for name in ('encoder_input_tokens', 'decoder_target_tokens')
  )
  if largest >= config.vocab_size:
    raise ValueError(
      f'The data holds token id {largest}, but the model has only '
      f'{config.vocab_size}; set T5Config.vocab_size to at least the size of '
      'the VOCABULARY.'
    )


def check_finite(params, step: int):
  """Raises FloatingPointError for parameters that are not to be saved.

  A finite loss does not tell: it comes before the update.
  """
  if not _all_finite(params):
    raise FloatingPointError(
      f'A parameter is not finite after step {step}, which is not saved; start '
      'again from the last checkpoint with a lower learning rate, or with '
      'another RANDOM_SEED, which reads other batches.'
    )


def _is_path(path) -> bool:
  return isinstance(path, str | os.PathLike) and bool(str(path).strip())
