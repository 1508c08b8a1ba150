"""A training step as the compiler is given it: shapes, shardings, donation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.training.optimizer import adafactor, rsqrt_schedule
from gqa_flax.training.state import abstract_state, step_function


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """What fixes a step's program, the mesh apart.

  Attributes:
    config: the architecture, dropout, remat policy and dtype.
    batch_size: rows of the global batch.
    source_length: encoder positions a row.
    target_length: decoder positions a row.
    packed: whether rows hold several examples, with segment ids and positions.
    microbatches: parts in which gradients are accumulated.
  """

  config: T5Config
  batch_size: int
  source_length: int
  target_length: int
  packed: bool = False
  microbatches: int = 1

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return {**dataclasses.asdict(self), 'config': self.config.to_dict()}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'TrainStep':
    """Reads what `to_dict` wrote."""
    return cls(**{**fields, 'config': T5Config.from_dict(fields['config'])})


def lower(step: TrainStep, mesh):
  """Lowers the step that training runs, with Adafactor and its state donated.

  Args:
    step: what is trained.
    mesh: a Mesh; its devices may be a topology's.

  Returns:
    What `jax.jit(...).lower(...)` gives, ready to `compile`.
  """
  config = step.config
  state, batch, rng = arguments(step, mesh)
  function = step_function(
    state,
    model=Transformer(config),
    optimizer=adafactor(),
    learning_rate=rsqrt_schedule(),
    microbatches=step.microbatches,
  )
  with jax.set_mesh(mesh):
    return function.lower(state, batch, rng)


def arguments(step: TrainStep, mesh) -> tuple[Any, Any, Any]:
  """Returns state, batch and key as ShapeDtypeStructs with shardings."""
  rng = None
  if step.config.dropout_rate > 0:
    key = jax.eval_shape(lambda: jax.random.key(0))
    rng = _placed(key, partitioning.replicated(mesh))
  return abstract_state(step.config, adafactor(), mesh), _batch(step, mesh), rng


def _batch(step, mesh):
  S, T = step.source_length, step.target_length
  lengths = {
    'encoder_input_tokens': S,
    'decoder_input_tokens': T,
    'decoder_target_tokens': T,
    'decoder_loss_weights': T,
  }
  if step.packed:
    for name in ('segment_ids', 'positions'):
      lengths |= {f'encoder_{name}': S, f'decoder_{name}': T}
  sharding = partitioning.batch_sharding(mesh, step.batch_size)
  return {
    name: jax.ShapeDtypeStruct(
      (step.batch_size, length),
      jnp.float32 if name == 'decoder_loss_weights' else jnp.int32,
      sharding=sharding,
    )
    for name, length in lengths.items()
  }


def _placed(x, sharding):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
