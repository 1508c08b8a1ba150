"""A training step with Adafactor, by transformers on torch and by us."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import optimization

from experiments.peers import measure, models
from gqa_flax import Transformer, compilation, partitioning
from gqa_flax.training import optimizer as optimizers
from gqa_flax.training.state import (
  abstract_state,
  new_optimizer_state,
  shardings_of,
  step_function,
)
from gqa_flax.training.step import TrainState, loss_and_metrics

LEARNING_RATE = 1e-3
# Of the first loss, relative, where there is no dropout.
TOLERANCE = 1e-4


def run(cell: models.Cell, repeats: int, variants) -> dict[str, Any]:
  """Checks that the first losses agree, and times steps.

  'step' is loss, gradients and Adafactor's update; 'gradients' is the first two
  alone. The loss is the cross-entropy, its mean over the targets: without
  z-loss, which transformers does not have.

  Args:
    cell: what is trained.
    repeats: see `measure.take_turns`.
    variants: of transformers; see `models.in_transformers`.

  Returns:
    Fields of a record.

  Raises:
    RuntimeError: if the first losses differ, without dropout.
  """
  batch, name = cell.batch(), models.MULTI_HEAD
  params = models.random_params(cell.config)
  theirs = models.in_transformers(params, cell.config, variants)
  trainers = {
    **{f'transformers, {a}': Theirs(m, batch) for a, m in theirs.items()},
    name: Ours(cell, params, batch),
  }
  contestants = {
    part: {who: getattr(trainer, part) for who, trainer in trainers.items()}
    for part in ('step', 'gradients')
  }
  first, results = measure.warm_up(contestants)
  losses = results['step']
  if cell.dropout_rate == 0:
    for who, found in losses.items():
      check_first(found[0], losses[name][0], who)
  return {
    'contestants': {
      **{
        f'transformers, {variant}': {
          'library': 'transformers',
          'variant': variant,
        }
        for variant in variants
      },
      name: {'library': 'gqa_flax', 'num_kv_heads': cell.config.num_heads},
    },
    'learning_rate': LEARNING_RATE,
    'losses': losses,
    'first_call_seconds': first,
    **measure.take_turns(contestants, repeats),
  }


def check_first(theirs: float, ours: float, where: str):
  """Raises RuntimeError unless two losses agree."""
  if not abs(theirs - ours) <= TOLERANCE * abs(ours):
    raise RuntimeError(
      f'The first loss of {where} is {theirs:.6f} and ours {ours:.6f}: they do '
      'not compute the same, and the times say nothing; nothing was recorded.'
    )


class Ours:
  """The step that `training.loop` compiles, on one device."""

  def __init__(self, cell: models.Cell, params, batch):
    config, optimizer = cell.config, optimizers.adafactor()
    # As in the loop, but where there are several devices only the first.
    self._mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    wanted = abstract_state(config, optimizer, self._mesh)
    # A copy: the step gives up its state.
    params = jax.device_put(
      jax.tree.map(jnp.copy, params), shardings_of(wanted.params)
    )
    self._batch = partitioning.shard_batch(batch, self._mesh)
    self._rng = jax.random.key(models.SEED) if cell.dropout_rate > 0 else None
    with jax.set_mesh(self._mesh):
      self._state = TrainState(
        step=jax.device_put(jnp.int32(0), wanted.step.sharding),
        params=params,
        opt_state=new_optimizer_state(params, config, optimizer, self._mesh),
      )
      model = Transformer(config)
      self._step = step_function(
        self._state,
        model=model,
        optimizer=optimizer,
        learning_rate=optimizers.constant_schedule(LEARNING_RATE),
        loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
        z_loss=0.0,
      )
      self._gradients = jax.jit(
        functools.partial(_gradients, model),
        compiler_options=compilation.options('training', 'cpu'),
      )

  def step(self) -> float:
    """Takes a step; returns the loss before it."""
    with jax.set_mesh(self._mesh):
      self._state, metrics = self._step(self._state, self._batch, self._rng)
      jax.block_until_ready(self._state)
    return float(metrics.cross_entropy / metrics.tokens)

  def gradients(self):
    """Computes those of the parameters as they are."""
    with jax.set_mesh(self._mesh):
      jax.block_until_ready(
        self._gradients(self._state.params, self._batch, self._rng)
      )


def _gradients(model, params, batch, rng):
  def loss(params):
    normalizer = jnp.sum(batch['decoder_loss_weights'])
    return loss_and_metrics(
      model,
      params,
      batch,
      normalizer=normalizer,
      z_loss=0.0,
      dropout_rng=rng,
    )[0]

  return jax.value_and_grad(loss)(params)


class Theirs:
  """The step as a plain loop in torch takes it."""

  def __init__(self, model, batch: Mapping[str, np.ndarray]):
    self._model = model.train()
    source = models.torch_tokens(batch['encoder_input_tokens'])
    self._batch = {
      'input_ids': source,
      'attention_mask': torch.ones_like(source),
      'labels': models.torch_tokens(batch['decoder_target_tokens']),
    }
    # The constants of `training.optimizer.adafactor`.
    self._optimizer = optimization.Adafactor(
      model.parameters(),
      lr=LEARNING_RATE,
      eps=(1e-30, 1e-3),
      clip_threshold=1.0,
      decay_rate=-0.8,
      beta1=None,
      scale_parameter=True,
      relative_step=False,
      warmup_init=False,
    )

  def step(self) -> float:
    """Takes a step; returns the loss before it."""
    loss = self.gradients()
    self._optimizer.step()
    return loss

  def gradients(self) -> float:
    """Computes those of the parameters as they are; returns the loss."""
    self._optimizer.zero_grad(set_to_none=True)
    loss = self._model(**self._batch).loss
    loss.backward()
    return loss.item()
