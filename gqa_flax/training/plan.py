"""What a training run would need of each device, without allocating it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gqa_flax import partitioning
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning.mesh import AXES, DATA, FSDP, MODEL
from gqa_flax.training import optimizer as optimizers
from gqa_flax.training.state import abstract_state, num_params
from gqa_flax.training.step import loss_and_metrics


def plan(
  *,
  config: T5Config,
  batch_size: int,
  sequence_length: Mapping[str, int],
  optimizer=None,
  mesh: partitioning.MeshShape | None = None,
  microbatches: int = 1,
  num_devices: int | None = None,
) -> dict[str, Any]:
  """Returns the sizes of a run.

  Args:
    config: the architecture.
    batch_size: rows of the global batch.
    sequence_length: {'inputs': S, 'targets': T}.
    optimizer: as in `loop.train`.
    mesh: as in `loop.train`.
    microbatches: as in `loop.train`.
    num_devices: to plan for; None is those that are here.

  Returns:
    `parameters`, their number; `mesh`, devices by axis; `bytes`, of one device
    by what it holds: parameters, optimizer, gradients, activations, which are
    what the backward pass keeps of one microbatch, and recomputed, what it
    needs besides of the one layer that remat makes it compute again. For the
    last two, a device's share of the heads, the MLP and the vocabulary is taken
    as a model of its own. What the compiler needs besides is not counted.

  Raises:
    ValueError: if the devices have no such mesh.
  """
  parameters = num_params(config)
  shape = (mesh or partitioning.MeshShape()).sizes(
    num_devices or jax.device_count(),
    batch_size=batch_size,
    config=config,
    num_params=parameters,
  )
  abstract_mesh = partitioning.abstract_mesh(shape)
  state = abstract_state(
    config, optimizer or optimizers.adafactor(), abstract_mesh
  )
  sizes = dict(zip(AXES, shape))
  rows = max(1, batch_size // microbatches // (sizes[DATA] * sizes[FSDP]))
  own = _share(config, sizes[MODEL])
  return {
    'parameters': parameters,
    'mesh': sizes,
    'bytes': {
      'parameters': _device_bytes(state.params),
      'optimizer': _device_bytes(state.opt_state),
      'gradients': _device_bytes(state.params),
      'activations': activation_bytes(own, rows, sequence_length),
      'recomputed': recomputed_bytes(own, rows, sequence_length),
    },
  }


def activation_bytes(
  config: T5Config, rows: int, sequence_length: Mapping[str, int]
) -> int:
  """Returns the bytes of all that the backward pass keeps of some rows.

  Without remat too, what is elementwise is computed again rather than kept, as
  XLA does when it fuses it into the products of the backward pass; the results
  of products and of exponentials (the softmax's) are kept.
  """
  S, T = sequence_length['inputs'], sequence_length['targets']
  batch = {
    'encoder_input_tokens': jax.ShapeDtypeStruct((rows, S), jnp.int32),
    'decoder_input_tokens': jax.ShapeDtypeStruct((rows, T), jnp.int32),
    'decoder_target_tokens': jax.ShapeDtypeStruct((rows, T), jnp.int32),
    'decoder_loss_weights': jax.ShapeDtypeStruct((rows, T), jnp.int32),
  }
  model = Transformer(config)
  params = abstract_params(config)
  rng = jax.random.key(0) if config.dropout_rate > 0 else None

  def backward(params, batch):
    def loss(params):
      return loss_and_metrics(model, params, batch, dropout_rng=rng)[0]

    if config.remat_policy == 'none':
      loss = jax.checkpoint(loss, policy=_products_and_exponentials)
    return jax.vjp(loss, params)[1]

  # The function that jax.vjp returns is a tree of what it has kept.
  kept = jax.tree.leaves(jax.eval_shape(backward, params, batch))
  return sum(_bytes(x) for x in kept if x.ndim > 1 and x.shape[0] == rows)


def recomputed_bytes(
  config: T5Config, rows: int, sequence_length: Mapping[str, int]
) -> int:
  """Returns what the largest layer would keep without remat, and does not."""

  def layer(stack, policy):
    counts = {'num_encoder_layers': 1, 'num_decoder_layers': 1}
    kept = []
    for more in (0, 1):
      sized = dataclasses.replace(
        config,
        remat_policy=policy,
        **{**counts, stack: counts[stack] + more},
      )
      kept.append(activation_bytes(sized, rows, sequence_length))
    return kept[1] - kept[0]

  if config.remat_policy == 'none':
    return 0
  return max(
    layer(stack, 'none') - layer(stack, config.remat_policy)
    for stack in ('num_encoder_layers', 'num_decoder_layers')
  )


def table(plan: Mapping[str, Any]) -> str:
  """Returns a plan as aligned lines."""
  mesh = ' x '.join(f'{axis} {n}' for axis, n in plan['mesh'].items())
  sizes = plan['bytes']
  lines = {
    'parameters': f'{plan["parameters"]:,}',
    'mesh': f'{mesh} ({math.prod(plan["mesh"].values())} devices)',
    **{f'{name}, a device': _readable(n) for name, n in sizes.items()},
    'together, a device': _readable(sum(sizes.values())),
  }
  width = max(map(len, lines))
  return '\n'.join(f'{name:{width}}  {x}' for name, x in lines.items())


def _products_and_exponentials(primitive, *_, **__) -> bool:
  """A policy of `jax.checkpoint`: what is not worth computing again."""
  return primitive.name in ('dot_general', 'exp')


def _share(config: T5Config, parts: int) -> T5Config:
  """Returns the model of one of the parts that `model` divides."""
  heads = max(1, config.num_heads // parts)
  kv_heads = config.num_kv_heads
  if kv_heads % parts == 0:
    kv_heads //= parts
  return dataclasses.replace(
    config,
    num_heads=heads,
    num_kv_heads=math.gcd(heads, kv_heads),
    mlp_dim=max(1, config.mlp_dim // parts),
    vocab_size=max(1, config.vocab_size // parts),
  )


def _device_bytes(tree) -> int:
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _bytes(x) -> int:
  return x.size * x.dtype.itemsize


def _readable(size: float) -> str:
  for unit in ('bytes', 'KiB', 'MiB'):
    if size < 1024:
      return f'{size:,.4g} {unit}'
    size /= 1024
  return f'{size:,.4g} GiB'
