"""Where a run begins: its own last checkpoint, another's, or a seed."""

from typing import Any

import jax
import jax.numpy as jnp

from gqa_flax.checkpoints import native, restoring
from gqa_flax.config import T5Config
from gqa_flax.runtime import status
from gqa_flax.training.state import (
  abstract_state,
  new_optimizer_state,
  new_state,
  shardings_of,
)
from gqa_flax.training.step import TrainState


def initial_state(
  manager,
  config: T5Config,
  optimizer,
  train_data,
  *,
  initial_checkpoint: str | None,
  initial_optimizer: str,
  seed: int,
  mesh,
) -> tuple[TrainState, bool]:
  """Returns the first state, over the mesh, and whether the run goes on.

  Args:
    manager: of the run's own checkpoints. One that is damaged is set aside
      with a warning, and the one before it is taken.
    config: the architecture.
    optimizer: an optax transformation.
    train_data: moved to where the checkpoint was.
    initial_checkpoint: read if the run has no checkpoint of its own.
    initial_optimizer: 'reset' or 'carry'.
    seed: if there is no checkpoint at all.
    mesh: over which parameters and optimizer state are divided.

  Raises:
    CorruptCheckpointError: if the run has checkpoints, set aside or not, and
      none is whole.
    ValueError: see `loop.train`.
  """
  if initial_optimizer not in ('reset', 'carry'):
    raise ValueError(
      f"OPTIMIZER_STATE is {initial_optimizer!r}; give 'reset' or 'carry'."
    )
  wanted = abstract_state(config, optimizer, mesh)

  def read(step: int) -> TrainState:
    path = manager.directory / f'{native.PREFIX}_{step}'
    checkpoint = _restore(path, config, wanted)
    opt_state = native.restore_training(
      manager, step, opt_state=wanted.opt_state, data=train_data
    )
    return _state(checkpoint, opt_state, wanted)

  with status.phase(f'looking for a checkpoint in {manager.directory}'):
    state = native.restore_latest_whole(manager, read)
  if state is not None:
    return state, True
  _check_none_was_damaged(manager.directory)
  if initial_checkpoint is None:
    with status.phase('initializing the parameters'):
      return new_state(config, optimizer, seed, mesh), False
  carrying = initial_optimizer == 'carry'
  # Once: parameters and optimizer state are to be of one checkpoint.
  found = restoring.find(initial_checkpoint, optimizer=carrying)
  _check_architecture(found.config, config, initial_checkpoint)
  if found.step is None:
    raise ValueError(
      f'{initial_checkpoint} does not say at which step it is, from which the '
      'learning-rate schedule and TRAIN_STEPS count; convert it first '
      f'(gqa-flax convert {initial_checkpoint} DIR '
      f'--num_kv_heads={config.num_kv_heads} --step=STEP) and give DIR.'
    )
  with status.phase(f'restoring {initial_checkpoint}'):
    checkpoint = restoring.restore(found, shardings_of(wanted.params))
  if carrying:
    opt_state = native.restore_optimizer(found.folder, wanted.opt_state)
  else:
    opt_state = new_optimizer_state(checkpoint.params, config, optimizer, mesh)
  return _state(checkpoint, opt_state, wanted), False


def _check_none_was_damaged(directory):
  """Lets no restart begin again where all that was trained is set aside."""
  damaged = sorted(directory.glob(f'corrupt_{native.PREFIX}_*'))
  if damaged:
    raise native.CorruptCheckpointError(
      f'{directory} holds no checkpoint but damaged ones, such as '
      f'{damaged[-1].name} that was set aside: copy one from elsewhere, or '
      'start in an empty folder.'
    )


def _restore(path, config: T5Config, wanted: TrainState) -> native.Checkpoint:
  # First, for parameters of other shapes cannot be put where these go.
  _check_architecture(native.read_config(path), config, path)
  return native.restore(path, shardings_of(wanted.params))


def _state(checkpoint, opt_state: Any, wanted: TrainState) -> TrainState:
  step = jax.device_put(jnp.int32(checkpoint.step), wanted.step.sharding)
  return TrainState(step=step, params=checkpoint.params, opt_state=opt_state)


def _check_architecture(found: T5Config, wanted: T5Config, path):
  """Raises ValueError that names every size in which they differ."""
  found_fields, wanted_fields = found.architecture(), wanted.architecture()
  differing = [
    f'{name} {found_fields[name]} (configured: {wanted_fields[name]})'
    for name in found_fields
    if found_fields[name] != wanted_fields[name]
  ]
  if differing:
    raise ValueError(
      f'The checkpoint {path} has {", ".join(differing)}; configure the model '
      'as the checkpoint is, or convert it first (gqa-flax convert).'
    )
